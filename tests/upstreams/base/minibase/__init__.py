"""The lowest layer: pure Python, and a constant that the layer above is compiled with."""

UNIT = 10


def add(left: float, right: float) -> float:
    """Return the sum."""
    return left + right
