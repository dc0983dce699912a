"""What building mmcv costs, upstream's way and ours in turn, in one run: `nox -s bench`, written to docs/benchmarks.md.

Everything happens in a copy of this checkout below `.mmstack/bench`. CPU seconds are those of a command and of all that
it started and waited for. Upstream's way is what `pip wheel --no-build-isolation` runs: the tree's own setup.py with
its own options, in the environment and on the patched tree that ours is built from.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from mmstack.envs import uv_path
from mmstack.host import find_compiler

if TYPE_CHECKING:
    import resource
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".mmstack" / "bench"
COPIED = ("mmstack", "pipelines", "patches", "stacks", "toolkits", "tasks.py", "pyproject.toml")
CUDA = ("--cuda", "13.0", "--toolkit", "wheels", "--arch")
STACKS: Mapping[str, tuple[str, ...]] = {
    "cpu": (),
    "cuda": (*CUDA, "9.0"),
    "cuda-4": (*CUDA, "8.0,8.6,9.0,12.0"),
}
CACHED = ("--compiler-cache", "ccache")
LIMITS = {"cpu": 1 / 9, "cuda": 1 / 5}
CHANGED = {"cpu": "pytorch/cpu/nms.cpp", "cuda": "pytorch/cuda/nms_cuda.cu"}
CASES = (*STACKS, "overhead", "starts", "run-time")
STARTS = 7
TURNS = 3
TURN_SECONDS = {"cpu": 240, "cuda": 600}
POLL = 0.2
# what each source includes
HEADERS = {
    ".cu": '#include "pytorch_cuda_helper.hpp"\n#include "pytorch_cpp_helper.hpp"\n',
    ".cxx": '#include "pytorch_cpp_helper.hpp"\n#include "pytorch_device_registry.hpp"\n',
    ".cpp": '#include "pytorch_cpp_helper.hpp"\n',
    "pybind.cpp": "#include <torch/csrc/utils/pybind.h>\n#include <torch/types.h>\n",
}
HEAD = (
    "| case | CPU s | share | limit | | floor, CPU s | wall s | largest process | wheel |",
    "|---|---|---|---|---|---|---|---|---|",
)
TIMES = (
    "| call | upstream's build, ms | ours, ms | ours / upstream's | noise | ours is |",
    "|---|---|---|---|---|---|",
)
KEY = "key.txt"  # beside a wheel: what mmcv's key was when it was built
MIB = 1024  # of the kilobytes that the system counts in
OVERHEAD = 0.03


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a command took: CPU seconds, wall seconds, MiB of its largest process, and bytes of the wheel it made."""

    cpu: float
    wall: float
    peak: int
    wheel: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of the table.

    `share` is what its CPU seconds are of those of another case, `of`, and `limit` the most that this may be, or else
    the most wall seconds. `floor` is the CPU seconds that nothing could be saved of.
    """

    case: str
    cost: Cost
    share: float | None = None
    of: str = "upstream's"
    limit: float | None = None
    floor: float | None = None

    @property
    def verdict(self) -> str:
        """Return whether the limit is held."""
        if self.limit is None:
            return ""
        return "reached" if (self.cost.wall if self.share is None else self.share) <= self.limit else "not reached"


def measure(words: Sequence[str | Path], cwd: Path, environment: Mapping[str, str], log: Path | None = None) -> Cost:
    """Run a command to its end and return what it took; one that fails ends the benchmark."""
    return _measure(words, cwd, environment, lambda process: os.wait4(process.pid, 0)[1:], log)


def in_turn(
    words: Sequence[str | Path],
    cwd: Path,
    environment: Mapping[str, str],
    others: Sequence[Callable[[], Cost]],
    every: float,
) -> tuple[Cost, tuple[Cost, ...]]:
    """Run a long command and return what it took, and the mean of each other one's cost.

    The long one is held still for them each `every` seconds, and they are run once before and once after: what else a
    machine does may make everything many times slower for a while, and so all are slowed alike.
    """
    turns = [[other() for other in others]]

    def wait(process: subprocess.Popen[bytes]) -> tuple[int, resource.struct_rusage]:
        until = time.monotonic() + every
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                return status, usage
            if time.monotonic() > until:
                with _held_still(process.pid):
                    turns.append([other() for other in others])
                until = time.monotonic() + every
            time.sleep(POLL)

    cost = _measure(words, cwd, environment, wait, log=BENCH / "long.txt")
    turns.append([other() for other in others])
    # what it was held still for is not its own
    wall = round(cost.wall - sum(each.wall for turn in turns[1:-1] for each in turn), 2)
    return replace(cost, wall=wall), tuple(one_of(each, statistics.fmean) for each in zip(*turns, strict=True))


@contextmanager
def _held_still(session: int) -> Iterator[None]:
    held: dict[int, psutil.Process] = {}
    while started := [process for process in _members(session) if process.pid not in held]:
        for process in started:
            held[process.pid] = process
            with suppress(psutil.Error):
                process.suspend()
    try:
        yield
    finally:
        for process in held.values():
            with suppress(psutil.Error):
                process.resume()


def _members(session: int) -> Iterator[psutil.Process]:
    """Yield a session's processes; ninja puts each of its compilers into a process group of its own."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == session:
                yield process


def _measure(
    words: Sequence[str | Path],
    cwd: Path,
    environment: Mapping[str, str],
    wait: Callable[[subprocess.Popen[bytes]], tuple[int, resource.struct_rusage]],
    log: Path | None = None,
) -> Cost:
    log = log or BENCH / "log.txt"
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(  # noqa: S603 - ours
            list(map(str, words)), cwd=cwd, env=dict(environment), stdout=sink, stderr=sink, start_new_session=True
        )
        try:
            status, usage = wait(process)
        finally:  # where we are interrupted, or what others are held still for fails
            for member in _members(process.pid):
                with suppress(psutil.Error):
                    member.kill()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    return Cost(
        cpu=round(usage.ru_utime + usage.ru_stime, 2),
        wall=round(time.monotonic() - started, 2),
        peak=usage.ru_maxrss // MIB,
    )


@dataclass(frozen=True, kw_only=True)
class Project:
    """mmcv as `build-stack` lays it out and configures it: the folder that holds tree, environment and build.

    `jobs` is how many compilers run at once.
    """

    key: str
    work: Path
    variables: Mapping[str, str]
    jobs: int

    @property
    def python(self) -> Path:
        """Return the Python that it is built by."""
        return self.work / "env" / "bin" / "python"

    @property
    def environment(self) -> dict[str, str]:
        """Return few of the user's variables, and the toolkit's."""
        path = os.pathsep.join([str(self.python.parent), os.environ["PATH"]])
        # torch 2.13 goes through ccache by itself where it is installed
        return {"PATH": path, "HOME": os.environ["HOME"], "CCACHE_DISABLE": "1", **self.variables}

    def upstream(self, out: Path, others: Sequence[Callable[[], Cost]]) -> tuple[Cost, tuple[Cost, ...]]:
        """Build the tree as upstream does, in turn with other ways; return all costs."""
        tree, env = BENCH / "tree", BENCH / "env"
        for folder in (tree, env, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.work / "tree", tree, ignore=shutil.ignore_patterns("CMakeLists.txt", "lean.h"))
        # of its own: the other way makes this project anew
        shutil.copytree(self.work / "env", env, symlinks=True, copy_function=os.link)
        path = os.pathsep.join([str(env / "bin"), os.environ["PATH"]])
        options = {"MMCV_WITH_OPS": "1", "MAX_JOBS": str(os.cpu_count()), "PATH": path}
        words = _wheel(tree, env / "bin" / "python", out)
        every = TURN_SECONDS["cuda" if "CUDA_HOME" in self.variables else "cpu"]
        cost, costs = in_turn(words, tree, {**self.environment, **options}, others, every)
        (out / KEY).write_text(self.key, encoding="utf-8")
        return _with_wheel(cost, out), costs

    def ninja(self, *, keep: bool = False) -> Cost:
        """Compile what is configured by ninja alone, and leave it as it was if it is not to be kept."""
        words: list[str | Path] = [self.python.with_name("ninja"), "-C", self.work / "built", "-j", str(self.jobs)]
        cost = measure(words, self.work, self.environment)
        if not keep:
            measure([*words, "-t", "clean"], self.work, self.environment)
        return cost

    def pack(self) -> Cost:
        """Make a wheel of what is compiled by setup.py alone."""
        out = BENCH / "packed"
        shutil.rmtree(out, ignore_errors=True)
        compiled = {"MMCV_WITH_OPS": "1", "MMCV_PREBUILT_EXT": str(self.work / "built" / "_ext.so")}
        return measure(_wheel(self.work / "tree", self.python, out), self.work, {**self.environment, **compiled})

    def headers(self) -> float:
        """Return the CPU seconds that all units together take to read their headers."""
        words = [str(self.python.with_name("ninja")), "-C", str(self.work / "built"), "-t", "compdb"]
        done = subprocess.run(words, env=self.environment, check=True, capture_output=True)  # noqa: S603 - ours
        units = [unit for unit in json.loads(done.stdout) if unit["output"].endswith(".o")]
        with ThreadPoolExecutor(self.jobs) as pool:  # as many at once as when they are compiled
            return sum(pool.map(self._read, range(len(units)), units))

    def _read(self, number: int, unit: Mapping[str, str]) -> float:
        source = Path(unit["file"])
        bare = BENCH / f"headers-{number}{source.suffix}"
        bare.write_text(HEADERS.get(source.name, HEADERS[source.suffix]), encoding="utf-8")
        command = unit["command"].replace(unit["file"], str(bare)).replace(unit["output"], f"{bare}.o")
        log = BENCH / f"headers-{number}.txt"
        return measure(["sh", "-c", command], Path(unit["directory"]), self.environment, log).cpu


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

    def plan(self, options: Sequence[str]) -> Any:  # noqa: ANN401 - as it was printed
        """Return a plan."""
        words = [str(Path(sys.executable).with_name("invoke")), "plan", *options, "--json"]
        done = subprocess.run(words, cwd=self.root, env=self.environment, check=True, capture_output=True)  # noqa: S603 - ours
        return json.loads(done.stdout)

    def key(self, options: Sequence[str]) -> str:
        """Return the key of mmcv."""
        return _key(self.plan(options))

    def configured(self, options: Sequence[str]) -> Project:
        """Lay out mmcv anew and configure it, all that it needs being here or fetched."""
        self.invoke("build-stack", *options, "--stop-after", "fetch")
        self.forget(options)
        self.invoke("build-stack", *options, "--offline", "--stop-after", "configure")
        cuda = self._cuda(options[-1]) if options else {"FORCE_CUDA": "0"}
        plan = self.plan(options)
        key = _key(plan)
        work = self.state / "work" / f"mmcv-{key[:16]}"
        return Project(key=key, work=work, variables=cuda, jobs=plan["layers"]["mmcv"]["jobs"])

    def forget(self, options: Sequence[str]) -> Path:
        """Remove mmcv from the store and where it was built; return where the store will have it."""
        key = self.key(options)
        store = self.state / "artifacts" / key
        for folder in (store, self.state / "work" / f"mmcv-{key[:16]}"):
            shutil.rmtree(folder, ignore_errors=True)
        return store

    def ours(self, options: Sequence[str], *more: str) -> Cost:
        """Build mmcv as `build-stack` does, all else being there."""
        store = self.forget(options)
        return _with_wheel(self.invoke("build-stack", *options, "--offline", "--stop-after", "gate", *more), store)

    def changed(self, options: Sequence[str], source: str) -> tuple[Cost, str]:
        """Build a folder of one's own, change a source, and build again: what that took, and what was compiled."""
        shutil.rmtree(BENCH / "own", ignore_errors=True)
        with tarfile.open(next(self.state.glob("downloads/*/mmcv-*.tar.gz"))) as archive:
            archive.extractall(BENCH / "own", filter="data")
        (own,) = (BENCH / "own").iterdir()
        words = ("build-stack", *options, "--source", f"mmcv=path:{own}", "--offline", "--stop-after", "build")
        self.invoke(*words[:-1], "gate")  # the other layers too, which are not to be built meanwhile
        with (own / "mmcv" / "ops" / "csrc" / source).open("a", encoding="utf-8") as stream:
            stream.write("\nint changed() { return 1; }\n")
        cost = self.invoke(*words)
        log = max(self.state.glob("logs/mmcv-*.log"), key=lambda file: file.stat().st_mtime_ns)
        made = re.findall(r"^\[\d+/\d+\] Building \w+ object (\S+)", log.read_text(encoding="utf-8"), re.MULTILINE)
        return cost, f"compiling {len(made)} of the units: {', '.join(map(os.path.basename, made))}"

    def _cuda(self, architectures: str) -> dict[str, str]:
        home = next(self.state.glob("toolkits/cuda-13.0-wheels-*/lib/python3*/site-packages/nvidia/cu13"))
        return {
            "FORCE_CUDA": "1",
            "CUDA_HOME": str(home),
            "TORCH_CUDA_ARCH_LIST": architectures.replace(",", ";"),
            "NVCC_PREPEND_FLAGS": f"-ccbin {shutil.which('g++')}",
        }


def _key(plan: Any) -> str:  # noqa: ANN401 - as it was printed
    return next(str(step["key"]) for step in plan["steps"] if step["id"] == "build mmcv")


def _wheel(tree: Path, python: Path, out: Path) -> list[str | Path]:
    """Return the command that makes a wheel of a tree, as pip would."""
    words: list[str | Path] = [uv_path(), "build", "--offline", "--wheel", "--no-build-isolation"]
    return [*words, "--out-dir", out, "--python", python, tree]


def _with_wheel(cost: Cost, folder: Path) -> Cost:
    return replace(cost, wheel=next(folder.glob("*.whl")).stat().st_size)


def overhead(checkout: Checkout) -> list[Row]:
    """Return rows of what the step `build` takes with all compiled, for what ninja takes varies by more than that."""
    options = STACKS["cpu"]
    checkout.invoke("build-stack", *options, "--stop-after", "gate")  # so that no other layer is built meanwhile
    project = checkout.configured(options)
    ninja = project.ninja(keep=True)
    steps, packed = [], []
    for _ in range(TURNS):
        packed.append(project.pack())
        shutil.rmtree(project.work / "out", ignore_errors=True)
        steps.append(checkout.invoke("build-stack", *options, "--offline", "--stop-after", "build"))
    step, pack = one_of(steps), one_of(packed)
    share = (step.cpu - pack.cpu) / ninja.cpu
    return [
        Row(case="mmcv, cpu: ninja alone", cost=ninja),
        Row(case="mmcv, cpu: setup.py, packing what is compiled", cost=pack),
        Row(
            case="mmcv, cpu: step `build`, all compiled; share without packing",
            cost=step,
            share=share,
            of="ninja alone",
            limit=OVERHEAD,
        ),
    ]


def compare(checkout: Checkout, name: str) -> list[Row]:
    """Return both ways' rows for a kind of stack; of what is compiled for many architectures no more than that."""
    options, title = STACKS[name], f"mmcv, {name}"
    more = _ours_alone(checkout, name, title) if name in CHANGED else []
    ours = [partial(checkout.ours, options)]
    if name == "cpu":
        more.append(_filled(checkout, options, title))
        ours.append(partial(checkout.ours, options, *CACHED))
    project = checkout.configured(options)
    upstream, (built, *cached) = project.upstream(BENCH / f"upstream-{name}", ours)
    share = built.cpu / upstream.cpu
    floor = more[0].floor if more else None
    return [
        Row(case=f"{title}: upstream's way", cost=upstream),
        Row(case=f"{title}: ours", cost=built, share=share, limit=LIMITS.get(name), floor=floor),
        *(
            Row(case=f"{title}: ours, from a ccache", cost=cost, share=cost.cpu / upstream.cpu, limit=1 / 30)
            for cost in cached
        ),
        *more,
    ]


def _ours_alone(checkout: Checkout, name: str, title: str) -> list[Row]:
    """Return rows of what our build is made of, and of building again."""
    options = STACKS[name]
    project = checkout.configured(options)
    alone = project.ninja()
    floor = round(alone.cpu - project.headers(), 2)
    change, what = checkout.changed(options, CHANGED[name])
    return [
        Row(case=f"{title}: ninja alone", cost=alone, floor=floor),
        Row(case=f"{title}: {CHANGED[name]} changed, {what}", cost=change),
    ]


def _filled(checkout: Checkout, options: Sequence[str], title: str) -> Row:
    shutil.rmtree(checkout.state / "compiler-cache", ignore_errors=True)
    return Row(case=f"{title}: ours, filling a ccache", cost=checkout.ours(options, *CACHED))


def starts(checkout: Checkout) -> list[Row]:
    """Return the rows of a build that has nothing to do and of the list of tasks, the median of several each."""
    checkout.invoke("build-stack")
    alone = [sys.executable, "-c", "import invoke.program"]
    floor = one_of([measure(alone, checkout.root, checkout.environment) for _ in range(STARTS)]).cpu
    cases = {"build-stack, nothing to do": (("build-stack",), 1.0), "invoke --list": (("--list",), 0.3)}
    return [
        Row(case=case, cost=one_of([checkout.invoke(*words) for _ in range(STARTS)]), limit=limit, floor=floor)
        for case, (words, limit) in cases.items()
    ]


def one_of(costs: Sequence[Cost], kind: Callable[[list[float]], float] = statistics.median) -> Cost:
    """Return one figure of each, the median if not said otherwise."""
    names = ("cpu", "wall", "peak")
    found = {name: kind([getattr(cost, name) for cost in costs]) for name in names}
    return Cost(
        cpu=round(found["cpu"], 3),
        wall=round(found["wall"], 3),
        peak=round(found["peak"]),
        wheel=costs[0].wheel,
    )


def run_time(checkout: Checkout) -> list[dict[str, Any]]:
    """Return how long calls take of upstream's build and of ours, in turn, in the environment of the stack `cpu`."""
    options = STACKS["cpu"]
    upstream, key = BENCH / "upstream-cpu", checkout.key(options)
    if not (upstream / KEY).exists() or (upstream / KEY).read_text(encoding="utf-8") != key:
        checkout.configured(options).upstream(upstream, [partial(checkout.ours, options)])
    checkout.invoke("build-stack", "--offline")
    wheels = [next(folder.glob("*.whl")) for folder in (upstream, checkout.state / "artifacts" / key)]
    python = checkout.root / "dist" / "cpu" / "env" / "bin" / "python"
    measure([python, ROOT / "pipelines" / "mmcv" / "run_time.py", *wheels], BENCH, checkout.environment)
    text = (BENCH / "log.txt").read_text(encoding="utf-8")
    return [{"call": call, **found} for call, found in json.loads(text[text.index("{") :]).items()]


def render(parts: Sequence[tuple[Mapping[str, str], Sequence[Mapping[str, Any]]]]) -> str:
    """Return the page of some cases, each with the facts of its run."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `uv run nox -s bench`. A `share` is one of CPU seconds, of ways that took turns: upstream's build is",
        "held still each four minutes (CUDA: ten) for one of ours, of which the mean is given. Starts are medians of",
        "seven, packing and the step `build` of three; what else has no share was done once, before. The `floor`",
        "of a build is what ninja alone took, less what its units take that hold nothing but their headers:",
        "compilation with headers already parsed. That of a start is Python that imports Invoke.",
    ]
    for facts, rows in parts:
        lines += ["", "; ".join(f"{name}: {value}" for name, value in facts.items()) + ".", ""]
        lines += _times(rows) if "call" in rows[0] else _costs([read(row) for row in rows])
    return "\n".join([*lines, ""])


def _times(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        *TIMES,
        *(f"| {' | '.join(_time(row))} |" for row in rows),
        "",
        "Medians of rounds, with the least and the most. The noise is what a second copy of upstream's build takes of",
        "the first, the least and the most of the rounds: a ratio within it is no difference.",
    ]


def _time(row: Mapping[str, Any]) -> list[str]:
    """Return a call's cells; rows that were measured without its noise claim nothing."""
    times = [f"{row[f'{side}_ms']}{_range(row.get(f'{side}_range'))}" for side in ("first", "second")]
    if "noise" not in row:
        return [row["call"], *times, f"{row['ratio']}", "not measured", ""]
    low, high = row["noise"]
    verdict = "faster" if row["ratio"] < low else "slower" if row["ratio"] > high else "as fast"
    return [row["call"], *times, f"{row['ratio']}", f"{low} to {high}", verdict]


def _range(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f" ({bounds[0]} to {bounds[1]})"


def _costs(rows: Sequence[Row]) -> list[str]:
    bar = max(row.cost.cpu for row in rows) / 60
    return [
        *HEAD,
        *(f"| {' | '.join(cells(row))} |" for row in rows),
        *("", "```text"),
        *(f"{row.case:50.50} {'█' * max(round(row.cost.cpu / bar), 1)} {row.cost.cpu} CPU s" for row in rows),
        "```",
    ]


def cells(row: Row) -> list[str]:
    """Return a row's cells."""
    cost = row.cost
    share = f"{_part(row.share)} of {row.of}" if row.share else ""
    limit = "" if row.limit is None else _part(row.limit) if row.share else f"{row.limit} s wall"
    floor = f"{row.floor} ({cost.cpu / row.floor:.1f} times)" if row.floor else ""
    wheel = f"{cost.wheel / 1e6:.1f} MB" if cost.wheel else ""
    return [row.case, f"{cost.cpu}", share, limit, row.verdict, floor, f"{cost.wall}", f"{cost.peak} MiB", wheel]


def _part(share: float) -> str:
    return f"{share:.3f}" if share > 1 / 2 else f"1/{1 / share:.1f}"


def main(names: Sequence[str]) -> None:
    """Run the cases that are named, all if none is, and write the page.

    Raises:
        SystemExit: there is no such case, or a command failed.
    """
    if unknown := set(names) - set(CASES):
        sys.exit(f"there is no case {', '.join(sorted(unknown))}: name some of {', '.join(CASES)}")
    BENCH.mkdir(parents=True, exist_ok=True)
    checkout, load = Checkout(), os.getloadavg()[2]
    compiler, why = find_compiler()
    facts = {
        "Date": f"{datetime.now(timezone.utc):%d %B %Y}",
        "Machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "Compiler": compiler.version if compiler else why,
        "Python": platform.python_version(),
        "Load of the 15 minutes before": f"{load:.1f}",
    }
    for name in names or CASES:
        options = {"Options": f"`{' '.join(STACKS[name])}`"} if STACKS.get(name) else {}
        write(name, rows_of(checkout, name), {**facts, **options})


def rows_of(checkout: Checkout, name: str) -> list[dict[str, Any]]:
    """Measure a case."""
    if name == "run-time":
        return run_time(checkout)
    cases = {"overhead": overhead, "starts": starts}
    return [asdict(row) for row in (cases[name](checkout) if name in cases else compare(checkout, name))]


def write(name: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, str]) -> None:
    """Write a case's figures and the page of all cases, of which others may be from an earlier run."""
    page = ROOT / "docs" / "benchmarks.md"
    file = page.with_suffix(".json")
    data = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    data[name] = {"facts": dict(facts), "rows": list(rows)}
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    parts = [(data[each]["facts"], data[each]["rows"]) for each in CASES if each in data]
    page.write_text(render(parts), encoding="utf-8")


def read(row: Mapping[str, Any]) -> Row:
    """Return a row as it was written."""
    return Row(**{**row, "cost": Cost(**row["cost"])})


if __name__ == "__main__":
    main(sys.argv[1:])
