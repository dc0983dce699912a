"""What every way to build shares: where a layer is built, the environment it is built in, progress and failure."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmstack.diagnose import first_error
from mmstack.errors import BuildError, CommandError
from mmstack.events import BuildProgress
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mmstack.events import Listener
    from mmstack.model import Compiler, LayerPlan, Step

PROGRESS = re.compile(r"^\[(\d+)/(\d+)\] ")


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where one layer is built: the patched tree, its environment, what is compiled, the wheel, a HOME, the log."""

    tree: Path
    env: Path
    built: Path
    out: Path
    home: Path
    log: Path


@dataclass(frozen=True, kw_only=True)
class Build:
    """One layer's build: what is built where and with what, and who is told how far it is.

    `variables` and folders of `programs` are those of the toolchain, for a layer that is compiled for GPUs.
    """

    layer: LayerPlan
    place: Workplace
    compiler: Compiler | None
    jobs: int
    step: Step
    listener: Listener
    variables: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[Path, ...] = ()

    def run(self, *words: str | Path, on_line: Callable[[str], None] | None = None) -> None:
        """Run a command in the build's environment; lines such as `[3/9] …` are its progress.

        Raises:
            BuildError: it failed; the first error in its output is the reason.
        """

        def watch(line: str) -> None:
            if match := PROGRESS.match(line):
                self.listener(BuildProgress(step=self.step, done=int(match[1]), total=int(match[2])))
            if on_line is not None:
                on_line(line)

        try:
            run(words, env=self.environment(), log=self.place.log, on_line=watch)
        except CommandError as error:
            raise self._failed(error) from error

    def environment(self) -> dict[str, str]:
        """Return the variables of the build: few of the user's, those that hold it still, and the recipe's."""
        words = {
            "{jobs}": str(self.jobs),
            "{built}": str(self.place.built),
            "{local_version}": self.layer.local_version,
        }
        extra = {name: _filled(value, words) for name, value in self.layer.environment.items()} | dict(self.variables)
        if self.compiler is not None:
            extra |= {"CC": str(self.compiler.cc), "CXX": str(self.compiler.cxx)}
        folders = (self.place.env / "bin", *self.programs)
        return scrubbed(
            self.place.home,
            {
                "PATH": os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)]),
                "VIRTUAL_ENV": str(self.place.env),
                "PYTHONHASHSEED": "0",
                "SOURCE_DATE_EPOCH": str(newest_time(self.place.tree)),
                "UV_NO_CONFIG": "1",
                "UV_NO_CACHE": "1",
                "UV_OFFLINE": "1",
                "UV_PYTHON_DOWNLOADS": "never",
                **extra,
            },
        )

    def _failed(self, error: CommandError) -> BuildError:
        lines = self.place.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return BuildError(
            f"{self.layer.name} {self.layer.version} did not build",
            argv=error.argv,
            status=error.status,
            log=self.place.log,
            why=first_error(lines) or error.why,
            fix=f"read {self.place.log}; mend the cause and run the same command again, it carries on from there",
        )


def newest_time(tree: Path) -> int:
    """Return the tree's date, in seconds since the epoch: that of its setup file, which no build rewrites."""
    for name in ("PKG-INFO", "pyproject.toml", "setup.py"):
        if (tree / name).exists():
            return int((tree / name).stat().st_mtime)
    return int(tree.stat().st_mtime)


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text
