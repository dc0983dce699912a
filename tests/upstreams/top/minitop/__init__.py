"""The highest layer: pure Python upon both of the others."""

from minibase import add
from miniext import total


def mean(values: list[float]) -> float:
    """Return the arithmetic mean."""
    return total(values) / len(values)


def padded(values: list[float], by: float) -> float:
    """Return the mean, moved."""
    return add(mean(values), by)
