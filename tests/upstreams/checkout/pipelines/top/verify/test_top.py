import minitop


def test_mean() -> None:
    """It uses the compiled layer."""
    assert minitop.mean([1, 2, 6]) == 3


def test_padded() -> None:
    """It uses both layers."""
    assert minitop.padded([1, 2, 6], 1) == 4
