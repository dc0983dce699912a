"""What the benchmark makes of what it measured."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks import builds
from benchmarks.builds import Cost, Row, measure, middle, render

if TYPE_CHECKING:
    from pathlib import Path

COST = Cost(cpu=50.0, wall=0.8, peak=900, wheel=1_300_000)


@pytest.mark.parametrize(
    ("share", "limit", "verdict"),
    [(1 / 10, 1 / 9, "reached"), (1 / 8, 1 / 9, "not reached"), (None, 1.0, "reached"), (None, 0.5, "not reached")],
)
def test_a_limit_is_of_upstream_s_cpu_seconds_or_of_the_clock(share: float | None, limit: float, verdict: str) -> None:
    """Whichever the row has; and without a limit nothing is claimed."""
    row = Row(case="c", cost=COST, share=share, limit=limit)
    assert row.verdict == verdict
    assert replace(row, limit=None).verdict == ""


def test_the_middle_is_taken_figure_by_figure() -> None:
    """One slow start does not count."""
    costs = [Cost(cpu=cpu, wall=wall, peak=peak) for cpu, wall, peak in ((1, 5, 30), (9, 2, 10), (2, 3, 20))]
    assert middle(costs) == Cost(cpu=2, wall=3, peak=20)


def test_the_page_says_what_was_measured() -> None:
    """A row each, and a bar as long as its CPU seconds."""
    rows = [Row(case="theirs", cost=replace(COST, cpu=600.0)), Row(case="ours", cost=COST, share=1 / 12, limit=1 / 9)]
    page = render(rows, {"Date": "today"})
    assert "| ours | 50.0 | 1/12.0 | 1/9 | reached | 0.8 | 900 MiB | 1.3 MB |" in page
    assert f"theirs{' ' * 35}{'█' * 60} 600.0" in page
    assert f"ours{' ' * 37}{'█' * 5} 50.0" in page


def test_what_a_command_and_its_children_take_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grandchild's work too; and a command that fails ends the run with what it said."""
    monkeypatch.setattr(builds, "BENCH", tmp_path)
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"
    assert measure([sys.executable, "-c", nested], tmp_path, os.environ).cpu >= 0.3
    with pytest.raises(SystemExit, match="no luck"):
        measure([sys.executable, "-c", "raise SystemExit('no luck')"], tmp_path, os.environ)
