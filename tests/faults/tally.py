"""What the fault tests count, and the tables that are made of it: `python -m tests.faults.tally FOLDER COMMAND`."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from mmstack.keys import file_digest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- counts -->\n", "<!-- end of counts -->"
FOLDER = "MMSTACK_FAULTS"  # where counts are written, if anywhere


@dataclass(kw_only=True)
class Tally:
    """How often one fault was made, how each of these ended, and which did not end as they must."""

    fault: str
    test: str
    ended: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    checked: int = 0
    began: float = field(default_factory=time.monotonic)

    def count(self, how: str, times: int = 1) -> None:
        """Count a fault by how it ended."""
        self.ended[how] += times

    def check(self, good: object, text: str) -> None:
        """Count a check, and remember one that failed; the test itself fails at its end, when all are counted."""
        self.checked += 1
        if not good:
            self.failures.append(text)

    def write(self, folder: Path) -> None:
        """Write it down for the table."""
        file = folder / f"{self.test.replace('/', '-')}.json"
        file.write_text(
            json.dumps(
                {
                    "fault": self.fault,
                    "test": self.test,
                    "count": sum(self.ended.values()),
                    "ended": dict(self.ended),
                    "checked": self.checked,
                    "failures": self.failures,
                    "seconds": round(time.monotonic() - self.began, 1),
                    "day": datetime.now(timezone.utc).date().isoformat(),
                }
            ),
            encoding="utf-8",
        )


def machine() -> str:
    """Return in words what this was run on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def tables(folder: Path, command: str) -> str:
    """Return the table of all counts in a folder, which that command wrote; tests of one fault are added up."""
    counts = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    lines = ["| fault | made | ended so | checks | failures |", "|---|---|---|---|---|"]
    for fault in sorted({item["fault"] for item in counts}):
        items = [item for item in counts if item["fault"] == fault]
        ended = sum((Counter(item["ended"]) for item in items), Counter[str]())
        made, checked = sum(ended.values()), sum(item["checked"] for item in items)
        failures = sum(len(item["failures"]) for item in items)
        how = ", ".join(f"{count} {name}" for name, count in sorted(ended.items()))
        lines.append(f"| {fault} | {made} | {how} | {checked} | {failures} |")
    seconds = sum(item["seconds"] for item in counts)
    days = sorted({item["day"] for item in counts})
    return "\n".join(
        [
            f"Run on {', '.join(days)} by `{command}` on {machine()}:",
            f"{len(counts)} tests, {seconds:.0f} seconds in all.",
            "",
            *lines,
            "",
        ]
    )


def put(counts: str, page: Path) -> None:
    """Put counts into a page, in the place of the last ones."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}{counts}{END}{after}", encoding="utf-8")


def digests(folder: Path) -> dict[str, str]:
    """Return the digests of the wheels in a folder."""
    return {path.name: file_digest(path) for path in sorted(folder.glob("*.whl"))}


if __name__ == "__main__":
    put(tables(Path(sys.argv[1]), sys.argv[2]), PAGE)
