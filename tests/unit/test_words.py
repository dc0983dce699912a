"""Seconds, bytes and long lists read as people say them."""

from __future__ import annotations

from mmstack.words import duration, gib, listed, size


def test_times_and_sizes_read_as_people_say_them() -> None:
    """Small numbers keep a digit, large ones change their unit."""
    assert [duration(each) for each in (0, 0.34, 59.96, 83, 3900)] == [
        "0.0 s",
        "0.3 s",
        "1 min 00 s",
        "1 min 23 s",
        "1 h 05 min",
    ]
    sizes = {0: "0 B", 999: "999 B", 999_999: "1.0 MB", 12_345_678: "12.3 MB", 5_000_000_000_000: "5000.0 GB"}
    assert {each: size(each) for each in sizes} == sizes


def test_memory_is_said_in_gib() -> None:
    """It is sold in powers of two."""
    assert gib(3 << 30) == "3.0 GiB"


def test_a_long_list_says_how_many_more_there_are() -> None:
    """Whoever reads some knows that these are not all."""
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b"], 5) == "a, b and 3 more"
