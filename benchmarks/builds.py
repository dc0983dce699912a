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
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import page
from benchmarks.costs import BENCH, ROOT, Cost, in_turn, measure, one_of, together
from benchmarks.page import Row
from benchmarks.sample import Measured, draw, reckon, total
from mmstack.builders.progress import recipe_weights, weight
from mmstack.envs import uv_path
from mmstack.events import ignore
from mmstack.host import find_compiler
from mmstack.toolchains import sysroot
from mmstack.uses import Uses

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

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
CASES = (*STACKS, "overhead", "starts", "run-time", "torch")
STARTS = 7
TURNS = 3
TURN_SECONDS = {"cpu": 240, "cuda": 600}
# what each source includes
HEADERS = {
    ".cu": '#include "pytorch_cuda_helper.hpp"\n#include "pytorch_cpp_helper.hpp"\n',
    ".cxx": '#include "pytorch_cpp_helper.hpp"\n#include "pytorch_device_registry.hpp"\n',
    ".cpp": '#include "pytorch_cpp_helper.hpp"\n',
    "pybind.cpp": "#include <torch/csrc/utils/pybind.h>\n#include <torch/types.h>\n",
}
KEY = "key.txt"  # beside a wheel: what mmcv's key was when it was built
OVERHEAD = 0.03
TORCH = ("--stack", "debian12")
OPTIONS: Mapping[str, tuple[str, ...]] = {**STACKS, "torch": TORCH}  # of the other cases none
BESIDE = "MMSTACK_BENCH_BESIDE"  # what this machine did besides, which only its user knows
PRECOMPILED = ("--flag", "torch.USE_PRECOMPILED_HEADERS=ON")
DRAWN = 16
LONGEST = "filtered_lrelu.cu"  # it takes a tenth of all, so it is not left to the lot
ORDER = re.compile(r"^build (cmake_object_order_depends_target_\S+): phony", re.MULTILINE)  # what generates sources


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What ninja would compile: its command, its variables, and each output's source by name."""

    ninja: list[str]
    environment: Mapping[str, str]
    sources: Mapping[str, str]

    def make(self, number: int, output: str) -> Cost:
        """Compile one."""
        return measure([*self.ninja, output], BENCH, self.environment, BENCH / f"sample-{number}.txt")


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
        return _environment([self.python.parent], self.variables)

    def upstream(self, out: Path, others: Sequence[Callable[[], Cost]]) -> tuple[Cost, tuple[Cost, ...]]:
        """Build the tree as upstream does, in turn with other ways; return all costs."""
        tree, python, environment = self._theirs()
        shutil.rmtree(out, ignore_errors=True)
        words = _wheel(tree, python, out)
        every = TURN_SECONDS["cuda" if "CUDA_HOME" in self.variables else "cpu"]
        cost, costs = in_turn(words, tree, environment, others, every)
        (out / KEY).write_text(self.key, encoding="utf-8")
        return _with_wheel(cost, out), costs

    def _theirs(self) -> tuple[Path, Path, dict[str, str]]:
        """Lay out upstream's way anew, and return its tree, its Python and its variables."""
        tree, env = BENCH / "tree", BENCH / "env"
        for folder in (tree, env):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.work / "tree", tree, ignore=shutil.ignore_patterns("CMakeLists.txt", "lean.h"))
        # of its own: the other way makes this project anew
        shutil.copytree(self.work / "env", env, symlinks=True, copy_function=os.link)
        wanted = {**self.variables, "MMCV_WITH_OPS": "1", "MAX_JOBS": str(os.cpu_count())}
        return tree, env / "bin" / "python", _environment([env / "bin"], wanted)

    def listed(self) -> Listed:
        """Return what upstream's setup.py would have ninja compile; nothing is compiled."""
        tree, python, environment = self._theirs()
        real, stub = python.with_name("ninja"), BENCH / "stub" / "ninja"
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec "{real}" --version\nexit 1\n', encoding="utf-8")
        stub.chmod(0o755)
        stopped = {**environment, "PATH": f"{stub.parent}{os.pathsep}{environment['PATH']}"}
        words = [str(python), "setup.py", "build_ext"]
        done = subprocess.run(words, cwd=tree, env=stopped, check=False, capture_output=True, text=True)  # noqa: S603 - ours
        files = list(tree.glob("build/temp.*/build.ninja"))
        if len(files) != 1:
            sys.exit(f"setup.py named nothing to compile:\n{done.stderr[-3000:]}")
        ninja = [str(real), "-C", str(files[0].parent)]
        found = {unit["output"]: Path(unit["file"]).name for unit in _compilations(ninja, environment, ".o")}
        return Listed(ninja=ninja, environment=environment, sources=found)

    def ninja(self, *outputs: str, keep: bool = False) -> Cost:
        """Compile by ninja alone all that is configured or these units, and leave it as it was if not to keep them."""
        words: list[str | Path] = [self.python.with_name("ninja"), "-C", self.work / "built", "-j", str(self.jobs)]
        cost = measure([*words, *outputs], self.work, self.environment)
        if not keep:
            measure([*words, "-t", "clean"], self.work, self.environment)
        return cost

    def pack(self) -> Cost:
        """Make a wheel of what is compiled by setup.py alone."""
        out = BENCH / "packed"
        shutil.rmtree(out, ignore_errors=True)
        compiled = {"MMCV_WITH_OPS": "1", "MMCV_PREBUILT_EXT": str(self.work / "built" / "_ext.so")}
        return measure(_wheel(self.work / "tree", self.python, out), self.work, {**self.environment, **compiled})

    def floor(self, alone: Cost, *outputs: str) -> float:
        """Return what ninja alone took for all units or for these, less what they take to read their headers."""
        return round(alone.cpu - self._headers(outputs), 2)

    def _headers(self, outputs: Collection[str]) -> float:
        ninja = [str(self.python.with_name("ninja")), "-C", str(self.work / "built")]
        units = _compilations(ninja, self.environment, ".o")
        if outputs:
            units = [unit for unit in units if unit["output"] in outputs]
        with ThreadPoolExecutor(self.jobs) as pool:  # as many at once as when they are compiled
            return sum(pool.map(self._read, range(len(units)), units))

    def _read(self, number: int, unit: Mapping[str, str]) -> float:
        source = Path(unit["file"])
        bare = BENCH / f"headers-{number}{source.suffix}"
        bare.write_text(HEADERS.get(source.name, HEADERS[source.suffix]), encoding="utf-8")
        command = unit["command"].replace(unit["file"], str(bare)).replace(unit["output"], f"{bare}.o")
        log = BENCH / f"headers-{number}.txt"
        return measure(["sh", "-c", command], Path(unit["directory"]), self.environment, log).cpu


@dataclass(frozen=True, kw_only=True)
class Torch:
    """torch as `build-stack` configures it: the folder that holds tree, environment and sysroot."""

    work: Path

    @property
    def _ninja(self) -> list[str]:
        return [str(self.work / "env" / "bin" / "ninja"), "-C", str(self.work / "tree" / "build")]

    @property
    def environment(self) -> dict[str, str]:
        """Return few of the user's variables, and where what generates sources finds its programs and libraries."""
        root = self.work / "sysroot"
        found = {"LD_LIBRARY_PATH": sysroot.variables(root)["LD_LIBRARY_PATH"]}
        return _environment([self.work / "env" / "bin", *sysroot.programs(root)], found)

    def make(self, *outputs: str) -> Cost:
        """Make what is named, one after the other.

        Raises:
            SystemExit: nothing is named, for which ninja would make all.
        """
        if not outputs:
            sys.exit(f"{self.work} is not laid out as the benchmark knows torch: there is nothing to make")
        return measure([*self._ninja, "-j1", *outputs], self.work, self.environment)

    def generate(self) -> None:
        """Make what is there before any file is compiled, and nothing else: an earlier run may have compiled some."""
        measure([*self._ninja, "-t", "clean"], self.work, self.environment)
        self.make(*ORDER.findall((self.work / "tree" / "build" / "build.ninja").read_text(encoding="utf-8")))

    def outputs(self, ending: str) -> list[str]:
        """Return what is compiled, by what its name ends with."""
        return sorted({unit["output"] for unit in _compilations(self._ninja, self.environment, ending)})


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
        plan = self.plan(options)
        compiler = plan["compiler"]
        cuda = self._cuda(options[-1], compiler["cxx"]) if options else {"FORCE_CUDA": "0"}
        key = _key(plan)
        work = self.state / "work" / f"mmcv-{key[:16]}"
        variables = {"CC": compiler["cc"], "CXX": compiler["cxx"], **cuda}
        return Project(key=key, work=work, variables=variables, jobs=plan["layers"]["mmcv"]["jobs"])

    def torch(self, *options: str) -> Torch:
        """Configure torch from source, if it is not configured yet."""
        self.invoke("build-stack", *options, "--stop-after", "configure")
        return Torch(work=self.state / "work" / f"torch-{_key(self.plan(options), 'torch')[:16]}")

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

    def changed(self, options: Sequence[str], source: str) -> tuple[Cost, list[str]]:
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
        if not made:
            sys.exit(f"{source} was changed, and by {log} nothing was compiled")
        return cost, made

    def _cuda(self, architectures: str, compiler: str) -> dict[str, str]:
        home = next(self.state.glob("toolkits/cuda-13.0-wheels-*/lib/python3*/site-packages/nvidia/cu13"))
        return {
            "FORCE_CUDA": "1",
            "CUDA_HOME": str(home),
            "TORCH_CUDA_ARCH_LIST": architectures.replace(",", ";"),
            "NVCC_PREPEND_FLAGS": f"-ccbin {compiler}",
        }


def _environment(programs: Sequence[Path], variables: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
    # torch 2.13 goes through ccache by itself where it is installed
    return {"PATH": path, "HOME": os.environ["HOME"], "CCACHE_DISABLE": "1", **variables}


def _compilations(ninja: Sequence[str], environment: Mapping[str, str], ending: str) -> list[dict[str, str]]:
    """Return what ninja would compile, of what ends so."""
    done = subprocess.run([*ninja, "-t", "compdb"], env=environment, check=True, capture_output=True)  # noqa: S603 - ours
    return [unit for unit in json.loads(done.stdout) if unit["output"].endswith(ending)]


def _key(plan: Any, layer: str = "mmcv") -> str:  # noqa: ANN401 - as it was printed
    return next(str(step["key"]) for step in plan["steps"] if step["id"] == f"build {layer}")


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
    """Return both ways' rows for a kind of stack."""
    options, title = STACKS[name], f"mmcv, {name}"
    more = _ours_alone(checkout, name, title)
    ours = [partial(checkout.ours, options)]
    if name == "cpu":
        more.append(replace(_filled(checkout, options, title), floor=more[0].floor))
        ours.append(partial(checkout.ours, options, *CACHED))
    project = checkout.configured(options)
    upstream, (built, *cached) = project.upstream(BENCH / f"upstream-{name}", ours)
    share = built.cpu / upstream.cpu
    return [
        Row(case=f"{title}: upstream's way", cost=upstream),
        Row(case=f"{title}: ours", cost=built, share=share, limit=LIMITS[name], floor=more[0].floor),
        *(
            Row(case=f"{title}: ours, from a ccache", cost=cost, share=cost.cpu / upstream.cpu, limit=1 / 30)
            for cost in cached
        ),
        *more,
    ]


def sampled(checkout: Checkout, name: str) -> list[Row]:
    """Return rows of our build, and of so many files of upstream's way as tell what all would take, which is hours."""
    options, title = STACKS[name], f"mmcv, {name}"
    listed = checkout.configured(options).listed()
    built = checkout.ours(options)
    weights = {
        output: 7.0 if source.endswith(".cu") else 1.0  # a guess, which makes the error less
        for output, source in listed.sources.items()
        if source != LONGEST
    }
    drawn = draw(weights, DRAWN)
    surely = [output for output in listed.sources if output not in weights]
    outputs = [*surely, *dict.fromkeys(drawn)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # as many at once as in a whole build
        costs = dict(zip(outputs, pool.map(listed.make, range(len(outputs)), outputs), strict=True))
    found, error = total([(weights[output], costs[output].cpu) for output in drawn], sum(weights.values()))
    found += sum(costs[output].cpu for output in surely)
    count = len(listed.sources)
    return [
        Row(case=f"{title}: upstream's way, {len(costs)} of {count} files", cost=together([*costs.values()])),
        Row(
            case=f"{title}: ours; upstream's {count} files would take {found:.0f} CPU s by the sample, standard "
            f"error {error:.0f}",
            cost=built,
            share=built.cpu / found,
        ),
    ]


def _ours_alone(checkout: Checkout, name: str, title: str) -> list[Row]:
    """Return rows of what our build is made of, and of building again."""
    options = STACKS[name]
    project = checkout.configured(options)
    alone = project.ninja()
    floor = project.floor(alone)
    change, made = checkout.changed(options, CHANGED[name])
    what = f"compiling {len(made)} of the units: {', '.join(map(os.path.basename, made))}"
    return [
        Row(case=f"{title}: ninja alone", cost=alone, floor=floor),
        Row(
            case=f"{title}: {CHANGED[name]} changed, {what}",
            cost=change,
            floor=project.floor(project.ninja(*made), *made),  # the same units, in the release's tree
        ),
    ]


def _filled(checkout: Checkout, options: Sequence[str], title: str) -> Row:
    shutil.rmtree(checkout.state / "compiler-cache", ignore_errors=True)
    return Row(case=f"{title}: ours, filling a ccache", cost=checkout.ours(options, *CACHED))


def starts(checkout: Checkout) -> list[Row]:
    """Return the rows of a build that has nothing to do and of the list of tasks, the median of several each."""
    checkout.invoke("build-stack")
    alone = [sys.executable, "-c", "import invoke.program"]
    floor = one_of([measure(alone, checkout.root, checkout.environment) for _ in range(STARTS)]).cpu
    cases = {"build-stack, nothing to do": (("build-stack",), 1.0), "the list of tasks": (("--list",), 0.3)}
    return [
        Row(case=case, cost=one_of([checkout.invoke(*words) for _ in range(STARTS)]), limit=limit, floor=floor)
        for case, (words, limit) in cases.items()
    ]


def torch(checkout: Checkout) -> list[Row]:
    """Return rows of what torch's files take without and with precompiled headers, by a sample, one after the other."""
    plain, headed = checkout.torch(*TORCH), checkout.torch(*TORCH, *PRECOMPILED)
    patterns = recipe_weights(checkout.root / "pipelines" / "torch")
    weights = {name: weight(name, {}, patterns) for name in plain.outputs(".o")}
    for each in (plain, headed):
        each.generate()
    headers = headed.make(*headed.outputs(".gch"))
    drawn = draw(weights, DRAWN)
    costs = {name: (plain.make(name), headed.make(name)) for name in dict.fromkeys(drawn)}
    pairs = [(weights[name], *costs[name]) for name in drawn]
    measured = [Measured(weight=each, first=first.cpu, second=second.cpu) for each, first, second in pairs]
    found = reckon(measured, sum(weights.values()), headers.cpu)
    without, with_ = (together(each) for each in zip(*costs.values(), strict=True))
    return [
        Row(case=f"torch, debian12: {len(costs)} of {len(weights)} files, drawn by weight", cost=without),
        Row(
            case=f"the same with precompiled headers; of all {found.first:.0f} CPU s that the sample says, the headers "
            f"themselves counted, {found.share:.3f}, standard error {found.error:.3f}",
            cost=with_,
            share=with_.cpu / without.cpu,
            of="without",
        ),
        Row(case="the headers themselves", cost=headers),
    ]


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


def machine() -> dict[str, str]:
    """Return what is to be known of this machine, before anything is measured on it."""
    compiler, why = find_compiler()
    return {
        "Date": f"{datetime.now(timezone.utc):%d %B %Y}",
        "Machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "Processor": processor(),
        "Compiler": compiler.version if compiler else why,
        "Python": platform.python_version(),
        "Load of the 15 minutes before": f"{os.getloadavg()[2]:.1f}",
        "Beside it": os.environ.get(BESIDE, ""),
    }


def processor(file: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model, nothing where the system does not tell it."""
    said = file.read_text(encoding="utf-8") if file.exists() else ""
    model = re.search(r"^model name\s*: (.+)$", said, re.MULTILINE)
    return model[1].strip() if model else ""


def measured(checkout: Checkout, name: str) -> dict[str, str]:
    """Return what a case is about: options, and the versions of what they choose."""
    options = OPTIONS.get(name, ())
    plan = checkout.plan(options)
    toolkit = plan["toolkit"]
    return {
        "Options": f"`{' '.join(options)}`" if options else "",
        "Layers": ", ".join(f"{layer} {chosen['version']}" for layer, chosen in plan["layers"].items()),
        "Toolkit": f"CUDA {toolkit['version']}, {toolkit['origin']}" if toolkit else "",
        "ccache": _ccache() if name == "cpu" else "",
    }


def _ccache() -> str:
    said = subprocess.run(["ccache", "--version"], check=True, capture_output=True, text=True).stdout  # noqa: S607 - as CACHED
    return said.partition("\n")[0].rpartition(" ")[2]


def main(names: Sequence[str]) -> None:
    """Run the cases that are named, all if none is, and write the page.

    Raises:
        SystemExit: there is no such case, a command failed, or a figure that is on the page is over its limit.
    """
    if unknown := set(names) - set(CASES):
        sys.exit(f"there is no case {', '.join(sorted(unknown))}: name some of {', '.join(CASES)}")
    BENCH.mkdir(parents=True, exist_ok=True)
    checkout, facts = Checkout(), machine()
    missed: list[str] = []
    with Uses(BENCH.parent / "uses", ignore).claim(["bench/"]):  # against `invoke gc`
        for name in names or CASES:
            rows = rows_of(checkout, name)
            page.write(name, rows, {**facts, **measured(checkout, name)}, order=CASES)
            missed += page.missed(rows)
    if missed:
        sys.exit("\n".join(["not all limits were reached:", *missed]))


def rows_of(checkout: Checkout, name: str) -> list[dict[str, Any]]:
    """Measure a case."""
    if name == "run-time":
        return run_time(checkout)
    if name in STACKS:
        rows = (compare if name in LIMITS else sampled)(checkout, name)
    else:
        rows = {"overhead": overhead, "starts": starts, "torch": torch}[name](checkout)
    return [asdict(row) for row in rows]


if __name__ == "__main__":
    main(sys.argv[1:])
