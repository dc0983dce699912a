from __future__ import annotations

import io
import json
import os
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmstack.console import Console
from mmstack.doctor import Finding
from mmstack.errors import BuildError, InterruptedRunError, RebuildError, UsageError
from mmstack.events import (
    ArtifactStored,
    BuildProgress,
    DownloadProgress,
    LayerVerified,
    Notice,
    PlanReady,
    RunEnded,
    StepEnded,
    StepStarted,
    Waiting,
)
from mmstack.model import (
    Artifact,
    CheckResult,
    Compiler,
    GateRules,
    Interpreter,
    LayerPlan,
    Patch,
    Plan,
    RecipeData,
    Source,
    Stack,
    Step,
    StepKind,
    Verification,
)
from mmstack.recipes import BuildFacts

SHA = "ab" * 32
RECIPE = RecipeData(
    name="mmx",
    summary="a layer",
    project="mmx",
    modules=("mmx",),
    needs=(),
    compiles=True,
    memory_per_job=1,
    build_requires=(),
    run_requires=(),
    variants={},
    verify_requires=(),
    environment={},
    conflicts=(),
    against=(),
    flags=(),
    gates=GateRules(wheel="platform", top_level=("mmx",)),
    releases={},
    folder=Path("pipelines/mmx"),
    digest=SHA,
    suite_digest=SHA,
)
PATCH = Patch(
    id="0001-mend",
    project="mmx",
    file=Path("0001.patch"),
    sha256=SHA,
    versions=">=1",
    reason="it is broken",
    upstream="",
    retire_when="",
)
LAYER = LayerPlan(
    recipe=RECIPE,
    version="1.0",
    source=Source(kind="sdist", project="mmx", version="1.0"),
    chosen=None,
    patches=(PATCH,),
    flags={},
    facts=BuildFacts(flags={}, versions={}, cuda="cpu"),
    environment={},
    build_requires=(),
    key="1234567890abcdef" * 4,
    work_key="5" * 64,
    verify_key="2" * 64,
    reproducible=True,
)
BUILD = Step(kind=StepKind.BUILD, layer="mmx", needs=(), key="k", title="build mmx")
VERIFY = Step(kind=StepKind.VERIFY, layer="mmx", needs=("build mmx",), key="k", title="verify mmx")
PLAN = Plan(
    stack=Stack(
        name="mini", summary="small", python=("3.11",), cuda="cpu", layers=(), expect={}, file=Path("mini.toml")
    ),
    interpreter=Interpreter(
        path=Path("python3"), version="3.11.7", tag="cp311", platform="linux_x86_64", markers={}, tags=()
    ),
    compiler=Compiler(cc=Path("gcc"), cxx=Path("g++"), version="g++ 12.2.0"),
    jobs=2,
    layers=(LAYER,),
    run_requires=(),
    verify_requires=(),
    steps=(BUILD, VERIFY),
    key="3" * 64,
    warnings=("the plan warns",),
)
WHEEL = Artifact(layer="mmx", key="1", path=Path("mmx-1.0-py3-none-any.whl"), sha256=SHA, size=12_300_000, seconds=83.0)
CHECKS = (
    CheckResult(name="test_value", outcome="passed", seconds=0.1),
    CheckResult(name="test_cuda_one", outcome="not run", seconds=0.0, detail="no GPU"),
    CheckResult(name="test_cuda_two", outcome="not run", seconds=0.0, detail="no GPU"),
)
VERIFIED = Verification(layer="mmx", key="2", checks=CHECKS, seconds=1.0)
ENDED = RunEnded(plan=PLAN, artifacts=(WHEEL,), verifications=(VERIFIED,), seconds=90.0)
BUILT = StepEnded(step=BUILD, outcome="done", started=100.0, ended=183.0)


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time that was set."""
        return self.now


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests' own terminal and CI out of what they test."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def out() -> io.StringIO:
    """Standard output that is no terminal."""
    return io.StringIO()


@pytest.fixture
def err() -> io.StringIO:
    """Standard error that is no terminal."""
    return io.StringIO()


def test_the_plan_is_shown_before_anything_is_done(out: io.StringIO) -> None:
    """Layers with version, source, patches, key and state, then steps, jobs and tools."""
    Console(stdout=out)(PlanReady(plan=PLAN, cached=frozenset({"build mmx"})))
    shown = out.getvalue()
    row = next(line for line in shown.splitlines() if "mmx" in line)
    assert row.split() == ["mmx", "1.0", "sdist", "1", "1234567890ab", "1", "of", "2", "steps", "cached"]
    for words in ("2, 1 of them cached", "g++ 12.2.0", "3.11.7 (python3)", "warning: the plan warns"):
        assert words in shown


def test_verbose_shows_whole_keys_patches_and_passed_checks(out: io.StringIO) -> None:
    """What is cut or counted otherwise is there for who asks."""
    console = Console(stdout=out, verbose=True)
    console(PlanReady(plan=PLAN, cached=frozenset()))
    console(ENDED)
    for words in (LAYER.key, "0001-mend: it is broken", "✓ test_value"):
        assert words in out.getvalue()


def test_cached_steps_are_in_the_plan_and_told_again_on_demand(out: io.StringIO) -> None:
    """A run with nothing to do does not list every step that it did not run, unless asked to."""
    cached = StepEnded(step=BUILD, outcome="cached", started=0.0, ended=0.0)
    Console(stdout=out)(cached)
    assert out.getvalue() == ""
    Console(stdout=out, verbose=True)(cached)
    assert out.getvalue() == "· build mmx (cached)\n"


def test_a_log_gets_plain_lines(out: io.StringIO) -> None:
    """Without a terminal: no escape codes, no bars, a mark and a word for every outcome."""
    console = Console(stdout=out)
    for event in (
        StepStarted(step=BUILD),
        BUILT,
        StepEnded(step=BUILD, outcome="cached", started=0.0, ended=0.0),
        StepEnded(step=BUILD, outcome="failed", started=0.0, ended=2.0, detail="no luck\nmore"),
        Waiting(what="another run"),
        Notice(text="careful", level="warning"),
        Notice(text="by the way"),
        ArtifactStored(artifact=WHEEL),
        LayerVerified(verification=VERIFIED),
    ):
        console(event)
    assert out.getvalue().splitlines() == [
        "> build mmx",
        "✓ build mmx (1 min 23 s)",
        "✗ build mmx (failed after 2.0 s): no luck",
        "waiting: another run",
        "! warning: careful",
        "by the way",
        "✓ stored mmx-1.0-py3-none-any.whl (12.3 MB)",
        "✓ mmx: 1 passed, 0 failed, 2 not run",
    ]


def test_downloads_in_a_log_say_start_and_end_and_little_between(out: io.StringIO) -> None:
    """However often progress comes, a line of it is written every ten seconds at most."""
    clock = Clock()
    console = Console(stdout=out, clock=clock)
    for second in range(25):
        clock.now = float(second)
        console(DownloadProgress(filename="a.whl", done=second * 1_000_000, total=25_000_000))
        console(BuildProgress(step=BUILD, done=second, total=25))
    console(DownloadProgress(filename="a.whl", done=25_000_000, total=25_000_000, finished=True))
    assert out.getvalue().splitlines() == [
        "  fetching a.whl (25.0 MB)",
        "  fetching 1 file(s): 10.0 MB of 25.0 MB",
        "  fetching 1 file(s): 20.0 MB of 25.0 MB",
        "  fetched a.whl (25.0 MB in 24.0 s)",
    ]


def test_a_long_build_in_a_log_gives_a_sign_of_life(out: io.StringIO) -> None:
    """Ten seconds without a word, then how far it is."""
    clock = Clock()
    console = Console(stdout=out, clock=clock)
    console(BuildProgress(step=BUILD, done=1, total=25))
    clock.now = 11.0
    console(BuildProgress(step=BUILD, done=7, total=25))
    assert out.getvalue() == "  build mmx: 7/25\n"


@pytest.mark.parametrize(
    ("remaining", "words"),
    [
        (None, "312/1333"),
        (2460.0, "312/1333, about 41 min left"),
        (4000.0, "312/1333, about 1 h 07 min left"),
        (12.0, "312/1333, less than a minute left"),
    ],
)
def test_a_long_build_says_how_long_it_will_take(out: io.StringIO, remaining: float | None, words: str) -> None:
    """To the minute, and nothing while it is not known."""
    clock = Clock()
    console = Console(stdout=out, clock=clock)
    clock.now = 11.0
    console(BuildProgress(step=BUILD, done=312, total=1333, share=0.2, remaining=remaining))
    assert out.getvalue() == f"  build mmx: {words}\n"


def test_a_build_that_ends_has_no_time_left(out: io.StringIO) -> None:
    """At the last file there is nothing more to wait for."""
    clock = Clock()
    console = Console(stdout=out, clock=clock)
    clock.now = 11.0
    console(BuildProgress(step=BUILD, done=9, total=9, share=1.0, remaining=0.0))
    assert out.getvalue() == "  build mmx: 9/9\n"


def test_a_terminal_gets_live_bars_that_go_away() -> None:
    """Running steps and files are drawn while they last; what stays are the ended steps."""
    out = Tty()
    with Console(stdout=out) as console:
        console(StepStarted(step=BUILD))
        console(BuildProgress(step=BUILD, done=3, total=17))
        console(DownloadProgress(filename="a.whl", done=1, total=2_000_000))
        console(DownloadProgress(filename="b.whl", done=1, total=0))
        console._display._live.refresh()  # type: ignore[attr-defined]  # noqa: SLF001 - else drawn when its thread wakes
        console(DownloadProgress(filename="a.whl", done=2_000_000, total=2_000_000, finished=True))
        console(DownloadProgress(filename="b.whl", done=5, total=5, finished=True))
        console(BUILT)
        console(ENDED)
    drawn = out.getvalue()
    for words in ("3/17", "a.whl", "b.whl", "all files", "build mmx (1 min 23 s)"):
        assert words in drawn
    assert "\x1b[?25l" in drawn, "the cursor was hidden"
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l"), "and is shown again"


def test_an_exception_leaves_the_terminal_as_it_was() -> None:
    """The live display ends with the block, however that ends."""
    out = Tty()

    def interrupted() -> None:
        with Console(stdout=out) as console:
            console(StepStarted(step=BUILD))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours go, the words and marks that carry the meaning stay."""
    coloured = Tty()
    Console(stdout=coloured)(BUILT)
    assert "\x1b[32m" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Tty()
    Console(stdout=plain)(BUILT)
    assert plain.getvalue() == "✓ build mmx (1 min 23 s)\n"


def test_a_log_that_cannot_hold_the_marks_keeps_the_words() -> None:
    """An ASCII stream is no reason to fail."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Console(stdout=stream)(replace(BUILT, outcome="failed"))
    assert raw.getvalue() == b"? build mmx (failed after 1 min 23 s)\n"


def test_the_summary_says_what_was_made_proven_and_what_to_do_next(out: io.StringIO, tmp_path: Path) -> None:
    """Wheels with size and whole hash, checks per layer with reasons, the report and the environment."""
    (tmp_path / "mini/env/bin").mkdir(parents=True)
    (tmp_path / "mini/env/bin/activate").touch()
    (tmp_path / "mini/report.html").touch()
    console = Console(stdout=out, dist=tmp_path)
    console(BUILT)
    console(ENDED)
    shown = out.getvalue()
    for words in (
        "mmx-1.0-py3-none-any.whl  12.3 MB, built in 1 min 23 s",
        f"sha256 {SHA}",
        "✓ mmx: 1 passed, 0 failed, 2 not run",
        "○ 2 not run: no GPU",
        "✓ stack mini is built and verified (1 min 30 s)",
        f"source {tmp_path}/mini/env/bin/activate",
        f"{tmp_path}/mini/report.html",
    ):
        assert words in shown
    assert "nothing to do" not in shown


def test_the_summary_names_only_files_that_are_there(out: io.StringIO, tmp_path: Path) -> None:
    """Before the environment is installed, there is nothing to activate."""
    Console(stdout=out, dist=tmp_path)(ENDED)
    assert "activate" not in out.getvalue()
    assert "report" not in out.getvalue()


def test_a_run_that_found_everything_done_says_so(out: io.StringIO) -> None:
    """The second run is not silent about having done nothing."""
    console = Console(stdout=out)
    console(StepEnded(step=BUILD, outcome="cached", started=0.0, ended=0.0))
    console(ENDED)
    assert "nothing to do: every step was done before" in out.getvalue()


PARTLY = replace(VERIFIED, checks=CHECKS[1:])


@pytest.mark.parametrize(
    ("ended", "reached", "words"),
    [
        (replace(ENDED, verifications=()), (BUILD,), "✓ stack mini: done as far as asked"),
        (replace(ENDED, verifications=(PARTLY,)), (BUILD,), "✓ stack mini: done as far as asked"),
        (
            replace(ENDED, verifications=(PARTLY,)),
            (BUILD, VERIFY),
            "! stack mini: finished without verifying all of it",
        ),
        (replace(ENDED, error=UsageError("no")), (BUILD,), "✗ stack mini failed after 1 min 30 s"),
    ],
)
def test_the_headline_claims_no_more_than_is_so(
    out: io.StringIO, ended: RunEnded, reached: tuple[Step, ...], words: str
) -> None:
    """Verified is said of verified stacks alone; to stop where it was asked is no fault, whatever was verified once."""
    console = Console(stdout=out)
    for step in reached:
        console(StepEnded(step=step, outcome="done", started=0.0, ended=1.0))
    console(ended)
    assert words in out.getvalue()
    assert "built and verified" not in out.getvalue()


def test_a_failed_check_is_named_with_its_reason(out: io.StringIO) -> None:
    """The summary shows the assertion, indented under its layer."""
    failed = CheckResult(name="test_sign", outcome="failed", seconds=0.1, detail="expected 1\nfound -1")
    Console(stdout=out)(replace(ENDED, verifications=(replace(VERIFIED, checks=(*CHECKS, failed)),)))
    assert "  ✗ mmx: 1 passed, 1 failed, 2 not run" in out.getvalue()
    assert "    ✗ test_sign: expected 1\n      found -1\n" in out.getvalue()


def test_json_leaves_standard_output_to_one_document(out: io.StringIO, err: io.StringIO) -> None:
    """All that people read goes to standard error."""
    console = Console(json=True, stdout=out, stderr=err)
    for event in (PlanReady(plan=PLAN, cached=frozenset()), StepStarted(step=BUILD), BUILT, ENDED):
        console(event)
    assert out.getvalue() == ""
    console.document({"path": "a"})
    assert json.loads(out.getvalue()) == {"path": "a"}
    assert "build mmx" in err.getvalue()


def test_without_json_there_is_no_document(out: io.StringIO) -> None:
    """A task may hand its document over without asking."""
    Console(stdout=out).document({"a": 1})
    assert out.getvalue() == ""


def test_an_error_is_the_document_if_there_was_none(out: io.StringIO, err: io.StringIO) -> None:
    """A program that reads standard output learns why; one document stays one."""
    Console(json=True, stdout=out, stderr=err).error(UsageError("no such stack", why="w", fix="f"))
    assert json.loads(out.getvalue())["error"] == {
        "slug": "usage",
        "code": 2,
        "what": "no such stack",
        "why": "w",
        "fix": "f",
    }
    out.seek(0)
    out.truncate()
    console = Console(json=True, stdout=out, stderr=err)
    console.document({"a": 1})
    console.error(UsageError("late"))
    assert json.loads(out.getvalue()) == {"a": 1}


def test_wheels_that_came_out_differently_stand_beside_the_error(out: io.StringIO, err: io.StringIO) -> None:
    """A program learns of each how it differs, as it learns that all are the same."""
    compared = [{"filename": "ext.whl", "same": False, "differences": ["x.py: line 1 is a and b"]}]
    error = RebuildError("1 of 1 wheels came out differently", why="w", fix="f", compared=compared)
    Console(json=True, stdout=out, stderr=err).error(error)
    document = json.loads(out.getvalue())
    assert (document["error"]["slug"], document["rebuilt"]) == ("rebuild", compared)


def test_an_error_says_what_why_and_fix_on_standard_error(out: io.StringIO, err: io.StringIO) -> None:
    """Three facts, no traceback, nothing on standard output."""
    Console(stdout=out, stderr=err).error(UsageError("no such stack", why="there is one", fix="take it"))
    assert err.getvalue().splitlines() == ["✗ no such stack", "        why  there is one", "        fix  take it"]
    assert out.getvalue() == ""


def test_a_failed_command_shows_its_first_error_and_its_log(tmp_path: Path, err: io.StringIO) -> None:
    """Of a long log the one line that matters, with the command that caused it; the tail is spared."""
    log = tmp_path / "build.log"
    log.write_text("$ make\n/usr/bin/c++ -c a.cpp -o a.o\na.cpp:1:2: error: bad [red]thing[/]\nmake: *** 2\n")
    error = BuildError("mmx did not build", argv=("make",), status=2, log=log, why="tail 1\ntail 2\ntail 3")
    Console(stderr=err).error(error)
    assert (
        "first error  /usr/bin/c++ -c a.cpp -o a.o\n             a.cpp:1:2: error: bad [red]thing[/]" in err.getvalue()
    )
    assert f"log  {log}" in err.getvalue()
    assert "tail" not in err.getvalue()


def test_a_failed_command_without_a_readable_log_shows_what_it_printed_last(tmp_path: Path, err: io.StringIO) -> None:
    """If no error is recognised, the tail is all there is, and all of it is shown."""
    error = BuildError("no", argv=("x",), status=2, log=tmp_path / "gone.log", why="one\ntwo\nthree")
    Console(stderr=err).error(error)
    assert "one\n             two\n             three" in err.getvalue()


def test_a_traceback_is_for_those_who_debug(err: io.StringIO) -> None:
    """Only when asked, with the cause."""
    caught = InterruptedRunError("stopped")
    caught.__cause__ = ValueError("the cause")
    console = Console(stderr=err)
    console.error(caught)
    assert "Traceback" not in err.getvalue()
    console.error(caught, traceback=True)
    assert "ValueError: the cause" in err.getvalue()


def test_findings_are_a_table_and_then_the_remedies(out: io.StringIO) -> None:
    """Doctor's verdicts are words as well as marks."""
    Console(stdout=out).findings(
        [
            Finding(name="python", verdict="ok", found="3.11.7", fix="never shown"),
            Finding(name="compiler", verdict="missing", found="none", fix="apt-get install g++"),
        ]
    )
    assert "✓ ok" in out.getvalue()
    assert "✗ missing" in out.getvalue()
    assert out.getvalue().endswith("✗ compiler: apt-get install g++\n")
    assert "never shown" not in out.getvalue()


def test_github_folds_each_step_and_annotates(monkeypatch: pytest.MonkeyPatch, err: io.StringIO) -> None:
    """One fold is open while anything runs; results stand outside of it."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    out = Tty()
    console = Console(stdout=out, stderr=err)
    for event in (
        StepStarted(step=BUILD),
        StepStarted(step=VERIFY),
        BUILT,
        replace(BUILT, step=VERIFY),
        Notice(text="100%\nsure", level="warning"),
        StepStarted(step=BUILD),
    ):
        console(event)
    console.error(UsageError("what"))
    assert out.getvalue().replace("\x1b[32m", "").replace("\x1b[0m", "").splitlines() == [
        "::group::build mmx",
        "::endgroup::",
        "✓ build mmx (1 min 23 s)",
        "::group::verify mmx",
        "::endgroup::",
        "✓ verify mmx (1 min 23 s)",
        "::warning::100%25%0Asure",
        "::group::build mmx",
        "::endgroup::",
    ]
    assert err.getvalue() == "::error::what\n"


def test_github_gets_the_summary_as_markdown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: io.StringIO) -> None:
    """Appended to what other steps of the job wrote."""
    target = tmp_path / "summary.md"
    target.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(target))
    Console(stdout=out)(ENDED)
    text = target.read_text(encoding="utf-8")
    assert text.startswith("before\n## Stack mini: verified\n")
    assert f"`{SHA}`" in text
    assert "| mmx | 1 | 0 | 2 |" in text


def test_a_job_summary_that_cannot_be_written_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: io.StringIO
) -> None:
    """A finished build does not fail for want of a page."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    Console(stdout=out)(ENDED)
    assert "::warning::the job summary was not written" in out.getvalue()


HOSTILE = "[red]x[/] [/] \x1b[2J\x1b]0;t\x07 :smile: \udcff\n::set-env name=A::b ##[add-mask]c"


@pytest.mark.parametrize("github", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_markup_escapes_and_workflow_commands_in_names_are_inert(
    monkeypatch: pytest.MonkeyPatch,
    github: bool,  # noqa: FBT001 - a table's column
    terminal: bool,  # noqa: FBT001 - a table's column
) -> None:
    """What others named is shown and never obeyed, wherever it occurs."""
    if github:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Tty() if terminal else io.StringIO()
    with Console(stdout=out, stderr=out) as console:
        tell_everything(console, HOSTILE)
    shown = out.getvalue()
    assert "[red]x[/] [/]" in shown
    assert ":smile:" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    if github:
        assert not [line for line in shown.splitlines() if line.strip().startswith("::set-env")]
        assert "##[" not in shown


def tell_everything(console: Console, text: str) -> None:
    """Tell a console events whose every free text is `text`."""
    step = replace(BUILD, title=text)
    check = CheckResult(name=text, outcome="failed", seconds=0.0, detail=text)
    console(PlanReady(plan=replace(PLAN, warnings=(text,)), cached=frozenset()))
    console(StepStarted(step=step))
    console(BuildProgress(step=step, done=1, total=2))
    console(DownloadProgress(filename=text, done=1, total=2))
    console(DownloadProgress(filename=text, done=2, total=2, finished=True))
    console(StepEnded(step=step, outcome="failed", started=0.0, ended=0.0, detail=text))
    console(Notice(text=text))
    console(Notice(text=text, level="warning"))
    console(Waiting(what=text))
    console(replace(ENDED, verifications=(replace(VERIFIED, checks=(check,)),)))
    console.table(("a",), [(text,)])
    console.error(BuildError(text, argv=(text,), status=1, why=text, fix=text))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_any_text_can_be_told(text: str) -> None:
    """No name, reason or log line makes the console fail, nor reaches the terminal raw."""
    out = io.StringIO()
    tell_everything(Console(stdout=out, stderr=out), text)
    assert not any(ord(char) < 32 and char not in "\t\n" for char in out.getvalue())


def test_events_may_come_from_many_threads(out: io.StringIO) -> None:
    """Lines are whole, and none is lost."""
    console = Console(stdout=out)

    def tell() -> None:
        for _ in range(50):
            console(BUILT)

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert out.getvalue().splitlines() == ["✓ build mmx (1 min 23 s)"] * 200


@pytest.mark.parametrize("stopping", [True, False])
def test_where_nobody_reads_any_more_the_status_tells(monkeypatch: pytest.MonkeyPatch, stopping: bool) -> None:  # noqa: FBT001 - a table
    """Ctrl-C ends the `tee` of a pipe as well: who is stopping goes on to his own end, others end there."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr("mmstack.console.is_stopping", lambda: stopping)
        console = Console(stdout=stream, stderr=stream)
        with nullcontext() if stopping else pytest.raises(SystemExit):
            console.error(InterruptedRunError("interrupted"))


def test_an_error_is_the_document_even_where_nobody_reads_the_words(out: io.StringIO) -> None:
    """Nor is standard output closed, for which the words were never meant."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as broken:
        console = Console(json=True, stdout=out, stderr=broken)
        with pytest.raises(SystemExit):
            console.error(UsageError("there is no such thing"))
        assert os.path.samestat(os.fstat(write), Path(os.devnull).stat())
    assert json.loads(out.getvalue())["error"]["what"] == "there is no such thing"
