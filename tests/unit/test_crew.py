"""Several at a time: in order, and no longer than anybody wants it."""

from __future__ import annotations

import threading
import time

import pytest

from mmstack.errors import InterruptedRunError
from mmstack.sources.crew import at_once


def test_results_come_in_the_order_of_the_items() -> None:
    """Whichever is ready first."""

    def wait(number: int) -> int:
        time.sleep(0.05 * (3 - number))
        return number * 2

    assert at_once(wait, [1, 2, 3], workers=3, stopped=lambda: False) == [2, 4, 6]
    assert at_once(wait, [], workers=3, stopped=lambda: False) == []


def test_the_first_failure_ends_it() -> None:
    """What is in work is told, and the rest is not begun."""
    halt, begun = threading.Event(), list[int]()

    def fail(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise ValueError(number)
        halt.wait(60)

    with pytest.raises(ValueError, match="1"):
        at_once(fail, [1, 2, 3, 4], workers=2, stopped=lambda: False, halt=halt)
    assert halt.is_set()
    assert set(begun) <= {1, 2}


def test_what_failed_is_told_and_not_who_heard_of_it() -> None:
    """Who is interrupted because another failed is not the cause, however soon he says so."""

    class Slow(threading.Event):
        """Lets the others go first."""

        def set(self) -> None:
            super().set()
            time.sleep(0.05)

    halt = Slow()

    def fail(number: int) -> None:
        if number == 1:
            raise ValueError(number)
        halt.wait(60)
        raise InterruptedRunError("interrupted")

    with pytest.raises(ValueError, match="1"):
        at_once(fail, [2, 3, 1], workers=3, stopped=lambda: False, halt=halt)


def test_a_stop_waits_for_nobody() -> None:
    """A server that says nothing may do so for minutes."""
    never, stop = threading.Event(), threading.Event()
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    with pytest.raises(InterruptedRunError):
        at_once(lambda _item: never.wait(60), range(20), workers=8, stopped=stop.is_set)
    assert time.monotonic() - started < 30
    never.set()
