import minibase


def test_add() -> None:
    """It adds."""
    assert minibase.add(1, 2) == 3
