"""PEP 517: a source tree's own build backend makes the wheel, in an environment that holds all it needs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from mmstack.envs import python_of, uv_path
from mmstack.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

    from mmstack.builders.build import Build


def build_wheel(build: Build) -> Path:
    """Build a layer's wheel and return it; a build that was stopped carries on in the same tree.

    Raises:
        BuildError: the backend failed, or made something other than one wheel.
    """
    place = build.place
    if not place.out.exists():
        fresh = place.out.with_name("out.new")
        shutil.rmtree(fresh, ignore_errors=True)
        words: list[str | Path] = [uv_path(), "build", "--wheel", "--no-build-isolation"]
        build.run(*words, "--python", python_of(place.env), "--out-dir", fresh, place.tree)
        fresh.replace(place.out)
    wheels = list(place.out.glob("*.whl"))
    if len(wheels) != 1:
        raise BuildError(
            f"the build of {build.layer.name} made {len(wheels)} wheels instead of one",
            argv=(),
            status=0,
            log=place.log,
        )
    return wheels[0]
