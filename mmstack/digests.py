"""Whether a file still has the digest that is known of it, without reading gigabytes each time that it is asked."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from mmstack.keys import digest, file_digest
from mmstack.shapes import load

if TYPE_CHECKING:
    from pathlib import Path

# A file that changes again within one tick of the kernel's clock, 10 ms at most, keeps its times.
TICK_NS = 20_000_000


class Digests:
    """Remembers of each file what it was like when its digest was last taken.

    One whose size, times and inode are the same since is not read again. Whoever is about to use files
    doubts: from then on each is read once, whatever it looks like.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._doubtful = False
        self._read: dict[Path, list[str | int]] = {}

    def doubt(self) -> None:
        """Believe only what this run itself has read."""
        self._doubtful = True

    def of(self, path: Path, expected: str) -> str:
        """Return a file's sha256; `expected` is believed where the file is as it was when it had that.

        Raises:
            OSError: the file cannot be read.
        """
        before = _looks(path)
        wanted: list[str | int] = [expected, *before]
        if self._read.get(path) == wanted or (not self._doubtful and self._recall(path) == wanted):
            return expected
        found = file_digest(path)
        if found != expected:
            self._forget(path)
        elif _looks(path) == before:
            self._read[path] = wanted
            self._remember(path, wanted)
        return found

    def _file(self, path: Path) -> Path:
        return self.root / f"{digest(str(path))[:32]}.json"

    def _recall(self, path: Path) -> object:
        try:
            return load(self._file(path)).get("seen")
        except (OSError, ValueError, AttributeError):
            return None

    def _remember(self, path: Path, seen: list[str | int]) -> None:
        """Write it down; where that fails, or is cut short, the file is only read again the next time."""
        changed = path.stat().st_ctime_ns
        if abs(time.time_ns() - changed) < TICK_NS:
            return
        with suppress(OSError):
            self.root.mkdir(parents=True, exist_ok=True)
            self._file(path).write_text(json.dumps({"path": str(path), "seen": seen}), encoding="utf-8")

    def _forget(self, path: Path) -> None:
        self._read.pop(path, None)
        with suppress(OSError):
            self._file(path).unlink()


def _looks(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]
