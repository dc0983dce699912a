from typing import Any

import miniext
import pytest


def test_total() -> None:
    """It sums every value, the first one too: what our patch mends."""
    assert miniext.total([1, 2, 4]) == 7


def test_scale(facts: dict[str, Any]) -> None:
    """It was compiled with the unit of the layer below."""
    assert miniext.scale(2) == 2 * int(facts["expect"]["unit"])


def test_gpu() -> None:
    """It would run on a GPU."""
    pytest.skip("not run: no GPU")
