"""mmcv's CUDA ops where memory is short: in a control group that may use 4 GB."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real import CUDA, lay_out

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 4_000_000_000
GROUPS = Path("/sys/fs/cgroup")
# files of the limit, of that of what is swapped out, of the kills and of the most that was used, in groups of
# version 2 and of version 1, whose second limit is that of both together
VERSIONS = (
    (GROUPS, "memory.max", "memory.swap.max", "memory.events", "memory.peak"),
    (
        GROUPS / "memory",
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.oom_control",
        "memory.max_usage_in_bytes",
    ),
)

pytestmark = pytest.mark.slow


class Group:
    """A control group of processes with a limit of memory."""

    def __init__(self, folder: Path, limit: str, swap: str, kills: str, peak: str) -> None:
        self.folder, self._limit, self._swap, self._kills, self._peak = folder, limit, swap, kills, peak

    def limit(self, count: int) -> None:
        """Set the limit, in bytes, of which none are swapped out; a kernel without swap has no file for that."""
        (self.folder / self._limit).write_text(str(count), encoding="utf-8")
        if (self.folder / self._swap).exists():
            (self.folder / self._swap).write_text(
                "0" if self._swap == "memory.swap.max" else str(count), encoding="utf-8"
            )

    def enter(self) -> None:
        """Put this process into the group."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()), encoding="utf-8")

    @property
    def kills(self) -> int:
        """Return how many of its processes were killed for want of memory."""
        found = re.search(r"^oom_kill (\d+)", (self.folder / self._kills).read_text(encoding="utf-8"), re.MULTILINE)
        assert found is not None
        return int(found[1])

    @property
    def peak(self) -> int:
        """Return the most bytes that it used, those of files that it read included."""
        return int((self.folder / self._peak).read_text(encoding="utf-8"))


@pytest.fixture
def group() -> Iterator[Group]:
    """A group of one's own, or none where this machine gives none."""
    for top, *names in VERSIONS:
        folder = top / f"mmstack-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if (folder / names[0]).exists():
                yield Group(folder, *names)
                return
        finally:
            folder.rmdir()
    pytest.skip("only root makes control groups, where they can limit memory")


def test_four_gigabytes_are_enough(group: Group, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without one compiler killed: as many run at once as the group's limit allows, whatever the machine has."""
    group.limit(LIMIT)
    root = lay_out(tmp_path)
    words = [sys.executable, "-m", "invoke", "build-stack", *CUDA, "--offline", "--stop-after", "gate", "--json"]
    done = subprocess.run(
        words,
        cwd=root,
        env={**os.environ, "MMSTACK_HOME": str(tmp_path / "state")},
        preexec_fn=group.enter,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with capsys.disabled():
        print(f"\n{group.peak / 1e9:.2f} GB at most with the files it read, {group.kills} killed")  # noqa: T201 - a figure
    assert group.kills == 0
    assert json.loads(done.stdout)["jobs"] == 1
    assert "killed" not in done.stderr
