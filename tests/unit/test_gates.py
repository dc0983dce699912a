from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.tags import Tag, sys_tags

from mmstack import gates
from mmstack.builders.enclose import check_members
from mmstack.elf import most_likely, read_module, system_folders
from mmstack.errors import DiskError, GateError, HostError
from mmstack.gates import Expected, check_unchanged, check_wheel, planned_version, snapshot
from mmstack.model import Architecture, FilePin, GateRules, Interpreter
from mmstack.toolchains import cubins
from mmstack.toolchains.cubins import GpuContents

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NATIVE: Tag = next(tag for tag in sys_tags() if tag.platform.startswith("linux_"))
INTERPRETER = Interpreter(
    path=Path(sys.executable),
    version="3.11.0",
    tag=NATIVE.abi,
    platform=NATIVE.platform,
    markers={},
    tags=tuple(map(str, sys_tags())),
)
RULES = GateRules(wheel="platform", top_level=("pkg",), extensions=("pkg/_ext*.so",), requires=("Some.Thing",))
EXPECTED = Expected(rules=RULES, project="My.Pkg", version="1.0", interpreter=INTERPRETER)
PURE = replace(EXPECTED, rules=replace(RULES, wheel="pure", extensions=()))
METADATA = "Metadata-Version: 2.1\nName: my-pkg\nVersion: {version}\nRequires-Dist: some_thing>=1\n"
EXTENSION = """
extern void *PyLong_FromLong(long);
extern int below_add(int, int);
extern void optional_hook(void) __attribute__((weak));
void *PyInit__ext(void) { if (optional_hook) optional_hook(); return PyLong_FromLong(below_add(1, 2)); }
"""
ALL_GATES = ("tag", "metadata", "record", "extensions", "rpath", "symbols")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A wheel to be written, with a RECORD that is right unless it is given."""

    files: Mapping[str, bytes]
    version: str = "1.0"
    tag: str = str(NATIVE)
    inner_tag: str = ""
    metadata: str = METADATA
    record: str | None = None
    info: str = "my_pkg-1.0.dist-info"
    entries: tuple[zipfile.ZipInfo, ...] = field(default=())

    def write(self, folder: Path) -> Path:
        """Write the wheel into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        wheel = folder / f"my_pkg-{self.version}-{self.tag}.whl"
        contents = {
            **self.files,
            f"{self.info}/METADATA": self.metadata.format(version=self.version).encode(),
            f"{self.info}/WHEEL": f"Wheel-Version: 1.0\nTag: {self.inner_tag or self.tag}\n".encode(),
        }
        record = self.record if self.record is not None else record_of(contents, self.info)
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in {**contents, f"{self.info}/RECORD": record.encode()}.items():
                archive.writestr(name, data)
            for entry in self.entries:
                archive.writestr(entry, b"elsewhere")
        return wheel


def record_of(contents: Mapping[str, bytes], info: str = "my_pkg-1.0.dist-info") -> str:
    """Return the RECORD that tells the truth about these files."""
    rows = [f"{name},sha256={digest_of(data)},{len(data)}" for name, data in contents.items()]
    return "\n".join([*rows, f"{info}/RECORD,,", ""])


def digest_of(data: bytes) -> str:
    """Return a digest as RECORD spells it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def compiled(folder: Path, name: str, code: str, *options: str) -> Path:
    """Compile C code into a shared object of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    command = ["gcc", "-shared", "-fPIC", "-O0", "-x", "c", "-", "-x", "none", "-o", str(target), *options]
    subprocess.run(command, input=code.encode(), check=True)
    return target


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A layer below, and a module that was compiled against it."""

    below: Path
    module: bytes


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Compile the smallest pair of layers."""
    folder = tmp_path_factory.mktemp("lab")
    code = "int below_add(int a, int b) { return a + b; }"
    below = compiled(folder / "lib", "libbelow.so", code, "-Wl,-soname,libbelow.so").parent
    extension = compiled(folder, "_ext.so", EXTENSION, f"-L{below}", "-lbelow")
    return Lab(below=below, module=extension.read_bytes())


def native(module: bytes) -> Draft:
    """Return a good compiled wheel around a module."""
    return Draft(files={"pkg/__init__.py": b"", "pkg/_ext.so": module})


def pure() -> Draft:
    """Return a good wheel of pure Python."""
    return Draft(files={"pkg/__init__.py": b"x = 1\n"}, tag="py3-none-any")


def beside(below: Path) -> Expected:
    """Return what is expected of a wheel above a layer with this folder in its site-packages."""
    return replace(EXPECTED, site=below.parent, below=(below.name,))


def refusal(wheel: Path, expected: Expected) -> str:
    """Return why a wheel was refused."""
    with pytest.raises(GateError) as caught:
        check_wheel(wheel, expected)
    assert caught.value.fix
    return str(caught.value)


def test_a_good_compiled_wheel_passes_all_gates(tmp_path: Path, lab: Lab) -> None:
    """Weak symbols may stay open, the others are found below and in the interpreter."""
    expected = beside(lab.below)
    assert check_wheel(native(lab.module).write(tmp_path), expected).gates == ALL_GATES


def test_a_good_pure_wheel_claims_no_gate_that_saw_nothing(tmp_path: Path) -> None:
    """Run paths and symbols are not reported as checked where nothing is compiled."""
    assert check_wheel(pure().write(tmp_path), PURE).gates == ("tag", "metadata", "record", "extensions")
    old = replace(pure(), tag="py2.py3-none-any", inner_tag="py2-none-any\nTag: py3-none-any")
    assert check_wheel(old.write(tmp_path), PURE).gates == ("tag", "metadata", "record", "extensions")


def test_nothing_is_left_behind(tmp_path: Path, lab: Lab) -> None:
    """What was unpacked for reading is gone, after success and after refusal."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    wheel = native(lab.module).write(tmp_path)
    check_wheel(wheel, beside(lab.below), scratch=scratch)
    with pytest.raises(GateError):
        check_wheel(wheel, EXPECTED, scratch=scratch)
    assert not list(scratch.iterdir())


def test_all_failures_are_told_at_once(tmp_path: Path) -> None:
    """The wheel of a build that silently skipped its compiled part fails two gates, both named."""
    message = refusal(pure().write(tmp_path), EXPECTED)
    assert "tag, extensions failed" in message
    assert f"wanted {NATIVE.abi}-{NATIVE.abi}-" in message
    assert "no compiled module is named pkg/_ext*.so" in message


@pytest.mark.parametrize(
    "tag",
    [
        f"py3-none-{NATIVE.platform}",
        f"{NATIVE.interpreter}-abi3-{NATIVE.platform}",
        f"{NATIVE.interpreter}-none-any",
        "cp39-cp39-linux_x86_64",
        f"{NATIVE.interpreter}-{NATIVE.abi}-win_amd64",
    ],
)
def test_a_compiled_wheel_is_for_this_python_alone(tmp_path: Path, lab: Lab, tag: str) -> None:
    """Looser and foreign tags are refused."""
    message = refusal(
        replace(native(lab.module), tag=tag).write(tmp_path),
        beside(lab.below),
    )
    assert "tag failed" in message


def test_a_release_wheel_may_have_any_native_platform_tag(tmp_path: Path, lab: Lab) -> None:
    """The index's names for the same ABI and machine are as good as our own."""
    tag = next(tag for tag in sys_tags() if tag.abi == NATIVE.abi and "many" in tag.platform)
    draft = replace(native(lab.module), tag=str(tag))
    assert check_wheel(draft.write(tmp_path), beside(lab.below)).gates == ALL_GATES


@pytest.mark.parametrize("tag", [str(NATIVE), "py2-none-any"])
def test_a_pure_layer_has_a_pure_wheel(tmp_path: Path, tag: str) -> None:
    """A tag that is narrower than the layer is refused."""
    assert "wanted py3-none-any" in refusal(replace(pure(), tag=tag).write(tmp_path), PURE)


LIBRARY = f"py3-none-{NATIVE.platform}"


def test_a_library_is_for_this_machine_and_any_python(tmp_path: Path, lab: Lab) -> None:
    """Its tag names no ABI of Python's."""
    expected = replace(beside(lab.below), rules=replace(RULES, wheel="library"))
    assert check_wheel(replace(native(lab.module), tag=LIBRARY).write(tmp_path), expected).gates == ALL_GATES
    for tag in (str(NATIVE), "py3-none-any", "py3-none-win_amd64"):
        message = refusal(replace(native(lab.module), tag=tag).write(tmp_path), expected)
        assert f"wanted {LIBRARY} or an equal: this layer is compiled for this machine and any Python" in message
    assert "tag" in refusal(replace(native(lab.module), tag=LIBRARY).write(tmp_path), EXPECTED).partition("failed")[0]


@pytest.mark.parametrize("inner", ["py2-none-any", "no tag at all", "a-b"])
def test_file_name_and_contents_agree_on_the_tag(tmp_path: Path, inner: str) -> None:
    """A renamed wheel is refused."""
    message = refusal(replace(pure(), inner_tag=inner).write(tmp_path), PURE)
    assert "the file name says py3-none-any, the WHEEL file inside says" in message


def test_a_file_that_is_not_named_as_a_wheel_is_refused(tmp_path: Path) -> None:
    """The name is where installers read the tag."""
    wheel = pure().write(tmp_path)
    assert "tag:" in refusal(wheel.rename(tmp_path / "my_pkg.whl"), PURE)


@pytest.mark.parametrize(
    ("change", "expected", "text"),
    [
        ({"version": "1.1"}, {}, "the file name says my-pkg 1.1, planned is my-pkg 1.0"),
        ({"version": "1.0+local"}, {}, "METADATA says my-pkg 1.0+local, planned is my-pkg 1.0"),
        ({}, {"project": "other"}, "METADATA says my-pkg 1.0, planned is other 1.0"),
        ({"metadata": METADATA.replace("some_thing", "else")}, {}, "does not say that it requires Some.Thing"),
        ({"metadata": "Metadata-Version: 2.1\nName: my-pkg\nVersion: x y\n"}, {}, "METADATA: 'x y' is invalid"),
        ({"metadata": ""}, {}, "METADATA: "),
        ({"info": "my_pkg-2.dist-info"}, {}, "the dist-info folder says my-pkg 2, planned is my-pkg 1.0"),
        ({"info": "nonsense.dist-info"}, {}, "the dist-info folder says"),
    ],
)
def test_metadata_is_as_planned(tmp_path: Path, change: dict[str, str], expected: dict[str, str], text: str) -> None:
    """Name, version and requirements are compared wherever a wheel states them."""
    draft = replace(pure(), **change)  # type: ignore[arg-type]
    assert text in refusal(draft.write(tmp_path), replace(PURE, **expected))  # type: ignore[arg-type]


def test_a_local_version_is_right_where_the_pin_has_one(tmp_path: Path) -> None:
    """The variant of a release that was pinned is the one that is wanted."""
    draft = replace(pure(), version="1.0+cpu", info="my_pkg-1.0+cpu.dist-info")
    assert check_wheel(draft.write(tmp_path), replace(PURE, version="1.0+cpu")).gates


@pytest.mark.parametrize(
    ("filename", "version"),
    [("my_pkg-1.0+cpu-py3-none-any.whl", "1.0+cpu"), ("my_pkg-1.0.tar.gz", "1.0"), (None, "1.0")],
)
def test_the_planned_version_is_that_of_a_pinned_wheel(filename: str | None, version: str) -> None:
    """Only a wheel's own name can add a local part to the version of the plan."""
    assert planned_version("1.0", FilePin(filename=filename, sha256="") if filename else None) == version


GOOD = {
    "pkg/__init__.py": b"x = 1\n",
    "my_pkg-1.0.dist-info/METADATA": METADATA.format(version="1.0").encode(),
    "my_pkg-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
}
FIRST = f"pkg/__init__.py,sha256={digest_of(b'x = 1' + bytes([10]))},6"


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (record_of(GOOD).replace(FIRST, FIRST.replace("=", "=A", 1)), "not what RECORD says: pkg/__init__.py"),
        (record_of(GOOD).replace(FIRST, FIRST[:-1] + "7"), "not what RECORD says: pkg/__init__.py"),
        (record_of(GOOD).replace(FIRST, "pkg/__init__.py,,"), "not what RECORD says: pkg/__init__.py"),
        (record_of(GOOD).replace(FIRST + "\n", ""), "RECORD does not list: pkg/__init__.py"),
        (record_of(GOOD) + "pkg/gone.py,sha256=x,1\n", "RECORD lists, but the wheel has not: pkg/gone.py"),
        (record_of(GOOD) + FIRST + "\n", "more than once in RECORD: pkg/__init__.py"),
        (record_of(GOOD) + "a,b\n", "RECORD cannot be read"),
        (record_of(GOOD) + '"open\n', "RECORD cannot be read"),
        ("", "RECORD does not list"),
    ],
)
def test_record_tells_the_truth(tmp_path: Path, record: str, text: str) -> None:
    """Digests, sizes and the list of files are all compared with what is in the wheel."""
    assert check_wheel(replace(pure(), record=record_of(GOOD)).write(tmp_path / "good"), PURE).gates
    message = refusal(replace(pure(), record=record).write(tmp_path), PURE)
    assert text in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tests/test_it.py", "outside the wheel's packages: tests/test_it.py"),
        ("stray.py", "outside the wheel's packages: stray.py"),
        ("my_pkg-1.0.data/data/etc/rc", "outside the wheel's packages: my_pkg-1.0.data/data/etc/rc"),
        ("my_pkg-1.0.data/headers/a.h", "outside the wheel's packages"),
        ("my_pkg-1.0.data/purelib/other/a.py", "outside the wheel's packages"),
        ("my_pkg-1.0.data/purelib", "outside the wheel's packages"),
        ("pkg/../../up.py", "unsafe names: pkg/../../up.py"),
        ("/etc/absolute.so", "unsafe names: /etc/absolute.so"),
        ("pkg/./dot.py", "unsafe names"),
        ("pkg\\back.py", "unsafe names"),
        ("other-1.dist-info/METADATA", "not exactly one dist-info folder"),
    ],
)
def test_nothing_may_stand_outside_the_packages(tmp_path: Path, name: str, text: str) -> None:
    """Every place that an installer would write to is one that the recipe names."""
    draft = replace(pure(), files={"pkg/__init__.py": b"", name: b"x"})
    assert text in refusal(draft.write(tmp_path), PURE)


def test_data_for_site_packages_stands_where_its_package_does(tmp_path: Path) -> None:
    """The platlib scheme is site-packages by another name."""
    draft = replace(pure(), files={"my_pkg-1.0.data/platlib/pkg/a.py": b""})
    assert check_wheel(draft.write(tmp_path), PURE).gates


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_duplicates_and_symbolic_links_are_refused(tmp_path: Path) -> None:
    """What two readers of one archive may see differently does not pass."""
    link = zipfile.ZipInfo("pkg/link.so")
    link.external_attr = 0o120777 << 16
    draft = replace(pure(), entries=(zipfile.ZipInfo("pkg/__init__.py"), link))
    message = refusal(draft.write(tmp_path), PURE)
    assert "more than once in the wheel: pkg/__init__.py" in message
    assert "symbolic links: pkg/link.so" in message


def test_a_file_without_a_name_is_in_no_wheel(tmp_path: Path) -> None:
    """Python's own reader asks for the last letter of each name."""
    wheel = tmp_path / "my_pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), "x")
    assert "a file in it has no name" in refusal(wheel, PURE)
    with zipfile.ZipFile(wheel) as archive, pytest.raises(GateError, match="holds what no wheel may"):
        check_members(archive, wheel)


def test_a_broken_archive_is_no_wheel(tmp_path: Path) -> None:
    """Neither text nor a flipped byte gets past the reader."""
    text = tmp_path / pure().write(tmp_path / "x").name
    text.write_text("no archive")
    assert "is no wheel" in refusal(text, PURE)
    wheel = pure().write(tmp_path / "y")
    data = bytearray(wheel.read_bytes())
    data[data.index(b"x = 1")] ^= 1
    wheel.write_bytes(data)
    assert "Bad CRC-32" in refusal(wheel, PURE)


def test_a_wheel_that_cannot_be_read_is_the_disk_s_fault(tmp_path: Path) -> None:
    """A lost file or a lost scratch folder ends in an error that says so."""
    with pytest.raises(DiskError, match="cannot be examined"):
        check_wheel(tmp_path / "my_pkg-1.0-py3-none-any.whl", PURE)
    with pytest.raises(DiskError, match="cannot be examined"):
        check_wheel(pure().write(tmp_path), PURE, scratch=tmp_path / "nowhere")


def test_a_pure_wheel_holds_nothing_compiled(tmp_path: Path, lab: Lab) -> None:
    """A module for one machine in a wheel for all is refused."""
    draft = replace(native(lab.module), tag="py3-none-any")
    assert "compiled modules in a wheel for any machine: pkg/_ext.so" in refusal(draft.write(tmp_path), PURE)


@pytest.mark.parametrize("damage", [lambda _data: b"text", lambda data: data[:100], lambda data: data[:2000]])
def test_a_module_is_an_elf_shared_object(tmp_path: Path, lab: Lab, damage: Callable[[bytes], bytes]) -> None:
    """A name that ends in .so is not enough."""
    message = refusal(native(damage(lab.module)).write(tmp_path), beside(lab.below))
    assert "extensions: no ELF shared objects: pkg/_ext.so" in message


def test_a_module_for_another_machine_is_refused(tmp_path: Path, lab: Lab) -> None:
    """The machine of the interpreter itself is the measure."""
    foreign = bytearray(lab.module)
    foreign[18:20] = (8).to_bytes(2, "little")  # EM_MIPS
    message = refusal(native(bytes(foreign)).write(tmp_path), beside(lab.below))
    assert "pkg/_ext.so is for MIPS 64-bit" in message


def test_an_extension_stands_where_its_pattern_says(tmp_path: Path, lab: Lab) -> None:
    """A pattern's star does not reach into other folders."""
    draft = Draft(files={"pkg/sub/_ext.so": lab.module, "pkg/_extra/x.so": lab.module})
    message = refusal(draft.write(tmp_path), beside(lab.below))
    assert "no compiled module is named pkg/_ext*.so" in message


def test_compiled_modules_need_an_interpreter_to_be_measured_by(tmp_path: Path, lab: Lab) -> None:
    """A script in the interpreter's place is told, not guessed around."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\n")
    expected = replace(EXPECTED, interpreter=replace(INTERPRETER, path=script))
    with pytest.raises(HostError, match="no ELF program"):
        check_wheel(native(lab.module).write(tmp_path), expected)


def build(folder: Path, lab: Lab, code: str, *options: str) -> Path:
    """Write a wheel around a module that was compiled in this way."""
    return native(compiled(folder, "m.so", code, f"-L{lab.below}", *options).read_bytes()).write(folder)


@pytest.mark.parametrize("kind", ["--enable-new-dtags", "--disable-new-dtags"])
def test_a_run_path_that_the_recipe_does_not_name_is_refused(tmp_path: Path, lab: Lab, kind: str) -> None:
    """RPATH and RUNPATH alike, entry by entry."""
    paths = f"$ORIGIN/lib:{lab.below}:"
    wheel = build(tmp_path, lab, EXTENSION, "-lbelow", f"-Wl,{kind},-rpath,{paths}")
    rules = replace(RULES, rpath=("$ORIGIN/lib",))
    message = refusal(wheel, replace(beside(lab.below), rules=rules))
    assert f"rpath: run paths of pkg/_ext.so: {lab.below}, (the current folder)" in message
    assert "symbols" not in message


def test_a_needed_library_is_named_without_its_path(tmp_path: Path, lab: Lab) -> None:
    """A module that would load one file of this machine alone is refused."""
    nameless = compiled(tmp_path, "libnameless.so", "int nameless(void) { return 1; }")
    wheel = build(tmp_path, lab, "int nameless(void); int f(void) { return nameless(); }", str(nameless))
    assert f"paths among the libraries that pkg/_ext.so needs: {nameless}" in refusal(wheel, EXPECTED)


def test_a_driver_s_stub_is_not_the_driver(tmp_path: Path, lab: Lab) -> None:
    """The stub's own name among the needed libraries means the build linked the wrong file."""
    stub = compiled(tmp_path, "libcuda.so", "int cuInit(void) { return 1; }", "-Wl,-soname,libcuda.so")
    wheel = build(tmp_path, lab, "int cuInit(void); int f(void) { return cuInit(); }", str(stub))
    assert "pkg/_ext.so needs a driver's stub: libcuda.so" in refusal(wheel, beside(tmp_path))


def test_a_machine_that_only_builds_needs_no_driver(tmp_path: Path, lab: Lab) -> None:
    """A GPU machine's driver is not missed where there is none; all else is, and so is a driver that was not linked."""
    driver = compiled(tmp_path / "driver", "libcuda.so.1", "int cuInit(void) { return 1; }", "-Wl,-soname,libcuda.so.1")
    calls, loose = "int cuInit(void); int f(void) { return cuInit(); }", "-Wl,--unresolved-symbols=ignore-all"
    assert "symbols" in check_wheel(build(tmp_path, lab, calls, str(driver)), EXPECTED).gates
    message = refusal(build(tmp_path, lab, EXTENSION + calls, str(driver), loose), EXPECTED)
    assert "lacks below_add" in message
    assert "cuInit" not in message
    assert "lacks cuInit" in refusal(build(tmp_path, lab, calls, loose), EXPECTED)


def test_a_symbol_that_the_layer_below_lacks_is_named_with_its_likely_home(tmp_path: Path, lab: Lab) -> None:
    """Built against other headers than those of the library: what users meet as an ImportError."""
    wheel = build(tmp_path, lab, EXTENSION.replace("below_add", "below_subtract"), "-lbelow")
    message = refusal(wheel, beside(lab.below))
    assert "symbols: pkg/_ext.so lacks below_subtract (libbelow.so has names most like it)" in message


def test_a_symbol_in_a_library_that_is_not_linked_is_missing_too(tmp_path: Path, lab: Lab) -> None:
    """The loader does not search what the module does not name, so neither do we."""
    message = refusal(build(tmp_path, lab, EXTENSION), beside(lab.below))
    assert "lacks below_add (libbelow.so has it, but is not among the libraries that it needs)" in message


def test_a_symbol_in_the_wheel_s_other_modules_has_no_home_there(tmp_path: Path, lab: Lab) -> None:
    """Two modules that lack the same name do not vouch for each other."""
    module = compiled(tmp_path, "m.so", "void zzqx_unheard_of(void); void f(void) { zzqx_unheard_of(); }").read_bytes()
    message = refusal(Draft(files={"pkg/_ext.so": module, "pkg/_other.so": module}).write(tmp_path), EXPECTED)
    assert "pkg/_ext.so lacks zzqx_unheard_of\n" in message
    assert "pkg/_other.so lacks zzqx_unheard_of\n" in message
    assert check_wheel(native(lab.module).write(tmp_path), beside(lab.below)).gates


def test_a_library_that_is_nowhere_is_named(tmp_path: Path, lab: Lab) -> None:
    """The cause is told, not each symbol that it would have had."""
    message = refusal(native(lab.module).write(tmp_path), EXPECTED)
    assert "symbols: pkg/_ext.so needs libraries that are nowhere: libbelow.so" in message
    assert "below_add" not in message


def test_a_library_for_another_machine_is_passed_over(tmp_path: Path, lab: Lab) -> None:
    """As the loader does."""
    foreign = bytearray((lab.below / "libbelow.so").read_bytes())
    foreign[18:20] = (8).to_bytes(2, "little")  # EM_MIPS
    (tmp_path / "libbelow.so").write_bytes(foreign)
    message = refusal(native(lab.module).write(tmp_path), beside(tmp_path))
    assert "nowhere: libbelow.so" in message


def test_cxx_symbols_are_readable(tmp_path: Path, lab: Lab) -> None:
    """A mangled name is shown with what it means."""
    code = "extern void _ZN5below5wrongEi(int); void f(void) { _ZN5below5wrongEi(1); }"
    assert "_ZN5below5wrongEi = below::wrong(int)" in refusal(build(tmp_path, lab, code), EXPECTED)


def test_bundled_libraries_are_found_by_run_path(tmp_path: Path, lab: Lab) -> None:
    """What a wheel brings along serves its modules."""
    rules = replace(RULES, rpath=("$ORIGIN/lib",))
    module = compiled(tmp_path, "m.so", EXTENSION, f"-L{lab.below}", "-lbelow", "-Wl,-rpath,$ORIGIN/lib").read_bytes()
    library = (lab.below / "libbelow.so").read_bytes()
    draft = Draft(files={"pkg/_ext.so": module, "pkg/lib/libbelow.so": library})
    assert check_wheel(draft.write(tmp_path), replace(EXPECTED, rules=rules)).gates == ALL_GATES


def test_run_paths_reach_the_other_packages_of_the_site(tmp_path: Path) -> None:
    """`$ORIGIN/../other` is a folder of the environment that the wheel will be installed in."""
    rules = replace(RULES, rpath=("${ORIGIN}/../other",))
    library = tmp_path / "site" / "other" / "below.so.1"
    compiled(library.parent, library.name, "int below_add(int a) { return a; }", "-Wl,-soname,below.so.1")
    options = [str(library), "-Wl,-rpath,${ORIGIN}/../other"]
    draft = native(compiled(tmp_path, "m.so", EXTENSION, *options).read_bytes())
    assert check_wheel(draft.write(tmp_path), replace(EXPECTED, rules=rules, site=tmp_path / "site")).gates == ALL_GATES


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.one_of(st.integers(0, 4096), st.integers(0, 1 << 20)), st.integers(0, 255)), min_size=1))
def test_a_damaged_module_ends_in_a_verdict(tmp_path: Path, lab: Lab, damage: list[tuple[int, int]]) -> None:
    """Whatever bytes a module holds, the gates decide and do not crash."""
    module = bytearray(lab.module)
    for place, byte in damage:
        module[place % len(module)] = byte
    wheel = native(bytes(module)).write(tmp_path)
    try:
        assert check_wheel(wheel, beside(lab.below)).gates == ALL_GATES
    except GateError as error:
        assert error.why  # noqa: PT017 - either verdict is right


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(["..", ".", "", "pkg", "a\\b", "x.so", "etc"]), min_size=2, max_size=5))
def test_no_name_escapes(tmp_path: Path, lab: Lab, parts: list[str]) -> None:
    """A member is inside the packages, or the wheel is refused; nothing is written anywhere."""
    good = parts[0] == "pkg" and parts[-1] != "x.so" and not {"..", ".", "", "a\\b"} & set(parts)
    scratch = tmp_path / "deep" / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    draft = replace(pure(), files={"pkg/__init__.py": b"", "/".join(parts): lab.module})
    wheel = draft.write(tmp_path / "wheels")
    before = snapshot(tmp_path)
    with nullcontext() if good else pytest.raises(GateError):
        check_wheel(wheel, PURE, scratch=scratch)
    check_unchanged(before, snapshot(tmp_path))


def test_system_folders_come_from_the_loader_s_configuration(tmp_path: Path) -> None:
    """Includes are followed, comments skipped, and the defaults come last."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "b.conf").write_text("/second # why\n\nhwcap 1 nosegneg\n")
    (tmp_path / "conf.d" / "a.conf").write_text("# nothing\n/first\n")
    (tmp_path / "ld.so.conf").write_text("include conf.d/*.conf\n/third\n")
    folders = [str(folder) for folder in system_folders(tmp_path / "ld.so.conf")]
    assert folders[:3] == ["/first", "/second", "/third"]
    assert {"/lib", "/usr/lib", "/lib64", "/usr/lib64"} <= set(folders[3:])
    assert system_folders(tmp_path / "none") == tuple(map(Path, folders[3:]))


def test_a_name_like_no_other_has_no_likely_home(lab: Lab) -> None:
    """No guess is better than a wild one."""
    assert most_likely("zzqx_unheard_of", [lab.below / "libbelow.so"]) is None


def test_a_file_without_dynamic_symbols_is_no_module(tmp_path: Path) -> None:
    """An object file cannot be loaded, so it says nothing."""
    target = tmp_path / "x.o"
    subprocess.run(["gcc", "-c", "-x", "c", "-", "-o", str(target)], input=b"int x;", check=True)
    assert read_module(target) is None


def test_a_build_that_touches_nothing_is_unchanged(tmp_path: Path) -> None:
    """Reading and Python's own caches are no changes, nor what a Python left that was killed while it wrote one."""
    (tmp_path / "site" / "__pycache__").mkdir(parents=True)
    (tmp_path / "site" / "a.py").write_text("a")
    left = tmp_path / "site" / "__pycache__" / "a.cpython-311.pyc.139833931460144"
    left.write_bytes(b"")
    before = snapshot(tmp_path / "site", tmp_path / "home-that-is-not-there")
    left.unlink()
    (tmp_path / "site" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    check_unchanged(before, snapshot(tmp_path / "site", tmp_path / "home-that-is-not-there"))


def test_a_build_that_writes_elsewhere_is_told_each_file(tmp_path: Path) -> None:
    """New, changed, touched and gone files are named, each as what it is."""
    for name in ("changed", "gone", "same", "touched"):
        (tmp_path / name).write_text("1")
    before = snapshot(tmp_path)
    (tmp_path / "new").symlink_to("nowhere")
    (tmp_path / "changed").write_text("22")
    (tmp_path / "gone").unlink()
    os.utime(tmp_path / "touched", ns=(1, 1))
    with pytest.raises(GateError, match="outside its wheel") as caught:
        check_unchanged(before, snapshot(tmp_path))
    why = caught.value.why
    assert why.splitlines() == [
        f"new: {tmp_path / 'new'}",
        f"gone: {tmp_path / 'gone'}",
        f"changed: {tmp_path / 'changed'}, {tmp_path / 'touched'}",
    ]


RUNTIME = ("libcudart.so.11", "int below_add(int a, int b) { return a + b; }", "-Wl,-soname,libcudart.so.11")


def test_what_a_layer_below_loads_is_there(tmp_path: Path) -> None:
    """A library that only lies in another package's folder is not: nothing would load it."""
    site = tmp_path / "site"
    runtime = compiled(site / "nv" / "lib", *RUNTIME)
    compiled(site / "leaves" / "lib", "liblayer.so", "int x;")
    loads = [str(runtime), "-Wl,-rpath,$ORIGIN/../../nv/lib"]
    compiled(
        site / "loads" / "lib",
        "liblayer.so",
        "int below_add(int, int); int x(void) { return below_add(1, 2); }",
        *loads,
    )
    wheel = native(compiled(tmp_path, "m.so", EXTENSION, str(runtime)).read_bytes()).write(tmp_path)
    assert check_wheel(wheel, replace(EXPECTED, site=site, below=("loads",))).gates == ALL_GATES
    message = refusal(wheel, replace(EXPECTED, site=site, below=("leaves",)))
    assert "needs libraries that are nowhere: libcudart.so.11" in message


def test_a_toolkit_of_this_machine_is_no_library_of_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works here and nowhere else."""
    runtime = compiled(tmp_path / "system", *RUNTIME)
    monkeypatch.setattr(gates, "system_folders", lambda: (runtime.parent, *system_folders()))
    wheel = native(compiled(tmp_path, "m.so", EXTENSION, str(runtime)).read_bytes()).write(tmp_path)
    assert "needs libraries of this machine's CUDA toolkit: libcudart.so.11" in refusal(wheel, EXPECTED)


def test_a_library_may_leave_out_what_its_loaders_bring(tmp_path: Path) -> None:
    """But not where one that loads it does not bring it either."""
    helper = compiled(tmp_path, "libhelper.so", "int below_add(int, int); int help(void) { return below_add(1, 2); }")
    below = compiled(tmp_path, "libbelow.so", "int below_add(int a, int b) { return a + b; }")
    code = "int help(void);\n" + EXTENSION.replace("extern int below_add(int, int);", "").replace(
        "below_add(1, 2)", "help()"
    )
    options = ["-Wl,--no-as-needed", f"-L{tmp_path}", "-lhelper", "-Wl,--unresolved-symbols=ignore-all"]
    rules = replace(RULES, rpath=("$ORIGIN",))
    for brought, passes in ((["-lbelow"], True), ([], False)):
        module = compiled(tmp_path, "m.so", code, *options, *brought, "-Wl,-rpath,$ORIGIN")
        files = {"pkg/__init__.py": b"", "pkg/_ext.so": module.read_bytes(), "pkg/libhelper.so": helper.read_bytes()}
        wheel = Draft(files={**files, "pkg/libbelow.so": below.read_bytes()}).write(tmp_path)
        if passes:
            assert check_wheel(wheel, replace(EXPECTED, rules=rules)).gates == ALL_GATES
        else:
            assert "libhelper.so lacks below_add" in refusal(wheel, replace(EXPECTED, rules=rules))


def test_a_waived_gate_may_fail_and_is_not_claimed(tmp_path: Path, lab: Lab) -> None:
    """The others still count."""
    wheel = native(lab.module).write(tmp_path)
    expected = replace(beside(lab.below), version="2.0", waived=frozenset({"metadata"}))
    assert check_wheel(wheel, expected).gates == tuple(name for name in ALL_GATES if name != "metadata")
    assert "record" in refusal(replace(pure(), record="").write(tmp_path), replace(PURE, waived=frozenset({"tag"})))


@pytest.mark.parametrize(
    ("modules", "problem"),
    [((), "lacks 1 of 2 kernels"), (("pkg/_ext*.so",), ""), (("pkg/_gpu*.so",), "there is no: pkg/_gpu*.so")],
)
def test_a_recipe_may_name_the_modules_that_hold_gpu_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modules: tuple[str, ...], problem: str
) -> None:
    """Of these it is the project's own business which kernels are for which GPU; but they must be there."""
    code = GpuContents(kernels={"sm_80": Counter(["a", "b"]), "sm_90": Counter(["a"])})
    monkeypatch.setattr(cubins, "read_code", lambda *_args: code)
    wheel = native(compiled(tmp_path, "m.so", "void *PyInit__ext(void) { return 0; }").read_bytes()).write(tmp_path)
    asked = tuple(Architecture(major=major, minor=0) for major in (8, 9))
    expected = replace(EXPECTED, architectures=asked, cuobjdump=Path("cuobjdump"))
    expected = replace(expected, rules=replace(RULES, gpu_modules=modules))
    if problem:
        assert problem in refusal(wheel, expected)
    else:
        assert "gpu-code" in check_wheel(wheel, expected).gates


def test_a_library_of_the_system_is_no_toolkits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many names begin like those of CUDA's."""
    web = compiled(tmp_path / "system", "libcurl.so.4", *RUNTIME[1:2], "-Wl,-soname,libcurl.so.4")
    monkeypatch.setattr(gates, "system_folders", lambda: (web.parent, *system_folders()))
    wheel = native(compiled(tmp_path, "m.so", EXTENSION, str(web)).read_bytes()).write(tmp_path)
    assert check_wheel(wheel, EXPECTED).gates == ALL_GATES
