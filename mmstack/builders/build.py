"""What every way to build shares: where a layer is built, the environment it is built in, progress and failure."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmstack.builders.offline import guard
from mmstack.diagnose import first_error
from mmstack.envs import python_of
from mmstack.errors import BuildError, CommandError
from mmstack.events import BuildProgress
from mmstack.run import run, scrubbed
from mmstack.toolchains.linkers import flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mmstack.events import Listener
    from mmstack.model import Compiler, LayerPlan, Step

PROGRESS = re.compile(r"^\[(\d+)/(\d+)\] ")


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where one layer is built: the patched tree, its environment, what is compiled, the wheel, a HOME, the log.

    `sysroot` holds what of a distribution it is built against, `nvidia` NVIDIA's libraries out of wheels; `timings`
    remembers how long each of its files took, for the next build's estimate, and `apart` which of them do not compile
    together.
    """

    tree: Path
    env: Path
    built: Path
    out: Path
    home: Path
    log: Path
    sysroot: Path
    timings: Path

    @property
    def nvidia(self) -> Path:
        """Return where NVIDIA's libraries lie for what is compiled against them, each in a folder of its name."""
        return self.tree.with_name("nvidia")

    @property
    def apart(self) -> Path:
        """Return where the sources of a layer are named that do not compile together."""
        return self.timings.with_suffix(".apart")


@dataclass(frozen=True, kw_only=True)
class Build:
    """One layer's build: what is built where and with what, and who is told how far it is.

    `variables` and folders of `programs` are those of the toolchain, for a layer that is compiled for GPUs. One nvcc
    compiles for `threads` architectures at once.
    """

    layer: LayerPlan
    place: Workplace
    compiler: Compiler | None
    jobs: int
    step: Step
    listener: Listener
    variables: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[Path, ...] = ()
    threads: int = 1

    @property
    def title(self) -> str:
        """Return what is built, as users know it."""
        return f"{self.layer.name} {self.layer.version}"

    @property
    def folder(self) -> Path:
        """Return where the layer's CMake project is configured: in the tree, if that is the tree's own."""
        project = self.layer.recipe.cmake
        return self.place.tree / project.folder if project and project.folder else self.place.built

    def run(
        self,
        *words: str | Path,
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        logged: bool = True,
    ) -> str:
        """Run a command in the build's environment and return its output.

        Without `on_line` to read them, lines such as `[3/9] …` are its progress.

        Raises:
            BuildError: it failed; the first error in its output is the reason.
            GateError: it tried to download something.
        """
        read = on_line or self._tell
        log = self.place.log if logged else None
        with guard() as offline:

            def watch(line: str) -> None:
                offline.read(line)
                read(line)

            environment = {**self.environment(), **offline.variables}
            try:
                output = run(words, env=environment, cwd=cwd, log=log, on_line=watch).output
            except CommandError as error:
                offline.check(self.title)
                raise self._failed(error) from error
            offline.check(self.title)
            return output

    def _tell(self, line: str) -> None:
        if match := PROGRESS.match(line):
            done, total = int(match[1]), int(match[2])
            self.listener(BuildProgress(step=self.step, done=done, total=total, share=done / max(total, 1)))

    def environment(self) -> dict[str, str]:
        """Return the variables of the build: few of the user's, those that hold it still, and the recipe's."""
        extra = {**self.filled(self.layer.environment), **self.variables}
        if self.compiler is not None:
            extra |= {"CC": str(self.compiler.cc), "CXX": str(self.compiler.cxx)}
            if linked := flags(self.compiler.linker):
                extra["LDFLAGS"] = f"{linked} {extra.get('LDFLAGS', '')}".rstrip()
        if self.threads > 1:  # no option of a command: what is compiled already would be compiled again by another one
            extra["NVCC_APPEND_FLAGS"] = f"--threads {self.threads}"
        if "CCACHE_DIR" not in extra:  # one that stands in for the compiler on PATH was not asked for
            extra["CCACHE_DISABLE"] = "1"
        folders = (self.place.env / "bin", *self.programs)
        return scrubbed(
            self.place.home,
            {
                "PATH": os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)]),
                "VIRTUAL_ENV": str(self.place.env),
                "PYTHONHASHSEED": "0",
                # a repository around the state is not the tree's
                "GIT_CEILING_DIRECTORIES": str(self.place.tree.parent),
                "SOURCE_DATE_EPOCH": str(newest_time(self.place.tree)),
                "UV_NO_CONFIG": "1",
                "UV_NO_CACHE": "1",
                "UV_OFFLINE": "1",
                "UV_PYTHON_DOWNLOADS": "never",
                **extra,
            },
        )

    def filled(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return a recipe's values with what only the build knows: `{jobs}`, `{built}` and the like."""
        words = {
            "{jobs}": str(self.jobs),
            "{built}": str(self.folder),
            "{python}": str(python_of(self.place.env)),
            "{local_version}": self.layer.local_version,
            "{nvidia}": str(self.place.nvidia),
        }
        return {name: _filled(value, words) for name, value in values.items()}

    def _failed(self, error: CommandError) -> BuildError:
        text = error.log.read_text(encoding="utf-8", errors="replace") if error.log else error.why
        return BuildError(
            f"{self.title} did not build",
            argv=error.argv,
            status=error.status,
            log=error.log,
            why=first_error(text.splitlines()) or error.why,
            fix=f"read {self.place.log}; mend the cause and run the same command again, it carries on from there",
        )


@contextmanager
def unfinished(place: Workplace) -> Iterator[None]:
    """Mark a build as begun until it ends well; after one that did not, remove what that may have left half written.

    A copy that a full disk or `kill -9` cut short is newer than its source, so setuptools takes it for whole; and
    Python takes bytecode for valid by its first bytes. What ninja makes it checks itself.
    """
    mark = place.out.with_name("unfinished")
    if mark.exists():
        remove_staged(place.tree)
        for folder in place.env.rglob("__pycache__"):
            shutil.rmtree(folder, ignore_errors=True)
    mark.touch()
    yield
    mark.unlink()


def remove_staged(tree: Path) -> None:
    """Remove what setuptools has copied to be packed; what it has compiled stays."""
    staged = [*tree.glob("build/lib.*"), *tree.glob("build/bdist.*")]
    if not (tree / "build" / "CMakeCache.txt").exists():  # there it is where ninja links to
        staged.append(tree / "build" / "lib")
    for folder in staged:
        shutil.rmtree(folder, ignore_errors=True)


def newest_time(tree: Path) -> int:
    """Return the tree's date, in seconds since the epoch: that of its setup file, which no patch or build rewrites."""
    for name in ("PKG-INFO", "pyproject.toml", "setup.py", "CMakeLists.txt"):
        if (tree / name).exists():
            return int((tree / name).stat().st_mtime)
    return int(tree.stat().st_mtime)


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text
