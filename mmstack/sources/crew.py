"""Several things at a time, by threads that nobody must wait for: a server that went silent holds up no stop."""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from mmstack.run import interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

POLL_SECONDS = 0.1
GRACE_SECONDS = 0.3
T = TypeVar("T")
R = TypeVar("R")


def at_once(
    do: Callable[[T], R],
    items: Collection[T],
    *,
    workers: int,
    stopped: Callable[[], bool],
    halt: threading.Event | None = None,
) -> list[R]:
    """Return what comes of each item, in their order; the first failure ends it.

    Args:
        do: what is done to each, in whatever thread.
        items: what it is done to.
        workers: how many are in work at once.
        stopped: says whether we are asked to stop.
        halt: is set when it is over, so that what is still in work may know.

    Raises:
        InterruptedRunError: we are asked to stop.
    """
    halt = halt or threading.Event()
    jobs: SimpleQueue[tuple[int, T]] = SimpleQueue()
    for job in enumerate(items):
        jobs.put(job)
    found: dict[int, R] = {}
    outcomes: SimpleQueue[BaseException | None] = SimpleQueue()

    def work() -> None:
        while not (halt.is_set() or stopped()):
            try:
                number, item = jobs.get_nowait()
            except Empty:
                return
            try:
                found[number] = do(item)
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
                outcomes.put(error)  # before the others hear that it is over, and say that they were interrupted
                halt.set()
            else:
                outcomes.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(items)))]
    for thread in threads:
        thread.start()
    try:
        _await(len(items), outcomes, stopped)
    finally:
        halt.set()
        deadline = time.monotonic() + GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    return [found[number] for number in range(len(items))]


def _await(count: int, outcomes: SimpleQueue[BaseException | None], stopped: Callable[[], bool]) -> None:
    while count:
        try:
            error = outcomes.get(timeout=POLL_SECONDS)
        except Empty:
            if stopped():
                raise interrupted() from None
            continue
        if error is not None:
            raise error
        count -= 1
