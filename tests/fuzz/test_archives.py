"""Archives: zip and tar, by themselves, as toolkits' parts, and as wheels."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import warnings
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from packaging.tags import sys_tags

from mmstack.bundle import _required
from mmstack.errors import GateError
from mmstack.gates import Expected, check_wheel
from mmstack.model import GateRules, Interpreter, LockedRequirement
from mmstack.sources.archive import tree_digest, unpack
from mmstack.sources.places import wheel_rank
from mmstack.standalone import BundleError
from mmstack.standalone import unpack as unpack_wheel
from mmstack.toolchains.redist import merge
from tests.fuzz.cases import contents, damaged, edited, fuzz, mostly, refusable, texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hypothesis.strategies import DrawFn

TOP = "demo-1.0"
NAMES = st.one_of(
    st.sampled_from(
        [
            TOP,
            f"{TOP}/a",
            f"{TOP}/a/b",
            f"{TOP}/link",
            f"{TOP}/link/x",
            f"./{TOP}/a",
            f"{TOP}//a",
            f"{TOP}/../x",
            f"{TOP}/../../outside/x",
            "../outside/x",
            "/outside/x",
            f"{TOP}/.",
            f"{TOP}/a\\..\\..\\x",
            f"{TOP}/" + "n" * 256,
            f"{TOP}/" + "d/" * 1200,
            "other/x",
        ]
    ),
    texts.map(f"{TOP}/".__add__),
    texts,
)
TARGETS = st.one_of(
    st.sampled_from(
        [".", "..", "a", "../outside", "../../outside", "/etc", "a/../../..", "link", "b/..", f"{TOP}/a", ""]
    ),
    texts,
)
KINDS = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.REGTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CONTTYPE,
        tarfile.GNUTYPE_SPARSE,
        b"Z",
    ]
)


@st.composite
def tars(draw: DrawFn) -> bytes:
    """Return a tar with members of every kind, named and linked to whatever there is."""
    stream = io.BytesIO()
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]))
    with tarfile.open(fileobj=stream, mode="w", format=form, errors="surrogateescape") as tar:
        for _ in range(draw(st.integers(1, 4))):
            member = tarfile.TarInfo(draw(NAMES).replace("\ud800", "x"))
            member.type = draw(KINDS)
            member.linkname = draw(TARGETS)
            member.mode = draw(st.sampled_from([0o644, 0o755, 0o7777, 0o000]))
            member.mtime = draw(st.sampled_from([0, 1, -1, 2**33 - 1, 1.5]))
            if form == tarfile.PAX_FORMAT and draw(st.booleans()):
                keys = st.sampled_from(["path", "linkpath", "size", "mtime", "GNU.sparse.size", "GNU.sparse.map", "x"])
                member.pax_headers = {draw(keys): draw(texts) for _ in range(draw(st.integers(1, 2)))}
            body = b"" if member.type != tarfile.REGTYPE else draw(st.sampled_from([b"", b"x", b"y" * 700]))
            member.size = len(body)
            try:
                tar.addfile(member, io.BytesIO(body))
            except (ValueError, UnicodeError, OverflowError):
                continue  # it cannot even be written
    return stream.getvalue()


@st.composite
def zips(draw: DrawFn) -> bytes:
    """Return a zip with the same tricks."""
    stream = io.BytesIO()
    warnings.simplefilter("ignore")  # pytest takes the filters back: zipfile warns of names that are there twice
    with zipfile.ZipFile(stream, "w") as packed:
        for _ in range(draw(st.integers(1, 4))):
            name = draw(NAMES).replace("\ud800", "x") or "x"
            info = zipfile.ZipInfo(name[:300], (1980, 1, 1, 0, 0, 0))
            kind = draw(st.sampled_from([stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR, 0]))
            info.external_attr = (kind | draw(st.sampled_from([0o644, 0o7777]))) << 16
            info.compress_type = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
            body = draw(TARGETS) if kind == stat.S_IFLNK else "x"
            packed.writestr(info, body.encode("utf-8", "surrogatepass"))
    return stream.getvalue()


def _bytes_of(kind: str, body: bytes) -> bytes:
    return body if kind == ".zip" else gzip.compress(body, 1)


def _honest_tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, size in ((f"{TOP}/a", tarfile.REGTYPE, 3), (f"{TOP}/l", tarfile.SYMTYPE, 0)):
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, size, "a" if size == 0 else ""
            member.pax_headers = {"comment": "é"}
            tar.addfile(member, io.BytesIO(b"abc"[:size]))
    return stream.getvalue()[:4096]


def _honest_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"{TOP}/a", b"x" * 200)
        packed.writestr(f"{TOP}/b/c", b"y")
    return stream.getvalue()


TARS = st.one_of(tars(), tars(), damaged(_honest_tar()))
ZIPS = st.one_of(zips(), zips(), damaged(_honest_zip()))
ARCHIVES = st.one_of(
    TARS.map(lambda body: (".tar.gz", _bytes_of(".tar.gz", body))),
    ZIPS.map(lambda body: (".zip", body)),
    damaged(gzip.compress(_honest_tar(), 1)).map(lambda body: (".tar.gz", body)),
    st.tuples(st.sampled_from([".tar.gz", ".tar.bz2", ".tar.xz", ".zip", ".rar"]), st.binary(max_size=60)),
)


@fuzz("archives (tar, zip)", share=2, archive=ARCHIVES)
def test_an_archive_is_unpacked_or_refused(archive: tuple[str, bytes]) -> None:
    """Whole or not at all, and nothing of it stands, or leads, outside its folder."""
    kind, body = archive
    with TemporaryDirectory() as name:
        base = Path(name)
        (base / "outside").mkdir()
        file = base / f"a{kind}"
        file.write_bytes(body)
        before = contents(base)
        with refusable() as refused:
            top = unpack(file, base / "into")
        after = contents(base)
        new = {path for path in after if path not in before}
        assert all(before[path] == after[path] for path in before)
        assert all(path.split("/")[0] == "into" for path in new)
        if refused:
            assert not new
        else:
            tree_digest(top)
            tree = top.resolve()
            for path in top.rglob("*"):
                assert Path(os.path.realpath(path)).is_relative_to(tree), path  # a link may also lead to itself
                assert path.is_symlink() or not path.stat().st_mode & 0o7022, path


@fuzz("toolkit archives", share=0.2, bodies=st.lists(TARS, min_size=1, max_size=2))
def test_archives_are_merged_or_refused(bodies: list[bytes]) -> None:
    """Into one toolkit, one over the other."""
    with TemporaryDirectory() as name:
        base = Path(name)
        files = [base / f"c{number}-linux-x86_64-1-archive.tar.xz" for number in range(len(bodies))]
        for file, body in zip(files, bodies, strict=True):
            file.write_bytes(lzma.compress(body, preset=0))
        before = contents(base)
        with refusable() as refused:
            merge(files, base / "into")
        new = {path for path in contents(base) if path not in before}
        assert all(path.split("/")[0] == "into" for path in new)
        assert not (refused and new)


NATIVE = next(tag for tag in sys_tags() if tag.platform.startswith("linux_"))
INTERPRETER = Interpreter(
    path=Path(sys.executable),
    version="3.11.0",
    tag=NATIVE.abi,
    platform=NATIVE.platform,
    markers={"python_version": "3.11"},
    tags=tuple(map(str, sys_tags())),
)
RULES = GateRules(wheel="pure", top_level=("pkg",), extensions=(), requires=("some-thing",))
PURE = Expected(rules=RULES, project="my-pkg", version="1.0", interpreter=INTERPRETER)
NATIVE_RULES = replace(PURE, rules=replace(RULES, wheel="platform", extensions=("pkg/_ext*.so",)))
METADATA = "Metadata-Version: 2.1\nName: my-pkg\nVersion: 1.0\nRequires-Dist: some_thing>=1\nLicense: x\n\ntext\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
INFO = "my_pkg-1.0.dist-info"
PURE_FILES = {"pkg/__init__.py": b"", f"{INFO}/METADATA": METADATA.encode(), f"{INFO}/WHEEL": WHEEL.encode()}


def _module() -> bytes:
    with TemporaryDirectory() as name:
        target = Path(name) / "m.so"
        words = ["gcc", "-shared", "-fPIC", "-s", "-x", "c", "-", "-o", str(target)]
        subprocess.run(words, input=b"int f(int a) { return a; }", check=True)
        return target.read_bytes()


NATIVE_FILES = {
    **PURE_FILES,
    "pkg/_ext.so": _module(),
    f"{INFO}/WHEEL": WHEEL.replace("py3-none-any", str(NATIVE)).encode(),
}


def listed(files: Iterable[tuple[str, bytes]]) -> str:
    """Return the RECORD of a wheel with these files."""
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    for name, body in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
        rows.writerow((name, f"sha256={digest}", len(body)))
    rows.writerow((f"{INFO}/RECORD", "", ""))
    return stream.getvalue()


RECORD = listed(PURE_FILES.items())
BOMB = "py2.py3" + ".x" * 3000
WHEEL_TEXTS = {
    "METADATA": st.one_of(edited(METADATA), texts, st.just(METADATA + "Requires-Dist: a; " + "(" * 3000)),
    "WHEEL": st.one_of(edited(WHEEL), texts, st.just(f"Tag: {BOMB}-{BOMB}-{BOMB}\nTag: é-none-any\n")),
    "RECORD": st.one_of(edited(RECORD), texts, st.just('"' * 5001), st.just("a," * 9000)),
}
MEMBERS = st.one_of(
    st.sampled_from(
        [
            "pkg/__init__.py",
            "pkg/_ext.so",
            "pkg/_ext.so/x.so",
            "pkg/x.so.1",
            "../../x.so",
            "/x.so",
            "pkg/../../x.so",
            "pkg/" + "n" * 300 + ".so",
            "pkg//x.so",
            "my_pkg-1.0.data/scripts/x",
            "my_pkg-1.0.data/data/etc/passwd",
            "other.dist-info/METADATA",
            "x.pth",
        ]
    ),
    texts,
    texts.map(lambda text: f"pkg/{text}.so"),
)
NAME = "my_pkg-1.0-py3-none-any.whl"
FILENAMES = st.one_of(
    st.sampled_from(["my_pkg-1.0-1-py3-none-any.whl", "my_pkg-é-py3-none-any.whl", "x.whl", "my_pkg-1.0+l-a-b-c.whl"]),
    edited(NAME).map(lambda text: text.replace("/", "_").replace("\0", "_").strip()[:200] or "w"),
).filter(lambda name: name not in {".", ".."} and len(name.encode("utf-8", "replace")) < 256)


def written(files: Iterable[tuple[str, bytes, int]]) -> bytes:
    """Return an archive with these files, each with its mode."""
    stream = io.BytesIO()
    warnings.simplefilter("ignore")  # pytest takes the filters back: zipfile warns of names that are there twice
    with zipfile.ZipFile(stream, "w") as archive:
        for name, body, mode in files:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = mode << 16
            archive.writestr(info, body, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def honest(files: Mapping[str, bytes]) -> bytes:
    """Return a wheel in which nothing is wrong."""
    record = listed(files.items()).encode()
    return written((name, body, 0) for name, body in {**files, f"{INFO}/RECORD": record}.items())


@st.composite
def wheels(draw: DrawFn, name: str = NAME, whole: Mapping[str, bytes] = PURE_FILES) -> tuple[str, bytes]:
    """Return a wheel that is wrong somewhere; of all else its RECORD says what is so, or nobody would look further."""
    files = [(file, body, 0) for file, body in whole.items() if draw(st.integers(0, 19))]
    for text in ("METADATA", "WHEEL"):
        if draw(st.integers(0, 2)) == 0:
            body = draw(WHEEL_TEXTS[text]).encode("utf-8", "surrogatepass")
            files = [(file, body if file == f"{INFO}/{text}" else old, mode) for file, old, mode in files]
    for _ in range(draw(st.integers(0, 2))):
        body = draw(st.sampled_from([b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + b"\0" * 57]))
        files.append((draw(MEMBERS)[:300] or "x", body, draw(st.sampled_from([0, stat.S_IFLNK, stat.S_IFREG]))))
    record = draw(WHEEL_TEXTS["RECORD"]) if draw(st.integers(0, 3)) == 0 else listed((f, body) for f, body, _ in files)
    if draw(st.integers(0, 19)):
        files.append((f"{INFO}/RECORD", record.encode("utf-8", "surrogatepass"), 0))
    archive = written(files)
    if draw(st.integers(0, 3)) == 0:
        archive = draw(damaged(archive))
    return draw(FILENAMES) if draw(st.integers(0, 3)) == 0 else name, archive


NATIVE_NAME = f"my_pkg-1.0-{NATIVE}.whl"


@fuzz(
    "wheels (gates)",
    share=2,
    case=mostly(
        st.tuples(wheels(), st.just(PURE)),
        st.tuples(wheels(NATIVE_NAME, NATIVE_FILES), st.just(NATIVE_RULES)),
    ),
)
def test_a_wheel_passes_or_is_refused(case: tuple[tuple[str, bytes], Expected]) -> None:
    """Whatever is in it: names, links, metadata, tags, RECORD, modules; and nothing of it gets out."""
    wheel, expected = case
    with TemporaryDirectory() as name:
        base = Path(name)
        (base / "scratch").mkdir()
        file = base / wheel[0].encode("utf-8", "replace").decode()
        file.write_bytes(wheel[1])
        before = contents(base)
        with refusable() as refused:
            check_wheel(file, expected, scratch=base / "scratch")
        assert contents(base) == before
        assert all(isinstance(error, GateError) for error in refused), refused


@fuzz("wheels (bundles)", wheel=wheels())
def test_a_bundle_s_wheel_is_unpacked_or_refused(wheel: tuple[str, bytes]) -> None:
    """By the program that stands alone, and by what makes the bundle."""
    with TemporaryDirectory() as name:
        base = Path(name)
        (base / "site").mkdir()
        file = base / NAME
        file.write_bytes(wheel[1])
        before = contents(base)
        with suppress(BundleError, OSError):  # a name that no file can have ends that program with 3
            unpack_wheel(file, base / "site")
        after = contents(base)
        assert all(before[path] == after[path] for path in before)
        assert all(path.startswith("site/") for path in after if path not in before)
        with refusable():
            _required([file], INTERPRETER)


@fuzz(
    "wheel file names",
    share=2,
    name=st.one_of(st.just(NAME), FILENAMES, texts, st.just(f"runtime-1-{BOMB}-{BOMB}-{BOMB}.whl")),
)
def test_a_wheel_s_name_serves_or_not(name: str) -> None:
    """An index may list files by any name."""
    wanted = LockedRequirement(name="my-pkg", version="1.0", sha256=("0" * 64,))
    assert wheel_rank(name, wanted, {"py3-none-any": 0}) in {None, (0, 0), (0, -1)}


def test_the_archives_are_taken_as_they_are(tmp_path: Path) -> None:
    """What is changed above is valid before: of an archive that is refused unread, no change could find anything."""
    for kind, body in ((".tar.gz", gzip.compress(_honest_tar(), 1)), (".zip", _honest_zip())):
        (tmp_path / f"a{kind}").write_bytes(body)
        assert unpack(tmp_path / f"a{kind}", tmp_path / kind).name == TOP
    part = tmp_path / "c-linux-x86_64-1-archive.tar.xz"
    part.write_bytes(lzma.compress(_honest_tar(), preset=0))
    assert (merge([part], tmp_path / "into") / "licenses" / "c" / "a").is_file()


def test_the_wheels_pass_as_they_are(tmp_path: Path) -> None:
    """All gates, and into a bundle."""
    for name, files, expected in ((NAME, PURE_FILES, PURE), (NATIVE_NAME, NATIVE_FILES, NATIVE_RULES)):
        (tmp_path / name).write_bytes(honest(files))
        assert {"tag", "metadata", "record"} <= set(check_wheel(tmp_path / name, expected).gates)
        unpack_wheel(tmp_path / name, tmp_path / "site")
        assert _required([tmp_path / name], INTERPRETER) == {"some-thing"}
    assert (tmp_path / "site" / "pkg" / "_ext.so").is_file()
    wanted = LockedRequirement(name="my-pkg", version="1.0", sha256=("0" * 64,))
    assert wheel_rank(NAME, wanted, {"py3-none-any": 0}) == (0, 0)
