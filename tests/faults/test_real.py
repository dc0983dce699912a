"""The same with a build of the real thing; run by `nox -s faults -- --real`, for it takes half an hour and more."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.tally import digests
from tests.integration.test_interruption import read_until
from tests.real import lay_out

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.tally import Tally

KILLS = 10
LAYER = "mmcv"
WORDS = ("build-stack", "--stack", "cpu", "--stop-after", "gate")


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.fault("`kill -9` of mmcv's build at a random moment")
def test_a_real_build_killed_at_random_moments(tmp_path: Path, tally: Tally) -> None:
    """Ten times in a row, while it compiles; then it ends in the bits of the build that nobody disturbed."""
    root, state = lay_out(tmp_path), tmp_path / "state"
    began = time.monotonic()
    undisturbed = start(root, state)
    out, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, out
    longest = time.monotonic() - began
    (wheel,) = state.glob(f"artifacts/*/{LAYER}-*.whl")
    wanted = digests(wheel.parent)
    shutil.rmtree(wheel.parent)
    dice = random.Random(KILLS)  # noqa: S311 - a test's dice
    for _ in range(KILLS):
        process = start(root, state)
        read_until(process, f"> build {LAYER}")
        time.sleep(dice.uniform(0.0, longest / KILLS))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        tally.count("killed")
    process = start(root, state)
    out, _ = process.communicate()
    tally.check(process.returncode == 0, out)
    tally.check(digests(wheel.parent) == wanted, "other bits")


def start(root: Path, state: Path) -> subprocess.Popen[str]:
    """Start the real build in a copy of this checkout, with a state of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "invoke", *WORDS],
        cwd=root,
        env={**os.environ, "MMSTACK_HOME": str(state)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
