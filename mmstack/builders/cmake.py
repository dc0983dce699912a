"""CMake: what a layer compiles, by the project beside its recipe, with the cmake and ninja of its environment."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from mmstack.envs import python_of
from mmstack.errors import BuildError
from mmstack.events import Notice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmstack.builders.build import Build

CONFIGURED = ".configured"  # set last, and holds what is compiled apart: a half-written cache is not to be trusted
KILLED = re.compile(r"\bKilled\b")
FAILED_UNIT = re.compile(r"^FAILED: (?:\[code=\d+\] )?(\S*/Unity/unity_\w+\.\w+)\.o\b")
INCLUDED = re.compile(r'^#include "(.+)"$', re.MULTILINE)


def build_project(build: Build) -> None:
    """Compile a layer's CMake project, where its recipe has one for these flags; one that was stopped carries on.

    A unit that CMake put together of several sources and that does not compile is taken apart, and a warning says so.

    Raises:
        BuildError: it cannot be configured, or a source does not compile by itself.
    """
    project, place = build.layer.recipe.cmake, build.place
    if project is None or not project.when.items() <= build.layer.flags.items() or place.out.exists():
        return
    shutil.copyfile(build.layer.recipe.folder / project.file, place.tree / "CMakeLists.txt")
    marker = place.built / CONFIGURED
    if not marker.exists():
        shutil.rmtree(place.built, ignore_errors=True)
        _configure(build, ())
    while failed := _compile(build):
        names = ", ".join(name.rpartition("/")[2] for name in failed)
        text = f"{build.layer.name}: these do not compile as one unit, so each is compiled apart: {names}"
        build.listener(Notice(text=text, level="warning"))
        _configure(build, [*marker.read_text(encoding="utf-8").splitlines(), *failed])


def _configure(build: Build, apart: Sequence[str]) -> None:
    place, tools = build.place, build.place.env / "bin"
    build.run(
        tools / "cmake",
        *("-S", place.tree, "-B", place.built, "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}",
        f"-DPython_EXECUTABLE={python_of(place.env)}",
        f"-DAPART={';'.join(apart)}",
    )
    (place.built / CONFIGURED).write_text("\n".join(apart), encoding="utf-8")


def _compile(build: Build) -> list[str]:
    """Compile all that is not yet; return the sources of units that failed and can be taken apart."""
    place, lines = build.place, list[str]()
    try:
        build.run(place.env / "bin" / "ninja", "-C", place.built, "-j", str(build.jobs), on_line=lines.append)
    except BuildError as error:
        units = [place.built / match[1] for match in map(FAILED_UNIT.match, lines) if match]
        sources = [name for unit in units for name in INCLUDED.findall(unit.read_text(encoding="utf-8"))]
        known = (place.built / CONFIGURED).read_text(encoding="utf-8").splitlines()
        if KILLED.search(error.why) or set(sources) <= set(known):
            raise
        return sources
    return []
