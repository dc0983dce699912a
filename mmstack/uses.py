"""Who uses what of the state, now and last: so that nothing is swept away from under anybody."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from mmstack.events import Waiting
from mmstack.keys import digest
from mmstack.run import interrupted, is_stopping
from mmstack.shapes import load
from mmstack.store import DISK_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mmstack.events import Listener
    from mmstack.model import LockedRequirement, Plan

GATE = ".gate"
POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of use: what those that run use, and when what was used last, in seconds since the epoch.

    A name that ends with `/` is all that the folder holds; one that begins with `/` is a folder of results.
    """

    running: frozenset[str]
    last: Mapping[str, float]

    def runs(self, name: str) -> bool:
        """Return whether someone who runs uses it."""
        return bool({name, f"{name.split('/', maxsplit=1)[0]}/"} & self.running)

    def used(self, name: str) -> float:
        """Return when it was used last; 0 where nobody said so."""
        return max(self.last.get(name, 0.0), self.last.get(f"{name.split('/', maxsplit=1)[0]}/", 0.0))


class Uses:
    """One file for each set of things that was ever used: which they are; locked while they are.

    The lock is the kernel's, so that of a dead process is free.
    """

    def __init__(self, root: Path, listener: Listener) -> None:
        self.root = root
        self.listener = listener

    @contextmanager
    def claim(self, things: Iterable[str]) -> Iterator[None]:
        """Use things until the end; waits for a sweep that is under way.

        Raises:
            InterruptedRunError: we are stopping.
        """
        try:
            claim = self._claim(sorted(set(things)))
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            # who has nothing to do needs no disk that can be written; all others will find out by themselves
            claim = None
        with claim or nullcontext():
            yield

    def _claim(self, things: list[str]) -> IO[str]:
        with self._gate(fcntl.LOCK_SH, "invoke gc"):
            file = self.root / f"{digest(tuple(things))[:32]}.json"
            claim = file.open("a+", encoding="utf-8")
            try:
                # whoever holds it already has written the same, or is about to
                if _lock(claim, fcntl.LOCK_EX) and _things(file) != things:
                    claim.truncate(0)
                    claim.write(json.dumps(things))
                    claim.flush()
                fcntl.flock(claim, fcntl.LOCK_SH)
                os.utime(file)
            except BaseException:
                claim.close()
                raise
            return claim

    @contextmanager
    def alone(self) -> Iterator[Known]:
        """Let nobody begin to use anything, and yield who uses what."""
        with self._gate(fcntl.LOCK_EX, "a build that begins, or another `invoke gc`"):
            running, last = set[str](), dict[str, float]()
            for file in self.root.glob("*.json"):
                things = _things(file)
                for thing in things:
                    last[thing] = max(last.get(thing, 0.0), file.stat().st_mtime)
                with file.open("r+", encoding="utf-8") as claim:  # NFS locks alone only what may be written
                    if not _lock(claim, fcntl.LOCK_EX):
                        running.update(things)
            yield Known(running=frozenset(running), last=last)

    @contextmanager
    def _gate(self, kind: int, whom: str) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / GATE).open("a+", encoding="utf-8") as gate:  # NFS shares only what may be read
            if not _lock(gate, kind):
                self.listener(Waiting(what=whom))
                while not _lock(gate, kind):
                    if is_stopping():
                        raise interrupted()
                    time.sleep(POLL_SECONDS)
            yield


def of_plan(plan: Plan, tools: Sequence[LockedRequirement] = ()) -> Iterator[str]:
    """Yield what of the state carrying out a plan, with tools that are no part of it, reads and makes."""
    yield "uv-cache"
    requirements = [*plan.run_requires, *plan.verify_requires, *plan.cubins, *tools]
    if plan.toolkit:
        yield "toolkits/"
        requirements += plan.toolkit.requirements
        if plan.toolkit.manifest:  # the archives that it names are known once it is here
            yield "downloads/"
    for layer in plan.layers:
        requirements += layer.build_requires
        yield from _made(layer.name, layer.key, layer.verify_key)
        yield f"work/{layer.name}-{layer.work_key[:16]}"
        parts = layer.source.distro.parts if layer.source.distro else ()
        yield from (f"downloads/{part.file.sha256}" for part in parts)
        yield from (f"downloads/{package.sha256}" for package in layer.packages)
        if layer.chosen:
            yield f"downloads/{layer.chosen.sha256}"
        if layer.source.git:
            yield "repositories/"
    yield from _wheels(requirements)


STANDS_ON = "stands-on.json"  # within an installed environment: its `names`, as `of_result` says them


def of_result(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a result in `dist/` stands on: its artifacts, its sources, and what runs and verifies it."""
    for layer in manifest["layers"]:
        yield from _made(layer["name"], layer["key"], layer["verify_key"])
        source = layer["source"]
        yield from (f"downloads/{file['sha256']}" for file in (*source["files"], *source["packages"]))
        if source["git"]:
            yield "repositories/"
    for item in manifest["requirements"]:
        yield from (f"downloads/{sha256}" for sha256 in item["sha256"])


def _made(name: str, key: str, verify_key: str) -> Iterator[str]:
    yield f"artifacts/{key}"
    yield f"verified/{verify_key}.json"
    yield f"logs/{name}-{key[:16]}.log"
    yield f"logs/verify-{name}-{verify_key[:16]}.log"
    yield f"work/verify-{verify_key[:16]}"


def _wheels(requirements: Iterable[LockedRequirement]) -> Iterator[str]:
    return (f"downloads/{sha256}" for item in requirements for sha256 in item.sha256)


def _things(file: Path) -> list[str]:
    try:
        found = load(file)
    except ValueError:
        return []
    return [str(item) for item in found] if isinstance(found, list) else []


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
