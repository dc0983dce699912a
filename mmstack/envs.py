"""Isolated environments, made by uv from wheels that are already here and hash-pinned; no network."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import parse_wheel_filename
from uv import find_uv_bin

from mmstack.run import run, scrubbed
from mmstack.store import link_or_copy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmstack.model import Interpreter

MARKER = ".complete"


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel on this disk, with the digest that it must have."""

    path: Path
    sha256: str

    def line(self) -> str:
        """Return it as one line of a hash-pinned requirements file."""
        name, version, *_ = parse_wheel_filename(self.path.name)
        return f"{name}=={version} --hash=sha256:{self.sha256}"


def uv_path() -> Path:
    """Return the uv that this project is pinned to."""
    return Path(find_uv_bin())


def python_of(env: Path) -> Path:
    """Return an environment's interpreter."""
    return env / "bin" / "python"


def site_packages(env: Path, interpreter: Interpreter) -> Path:
    """Return where an environment keeps its packages."""
    return env / "lib" / f"python{interpreter.minor}" / "site-packages"


class Environments:
    """Makes environments; `cache` is uv's, so that a wheel is unpacked once and linked from then on."""

    def __init__(self, cache: Path, home: Path) -> None:
        self.cache = cache
        self.home = home

    def make(self, env: Path, interpreter: Interpreter, wheels: Sequence[Wheel], *, log: Path | None = None) -> None:
        """Make an environment that holds exactly these wheels, unless it is whole already."""
        if (env / MARKER).exists():
            return
        shutil.rmtree(env, ignore_errors=True)
        env.parent.mkdir(parents=True, exist_ok=True)
        self._uv("venv", "--quiet", "--relocatable", "--python", interpreter.path, env, log=log)
        if wheels:
            with self._wheelhouse(wheels) as (folder, requirements):
                self._uv(
                    "pip",
                    "install",
                    "--python",
                    python_of(env),
                    "--no-index",
                    "--find-links",
                    folder,
                    "--no-deps",
                    "--require-hashes",
                    "--requirement",
                    requirements,
                    log=log,
                )
        (env / MARKER).touch()

    def check(self, env: Path, *, log: Path | None = None) -> None:
        """Demand that every installed distribution finds what its metadata requires."""
        self._uv("pip", "check", "--python", python_of(env), log=log)

    @contextmanager
    def _wheelhouse(self, wheels: Sequence[Wheel]) -> Iterator[tuple[Path, Path]]:
        self.home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.home, prefix="wheelhouse-") as name:
            folder = Path(name)
            for wheel in wheels:
                link_or_copy(wheel.path, folder / wheel.path.name)
            requirements = folder / "requirements.txt"
            requirements.write_text("".join(f"{wheel.line()}\n" for wheel in wheels), encoding="utf-8")
            yield folder, requirements

    def _uv(self, *words: str | Path, log: Path | None) -> None:
        env = scrubbed(
            self.home,
            {
                "UV_CACHE_DIR": str(self.cache),
                "UV_NO_CONFIG": "1",
                "UV_OFFLINE": "1",
                "UV_PYTHON_DOWNLOADS": "never",
                "UV_NO_PROGRESS": "1",
            },
        )
        run([uv_path(), *words], env=env, log=log)
