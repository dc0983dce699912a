"""Sweeps the state: what is of no use any more, and what is over a user's limits, least recently used first."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmstack.errors import CatalogError, UsageError
from mmstack.report import MANIFEST_NAME, read_manifest_file
from mmstack.shapes import inner_path, load_as
from mmstack.store import RECORD, discard
from mmstack.uses import STANDS_ON, of_result
from mmstack.words import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mmstack.model import Paths
    from mmstack.uses import Known, Uses

Kind = Literal[
    "artifact",
    "verification",
    "download",
    "toolkit",
    "repository",
    "work folder",
    "log",
    "uv's cache",
    "rebuild",
    "benchmark",
]
Inode = tuple[int, int]
PLACES: Mapping[Kind, str] = {
    "artifact": "artifacts/*",
    "verification": "verified/*.json",
    "download": "downloads/*",
    "toolkit": "toolkits/*",
    "repository": "repositories/*",
    "work folder": "work/*",
    "log": "logs/*.log",
    "uv's cache": "uv-cache",
    "rebuild": "rebuild/*",
    "benchmark": "bench/*",
}
SHARED: tuple[Kind, ...] = ("toolkit", "repository", "uv's cache")  # which plan needs them shows only while it runs
# Whatever else lies there is somebody's own, and the folder no state alone: `MMSTACK_HOME=$HOME` is soon typed.
OURS = frozenset(
    {
        *(pattern.partition("/")[0] for pattern in PLACES.values()),
        "compiler-cache",
        "digests",
        "distro",
        "edit",
        "home",
        "lock",
        "locks",
        "pythons",
        "pythons.json",
        "timings",
        "uses",
        "lost+found",
    }
)
ASIDE = (".old-", ".new-", ".nfs")
HALF_MADE = ("artifacts/.*", "verified/.*", "*/.old-*", ".old-*", "work/.*", "*/.new-*", ".new-*", "pythons.json.*")
EARLIER = re.compile(r"pythons\.json\.\d+", re.ASCII)  # what earlier versions wrote before it was `pythons.json`
SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "TIB": 1 << 40,
}
AGES = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
AWAY_SECONDS = 90 * AGES["d"]
SHOWN = 5
QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]+)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may stay: so many bytes in all, and what was used within so many seconds; None is no limit."""

    max_size: int | None = None
    older_than: float | None = None


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing that can go by itself. `used` in seconds since the epoch; files with two names count once."""

    kind: Kind
    name: str
    path: Path
    used: float
    inodes: Mapping[Inode, int] = field(repr=False)

    @property
    def size(self) -> int:
        """Return its bytes."""
        return sum(self.inodes.values())


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of a thing, and why."""

    thing: Thing
    removed: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep did, in the order in which it was decided, and the bytes of the whole state before and after."""

    verdicts: tuple[Verdict, ...]
    before: int
    after: int

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "before": self.before,
            "after": self.after,
            **{
                name: [
                    {"kind": item.thing.kind, "name": item.thing.name, "size": item.thing.size, "why": item.why}
                    for item in self.verdicts
                    if item.removed == removed
                ]
                for name, removed in (("removed", True), ("kept", False))
            },
        }

    def lines(self, *, dry_run: bool, verbose: bool) -> Iterator[str]:
        """Yield it in words: each thing that went, and of those that stayed how many and why."""
        for item in self.verdicts:
            if item.removed or verbose:
                verb = ("would remove" if dry_run else "removed") if item.removed else "kept"
                yield f"{verb} {item.thing.kind} {item.thing.name}, {size(item.thing.size)}: {item.why}"
        kept = Counter((item.thing.kind, item.why) for item in self.verdicts if not item.removed)
        for (kind, why), count in sorted(kept.items()) if not verbose else ():
            yield f"kept {count} of the kind {kind}: {why}"
        yield f"{size(self.before)} before, {size(self.after)} {'would be left' if dry_run else 'now'}"


def read_size(text: str) -> int:
    """Return a size in bytes, of words such as `20GB` or `1.5GiB`.

    Raises:
        UsageError: it is none.
    """
    match = QUANTITY.fullmatch(text.strip())
    if not match or match[2].upper() not in SIZES:
        raise UsageError(
            f"--max-size: '{text}' is no size", why=f"units: {', '.join(SIZES)}", fix="give a number and a unit: 20GB"
        )
    return int(float(match[1]) * SIZES[match[2].upper()])


def read_age(text: str) -> float:
    """Return an age in seconds, of words such as `30d` or `12h`.

    Raises:
        UsageError: it is none.
    """
    match = QUANTITY.fullmatch(text.strip())
    if not match or match[2] not in AGES:
        raise UsageError(
            f"--older-than: '{text}' is no age",
            why="units: m (minutes), h (hours), d (days), w (weeks)",
            fix="give a number and a unit: 30d",
        )
    return float(match[1]) * AGES[match[2]]


def sweep(
    paths: Paths, uses: Uses, limits: Limits, *, dry_run: bool = False, clock: Callable[[], float] = time.time
) -> Swept:
    """Remove what is of no use any more, then what is over the limits, least recently used first.

    What a result stands on, of whichever checkout, and what a build that runs uses, stays. No build begins meanwhile.

    Raises:
        UsageError: in the state's folder lies what is none of ours, so that nobody knows what else there is not.
        OSError: something cannot be removed.
    """
    strange = [name for name in (path.name for path in paths.state.glob("*")) if not _is_ours(name)]
    if strange:
        raise UsageError(
            f"{paths.state} holds what mmstack did not make: {', '.join(sorted(strange)[:SHOWN])}",
            why="so what has the name of a thing of ours may be yours",
            fix="let MMSTACK_HOME be a folder for mmstack alone, or move that elsewhere",
        )
    with uses.alone() as known:
        broom = _Broom(paths=paths, known=known, limits=limits, now=clock())
        verdicts = tuple(broom.judge())
        if not dry_run:
            for verdict in verdicts:
                if verdict.removed:
                    _remove(verdict.thing.path)
            _forget(paths.state, known, broom.now)
    return Swept(verdicts=verdicts, before=broom.before, after=broom.left)


class _Broom:
    """One sweep's knowledge: what there is, who uses it, and how much would be left."""

    def __init__(self, *, paths: Paths, known: Known, limits: Limits, now: float) -> None:
        self.state = paths.state
        self.known = known
        self.limits = limits
        self.now = now
        self.results = {name: why for dist in _dists(paths, known) for name, why in _results(dist, paths.dist.parent)}
        self.names = Counter[Inode]()
        self.sizes = _inodes(self.state, self.names)
        self.before = self.left = sum(self.sizes.values())

    def judge(self) -> Iterator[Verdict]:
        """Yield what becomes of each thing."""
        things = sorted(self._things(), key=lambda thing: (thing.used, thing.name))
        rest = []
        for thing in things:
            if why := self._needed(thing):
                yield Verdict(thing=thing, removed=False, why=why)
            elif why := self._useless(thing):
                yield self._drop(thing, why)
            else:
                rest.append(thing)
        for thing in rest:
            if why := self._over(thing):
                yield self._drop(thing, why)
            else:
                yield Verdict(thing=thing, removed=False, why="within the limits" if self._limited else "may be of use")

    @property
    def _limited(self) -> bool:
        return self.limits != Limits()

    def _things(self) -> Iterator[Thing]:
        for kind, pattern in PLACES.items():
            for path in self.state.glob(pattern):
                if not path.name.startswith("."):
                    yield self._thing(kind, path)
        for path in {path for pattern in HALF_MADE for path in self.state.glob(pattern)}:
            yield self._thing("work folder", path)

    def _thing(self, kind: Kind, path: Path) -> Thing:
        name = path.relative_to(self.state).as_posix()
        # a date of the future is a clock that was set back: nothing was used later than now
        used = min(max(self.known.used(name), *_changes(path)), self.now)
        return Thing(kind=kind, name=name, path=path, used=used, inodes=_inodes(path, Counter()))

    def _needed(self, thing: Thing) -> str:
        if self.known.runs(thing.name) or (self.known.running and thing.kind in SHARED):
            return "a build that runs uses it"
        if self.known.running and _is_half_made(thing):
            return "a build that runs may be making it"
        folder = thing.name.split("/", maxsplit=1)[0]
        return self.results.get(thing.name) or self.results.get(f"{folder}/", "")

    def _useless(self, thing: Thing) -> str:
        name = thing.path.name
        if _is_half_made(thing):
            return "left half made by a run that was stopped"
        if thing.kind == "artifact" and not (thing.path / RECORD).exists():
            return "it has no record"
        if thing.kind == "work folder" and any(self.state.glob(f"artifacts/{name.rpartition('-')[2]}*/{RECORD}")):
            return "what was built in it is in the store"
        if thing.kind == "download" and not thing.inodes:
            return "it is empty"
        return ""

    def _over(self, thing: Thing) -> str:
        age = self.now - thing.used
        if self.limits.older_than is not None and age > self.limits.older_than:
            return f"last used {age / AGES['d']:.1f} days ago"
        if self.limits.max_size is not None and self.left > self.limits.max_size:
            return f"least recently used of what is over {size(self.limits.max_size)}"
        return ""

    def _drop(self, thing: Thing, why: str) -> Verdict:
        for inode in _counted(thing.path):
            self.names[inode] -= 1
            if not self.names[inode]:
                self.left -= self.sizes[inode]
        return Verdict(thing=thing, removed=True, why=why)


def _is_ours(name: str) -> bool:
    return name in OURS or name.startswith(ASIDE) or EARLIER.fullmatch(name) is not None


def _is_half_made(thing: Thing) -> bool:
    name = thing.path.name
    aside = name.startswith(".") or EARLIER.fullmatch(name) is not None
    return aside or (thing.kind == "work folder" and name.startswith("verify-"))


def _dists(paths: Paths, known: Known) -> Iterator[Path]:
    """Yield where results lie: this checkout's, and others' that use this state; a rebuild's are part of it."""
    others = {Path(name) for name in known.last if name.startswith("/")} - {paths.dist}
    yield from sorted(folder for folder in others if not folder.is_relative_to(paths.state))
    yield paths.dist


def _results(dist: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Yield what results stand on, and which: what is installed may be of another plan than the last run's manifest."""
    place = result = dist
    try:
        for result in _listed(dist):
            shown = result.relative_to(root) if result.is_relative_to(root) else result
            for place in (result / MANIFEST_NAME, result / "env" / STANDS_ON):
                if _is_there(place):
                    yield from ((name, f"{shown} stands on it") for name in _stands_on(place))
    except (CatalogError, UsageError, OSError, ValueError) as error:
        raise UsageError(
            f"{place} cannot be read, so it is not known what that result stands on",
            why=(error.why or error.what) if isinstance(error, (CatalogError, UsageError)) else str(error),
            fix=f"make it readable, build the stack again, or remove {result}",
        ) from error


def _listed(dist: Path) -> list[Path]:
    """Return what lies in a folder of results, nothing where there is no such folder.

    Raises:
        OSError: it cannot be looked into, or is a link to what is not there.
    """
    try:
        return sorted(dist.iterdir())
    except FileNotFoundError:
        if dist.is_symlink():
            raise
        return []


def _is_there(file: Path) -> bool:
    """Return whether a file is there; unlike `exists`, not whether nobody knows.

    Raises:
        OSError: its folder cannot be looked into.
    """
    try:
        return bool(file.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _stands_on(file: Path) -> list[str]:
    """Return what a result stands on, by what its environment or its manifest says, which must be whole."""
    if file.name == STANDS_ON:
        return list(load_as(file, {"names": [inner_path]})["names"])
    return list(of_result(read_manifest_file(file)))


def _counted(path: Path) -> Iterator[Inode]:
    for status in _statuses(path):
        yield status.st_dev, status.st_ino


def _inodes(path: Path, names: Counter[Inode]) -> dict[Inode, int]:
    """Return the bytes of each file below, and count the names it has there."""
    found = {}
    for status in _statuses(path):
        inode = (status.st_dev, status.st_ino)
        names[inode] += 1
        found[inode] = status.st_size
    return found


def _changes(path: Path) -> Iterator[float]:
    """Yield when a thing and what lies in it was changed, none of which need stay while we look."""
    yield 0.0
    items = [path]
    with suppress(FileNotFoundError, NotADirectoryError):
        items += path.iterdir()
    for item in items:
        with suppress(FileNotFoundError):
            yield item.lstat().st_mtime


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Yield what is known of each file, none of which need stay while we look."""
    if not path.is_dir() or path.is_symlink():
        with suppress(FileNotFoundError):
            yield path.lstat()
        return
    for parent, _folders, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(parent, name))  # noqa: PTH118 - a hundred thousand of them


def _remove(path: Path) -> None:
    """Remove it so that nobody ever finds half of it."""
    if path.is_dir() and not path.is_symlink():
        discard(path)
    else:
        path.unlink(missing_ok=True)  # another run may have put it in its place since


def _forget(state: Path, known: Known, now: float) -> None:
    """Remove what is known of files that are gone, and of uses of what is; but who runs may not have made it yet.

    Results may be away for a while, as the disk that they are on.
    """
    for file in state.glob("digests/*.json"):
        if not _exists(_values(file, "path"), state):
            file.unlink(missing_ok=True)
    for file in state.glob("uses/*.json"):
        names = _values(file)
        away = any(name.startswith("/") for name in names) and now - file.stat().st_mtime < AWAY_SECONDS
        if not away and not _exists(names, state) and not any(map(known.runs, names)):
            file.unlink()


def _values(file: Path, key: str = "") -> list[str]:
    """Return the names that a record holds, none where it is not what was written."""
    try:
        return [load_as(file, {key: str})[key]] if key else list(load_as(file, [str]))
    except (FileNotFoundError, ValueError):
        return []


def _exists(names: Iterable[str], state: Path) -> bool:
    return any(os.path.exists(state / name) for name in names)  # noqa: PTH110 - false for a name that no file can have
