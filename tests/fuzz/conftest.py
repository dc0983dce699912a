"""Counts the cases of hostile input, those of all workers together, and tells at the end how many there were."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.fuzz import cases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STARTED = time.monotonic()
KEY = "mmstack_cases"
from_workers: list[dict[str, int]] = []


class _Workers:
    """What is known of xdist's workers; only a run that has some knows this hook."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:  # noqa: ANN401, ARG002 - xdist's own
        """Take a worker's counts over."""
        from_workers.append(getattr(node, "workeroutput", {}).get(KEY, {}))


def pytest_configure(config: pytest.Config) -> None:
    """Listen to the workers."""
    config.pluginmanager.register(_Workers())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand a worker's counts to where the run was started."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[KEY] = dict(cases.COUNTS)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many cases there were."""
    counts = cases.merge([*from_workers, cases.COUNTS])
    if counts and "PYTEST_XDIST_WORKER" not in os.environ:
        terminalreporter.section("hostile input")
        terminalreporter.write_line(cases.write_counts(counts, time.monotonic() - STARTED))


@pytest.fixture(autouse=True)
def nowhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Be in an empty folder, which must be empty afterwards: nothing is written where somebody happens to be."""
    folder = tmp_path_factory.mktemp("nowhere")
    monkeypatch.chdir(folder)
    yield folder
    assert list(folder.iterdir()) == []
