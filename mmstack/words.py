"""What people say for seconds, bytes and long lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MINUTE, HOUR = 60, 3600


def duration(seconds: float) -> str:
    """Return seconds as people say them: `0.3 s`, `5 min 12 s`, `1 h 05 min`."""
    whole = round(seconds)
    if whole < MINUTE:
        return f"{seconds:.1f} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE:02} min"


def size(count: int) -> str:
    """Return the bytes of a file as people say them, in powers of a thousand."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if round(number, 1) < 1000 or unit == "GB":  # noqa: PLR2004 - what kilo means
            break
        number /= 1000
    return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"


def gib(count: int) -> str:
    """Return the bytes of a memory or a disk, in GiB."""
    return f"{count / (1 << 30):.1f} GiB"


def listed(shown: Sequence[str], count: int) -> str:
    """Return some of so many names, and how many more there are."""
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f"{', '.join(shown)}{more}"
