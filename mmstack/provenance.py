"""Provenance: who built a stack, from what and when, as an in-toto statement with the SLSA predicate.

Made of a manifest alone. What the fields mean: https://slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmstack import __version__
from mmstack.errors import MmstackError
from mmstack.report import not_ours
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:mmstack:build-stack:v1"
LOCAL = "urn:mmstack:builder:local"
TREE = "mmstackTree"  # of in-toto's own, `dirHash` is of other bytes
# a file that nobody has added may be built from as well, whatever the user has git show or leave out elsewhere
STATUS = ("-c", "core.excludesFile=/dev/null", "status", "--porcelain", "--untracked-files=normal")


def builder(root: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return who builds: the workflow on GitHub's runners, else nobody in particular; and the checkout's commit.

    A checkout that is no git repository has none, and none is looked for in the folders around it.
    """
    workflow = environ.get("GITHUB_WORKFLOW_REF", "") if environ.get("GITHUB_ACTIONS") == "true" else ""
    server = environ.get("GITHUB_SERVER_URL", "https://github.com")
    home = Path(environ.get("HOME", root))  # there the user says whose repositories are safe
    commit = _git(root, home, "rev-parse", "HEAD")
    return {
        "id": f"{server}/{workflow}" if workflow else LOCAL,
        "mmstack": __version__,
        "commit": commit.strip(),
        "modified": bool(commit and _git(root, home, *STATUS)),
    }


def _git(root: Path, home: Path, *words: str) -> str:
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""
    environment = {"GIT_CEILING_DIRECTORIES": str(root.parent), "GIT_CONFIG_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        return run([git, "-C", root, *words], env=scrubbed(home, environment)).output
    except MmstackError:  # a repository of somebody else's, or a broken one: then the commit is not known
        return ""


def to_provenance(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the statement on the wheels of an installed stack; None where the run did not come so far.

    Raises:
        CatalogError: the manifest lacks what it says.
    """
    try:
        return _statement(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise not_ours(error) from error


def _statement(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    installed = [step["outcome"] for step in manifest["steps"] if step["kind"] == "install"]
    if not manifest["artifacts"] or not set(installed) & {"done", "cached"}:
        return None
    started = datetime.fromisoformat(manifest["started"])
    made_by = manifest["builder"]
    version = {"mmstack": made_by.get("mmstack", __version__)}
    return {
        "_type": STATEMENT,
        "subject": [{"name": item["filename"], "digest": {"sha256": item["sha256"]}} for item in manifest["artifacts"]],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {**manifest["options"], "stack": manifest["stack"]["name"]},
                "internalParameters": _found(manifest),
                "resolvedDependencies": list(_dependencies(manifest)),
            },
            "runDetails": {
                "builder": {"id": made_by.get("id", LOCAL), "version": version},
                "metadata": {
                    "invocationId": f"{manifest['key']}/{manifest['started']}",
                    "startedOn": _moment(started),
                    "finishedOn": _moment(started + timedelta(seconds=manifest["seconds"])),
                },
            },
        },
    }


def _found(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the run found on its machine, or decided, and nobody asked for."""
    interpreter, compiler, toolkit = (manifest[name] for name in ("interpreter", "compiler", "toolkit"))
    return {
        "engine": manifest["engine"],
        "modified": manifest["builder"].get("modified", False),
        "python": {name: interpreter[name] for name in ("version", "tag", "platform")},
        "compiler": compiler and {name: compiler[name] for name in ("version", "linker")},
        "toolkit": toolkit and {name: toolkit[name] for name in ("version", "kind", "identity", "architectures")},
        "keys": {layer["name"]: layer["key"] for layer in manifest["layers"]},
        "flags": {layer["name"]: layer["flags"] for layer in manifest["layers"]},
    }


def _dependencies(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all inputs by digest, each once."""
    seen: list[dict[str, Any]] = []
    for item in _inputs(manifest):
        if item not in seen:
            seen.append(item)
            yield item


def _inputs(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if commit := manifest["builder"].get("commit"):
        yield {"name": "mmstack", "digest": {"gitCommit": commit}}
    for layer in manifest["layers"]:
        source = layer["source"]
        if git := source["git"]:
            uri = f"git+{git['url']}@{git['commit']}"
            yield {"name": f"{layer['project']} {git['tag']}", "uri": uri, "digest": {"gitCommit": git["commit"]}}
        yield from _files(source["files"])
        if source["digest"]:
            held = source["kind"] == "installed"
            name = f"{layer['project']} {layer['version']}, as installed" if held else f"a folder for {layer['name']}"
            yield {"name": name, "digest": {TREE: source["digest"]}}
        for package in source["packages"]:
            name = f"{package['name']}_{package['version']}_{package['architecture']}.deb"
            yield {"name": name, "digest": {"sha256": package["sha256"]}}
        for patch in layer["patches"]:
            yield {"name": f"patch {patch['id']}", "digest": {"sha256": patch["sha256"]}}
        yield from _requirements(layer["build_requires"])
    if toolkit := manifest["toolkit"]:
        yield from _files(toolkit["files"])
        yield from _requirements(toolkit["requirements"])
    yield from _requirements(manifest["requirements"])


def _files(files: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for file in files:
        yield {"name": file["filename"], "digest": {"sha256": file["sha256"]}}


def _requirements(items: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield distributions of a package index; of several files that may serve one, the machine takes the fitting."""
    for item in items:
        several = {"annotations": {"oneOf": len(item["sha256"])}} if len(item["sha256"]) > 1 else {}
        for digest in item["sha256"]:
            yield {"name": f"{item['name']}=={item['version']}", "digest": {"sha256": digest}, **several}


def _moment(when: datetime) -> str:
    return when.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
