"""A disk that is full, sooner or later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.tally import Tally
    from tests.support import Checkout

# Run twice on the same small disk: as it is, and with room; the first exit code goes to a file.
TWICE = """
mkdir -p "$1"; mount -t tmpfs -o size=$2k none "$1"
code=$3; room=$4; shift 4
set +e; "$@"; echo $? > "$code"; set -e
mount -o remount,size=1g "$room"
exec "$@"
"""
SIZES = [int(64 * 1.45**step) for step in range(20)]  # KiB, up to 75 MiB


@pytest.mark.fault("a disk of growing size for the state, full at another write each")
@pytest.mark.parametrize(
    "sizes",
    [pytest.param((2048,), id="smoke")]
    + [pytest.param(SIZES[part::4], id=f"full{part}", marks=pytest.mark.slow) for part in range(4)],
)
def test_a_full_disk_at_every_write(
    built: Checkout, namespace: tuple[str, ...], tally: Tally, sizes: list[int]
) -> None:
    """Exit 3 and what to do; with room, the same command carries on from what is there, and ends in the same bits."""
    wanted = built.wheels()
    for size in sizes:
        place, code = built.root.parent / f"disk-{size}", built.root.parent / f"code-{size}"
        words = (str(place), str(size), str(code), str(place))
        before = [*namespace, "sh", "-ec", TWICE, "sh", *words]
        done = built.build(before=before, MMSTACK_HOME=str(place))
        first = int(code.read_text())
        tally.count({0: "had room", 3: "full: exit 3"}.get(first, f"exit {first}"))
        tally.check(first in {0, 3}, f"{size}: {done.text}")
        tally.check(first == 0 or "No space left on device" in done.err or "disk is full" in done.err, done.text)
        tally.check("Traceback" not in done.text, done.text)
        tally.check(done.code == 0, f"{size}, with room: {done.text}")
        tally.check(built.wheels() == wanted, f"{size}: other bits")
