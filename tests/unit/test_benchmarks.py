"""What the benchmark makes of what it measured."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest

from benchmarks import builds, costs, page
from benchmarks.costs import Cost, in_turn, measure, one_of
from benchmarks.page import Row, cells, render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COST = Cost(cpu=50.0, wall=0.8, peak=900, wheel=1_300_000)
RANGES = {"first_range": [1.9, 2.3], "second_range": [1.8, 2.0], "noise": [0.9, 1.1]}
TIMES = [{"call": "nms", "first_ms": 2.0, "second_ms": 1.9, "ratio": 0.95, **RANGES}]


@pytest.mark.parametrize(
    ("share", "limit", "verdict"),
    [(1 / 10, 1 / 9, "reached"), (1 / 8, 1 / 9, "not reached"), (None, 1.0, "reached"), (None, 0.5, "not reached")],
)
def test_a_limit_is_of_upstream_s_cpu_seconds_or_of_the_clock(share: float | None, limit: float, verdict: str) -> None:
    """Whichever the row has; and without a limit nothing is claimed."""
    row = Row(case="c", cost=COST, share=share, limit=limit)
    assert row.verdict == verdict
    assert replace(row, limit=None).verdict == ""


def test_the_middle_is_taken_figure_by_figure() -> None:
    """One slow start does not count."""
    costs = [Cost(cpu=cpu, wall=wall, peak=peak) for cpu, wall, peak in ((1, 5, 30), (9, 2, 10), (2, 3, 20))]
    assert one_of(costs) == Cost(cpu=2, wall=3, peak=20)


def test_a_long_command_is_held_still_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run before it, while it and what it started are held still, and after it, and are no part of its cost."""
    monkeypatch.setattr(costs, "BENCH", tmp_path)
    program = "import os, time\nos.setpgid(0, 0)\nfor n in range(40): open('ticks', 'a').write('.'); time.sleep(0.05)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}], check=True)"
    seen: list[int] = []

    def other() -> Cost:
        ticks = tmp_path / "ticks"
        before = ticks.stat().st_size if ticks.exists() else 0
        time.sleep(0.5)
        assert before == (ticks.stat().st_size if ticks.exists() else 0), "it is held still"
        seen.append(before)
        return Cost(cpu=float(len(seen)), wall=0.5, peak=1)

    cost, (mean,) = in_turn([sys.executable, "-c", nested], tmp_path, dict(os.environ), [other], every=0.7)
    assert seen[0] == 0
    assert seen[-1] == 40
    assert len(seen) > 2, "one at least between them"
    assert mean.cpu == pytest.approx((len(seen) + 1) / 2)
    assert cost.wall >= 2.0


def test_the_page_says_what_was_measured() -> None:
    """A row each, and a bar as long as its CPU seconds."""
    rows = [
        Row(case="theirs", cost=replace(COST, cpu=600.0)),
        Row(case="ours", cost=COST, share=1 / 12, limit=1 / 9, floor=40.0),
    ]
    text = render([({"Date": "today"}, list(map(asdict, rows)))])
    assert (
        "| ours | 50.0 | 1/12.0 of upstream's | 1/9.0 | reached | 40.0 (1.2 times) | 0.8 | 900 MiB | 1.3 MB |" in text
    )
    assert f"theirs{' ' * 45}{'█' * 60} 600.0 CPU s" in text
    assert f"ours{' ' * 47}{'█' * 5} 50.0 CPU s" in text


def test_what_is_nearly_as_much_is_said_as_a_number() -> None:
    """What differs by a hundredth would be lost in 1/1.0."""
    row = Row(case="step", cost=COST, share=1.014, of="the other", limit=1.03)
    assert cells(row)[2:5] == ["1.014 of the other", "1.030", "reached"]


@pytest.mark.parametrize(
    ("noise", "verdict"), [([0.9, 1.02], "not told apart"), ([0.96, 1.02], "faster"), ([0.9, 0.94], "slower")]
)
def test_times_of_calls_are_held_against_their_noise(noise: list[float], verdict: str) -> None:
    """Which is what the same build takes of itself: a ratio beyond it is a difference, one within is none."""
    rows = [{**TIMES[0], "noise": noise}]
    cells = f"| nms | 2.0 (1.9 to 2.3) | 1.9 (1.8 to 2.0) | 0.95 | {noise[0]} to {noise[1]} | {verdict} |"
    assert cells in render([({"Date": "today"}, rows)])


class Bench:
    """A checkout that only notes what it is asked for."""

    environment: Mapping[str, str] = {}

    def __init__(self, place: Path) -> None:
        self.root, self.state, self.asked = place, place / "state", list[str]()
        (self.state / "artifacts" / "now").mkdir(parents=True)
        (self.state / "artifacts" / "now" / "ours.whl").touch()

    def key(self, _options: Sequence[str]) -> str:
        """Return mmcv's key."""
        return "now"

    def plan(self, options: Sequence[str]) -> dict[str, object]:
        """Return as much of a plan as the page says."""
        toolkit = {"version": "13.0", "origin": "nvcc 13.0.88"} if "--cuda" in options else None
        return {"layers": {"a": {"version": "1"}, "b": {"version": "2"}}, "toolkit": toolkit}

    def invoke(self, *words: str) -> None:
        """Note a task."""
        self.asked.append(words[0])

    def configured(self, _options: Sequence[str]) -> Bench:
        """Return what upstream's way is started on."""
        return self

    def changed(self, _options: Sequence[str], _source: str) -> tuple[Cost, list[str]]:
        """Say which unit was compiled."""
        return COST, ["one.o"]

    def ours(self, *_options: object) -> Cost:
        """Build our way."""
        return COST

    def upstream(self, out: Path, _others: object) -> None:
        """Note that upstream's wheel is built."""
        self.asked.append("upstream")
        out.mkdir(exist_ok=True)
        (out / "theirs.whl").touch()


@pytest.mark.parametrize(("key", "built"), [("now", []), ("then", ["upstream"]), (None, ["upstream"])])
def test_upstream_s_wheel_is_of_what_is_built_now(
    key: str | None, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One from a run on other sources, or of which nobody knows, is built anew."""
    monkeypatch.setattr(builds, "BENCH", tmp_path)
    bench = Bench(tmp_path)
    if key:
        bench.upstream(tmp_path / "upstream-cpu", ())
        (tmp_path / "upstream-cpu" / builds.KEY).write_text(key, encoding="utf-8")
        bench.asked.clear()
    ran: list[str] = []

    def timed(words: Sequence[Path], *_more: object) -> None:
        ran.extend(path.name for path in words)
        (tmp_path / "log.txt").write_text('a warning\n{"nms": {"ratio": 1.0}}', encoding="utf-8")

    monkeypatch.setattr(builds, "measure", timed)
    assert builds.run_time(cast("builds.Checkout", bench)) == [{"call": "nms", "ratio": 1.0}]
    assert bench.asked == [*built, "build-stack"]
    assert ran == ["python", "run_time.py", "theirs.whl", "ours.whl"]


def test_upstream_s_wheel_is_kept_with_the_key_that_it_was_built_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the next run knows what it is of."""
    monkeypatch.setattr(builds, "BENCH", tmp_path)
    for folder in ("tree", "env"):
        (tmp_path / "work" / folder).mkdir(parents=True)

    def built(*_words: object) -> tuple[Cost, tuple[Cost, ...]]:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs.whl").touch()
        return COST, ()

    monkeypatch.setattr(builds, "in_turn", built)
    builds.Project(key="now", work=tmp_path / "work", variables={}, jobs=1).upstream(tmp_path / "out", ())
    assert (tmp_path / "out" / builds.KEY).read_text(encoding="utf-8") == "now"


NINJA = """
rule compile
  command = true $in $out
build one.o: compile one.cpp
build two.o: compile two.cpp
"""


class Configured(builds.Project):
    """mmcv configured, whose builds take what we say."""

    def upstream(self, _out: Path, others: Sequence[object]) -> tuple[Cost, tuple[Cost, ...]]:
        """Build nothing."""
        return replace(COST, cpu=900.0), (COST,) * len(others)


def test_the_floor_of_what_was_changed_is_that_of_its_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ninja alone takes for it, less its headers; that of a whole build is of all units, and a cache adds none."""
    programs, built = tmp_path / "env" / "bin", tmp_path / "built"
    for folder in (programs, built):
        folder.mkdir(parents=True)
    (programs / "ninja").symlink_to(str(shutil.which("ninja")))
    (built / "build.ninja").write_text(NINJA, encoding="utf-8")
    bench = Bench(tmp_path)
    project = Configured(key="now", work=tmp_path, variables={}, jobs=1)
    monkeypatch.setattr(builds, "BENCH", tmp_path)
    monkeypatch.setattr(bench, "configured", lambda _options: project)

    def took(words: Sequence[str | Path], *_more: object) -> Cost:
        headers, one = words[0] == "sh", words[-1] == "one.o"
        return replace(COST, cpu=4.0 if headers else 30.0 if one else 100.0)

    monkeypatch.setattr(builds, "measure", took)
    rows = builds.compare(cast("builds.Checkout", bench), "cpu")
    whole, one = 100.0 - 2 * 4.0, 30.0 - 4.0
    assert {row.case.removeprefix("mmcv, cpu: "): row.floor for row in rows} == {
        "upstream's way": None,
        "ours": whole,
        "ours, from a ccache": None,
        "ninja alone": whole,
        "pytorch/cpu/nms.cpp changed, compiling 1 of the units: one.o": one,
        "ours, filling a ccache": whole,
    }


SETUP = """
import subprocess
from pathlib import Path
folder = Path("build/temp.some")
folder.mkdir(parents=True)
rules = "rule compile\\n  command = echo compiled > $out\\n"
(folder / "build.ninja").write_text(f"{rules}build one.o: compile ../../one.cu\\nbuild two.o: compile ../../two.cpp\\n")
subprocess.run(["ninja", "--version"], check=True)
subprocess.run(["ninja", "-C", folder], check=True)
"""


def test_upstream_s_way_tells_what_it_would_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And compiles nothing but what it is then asked for."""
    monkeypatch.setattr(builds, "BENCH", tmp_path)
    work, programs = tmp_path / "work", tmp_path / "work" / "env" / "bin"
    (work / "tree").mkdir(parents=True)
    programs.mkdir(parents=True)
    (work / "tree" / "setup.py").write_text(SETUP, encoding="utf-8")
    for name in ("one.cu", "two.cpp"):
        (work / "tree" / name).touch()
    (programs / "python").symlink_to(sys.executable)
    (programs / "ninja").symlink_to(str(shutil.which("ninja")))
    listed = builds.Project(key="now", work=work, variables={}, jobs=1).listed()
    assert listed.sources == {"one.o": "one.cu", "two.o": "two.cpp"}
    listed.make(0, "one.o")
    assert [path.name for path in (tmp_path / "tree").rglob("*.o")] == ["one.o"]
    (work / "tree" / "setup.py").write_text("raise SystemExit('no compiler')", encoding="utf-8")
    with pytest.raises(SystemExit, match="no compiler"):
        builds.Project(key="now", work=work, variables={}, jobs=1).listed()


def test_torch_is_not_made_whole_for_want_of_a_name(tmp_path: Path) -> None:
    """Ninja would."""
    with pytest.raises(SystemExit, match="nothing to make"):
        builds.Torch(work=tmp_path).make()


def test_a_case_that_there_is_not_is_refused() -> None:
    """Before anything is measured, with those that there are."""
    with pytest.raises(SystemExit, match="no case gpu: name some of cpu, cuda"):
        builds.main(["cpu", "gpu"])


def test_a_case_that_is_measured_again_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps the facts of its own run."""
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(page, "ROOT", tmp_path)
    write = partial(page.write, order=("cpu", "cuda"))
    write("cuda", [asdict(Row(case="slow", cost=COST))], {"Date": "then"})
    write("cpu", [asdict(Row(case="quick", cost=COST, share=0.1, limit=0.2))], {"Date": "now"})
    write("cpu", [asdict(Row(case="quicker", cost=COST, share=0.05, limit=0.2))], {"Date": "later"})
    written = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert (
        written.index("Date: later.")
        < written.index("| quicker | 50.0 | 1/20.0 of upstream's | 1/5.0 |")
        < written.index("Date: then.")
    )
    assert "| slow | 50.0 |" in written
    assert "now" not in written


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark that builds nothing, and the page that it writes."""
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(builds, "BENCH", tmp_path / ".mmstack" / "bench")
    checkout = Bench(tmp_path)
    monkeypatch.setattr(builds, "Checkout", lambda: checkout)
    (tmp_path / "bin").mkdir()
    ccache = tmp_path / "bin" / "ccache"
    ccache.write_text("#!/bin/sh\necho ccache version 4.7.5\necho Features: none\n", encoding="utf-8")
    ccache.chmod(0o755)
    monkeypatch.setenv("PATH", str(ccache.parent), prepend=os.pathsep)
    return tmp_path / "docs" / "benchmarks.md"


def test_a_figure_over_its_limit_ends_the_benchmark_with_an_error(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all is measured and the page is written, which says so too; every such row is named, and no other."""
    rows = [
        Row(case="theirs", cost=COST),
        Row(case="ours", cost=COST, share=1 / 8, limit=1 / 9),
        Row(case="a start", cost=COST, limit=0.5),
        Row(case="the list", cost=COST, limit=1.0),
    ]
    monkeypatch.setattr(builds, "rows_of", lambda _checkout, name: list(map(asdict, rows)) if name == "cpu" else TIMES)
    with pytest.raises(SystemExit) as ended:
        builds.main(["cpu", "run-time"])
    assert str(ended.value).splitlines()[1:] == [
        "ours: 1/8.0 of upstream's, limit 1/9.0",
        "a start: 0.8 s wall, limit 0.5 s wall",
    ]
    written = bench.read_text(encoding="utf-8")
    assert written.count("not reached") == 2
    assert "| nms |" in written


def test_a_benchmark_within_its_limits_ends_well(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no limit is held to none."""
    rows = [Row(case="ours", cost=COST, share=1 / 9, limit=1 / 9), Row(case="theirs", cost=COST)]
    monkeypatch.setattr(builds, "rows_of", lambda *_of: list(map(asdict, rows)))
    builds.main(["cpu"])
    assert "| reached |" in bench.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("cpu", "Layers: a 1, b 2; ccache: 4.7.5."),
        (
            "cuda",
            "Options: `--cuda 13.0 --toolkit wheels --arch 9.0`; Layers: a 1, b 2; Toolkit: CUDA 13.0, nvcc 13.0.88.",
        ),
        ("torch", "Options: `--stack debian12`; Layers: a 1, b 2."),
        ("starts", "Layers: a 1, b 2."),
    ],
)
def test_the_page_says_what_was_measured_by_version(
    case: str, said: str, bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the plan has it; a compiler cache where one is measured; nothing of what there is not."""
    monkeypatch.setattr(builds, "rows_of", lambda *_of: [asdict(Row(case="c", cost=COST))])
    builds.main([case])
    (line,) = (line for line in bench.read_text(encoding="utf-8").splitlines() if line.startswith("Date: "))
    assert line.endswith(f"; {said}")
    assert all(fact.partition(": ")[2] for fact in line.split("; "))


def test_what_else_the_machine_did_is_the_user_s_to_say(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands beside the figures; what was said of an earlier run is not said of this one."""
    monkeypatch.setattr(builds, "rows_of", lambda *_of: [asdict(Row(case="c", cost=COST))])
    monkeypatch.setenv("MMSTACK_BENCH_BESIDE", "a test at the lowest priority")
    builds.main(["starts"])
    assert "; Beside it: a test at the lowest priority; Layers: " in bench.read_text(encoding="utf-8")
    monkeypatch.delenv("MMSTACK_BENCH_BESIDE")
    builds.main(["starts"])
    assert "Beside it" not in bench.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some CPU @ 2.20GHz\nprocessor\t: 1\n", "Some CPU @ 2.20GHz"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", ""),
        (None, ""),
    ],
)
def test_the_processor_is_named_where_the_system_does(text: str | None, model: str, tmp_path: Path) -> None:
    """Linux on Arm does not, and other systems have no such file."""
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert builds.processor(file) == model


def test_what_a_command_and_its_children_take_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grandchild's work too; and a command that fails ends the run with what it said."""
    monkeypatch.setattr(costs, "BENCH", tmp_path)
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"
    assert measure([sys.executable, "-c", nested], tmp_path, os.environ).cpu >= 0.3
    with pytest.raises(SystemExit, match="no luck"):
        measure([sys.executable, "-c", "raise SystemExit('no luck')"], tmp_path, os.environ)
