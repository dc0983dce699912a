"""Archives: zip and tar, by themselves, as toolkits' parts, and as wheels."""

from __future__ import annotations

import gzip
import io
import os
import stat
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
from tests.fuzz.cases import contents, damaged, edited, fuzz, refusable, texts

if TYPE_CHECKING:
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
    import lzma  # noqa: PLC0415 - for this alone

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
RECORD = "pkg/__init__.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\nmy_pkg-1.0.dist-info/RECORD,,\n"
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
FILENAMES = st.one_of(
    st.just("my_pkg-1.0-py3-none-any.whl"),
    st.sampled_from(["my_pkg-1.0-1-py3-none-any.whl", "my_pkg-é-py3-none-any.whl", "x.whl", "my_pkg-1.0+l-a-b-c.whl"]),
    edited("my_pkg-1.0-py3-none-any.whl").map(
        lambda text: text.replace("/", "_").replace("\0", "_").strip()[:200] or "w"
    ),
)


@st.composite
def wheels(draw: DrawFn) -> tuple[str, bytes]:
    """Return a wheel that is wrong somewhere."""
    stream = io.BytesIO()
    warnings.simplefilter("ignore")  # pytest takes the filters back: zipfile warns of names that are there twice
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, valid in (("METADATA", METADATA), ("WHEEL", WHEEL), ("RECORD", RECORD)):
            text = draw(WHEEL_TEXTS[name]) if draw(st.booleans()) else valid
            if draw(st.integers(0, 9)):
                packed.writestr(f"my_pkg-1.0.dist-info/{name}", text.encode("utf-8", "surrogatepass"))
        for _ in range(draw(st.integers(0, 3))):
            info = zipfile.ZipInfo(draw(MEMBERS)[:300] or "x", (1980, 1, 1, 0, 0, 0))
            info.external_attr = draw(st.sampled_from([0, stat.S_IFLNK << 16, stat.S_IFREG << 16]))
            packed.writestr(info, draw(st.sampled_from([b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + b"\0" * 57])))
    body = stream.getvalue()
    if draw(st.integers(0, 3)) == 0:
        body = draw(damaged(body))
    return draw(
        FILENAMES.filter(lambda name: name not in {".", ".."} and len(name.encode("utf-8", "replace")) < 256)
    ), body


@fuzz("wheels (gates)", share=2, wheel=wheels(), expected=st.sampled_from([PURE, PURE, NATIVE_RULES]))
def test_a_wheel_passes_or_is_refused(wheel: tuple[str, bytes], expected: Expected) -> None:
    """Whatever is in it: names, links, metadata, tags, RECORD, modules; and nothing of it gets out."""
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
        file = base / "my_pkg-1.0-py3-none-any.whl"
        file.write_bytes(wheel[1])
        before = contents(base)
        with suppress(BundleError, OSError):  # a name that no file can have ends that program with 3
            unpack_wheel(file, base / "site")
        after = contents(base)
        assert all(before[path] == after[path] for path in before)
        assert all(path.startswith("site/") for path in after if path not in before)
        with refusable():
            _required([file], INTERPRETER)


@fuzz("wheel file names", share=2, name=st.one_of(FILENAMES, texts, st.just(f"runtime-1-{BOMB}-{BOMB}-{BOMB}.whl")))
def test_a_wheel_s_name_serves_or_not(name: str) -> None:
    """An index may list files by any name."""
    wanted = LockedRequirement(name="my-pkg", version="1.0", sha256=("0" * 64,))
    assert wheel_rank(name, wanted, {"py3-none-any": 0}) in {None, (0, 0), (0, -1)}
