"""A disk that is full, in whatever step."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from mmstack.model import StepKind
from tests.faults.tally import digests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.faults.tally import Tally
    from tests.support import Checkout

# Build on a disk of its own: until a step, on to the next one with hardly more room than that took, and all with room.
# What was said of the full disk goes to a file, and the wheels beside it: nobody else sees that disk.
THRICE = """
place=$1; before=$2; step=$3; spare=$4; into=$5; shift 5
mkdir -p "$place" "$into"; mount -t tmpfs -o size=1g none "$place"
if test "$before"; then "$@" --stop-after "$before" >&2; fi
used=$(df -k --output=used "$place" | tail -n 1)
mount -o remount,size=$((used + spare))k "$place"
set +e; "$@" --stop-after "$step" >"$into/told" 2>&1; echo $? >"$into/code"; set -e
mount -o remount,size=1g "$place"
"$@"
cp dist/mini/wheels/* "$into"
"""
FULL = re.compile(r"^✗ (\w+)[^(]* \(failed after [^)]*\)(?!: interrupted)", re.MULTILINE)
# Each step, the one before it, and how many KiB it finds on the disk that it writes to; a gate writes little.
STEPS = {
    "fetch": ("", (16, 256, 1024)),
    "source": ("fetch", (24, 36, 48)),
    "env": ("source", (4, 1024, 2048)),
    "build": ("env", (4, 64, 2048)),
    "gate": ("build", range(12, 36, 4)),
    "install": ("gate", (64, 256, 512)),
    "verify": ("install", (4, 1024, 6144)),
}
BY_CMAKE = {"configure": ("env", (4, 64, 512)), "build": ("configure", (4, 256, 1024))}
# Steps after which the last layer is left out: it needs room before the others do, and its gate gives some back.
FOR_ONE = ("configure", "build")
FAULT = pytest.mark.fault("a disk that is full in the middle of a step")


def test_every_kind_of_step_is_known() -> None:
    """The steps below are all there are."""
    assert {*STEPS, *BY_CMAKE} == {str(kind) for kind in StepKind}


def slow(steps: Mapping[str, tuple[str, Sequence[int]]]) -> list[object]:
    """Return the cases of the session `faults`."""
    return [pytest.param(step, *case, id=step, marks=pytest.mark.slow) for step, case in steps.items()]


@FAULT
@pytest.mark.parametrize(
    ("step", "before", "spares"), [pytest.param("env", "source", (256,), id="smoke"), *slow(STEPS)]
)
def test_a_full_disk(
    built: Checkout, namespace: tuple[str, ...], tally: Tally, step: str, before: str, spares: Sequence[int]
) -> None:
    """Exit 3 and what to do; with room, the build carries on from what is there, and ends in the same bits."""
    fill(built, namespace, tally, step, before, spares)


@FAULT
@pytest.mark.parametrize(("step", "before", "spares"), slow(BY_CMAKE))
def test_a_full_disk_where_cmake_writes(
    project: Checkout, namespace: tuple[str, ...], tally: Tally, step: str, before: str, spares: Sequence[int]
) -> None:
    """The same."""
    fill(project, namespace, tally, step, before, spares)


def fill(
    checkout: Checkout, namespace: tuple[str, ...], tally: Tally, step: str, before: str, spares: Sequence[int]
) -> None:
    """Leave a step so much room, and demand that it found too little; all but `install` write to the state."""
    words = ("--without", "top") if before in FOR_ONE else ()
    wanted = {name: wheel for name, wheel in checkout.wheels().items() if not (words and "top" in name)}
    place = checkout.dist.parent if step == "install" else checkout.state
    for spare in spares:
        shutil.rmtree(checkout.dist, ignore_errors=True)
        into = checkout.root.parent / f"spare-{spare}"
        script = ("sh", "-ec", THRICE, "sh", str(place), before, step, str(spare), str(into))
        done = checkout.build(*words, before=[*namespace, *script])
        told, code = (into / "told").read_text(encoding="utf-8"), int((into / "code").read_text())
        tally.count(how(told, code))
        where = f"{step}, {spare} KiB"
        tally.check(code == 0 or (code == 3 and "  fix  " in told), f"{where}: {told}")
        tally.check(code == 0 or "No space left on device" in told or "disk is full" in told, f"{where}: {told}")
        tally.check("write below" not in told or f"write below {place}" in told, f"{where}, of another disk: {told}")
        tally.check("Traceback" not in told + done.text, f"{where}: {told}{done.text}")
        tally.check(done.code == 0, f"{where}, with room: {done.text}")
        tally.check(digests(into) == wanted, f"{where}: other bits")
    tally.check(tally.ended[f"full in {step}: exit 3"], f"not full in {step}: {tally.ended}")


def how(told: str, code: int) -> str:
    """Return in which step the disk was full."""
    full = FULL.search(told)
    return "had room" if code == 0 else f"full in {full[1] if full else 'no step'}: exit {code}"
