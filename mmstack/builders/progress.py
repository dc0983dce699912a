"""How far ninja is and how long the rest will take: by the weight of what it compiles, not by the number."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from itertools import chain
from typing import TYPE_CHECKING

from mmstack.errors import CatalogError
from mmstack.events import BuildProgress, Compiled, Edge
from mmstack.shapes import amount, load_as, table_of
from mmstack.store import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from mmstack.builders.build import Build
    from mmstack.model import Step

EDGE = re.compile(r"^\[(\d{1,9})/(\d{1,9})\] (.*)", re.ASCII)
TIME = re.compile(r"[0-9]{1,15}")  # of ninja's own log
NINJA_LOG = ".ninja_log"
WEIGHTS = "weights.json"
# Seconds that a file takes where nothing better is known, the first that matches; links are told by their line.
KINDS = {"*.cu.o": 60.0, "*.c.o": 1.0, "*.S.o": 0.3, "*.o": 6.0, "*.gch": 6.0}
LINK = 5.0
OTHER = 0.3
SOON_SECONDS = 30.0
SOON_SHARE = 0.02
PACE_SECONDS = 180.0  # what a cache had was quick, and says nothing of the rest


class Estimate:
    """Follows one run of ninja, of which it knows beforehand what will be done.

    Args:
        edges: the descriptions of all that is to be done.
        weigh: the seconds that one of these is reckoned to take.
        clock: seconds from any fixed moment; now is when the run begins.
    """

    def __init__(
        self, edges: Iterable[str], weigh: Callable[[str], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open = Counter(iter(edges))
        self._weigh = weigh
        self._clock = clock
        self._started = clock()
        self._whole = sum(weigh(edge) * count for edge, count in self._open.items())
        self._done = 0.0
        self._paces = deque([(self._started, 0.0)])

    def read(self, line: str, step: Step) -> BuildProgress | None:
        """Return how far a line of ninja's output says it is, None for a line that says nothing of it."""
        match = EDGE.match(line)
        if match is None:
            return None
        done, total, edge = int(match[1]), int(match[2]), match[3]
        if self._open[edge]:
            self._open[edge] -= 1
            self._done += self._weigh(edge)
        # ninja may find that something need not be done after all, and says nothing but that it is at the end
        share = 1.0 if done >= total else min(self._done / self._whole, 1.0) if self._whole else 0.0
        return BuildProgress(step=step, done=done, total=total, share=share, remaining=self._remaining(share))

    def _remaining(self, share: float) -> float | None:
        """Return the seconds that the rest takes at the pace of the last minutes."""
        now = self._clock()
        self._paces.append((now, share))
        while len(self._paces) > 2 and self._paces[1][0] <= now - PACE_SECONDS:  # noqa: PLR2004 - the first and the last
            self._paces.popleft()
        then, share_then = self._paces[0]
        if share <= share_then or (now - self._started < SOON_SECONDS and share < SOON_SHARE):
            return None
        return (now - then) * (1 - share) / (share - share_then)


def estimate(build: Build, listing: str) -> Estimate:
    """Return the estimate of a run of ninja, from what its dry run printed.

    Raises:
        CatalogError: the recipe's weights cannot be read.
    """
    measured, patterns = _remembered(build.place.timings), recipe_weights(build.layer.recipe.folder)
    edges = [match[3] for match in map(EDGE.match, listing.splitlines()) if match]
    return Estimate(edges, lambda edge: weight(edge, measured, patterns))


def weight(edge: str, measured: Mapping[str, float], patterns: Mapping[str, float]) -> float:
    """Return the seconds of `Building CXX object a/b.cpp.o`: as measured, as the recipe has it, or as its kind."""
    output = edge.rpartition(" ")[2]
    if output in measured:
        return measured[output]
    rest = LINK if edge.startswith("Linking ") else OTHER
    known = chain(patterns.items(), KINDS.items())
    return next((seconds for pattern, seconds in known if fnmatchcase(output, pattern)), rest)


def recipe_weights(folder: Path) -> dict[str, float]:
    """Return the seconds by pattern that a recipe knows, none where it has no such file.

    Raises:
        CatalogError: the file is no table of such.
    """
    file = folder / WEIGHTS
    if not file.exists():
        return {}
    try:
        weights: dict[str, float] = load_as(file, table_of(amount))
    except (OSError, ValueError) as error:
        raise CatalogError(f"{file} cannot be read", why=str(error), fix="give seconds by file pattern") from error
    if wrong := [pattern for pattern, seconds in weights.items() if not seconds]:
        raise CatalogError(f"{file}: '{wrong[0]}' has no weight", fix="give seconds above 0")
    return weights


def recorded(log: Path) -> dict[str, float]:
    """Return the seconds that each output took, from ninja's own log; the last time counts."""
    return {row[3]: (int(row[1]) - int(row[0])) / 1000 for row in _rows(log)}


@contextmanager
def recording(build: Build) -> Iterator[None]:
    """Tell, when a run of ninja is over, what it made and when; of a run that failed too."""
    log, began = build.folder / NINJA_LOG, time.time()
    before = set(_rows(log))
    try:
        yield
    finally:
        # one row a file, of which a command may make several; times are milliseconds from ninja's own start
        made = {(row[0], row[1], row[4]): row for row in reversed(_rows(log)) if row not in before}
        edges = (
            Edge(output=output, started=began + int(start) / 1000, ended=began + int(end) / 1000)
            for start, end, _time, output, _command in made.values()
        )
        in_order = sorted(edges, key=lambda edge: (edge.started, edge.ended))
        build.listener(Compiled(step=build.step, edges=tuple(in_order)))


def _rows(log: Path) -> list[tuple[str, ...]]:
    """Return what ninja's own log holds: start, end, time of the file, file, command."""
    if not log.exists():
        return []
    rows = [tuple(line.split("\t")) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[1:]]
    return [row for row in rows if len(row) == 5 and TIME.fullmatch(row[0]) and TIME.fullmatch(row[1])]  # noqa: PLR2004 - a line that a power cut tore has fewer


def remember(build: Build, log: Path) -> None:
    """Keep for the next build how long everything took; what came out of a compiler cache keeps its longer time."""
    before = _remembered(build.place.timings)
    seconds = {output: max(took, before.get(output, 0.0)) for output, took in recorded(log).items()}
    new = build.place.tree.with_name("timings.json")  # builds under other keys write theirs at the same time
    write_json(new, seconds)
    build.place.timings.parent.mkdir(parents=True, exist_ok=True)
    new.replace(build.place.timings)


def _remembered(file: Path) -> dict[str, float]:
    with suppress(OSError, ValueError):  # it only helps to estimate
        seconds: dict[str, float] = load_as(file, table_of(amount))
        return seconds
    return {}
