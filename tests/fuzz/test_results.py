"""What results say of themselves, to those who act on it: bills in wheels, manifests, what may not be swept away."""

from __future__ import annotations

import io
import json
import shlex
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st

from mmstack import bill
from mmstack.console import Console
from mmstack.engine import Engine
from mmstack.errors import PinError, UsageError
from mmstack.events import ignore
from mmstack.explain import explain
from mmstack.locked import check_manifest
from mmstack.model import Artifact, Compiler, Linker, Paths, Request
from mmstack.options import Options
from mmstack.rebuild import FOLDER, SHARED
from mmstack.report import read_manifest
from mmstack.session import Session
from mmstack.sources.git import Submodule
from mmstack.sweep import Limits, sweep
from mmstack.uses import STANDS_ON, Uses, of_result
from mmstack.workshop import Workshop
from tests.fuzz.cases import by_parts, contents, damaged, encoded, fuzz, json_bytes, limited, refusable, texts
from tests.fuzz.test_records import ARTIFACTS, CONTROL, LAYERS, MANIFEST, checkout
from tests.miniature import HOST

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

    from mmstack.catalog import Catalog
    from mmstack.model import Host, LayerPlan, Plan
    from tests.miniature import Miniature

METADATA = b"Metadata-Version: 2.4\nName: ext\nVersion: 2.0\nLicense-Expression: MIT\n"
MOLD = Linker(kind="mold", version="mold 2.40.0")
COMPILER = Compiler(cc=Path("gcc"), cxx=Path("g++"), version="g++ (Debian 12.2.0-14) 12.2.0", linker=MOLD)
MODULE = Submodule(path="third_party/part", url="https://github.com/org/part.git", commit="d" * 40)


def _bill(plan: Plan, name: str, *modules: Submodule) -> dict[str, Any]:
    made_of = bill.ingredients(plan, plan.layer(name), moment=1_700_000_000, submodules=modules)
    return dict(json.loads(bill.of_wheel(made_of, METADATA)))


def _bills() -> dict[str, dict[str, Any]]:
    from dataclasses import replace  # noqa: PLC0415 - for this alone

    with TemporaryDirectory() as folder:
        mini = checkout(Path(folder))
        from_git = mini.plan(Request(sources={"ext": "git"}), host=replace(HOST, compiler=COMPILER), linker=MOLD)
        return {
            "ext": _bill(mini.plan(), "ext"),
            "ext from git": _bill(from_git, "ext", MODULE),
            "ext for GPUs": _for_gpus(_bill(mini.plan(), "ext")),
            "top": _bill(mini.plan(Request(flags={"ext.SPEED": "O0"})), "top"),
        }


def _for_gpus(document: dict[str, Any]) -> dict[str, Any]:
    """Return a bill that says besides for which GPUs the wheel is compiled, and with what."""
    main = document["metadata"]["component"]
    main["properties"] += [_fact("architecture", word) for word in ("9.0", "12.0+PTX")]
    facts = [_fact("role", "toolkit"), _fact("kind", "system"), _fact("identity", "one")]
    document["components"].append({"name": "cuda-toolkit", "version": "12.8", "properties": facts})
    return document


def _fact(name: str, value: str) -> dict[str, str]:
    return {"name": f"{bill.PREFIX}{name}", "value": value}


BILLS = _bills()
PLACES = st.sampled_from(
    [
        *(f"ext-2.0.dist-info/{bill.PLACE}",) * 8,
        f"../../x.dist-info/{bill.PLACE}",
        f".dist-info/{bill.PLACE}",
        f"ext-2.0.dist-info/x/{bill.PLACE}",
        "ext-2.0.dist-info/WHEEL",
        "x",
    ]
)


def packed(body: bytes, place: str = f"ext-2.0.dist-info/{bill.PLACE}") -> bytes:
    """Return a wheel that holds a bill."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(place, (1980, 1, 1, 0, 0, 0)), body, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


TYPED = st.sampled_from(["--offline", "-x", "$(touch x)", "a b", "'", "--mirror=https://host/x", "x\ny", ";x"])


@st.composite
def told_otherwise(draw: DrawFn, document: dict[str, Any]) -> bytes:
    """Return a bill with other names, versions and facts, which mean something to a shell, a terminal or a task."""
    changed = json.loads(json.dumps(document))
    components = [changed["metadata"]["component"], *changed["components"]]
    places = [(part, name) for part in components for name in ("name", "version")]
    places += [(fact, "value") for part in components for fact in part["properties"]]
    for place, name in draw(st.lists(st.sampled_from(places), min_size=1, max_size=4)):
        place[name] = draw(st.one_of(texts, TYPED))
    return encoded(changed)


BODIES = st.one_of(
    *(told_otherwise(document) for document in BILLS.values()),
    *(by_parts(each, components=each["components"], metadata=each["metadata"]) for each in BILLS.values()),
)


@st.composite
def billed_wheels(draw: DrawFn) -> bytes:
    """Return a wheel with whatever may stand in place of a bill; some are damaged."""
    wheel = packed(draw(BODIES), draw(PLACES))
    return draw(damaged(wheel)) if draw(st.integers(0, 5)) == 0 else wheel


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """The checkout that made them."""
    return checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def catalog(mini: Miniature) -> Catalog:
    """What it offers, read once."""
    return mini.catalog


def told(wheel: bytes, catalog: Catalog) -> tuple[dict[str, Any], str]:
    """Return what is told of a wheel, as data and as it is printed."""
    with TemporaryDirectory() as name:
        file = Path(name, "ext-2.0-py3-none-any.whl")
        file.write_bytes(wheel)
        out = io.StringIO()
        said, lines = explain(file, catalog)
        with Console(stdout=out, stderr=out) as console:
            for line in lines:
                console.text(line)
        assert contents(file.parent) == {file.name: wheel}
    return json.loads(json.dumps(said)), out.getvalue()


@fuzz("bills in wheels", wheel=billed_wheels())
def test_a_bill_is_told_or_refused(catalog: Catalog, wheel: bytes) -> None:
    """Whoever made the wheel; and the command that is shown is ours: to a shell, and to it, its values are values."""
    with refusable() as refused:
        said, shown = told(wheel, catalog)
        assert not CONTROL.search(shown)
        words = shlex.split(said["command"])
        assert shlex.join(words) == said["command"]
        assert words[:4] in ([], ["uv", "run", "invoke", "build-stack"])
        assert all(option.startswith("--") for option in words[4::2])
        assert not any(value.startswith("-") for value in words[5::2])
    assert all(isinstance(error, (PinError, UsageError)) for error in refused)


TOOLKIT = {
    "version": "13.0",
    "kind": "redist",
    "origin": "redistrib_13.0.2.json",
    "identity": "c" * 64,
    "architectures": ["9.0", "12.0+PTX"],
    "files": [{"filename": "redistrib_13.0.2.json", "sha256": "c" * 64}],
    "requirements": [{"name": "nvcc", "version": "13.0", "sha256": ["c" * 64]}],
}
OPTIONS = {
    "stack": "mini",
    "python": "3.11",
    "toolkit": "",
    "index_only": False,
    "flag": ["ext.SPEED=O1"],
    "without": [],
}
OPTIONS |= {
    "cuda": "",
    "source": ["ext=sdist"],
    "arch": "",
    "linker": "default",
    "mirror": "https://host/x",
    "jobs": "2",
}
FACTS = {part: MANIFEST[part] for part in ("stack", "requirements", "interpreter", "compiler")}
FACTS |= {"layers": LAYERS, "toolkit": TOOLKIT}


@fuzz("manifests (locked)", body=by_parts(MANIFEST, **FACTS))
def test_what_was_built_is_what_a_lock_holds_or_is_refused(mini: Miniature, catalog: Catalog, body: bytes) -> None:
    """Whatever the manifest says that it was."""
    (mini.root / "manifest.json").write_bytes(body)
    with refusable():
        check_manifest(read_manifest(mini.root), catalog)


def rebuilt(mini: Miniature, base: Path, body: bytes, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Build again what a manifest names, but for compiling it, and return what is told of that."""
    made = {artifact.layer: artifact for artifact in ARTIFACTS}

    def artifact(_shop: Workshop, layer: LayerPlan) -> Artifact:
        return made[layer.name]

    def look(*_words: object, **_more: object) -> Host:
        return HOST

    def request(_session: Session, asked: Options) -> Request:
        asked.words()  # that can be typed
        return asked.request()

    def plan(_engine: Engine, request: Request, *_found: object) -> Plan:
        return mini.plan(request)

    monkeypatch.setattr(Session, "_request", request)
    monkeypatch.setattr(Session, "_look", look)
    monkeypatch.setattr(Engine, "plan", plan)
    monkeypatch.setattr(Engine, "build", ignore_all)
    monkeypatch.setattr(Workshop, "artifact", artifact)
    (base / "dist").mkdir(parents=True)
    (base / "dist" / "manifest.json").write_bytes(body)
    (base / "state" / "downloads").mkdir(parents=True)
    (base / "state" / "downloads" / "kept").touch()
    paths = Paths(root=mini.root, state=base / "state", dist=base / "dist")
    out = io.StringIO()
    with Console(stdout=out, stderr=io.StringIO(), json=True) as console:
        Session(paths=paths, console=console).rebuild(str(base / "dist"), Options())
    return list(json.loads(out.getvalue())["rebuilt"])


def ignore_all(*_words: object, **_more: object) -> None:
    """Do nothing."""


@fuzz(
    "manifests (rebuild)",
    body=by_parts(
        MANIFEST,
        **FACTS,
        key=texts,
        artifacts=MANIFEST["artifacts"],
        options=OPTIONS,
        builder={"commit": "c" * 40},
    ),
)
def test_a_manifest_is_built_again_or_refused(mini: Miniature, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart from all else: what is shared stays, and nothing is written but there."""
    with TemporaryDirectory() as name:
        base = Path(name)
        with refusable():
            rebuilt(mini, base, body, monkeypatch)
        after = contents(base)
        assert after["state/downloads/kept"] == b""
        assert after["dist/manifest.json"] == body
        places = {tuple(path.split("/")[:2]) for path in after} - {("dist",), ("state",), ("dist", "manifest.json")}
        assert places <= {("state", place) for place in (FOLDER, *SHARED)}


ENVIRONMENT = {"names": [f"artifacts/{'a' * 64}", f"downloads/{'b' * 64}", "repositories/"]}
SOUND, UNUSED = "artifacts/sound", "artifacts/unused"


def named(document: Any) -> set[str]:  # noqa: ANN401 - any document
    """Return what a document that was believed says that its result stands on."""
    return set(document["names"] if "names" in document else of_result(document))


def lay_out(base: Path, file: str, body: bytes, more: set[str]) -> Paths:
    """Write a result that says something, one that is sound, and a state with what both stand on, and one thing."""
    texts = {f"dist/mini/{file}": body, f"dist/sound/env/{STANDS_ON}": encoded({"names": [SOUND]})}
    for thing in (SOUND, UNUSED, *more):
        inside = {"artifacts": "artifact.json", "repositories": "x/HEAD"}.get(thing.split("/")[0], "")
        texts[f"state/{thing.rstrip('/')}/{inside}".rstrip("/")] = b"x"
    for name, text in texts.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(text)
    return Paths(root=base, state=base / "state", dist=base / "dist")


def swept(base: Path, file: str, body: bytes, more: set[str]) -> set[str]:
    """Sweep all that may go, and return what went; where the sweep is refused, nothing may."""
    paths = lay_out(base, file, body, more)
    before = contents(base)
    with refusable() as refused:
        sweep(paths, Uses(paths.state / "uses", ignore), Limits(max_size=0, older_than=0.0))
    after = {name: text for name, text in contents(base).items() if not name.startswith("state/uses")}
    gone = {name.removeprefix("state/") for name in before.keys() - after.keys()}
    assert all(before[name] == text for name, text in after.items())
    assert all(isinstance(error, UsageError) for error in refused)
    assert not (refused and gone)
    assert not any(name.startswith((SOUND, "dist/")) for name in gone)
    return gone


@fuzz(
    "results (sweep)",
    share=0.5,
    body=by_parts(MANIFEST, layers=LAYERS, requirements=MANIFEST["requirements"]),
)
def test_what_a_manifest_stands_on_stays(body: bytes) -> None:
    """Or nothing goes at all: what it says that cannot be, is not what was written."""
    with TemporaryDirectory() as name:
        gone = swept(Path(name), "manifest.json", body, named(MANIFEST))
    if gone:
        assert not gone & named(json.loads(body))


@fuzz("environments (sweep)", share=0.5, body=json_bytes(ENVIRONMENT))
def test_what_an_environment_stands_on_stays(body: bytes) -> None:
    """The same, of what is installed."""
    with TemporaryDirectory() as name:
        gone = swept(Path(name), f"env/{STANDS_ON}", body, named(ENVIRONMENT))
    if gone:
        assert not gone & named(json.loads(body))


def test_the_longest_bill_takes_no_more_memory_than_a_case_may(catalog: Catalog) -> None:
    """Packed it is small, and of all documents one of empty tables takes most."""
    wheel = packed(b"[" + b"{}," * (bill.LONGEST_BILL // 3 - 1) + b"{}]")
    assert len(wheel) < 1 << 17
    with limited(), refusable() as refused:
        told(wheel, catalog)
    assert isinstance(refused[0], PinError)


def test_bills_are_told_as_they_are(catalog: Catalog) -> None:
    """What is changed above is valid before: of a document that is refused unread, no change could find anything."""
    for document in BILLS.values():
        said, shown = told(packed(encoded(document)), catalog)
        assert said["command"].startswith("uv run invoke build-stack --stack mini --python 3.11")
        assert said["key"] in shown


def test_the_manifest_is_taken_as_it_is(
    mini: Miniature, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a rebuild, by a lock, and by a sweep."""
    check_manifest(MANIFEST, catalog)
    assert [item["same"] for item in rebuilt(mini, tmp_path / "again", encoded(MANIFEST), monkeypatch)] == [True] * 3
    full = encoded({**MANIFEST, "options": OPTIONS, "builder": {"commit": "c" * 40}})
    assert [item["same"] for item in rebuilt(mini, tmp_path / "full", full, monkeypatch)] == [True] * 3
    for file, document in (("manifest.json", MANIFEST), (f"env/{STANDS_ON}", ENVIRONMENT)):
        gone = swept(tmp_path / Path(file).name, file, encoded(document), named(document))
        assert gone == {UNUSED, f"{UNUSED}/artifact.json"}
