"""Who built what from what: a statement that follows the published messages."""

from __future__ import annotations

import copy
import json
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.protobuf.json_format import ParseError

from mmstack import run
from mmstack.errors import CatalogError
from mmstack.events import PlanReady, RunEnded, StepEnded
from mmstack.model import Artifact, FilePin, LockedRequirement, Request, Toolkit
from mmstack.options import Options
from mmstack.provenance import LOCAL, builder, to_provenance
from mmstack.report import Manifest, Report, read_manifest, to_manifest
from tests.miniature import PINS, Miniature
from tests.statements import check, check_by_messages

BEGAN = 1_790_000_000.0


def a_manifest(root: Path, sources: dict[str, str] | None = None, **more: Any) -> Manifest:  # noqa: ANN401 - a plan's own
    """Return the manifest of a run that installed a stack."""
    mini = Miniature(root=root).write().pin_every_way()
    mini.lock({**PINS, "build-ext": ("backend==82", "two-files==1")})
    plan = replace(mini.plan(Request(sources=sources or {})), **more)
    several = LockedRequirement(name="two-files", version="1", sha256=("b" * 64, "c" * 64))
    plan = replace(plan, run_requires=(*plan.run_requires, several))
    artifacts = tuple(
        Artifact(layer=layer.name, key=layer.key, path=Path(f"{layer.name}.whl"), sha256=digit * 64, size=1)
        for digit, layer in zip("def", plan.layers, strict=True)
    )
    steps = [StepEnded(step=step, outcome="done", started=BEGAN, ended=BEGAN + 1) for step in plan.steps]
    ended = RunEnded(plan=plan, artifacts=artifacts, verifications=(), seconds=90.4)
    options = Options(stack="mini", flag=["ext.SPEED=O2"], mirror="https://user:secret@host.test/git").kept()
    return {
        **to_manifest(ended, steps=steps, options=options, started=BEGAN),
        "builder": {"id": LOCAL, "mmstack": "0.1.0", "commit": "a" * 40, "modified": False},
    }


def statement_of(manifest: Manifest) -> dict[str, Any]:
    """Return the statement that a manifest makes, checked."""
    statement = to_provenance(manifest)
    assert statement is not None
    check(statement)
    return statement


def test_it_names_the_wheels_and_all_inputs_by_digest(tmp_path: Path) -> None:
    """Subjects are the wheels; sources, patches, what is built with and what is required are dependencies."""
    statement = statement_of(a_manifest(tmp_path, {"ext": "git"}))
    assert {item["name"]: item["digest"]["sha256"] for item in statement["subject"]} == {
        "base.whl": "d" * 64,
        "ext.whl": "e" * 64,
        "top.whl": "f" * 64,
    }
    definition = statement["predicate"]["buildDefinition"]
    inputs = definition["resolvedDependencies"]
    named = {item["name"]: item for item in inputs}
    assert named["mmstack"]["digest"] == {"gitCommit": "a" * 40}
    assert named["ext v2.0"]["uri"] == f"git+https://host.test/org/ext.git@{'c' * 40}"
    assert named["proj_base-1.0+small-cp311-cp311-linux_x86_64.whl"]["digest"] == {"sha256": "1" * 64}
    assert {"patch ext-always", "backend==82", "runtime==1.5", "checker==1.0"} <= set(named)
    assert len([item for item in inputs if item["name"] == "two-files==1" and item.get("annotations")]) == 2
    assert len(inputs) == len({json.dumps(item, sort_keys=True) for item in inputs})


def test_it_says_what_was_asked_for_by_whom_and_when(tmp_path: Path) -> None:
    """The options without passwords, what the machine had, and the times of the run."""
    statement = statement_of(a_manifest(tmp_path))
    definition, details = (statement["predicate"][name] for name in ("buildDefinition", "runDetails"))
    assert definition["externalParameters"]["flag"] == ["ext.SPEED=O2"]
    assert definition["externalParameters"]["stack"] == "mini"
    assert definition["internalParameters"]["python"]["tag"] == "cp311"
    assert "secret" not in json.dumps(statement)
    assert details["builder"] == {"id": LOCAL, "version": {"mmstack": "0.1.0"}}
    assert details["metadata"]["startedOn"] == "2026-09-21T14:13:20Z"
    assert details["metadata"]["finishedOn"] == "2026-09-21T14:14:50Z"


def test_a_toolkit_is_among_the_inputs(tmp_path: Path) -> None:
    """Its wheels, and the list of its archives."""
    toolkit = Toolkit(
        kind="redist",
        version="13.0",
        origin="x",
        identity="f" * 64,
        requirements=(LockedRequirement(name="nvcc", version="13", sha256=("7" * 64,)),),
        manifest=FilePin(filename="redistrib.json", sha256="8" * 64),
    )
    named = {
        item["name"]: item["digest"]["sha256"]
        for item in statement_of(a_manifest(tmp_path, toolkit=toolkit))["predicate"]["buildDefinition"][
            "resolvedDependencies"
        ]
        if "sha256" in item["digest"]
    }
    assert (named["nvcc==13"], named["redistrib.json"]) == ("7" * 64, "8" * 64)


@pytest.mark.parametrize("kind", ["archive", "sdist", "path:/some/folder"])
def test_every_kind_of_source_follows_the_published_messages(tmp_path: Path, kind: str) -> None:
    """Also one that has nothing but a digest."""
    statement_of(a_manifest(tmp_path, {"ext": kind}))


def changed(statement: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    """Return a statement with another value in one place."""
    statement = copy.deepcopy(statement)
    place: Any = statement
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return statement


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("subject",), []),
        (("_type",), "https://in-toto.io/Statement/v0.1"),
        (("predicate", "runDetails", "builder", "id"), "no address"),
        (("predicate", "runDetails", "metadata", "startedOn"), "yesterday"),
        (("predicate", "buildDefinition", "more"), 1),
        (("predicate", "buildDefinition", "resolvedDependencies", 0), {"name": "without a digest"}),
    ],
)
def test_the_schema_sees_what_is_wrong(tmp_path: Path, path: tuple[Any, ...], value: object) -> None:
    """A check that nothing fails would prove nothing."""
    with pytest.raises(jsonschema.ValidationError):
        check(changed(statement_of(a_manifest(tmp_path)), path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("more",), 1),
        (("subject", 0, "size"), 1),
        (("predicate", "buildDefinition", "more"), 1),
        (("predicate", "buildDefinition", "externalParameters"), []),
        (("predicate", "buildDefinition", "resolvedDependencies", 0, "digest", "sha256"), 1),
        (("predicate", "runDetails", "builder", "version", "mmstack"), 1),
        (("predicate", "runDetails", "metadata", "startedOn"), "yesterday"),
    ],
)
def test_the_published_messages_see_what_is_wrong(tmp_path: Path, path: tuple[Any, ...], value: object) -> None:
    """Whatever our own schema says: fields that they do not have, and values of another type."""
    with pytest.raises(ParseError):
        check_by_messages(changed(statement_of(a_manifest(tmp_path)), path, value))


def test_a_run_that_did_not_install_says_nothing(tmp_path: Path) -> None:
    """What lies in dist is another run's, and so is what is said of it."""
    manifest = a_manifest(tmp_path)
    for step in manifest["steps"]:
        step["outcome"] = "not reached" if step["kind"] == "install" else "done"
    assert to_provenance(manifest) is None


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    """As for the page."""
    manifest = a_manifest(tmp_path)
    for broken in ({**manifest, "started": "soon"}, {**manifest, "layers": 3}, {"artifacts": [1]}):
        with pytest.raises(CatalogError, match="is not one that this version"):
            to_provenance(broken)


def test_the_builder_is_the_workflow_or_nobody(tmp_path: Path) -> None:
    """On GitHub's runners the workflow; elsewhere no name of a user or a machine."""
    github = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_WORKFLOW_REF": "org/mmstack/.github/workflows/ci.yml@refs/heads/main",
    }
    assert builder(tmp_path, github)["id"] == f"https://github.com/{github['GITHUB_WORKFLOW_REF']}"
    assert builder(tmp_path, {**github, "GITHUB_ACTIONS": ""})["id"] == LOCAL


def a_repository(root: Path) -> None:
    """Make a folder a git repository that holds one file."""
    git = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false"]
    (root / "file").write_text("1", encoding="utf-8")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)


def test_the_commit_is_that_of_the_checkout_alone(tmp_path: Path) -> None:
    """A repository around it is another; one that was edited is said to be."""
    a_repository(tmp_path)
    (tmp_path / "inner").mkdir()
    found = builder(tmp_path, {})
    assert (len(found["commit"]), found["modified"]) == (40, False)
    (tmp_path / "file").write_text("2", encoding="utf-8")
    assert builder(tmp_path, {})["modified"] is True
    assert builder(tmp_path / "inner", {})["commit"] == ""


@pytest.mark.parametrize(
    "settings",
    ["[status]\n\tshowUntrackedFiles = no\n", "[core]\n\texcludesFile = ~/mine\n", ""],
    ids=["no", "mine", "-"],
)
def test_a_file_that_nobody_has_added_is_a_change(tmp_path: Path, settings: str) -> None:
    """What the user has git leave out counts as well: a stack is built from it all the same."""
    root, home = tmp_path / "checkout", tmp_path / "home"
    root.mkdir()
    a_repository(root)
    (home / ".config" / "git").mkdir(parents=True)
    (home / ".config" / "git" / "ignore").write_text("*.toml\n", encoding="utf-8")
    (home / "mine").write_text("*.toml\n", encoding="utf-8")
    (home / ".gitconfig").write_text(settings, encoding="utf-8")
    assert builder(root, {"HOME": str(home)})["modified"] is False
    (root / "mine.toml").touch()
    assert builder(root, {"HOME": str(home)})["modified"] is True


def test_a_run_that_was_stopped_says_who_built_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a failure or by Ctrl-C: from then on no program is started, git neither."""
    a_repository(tmp_path)
    plan = Miniature(root=tmp_path).write().plan()
    report = Report(dist=tmp_path / "dist", reproduce="", builder=lambda: builder(tmp_path, {}))
    report(PlanReady(plan=plan, cached=frozenset()))
    monkeypatch.setattr(run, "_stopping", threading.Event())
    run.stop_all()
    report(RunEnded(plan=plan, artifacts=(), verifications=(), seconds=1.0, error=run.interrupted()))
    found = read_manifest(tmp_path / "dist" / "mini")["builder"]
    assert (len(found["commit"]), found["modified"]) == (40, True)


def test_nobody_is_asked_who_builds_where_nothing_was_done(tmp_path: Path) -> None:
    """Asking starts a program, and a run that does nothing starts few."""
    plan = Miniature(root=tmp_path).write().plan()
    ended = RunEnded(plan=plan, artifacts=(), verifications=(), seconds=1.0)
    asked: list[bool] = []

    def ask() -> Manifest:
        asked.append(True)
        return {"id": LOCAL}

    report = Report(dist=tmp_path / "dist", reproduce="", builder=ask)
    report(ended)
    assert asked == [True]
    report = Report(dist=tmp_path / "dist", reproduce="", builder=ask)
    report(PlanReady(plan=plan, cached=frozenset(step.id for step in plan.steps)))
    report(ended)
    assert asked == [True]
    assert read_manifest(tmp_path / "dist" / "mini")["builder"] == {"id": LOCAL}
