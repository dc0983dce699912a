"""The page of what was measured: docs/benchmarks.md, and docs/benchmarks.json beside it, which it is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.costs import ROOT, Cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEAD = (
    "| case | CPU s | share | limit | | floor, CPU s | wall s | largest process | wheel |",
    "|---|---|---|---|---|---|---|---|---|",
)
MISSED = "not reached"
NOISE = (
    "Medians of rounds, with the least and the most; the ratio is the median of the rounds' ratios. The noise is",
    "between what such a median lies, in 95 of 100 cases, of a second copy of upstream's build: a ratio within it",
    "is not told apart from 1. `ms_deform_attn` and focal loss have kernels for a GPU alone, which are not timed here,",
    "but [held against upstream's](../pipelines/mmcv/README.md) instruction by instruction.",
)
TIMES = (
    "| call | upstream's build, ms | ours, ms | ours / upstream's | noise | ours is |",
    "|---|---|---|---|---|---|",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of the table.

    `share` is what its CPU seconds are of those of another case, `of`, and `limit` the most that this may be, or else
    the most wall seconds. `floor` is the CPU seconds that nothing could be saved of.
    """

    case: str
    cost: Cost
    share: float | None = None
    of: str = "upstream's"
    limit: float | None = None
    floor: float | None = None

    @property
    def verdict(self) -> str:
        """Return whether the limit is held."""
        if self.limit is None:
            return ""
        return "reached" if (self.cost.wall if self.share is None else self.share) <= self.limit else MISSED


def render(parts: Sequence[tuple[Mapping[str, str], Sequence[Mapping[str, Any]]]]) -> str:
    """Return the page of some cases, each with the facts of its run."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `uv run nox -s bench`. A `share` is one of CPU seconds, of ways that took turns: upstream's build is",
        "held still each four minutes (CUDA: ten) for one of ours, of which the mean is given; for four architectures",
        "ours was built once, before files of upstream's way. Starts are medians of seven, packing and the step",
        "`build` of three; what else has no share was done once, before.",
        "",
        "The `floor` of a build is what ninja alone took, less what its units take that hold nothing but their",
        "headers: compilation with headers already parsed. That of a changed source is of the one unit compiled, that",
        "of a build that fills a compiler cache is of the same build without. That of a start is Python that imports",
        "Invoke. These have none: upstream's way, which ours is a share of; a build out of a compiler cache, which",
        "compiles nothing; four architectures, for which ninja was not run alone; the step `build` and what it is held",
        "against, to see what is added to ninja; calls, which build nothing; torch's files, where what headers take is",
        "the question.",
    ]
    for facts, rows in parts:
        lines += ["", "; ".join(f"{name}: {value}" for name, value in facts.items()) + ".", ""]
        lines += _times(rows) if "call" in rows[0] else _costs([read(row) for row in rows])
    return "\n".join([*lines, ""])


def _times(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [*TIMES, *(f"| {' | '.join(_time(row))} |" for row in rows), "", *NOISE]


def _time(row: Mapping[str, Any]) -> list[str]:
    times = ["{} ({} to {})".format(row[f"{side}_ms"], *row[f"{side}_range"]) for side in ("first", "second")]
    low, high = row["noise"]
    verdict = "faster" if row["ratio"] < low else "slower" if row["ratio"] > high else "not told apart"
    return [row["call"], *times, f"{row['ratio']}", f"{low} to {high}", verdict]


def _costs(rows: Sequence[Row]) -> list[str]:
    bar = max(row.cost.cpu for row in rows) / 60
    return [
        *HEAD,
        *(f"| {' | '.join(cells(row))} |" for row in rows),
        *("", "```text"),
        *(f"{row.case:50.50} {'█' * max(round(row.cost.cpu / bar), 1)} {row.cost.cpu} CPU s" for row in rows),
        "```",
    ]


def cells(row: Row) -> list[str]:
    """Return a row's cells."""
    cost = row.cost
    share = f"{_part(row.share)} of {row.of}" if row.share else ""
    limit = "" if row.limit is None else _part(row.limit) if row.share else f"{row.limit} s wall"
    floor = f"{row.floor} ({cost.cpu / row.floor:.1f} times)" if row.floor else ""
    wheel = f"{cost.wheel / 1e6:.1f} MB" if cost.wheel else ""
    return [row.case, f"{cost.cpu}", share, limit, row.verdict, floor, f"{cost.wall}", f"{cost.peak} MiB", wheel]


def _part(share: float) -> str:
    return f"{share:.3f}" if share > 1 / 2 else f"1/{1 / share:.1f}"


def write(name: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, str], order: Sequence[str]) -> None:
    """Write a case's figures and the page of all cases in this order, of which others may be from an earlier run.

    A fact that is empty is none.
    """
    page = ROOT / "docs" / "benchmarks.md"
    file = page.with_suffix(".json")
    data = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    data[name] = {"facts": {fact: value for fact, value in facts.items() if value}, "rows": list(rows)}
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    parts = [(data[each]["facts"], data[each]["rows"]) for each in order if each in data]
    page.write_text(render(parts), encoding="utf-8")


def missed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return of each row that did not reach its limit what it is, what it took and what it may."""
    found = []
    for row in [read(row) for row in rows if "call" not in row]:
        case, _cpu, share, limit, verdict, *_more = cells(row)
        if verdict == MISSED:
            found.append(f"{case}: {share or f'{row.cost.wall} s wall'}, limit {limit}")
    return found


def read(row: Mapping[str, Any]) -> Row:
    """Return a row as it was written."""
    return Row(**{**row, "cost": Cost(**row["cost"])})
