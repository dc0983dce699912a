from __future__ import annotations

import errno
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmstack.diagnose import plain
from mmstack.errors import BuildError, CatalogError, DiskError, UsageError
from mmstack.events import Compiled, Edge, Event, Notice, PlanReady, RunEnded, StepEnded
from mmstack.model import (
    Artifact,
    CheckResult,
    Compiler,
    FilePin,
    GateRules,
    Interpreter,
    LayerPlan,
    LockedRequirement,
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
from mmstack.report import (
    Manifest,
    Report,
    alone,
    chart,
    is_link,
    read_manifest,
    render,
    to_manifest,
    to_markdown,
    write,
    write_atomically,
)

BEGAN = 1_790_000_000.0
SHA = "ab" * 32
VOID = {"meta", "br", "line", "rect", "circle"}
HOSTILE = ['<script>alert(1)</script>"><img src=x onerror=alert(1)>', "javascript:alert(1)", "\x1b[31m{{ 7*7 }}\x00"]


class Page(HTMLParser):
    """What a browser would find in a page: elements, attributes, links; refuses unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.details: list[bool] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that opens."""
        self.elements.append(tag)
        self.attributes.extend(attrs)
        if tag == "details":
            self.details.append("open" in dict(attrs))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that is closed at once."""
        self.elements.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag: str) -> None:
        """Check that the innermost element is the one that closes."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.words.append(data)

    @property
    def text(self) -> str:
        """Return all text, runs of space as one."""
        return " ".join(" ".join(self.words).split())

    @property
    def links(self) -> list[str | None]:
        """Return all that could be fetched or followed."""
        return [value for name, value in self.attributes if name in {"href", "src"}]


def a_plan() -> Plan:
    """Return a plan of one layer with a patch, and three steps."""
    recipe = RecipeData(
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
    patch = Patch(
        id="0001-mend",
        project="mmx",
        file=Path("0001.patch"),
        sha256=SHA,
        versions=">=1",
        reason="it is broken",
        upstream="https://example.org/pull/1",
        retire_when="1.1 is out",
    )
    pin = FilePin(filename="mmx-1.0.tar.gz", sha256=SHA)
    layer = LayerPlan(
        recipe=recipe,
        version="1.0",
        source=Source(kind="sdist", project="mmx", version="1.0", files=(pin,)),
        chosen=pin,
        patches=(patch,),
        flags={"ops": "all"},
        facts=BuildFacts(flags={"ops": "all"}, versions={"mmx": "1.0"}, cuda="cpu"),
        environment={"MMX_OPS": "1"},
        build_requires=(LockedRequirement(name="ninja", version="1.13", sha256=(SHA,)),),
        key="1" * 64,
        work_key="5" * 64,
        verify_key="2" * 64,
        reproducible=True,
    )
    chain = {StepKind.FETCH: (), StepKind.BUILD: ("fetch mmx",), StepKind.VERIFY: ("build mmx",)}
    return Plan(
        stack=Stack(
            name="mini",
            summary="a small stack",
            python=("3.11",),
            cuda="cpu",
            layers=(),
            expect={},
            file=Path("stacks/mini.toml"),
        ),
        interpreter=Interpreter(
            path=Path("python3"), version="3.11.7", tag="cp311", platform="linux_x86_64", markers={}, tags=()
        ),
        compiler=Compiler(cc=Path("gcc"), cxx=Path("g++"), version="g++ 12.2.0"),
        jobs=2,
        layers=(layer,),
        run_requires=(LockedRequirement(name="numpy", version="2.0", sha256=(SHA,)),),
        verify_requires=(LockedRequirement(name="pytest", version="9.0", sha256=(SHA,)),),
        steps=tuple(
            Step(kind=kind, layer="mmx", needs=needs, key="k", title=f"{kind} mmx 1.0") for kind, needs in chain.items()
        ),
        key="3" * 64,
        warnings=("the plan warns",),
    )


PLAN = a_plan()
CHECKS = (
    CheckResult(name="test_value", outcome="passed", seconds=0.1),
    CheckResult(name="test_cuda", outcome="not run", seconds=0.0, detail="no GPU"),
)
VERIFIED = Verification(layer="mmx", key="2" * 64, checks=CHECKS, seconds=1.0)
FAILED = replace(
    VERIFIED, checks=(*CHECKS, CheckResult(name="test_sign", outcome="failed", seconds=0.2, detail="1 != -1"))
)
WHEEL = Artifact(
    layer="mmx",
    key="1" * 64,
    path=Path("mmx-1.0-cp311-cp311-linux_x86_64.whl"),
    sha256=SHA,
    size=12_345_678,
    seconds=83.0,
    gates=("tag", "symbols"),
)
ENDED = RunEnded(plan=PLAN, artifacts=(WHEEL,), verifications=(VERIFIED,), seconds=90.0, cpu_seconds=135.0, cores=2)
EDGES = (
    Edge(output="mmx.dir/a.cpp.o", started=BEGAN, ended=BEGAN + 20),
    Edge(output="mmx.dir/b.cpp.o", started=BEGAN, ended=BEGAN + 50),
    Edge(output="mmx.so", started=BEGAN + 50, ended=BEGAN + 60),
)


def step_events() -> list[StepEnded]:
    """Return the ends of the plan's steps: the first cached, the others a minute each."""
    fetch, build, verify = PLAN.steps
    return [
        StepEnded(step=fetch, outcome="cached", started=BEGAN, ended=BEGAN),
        StepEnded(step=build, outcome="done", started=BEGAN, ended=BEGAN + 60),
        StepEnded(step=verify, outcome="done", started=BEGAN + 60, ended=BEGAN + 90),
    ]


def a_manifest(ended: RunEnded = ENDED) -> Manifest:
    """Return the manifest of a finished run."""
    return to_manifest(
        ended,
        steps=step_events(),
        edges={"build mmx": EDGES},
        warnings=["beware"],
        reproduce="uv run invoke build-stack",
        started=BEGAN,
    )


def listen(dist: Path, *events: Event, plan: Plan = PLAN) -> list[Event]:
    """Let a report hear a run, from its plan on, and return what it tells."""
    told: list[Event] = []
    report = Report(dist=dist, reproduce="uv run invoke build-stack", clock=lambda: BEGAN, tell=told.append)
    for event in (PlanReady(plan=plan, cached=frozenset()), *events):
        report(event)
    return told


def test_a_run_leaves_a_manifest_that_says_all_that_went_in(tmp_path: Path) -> None:
    """Sources, patches, flags, requirements, wheels and checks can be read back from one file."""
    listen(
        tmp_path,
        *step_events(),
        Notice(text="beware", level="warning"),
        Notice(text="fine"),
        ENDED,
    )
    manifest = read_manifest(tmp_path / "mini")
    assert manifest["verdict"] == "verified"
    assert manifest["started"] == "2026-09-21T14:13:20+00:00"
    assert manifest["warnings"] == ["the plan warns", "beware"]
    (layer,) = manifest["layers"]
    assert layer["source"]["files"] == [{"filename": "mmx-1.0.tar.gz", "sha256": SHA}]
    assert layer["patches"][0]["id"] == "0001-mend"
    assert (layer["flags"], layer["environment"]) == ({"ops": "all"}, {"MMX_OPS": "1"})
    assert [(each["set"], each["name"]) for each in manifest["requirements"]] == [
        ("run", "numpy"),
        ("verify", "pytest"),
    ]
    assert manifest["artifacts"][0]["sha256"] == SHA
    assert manifest["verifications"][0]["counts"] == {"passed": 1, "failed": 0, "not run": 1}
    assert manifest["verifications"][0]["cached"] is False
    assert [step["outcome"] for step in manifest["steps"]] == ["cached", "done", "done"]
    assert (manifest["steps"][2]["start"], manifest["steps"][2]["seconds"]) == (60.0, 30.0)


def test_the_page_and_the_trace_need_the_manifest_alone(tmp_path: Path) -> None:
    """Writing them again from the file gives the very ones that the run wrote."""
    listen(tmp_path, *step_events(), Compiled(step=PLAN.steps[1], edges=EDGES), ENDED)
    folder = tmp_path / "mini"
    written = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert written.keys() == {"manifest.json", "report.html", "trace.json"}
    assert "mmx.so" in written["report.html"]
    write(folder, read_manifest(folder))
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == written


def test_what_ninja_made_is_in_the_manifest_with_its_step(tmp_path: Path) -> None:
    """Of every run of ninja in that step, for one that was killed carries on."""
    compiled = [Compiled(step=PLAN.steps[1], edges=edges) for edges in (EDGES[:1], EDGES[1:])]
    listen(tmp_path, *step_events(), *compiled, ENDED)
    manifest = read_manifest(tmp_path / "mini")
    assert manifest["steps"][1]["edges"] == [
        {"output": "mmx.dir/a.cpp.o", "start": 0.0, "seconds": 20.0},
        {"output": "mmx.dir/b.cpp.o", "start": 0.0, "seconds": 50.0},
        {"output": "mmx.so", "start": 50.0, "seconds": 10.0},
    ]
    assert (manifest["steps"][1]["needs"], manifest["steps"][1]["heavy"]) == (["fetch mmx"], False)
    assert (manifest["cpu_seconds"], manifest["cores"]) == (135.0, 2)


def test_the_page_shows_what_made_the_run_as_long_as_it_was() -> None:
    """The chain of steps and commands with their seconds, what of the run that was, and how busy the cores were."""
    page = Page(render(a_manifest()))
    _before, _title, section = page.text.partition("Critical path")
    section = section.partition("Wheels")[0]
    assert "together 1 min 30 s of the 1 min 30 s" in section
    assert "75 % of what 2 cores" in section
    assert "build mmx: 3 commands, 1.3 at once on average, at most 2" in section
    assert [word for word in ("b.cpp.o", "a.cpp.o", "mmx.so") if f" {word} " in section] == ["b.cpp.o", "mmx.so"]


def test_a_run_of_cached_steps_has_no_critical_path() -> None:
    """Nothing is drawn of nothing."""
    cached = [replace(event, outcome="cached") for event in step_events()]
    assert "Critical path" not in render(to_manifest(ENDED, steps=cached))


def test_the_page_shows_what_a_reader_asks_for() -> None:
    """Verdict, full hashes, reasons of patches, what did not run and why, and the way to do it again."""
    page = Page(render(a_manifest()))
    for words in (
        "✓ built and verified",
        "g++ 12.2.0",
        SHA,
        "12.3 MB",
        "it is broken",
        "test_cuda no GPU",
        "numpy",
        "beware",
        "uv run invoke build-stack",
    ):
        assert words in page.text
    assert page.links == ["https://example.org/pull/1"]


def test_the_page_brings_all_it_needs() -> None:
    """No element fetches anything or runs anything."""
    page = Page(render(a_manifest()))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.elements)
    assert "url(" not in render(a_manifest())


def test_failed_checks_stand_open_and_passed_ones_are_folded() -> None:
    """The eye meets what needs attention."""
    patches_and_requirements = [True, False]
    assert Page(render(a_manifest())).details == [True, False, *patches_and_requirements]
    failed = Page(render(a_manifest(replace(ENDED, verifications=(FAILED,)))))
    assert failed.details == [True, True, False, *patches_and_requirements]
    assert "✗ 1 failed" in failed.text
    assert "1 != -1" in failed.text


def test_a_failed_run_is_reported_with_its_error_and_what_was_not_reached(tmp_path: Path) -> None:
    """A report is wanted most when something went wrong."""
    error = BuildError("mmx did not build", argv=("make",), status=2, why="a.c:1:1: error: no", fix="mend a.c")
    build = StepEnded(step=PLAN.steps[1], outcome="failed", started=BEGAN, ended=BEGAN + 5)
    listen(tmp_path, build, RunEnded(plan=PLAN, artifacts=(), verifications=(), seconds=5.0, error=error))
    manifest = read_manifest(tmp_path / "mini")
    assert manifest["verdict"] == "failed"
    assert [step["outcome"] for step in manifest["steps"]] == ["not reached", "failed", "not reached"]
    page = Page(render(manifest))
    for words in ("mmx did not build", "a.c:1:1: error: no", "mend a.c", "✗ failed, 5.0 s", "not reached"):
        assert words in page.text


def test_a_run_that_did_nothing_keeps_the_report_of_the_one_that_did(tmp_path: Path) -> None:
    """Times are those of the real work, not of looking at it again."""
    cached = [replace(event, outcome="cached") for event in step_events()]
    listen(tmp_path, *step_events(), ENDED)
    written = (tmp_path / "mini" / "manifest.json").read_text(encoding="utf-8")
    listen(tmp_path, *cached, replace(ENDED, seconds=0.1))
    assert (tmp_path / "mini" / "manifest.json").read_text(encoding="utf-8") == written
    fetched = replace(cached[0], outcome="done")
    listen(tmp_path, fetched, *cached[1:], replace(ENDED, seconds=0.2))
    assert (tmp_path / "mini" / "manifest.json").read_text(encoding="utf-8") == written
    (tmp_path / "mini" / "manifest.json").unlink()
    listen(tmp_path, *cached, replace(ENDED, seconds=0.1))
    assert read_manifest(tmp_path / "mini")["seconds"] == 0.1


def test_a_suite_that_an_earlier_run_ran_is_told_from_one_that_ran_now(tmp_path: Path) -> None:
    """By its step, which was done before."""
    *before, verify = step_events()
    listen(tmp_path, *before, replace(verify, outcome="cached"), ENDED)
    (found,) = read_manifest(tmp_path / "mini")["verifications"]
    assert found["cached"] is True


@pytest.mark.parametrize("full", ["report.html", "trace.json", "manifest.json"])
def test_a_report_that_was_half_written_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    """The next run, which has nothing to do, finds no manifest without the files that are made of it."""

    def write_if_there_is_room(path: Path, text: str) -> None:
        if path.name == full:
            raise DiskError("full")
        write_atomically(path, text)

    with monkeypatch.context() as patch:
        patch.setattr("mmstack.report.write_atomically", write_if_there_is_room)
        with pytest.raises(DiskError):
            listen(tmp_path, *step_events(), ENDED)
    listen(tmp_path, *(replace(event, outcome="cached") for event in step_events()), ENDED)
    assert {path.name for path in (tmp_path / "mini").iterdir()} == {"manifest.json", "report.html", "trace.json"}


def test_of_two_runs_that_install_the_one_is_described_whose_build_is_there(tmp_path: Path) -> None:
    """The other may end later; what it would describe is gone by then."""
    install = Step(kind=StepKind.INSTALL, layer="", needs=(), key="k", title="install")
    installed = StepEnded(step=install, outcome="done", started=BEGAN, ended=BEGAN)
    gone, there = (replace(PLAN, key=key * 64, steps=(*PLAN.steps, install)) for key in "ab")
    stamp = tmp_path / "mini" / "env" / "mmstack.json"
    stamp.parent.mkdir(parents=True)
    stamp.write_text(json.dumps({"key": there.key}), encoding="utf-8")
    assert not listen(tmp_path, *step_events(), installed, replace(ENDED, plan=there), plan=there)
    (told,) = listen(tmp_path, *step_events(), installed, replace(ENDED, plan=gone, installed=False), plan=gone)
    assert isinstance(told, Notice)
    assert (told.level, "another build" in told.text) == ("warning", True)
    assert read_manifest(tmp_path / "mini")["key"] == there.key
    listen(tmp_path, *step_events(), replace(ENDED, plan=gone, installed=False), plan=gone)
    assert read_manifest(tmp_path / "mini")["key"] == gone.key, "a run that was to install nothing describes itself"


def test_a_report_waits_for_one_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two runs' files none are mixed; but whoever holds them for ever holds nobody up for ever."""
    monkeypatch.setattr("mmstack.report.PATIENCE", 0.1)
    with alone(tmp_path / "mini"), pytest.raises(DiskError, match="cannot write the report"):
        listen(tmp_path, *step_events(), ENDED)
    listen(tmp_path, *step_events(), ENDED)
    assert read_manifest(tmp_path / "mini")["verdict"] == "verified"


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        (ENDED, "verified"),
        (replace(ENDED, verifications=()), "not verified"),
        (replace(ENDED, installed=False), "not verified"),
        (replace(ENDED, verifications=(replace(VERIFIED, checks=CHECKS[1:]),)), "not verified"),
        (replace(ENDED, verifications=(FAILED,)), "failed"),
        (replace(ENDED, error=UsageError("no")), "failed"),
    ],
    ids=[
        "all passed",
        "no suite",
        "another build is installed",
        "nothing ran",
        "a check failed",
        "an error",
    ],
)
def test_verified_is_said_only_where_every_suite_ran_and_passed(ended: RunEnded, verdict: str) -> None:
    """What did not run was not proven."""
    assert ended.verdict == verdict


def every_string_replaced(value: object, text: str) -> object:
    """Return a copy of plain data in which every string is `text`, but for closed sets."""
    closed = {"outcome", "verdict", "schema"}
    if isinstance(value, dict):
        return {name: each if name in closed else every_string_replaced(each, text) for name, each in value.items()}
    if isinstance(value, list):
        return [every_string_replaced(each, text) for each in value]
    return text if isinstance(value, str) else value


def assert_inert(html: str) -> None:
    """Assert that a page runs nothing and links only to the web."""
    page = Page(html)
    assert not {"script", "img", "iframe", "object", "embed", "base", "link"} & set(page.elements)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(link is None or link.lower().startswith(("http://", "https://")) for link in page.links)
    assert "\x1b" not in html


def hostile_manifest(text: str) -> Manifest:
    """Return a failed run's manifest with `text` in every place for a string."""
    error = BuildError("x", argv=("x",), status=1, why="x", fix="x")
    manifest = every_string_replaced(a_manifest(replace(ENDED, verifications=(FAILED,), error=error)), text)
    assert isinstance(manifest, dict)
    return manifest


@pytest.mark.parametrize("text", HOSTILE)
def test_no_field_can_run_anything(text: str) -> None:
    """HTML, script links and template syntax in names, reasons and details are only shown."""
    html = render(hostile_manifest(text))
    assert_inert(html)
    assert plain(text) in Page(html).text


@settings(max_examples=30, deadline=None)
@given(st.text())
def test_any_text_renders_to_a_sound_page(text: str) -> None:
    """Whatever a field holds, the page is balanced, runs nothing and can be written."""
    html = render(hostile_manifest(text))
    assert_inert(html)
    assert html.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.org/a?b=c", True),
        ("HTTP://example.org", True),
        ("javascript:alert(1)", False),
        (" https://example.org", False),
        ("java\nscript:https://example.org", False),
        ("https://example.org\nx", False),
        ("data:text/html,x", False),
        ("project#12", False),
        ("", False),
    ],
)
def test_only_web_addresses_become_links(text: str, expected: bool) -> None:  # noqa: FBT001 - a table's column
    """Anything else is shown as text."""
    assert is_link(text) is expected


def test_every_bar_lies_within_the_axis() -> None:
    """Bars are fractions of the last step's end, and ticks are round numbers."""
    drawn = chart(a_manifest()["steps"])
    assert [(bar["at"], bar["at"] + bar["width"]) for bar in drawn["bars"]] == [
        (0.0, 0.0),
        (0.0, pytest.approx(60 / 90)),
        (pytest.approx(60 / 90), pytest.approx(1.0)),
    ]
    assert [tick["label"] for tick in drawn["ticks"]] == ["0 s", "20 s", "40 s", "60 s", "80 s"]


@given(st.lists(st.tuples(st.floats(0, 1e7), st.floats(0, 1e7))))
def test_any_run_has_a_readable_axis(times: list[tuple[float, float]]) -> None:
    """From nothing to months, the axis has a few ticks and no bar leaves it."""
    drawn = chart([{"start": start, "seconds": seconds} for start, seconds in times])
    assert 1 <= len(drawn["ticks"]) <= 10
    assert all(bar["at"] + bar["width"] <= 1 + 1e-9 for bar in drawn["bars"])


def test_markdown_obeys_nothing_of_what_it_quotes() -> None:
    """Pipes, backticks, links and tags in a name stay text in a CI job's summary."""
    manifest = hostile_manifest("a|b`c`[d](javascript:e)\n<img src=x>")
    text = to_markdown(manifest)
    assert "<img" not in text
    assert "](" not in text
    assert all(line.count("|") - line.count("\\|") in {0, 4, 5} for line in text.splitlines())


def test_a_summary_of_many_failures_stays_short() -> None:
    """GitHub shows none that is longer than a mebibyte."""
    manifest = a_manifest()
    checks = [{"name": f"t::{n}", "outcome": "failed", "seconds": 0.0, "detail": "line\n" * 9999} for n in range(900)]
    found = {"layer": "ext", "key": "k", "cached": False, "seconds": 1.0, "checks": checks}
    counts = {"passed": 0, "failed": 900, "not run": 0}
    text = to_markdown({**manifest, "verifications": [{**found, "counts": counts}]})
    assert len(text) < 10_000
    assert "and 880 more checks failed" in text


def test_a_manifest_of_a_machine_without_cores_draws_no_page() -> None:
    """A reader refuses it before; whoever hands one over by itself gets the same error."""
    with pytest.raises(CatalogError):
        render({**a_manifest(), "cores": 0})


def test_a_missing_or_foreign_manifest_says_what_to_do(tmp_path: Path) -> None:
    """No traceback for a file that is not there, is cut off, or is another version's."""
    with pytest.raises(UsageError, match="build-stack"):
        read_manifest(tmp_path)
    for content in ('{"schema": 1', "[]", '{"schema": 99}', "\udcff"):
        (tmp_path / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(CatalogError, match=r"manifest\.json"):
            read_manifest(tmp_path)
    with pytest.raises(CatalogError, match="not one that this version"):
        render({"schema": 2, "steps": []})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The write fails as a DiskError, and neither a half file nor a temporary one stays."""
    target = tmp_path / "manifest.json"
    write_atomically(target, "old")

    def fail(path: Path, *_args: object, **_options: object) -> None:
        path.touch()
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(DiskError, match=r"manifest\.json"):
        write_atomically(target, "new")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("manifest.json", b"old")]


def test_a_folder_that_is_a_file_is_a_disk_error(tmp_path: Path) -> None:
    """What the file system refuses is told as such, without a mock in between."""
    (tmp_path / "mini").write_text("in the way")
    with pytest.raises(DiskError, match="cannot write"):
        write(tmp_path / "mini", a_manifest())


def test_the_manifest_is_plain_json() -> None:
    """Nothing in it is known to Python alone."""
    assert json.loads(json.dumps(a_manifest())) == a_manifest()
