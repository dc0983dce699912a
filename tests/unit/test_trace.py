from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstack.trace import SHOWN, critical_path, lanes, to_trace

Span = dict[str, Any]


def a_step(name: str, start: float, end: float, *needs: str, heavy: bool = False, **more: object) -> Span:
    """Return a step of a manifest that ran from `start` to `end`."""
    step = {"id": name, "title": name, "needs": list(needs), "heavy": heavy, "outcome": "done", "detail": ""}
    return {**step, "start": start, "seconds": end - start, "edges": [], **more}


def an_edge(output: str, start: float, end: float) -> Span:
    """Return a command of ninja."""
    return {"output": output, "start": start, "seconds": end - start}


def a_run(*steps: Span, seconds: float = 100.0, cpu: float = 100.0, checks: tuple[Span, ...] = ()) -> Span:
    """Return of a manifest what is looked at."""
    verifications = [{"layer": "mmx", "checks": checks}] if checks else []
    return {"steps": list(steps), "seconds": seconds, "cpu_seconds": cpu, "cores": 2, "verifications": verifications}


def names(run: Span) -> list[str]:
    """Return the steps and commands on a run's critical path."""
    return [row["name"] for row in critical_path(run)["rows"]]


def slices(run: Span) -> list[Span]:
    """Return the events of a run's trace that take time."""
    return [event for event in to_trace(run)["traceEvents"] if event["ph"] == "X"]


def test_the_path_goes_back_from_the_last_step_through_what_it_waited_for() -> None:
    """Of all that a step needs, the one that ended last is what it waited for."""
    run = a_run(
        a_step("fetch a", 0, 10),
        a_step("fetch b", 0, 30),
        a_step("build a", 10, 20, "fetch a"),
        a_step("build b", 30, 60, "fetch b", "build a"),
        a_step("fetch", 0, 50),
        a_step("install", 60, 90, "build a", "build b", "fetch"),
    )
    assert names(run) == ["fetch b", "build b", "install"]
    assert critical_path(run)["seconds"] == 90


def test_a_heavy_step_may_have_waited_for_its_turn() -> None:
    """What kept the cores busy until it began is on the path, though nothing of it is needed."""
    heavy = (a_step("verify a", 10, 50, "fetch", heavy=True), a_step("build b", 50, 60, "env b", heavy=True))
    run = a_run(a_step("fetch", 0, 10), a_step("env b", 10, 12, "fetch"), *heavy)
    assert names(run) == ["fetch", "verify a", "build b"]
    light = a_run(a_step("fetch", 0, 10), a_step("env b", 10, 12, "fetch"), heavy[0], {**heavy[1], "heavy": False})
    assert names(light) == ["fetch", "env b", "build b"]


def test_what_was_there_before_is_on_no_path() -> None:
    """A cached step took nothing, and one that was not reached did not run; one that failed did."""
    run = a_run(
        a_step("fetch", 0, 0, outcome="cached"),
        a_step("build", 1, 5, "fetch", outcome="failed"),
        a_step("install", 0, 0, "build", outcome="not reached"),
    )
    assert names(run) == ["build"]
    cached = a_run(a_step("fetch", 0, 0, outcome="cached"), seconds=0.0)
    assert critical_path(cached) == {"seconds": 0, "busy": 0.0, "rows": [], "compiled": []}


def test_within_a_compilation_the_path_is_of_its_commands() -> None:
    """Each waited for the last that ended before it began; how many ran at once is said too."""
    edges = [an_edge("pch", 10, 20), an_edge("long", 10, 45), an_edge("short", 20, 30), an_edge("so", 45, 50)]
    run = a_run(a_step("fetch", 0, 10), a_step("build", 10, 50, "fetch", edges=edges))
    assert names(run) == ["fetch", "build", "long", "so"]
    (compiled,) = critical_path(run)["compiled"]
    assert compiled == {"step": "build", "commands": 4, "average": 1.5, "most": 2}


def test_times_that_should_touch_do_though_they_are_sums() -> None:
    """0.1 + 0.2 is later than 0.3 as floating-point numbers go."""
    edges = [{"output": "a", "start": 0.1, "seconds": 0.2}, {"output": "b", "start": 0.3, "seconds": 1.0}]
    run = a_run(a_step("build", 0, 2, edges=edges))
    assert names(run) == ["build", "a", "b"]
    assert len(lanes(edges)) == 1


def test_of_many_commands_the_longest_are_named() -> None:
    """In the order of time; the others are one row."""
    edges = [an_edge(f"{number}.o", number * 10, number * 10 + 1 + number / 10) for number in range(SHOWN + 3)]
    rows = critical_path(a_run(a_step("build", 0, 130, edges=edges)))["rows"]
    assert [row["name"] for row in rows[1:-1]] == [f"{number}.o" for number in range(3, SHOWN + 3)]
    assert rows[-1]["name"] == "3 shorter ones"
    assert rows[-1]["seconds"] == pytest.approx(3.3)


def test_how_busy_the_cores_were_is_cpu_time_of_all_that_there_was() -> None:
    """Two cores for 100 seconds could have given 200."""
    assert critical_path(a_run(a_step("build", 0, 100), seconds=100.0, cpu=150.0))["busy"] == 0.75


spans = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=30).map(
    lambda found: [an_edge(str(number), at / 10, (at + took) / 10) for number, (at, took) in enumerate(found)]
)


@given(spans)
def test_in_a_lane_nothing_runs_at_once(found: list[Span]) -> None:
    """And nothing is lost, and there are no more lanes than ran at once at some time."""
    placed = lanes(found)
    assert sorted(span["output"] for lane in placed for span in lane) == sorted(span["output"] for span in found)
    for lane in placed:
        assert all(one["start"] + one["seconds"] <= two["start"] + 1e-6 for one, two in pairwise(lane))
    most = max(
        (sum(at["start"] <= one["start"] < at["start"] + at["seconds"] for at in found) for one in found), default=0
    )
    assert len(placed) <= max(most, 1) + sum(span["seconds"] == 0 for span in found)


@given(spans)
def test_a_path_of_commands_ends_with_the_last_and_never_overlaps(found: list[Span]) -> None:
    """Whatever ran, with times of nothing among them."""
    rows = critical_path(a_run(a_step("build", 0, 10, edges=found)))["rows"][1:]
    shown = [row for row in rows if row["kind"] == "command"]
    assert all(one["start"] + one["seconds"] <= two["start"] + 1e-6 for one, two in pairwise(shown))
    if found and len(shown) == len(rows):
        assert shown[-1]["start"] + shown[-1]["seconds"] == max(each["start"] + each["seconds"] for each in found)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sets(st.integers(0, 9)), st.booleans()), max_size=10)
)
def test_any_run_has_an_end_to_its_path(found: list[tuple[int, int, set[int], bool]]) -> None:
    """A manifest that somebody wrote by hand too, with steps that need one another."""
    steps = [
        a_step(str(number), at, at + took, *map(str, needs), heavy=heavy)
        for number, (at, took, needs, heavy) in enumerate(found)
    ]
    path = names(a_run(*steps))
    assert len(set(path)) == len(path) <= len(steps)


def test_a_trace_shows_steps_and_below_them_what_they_consist_of() -> None:
    """Microseconds, each group a process with a name, what ran at once in different lanes."""
    edges = [an_edge("a.o", 10, 20), an_edge("b.o", 10, 15), an_edge("so", 20, 21)]
    checks = ({"name": "test_a", "outcome": "passed", "seconds": 3.0, "detail": ""},
              {"name": "test_b", "outcome": "not run", "seconds": 1.0, "detail": "no GPU"})  # fmt: skip
    run = a_run(
        a_step("fetch", 0, 10),
        a_step("build mmx", 10, 22, "fetch", edges=edges),
        a_step("verify mmx", 22, 30, "build mmx"),
        a_step("gate mmx", 0, 0, outcome="cached"),
        checks=checks,
    )
    trace = to_trace(run)
    processes = [event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"]
    assert processes == ["steps of the plan", "build mmx", "verify mmx"]
    found = {event["name"]: (event["pid"], event["tid"], event["ts"], event["dur"]) for event in slices(run)}
    assert found == {
        "fetch": (0, 0, 0, 10_000_000),
        "build mmx": (0, 0, 10_000_000, 12_000_000),
        "verify mmx": (0, 0, 22_000_000, 8_000_000),
        "a.o": (1, 0, 10_000_000, 10_000_000),
        "b.o": (1, 1, 10_000_000, 5_000_000),
        "so": (1, 0, 20_000_000, 1_000_000),
        "test_a": (2, 0, 26_000_000, 3_000_000),
        "test_b": (2, 0, 29_000_000, 1_000_000),
    }
    assert slices(run)[-1]["args"] == {"outcome": "not run", "detail": "no GPU"}


def test_checks_that_another_run_made_are_in_no_trace() -> None:
    """They took longer than the step that found them done."""
    checks = ({"name": "test_a", "outcome": "passed", "seconds": 30.0, "detail": ""},)
    assert [event["name"] for event in slices(a_run(a_step("verify mmx", 0, 1), checks=checks))] == ["verify mmx"]
