from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from mmstack import run

if TYPE_CHECKING:
    from collections.abc import Iterator

# what tests start inherits which signals are ignored: a shell without job control lets background jobs ignore SIGINT,
# and nohup SIGHUP; both are taken here as they are in a terminal
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _no_watchdog_left() -> Iterator[None]:
    """End the process that looks after commands, which otherwise outlives the tests."""
    yield
    watchdog = run._watchdog  # noqa: SLF001 - a run's end is its end
    if watchdog is not None:
        watchdog.communicate()
