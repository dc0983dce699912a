"""How long a build takes on more cores, from its graph and the seconds of its files: `docs/explanation/scale.md`.

`python -m benchmarks.scale GRAPH SECONDS`: GRAPH is what `ninja -t graph TARGET` prints, SECONDS the folder of a layer
whose recipe has weights, or what a build has measured, `.mmstack/timings/LAYER.json`.
"""

from __future__ import annotations

import argparse
import heapq
import re
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from mmstack.builders.progress import recipe_weights, weight
from mmstack.shapes import amount, load_as, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NODE = re.compile(r'^"(\w+)" \[label="([^"]*)"(, shape=ellipse)?\]$', re.MULTILINE)
ARROW = re.compile(r'^"(\w+)" -> "(\w+)"(?: \[label=" (\S+)"\])?', re.MULTILINE)
CORES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = (0.05, 0.1, 0.2)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What is made, the seconds of one core that each takes, and what each needs first."""

    seconds: Mapping[str, float]
    needs: Mapping[str, Sequence[str]]

    @property
    def order(self) -> list[str]:
        """Return all that is made, each after what it needs."""
        return list(TopologicalSorter(self.needs).static_order())

    def critical(self) -> dict[str, float]:
        """Return the seconds from each one's beginning to the end of all, were there cores without number."""
        longest: dict[str, float] = {}
        for name in reversed(self.order):
            longest[name] = longest.get(name, 0.0) + self.seconds.get(name, 0.0)
            for need in self.needs.get(name, ()):
                longest[need] = max(longest.get(need, 0.0), longest[name])
        return longest


def known(place: Path) -> dict[str, float]:
    """Return the seconds by pattern that a recipe has, or by file that a build has measured.

    Raises:
        CatalogError: the recipe's cannot be read.
        OSError: there is no such file.
        ValueError: it is no table of seconds.
    """
    if place.is_dir():
        return recipe_weights(place)
    seconds: dict[str, float] = load_as(place, table_of(amount))
    return seconds


def read(dot: str, patterns: Mapping[str, float]) -> Graph:
    """Return the graph that ninja has drawn: a rule with one input and one output is an arrow, any other a node."""
    labels = {name: label for name, label, _ in NODE.findall(dot)}
    rules = {name for name, _, shape in NODE.findall(dot) if shape}
    needs: dict[str, list[str]] = {name: [] for name in labels}
    seconds: dict[str, float] = {}
    for first, second, rule in ARROW.findall(dot):
        needs.setdefault(second, []).append(first)
        kind = labels[first] if first in rules else rule
        step = first if first in rules else second
        if second not in rules and kind and step not in seconds and kind != "phony":
            edge = f"Linking {labels.get(second, second)}" if "_LINKER" in kind else labels.get(second, second)
            seconds[step] = weight(edge, {}, patterns)
    return Graph(seconds=seconds, needs=needs)


def simulate(graph: Graph, cores: int) -> float:
    """Return the seconds on so many cores, that first which has the longest way to the end."""
    rank, sorter = graph.critical(), TopologicalSorter(graph.needs)
    sorter.prepare()
    ready: list[tuple[float, str]] = []
    running: list[tuple[float, str]] = []
    now = 0.0
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, (-rank[name], name))
        while ready and len(running) < cores:
            name = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + graph.seconds.get(name, 0.0), name))
        now, name = heapq.heappop(running)
        sorter.done(name)
    return now


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("seconds", type=Path)
    options = parser.parse_args()
    graph = read(options.graph.read_text(encoding="utf-8"), known(options.seconds))
    work, critical = sum(graph.seconds.values()), max(graph.critical().values())
    print(f"work {work:.0f} s in {len(graph.seconds)} steps, critical path {critical:.0f} s")  # noqa: T201 - for this it is
    for cores in CORES:
        wall = simulate(graph, cores)
        print(f"{cores:4} cores {wall:7.0f} s {work / wall:6.1f} times")  # noqa: T201 - the same
    for share in SHARES:
        print(f"client's share {share}: {work * share:.0f} s of its cores at least")  # noqa: T201 - the same


if __name__ == "__main__":
    main()
