"""CMake: what a layer compiles before its wheel is made, with the cmake and ninja of its environment."""

from __future__ import annotations

import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmstack.builders.progress import NINJA_LOG, estimate, recording, remember
from mmstack.envs import python_of
from mmstack.errors import BuildError
from mmstack.events import Notice
from mmstack.host import memory
from mmstack.jobs import memory_per_job
from mmstack.words import gib, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mmstack.builders.build import Build, Workplace

CONFIGURED = ".configured"  # set last, and holds what is compiled apart: a half-written cache is not to be trusted
CONFIGURE_LOG = "configure.log"
MANIFEST = "build.ninja"
CACHED = re.compile(r"^([\w.+-]+):[A-Z]+=(.*)$", re.MULTILINE)
FAILED = re.compile(r"^FAILED: (?:\[code=(\d+)\] )?(\S+)")
# what CMake calls an object: by its source's place in the tree, a unit by its own in the build folder
FAILED_OBJECT = re.compile(r"^FAILED: (?:\[code=\d+\] )?((\S*?)CMakeFiles/[^/]+\.dir/(\S+))\.o\b")
INCLUDED = re.compile(r'^#include "(.+)"$', re.MULTILINE)
# How a compiler that the kernel killed is told of, or one that was refused memory.
KILLED = re.compile(
    r"""
      ^\S+:\ (?:fatal\ )?error:\ Killed\ signal\ terminated\ program   # gcc
    | ^\S+:\ error:\ unable\ to\ execute\ command:\ Killed             # clang
    | ^collect2:\ .*terminated\ with\ signal\ 9\b                      # the linker
    | \bdied\ due\ to\ signal\ 9\b                                     # nvcc
    | \bsignal:\ 9\ \(SIGKILL\)                                        # sccache
    | ^(?:\S+:\ )?(?:line\ \d+:\ +)?(?:\d+\ )?Killed\b(?!:)            # the shell
    | \bout\ of\ memory\ allocating\ \d+\ bytes | \bvirtual\ memory\ exhausted\b
    | ^LLVM\ ERROR:\ out\ of\ memory | ^ptxas\ fatal\s*:\ Memory\ allocation\ failure
    | ^terminate\ called\ after\ throwing\ an\ instance\ of\ 'std::bad_alloc'
    | \bld(?:\.\w+)?:\ .*(?:memory\ exhausted|Cannot\ allocate\ memory)
    """,
    re.VERBOSE,
)
KILL_STATUS = str(128 + signal.SIGKILL)
SHOWN = 3


def configure(build: Build) -> str:
    """Configure a layer's CMake project, unless it is already, and return all that was said.

    Raises:
        BuildError: it cannot be configured, or the program for it makes no `build.ninja` where it should.
        GateError: it tried to download something.
    """
    folder, log = build.folder, build.place.tree.with_name(CONFIGURE_LOG)
    if not (folder / CONFIGURED).exists():
        shutil.rmtree(folder, ignore_errors=True)
        apart = _remembered(build)
        log.write_text(_configure(build, apart), encoding="utf-8")
        _mark(build, apart)
    return log.read_text(encoding="utf-8")


def compile_project(build: Build) -> None:
    """Compile a configured project; one that was stopped carries on.

    Where compilers are killed for want of memory, fewer are run at once, and a warning says so. So it does where what
    our CMakeLists.txt makes of sources, units or single ones, does not compile twice, and they are compiled apart. Of a
    user's own folder that is remembered for its next build, which has another key. What does not compile apart either
    is wrong by itself, and all is put together again.

    Raises:
        BuildError: a source does not compile by itself, or takes more memory than there is.
        GateError: it tried to download something.
    """
    folder, jobs = build.folder, build.jobs
    once: set[str] = set()
    while True:
        lines: list[str] = []
        try:
            _compile(build, jobs, lines)
            break
        except BuildError as error:
            if killed := _killed(error, lines):
                build, jobs = replace(build, threads=1), _fewer(build, jobs, killed, error)
            elif not _tried_again(build, _not_compiled(build, lines), once):
                raise
    remember(build, folder / NINJA_LOG)
    _remember_apart(build)


def taken_apart(place: Workplace) -> list[str]:
    """Return the sources that were compiled apart where a project of our own puts them together."""
    file = place.built / CONFIGURED
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def read_cache(folder: Path) -> dict[str, str]:
    """Return the variables of the cache of a configured project, by name."""
    return dict(CACHED.findall((folder / "CMakeCache.txt").read_text(encoding="utf-8", errors="replace")))


def _configure(build: Build, apart: Sequence[str]) -> str:
    place, tools, project = build.place, build.place.env / "bin", build.layer.recipe.cmake
    assert project is not None  # noqa: S101 - the graph has this step for no other layer
    if project.command:
        output = build.run(python_of(place.env), *project.command, cwd=place.tree)
        if not (build.folder / MANIFEST).exists():
            words = " ".join(project.command)
            raise BuildError(
                f"{build.title} was not configured",
                argv=project.command,
                status=0,
                log=place.log,
                why=f"`{words}` left no {MANIFEST} in {build.folder}",
                fix="correct `command` or `folder` of the recipe's CMake project",
            )
        return output
    if project.file:
        shutil.copyfile(build.layer.recipe.folder / project.file, place.tree / "CMakeLists.txt")
        told = {"APART": ";".join(apart)}
        if nvcc := build.layer.jobs.nvcc:
            told["NVCC_JOBS"] = str(nvcc)
    else:
        told = {name: value for name, value in build.layer.flags.items() if value} | build.filled(project.definitions)
    # search paths CMake takes from the environment itself, where they are joined as there
    ours = {
        name: value
        for name, value in build.variables.items()
        if name.startswith("CMAKE_") and not name.endswith("_PATH")
    }
    known = {"CMAKE_MAKE_PROGRAM": tools / "ninja", "Python_EXECUTABLE": python_of(place.env)}
    return build.run(
        tools / "cmake",
        *("-S", place.tree, "-B", build.folder, "-G", "Ninja"),
        *(f"-D{name}={value}" for name, value in {**known, **ours, **told}.items()),
    )


def _compile(build: Build, jobs: int, lines: list[str]) -> None:
    """Compile all that is not yet, and tell how far it is."""
    project, folder = build.layer.recipe.cmake, build.folder
    ninja = (build.place.env / "bin" / "ninja", "-C", folder)
    target = (project.target,) if project and project.target else ()
    # a dry run of a project that has to configure itself again would list that alone
    build.run(*ninja, "-j", str(jobs), MANIFEST, on_line=lines.append)
    progress = estimate(build, build.run(*ninja, "-n", *target, on_line=lambda _line: None, logged=False))

    def follow(line: str) -> None:
        lines.append(line)
        if (event := progress.read(line, build.step)) is not None:
            build.listener(event)

    with recording(build):
        build.run(*ninja, "-j", str(jobs), *target, on_line=follow)


def _killed(error: BuildError, lines: Sequence[str]) -> list[str]:
    """Return what was being made when its compiler was killed; `ninja` where that was ninja itself."""
    found, current = ["ninja"] if error.status == -signal.SIGKILL else [], ""
    for line in lines:
        if match := FAILED.match(line):
            current = match[2]
            if match[1] == KILL_STATUS:
                found.append(current)
        elif current and KILLED.search(line):
            found.append(current)
    return list(dict.fromkeys(found))


def _fewer(build: Build, jobs: int, killed: Sequence[str], error: BuildError) -> int:
    """Return how many compilers to run at once from now on.

    Raises:
        BuildError: one alone was killed.
    """
    names = listed(killed[:SHOWN], len(killed))
    if jobs == build.threads == 1:
        import psutil  # noqa: PLC0415 - for this alone, and all that plans imports this module

        free = psutil.virtual_memory().available
        raise BuildError(
            f"{build.title} did not build: out of memory",
            argv=error.argv,
            status=error.status,
            log=error.log,
            why=f"memory was not enough for {names}, alone: {gib(memory())} may be used, {gib(free)} are free now",
            fix="give it more memory or swap, or leave out what is so large; the next run carries on from there",
        ) from error
    each, fewer = memory_per_job(build.layer), max(1, jobs // 2)
    text = f"{build.layer.name}: killed for want of memory: {names}; carrying on with {fewer} at once instead of {jobs}"
    build.listener(Notice(text=f"{text} (the recipe reckons with {gib(each)} each)", level="warning"))
    return fewer


def _tried_again(build: Build, failed: Sequence[str], once: set[str]) -> bool:
    """Have sources that failed compiled once more, then apart, and return whether there was anything to try.

    A compiler that crashes once must not change what comes out.
    """
    apart = taken_apart(build.place)
    if set(failed) & set(apart):
        if (before := _remembered(build)) != apart:
            _configure_apart(build, before)
        return False
    if twice := once.intersection(failed):
        text = "these do not compile as the project has them, so each is compiled apart, and the wheel is marked as"
        build.listener(Notice(text=f"{build.layer.name}: {text} not reproducible: {_names(twice)}", level="warning"))
        _configure_apart(build, sorted(twice.union(apart)))
    elif failed:
        build.listener(Notice(text=f"{build.layer.name}: these did not compile, and are tried again: {_names(failed)}"))
    once.update(failed)
    return bool(failed)


def _names(sources: Iterable[str]) -> str:
    return ", ".join(sorted(name.rpartition("/")[2] for name in sources))


def _not_compiled(build: Build, lines: Sequence[str]) -> list[str]:
    """Return the sources that failed, of a unit all; of our own projects, which alone can compile them apart."""
    project, folder = build.layer.recipe.cmake, build.folder
    if project is None or not project.file:
        return []
    sources: list[str] = []
    for unit, below, source in (match.groups() for match in map(FAILED_OBJECT.match, lines) if match):
        if (folder / unit).exists():
            sources += INCLUDED.findall((folder / unit).read_text(encoding="utf-8"))
        elif (single := build.place.tree / below / source).exists():
            sources.append(str(single))
    return sources


def _configure_apart(build: Build, apart: Sequence[str]) -> None:
    """Configure it so; stopped meanwhile, it counts as taking apart what it did before and what it should."""
    _mark(build, sorted({*taken_apart(build.place), *apart}))
    _configure(build, apart)
    _mark(build, apart)


def _mark(build: Build, apart: Sequence[str]) -> None:
    """Set the mark of a configured project: what it takes apart."""
    mark = build.folder / CONFIGURED
    new = mark.with_name(f"{mark.name}.new")
    new.write_text("\n".join(apart), encoding="utf-8")
    new.replace(mark)


def _remember_apart(build: Build) -> None:
    """Remember it where a build is not reproducible anyway: elsewhere the same key would give other bits."""
    tree, file = build.place.tree, build.place.apart
    if (apart := taken_apart(build.place)) and not build.layer.reproducible:
        file.write_text("\n".join(Path(name).relative_to(tree).as_posix() for name in apart), encoding="utf-8")


def _remembered(build: Build) -> list[str]:
    if build.layer.reproducible or not build.place.apart.exists():
        return []
    sources = [build.place.tree / name for name in build.place.apart.read_text(encoding="utf-8").splitlines()]
    return [str(source) for source in sources if source.exists()]
