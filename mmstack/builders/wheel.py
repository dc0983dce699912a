"""PEP 517: a source tree's own build backend makes the wheel, in an environment that holds all it needs."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmstack.diagnose import first_error
from mmstack.envs import python_of, uv_path
from mmstack.errors import BuildError, CommandError
from mmstack.events import BuildProgress
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from mmstack.events import Listener
    from mmstack.model import Compiler, LayerPlan, Step

PROGRESS = re.compile(r"^\[(\d+)/(\d+)\] ")


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where one layer is built: the patched tree, its environment, the wheel, a private HOME and the log."""

    tree: Path
    env: Path
    out: Path
    home: Path
    log: Path


def build_wheel(
    layer: LayerPlan, place: Workplace, *, compiler: Compiler | None, jobs: int, step: Step, listener: Listener
) -> Path:
    """Build a layer's wheel and return it; a build that was stopped carries on in the same tree.

    Raises:
        BuildError: the backend failed, or made something other than one wheel.
    """
    if place.out.exists():
        return _only_wheel(layer, place)
    fresh = place.out.with_name("out.new")
    shutil.rmtree(fresh, ignore_errors=True)

    def watch(line: str) -> None:
        if match := PROGRESS.match(line):
            listener(BuildProgress(step=step, done=int(match[1]), total=int(match[2])))

    words: list[str | Path] = [uv_path(), "build", "--wheel", "--no-build-isolation", "--python", python_of(place.env)]
    try:
        run(
            [*words, "--out-dir", fresh, place.tree],
            env=_environment(layer, place, compiler, jobs),
            log=place.log,
            on_line=watch,
        )
    except CommandError as error:
        raise _build_error(layer, place, error) from error
    fresh.replace(place.out)
    return _only_wheel(layer, place)


def _environment(layer: LayerPlan, place: Workplace, compiler: Compiler | None, jobs: int) -> dict[str, str]:
    extra = {name: value.replace("{jobs}", str(jobs)) for name, value in layer.environment.items()}
    if compiler is not None:
        extra |= {"CC": str(compiler.cc), "CXX": str(compiler.cxx)}
    return scrubbed(
        place.home,
        {
            "PATH": f"{place.env / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": str(place.env),
            "PYTHONHASHSEED": "0",
            "SOURCE_DATE_EPOCH": str(newest_time(place.tree)),
            "UV_NO_CONFIG": "1",
            "UV_NO_CACHE": "1",
            "UV_OFFLINE": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            **extra,
        },
    )


def newest_time(tree: Path) -> int:
    """Return the tree's date, in seconds since the epoch: that of its setup file, which no build rewrites."""
    for name in ("PKG-INFO", "pyproject.toml", "setup.py"):
        if (tree / name).exists():
            return int((tree / name).stat().st_mtime)
    return int(tree.stat().st_mtime)


def _only_wheel(layer: LayerPlan, place: Workplace) -> Path:
    wheels = list(place.out.glob("*.whl"))
    if len(wheels) != 1:
        raise BuildError(
            f"the build of {layer.name} made {len(wheels)} wheels instead of one", argv=(), status=0, log=place.log
        )
    return wheels[0]


def _build_error(layer: LayerPlan, place: Workplace, error: CommandError) -> BuildError:
    lines = Path(place.log).read_text(encoding="utf-8", errors="replace").splitlines()
    return BuildError(
        f"{layer.name} {layer.version} did not build",
        argv=error.argv,
        status=error.status,
        log=place.log,
        why=first_error(lines) or error.why,
        fix=f"read {place.log}; mend the cause and run the same command again, it carries on from there",
    )
