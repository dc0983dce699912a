from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from mmstack.builders import cmake
from mmstack.builders.build import Build, Workplace
from mmstack.builders.cmake import compile_project, configure, read_cache, taken_apart
from mmstack.errors import BuildError, GateError
from mmstack.events import BuildProgress, Compiled, Edge, Notice
from mmstack.graph import has_project
from mmstack.model import CMakeProject, Compiler, Jobs, Linker, Step, StepKind
from tests.miniature import Miniature

if TYPE_CHECKING:
    from collections.abc import Sequence

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
CRASHES = """\
#!/bin/sh
case "$*" in *_ext.dir*unity_both*" -c "*) ;; *) exec g++ "$@" ;; esac
echo >> "{crashes}"
[ "$(wc -l < "{crashes}")" -gt {times} ] && exec g++ "$@"
echo "one.cpp:1:1: internal compiler error: Segmentation fault"
exit 1
"""
CROWDED = """\
#!/bin/sh
case "$*" in *_ext.dir*" -c "*) ;; *) exec g++ "$@" ;; esac
touch "{folder}/$$"
sleep 0.5
if [ "$(ls "{folder}" | wc -l)" -gt {room} ]; then
  rm "{folder}/$$"
  kill -9 $$
fi
g++ "$@"
status=$?
rm "{folder}/$$"
exit $status
"""
UPSTREAM = """\
import subprocess
import sys

print("-- what upstream says of its flags")
subprocess.run(["cmake", "-S", ".", "-B", "build", "-G", "Ninja"], check=True)
"""
LIBRARY = """\
cmake_minimum_required(VERSION 3.20)
project(lib LANGUAGES CXX)
message(STATUS "SPEED is '${SPEED}', PART is '${PART}', Python is ${OWN_PYTHON}")
if(DEFINED EMPTY OR CMAKE_PREFIX_PATH)
  message(FATAL_ERROR "nobody said so")
endif()
find_file(FOUND found.txt REQUIRED)
add_library(alone SHARED alone.cpp)
install(TARGETS alone)
add_library(unwanted SHARED EXCLUDE_FROM_ALL unwanted.cpp)
"""
LEAN = """\
if(NOT "${CMAKE_SOURCE_DIR}/alone.cpp" IN_LIST APART)
  set_source_files_properties(alone.cpp PROPERTIES COMPILE_DEFINITIONS "here=gone")
endif()
"""
CLASH = "static int part() { return 2; }\nint two() { return part(); }\n"


@dataclass(kw_only=True)
class Bench:
    """A layer with a CMake project of two units, and what was said while it was built."""

    root: Path
    layer: LayerPlan
    jobs: int = 2
    events: list[Event] = field(default_factory=list)

    @property
    def place(self) -> Workplace:
        """Return where it is built."""
        names = ("tree", "env", "built", "out", "home", "log", "sysroot")
        folders = {name: self.root / "work" / name for name in names}
        return Workplace(**folders, timings=self.root / "timings" / "ext.json")

    @property
    def module(self) -> Path:
        """Return what is compiled."""
        return self.place.built / "_ext.so"

    @property
    def compiled(self) -> list[Edge]:
        """Return what was told of ninja's commands."""
        return [edge for event in self.events if isinstance(event, Compiled) for edge in event.edges]

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

    def compiler(self, text: str) -> None:
        """Make the project use a compiler that is this script."""
        script = self.root / "compiler"
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
        self.project("project(mini", f'set(CMAKE_CXX_COMPILER "{script}")\nproject(mini')

    def listen(self, event: Event) -> None:
        """Keep what is told."""
        self.events.append(event)

    @property
    def task(self) -> Build:
        """Return what is asked of the builder."""
        return Build(
            layer=self.layer,
            place=self.place,
            compiler=Compiler(cc=Path("gcc"), cxx=Path("g++"), version=""),
            jobs=self.jobs,
            step=Step(kind=StepKind.BUILD, layer="ext", needs=(), key="", title="build ext"),
            listener=self.listen,
        )

    def build(self) -> None:
        """Configure and compile it."""
        configure(self.task)
        compile_project(self.task)

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


def test_what_ninja_made_is_told_with_its_times(bench: Bench) -> None:
    """Of this run alone: the next one that has nothing to do made nothing, and one that changed a file made that."""
    began = time.time()
    bench.build()
    assert [edge.output.rpartition("/")[2] for edge in bench.compiled][-1] == "_ext.so"
    assert {edge.output.rpartition("/")[2] for edge in bench.compiled} >= {"alone.cpp.o", "unity_both_cxx.cxx.o"}
    assert all(began <= edge.started <= edge.ended <= time.time() for edge in bench.compiled)
    bench.events.clear()
    bench.build()
    assert bench.compiled == []
    bench.write(alone="int alone() { return 4; }\n")
    bench.build()
    assert [edge.output.rpartition("/")[2] for edge in bench.compiled] == ["alone.cpp.o", "_ext.so"]


def test_what_ninja_made_before_it_failed_is_told(bench: Bench) -> None:
    """A picture of what took long is wanted then too."""
    bench.write(alone="int alone() { return here; }\n")
    with pytest.raises(BuildError):
        bench.build()
    assert [edge.output.rpartition("/")[2] for edge in bench.compiled] == ["unity_both_cxx.cxx.o"]


def test_a_project_is_linked_by_the_linker_of_the_plan(bench: Bench) -> None:
    """Besides what a sysroot has to be linked by; the compiler's own linker is left as it is."""
    task = replace(bench.task, variables={"LDFLAGS": "-Wl,--as-needed"})
    assert task.compiler is not None
    gold, own = (Linker(kind=kind, version="1") for kind in ("gold", "default"))
    configure(replace(task, compiler=replace(task.compiler, linker=gold)))
    assert read_cache(bench.place.built)["CMAKE_MODULE_LINKER_FLAGS"] == "-fuse-ld=gold -Wl,--as-needed"
    task = replace(task, compiler=replace(task.compiler, linker=own))
    assert task.environment()["LDFLAGS"] == "-Wl,--as-needed"
    assert "LDFLAGS" not in replace(task, variables={}).environment()


def test_a_compiler_cache_that_was_not_asked_for_takes_no_part(bench: Bench) -> None:
    """On the PATH of some distributions ccache stands in for the compiler, and would write into the build's HOME."""
    assert bench.task.environment()["CCACHE_DISABLE"] == "1"
    assert "CCACHE_DISABLE" not in replace(bench.task, variables={"CCACHE_DIR": "/cache"}).environment()


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
    (warning,) = bench.warnings
    assert warning.endswith(": alone.cpp")
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


@pytest.mark.parametrize("times", [1, 2])
def test_a_compiler_that_crashes_once_changes_nothing(bench: Bench, tmp_path: Path, times: int) -> None:
    """A unit is taken apart by its second failure, and what comes of that says so of itself."""
    bench.compiler(CRASHES.format(crashes=tmp_path / "crashes", times=times))
    bench.build()
    assert ("unity_both_cxx.cxx.o" in bench.objects()) == (times == 1)
    apart = [] if times == 1 else [str(bench.place.tree / name) for name in ("one.cpp", "two.cpp")]
    assert taken_apart(bench.place) == apart
    assert len(bench.warnings) == times - 1
    assert all("not reproducible: one.cpp, two.cpp" in warning for warning in bench.warnings)


def test_who_is_stopped_while_taking_apart_says_so_the_next_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """CMake may know of it already, so that the next run compiles apart without having met a failure."""
    bench.write(two=CLASH)
    configure(bench.task)
    configured = cmake._configure  # noqa: SLF001 - a stop at a moment that no test can hit

    def stopped(build: Build, apart: Sequence[str]) -> str:
        configured(build, apart)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cmake, "_configure", stopped)
        with pytest.raises(KeyboardInterrupt):
            bench.build()
    bench.build()
    assert {"one.cpp.o", "two.cpp.o"} <= bench.objects().keys()
    assert taken_apart(bench.place) == [str(bench.place.tree / name) for name in ("one.cpp", "two.cpp")]


def test_a_source_in_no_unit_that_does_not_compile_is_compiled_apart(bench: Bench) -> None:
    """What the project gives all but those of APART, such as few headers, may be too little for a single one too."""
    bench.project("set_source_files_properties(${APART}", f"{LEAN}set_source_files_properties(${{APART}}")
    bench.write(alone="static int here() { return 3; }\nint alone() { return ::here(); }\nint gone = here();\n")
    bench.build()
    assert bench.module.exists()
    assert "unity_both_cxx.cxx.o" in bench.objects(), "the unit is none of its business"
    assert len(bench.warnings) == 1
    assert bench.warnings[0].endswith(": alone.cpp")


@pytest.mark.parametrize("reproducible", [False, True])
def test_what_is_apart_is_remembered_of_a_user_s_own_folder(bench: Bench, *, reproducible: bool) -> None:
    """Its next build, under another key, does not fail first; a release's must not depend on what was built before."""
    bench.layer = replace(bench.layer, reproducible=reproducible)
    bench.write(two=CLASH)
    bench.build()
    shutil.move(bench.place.tree.parent, bench.root / "before")
    shutil.copytree(bench.root / "before" / "env", bench.place.env, symlinks=True)
    shutil.copytree(bench.root / "before" / "tree", bench.place.tree)
    (bench.place.tree / "alone.cpp").touch()
    bench.build()
    assert {"one.cpp.o", "two.cpp.o"} <= bench.objects().keys()
    assert len(bench.warnings) == (2 if reproducible else 1)


def test_a_source_that_is_gone_is_apart_no_longer(bench: Bench) -> None:
    """What is remembered is held against the folder as it is."""
    bench.layer = replace(bench.layer, reproducible=False)
    bench.place.apart.parent.mkdir(parents=True)
    bench.place.apart.write_text("one.cpp\ngone.cpp")
    bench.build()
    assert "gone.cpp" not in bench.log
    assert "one.cpp.o" in bench.objects()
    assert not bench.warnings


def test_an_error_in_a_unit_is_told_for_its_source(bench: Bench) -> None:
    """Taken apart, the source that is wrong is found, and the build ends; the unit is not to blame, and stays one."""
    bench.layer = replace(bench.layer, reproducible=False)
    bench.write(two="int two() { return here; }\n")
    with pytest.raises(BuildError) as caught:
        bench.build()
    assert "two.cpp:1" in caught.value.why
    assert len(bench.warnings) == 1
    bench.write(two=SOURCES["two.cpp"])
    bench.build()
    manifest = (bench.place.built / "build.ninja").read_text(encoding="utf-8")
    assert "unity_both_cxx.cxx.o" in manifest
    assert "/one.cpp.o" not in manifest
    assert not bench.place.apart.exists()
    assert len(bench.warnings) == 1


def test_an_error_in_a_source_that_is_apart_already_leaves_it_there(bench: Bench) -> None:
    """What compiled apart before does so again once it is mended."""
    bench.layer = replace(bench.layer, reproducible=False)
    bench.write(two=CLASH)
    bench.build()
    bench.write(two=CLASH.replace("part();", "here;"))
    with pytest.raises(BuildError, match=r"ext 2\.0 did not build"):
        bench.build()
    bench.write(two=CLASH)
    bench.build()
    assert {"one.cpp.o", "two.cpp.o"} <= bench.objects().keys()
    assert len(bench.warnings) == 1


def test_a_project_that_takes_nothing_apart_ends(bench: Bench) -> None:
    """One that does not heed APART fails once more, not for ever."""
    bench.project("set_source_files_properties(${APART}", "# (${APART}")
    bench.write(two=CLASH)
    with pytest.raises(BuildError) as caught:
        bench.build()
    assert "two.cpp:1" in caught.value.why


def test_a_killed_compiler_takes_nothing_apart(bench: Bench) -> None:
    """Out of memory is no fault of the sources: the next run tries the same units, so that the same comes out."""
    bench.compiler(KILLED)
    with pytest.raises(BuildError, match=r"ext 2\.0 did not build: out of memory") as caught:
        bench.build()
    assert "unity_both_cxx.cxx.o, alone" in caught.value.why
    assert "GiB may be used" in caught.value.why
    assert "swap" in caught.value.fix
    assert len(bench.warnings) == 1
    assert "carrying on with 1 at once instead of 2 (the recipe reckons with 0.5 GiB each)" in bench.warnings[0]
    assert bench.log.count("-j 1\n") == 1, "it is not tried for ever"


@pytest.mark.parametrize(
    "line",
    [
        "LLVM ERROR: out of memory",
        "ptxas fatal   : Memory allocation failure",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "/usr/bin/ld: final link failed: memory exhausted",
        "ld.lld: error: failed to open out.so: Cannot allocate memory",
        "cc1plus: out of memory allocating 65536 bytes after a total of 1 bytes",
        "nvcc error   : 'cicc' died due to signal 9 (Kill signal)",
    ],
)
def test_how_compilers_say_that_there_is_no_memory(line: str) -> None:
    """Under a limit on addresses nothing is killed."""
    assert cmake.KILLED.search(line)


@pytest.mark.parametrize(("room", "fewer"), [(2, ["2"]), (1, ["2", "1"])])
def test_where_compilers_are_killed_fewer_run_at_once(
    bench: Bench, tmp_path: Path, room: int, fewer: list[str]
) -> None:
    """However many are killed at once, the build carries on with half as many, and ends well."""
    bench.jobs = 4
    bench.project("UNITY_BUILD ON", "UNITY_BUILD OFF")
    bench.project("alone.cpp)", "alone.cpp last.cpp)")
    bench.write(last="int last() { return 5; }\n")
    running = tmp_path / "running"
    running.mkdir()
    bench.compiler(CROWDED.format(folder=running, room=room))
    bench.build()
    assert bench.module.exists()
    assert [warning.partition("carrying on with ")[2].split()[0] for warning in bench.warnings] == fewer
    assert "_ext.dir/" in bench.warnings[0], "the files are named"


def test_one_nvcc_for_several_architectures_is_told_by_a_variable(bench: Bench) -> None:
    """An option of its commands would make ninja compile again what is there, once the number is another."""
    assert "NVCC_APPEND_FLAGS" not in bench.task.environment()
    assert replace(bench.task, threads=3).environment()["NVCC_APPEND_FLAGS"] == "--threads 3"


def test_where_an_nvcc_is_killed_it_compiles_for_one_architecture_at_a_time(bench: Bench) -> None:
    """Even where it was alone; only then is memory said not to be enough."""
    bench.jobs = 1
    killing = '#!/bin/sh\ncase "$NVCC_APPEND_FLAGS $*" in --threads*_ext.dir*) kill -9 $$ ;; esac\nexec g++ "$@"\n'
    bench.compiler(killing)
    task = replace(bench.task, threads=2)
    configure(task)
    compile_project(task)
    assert bench.module.exists()
    assert len(bench.warnings) == 1


def test_a_project_of_ours_is_told_how_many_units_nvcc_compiles_at_once(bench: Bench) -> None:
    """Where that is known."""
    configure(bench.task)
    assert "NVCC_JOBS" not in read_cache(bench.place.built)
    shutil.rmtree(bench.place.built)
    configure(replace(bench.task, layer=replace(bench.layer, jobs=Jobs(total=8, nvcc=3))))
    assert read_cache(bench.place.built)["NVCC_JOBS"] == "3"


def test_a_build_whose_ninja_was_killed_carries_on(bench: Bench) -> None:
    """The kernel may pick ninja itself: what was compiled stays, the rest is compiled by fewer at once."""
    bench.project("UNITY_BUILD ON", "UNITY_BUILD OFF")
    killed: list[int] = []

    def kill(event: Event) -> None:
        bench.listen(event)
        if isinstance(event, BuildProgress) and event.done == 2 and not killed:
            ninjas = [each for each in psutil.Process().children() if each.name() == "ninja"]
            killed.extend(each.pid for each in ninjas)
            for each in ninjas:
                each.kill()

    configure(bench.task)
    compile_project(replace(bench.task, listener=kill))
    assert len(killed) == 1
    assert bench.module.exists()
    assert len(bench.warnings) == 1
    assert "ninja" in bench.warnings[0]
    totals = [event.total for event in bench.events if isinstance(event, BuildProgress)]
    assert min(totals) < totals[0] == 4, "what was done before is not done again"


def test_configuring_is_a_step_of_its_own(bench: Bench) -> None:
    """What was said then can be read again, and nothing is compiled yet; the second time nothing is done."""
    said = configure(bench.task)
    assert "Build files have been written" in said
    assert bench.objects() == {}
    assert configure(bench.task) == said
    assert bench.log.count("cmake -S") == 1


@pytest.mark.parametrize(
    ("versions", "flags", "has"),
    [("", {"SPEED": "O1"}, True), (">=2", {"SPEED": "O1"}, True), ("<2", {"SPEED": "O1"}, False), ("", {}, False)],
)
def test_a_project_is_for_some_releases_and_flags(
    bench: Bench, versions: str, flags: dict[str, str], *, has: bool
) -> None:
    """Of the recipe's releases and ways to build, those that the project names."""
    project = CMakeProject(file="CMakeLists.txt", when={"SPEED": "O1"}, versions=versions)
    layer = replace(bench.layer, flags=flags, recipe=replace(bench.layer.recipe, cmake=project))
    assert has_project(layer) is has
    assert not has_project(replace(layer, recipe=replace(layer.recipe, cmake=None)))


@pytest.fixture
def upstream(bench: Bench) -> Bench:
    """A project that its own setup.py configures."""
    project = CMakeProject(command=("setup.py", "configure"), folder="build", target="_ext", when={})
    bench.layer = replace(bench.layer, recipe=replace(bench.layer.recipe, cmake=project))
    (bench.place.tree / "setup.py").write_text(UPSTREAM, encoding="utf-8")
    extra = "add_library(unwanted MODULE unwanted.cpp)\n"
    (bench.place.tree / "CMakeLists.txt").write_text(PROJECT + extra, encoding="utf-8")
    bench.write(unwanted="#error nobody asked for this\n")
    return bench


def test_a_program_of_upstreams_may_configure(upstream: Bench) -> None:
    """It is run in the tree by the environment's Python; the target alone is compiled where it configured."""
    upstream.build()
    assert (upstream.place.tree / "build" / "_ext.so").exists()
    assert not upstream.place.built.exists()
    assert "-- what upstream says of its flags" in configure(upstream.task)


def test_a_unit_of_upstreams_is_not_taken_apart(upstream: Bench) -> None:
    """Its CMakeLists.txt knows nothing of that: the error is told, and nothing is tried again."""
    upstream.write(two=CLASH)
    with pytest.raises(BuildError) as caught:
        upstream.build()
    assert "two.cpp:1" in caught.value.why
    assert upstream.warnings == []


def test_a_program_that_configures_elsewhere_is_told(upstream: Bench) -> None:
    """A recipe that names the wrong folder is not compiled from nothing."""
    script = upstream.place.tree / "setup.py"
    script.write_text(UPSTREAM.replace('"build"', '"other"'), encoding="utf-8")
    with pytest.raises(BuildError, match="was not configured") as caught:
        upstream.build()
    assert "`setup.py configure` left no build.ninja" in caught.value.why


@pytest.fixture
def library(bench: Bench) -> Bench:
    """A project of the tree's own, which its CMakeLists.txt alone describes."""
    definitions = {"CMAKE_INSTALL_PREFIX": "{built}/prefix", "OWN_PYTHON": "{python}", "PART": "two"}
    project = CMakeProject(definitions=definitions, folder="build", target="install", when={})
    flags = {"SPEED": "O1", "PART": "one", "EMPTY": ""}
    bench.layer = replace(bench.layer, flags=flags, recipe=replace(bench.layer.recipe, cmake=project))
    (bench.place.tree / "CMakeLists.txt").write_text(LIBRARY, encoding="utf-8")
    for name, file in (("headers", "given.h"), ("first", "none"), ("second/include", "found.txt")):
        (bench.root / name).mkdir(parents=True)
        (bench.root / name / file).touch()
    bench.write(alone='#include "given.h"\nint alone() { return 3; }\n', unwanted="#error nobody asked for this\n")
    return bench


def test_the_tree_s_own_project_is_told_flags_and_definitions(library: Bench) -> None:
    """Flags without a value are left to it, definitions go before flags; what it installs is in its folder."""
    bench = library
    given = {
        "CMAKE_CXX_STANDARD_INCLUDE_DIRECTORIES": f"{bench.root / 'headers'};{bench.root / 'first'}",
        "CMAKE_PREFIX_PATH": f"{bench.root / 'first'}:{bench.root / 'second'}",
    }
    task = replace(bench.task, variables=given)
    said = configure(task)
    compile_project(task)
    assert f"SPEED is 'O1', PART is 'two', Python is {bench.place.env / 'bin' / 'python'}" in said
    assert (bench.place.tree / "build" / "prefix" / "lib" / "libalone.so").exists()
    assert not bench.place.built.exists()
    assert task.filled({"X": "{built}/prefix"}) == {"X": str(bench.place.tree / "build" / "prefix")}


def test_a_unit_of_the_tree_s_own_project_is_not_taken_apart(library: Bench) -> None:
    """It knows nothing of that: the error is told, and nothing is tried again."""
    with pytest.raises(BuildError, match=r"ext 2\.0 did not build") as caught:
        library.build()
    assert "found.txt" in caught.value.why
    assert library.warnings == []


def test_the_next_build_knows_how_long_each_file_took(bench: Bench) -> None:
    """A build that reached its end remembers the seconds of all that it made."""
    bench.build()
    timings = json.loads((bench.root / "timings" / "ext.json").read_text(encoding="utf-8"))
    assert {"_ext.so", "CMakeFiles/_ext.dir/alone.cpp.o"} <= timings.keys()
    last = [event for event in bench.events if isinstance(event, BuildProgress)][-1]
    assert last.share == 1.0


def test_a_build_that_failed_remembers_nothing(bench: Bench) -> None:
    """Its times would be those of a part."""
    bench.write(alone="int alone() { return here; }\n")
    with pytest.raises(BuildError):
        bench.build()
    assert not (bench.root / "timings").exists()


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ('file(DOWNLOAD http://files.invalid/six.py "${CMAKE_BINARY_DIR}/six.py" STATUS ignored)', "files.invalid/six"),
        ('file(DOWNLOAD https://files.invalid/six.py "${CMAKE_BINARY_DIR}/six.py")', "files.invalid:443"),
        ("fetch(URL https://files.invalid/six.tar.gz)", "files.invalid:443"),
        ("fetch(GIT_REPOSITORY ssh://git@files.invalid/six.git GIT_TAG 1.0)", "transport 'ssh' not allowed"),
    ],
)
def test_configuring_downloads_nothing(bench: Bench, lines: str, named: str) -> None:
    """Whoever tries ends the build, even one that would not mind that it failed; the address is named."""
    fetch = (
        "include(FetchContent)\nmacro(fetch)\nFetchContent_Declare(six ${ARGV})\n"
        "FetchContent_MakeAvailable(six)\nendmacro()\n"
    )
    bench.project("add_library", f"{fetch}{lines}\nadd_library")
    with pytest.raises(GateError, match=r"ext 2\.0 wants to download something while it is built") as caught:
        bench.build()
    assert named in caught.value.why
    assert "part of the source" in caught.value.fix
    assert not (bench.place.built / ".configured").exists()


def test_compiling_downloads_nothing(bench: Bench) -> None:
    """Nor does what a build runs to make its sources."""
    text = "from contextlib import suppress\nfrom urllib.request import urlopen\n"
    text += 'with suppress(OSError):\n    urlopen("http://files.invalid/table")\n'
    (bench.place.tree / "make_table.py").write_text(text, encoding="utf-8")
    bench.project("add_library", 'add_custom_command(OUTPUT t COMMAND "${Python_EXECUTABLE}" make_table.py\n'
        'WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")\nadd_custom_target(table ALL DEPENDS t)\nadd_library')  # fmt: skip
    with pytest.raises(GateError) as caught:
        bench.build()
    assert "http://files.invalid/table" in caught.value.why


def test_what_is_here_may_be_fetched(bench: Bench, tmp_path: Path) -> None:
    """A dependency that is a folder of the source, and a message about downloads, are no downloads."""
    (tmp_path / "six").mkdir()
    (tmp_path / "six" / "CMakeLists.txt").write_text("add_custom_target(six)\n", encoding="utf-8")
    bench.project("add_library", 'message(STATUS "Downloading is OFF, http://files.invalid is not asked")\n'
        f'include(FetchContent)\nFetchContent_Declare(six URL "{tmp_path / "six"}")\n'
        "FetchContent_MakeAvailable(six)\nadd_library")  # fmt: skip
    bench.build()
    assert bench.module.exists()
