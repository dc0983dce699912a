"""What other programs print and write: compilers, cuobjdump, apt, and ELF files."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st

from mmstack import elf
from mmstack.builders.cmake import CACHED, FAILED, FAILED_OBJECT, INCLUDED, KILLED
from mmstack.builders.offline import Guard
from mmstack.diagnose import first_error, plain
from mmstack.errors import CommandError, GateError
from mmstack.events import ignore
from mmstack.model import DistroPin, FilePin, Toolkit
from mmstack.sources import distro
from mmstack.sources.download import Downloads
from mmstack.toolchains.architectures import parse_architecture
from mmstack.toolchains.cubins import GpuContents, Listing, check_code, summary
from mmstack.toolchains.redist import components
from tests.fuzz.cases import damaged, edited, encoded, fuzz, json_bytes, refusable, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOG = """\
$ ninja -C build
[1/9] Building CXX object a.o
FAILED: [code=1] CMakeFiles/x.dir/Unity/unity_0_cxx.cxx.o
/usr/bin/c++ -DX -c -o a.o /src/a.cpp
/src/a.cpp:3:5: error: 'x' was not declared in this scope
a.cu(12): error: identifier "y" is undefined
CMake Error at CMakeLists.txt:3 (find_package):
  Could not find X
Traceback (most recent call last):
  File "setup.py", line 1
ValueError: no
make: *** [all] Error 2
c++: fatal error: Killed signal terminated program cc1plus
fatal: transport 'ext' not allowed
"""
LONG = st.sampled_from(
    [
        "a" * 20_000,
        "(1)" * 7000,
        ": " * 9000,
        "\x1b[" * 9000,
        "\x1b]" + "x" * 20_000,
        " -c -o" * 3000,
        "1:" * 9000 + "error:",
    ]
)
OUTPUT = st.one_of(edited(LOG), st.lists(texts, max_size=6).map("\n".join), LONG, st.text(max_size=60))


@fuzz("output of builds", share=2, text=OUTPUT)
def test_output_of_a_build_is_judged(text: str) -> None:
    """In time that its length allows, and nothing that is shown of it is obeyed."""
    lines = text.splitlines()
    found = first_error(lines)
    assert "\x1b" not in found
    assert "\x1b" not in plain(text)
    guard = Guard(variables={})
    for line in lines:
        guard.read(line)
        for pattern in (FAILED, FAILED_OBJECT, KILLED):
            pattern.search(line)
    CACHED.findall(text)
    INCLUDED.findall(text)
    with refusable():
        guard.check("x")


LISTED = """\
Fatbin elf code:
================
arch = sm_90
code version = [1,8]
host = linux
symbols:
STT_OBJECT       STB_LOCAL  STV_DEFAULT    x
STT_FUNC         STB_GLOBAL STO_ENTRY      _Z6kernelPf
FUNC             GLOBAL  DEFAULT  ENTRY  _Z6kernelPf
Fatbin ptx code:
arch = sm_90
"""
PTX = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry _Z6kernelPf(\n.param .u64 x\n)\n"


@fuzz("listings of GPU code", share=2, text=edited(LISTED), ptx=edited(PTX))
def test_a_listing_of_gpu_code_is_read_or_refused(text: str, ptx: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `read_code` reads it, by whom its errors become a gate's."""
    monkeypatch.setattr("mmstack.toolchains.cubins.shutil.which", lambda _name: None)
    try:
        found = contents_of(text, ptx)
    except ValueError:
        return
    list(check_code(found, [parse_architecture("9.0+PTX")]))
    summary(found, "m")


def contents_of(text: str, ptx: str) -> GpuContents:
    """Return the GPU code that a listing and a module's PTX tell of."""
    listing = Listing()
    for line in text.splitlines():
        listing.take(line)
    listing.take_ptx(ptx.splitlines())
    return GpuContents(kernels=listing.kernels)


REDIST = {
    "release_date": "2025-01-01",
    "cuda_nvcc": {"name": "x", "linux-x86_64": {"relative_path": "a/b.tar.xz", "sha256": "0" * 64, "size": "5"}},
    "cuda_cudart": {"linux-all": {"relative_path": "a/c.tar.xz", "sha256": "1" * 64, "size": "6"}},
}
PINNED = FilePin(filename="redistrib.json", sha256="0" * 64)
TOOLKIT = Toolkit(
    kind="redist",
    version="13.0",
    origin="x",
    identity="y",
    manifest=PINNED,
    base="https://user:pass@host/x/",
    components=("cuda_nvcc", "cuda_cudart"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files."""
    return tmp_path_factory.mktemp("files")


@fuzz("manifests of CUDA archives", body=json_bytes(REDIST))
def test_a_list_of_archives_is_read_or_refused(folder: Path, body: bytes) -> None:
    """And every archive is below its own address."""
    file = folder / "redistrib.json"
    file.write_bytes(body)
    with refusable() as refused:
        for offer in components(file, TOOLKIT, "x86_64"):
            assert all(url.startswith("https://user:pass@host/x/") and ".." not in url for url in offer.urls)
            assert "/" not in offer.pin.filename
    assert b"pass@" in body or not any("pass@" in str(error) for error in refused)


STANZA = """\
Package: libdemo-dev
Source: demo
Version: 1.0-1
Architecture: amd64
Provides: libc-dev, x (= 1)
Section: libdevel
SHA256: 0000000000000000000000000000000000000000000000000000000000000000
Description: x
 continued

Package: build-essential
Version: 12.9
Architecture: amd64
SHA256: 1111111111111111111111111111111111111111111111111111111111111111
"""
SIMULATED = (
    "Reading package lists...\nInst libdemo-dev (1.0-1 Debian:12/stable [amd64])\nConf libdemo-dev (1.0-1 Debian)\n"
)
APT = "E: Unable to locate package x\nW: Failed to fetch http://host/x  404\nHit:1 http://host stable\n"
PIN = DistroPin(package="libdemo", version="1.0-1", codename="wooden", parts=(), libraries=("libdemo-dev",), folders=())


class Archive(distro.Archive):
    """An archive whose programs say what they are told to."""

    says: dict[str, str | None]

    def check(self, pin: DistroPin) -> None:
        """Demand nothing of this machine."""

    def _apt(self, program: str, *words: str | Path, cwd: Path | None = None, into: Path | None = None) -> str:  # noqa: ARG002 - as there
        said = self.says["cache" if program == "apt-cache" else "update" if "update" in words else "get"]
        if said is None:
            raise CommandError("apt-get ended with status 100", argv=(), status=100, why=APT)
        if into:
            into.write_bytes(said.encode("utf-8", "surrogatepass"))
        return said

    def _set_up(self) -> None:
        self._configuration.write_text("", encoding="utf-8")


@fuzz(
    "lists of distributions",
    records=st.one_of(edited(STANZA), st.text(max_size=40)),
    simulated=st.one_of(edited(SIMULATED), st.none()),
    update=st.one_of(edited(APT), st.none()),
)
def test_what_apt_says_is_understood_or_refused(
    folder: Path, records: str, simulated: str | None, update: str | None
) -> None:
    """Its lists come from a mirror, and its words from another program."""
    with refusable():
        for package in archive(folder, records, simulated, update).resolve(PIN):
            assert package.sha256


def archive(folder: Path, records: str, simulated: str | None, update: str | None) -> Archive:
    """Return an archive whose programs say this."""
    (folder / "apt").mkdir(exist_ok=True)
    made = Archive(
        root=folder / "apt",
        downloads=Downloads(folder / "downloads"),
        listener=ignore,
        home=folder,
        environ={},
    )
    made.says = {"cache": records, "get": simulated, "update": update}
    return made


APT_SOURCES = "Types: deb\nURIs: http://h/\n\ndeb [arch=amd64] http://h stable main\n"


@fuzz("sources of apt", share=0.5, text=edited(APT_SOURCES))
def test_sources_of_apt_are_taken_over(text: str) -> None:
    """Whatever a machine's administrator has written there."""
    for suffix in (".list", ".sources"):
        distro._with_sources(text, suffix)  # noqa: SLF001 - who calls it runs apt


def _small_module() -> bytes:
    code = b"extern int other(int); int (*hook)(int) = other; int f(int a) { return other(a); }"
    from tempfile import TemporaryDirectory  # noqa: PLC0415 - for this alone

    with TemporaryDirectory() as name:
        target = Path(name) / "m.so"
        words = [
            "gcc",
            "-shared",
            "-fPIC",
            "-O0",
            "-s",
            "-Wl,--hash-style=both",
            "-Wl,-soname,m.so",
            "-Wl,-rpath,$ORIGIN/x",
        ]
        subprocess.run([*words, "-x", "c", "-", "-o", str(target)], input=code, check=True)
        return target.read_bytes()


MODULE = _small_module()


@st.composite
def modules(draw: st.DrawFn) -> bytes:
    """Return an ELF file in whose tables something is another."""
    body = bytearray(MODULE)
    tables = int.from_bytes(body[40:48], "little")
    number = int.from_bytes(body[60:62], "little")
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.sampled_from(["header", "segments", "sections", "anywhere", "cut"]))
        if where == "cut":
            del body[draw(st.integers(0, len(body))) :]
            continue
        begin, end = {
            "header": (0, 64),
            "segments": (64, 64 + 56 * 11),
            "sections": (tables, tables + 64 * number),
            "anywhere": (0, len(body)),
        }[where]
        if (end := min(end, len(body))) <= begin:
            continue
        width = draw(st.sampled_from([1, 2, 4, 8]))
        at = draw(st.integers(begin, end - 1)) // width * width
        value = draw(st.sampled_from([0, 1, 2, 0x28, 0x40, 0x7F, 0xFF, 0xFFFF, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
        body[at : at + width] = (value & (2 ** (8 * width) - 1)).to_bytes(width, "little")
    return bytes(body)


@fuzz("ELF files", share=2, body=st.one_of(modules(), modules(), damaged(MODULE), st.binary(max_size=80)))
def test_a_compiled_module_is_read_or_refused(folder: Path, body: bytes) -> None:
    """Its numbers may lie: where tables are, how long they are, what they point to."""
    file = folder / "m.so"
    file.write_bytes(body)
    module = elf.read_module(file)
    for ask in _questions(file, module):
        with refusable() as refused:
            ask()
        assert all(isinstance(error, GateError) for error in refused)


def _questions(file: Path, module: elf.Module | None) -> Sequence[Callable[[], object]]:
    questions: list[Callable[[], object]] = [
        lambda: elf.defined_symbols(file, ["f", "hook", "g"]),
        lambda: elf.most_likely("function_of", [file]),
    ]
    if module is not None:
        loader = elf.Loader(machine=module.machine, known={}, folders=(), unpacked=file.parent, site=None)
        questions += [
            lambda: elf.undefined_symbols(module),
            lambda: list(elf.run_folders(module)),
            lambda: loader.scope(module),
        ]
    return questions


def test_what_programs_say_is_taken_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is changed above is valid before: of a document that is refused unread, no change could find anything."""
    assert "'x' was not declared in this scope" in first_error(LOG.splitlines())
    monkeypatch.setattr("mmstack.toolchains.cubins.shutil.which", lambda _name: None)
    assert set(contents_of(LISTED, PTX).kernels) == {"sm_90", "compute_90"}
    (folder / "redistrib.json").write_bytes(encoded(REDIST))
    assert [offer.size for offer in components(folder / "redistrib.json", TOOLKIT, "x86_64")] == [5, 6]
    (package,) = archive(folder, STANZA, SIMULATED, APT).resolve(PIN)
    assert package.name == "libdemo-dev"
    assert "deb-src [arch=amd64] http://h stable main" in distro._with_sources(APT_SOURCES, ".list")  # noqa: SLF001 - as above
    assert "Types: deb deb-src" in distro._with_sources(APT_SOURCES, ".sources")  # noqa: SLF001 - as above


def test_the_module_is_read_as_it_is(folder: Path) -> None:
    """By all who ask something of it."""
    file = folder / "m.so"
    file.write_bytes(MODULE)
    module = elf.read_module(file)
    assert module
    assert (module.soname, module.run_paths) == ("m.so", ("$ORIGIN/x",))
    assert elf.defined_symbols(file, ["f", "hook", "g"]) == {"f", "hook"}
    assert elf.undefined_symbols(module) == {"other"}
    for ask in _questions(file, module):
        ask()
