"""When everything ran, out of a manifest: what made a run as long as it was, and all of it as a Chrome trace."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Span = dict[str, Any]  # what has a `start` and took `seconds`

RAN = ("done", "failed")
SHOWN = 10  # of the commands of a step
STEPS = "steps of the plan"


def critical_path(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chain of steps, and within each of its commands, of which every one waited for the one before.

    Of a step's commands the longest are named, in the order of time, and the others summed up.
    """
    path = _steps(manifest["steps"])
    return {
        "seconds": sum(step["seconds"] for step in path),
        "busy": manifest["cpu_seconds"] / (manifest["cores"] * manifest["seconds"]) if manifest["seconds"] else 0.0,
        "rows": [row for step in path for row in _rows(step)],
        "compiled": [_crowd(step) for step in path if step["edges"]],
    }


def _steps(steps: Sequence[Span]) -> list[Span]:
    """Return the step that ended last, before it the one that it waited for, and so on back to the first."""
    rest = [step for step in steps if step["outcome"] in RAN]
    path: list[Span] = []
    step = max(rest, key=_end, default=None)
    while step:
        path.append(step)
        rest.remove(step)
        step = max(_waited_for(step, rest), key=_end, default=None)
    return path[::-1]


def _waited_for(step: Span, others: Sequence[Span]) -> list[Span]:
    """Return what a step needs, and what a heavy one may have had to give its turn to."""
    return [
        other
        for other in others
        if other["id"] in step["needs"] or (step["heavy"] and other["heavy"] and _end(other) <= _start(step))
    ]


def _commands(edges: Sequence[Span]) -> list[Span]:
    """Return the command that ended last, before it the last to end before it began, and so on back to the first.

    That one made a file which it needs, or freed the core that it runs on.
    """
    edges = sorted(edges, key=_end)
    ends = [_end(edge) for edge in edges]
    path: list[Span] = []
    index = len(edges) - 1
    while index >= 0:
        path.append(edges[index])
        index = min(index, bisect_right(ends, _start(edges[index]))) - 1
    return path[::-1]


def _rows(step: Span) -> Iterator[Span]:
    yield {"kind": "step", "name": step["id"], **_when(step)}
    path = _commands(step["edges"])
    shown = sorted(path, key=lambda edge: -edge["seconds"])[:SHOWN]
    for edge in path:
        if edge in shown:
            yield {"kind": "command", "name": edge["output"], **_when(edge)}
    if rest := [edge for edge in path if edge not in shown]:
        seconds = sum(edge["seconds"] for edge in rest)
        yield {"kind": "rest", "name": f"{len(rest)} shorter ones", "start": rest[0]["start"], "seconds": seconds}


def _crowd(step: Span) -> dict[str, Any]:
    """Return how many commands a step ran at once, on average and at most."""
    edges = step["edges"]
    took = max(map(_end, edges)) - min(map(_start, edges))
    average = sum(edge["seconds"] for edge in edges) * 1000 / took if took else 1.0
    return {"step": step["id"], "commands": len(edges), "average": average, "most": len(lanes(edges))}


def to_trace(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run in the trace event format, as chrome://tracing and Perfetto read it.

    Each group is a process there: the steps, then what each step consists of. Of a suite's checks it is known in which
    order they ran and how long; they are placed so that the last one ends with its step.
    """
    ran = [step for step in manifest["steps"] if step["outcome"] in RAN]
    checks = {f"verify {found['layer']}": found["checks"] for found in manifest["verifications"]}
    groups = [(STEPS, [{**step, "name": step["title"]} for step in ran])]
    for step in ran:
        parts = [{**edge, "name": edge["output"]} for edge in step["edges"]] or _in_turn(
            checks.get(step["id"], ()), step
        )
        groups += [(step["id"], parts)] if parts else []
    events = [event for number, (name, spans) in enumerate(groups) for event in _process(number, name, spans)]
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _in_turn(checks: Sequence[Span], step: Span) -> list[Span]:
    took = sum(check["seconds"] for check in checks)
    if took > step["seconds"]:  # it found that another run had done it
        return []
    at, placed = step["start"] + step["seconds"] - took, []
    for check in checks:
        placed.append({**check, "start": at})
        at += check["seconds"]
    return placed


def _process(number: int, name: str, spans: Sequence[Span]) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": number, "args": {"sort_index": number}}
    for lane, found in enumerate(lanes(spans)):
        yield {"ph": "M", "name": "thread_name", "pid": number, "tid": lane, "args": {"name": f"lane {lane + 1}"}}
        for span in found:
            told = {key: span[key] for key in ("outcome", "detail") if span.get(key)}
            at, took = _start(span) * 1000, (_end(span) - _start(span)) * 1000
            yield {"ph": "X", "name": span["name"], "pid": number, "tid": lane, "ts": at, "dur": took, "args": told}


def lanes(spans: Sequence[Span]) -> list[list[Span]]:
    """Return what ran, as few lists as there are without two in one that ran at once."""
    found: list[list[Span]] = []
    for span in sorted(spans, key=_start):
        lane = next((lane for lane in found if _end(lane[-1]) <= _start(span)), None)
        if lane is None:
            found.append([span])
        else:
            lane.append(span)
    return found


def _when(span: Span) -> Span:
    return {"start": span["start"], "seconds": span["seconds"]}


def _start(span: Span) -> int:
    """Return when it began, in whole milliseconds: sums of seconds are never quite equal."""
    return _milliseconds(span["start"])


def _end(span: Span) -> int:
    return _milliseconds(span["start"] + span["seconds"])


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
