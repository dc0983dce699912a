"""Isolated environments, made by uv from wheels that are already here and hash-pinned; no network."""

from __future__ import annotations

import base64
import csv
import os
import shutil
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from uv import find_uv_bin

from mmstack.events import Notice, ignore
from mmstack.keys import file_digest
from mmstack.model import EARLIEST
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from packaging.utils import NormalizedName

    from mmstack.events import Listener
    from mmstack.model import Interpreter

LinkMode = Literal["hardlink", "copy"]
MARKER = ".complete"
BESIDE = "beside.pth"


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


def unmet(env: Path, interpreter: Interpreter, beside: Sequence[Path] = ()) -> list[str]:
    """Return which requirements of the installed distributions are met neither by these nor by what is beside."""
    installed = list(distributions(path=[str(site_packages(env, interpreter))]))
    others = distributions(path=[str(folder) for folder in beside])
    versions = {canonicalize_name(item.name): item.version for item in (*others, *installed)}
    problems = []
    for item in installed:
        for line in item.requires or ():
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate({**interpreter.markers, "extra": ""}):
                continue
            found = versions.get(canonicalize_name(wanted.name))
            if found is None or not wanted.specifier.contains(found, prereleases=True):
                problems.append(f"{item.name} {item.version} wants {wanted}, here is {found or 'none'}")
    return problems


class Environments:
    """Makes environments; `cache` is uv's, so that a wheel is unpacked once and linked from then on.

    What writes into a linked file writes into the cache, and so into whatever is made of it afterwards. So what is
    not as in its wheel is unpacked anew.
    """

    def __init__(self, cache: Path, home: Path, tell: Listener = ignore) -> None:
        self.cache = cache
        self.home = home
        self.tell = tell

    def make(
        self,
        env: Path,
        interpreter: Interpreter,
        wheels: Sequence[Wheel],
        *,
        log: Path | None = None,
        link_mode: LinkMode = "hardlink",
        beside: Sequence[Path] = (),
    ) -> None:
        """Make an environment that holds exactly these wheels, unless it is whole already.

        After its own packages it imports those of the folders `beside` it.
        Its files are uv's cached ones under a second name, quick and small, and all of one date;
        `link_mode` must be `copy` where a user may edit them.
        """
        if (env / MARKER).exists() and python_of(env).exists():  # its Python may have been removed
            return
        shutil.rmtree(env, ignore_errors=True)
        env.parent.mkdir(parents=True, exist_ok=True)
        self._uv("venv", "--quiet", "--relocatable", "--python", interpreter.path, env, log=log)
        site = site_packages(env, interpreter)
        if wheels:
            self._install(env, wheels, link_mode, log)
        if beside:
            lines = "".join(f"{folder}\n" for folder in beside)
            (site / BESIDE).write_text(lines, encoding="utf-8")
        judged = _undated(site)
        if written := sorted(_not_as_in_their_wheels(site, wheels, judged)):
            text = f"unpacked anew, for something wrote into what is installed of it: {', '.join(written)}"
            self.tell(Notice(text=text, level="warning"))
            self._uv("cache", "clean", *written, log=log)
            again = [word for name in written for word in ("--reinstall-package", name)]
            self._install(env, wheels, link_mode, log, *again)
            unpacked = _files_of(site, written)
            judged |= {path: moment for path, moment in _undated(site).items() if path in unpacked}
        if link_mode == "hardlink":
            _date(judged)
        (env / MARKER).touch()

    def _install(self, env: Path, wheels: Sequence[Wheel], link_mode: LinkMode, log: Path | None, *more: str) -> None:
        requirements = env / "requirements.txt"
        requirements.write_text("".join(f"{wheel.line()}\n" for wheel in wheels), encoding="utf-8")
        # each wheel's own folder, never one made for the occasion: uv's cache goes by where a wheel lies
        places: list[str | Path] = [
            word
            for folder in sorted({wheel.path.parent for wheel in wheels})
            for word in ("--find-links", folder.as_uri())  # uv takes what follows a comma for another folder
        ]
        words: list[str | Path] = ["pip", "install", "--python", python_of(env), "--no-index", *places]
        words += ["--no-deps", "--require-hashes", "--link-mode", link_mode, "--requirement", requirements]
        self._uv(*words, *more, log=log)

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


def _date(files: Mapping[str, int]) -> None:
    """Give files one date, for uv gives them the time of day, and that changes what is compiled.

    Of two files alike, gcc's `#pragma once` leaves out the second only where both are of the same second
    (https://gcc.gnu.org/git/?p=gcc.git;a=blob;f=libcpp/files.cc), and packages do hold such headers.
    What has another date than when it was looked at, somebody has written to since; it shall not be taken for seen.
    """
    for path, moment in files.items():
        with suppress(FileNotFoundError):
            if os.lstat(path).st_mtime_ns == moment:
                os.utime(path, (EARLIEST, EARLIEST), follow_symlinks=False)


def _undated(folder: Path) -> dict[str, int]:
    """Return the files that were written since `_date` saw them, or are no links to what it saw, with their dates."""
    found = {}
    for parent, _folders, names in os.walk(folder):
        for name in names:
            path = f"{parent}/{name}"  # a Path of each would take longer than all else
            status = os.lstat(path)
            if status.st_mtime != EARLIEST:
                found[path] = status.st_mtime_ns
    return found


def _not_as_in_their_wheels(site: Path, wheels: Sequence[Wheel], undated: Collection[str]) -> Iterator[str]:
    """Yield the distributions of which a file is not that of their wheel; what was seen before is not read again."""
    of_name = {canonicalize_name(parse_wheel_filename(wheel.path.name)[0]): wheel.path for wheel in wheels}
    for record in site.glob("*.dist-info/RECORD") if undated else ():
        recorded = {name: digest for name, digest in _rows(record) if digest.startswith("sha256=")}
        others = [
            name
            for name, digest in recorded.items()
            if (path := f"{site}/{name}") in undated and _digest(Path(path)) != digest
        ]
        name = _distribution(record)
        if others and _differ(of_name[name], site, others):
            yield name


def _files_of(site: Path, names: Collection[str]) -> set[str]:
    """Return the files of some distributions."""
    records = [record for record in site.glob("*.dist-info/RECORD") if _distribution(record) in names]
    return {f"{site}/{name}" for record in records for name, _digest in _rows(record)}


def _rows(record: Path) -> list[tuple[str, str]]:
    with record.open(encoding="utf-8", errors="replace", newline="") as rows:
        return [(row[0], row[1]) for row in csv.reader(rows) if len(row) > 1]


def _distribution(record: Path) -> NormalizedName:
    return canonicalize_name(record.parent.name.partition("-")[0])


def _differ(wheel: Path, site: Path, names: Sequence[str]) -> bool:
    """Return whether any of these files is another in a wheel, whose RECORD need not be right."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        return any(name not in inside or archive.read(name) != (site / name).read_bytes() for name in names)


def _digest(file: Path) -> str:
    """Return a file's digest as a RECORD writes it."""
    return f"sha256={base64.urlsafe_b64encode(bytes.fromhex(file_digest(file))).decode().rstrip('=')}"
