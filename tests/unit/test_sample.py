"""What a few files, drawn at random, say of all."""

from __future__ import annotations

import pytest

from benchmarks.sample import Measured, draw, reckon, total

WEIGHTS = {f"{number}.o": float(1 + number % 7) for number in range(500)}


def test_the_same_files_are_drawn_again_and_heavy_ones_more_often() -> None:
    """Else two runs could not be compared, and each file would not stand for its part."""
    drawn = draw(WEIGHTS, 4000)
    assert drawn == draw(dict(reversed(WEIGHTS.items())), 4000)
    heavy = sum(WEIGHTS[name] == 7 for name in drawn) / len(drawn)
    assert heavy == pytest.approx(sum(each for each in WEIGHTS.values() if each == 7) / sum(WEIGHTS.values()), rel=0.1)


def test_files_that_cost_as_they_weigh_leave_no_doubt() -> None:
    """Then any sample says exactly what all take; what the second way takes once is added."""
    drawn = [Measured(weight=each, first=2 * each, second=each) for each in (1.0, 5.0, 7.0)]
    found = reckon(drawn, weight=100.0, more=10.0)
    assert found.first == pytest.approx(200.0)
    assert found.share == pytest.approx(0.55)
    assert found.error == 0.0


def test_what_all_take_is_told_with_its_error() -> None:
    """The spread of what was drawn says how far it may be off."""
    assert total([(1.0, 2.0), (5.0, 10.0), (7.0, 14.0)], 100.0) == pytest.approx((200.0, 0.0))
    costs = {name: each * (0.5 if int(name[:-2]) % 3 else 1.5) for name, each in WEIGHTS.items()}
    found, error = total([(WEIGHTS[name], costs[name]) for name in draw(WEIGHTS, 64)], sum(WEIGHTS.values()))
    assert found == pytest.approx(sum(costs.values()), abs=2 * error)
    assert 0 < error < found / 5


def test_what_is_reckoned_is_within_its_error_of_the_truth() -> None:
    """Where weights are wrong too, here those of every third file by half, and what is saved differs."""
    first = {name: each * (0.5 if int(name[:-2]) % 3 else 1.5) for name, each in WEIGHTS.items()}
    second = {name: each * (0.6 + int(name[:-2]) % 5 / 10) for name, each in first.items()}
    drawn = [Measured(weight=WEIGHTS[name], first=first[name], second=second[name]) for name in draw(WEIGHTS, 64)]
    found = reckon(drawn, sum(WEIGHTS.values()))
    assert found.share == pytest.approx(sum(second.values()) / sum(first.values()), abs=2 * found.error)
    assert 0.005 < found.error < 0.05
