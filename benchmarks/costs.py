"""What commands take: CPU seconds of each with all that it started and waited for, alone or in turn with others."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import resource
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".mmstack" / "bench"
POLL = 0.2
MIB = 1024  # of the kilobytes that the system counts in


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a command took: CPU seconds, wall seconds, MiB of its largest process, and bytes of the wheel it made."""

    cpu: float
    wall: float
    peak: int
    wheel: int = 0


def measure(words: Sequence[str | Path], cwd: Path, environment: Mapping[str, str], log: Path | None = None) -> Cost:
    """Run a command to its end and return what it took; one that fails ends the benchmark."""
    return _measure(words, cwd, environment, lambda process: os.wait4(process.pid, 0)[1:], log)


def in_turn(
    words: Sequence[str | Path],
    cwd: Path,
    environment: Mapping[str, str],
    others: Sequence[Callable[[], Cost]],
    every: float,
) -> tuple[Cost, tuple[Cost, ...]]:
    """Run a long command and return what it took, and the mean of each other one's cost.

    The long one is held still for them each `every` seconds, and they are run once before and once after: what else a
    machine does may make everything many times slower for a while, and so all are slowed alike.
    """
    turns = [[other() for other in others]]

    def wait(process: subprocess.Popen[bytes]) -> tuple[int, resource.struct_rusage]:
        until = time.monotonic() + every
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                return status, usage
            if time.monotonic() > until:
                with _held_still(process.pid):
                    turns.append([other() for other in others])
                until = time.monotonic() + every
            time.sleep(POLL)

    cost = _measure(words, cwd, environment, wait, log=BENCH / "long.txt")
    turns.append([other() for other in others])
    # what it was held still for is not its own
    wall = round(cost.wall - sum(each.wall for turn in turns[1:-1] for each in turn), 2)
    return replace(cost, wall=wall), tuple(one_of(each, statistics.fmean) for each in zip(*turns, strict=True))


@contextmanager
def _held_still(session: int) -> Iterator[None]:
    held: dict[int, psutil.Process] = {}
    while started := [process for process in _members(session) if process.pid not in held]:
        for process in started:
            held[process.pid] = process
            with suppress(psutil.Error):
                process.suspend()
    try:
        yield
    finally:
        for process in held.values():
            with suppress(psutil.Error):
                process.resume()


def _members(session: int) -> Iterator[psutil.Process]:
    """Yield a session's processes; ninja puts each of its compilers into a process group of its own."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == session:
                yield process


def _measure(
    words: Sequence[str | Path],
    cwd: Path,
    environment: Mapping[str, str],
    wait: Callable[[subprocess.Popen[bytes]], tuple[int, resource.struct_rusage]],
    log: Path | None = None,
) -> Cost:
    log = log or BENCH / "log.txt"
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(  # noqa: S603 - ours
            list(map(str, words)), cwd=cwd, env=dict(environment), stdout=sink, stderr=sink, start_new_session=True
        )
        try:
            status, usage = wait(process)
        finally:  # where we are interrupted, or what others are held still for fails
            for member in _members(process.pid):
                with suppress(psutil.Error):
                    member.kill()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    return Cost(
        cpu=round(usage.ru_utime + usage.ru_stime, 2),
        wall=round(time.monotonic() - started, 2),
        peak=usage.ru_maxrss // MIB,
    )


def one_of(costs: Sequence[Cost], kind: Callable[[list[float]], float] = statistics.median) -> Cost:
    """Return one figure of each, the median if not said otherwise."""
    names = ("cpu", "wall", "peak")
    found = {name: kind([getattr(cost, name) for cost in costs]) for name in names}
    return Cost(
        cpu=round(found["cpu"], 3),
        wall=round(found["wall"], 3),
        peak=round(found["peak"]),
        wheel=costs[0].wheel,
    )


def together(costs: Sequence[Cost]) -> Cost:
    """Return what commands took that ran one after the other."""
    return Cost(
        cpu=round(sum(each.cpu for each in costs), 2),
        wall=round(sum(each.wall for each in costs), 2),
        peak=max(each.peak for each in costs),
    )
