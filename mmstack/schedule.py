"""Runs a plan's graph: whatever is ready, as much at once as is sensible, and stops cleanly."""

from __future__ import annotations

import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from queue import Empty, SimpleQueue
from threading import Event, Lock, current_thread, main_thread
from typing import TYPE_CHECKING

from mmstack.events import StepEnded, StepStarted
from mmstack.model import StepKind
from mmstack.run import stop_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from mmstack.events import Listener, Outcome
    from mmstack.model import Step

WORKERS = 8
SECONDS_TO_A_SIGNAL = 1.0


def run_steps(
    steps: Sequence[Step],
    cached: Collection[str],
    execute: Callable[[Step], str],
    listener: Listener,
    *,
    roomy: bool = False,
    stop: Callable[[], None] = stop_all,
) -> None:
    """Execute every step that is not cached, each after what it needs.

    Heavy steps run one at a time; where it is roomy, one of each kind: a suite, which rarely keeps
    all cores busy, beside a compilation. The rest runs in parallel. The first failure stops what
    runs, by `stop`, and is raised.

    Raises:
        KeyboardInterrupt: a signal asked to stop.
    """
    graph = TopologicalSorter({step.id: step.needs for step in steps})
    graph.prepare()
    by_id = {step.id: step for step in steps}
    one = Lock()
    turns = {kind: Lock() if roomy else one for kind in StepKind}
    worker = _Worker(execute=execute, listener=listener, turns=turns)
    running: dict[Future[None], Step] = {}
    news: SimpleQueue[Future[None] | None] = SimpleQueue()
    with _signals_in(news), ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="step") as pool:
        try:
            while graph.is_active():
                for name in graph.get_ready():
                    if name in cached:
                        _skip(by_id[name], listener)
                        graph.done(name)
                    else:
                        future = pool.submit(worker.run, by_id[name])
                        running[future] = by_id[name]
                        future.add_done_callback(news.put)
                if running:
                    ended = _await(news)
                    ended.result()
                    graph.done(running.pop(ended).id)
        except BaseException:
            worker.stopped.set()
            stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def _signals_in(news: SimpleQueue[Future[None] | None]) -> Iterator[None]:
    """Let a signal that asks to stop be news, not an exception wherever the main thread is.

    In the middle of what takes and gives back the locks of threads, one would leave a lock taken, for which
    all wait for ever: https://docs.python.org/3/library/signal.html#handlers-and-exceptions.
    """
    asked: list[int] = []

    def tell(number: int, _frame: object) -> None:
        asked.append(number)
        news.put(None)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if current_thread() is main_thread() else ()
    before = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
    for number in before:
        signal.signal(number, tell)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:  # after the last step ended
        raise KeyboardInterrupt


def _await(news: SimpleQueue[Future[None] | None]) -> Future[None]:
    """Return the next step's future that ends."""
    while True:
        # a signal that another thread took, as when all were suspended, does not end a wait without a limit
        with suppress(Empty):
            if (ended := news.get(timeout=SECONDS_TO_A_SIGNAL)) is not None:
                return ended
            raise KeyboardInterrupt


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """What the threads of one run share."""

    execute: Callable[[Step], str]
    listener: Listener
    turns: Mapping[StepKind, Lock]
    stopped: Event = field(default_factory=Event)

    def run(self, step: Step) -> None:
        with self.turns[step.kind] if step.heavy else nullcontext():
            # what stopped us is on its way to the main thread, and no second failure shall overtake it
            if not self.stopped.is_set():
                self._tell(step)

    def _tell(self, step: Step) -> None:
        started = time.time()
        self.listener(StepStarted(step=step))
        try:
            detail = self.execute(step)
        except BaseException as error:
            self.stopped.set()
            self._end(step, "failed", started, str(error))
            raise
        self._end(step, "done", started, detail)

    def _end(self, step: Step, outcome: Outcome, started: float, detail: str) -> None:
        self.listener(StepEnded(step=step, outcome=outcome, started=started, ended=time.time(), detail=detail))


def _skip(step: Step, listener: Listener) -> None:
    now = time.time()
    listener(StepEnded(step=step, outcome="cached", started=now, ended=now))
