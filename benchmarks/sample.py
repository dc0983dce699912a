"""What all files of a build take two ways, reckoned from few that are drawn at random, each as likely as heavy."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SEED = 1  # so that another run compiles the same files


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A file that was drawn: its weight, and the CPU seconds that it took one way and the other."""

    weight: float
    first: float
    second: float


@dataclass(frozen=True, kw_only=True)
class Reckoned:
    """What all files take the first way, in CPU seconds, the second way's share of that, and its standard error."""

    first: float
    share: float
    error: float


def draw(weights: Mapping[str, float], count: int) -> list[str]:
    """Draw files, each as likely as its weight is of all; a heavy one may come twice."""
    names = sorted(weights)
    return random.Random(SEED).choices(names, [weights[name] for name in names], k=count)  # noqa: S311 - no secret


def total(drawn: Sequence[tuple[float, float]], weight: float) -> tuple[float, float]:
    """Reckon from at least two drawn files, by weight and cost of each, what all cost, and its standard error.

    Each stands for its part of the whole weight, whatever it weighs itself (Hansen and Hurwitz's estimator).
    """
    costs = [cost / own for own, cost in drawn]
    return weight * statistics.fmean(costs), weight * statistics.stdev(costs) / math.sqrt(len(costs))


def reckon(drawn: Sequence[Measured], weight: float, more: float = 0.0) -> Reckoned:
    """Reckon from at least two drawn files what all take.

    Args:
        drawn: what was measured.
        weight: of all files together.
        more: CPU seconds that the second way takes once, besides the files.
    """
    first, _ = total([(each.weight, each.first) for each in drawn], weight)
    ratio = sum(each.second / each.weight for each in drawn) / sum(each.first / each.weight for each in drawn)
    spread = statistics.stdev((each.second - ratio * each.first) / each.weight for each in drawn)
    return Reckoned(first=first, share=ratio + more / first, error=weight * spread / math.sqrt(len(drawn)) / first)
