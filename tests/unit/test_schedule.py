from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmstack.errors import GateError, InterruptedRunError
from mmstack.events import StepEnded, StepStarted
from mmstack.model import Step, StepKind
from mmstack.schedule import run_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mmstack.events import Event

LIGHT = [kind for kind in StepKind if kind not in {StepKind.BUILD, StepKind.VERIFY}]


def step(kind: StepKind, layer: str, *needs: str) -> Step:
    """Return a step."""
    heavy = kind in {StepKind.BUILD, StepKind.VERIFY}
    return Step(kind=kind, layer=layer, needs=needs, key="k", title=f"{kind} {layer}", heavy=heavy)


class Run:
    """A run of steps whose work is watched."""

    def __init__(self, work: Callable[[Step], None] = lambda _step: None) -> None:
        self.work = work
        self.events: list[Event] = []
        self.stops = 0
        self._lock = threading.Lock()

    def __call__(self, steps: Sequence[Step], cached: Collection[str] = (), *, roomy: bool = False) -> None:
        """Run them."""
        run_steps(steps, cached, self.execute, self.listen, roomy=roomy, stop=self._stop)

    def execute(self, step: Step) -> str:
        """Do a step."""
        self.work(step)
        return f"did {step.id}"

    def listen(self, event: Event) -> None:
        """Hear of it."""
        with self._lock:
            self.events.append(event)

    def _stop(self) -> None:
        self.stops += 1

    @property
    def started(self) -> list[str]:
        """Return the steps that began, in order."""
        return [event.step.id for event in self.events if isinstance(event, StepStarted)]

    @property
    def ended(self) -> dict[str, tuple[str, str]]:
        """Return how steps ended, and what was said of it."""
        return {event.step.id: (event.outcome, event.detail) for event in self.events if isinstance(event, StepEnded)}


CHAIN = (
    step(StepKind.FETCH, "a"),
    step(StepKind.BUILD, "a", "fetch a"),
    step(StepKind.GATE, "a", "build a"),
)


def test_steps_run_after_what_they_need() -> None:
    """Each begins and ends once, and its account is told."""
    run = Run()
    run(tuple(reversed(CHAIN)))
    assert run.started == ["fetch a", "build a", "gate a"]
    assert run.ended == {name: ("done", f"did {name}") for name in run.started}
    times = [(event.started, event.ended) for event in run.events if isinstance(event, StepEnded)]
    assert all(start <= end for start, end in times)
    assert run.stops == 0


def test_nothing_to_do_is_done_at_once() -> None:
    """An empty plan, or one that is all there."""
    run = Run()
    run(())
    run(CHAIN, {item.id for item in CHAIN})
    assert run.started == []
    assert run.ended == {item.id: ("cached", "") for item in CHAIN}


def test_what_is_cached_is_skipped_and_what_needs_it_runs() -> None:
    """As if it had just been made."""
    run = Run()
    run(CHAIN, {"fetch a", "build a"})
    assert run.started == ["gate a"]
    assert run.ended["build a"] == ("cached", "")


def test_light_steps_run_beside_each_other_and_beside_a_heavy_one() -> None:
    """Downloads do not wait for a compiler."""
    together = threading.Barrier(4, timeout=5)

    def work(_step: Step) -> None:
        together.wait()

    steps = [step(StepKind.FETCH, name) for name in "abc"]
    Run(work)([*steps, step(StepKind.BUILD, "d")])
    assert not together.broken


def test_heavy_steps_never_run_beside_each_other() -> None:
    """Each uses all cores."""
    busy = threading.Lock()

    def work(_step: Step) -> None:
        assert busy.acquire(blocking=False), "another heavy step is running"
        time.sleep(0.01)
        busy.release()

    steps = [step(kind, name) for kind in (StepKind.BUILD, StepKind.VERIFY) for name in "abc"]
    run = Run(work)
    run(steps)
    assert len(run.ended) == 6


def test_where_it_is_roomy_a_suite_runs_beside_a_compilation() -> None:
    """One of each kind, and no two of one kind."""
    together = threading.Barrier(2, timeout=5)
    busy = {StepKind.BUILD: threading.Lock(), StepKind.VERIFY: threading.Lock()}

    def work(item: Step) -> None:
        assert busy[item.kind].acquire(blocking=False), "another of its kind is running"
        together.wait()
        busy[item.kind].release()

    run = Run(work)
    run([step(kind, name) for kind in busy for name in "abc"], roomy=True)
    assert len(run.ended) == 6


def test_what_compiles_nothing_is_built_beside_what_does() -> None:
    """A layer of pure Python does not wait for the cores."""
    together = threading.Barrier(2, timeout=5)

    def work(_item: Step) -> None:
        together.wait()

    Run(work)([step(StepKind.BUILD, "a"), replace(step(StepKind.BUILD, "b"), heavy=False)])
    assert not together.broken


def test_the_first_failure_ends_the_run() -> None:
    """What needed it does not begin, and it is told once as failed."""

    def work(item: Step) -> None:
        if item.kind is StepKind.BUILD:
            raise GateError("it is not what it must be")

    run = Run(work)
    with pytest.raises(GateError, match="it is not what it must be"):
        run(CHAIN)
    assert run.started == ["fetch a", "build a"]
    assert run.ended["build a"] == ("failed", "it is not what it must be")
    assert run.stops == 1


def test_the_failure_is_what_is_raised_and_not_what_it_stopped() -> None:
    """A step that was stopped because of another's failure is not the cause."""
    begun, stopped = threading.Event(), threading.Event()

    def work(item: Step) -> None:
        if item.layer == "slow":
            begun.set()
            stopped.wait(5)
            raise InterruptedRunError("interrupted")
        begun.wait(5)
        raise GateError("the cause")

    run = Run(work)
    with pytest.raises(GateError, match="the cause"):
        run_steps(
            [step(StepKind.FETCH, "slow"), step(StepKind.FETCH, "bad")], (), run.execute, run.listen, stop=stopped.set
        )
    assert run.ended["fetch slow"] == ("failed", "interrupted")


def test_what_waits_for_the_cores_does_not_begin_after_a_failure() -> None:
    """A failed build is not followed by the next one."""

    def work(item: Step) -> None:
        time.sleep(0.01)
        raise GateError(item.layer)

    for _ in range(20):
        run = Run(work)
        with pytest.raises(GateError):
            run([step(StepKind.BUILD, name) for name in "abcdef"])
        assert len(run.started) == len(run.ended) == 1


def test_an_interrupt_stops_what_runs_and_is_passed_on() -> None:
    """Ctrl-C ends the wait for steps."""
    stopped = threading.Event()

    def work(_step: Step) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped.wait(5)
        raise InterruptedRunError("interrupted")

    run = Run(work)
    with pytest.raises(KeyboardInterrupt):
        run_steps(CHAIN, (), run.execute, run.listen, stop=stopped.set)
    assert run.started == ["fetch a"]
    assert run.ended["fetch a"] == ("failed", "interrupted")


@pytest.mark.parametrize("cached", [("fetch a",), ("fetch a", "build a", "gate a")], ids=["more to do", "all done"])
def test_an_interrupt_breaks_off_nothing_in_the_middle(cached: Sequence[str]) -> None:
    """What the main thread is at, however often it is asked, it ends; then it stops."""
    heard, stops = [], []
    before = signal.getsignal(signal.SIGINT)

    def listen(event: Event) -> None:
        if isinstance(event, StepEnded) and event.outcome == "cached":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            heard.append(event.step.id)

    def stop() -> None:
        signal.raise_signal(signal.SIGINT)
        stops.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        run_steps(CHAIN, cached, lambda _step: "", listen, stop=stop)
    assert heard == list(cached)
    assert stops == ["all of it"] * (len(cached) < len(CHAIN))
    assert signal.getsignal(signal.SIGINT) is before


@st.composite
def graphs(draw: st.DrawFn) -> list[Step]:
    """Return steps, each on some of those before it."""
    steps: list[Step] = []
    for number in range(draw(st.integers(0, 12))):
        needs = draw(st.lists(st.sampled_from(steps), unique_by=lambda item: item.id, max_size=3)) if steps else []
        steps.append(step(draw(st.sampled_from(list(StepKind))), str(number), *(item.id for item in needs)))
    return draw(st.permutations(steps))


@given(steps=graphs(), data=st.data())
@settings(max_examples=50, deadline=None)
def test_any_graph_runs_in_its_order(steps: list[Step], data: st.DataObject) -> None:
    """Every step once, none before what it needs, those that are there not at all."""
    cached = data.draw(st.sets(st.sampled_from([item.id for item in steps]))) if steps else set()
    run = Run()
    run(steps, cached)
    ends = list(run.ended)
    assert sorted(run.started) == sorted(item.id for item in steps if item.id not in cached)
    assert sorted(ends) == sorted(item.id for item in steps)
    places = {name: place for place, name in enumerate(ends)}
    assert all(places[need] < places[item.id] for item in steps for need in item.needs)
