"""What was once a crash, or worse, and is refused now; `tests/fuzz` looks for more."""

from __future__ import annotations

import io
import json
import lzma
import subprocess
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
from elftools.elf.elffile import ELFFile

from mmstack import gates, shapes
from mmstack.builders import progress
from mmstack.builders.renew import renew
from mmstack.console import Console
from mmstack.elf import defined_symbols, read_module
from mmstack.errors import ArchiveError, CatalogError, GateError, UsageError
from mmstack.events import PlanReady, ignore
from mmstack.host import find_compiler
from mmstack.lock import parse_requirements
from mmstack.model import LockedRequirement, Patch
from mmstack.options import Options
from mmstack.patches import is_applied
from mmstack.report import SCHEMA, read_manifest
from mmstack.sources.archive import unpack
from mmstack.sources.places import expanded, redact, wheel_rank
from mmstack.standalone import BundleError, check_files
from mmstack.standalone import unpack as unpack_wheel
from mmstack.store import Store
from tests.miniature import Miniature

if TYPE_CHECKING:
    from pathlib import Path

MANY = "py2.py3" + ".x" * 3000


def packed(folder: Path, body: bytes) -> Path:
    """Return a tar, packed."""
    file = folder / "a.tar.xz"
    file.write_bytes(lzma.compress(body, preset=0))
    return file


def test_holes_of_a_sparse_file_count(tmp_path: Path) -> None:
    """A header of 512 bytes may mean any number of zeros."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("d/hole")
        member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 50), "GNU.sparse.major": "0"}
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(ArchiveError, match="cannot be unpacked"):
        unpack(packed(tmp_path, stream.getvalue()), tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_a_name_of_megabytes_is_not_read(tmp_path: Path) -> None:
    """Headers go to memory."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("d/a")
        member.pax_headers = {"comment": "x" * (2 << 20)}
        tar.addfile(member)
    with pytest.raises(ArchiveError, match="cannot be unpacked"):
        unpack(packed(tmp_path, stream.getvalue()), tmp_path / "into")


def test_a_wheel_that_grows_without_measure_is_not_unpacked(tmp_path: Path) -> None:
    """Its members say how large they are."""
    wheel = tmp_path / "my_pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("pkg/zeros.so", "w") as sink:
        for _ in range(80):
            sink.write(bytes(1 << 20))
    with pytest.raises(GateError, match="is no wheel") as caught:
        gates._read(wheel, tmp_path / "scratch")  # noqa: SLF001 - before any rule of a layer
    assert "83886080 bytes" in caught.value.why
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("tag", [f"{MANY}-{MANY}-{MANY}", "é-none-any"])
def test_tags_that_multiply_are_none(tag: str) -> None:
    """Three words of 6 kB would be 27,000,000,000 tags."""
    assert not gates._inner_tags(f"Tag: {tag}\n".encode())  # noqa: SLF001 - the gates say that they are missing
    name = f"a-1-{tag}.whl"
    assert wheel_rank(name, LockedRequirement(name="a", version="1", sha256=()), {"py3-none-any": 0}) is None


def test_a_wheel_of_a_bundle_that_is_damaged(tmp_path: Path) -> None:
    """The program that stands alone says so."""
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"PK")
    with pytest.raises(BundleError, match="no sound wheel"):
        unpack_wheel(wheel, tmp_path)


def test_a_bundle_that_names_an_impossible_file(tmp_path: Path) -> None:
    """How long a name may be is reckoned in bytes."""
    with pytest.raises(BundleError, match="which is no file of a bundle"):
        check_files({"wheels": [], "suites": {"é" * 200: "0" * 64}}, tmp_path)


def test_a_patch_for_an_impossible_name(tmp_path: Path) -> None:
    """It is refused like any other that cannot be applied."""
    file = tmp_path / "x.patch"
    name = "n" * 300
    file.write_text(f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-a\n+b\n", encoding="utf-8")
    patch = Patch(
        id="x", project="p", file=file, sha256="", versions="", reason="", upstream="", retire_when="", when={}
    )
    assert not is_applied(patch, tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        "[]",
        json.dumps({"schema": SCHEMA}),
        json.dumps({"schema": SCHEMA, "stack": [1], "seconds": None}),
    ],
)
def test_a_manifest_of_another_shape(tmp_path: Path, body: str) -> None:
    """Whoever reads it would trip over it later."""
    (tmp_path / "manifest.json").write_text(body, encoding="utf-8")
    with pytest.raises(CatalogError) as caught:
        read_manifest(tmp_path)
    assert caught.value.fix


def test_shapes_name_the_first_wrong_place() -> None:
    """From the outside in."""
    shape = {"a": [{"b": shapes.amount}]}
    assert shapes.misfit({"a": [{"b": 1}, {"b": float("nan")}]}, shape) == "the document.a[1].b"
    assert shapes.misfit({"a": [{"b": True}]}, shape) == "the document.a[0].b"
    assert shapes.misfit({}, shape) == "the document.a"
    assert shapes.misfit({"a": []}, shape) == ""


@pytest.mark.parametrize("filename", ["../../secret", "/etc/passwd", "..", ""])
def test_a_record_does_not_lead_out_of_the_store(tmp_path: Path, filename: str) -> None:
    """The artifact counts as not there."""
    folder = tmp_path / "artifacts" / "key"
    folder.mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"12345")
    record = {"layer": "x", "filename": filename, "sha256": "0" * 64, "size": 5, "seconds": 1.0, "gates": []}
    (folder / "artifact.json").write_text(json.dumps(record | {"reproducible": True, "gpu_code": []}), encoding="utf-8")
    assert Store(tmp_path, ignore).find("key") is None


@pytest.mark.parametrize(
    "record",
    ['{"files": ["../outside"], "key": ""}', '{"files": ["/outside"], "key": ""}', "[]", "[" * 9999, '{"files": 1}'],
)
def test_a_record_of_sources_removes_nothing_outside(tmp_path: Path, record: str) -> None:
    """A damaged one removes nothing at all."""
    for name in ("new/a", "tree/a", "outside"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "sources.json").write_text(record, encoding="utf-8")
    renew(tmp_path / "new", tmp_path / "tree", "key")
    assert (tmp_path / "outside").read_text(encoding="utf-8") == "outside"
    assert (tmp_path / "tree" / "a").read_text(encoding="utf-8") == "new/a"


@pytest.mark.parametrize(
    "row", ["x\t2\t3\ta.o\tc", "9" * 5000 + "\t2\t3\ta.o\tc", "\u0661\t2\t3\ta.o\tc", "-1\t2\t3\ta.o\tc"]
)
def test_a_line_of_ninja_s_log_without_times(tmp_path: Path, row: str) -> None:
    """It is left out, the others count."""
    (tmp_path / ".ninja_log").write_text(f"# ninja log v6\n{row}\n0\t1500\t3\tb.o\tc\n", encoding="utf-8")
    assert progress.recorded(tmp_path / ".ninja_log") == {"b.o": 1.5}


@pytest.mark.parametrize("body", ["[]", "[" * 9999, '{"a.o": "x"}', '{"a.o": NaN}', '{"a.o": 1' + "0" * 400 + "}"])
def test_remembered_times_of_another_kind(tmp_path: Path, body: str) -> None:
    """They only serve an estimate."""
    file = tmp_path / "timings.json"
    file.write_text(body, encoding="utf-8")
    assert progress._remembered(file) == {}  # noqa: SLF001 - its caller builds a whole project


@pytest.mark.parametrize("damage", [(58, b"\0\0"), (54, b"\0\0"), (60, b"\xff\xff"), (56, b"\xfe\xff")])
def test_an_elf_file_whose_tables_have_no_end(tmp_path: Path, damage: tuple[int, bytes]) -> None:
    """The reader would walk them as far as they say."""
    body = bytearray(compiled(tmp_path, "whole.so", "int f(void) { return 1; }").read_bytes())
    body[damage[0] : damage[0] + 2] = damage[1]
    file = tmp_path / "m.so"
    file.write_bytes(body)
    assert read_module(file) is None
    with pytest.raises(GateError, match="no sound ELF file"):
        defined_symbols(file, ["f"])


def test_an_old_hash_table_that_goes_round_in_circles(tmp_path: Path) -> None:
    """Names are found in it no more, but in the table of symbols."""
    code = "int f(void) { return 1; } int g(void) { return 2; }"
    file = compiled(tmp_path, "old.so", code, "-Wl,--hash-style=sysv")
    body = bytearray(file.read_bytes())
    with file.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".hash")
        assert table is not None
        begin, count = table["sh_offset"], int.from_bytes(table.data()[:4], "little")
        total = int.from_bytes(table.data()[4:8], "little")
    for index in range(total):  # every chain leads to its own beginning
        at = begin + 8 + 4 * count + 4 * index
        body[at : at + 4] = index.to_bytes(4, "little")
    file.write_bytes(body)
    assert defined_symbols(file, ["f", "g", "h"]) == {"f", "g"}


def compiled(folder: Path, name: str, code: str, *options: str) -> Path:
    """Compile C code into a shared object of that name."""
    target = folder / name
    command = ["gcc", "-shared", "-fPIC", "-O0", "-x", "c", "-", "-o", str(target), *options]
    subprocess.run(command, input=code.encode(), check=True)
    return target


def test_numbers_and_homes_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is said to be wrong, where it was typed."""
    for jobs in ("9" * 5000, "0", "-1", "\u0661"):
        with pytest.raises(UsageError, match="no number of jobs"):
            Options(jobs=jobs).request()
    for text in ("~nobody-has-this-name/x", "a\0b"):
        with pytest.raises(UsageError, match="is no path"):
            expanded(text, "--toolkit")
    monkeypatch.setenv("CC", 'gcc "')
    assert find_compiler()[0] is None
    with pytest.raises(CatalogError) as caught:
        parse_requirements("a>=1\n")
    assert caught.value.fix


def test_a_password_with_a_slash_in_it_is_not_shown() -> None:
    """Such an address is malformed, though it does not look so to everybody."""
    assert redact("https://user:12/34@host/x") == "a malformed address"
    assert redact("https://user:pw@host/https://user:pw@host/x") == "a malformed address"
    assert redact("https://user:pw@host:80/x@y") == "https://host:80/x@y"


def test_a_repository_s_address_is_shown_without_its_password(tmp_path: Path) -> None:
    """In a plan, and so in the manifest."""
    mini = Miniature(root=tmp_path).write().pin_every_way()
    mini.edit("pipelines/ext/recipe.toml", "https://host.test/", "https://user:t0ken@host.test/")
    mini.edit("stacks/mini.toml", 'version = "2.0"\nsource = "sdist"', 'version = "2.0"\nsource = "git"')
    mini.lock({"run": ("runtime==1.5",), "verify": ("checker==1.0",), "build-ext": ("backend==82",), **TOP})
    out = io.StringIO()
    Console(stdout=out, stderr=out, verbose=True)(PlanReady(plan=mini.plan(), cached=frozenset()))
    assert "https://host.test/" in out.getvalue()
    assert "t0ken" not in out.getvalue()


TOP = {"build-top": ("backend==82",), "run-big": ("cuda-like==12",)}


@pytest.mark.parametrize("body", ["[" * 100_000, "", "{", "\udcff"])
def test_what_is_no_json_is_a_value_error(tmp_path: Path, body: str) -> None:
    """However it fails to be."""
    file = tmp_path / "x.json"
    file.write_bytes(body.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"."):
        shapes.load(file)
