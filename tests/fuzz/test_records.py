"""What mmstack wrote once and reads again: manifests, records of the store, times, caches; and ninja's log."""

from __future__ import annotations

import io
import json
import re
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import strategies as st

from mmstack.builders import progress
from mmstack.builders.renew import renew
from mmstack.console import Console
from mmstack.dist import Dist
from mmstack.errors import MmstackError
from mmstack.events import Compiled, DownloadProgress, Edge, Notice, RunEnded, StepEnded, StepStarted, Waiting, ignore
from mmstack.host import PROBE_ID, _installed, describe, find_installed
from mmstack.model import Artifact, CheckResult, GpuCode, Verification
from mmstack.report import read_manifest, render, to_manifest, to_markdown, write
from mmstack.standalone import BundleError, bytes_digest, check_files, read_bundle
from mmstack.store import Store, _sealed
from mmstack.verify import read_results
from tests.fuzz.cases import (
    LONE,
    WORDS,
    by_parts,
    contents,
    edited,
    encoded,
    fuzz,
    json_bytes,
    mostly,
    mutated,
    odd_floats,
    refusable,
    texts,
    values,
    with_one_changed,
)
from tests.miniature import PINS, Miniature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmstack.model import Interpreter, Plan


def checkout(root: Path) -> Miniature:
    """Write a checkout whose middle layer is to be had from every kind of source; the upper one is built against it."""
    mini = Miniature(root=root).write().pin_every_way()
    mini.edit("pipelines/top/recipe.toml", "[build]\n", '[build]\nagainst = ["ext"]\n')
    mini.lock(PINS)
    return mini


def _plan() -> Plan:
    from tempfile import TemporaryDirectory  # noqa: PLC0415 - for this alone

    with TemporaryDirectory() as folder:
        return checkout(Path(folder)).plan()


PLAN = _plan()
CHECKS = (
    CheckResult(name="a::b", outcome="passed", seconds=0.1),
    CheckResult(name="a::c", outcome="failed", seconds=0.2, detail="E assert"),
    CheckResult(name="a::d", outcome="not run", seconds=0.0, detail="no GPU"),
)
VERIFICATION = Verification(layer="ext", key="k" * 64, checks=CHECKS, seconds=1.0)
WHEEL = b"wheel"
ARTIFACTS = tuple(
    Artifact(
        layer=layer.name,
        key=layer.key,
        path=Path(f"{layer.name}-2.0-py3-none-any.whl"),
        sha256=bytes_digest(WHEEL),
        size=len(WHEEL),
        seconds=1.5,
        gates=("tag", "record"),
        reproducible=True,
        gpu_code=(GpuCode(module="ext/_x.so", target="sm_90", kernels=3),),
    )
    for layer in PLAN.layers
)


def _manifest() -> dict[str, Any]:
    ended = RunEnded(
        plan=PLAN,
        artifacts=ARTIFACTS,
        verifications=(VERIFICATION,),
        seconds=9.0,
        error=MmstackError("it failed", why="because", fix="do so"),
        cpu_seconds=3.0,
        cores=2,
    )
    steps = [StepEnded(step=step, outcome="done", started=1.0 + n, ended=2.0 + n) for n, step in enumerate(PLAN.steps)]
    build = next(step for step in PLAN.steps if step.kind == "build")
    edges = {build.id: [Edge(output="a.o", started=1.0, ended=1.5), Edge(output="b.o", started=1.2, ended=1.9)]}
    return to_manifest(
        ended,
        steps=steps,
        edges=edges,
        warnings=("look out",),
        reproduce="uv run invoke",
        options={"stack": "mini", "flag": ["ext.SPEED=O1"], "jobs": "2"},
        started=1.0,
    )


MANIFEST: dict[str, Any] = json.loads(json.dumps(_manifest()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files."""
    return tmp_path_factory.mktemp("files")


def use_manifest(folder: Path, body: bytes) -> list[str]:
    """Give a manifest to all that read one, and return the names of the wheels that it is believed to name."""
    (folder / "manifest.json").write_bytes(body)
    (folder / "wheels").mkdir(exist_ok=True)
    for artifact in ARTIFACTS:
        (folder / "wheels" / artifact.filename).write_bytes(WHEEL)
    manifest = read_manifest(folder)
    write(folder, manifest)
    to_markdown(manifest)
    Console(stdout=io.StringIO(), stderr=io.StringIO(), verbose=True).summary(manifest)
    dist = Dist(folder)
    dist.made_layers(manifest)
    return [wheel.path.name for wheel in dist.checked_wheels(manifest["artifacts"])]


LAYERS = with_one_changed(MANIFEST["layers"], "source", "patches", "build_requires", "flags", "key", "verify_key")
PARTS = {part: MANIFEST[part] for part in ("steps", "artifacts", "verifications")}


@fuzz("manifests", body=by_parts(MANIFEST, layers=LAYERS, **PARTS))
def test_a_manifest_is_used_or_refused(folder: Path, body: bytes) -> None:
    """By all that read one: the page, the trace, the summaries, those who prove it again or bundle it."""
    with refusable():
        use_manifest(folder, body)


RECORD = {
    "layer": "ext",
    "filename": "ext-2.0-py3-none-any.whl",
    "sha256": bytes_digest(WHEEL),
    "size": len(WHEEL),
    "seconds": 1.5,
    "gates": ["tag"],
    "reproducible": True,
    "gpu_code": [{"module": "m", "target": "sm_90", "kernels": 1}],
}
VERIFIED = {"layer": "ext", "seconds": 1.0, "checks": [vars(check) for check in CHECKS]}


def records(valid: Mapping[str, Any]) -> st.SearchStrategy[bytes]:
    """Return a strategy of what may stand in a record of the store; most are sealed, or nobody would read them."""
    changed = mutated(valid, st.one_of(values, odd_floats))
    sealed = changed.map(lambda value: encoded(_sealed(value) if isinstance(value, dict) else value))
    return mostly(sealed, json_bytes(_sealed(valid)))


def find_artifact(folder: Path, body: bytes) -> Artifact | None:
    """Return the artifact that a store finds by a record."""
    place = folder / "artifacts" / "key"
    place.mkdir(parents=True, exist_ok=True)
    (place / "ext-2.0-py3-none-any.whl").write_bytes(WHEEL)
    (folder / "outside").write_bytes(WHEEL)
    (place / "artifact.json").write_bytes(body)
    return Store(folder, ignore).find("key")


def find_verification(folder: Path, body: bytes) -> Verification | None:
    """Return the result of a suite that a store finds by a record."""
    (folder / "verified").mkdir(exist_ok=True)
    (folder / "verified" / "key.json").write_bytes(body)
    return Store(folder, ignore).find_verification("key")


NAMES = st.one_of(st.sampled_from(["../../outside", f"../key/{RECORD['filename']}", "x/../..", "artifact.json"]), texts)


@fuzz(
    "records of artifacts",
    body=mostly(records(RECORD), NAMES.map(lambda name: encoded(_sealed({**RECORD, "filename": name})))),
)
def test_a_record_of_the_store_is_whole_or_nothing(folder: Path, body: bytes) -> None:
    """And what is found lies in its own folder."""
    found = find_artifact(folder, body)
    if found is not None:
        assert found.path.resolve().parent == (folder / "artifacts" / "key").resolve()
        to_manifest(RunEnded(plan=PLAN, artifacts=(found,), verifications=(), seconds=1.0, error=None))


@fuzz("records of verifications", body=records(VERIFIED))
def test_a_record_of_a_suite_is_whole_or_nothing(folder: Path, body: bytes) -> None:
    """And what is found can be told."""
    found = find_verification(folder, body)
    if found is not None:
        ended = RunEnded(plan=PLAN, artifacts=(), verifications=(found,), seconds=1.0, error=None)
        render({**to_manifest(ended), "cores": 1})


TIMES = {"a.o": 1.5, "b.o": 2, "*.cpp.o": 3}


@fuzz("records of times", body=json_bytes(TIMES), text=texts)
def test_remembered_times_help_or_do_not(folder: Path, body: bytes, text: str) -> None:
    """They only serve an estimate."""
    (folder / "timings.json").write_bytes(body)
    measured = progress._remembered(folder / "timings.json")  # noqa: SLF001 - who calls it builds a whole project
    (folder / "weights.json").write_bytes(body)
    patterns: dict[str, float] = {}
    with refusable():
        patterns = progress.recipe_weights(folder)
    estimate = progress.Estimate(
        ["Building CXX object a.o", text], lambda edge: progress.weight(edge, measured, patterns)
    )
    estimate.read("[1/2] Building CXX object a.o", PLAN.steps[0])


NINJA = "# ninja log v6\n" + "".join(f"{n}\t{n + 50}\t170000000{n}\tdir/f{n}.cpp.o\tabc{n}\n" for n in range(4))


@fuzz(
    "ninja's log",
    text=st.one_of(
        edited(NINJA),
        st.lists(st.lists(texts, min_size=5, max_size=5).map("\t".join), max_size=3).map(
            lambda rows: NINJA + "\n".join(rows)
        ),
        st.text(max_size=40),
    ),
)
def test_ninja_s_log_says_something_or_not(folder: Path, text: str) -> None:
    """A line that makes no sense is left out."""
    log = folder / ".ninja_log"
    log.write_bytes(text.encode("utf-8", "surrogatepass"))
    progress.recorded(log)


LINES = st.one_of(
    st.sampled_from(["[1/2] Building CXX object a.o", "[2/2] Linking b.so", "[3/2] x", "[0/0] x", "FAILED: a.o"]),
    st.builds("[{}/{}] {}".format, texts, texts, texts),
    st.builds("[{}/{}] {}".format, st.integers(0, 10**30), st.integers(0, 10**30), texts),
    texts,
)


@fuzz("progress of ninja", share=2, lines=st.lists(LINES, max_size=8), dry=st.lists(LINES, max_size=4))
def test_what_ninja_prints_is_progress_or_not(lines: list[str], dry: list[str]) -> None:
    """It never ends a build, and a share is a share."""
    ticks = iter(range(1000))
    estimate = progress.Estimate(dry, lambda edge: progress.weight(edge, {}, {}), lambda: float(next(ticks)))
    out = io.StringIO()
    console = Console(stdout=out, stderr=out, clock=lambda: float(next(ticks)) * 100)
    for line in lines:
        event = estimate.read(line, PLAN.steps[0])
        if event is not None:
            assert 0 <= event.share <= 1
            assert event.remaining is None or event.remaining >= 0
            console(event)


SOURCES = {"files": ["a.c", "gone.c"], "key": ""}


def renewed(folder: Path, body: bytes) -> dict[str, bytes | str | None]:
    """Renew a tree that has a record of its sources, and return what is there then."""
    base = folder / "settle"
    for name, text in (("new/a.c", "1"), ("tree/a.c", "0"), ("tree/gone.c", "0"), ("outside", "x"), ("x", "y")):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text, encoding="utf-8")
    (base / "sources.json").write_bytes(body)
    renew(base / "new", base / "tree", "key")
    return contents(base)


@fuzz("records of sources", share=0.5, body=json_bytes(SOURCES))
def test_only_what_is_in_a_tree_is_removed_from_it(folder: Path, body: bytes) -> None:
    """Whatever the record of its sources says."""
    here = renewed(folder, body)
    assert (here["outside"], here["x"], here["tree/a.c"]) == (b"x", b"y", b"1")


PROGRAM = Path("/bin/true")
HEADERS = "/headers"  # stands for the folder that has some
PROBED = {"executable": str(PROGRAM), "version": "3.11.7", "implementation": "cpython", "free_threaded": False}
PROBED |= {"debug": False, "platform": "linux-x86_64", "include": HEADERS, "markers": {"python_version": "3.11"}}
STAMP = [PROBE_ID, str(PROGRAM.resolve()), PROGRAM.stat().st_mtime_ns, PROGRAM.stat().st_size]
KNOWN = {str(PROGRAM): {"stamp": STAMP, "facts": {**PROBED, "version": "3.11.6"}}}
HELD = {"version": "2.0.1", "cuda": "13.0", "architectures": ["9.0"], "digest": "1" * 64, "folders": ["/site"]}


def line(body: bytes) -> str:
    """Return it as a program prints it that answers in one line."""
    return body.decode("utf-8", "replace").replace("\n", " ")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let every program say the same."""
    return lambda said: monkeypatch.setattr(
        "mmstack.host.run", lambda *_words, **_more: type("Said", (), {"output": said})
    )


def ask_python(folder: Path, known: bytes) -> Interpreter:
    """Return what is understood of a Python, of which something may be remembered."""
    (folder / "Python.h").touch()
    (folder / "pythons.json").write_bytes(known.replace(HEADERS.encode(), bytes(folder)))
    return describe(PROGRAM, cache=folder / "pythons.json")


SAID = by_parts(PROBED, **dict.fromkeys(("executable", "version", "include", "platform"), texts))


@fuzz("answers of Pythons", share=0.5, body=SAID, known=json_bytes(KNOWN))
def test_what_a_python_says_of_itself_is_understood_or_refused(
    folder: Path, body: bytes, known: bytes, answer: Callable[[str], None]
) -> None:
    """Be it a Python or not; and so is what is remembered of it."""
    answer(line(body).replace(HEADERS, str(folder)))
    with refusable():
        ask_python(folder, known)


@fuzz("answers of layers' scripts", share=0.5, body=by_parts(HELD, **HELD))
def test_what_a_python_holds_is_understood_or_refused(folder: Path, body: bytes, answer: Callable[[str], None]) -> None:
    """By a script that a foreign Python runs."""
    answer(line(body))
    with refusable():
        held = find_installed(PROGRAM, folder / "installed.py")
        assert isinstance(held.version, str)
        assert isinstance(held.digest, str)


LISTING = [{"path": "/bin/true", "version": "3.11.7"}, {"path": None, "version": "3.12.1"}]


@fuzz("lists of Pythons", share=0.5, body=json_bytes(LISTING))
def test_what_uv_lists_is_understood(body: bytes, answer: Callable[[str], None]) -> None:
    """What it says in another way is left out."""
    answer(line(body))
    assert all(isinstance(path, Path) for _version, path in _installed(Path("uv"), "3.11", Path("pythons.json")))


JUNIT = """<?xml version="1.0"?>
<testsuites><testsuite><testcase classname="a.b" name="c" time="0.1"><failure message="m">t</failure></testcase>
<testcase classname="a" name="d" time="1"><skipped message="not run: x"/><properties><property name="n" value="v"/>
</properties></testcase></testsuite></testsuites>
"""
LAUGHS = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {new} "{("&" + old + ";") * 10}">' for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@fuzz(
    "results of suites",
    text=st.one_of(
        edited(JUNIT),
        st.text(max_size=30),
        st.just(LAUGHS + "]><testsuites><testcase name='x'><failure>&j;</failure></testcase></testsuites>"),
        st.just('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><t><testcase name="&e;"/></t>'),
    ),
)
def test_a_suite_s_results_are_read_or_not(folder: Path, text: str) -> None:
    """By what `run_suite` takes for a suite that did not run."""
    file = folder / "results.xml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        checks = read_results(file)
    except (ET.ParseError, ValueError):
        return
    assert all(check.outcome in {"passed", "failed", "not run"} for check in checks)
    assert "root:" not in str(checks)


BUNDLE = {
    "schema": 1,
    "wheels": [{"filename": "a.whl", "sha256": bytes_digest(WHEEL), "set": "layer", "layer": "x"}],
    "suites": {"suites/a.py": bytes_digest(b"")},
}


def check_bundle(folder: Path, body: bytes) -> None:
    """Hold a bundle's files against what it says of itself."""
    for name, content in (("bundle.json", body), ("wheels/a.whl", WHEEL), ("suites/a.py", b"")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    check_files(read_bundle(folder), folder)


SUITES = st.dictionaries(texts, st.just(bytes_digest(b"")), max_size=2)


@fuzz("bundles", body=by_parts(BUNDLE, wheels=BUNDLE["wheels"], suites=SUITES))
def test_a_bundle_says_what_it_is_or_is_refused(folder: Path, body: bytes) -> None:
    """By the program in it, which has no classes of ours."""
    with suppress(BundleError):
        check_bundle(folder, body)


PAYLOADS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><svg onload=alert(1)>",
    "</title><iframe src=javascript:alert(1)>",
    "javascript:alert(1)",
    "https://h/ onclick=alert(1)",
    'https://h/"><b>',
    "-->]]><base href=//evil>",
    "&lt;script&gt;",
    "{{ 7*7 }}{% for x in y %}",
    "\x1b[2J\x1b]0;x\x07\x9b31m",
    "\u202e\u2066",
    LONE,
    "::error::x\n::set-output name=a::b",
    "##[command]x",
    *(word for word in WORDS if len(word) < 400),
)
VOID = {"meta", "br", "line", "rect", "circle"}


class Page(HTMLParser):
    """What a browser would find in a page: elements by their attributes' names, and what could be followed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[tuple[str, tuple[str, ...]]] = set()
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that opens."""
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.add((tag, tuple(name for name, _value in attrs)))
        self.links += [str(value) for name, value in attrs if name in {"href", "src", "xlink:href", "action"}]

    def handle_endtag(self, tag: str) -> None:
        """Demand that the innermost element is the one that closes."""
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        """Refuse comments: there are none in the page."""
        raise AssertionError(data)


KNOWN_ELEMENTS = {
    *Page(render(MANIFEST)).elements,
    ("a", ("href", "rel")),
    ("span", ("class",)),
    ("details", ("open",)),
    ("rect", ("class", "x", "y", "width", "height", "rx")),
    ("circle", ("class", "cx", "cy", "r")),
    ("td", ("class",)),
    ("p", ("class",)),
    ("details", ()),
    ("pre", ()),
    ("br", ()),
    ("ul", ()),
    ("li", ()),
    ("code", ("class",)),
    ("code", ()),
}
CLOSED = {"verdict", "outcome", "schema"}


@st.composite
def poisoned(draw: st.DrawFn, valid: Any = MANIFEST) -> Any:  # noqa: ANN401 - any document
    """Return a manifest in whose texts, and free names, somebody has put what a page or a terminal may obey."""
    bad = st.sampled_from(PAYLOADS)
    every = draw(st.booleans())
    one = draw(bad)

    def change(value: Any, key: str) -> Any:  # noqa: ANN401 - any part of it
        if isinstance(value, dict):
            named = {
                (one if key in {"flags", "environment"} else name): change(item, name) for name, item in value.items()
            }
            return named or ({one: one} if key in {"flags", "environment"} else {})
        if isinstance(value, list):
            return [change(item, key) for item in value]
        if isinstance(value, str) and key not in CLOSED and (every or draw(st.integers(0, 3)) == 0):
            return value + one if draw(st.booleans()) else draw(bad)
        return value

    return change(json.loads(json.dumps(valid)), "")


CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@fuzz("texts in the page", share=0.5, manifest=poisoned())
def test_a_page_runs_nothing_of_what_it_shows(manifest: Any) -> None:  # noqa: ANN401 - any document
    """No element and no attribute comes from what it is made of, and no link leads to anything but the web."""
    text = render(manifest)
    page = Page(text)
    assert page.elements <= KNOWN_ELEMENTS, page.elements - KNOWN_ELEMENTS
    assert all(link.startswith(("http://", "https://")) for link in page.links)
    assert not CONTROL.search(text)


@fuzz("texts on the terminal", share=0.5, manifest=poisoned(), github=st.booleans(), text=st.sampled_from(PAYLOADS))
def test_a_terminal_obeys_nothing_of_what_it_shows(
    manifest: Any,  # noqa: ANN401 - any document
    github: bool,  # noqa: FBT001 - drawn
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does the CI runner, to whom a line may be a command."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true" if github else "")
    out, err = io.StringIO(), io.StringIO()
    with Console(stdout=out, stderr=err, verbose=True) as console:
        console.summary(manifest)
        step = PLAN.steps[0]
        console(StepStarted(step=step))
        console(StepEnded(step=step, outcome="failed", started=0.0, ended=1.0, detail=text))
        console(Compiled(step=step, edges=()))
        console(DownloadProgress(filename=text, done=1, total=2, finished=True))
        console(Waiting(what=text))
        console(Notice(text=text))
        console(Notice(text=text, level="warning"))
        console.error(MmstackError(text, why=text, fix=text), traceback=True)
    shown = out.getvalue() + err.getvalue()
    assert not CONTROL.search(shown)
    ours = ("::group::", "::endgroup::", "::warning::", "::error::")
    if github:
        commands = [line for line in shown.splitlines() if line.lstrip().startswith("::")]
        assert all(line.startswith(ours) for line in commands)
        assert "::set-output" not in "".join(line for line in shown.splitlines() if line.startswith("::set"))
        assert not re.search(r"^##\[", shown, re.MULTILINE)


@fuzz("summaries of CI jobs", share=0.5, manifest=poisoned())
def test_a_summary_obeys_nothing_of_what_it_shows(manifest: Any) -> None:  # noqa: ANN401 - any document
    """Markdown lets HTML through."""
    text = to_markdown(manifest)
    assert not re.search(r"<[A-Za-z/!?]", text)
    assert not CONTROL.search(text)


@fuzz("traces", share=0.5, manifest=mutated(MANIFEST))
def test_a_manifest_that_is_no_manifest_draws_no_page(manifest: Any) -> None:  # noqa: ANN401 - any document
    """Where somebody renders it without having read it."""
    with refusable():
        if isinstance(manifest, dict):
            render(manifest)


def test_the_records_are_taken_as_they_are(folder: Path) -> None:
    """What is changed above is valid before: of a document that is refused unread, no change could find anything."""
    assert use_manifest(folder, encoded(MANIFEST)) == [artifact.filename for artifact in ARTIFACTS]
    found = find_artifact(folder, encoded(_sealed(RECORD)))
    assert found
    assert found.gpu_code == (GpuCode(module="m", target="sm_90", kernels=1),)
    assert find_verification(folder, encoded(_sealed(VERIFIED))) == replace(VERIFICATION, key="key")
    (folder / "weights.json").write_bytes(encoded(TIMES))
    assert progress.recipe_weights(folder) == TIMES
    assert progress._remembered(folder / "weights.json") == TIMES  # noqa: SLF001 - as above
    assert "tree/gone.c" not in renewed(folder, encoded(SOURCES))
    check_bundle(folder, encoded(BUNDLE))


def test_what_others_say_is_taken_as_it_is(folder: Path, answer: Callable[[str], None]) -> None:
    """And so is what is remembered of it, before it is asked for."""
    answer(json.dumps(PROBED).replace(HEADERS, str(folder)))
    assert ask_python(folder, b"").version == "3.11.7"
    assert ask_python(folder, encoded(KNOWN)).version == "3.11.6"
    answer(json.dumps(HELD))
    assert find_installed(PROGRAM, folder / "installed.py").version == "2.0.1"
    answer(json.dumps(LISTING))
    assert _installed(Path("uv"), "3.11", Path("pythons.json")) == [("3.11.7", PROGRAM)]
    (folder / ".ninja_log").write_text(NINJA, encoding="utf-8")
    assert len(progress.recorded(folder / ".ninja_log")) == 4
    (folder / "results.xml").write_text(JUNIT, encoding="utf-8")
    assert [check.outcome for check in read_results(folder / "results.xml")] == ["failed", "not run"]
