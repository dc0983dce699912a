"""What the benchmark makes of what it measured."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

from benchmarks import builds
from benchmarks.builds import Cost, Row, cells, in_turn, measure, one_of, render, write

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
    assert one_of(costs) == Cost(cpu=2, wall=3, peak=20)


def test_a_long_command_is_held_still_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run before it, while it and what it started are held still, and after it, and are no part of its cost."""
    monkeypatch.setattr(builds, "BENCH", tmp_path)
    program = "import os, time\nos.setpgid(0, 0)\nfor n in range(40): open('ticks', 'a').write('.'); time.sleep(0.05)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}], check=True)"
    seen: list[int] = []

    def other() -> Cost:
        ticks = tmp_path / "ticks"
        before = ticks.stat().st_size if ticks.exists() else 0
        time.sleep(0.5)
        assert before == (ticks.stat().st_size if ticks.exists() else 0), "it is held still"
        seen.append(before)
        return Cost(cpu=float(len(seen)), wall=0.5, peak=1)

    cost, (mean,) = in_turn([sys.executable, "-c", nested], tmp_path, dict(os.environ), [other], every=0.7)
    assert seen[0] == 0
    assert seen[-1] == 40
    assert len(seen) > 2, "one at least between them"
    assert mean.cpu == pytest.approx((len(seen) + 1) / 2)
    assert cost.wall >= 2.0


def test_the_page_says_what_was_measured() -> None:
    """A row each, and a bar as long as its CPU seconds."""
    rows = [
        Row(case="theirs", cost=replace(COST, cpu=600.0)),
        Row(case="ours", cost=COST, share=1 / 12, limit=1 / 9, floor=40.0),
    ]
    page = render([({"Date": "today"}, list(map(asdict, rows)))])
    assert (
        "| ours | 50.0 | 1/12.0 of upstream's | 1/9.0 | reached | 40.0 (1.2 times) | 0.8 | 900 MiB | 1.3 MB |" in page
    )
    assert f"theirs{' ' * 45}{'█' * 60} 600.0 CPU s" in page
    assert f"ours{' ' * 47}{'█' * 5} 50.0 CPU s" in page


def test_what_is_nearly_as_much_is_said_as_a_number() -> None:
    """An overhead of a hundredth would be lost in 1/1.0."""
    row = Row(case="step", cost=COST, share=1.014, of="ninja alone", limit=1.03)
    assert cells(row)[2:5] == ["1.014 of ninja alone", "1.030", "reached"]


def test_times_of_calls_have_a_table_of_their_own() -> None:
    """Their rows are no costs."""
    rows = [{"call": "nms", "first_ms": 2.0, "second_ms": 1.9, "ratio": 0.95}]
    assert "| nms | 2.0 | 1.9 | 0.95 |" in render([({"Date": "today"}, rows)])


def test_a_case_that_there_is_not_is_refused() -> None:
    """Before anything is measured, with those that there are."""
    with pytest.raises(SystemExit, match="no case gpu: name some of cpu, cuda"):
        builds.main(["cpu", "gpu"])


def test_a_case_that_is_measured_again_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps the facts of its own run."""
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(builds, "ROOT", tmp_path)
    write("cuda", [asdict(Row(case="slow", cost=COST))], {"Date": "then"})
    write("cpu", [asdict(Row(case="quick", cost=COST, share=0.1, limit=0.2))], {"Date": "now"})
    write("cpu", [asdict(Row(case="quicker", cost=COST, share=0.05, limit=0.2))], {"Date": "later"})
    page = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert (
        page.index("Date: later.")
        < page.index("| quicker | 50.0 | 1/20.0 of upstream's | 1/5.0 |")
        < page.index("Date: then.")
    )
    assert "| slow | 50.0 |" in page
    assert "now" not in page


def test_what_a_command_and_its_children_take_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grandchild's work too; and a command that fails ends the run with what it said."""
    monkeypatch.setattr(builds, "BENCH", tmp_path)
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"
    assert measure([sys.executable, "-c", nested], tmp_path, os.environ).cpu >= 0.3
    with pytest.raises(SystemExit, match="no luck"):
        measure([sys.executable, "-c", "raise SystemExit('no luck')"], tmp_path, os.environ)
