"""What building mmcv costs, upstream's way and ours in turn, in one run: `nox -s bench`, written to docs/benchmarks.md.

Everything happens in a copy of this checkout below `.mmstack/bench`. CPU seconds are those of a command and of all that
it started and waited for. Upstream's way is what `pip wheel --no-build-isolation` runs: the tree's own setup.py with
its own options, in the environment and on the patched tree that ours is built from.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from mmstack.envs import uv_path
from mmstack.host import find_compiler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".mmstack" / "bench"
COPIED = ("mmstack", "pipelines", "patches", "stacks", "toolkits", "tasks.py", "pyproject.toml")
STACKS: Mapping[str, tuple[str, ...]] = {
    "cpu": (),
    "cuda": ("--cuda", "13.0", "--index-only", "--arch", "9.0"),
}
STARTS = 7
MIB = 1024  # of the kilobytes that the system counts in


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a command took: CPU seconds, wall seconds, MiB of its largest process, and bytes of the wheel it made."""

    cpu: float
    wall: float
    peak: int
    wheel: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of the table; `limit` is the most that its CPU seconds may be of upstream's, or its wall seconds."""

    case: str
    cost: Cost
    share: float | None = None
    limit: float | None = None

    @property
    def verdict(self) -> str:
        """Return whether the limit is held."""
        if self.limit is None:
            return ""
        return "reached" if (self.cost.wall if self.share is None else self.share) <= self.limit else "not reached"


def measure(words: Sequence[str | Path], cwd: Path, environment: Mapping[str, str]) -> Cost:
    """Run a command to its end and return what it took; one that fails ends the benchmark."""
    log = BENCH / "log.txt"
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(list(map(str, words)), cwd=cwd, env=dict(environment), stdout=sink, stderr=sink)  # noqa: S603 - ours
        _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    return Cost(
        cpu=round(usage.ru_utime + usage.ru_stime, 2),
        wall=round(time.monotonic() - started, 2),
        peak=usage.ru_maxrss // MIB,
    )


class Checkout:
    """A copy of this checkout, with a state of its own."""

    def __init__(self) -> None:
        self.root = BENCH / "checkout"
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, self.root / name)
        self.state = BENCH / "state"
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.environment["MMSTACK_HOME"] = str(self.state)

    def invoke(self, *words: str) -> Cost:
        """Run a task."""
        return measure([Path(sys.executable).with_name("invoke"), *words], self.root, self.environment)

    def key(self, options: Sequence[str]) -> str:
        """Return the key of mmcv in a plan."""
        words = [str(Path(sys.executable).with_name("invoke")), "plan", *options, "--json"]
        done = subprocess.run(words, cwd=self.root, env=self.environment, check=True, capture_output=True)  # noqa: S603 - ours
        return next(str(step["key"]) for step in json.loads(done.stdout)["steps"] if step["id"] == "build mmcv")

    def upstream(self, options: Sequence[str]) -> Cost:
        """Build mmcv as upstream does, where it is laid out and its environment is made."""
        work = self.state / "work" / f"mmcv-{self.key(options)[:16]}"
        tree, out = BENCH / "tree", BENCH / "out"
        for folder in (tree, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(work / "tree", tree)
        for name in ("CMakeLists.txt", "lean.h"):
            (tree / name).unlink(missing_ok=True)
        environment = {
            "PATH": os.pathsep.join([str(work / "env" / "bin"), os.environ["PATH"]]),
            "HOME": os.environ["HOME"],
            "MMCV_WITH_OPS": "1",
            "MAX_JOBS": str(os.cpu_count()),
            **(self._cuda() if options else {"FORCE_CUDA": "0"}),
        }
        words: list[str | Path] = [uv_path(), "build", "--offline", "--wheel", "--no-build-isolation", "--out-dir", out]
        cost = measure([*words, "--python", work / "env" / "bin" / "python", tree], tree, environment)
        return _with_wheel(cost, out)

    def ours(self, options: Sequence[str], *more: str) -> Cost:
        """Build mmcv as `build-stack` does, all else being there."""
        store = self.state / "artifacts" / self.key(options)
        shutil.rmtree(store, ignore_errors=True)
        cost = self.invoke("build-stack", *options, "--offline", "--stop-after", "gate", *more)
        return _with_wheel(cost, store)

    def _cuda(self) -> dict[str, str]:
        home = next(self.state.glob("toolkits/cuda-13.0-wheels-*/lib/python3*/site-packages/nvidia/cu13"))
        return {
            "FORCE_CUDA": "1",
            "CUDA_HOME": str(home),
            "TORCH_CUDA_ARCH_LIST": "9.0",
            "NVCC_PREPEND_FLAGS": f"-ccbin {shutil.which('g++')}",
        }


def _with_wheel(cost: Cost, folder: Path) -> Cost:
    return Cost(**{**asdict(cost), "wheel": next(folder.glob("*.whl")).stat().st_size})


def compare(checkout: Checkout, name: str, limit: float) -> list[Row]:
    """Return both ways' rows for a kind of stack."""
    options = STACKS[name]
    checkout.invoke("fetch", *options)
    shutil.rmtree(checkout.state / "artifacts" / checkout.key(options), ignore_errors=True)
    checkout.invoke("build-stack", *options, "--offline", "--stop-after", "env")
    upstream = checkout.upstream(options)
    ours = checkout.ours(options)
    rows = [
        Row(case=f"mmcv, {name}: upstream's way", cost=upstream),
        Row(case=f"mmcv, {name}: ours", cost=ours, share=ours.cpu / upstream.cpu, limit=limit),
    ]
    if name == "cpu" and shutil.which("ccache"):
        cold, warm = (checkout.ours(options, "--compiler-cache", "ccache") for _ in range(2))
        rows += [
            Row(case="mmcv, cpu: ours, filling a ccache", cost=cold, share=cold.cpu / upstream.cpu),
            Row(case="mmcv, cpu: ours, from a ccache", cost=warm, share=warm.cpu / upstream.cpu, limit=1 / 30),
        ]
    return rows


def starts(checkout: Checkout) -> list[Row]:
    """Return the rows of a build that has nothing to do and of the list of tasks, the median of several each."""
    checkout.invoke("build-stack")
    cases = {"build-stack, nothing to do": (("build-stack",), 1.0), "invoke --list": (("--list",), 0.3)}
    return [
        Row(case=case, cost=middle([checkout.invoke(*words) for _ in range(STARTS)]), limit=limit)
        for case, (words, limit) in cases.items()
    ]


def middle(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure."""
    names = ("cpu", "wall", "peak")
    found = {name: statistics.median(getattr(cost, name) for cost in costs) for name in names}
    return Cost(cpu=round(found["cpu"], 3), wall=round(found["wall"], 3), peak=round(found["peak"]))


def render(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """Return the page."""
    lines = ["# Benchmarks", "", "Made by `uv run nox -s bench`, both ways in turn in one run; each build once.", ""]
    lines += [f"{name}: {value}  " for name, value in facts.items()]
    lines += [
        "",
        "| case | CPU s | of upstream's | limit | | wall s | largest process | wheel |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = f"1/{1 / row.share:.1f}" if row.share else ""
        limit = "" if row.limit is None else f"1/{1 / row.limit:.0f}" if row.share else f"{row.limit} s wall"
        wheel = f"{row.cost.wheel / 1e6:.1f} MB" if row.cost.wheel else ""
        cells = [
            row.case,
            f"{row.cost.cpu}",
            share,
            limit,
            row.verdict,
            f"{row.cost.wall}",
            f"{row.cost.peak} MiB",
            wheel,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    bar = max((row.cost.cpu for row in rows), default=1.0) / 60
    lines += ["", "CPU seconds:", "", "```text"]
    lines += [f"{row.case:40} {'█' * max(round(row.cost.cpu / bar), 1)} {row.cost.cpu}" for row in rows]
    return "\n".join([*lines, "```", ""])


def main(names: Sequence[str]) -> None:
    """Run the cases that are named, `cpu`, `cuda` and `starts`, all if none is, and write the page."""
    BENCH.mkdir(parents=True, exist_ok=True)
    checkout, load = Checkout(), os.getloadavg()[2]
    wanted = names or ("cpu", "cuda", "starts")
    rows = [
        *(compare(checkout, "cpu", 1 / 9) if "cpu" in wanted else ()),
        *(compare(checkout, "cuda", 1 / 5) if "cuda" in wanted else ()),
        *(starts(checkout) if "starts" in wanted else ()),
    ]
    compiler, why = find_compiler()
    facts = {
        "Date": f"{datetime.now(timezone.utc):%d %B %Y}",
        "Machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "Compiler": compiler.version if compiler else why,
        "Python": platform.python_version(),
        "Load of the 15 minutes before": f"{load:.1f}",
        "CUDA case": "the stack cu130, one architecture, 9.0",
    }
    page = ROOT / "docs" / "benchmarks.md"
    page.write_text(render(rows, facts), encoding="utf-8")
    data = {"facts": facts, "rows": [{**asdict(row), "verdict": row.verdict} for row in rows]}
    page.with_suffix(".json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
