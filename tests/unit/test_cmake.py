from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mmstack.builders.build import Build, Workplace
from mmstack.builders.cmake import build_project
from mmstack.errors import BuildError
from mmstack.events import BuildProgress, Notice
from mmstack.model import CMakeProject, Compiler, Step, StepKind
from tests.miniature import Miniature

if TYPE_CHECKING:
    from mmstack.events import Event
    from mmstack.model import LayerPlan

PROJECT = """\
cmake_minimum_required(VERSION 3.20)
project(mini LANGUAGES CXX)
add_library(_ext MODULE one.cpp two.cpp alone.cpp)
set_target_properties(_ext PROPERTIES PREFIX "" UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
set_source_files_properties(one.cpp two.cpp PROPERTIES UNITY_GROUP both)
set_source_files_properties(${APART} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
"""
SOURCES = {
    "one.cpp": "static int part() { return 1; }\nint one() { return part(); }\n",
    "two.cpp": "int two() { return 2; }\n",
    "alone.cpp": "int alone() { return 3; }\n",
}
KILLED = """\
#!/bin/sh
case "$*" in *unity_both*) echo "g++: fatal error: Killed signal terminated program cc1plus"; exit 1 ;; esac
exec g++ "$@"
"""
CLASH = "static int part() { return 2; }\nint two() { return part(); }\n"


@dataclass(kw_only=True)
class Bench:
    """A layer with a CMake project of two units, and what was said while it was built."""

    root: Path
    layer: LayerPlan
    events: list[Event] = field(default_factory=list)

    @property
    def place(self) -> Workplace:
        """Return where it is built."""
        names = ("tree", "env", "built", "out", "home", "log")
        return Workplace(**{name: self.root / "work" / name for name in names})

    @property
    def module(self) -> Path:
        """Return what is compiled."""
        return self.place.built / "_ext.so"

    @property
    def log(self) -> str:
        """Return all that the commands said."""
        return self.place.log.read_text(encoding="utf-8")

    @property
    def warnings(self) -> list[str]:
        """Return what the user was warned of."""
        return [event.text for event in self.events if isinstance(event, Notice) and event.level == "warning"]

    def write(self, **sources: str) -> None:
        """Write sources, by their names without suffix."""
        for name, text in sources.items():
            (self.place.tree / f"{name}.cpp").write_text(text, encoding="utf-8")

    def project(self, old: str, new: str) -> None:
        """Change the project, as an edit of the recipe's folder would."""
        file = self.layer.recipe.folder / "CMakeLists.txt"
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")

    def build(self) -> None:
        """Compile it."""
        build_project(
            Build(
                layer=self.layer,
                place=self.place,
                compiler=Compiler(cc=Path("gcc"), cxx=Path("g++"), version=""),
                jobs=2,
                step=Step(kind=StepKind.BUILD, layer="ext", needs=(), key="", title="build ext"),
                listener=self.events.append,
            )
        )

    def objects(self) -> dict[str, int]:
        """Return when each object was compiled, by its file's name."""
        return {path.name: path.stat().st_mtime_ns for path in self.place.built.rglob("*.o") if path.stat().st_size}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A project that compiles, and an environment with cmake and ninja."""
    mini = Miniature(root=tmp_path / "mini").write()
    mini.put("pipelines/ext/CMakeLists.txt", PROJECT)
    layer = mini.layer("ext")
    project = CMakeProject(file="CMakeLists.txt", when={"SPEED": "O1"})
    bench = Bench(root=tmp_path, layer=replace(layer, recipe=replace(layer.recipe, cmake=project)))
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    (bench.place.env / "bin").mkdir(parents=True)
    bench.place.tree.mkdir()
    for name in ("cmake", "ninja", "python"):
        found = sys.executable if name == "python" else shutil.which(name, path=tools)
        assert found, f"{name} is in the dependency group `test`"
        (bench.place.env / "bin" / name).symlink_to(found)
    bench.write(**{name.removesuffix(".cpp"): text for name, text in SOURCES.items()})
    return bench


def test_a_project_is_compiled_and_tells_how_far_it_is(bench: Bench) -> None:
    """The module is in the build folder; each finished unit is an event."""
    bench.build()
    assert b"\x7fELF" in bench.module.read_bytes()[:4]
    progress = [(event.done, event.total) for event in bench.events if isinstance(event, BuildProgress)]
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert "ninja -C" in bench.log
    assert "-j 2\n" in bench.log
    assert bench.warnings == []


def test_with_other_flags_nothing_is_compiled(bench: Bench) -> None:
    """The project belongs to one way of building; the recipe's other ways are left alone."""
    bench.layer = replace(bench.layer, flags={"SPEED": "O2"})
    bench.build()
    assert not bench.place.built.exists()
    assert not (bench.place.tree / "CMakeLists.txt").exists()


def test_where_the_wheel_is_there_nothing_is_compiled(bench: Bench) -> None:
    """A run that was stopped between build and gate does not compile again."""
    bench.place.out.mkdir()
    bench.build()
    assert not bench.place.built.exists()


def test_a_project_that_cannot_be_configured_is_told_with_its_line(bench: Bench) -> None:
    """CMake's own first error is the reason; mended, the next run ends well."""
    bench.project("alone.cpp)", "alone.cpp gone.cpp)")
    with pytest.raises(BuildError, match=r"ext 2\.0 did not build") as caught:
        bench.build()
    assert "CMakeLists.txt:3" in caught.value.why
    assert caught.value.log == bench.place.log
    bench.project(" gone.cpp)", ")")
    bench.build()
    assert bench.module.exists()


def test_a_source_that_does_not_compile_is_told_and_the_rest_is_kept(bench: Bench) -> None:
    """The compiler's line is the reason; after it is mended only that source is compiled."""
    bench.write(alone="int alone() { return here; }\n")
    with pytest.raises(BuildError) as caught:
        bench.build()
    assert "alone.cpp:1" in caught.value.why
    assert "'here' was not declared" in caught.value.why.replace("\u2018", "'").replace("\u2019", "'")
    before = bench.objects()
    bench.write(alone=SOURCES["alone.cpp"])
    bench.build()
    assert bench.warnings == []
    assert {name for name, time in bench.objects().items() if before.get(name) != time} == {"alone.cpp.o"}


def test_a_second_run_compiles_nothing(bench: Bench) -> None:
    """What is compiled stays, and CMake is not asked to configure again by us."""
    bench.build()
    before = bench.objects()
    bench.build()
    assert bench.objects() == before
    assert bench.log.count("cmake -S") == 1


def test_a_half_configured_folder_is_not_trusted(bench: Bench) -> None:
    """Killed while CMake wrote its cache, the next run begins that folder anew."""
    bench.place.built.mkdir()
    (bench.place.built / "CMakeCache.txt").write_text("CMAKE_GENERATOR:INTERNAL=Unix Makefiles\n", encoding="utf-8")
    bench.build()
    assert bench.module.exists()


def test_a_unit_that_does_not_compile_is_taken_apart(bench: Bench) -> None:
    """Sources that are right, but not together, are compiled apart; what is done stays, and the user is told."""
    bench.write(two=CLASH)
    bench.build()
    assert bench.module.exists()
    assert {"one.cpp.o", "two.cpp.o", "alone.cpp.o"} <= bench.objects().keys()
    assert len(bench.warnings) == 1
    assert "one.cpp, two.cpp" in bench.warnings[0]
    before = bench.objects()
    bench.write(alone="int alone() { return 4; }\n")
    bench.build()
    assert len(bench.warnings) == 1, "what was learnt is remembered"
    assert {name for name, time in bench.objects().items() if before.get(name) != time} == {"alone.cpp.o"}


def test_an_error_in_a_unit_is_told_for_its_source(bench: Bench) -> None:
    """Taken apart, the source that is wrong is found, and the build ends."""
    bench.write(two="int two() { return here; }\n")
    with pytest.raises(BuildError) as caught:
        bench.build()
    assert "two.cpp:1" in caught.value.why
    assert len(bench.warnings) == 1


def test_a_project_that_takes_nothing_apart_ends(bench: Bench) -> None:
    """One that does not heed APART fails once more, not for ever."""
    bench.project("set_source_files_properties(${APART}", "# (${APART}")
    bench.write(two=CLASH)
    with pytest.raises(BuildError) as caught:
        bench.build()
    assert "two.cpp:1" in caught.value.why


def test_a_killed_compiler_takes_nothing_apart(bench: Bench, tmp_path: Path) -> None:
    """Out of memory is no fault of the sources: the next run tries the same units, so that the same comes out."""
    compiler = tmp_path / "g++-killed"
    compiler.write_text(KILLED, encoding="utf-8")
    compiler.chmod(0o755)
    bench.project("project(mini", f'set(CMAKE_CXX_COMPILER "{compiler}")\nproject(mini')
    with pytest.raises(BuildError, match="did not build") as caught:
        bench.build()
    assert "Killed" in caught.value.why
    assert bench.warnings == []
