"""Events to files: a manifest that says what was built; a page and a trace, which are made of that manifest alone."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from reprlib import repr as shortened
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmstack import __version__, shapes
from mmstack.diagnose import plain
from mmstack.errors import CatalogError, DiskError, UsageError
from mmstack.events import CacheUsed, Compiled, Notice, PlanReady, RunEnded, StepEnded, ignore
from mmstack.keys import ENGINE
from mmstack.sources.places import redact
from mmstack.standalone import NAMED_FAILURES
from mmstack.store import disk_errors
from mmstack.verify import toolkit_facts
from mmstack.words import HOUR, MINUTE, duration, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import jinja2

    from mmstack.events import Edge, Event, Listener
    from mmstack.model import Artifact, FilePin, LayerPlan, LockedRequirement, Plan, Step, Verification

SCHEMA = 5
MANIFEST_NAME = "manifest.json"
PAGE_NAME = "report.html"
TRACE_NAME = "trace.json"
PROVENANCE_NAME = "provenance.json"
STAMP = "mmstack.json"  # in an installed environment: of which plan
OUTCOMES = ("passed", "failed", "not run")
LONGEST_REASON = 300
Manifest = dict[str, Any]

PATIENCE = 60
_AXIS_TICKS = 8
_AXIS_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000, 36000, 86400)


class Report:
    """Listens to a run and, when it is over, writes its manifest, its page and its trace to `dist/<stack>/`.

    A run that found everything done leaves the files of the run that did it.

    Args:
        dist: the folder that holds one folder per stack.
        reproduce: the commands that do the same again, as the page is to show them.
        options: the user's, as `Options.kept` gives them.
        builder: asked who builds, for a run that did something.
        tell: who is told where another run's result is described instead.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        dist: Path,
        reproduce: str,
        options: Mapping[str, Any] = MappingProxyType({}),
        builder: Callable[[], Manifest] = dict,
        tell: Listener = ignore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._dist = dist
        self._reproduce = reproduce
        self._options = options
        self._builder = builder
        self._tell = tell
        self._clock = clock
        self._started = clock()
        self._cached: frozenset[str] = frozenset()
        self._steps: list[StepEnded] = []
        self._caches: list[CacheUsed] = []
        self._edges: dict[str, list[Edge]] = {}
        self._warnings: list[str] = []
        self._made_by: Manifest = {}
        self.manifest: Manifest = {}

    def __call__(self, event: Event) -> None:
        """Take note of an event.

        Raises:
            DiskError: the run is over and its files cannot be written.
        """
        match event:
            case PlanReady():
                self._started = self._clock()
                self._cached = event.cached
                if len(event.cached) < len(event.plan.steps):  # once a run is stopped, no program tells anything
                    self._made_by = self._builder()
                self._warnings.extend(event.plan.warnings)
            case StepEnded():
                self._steps.append(event)
            case CacheUsed():
                self._caches.append(event)
            case Compiled():
                self._edges.setdefault(event.step.id, []).extend(event.edges)
            case Notice(level="warning"):
                self._warnings.append(event.text)
            case RunEnded():
                self._finish(event)
            case _:
                pass

    def _finish(self, event: RunEnded) -> None:
        manifest = to_manifest(
            event,
            steps=self._steps,
            cached=self._cached,
            caches=self._caches,
            edges=self._edges,
            warnings=self._warnings,
            reproduce=self._reproduce,
            options=self._options,
            started=self._started,
        )
        folder = self._dist / event.plan.stack.name
        if nothing_done(manifest) and (earlier := _description(folder, manifest)):
            self.manifest = earlier
            return
        self.manifest = {**manifest, "builder": self._made_by or self._builder()}
        with alone(folder):
            if _has_installed(manifest) and _installed_key(folder) != manifest["key"]:
                text = f"another run has installed another build in {folder} since: the report there is of that one"
                self._tell(Notice(level="warning", text=text))
            else:
                write(folder, self.manifest)


def nothing_done(manifest: Manifest) -> bool:
    """Return whether a run found all that it was asked for already made, whatever it fetched."""
    return manifest["error"] is None and all(
        step["outcome"] == "cached" or step["kind"] == "fetch" for step in manifest["steps"]
    )


def to_manifest(
    ended: RunEnded,
    *,
    steps: Sequence[StepEnded] = (),
    cached: frozenset[str] = frozenset(),
    caches: Sequence[CacheUsed] = (),
    edges: Mapping[str, Sequence[Edge]] = MappingProxyType({}),
    warnings: Sequence[str] = (),
    reproduce: str = "",
    options: Mapping[str, Any] = MappingProxyType({}),
    started: float = 0.0,
) -> Manifest:
    """Return all that is known of a run as plain data, the one thing that every view is made from.

    Args:
        ended: the end of the run.
        steps: the steps that ended.
        cached: the ids of the steps that were done before the run began.
        caches: how a compiler cache served the steps.
        edges: what ninja made, by the id of its step.
        warnings: what the user was warned of.
        reproduce: the commands that do the same again.
        options: those of the user.
        started: when the run began, in seconds since the epoch.
    """
    plan = ended.plan
    results = {step.step.id: step for step in steps}
    facts = [
        {
            **_step(step, results.get(step.id), step.id in cached, started),
            "edges": [
                {"output": edge.output, **_when(edge.started, edge.ended, started)} for edge in edges.get(step.id, ())
            ],
        }
        for step in plan.steps
    ]
    reused = {step["layer"] for step in facts if step["kind"] == "verify" and step["outcome"] == "cached"}
    error = ended.error
    return {
        "schema": SCHEMA,
        "generator": f"mmstack {__version__}",
        "engine": ENGINE,
        "builder": {},
        "stack": {"name": plan.stack.name, "summary": plan.stack.summary, "cuda": plan.stack.cuda},
        "key": plan.key,
        "verdict": ended.verdict,
        "error": error and {"slug": error.slug, "what": error.what, "why": error.why, "fix": error.fix},
        "started": datetime.fromtimestamp(started, tz=timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(ended.seconds, 3),
        "cpu_seconds": round(ended.cpu_seconds, 3),
        "cores": ended.cores,
        "jobs": plan.jobs,
        "interpreter": {
            "path": str(plan.interpreter.path),
            "version": plan.interpreter.version,
            "tag": plan.interpreter.tag,
            "platform": plan.interpreter.platform,
        },
        "compiler": compiler_record(plan),
        "toolkit": _toolkit(plan),
        "layers": [layer_facts(layer) for layer in plan.layers],
        "requirements": [
            {"set": name, **_requirement(requirement)}
            for name, requirements in (("run", plan.run_requires), ("verify", plan.verify_requires))
            for requirement in requirements
        ],
        "artifacts": [_artifact(artifact) for artifact in ended.artifacts],
        "steps": facts,
        "compiler_caches": [{**vars(used), "step": used.step.id, "layer": used.step.layer} for used in caches],
        "verifications": [verification_facts(found, reused=found.layer in reused) for found in ended.verifications],
        "warnings": list(dict.fromkeys(warnings)),
        "reproduce": reproduce,
        "options": dict(options),
    }


def compiler_record(plan: Plan) -> dict[str, Any] | None:
    """Return what a plan compiles by, as the manifest has it; None where it compiles nothing."""
    found = plan.compiler
    if found is None:
        return None
    linker = found.linker and vars(found.linker)
    return {"cc": str(found.cc), "cxx": str(found.cxx), "version": found.version, "linker": linker}


def _toolkit(plan: Plan) -> Manifest | None:
    """Return what is known of the CUDA toolkit, by digest too where it is made of files."""
    toolkit, facts = plan.toolkit, toolkit_facts(plan)
    if toolkit is None or facts is None:
        return None
    return {
        **facts,
        "files": [_file(toolkit.manifest)] if toolkit.manifest else [],
        "requirements": [_requirement(item) for item in toolkit.requirements],
    }


def layer_facts(layer: LayerPlan) -> Manifest:
    """Return what a manifest says of a layer."""
    parts = layer.source.distro.parts if layer.source.distro else ()
    files = (*((layer.chosen,) if layer.chosen else ()), *(part.file for part in parts))
    return {
        "name": layer.name,
        "project": layer.source.project,
        "version": layer.version,
        "summary": layer.recipe.summary,
        "recipe": layer.recipe.digest,
        "source": {
            "kind": layer.source.kind,
            "path": str(layer.source.path) if layer.source.path else "",
            "digest": layer.installed.digest if layer.installed else layer.folder,
            "folders": [str(folder) for folder in layer.installed.folders] if layer.installed else [],
            "files": [_file(file) for file in files],
            "git": layer.source.git and {**vars(layer.source.git), "url": redact(layer.source.git.url)},
            "parts": {part.path: f"{part.file.filename}:{part.folder}" for part in parts},
            "packages": [vars(package) for package in layer.packages],
            "tree": dict(layer.tree),
        },
        "patches": [
            {
                "id": patch.id,
                "sha256": patch.sha256,
                "reason": patch.reason,
                "upstream": patch.upstream,
                "retire_when": patch.retire_when,
            }
            for patch in layer.patches
        ],
        "cuda": layer.cuda,
        "expect": dict(layer.expect),
        "flags": dict(layer.flags),
        "environment": dict(layer.environment),
        "build_requires": [_requirement(requirement) for requirement in layer.build_requires],
        "key": layer.key,
        "verify_key": layer.verify_key,
        "reproducible": layer.reproducible,
    }


def _file(pin: FilePin) -> Manifest:
    return {"filename": pin.filename, "sha256": pin.sha256}


def _requirement(requirement: LockedRequirement) -> Manifest:
    return {"name": requirement.name, "version": requirement.version, "sha256": list(requirement.sha256)}


def _artifact(artifact: Artifact) -> Manifest:
    return {
        "layer": artifact.layer,
        "filename": artifact.filename,
        "sha256": artifact.sha256,
        "size": artifact.size,
        "seconds": round(artifact.seconds, 3),
        "gates": list(artifact.gates),
        "gpu_code": [vars(line) for line in artifact.gpu_code],
        "key": artifact.key,
        "reproducible": artifact.reproducible,
    }


def _step(step: Step, ended: StepEnded | None, cached: bool, origin: float) -> Manifest:  # noqa: FBT001 - a fact, not a switch
    outcome = ended.outcome if ended else "cached" if cached else "not reached"
    return {
        "id": step.id,
        "kind": str(step.kind),
        "layer": step.layer,
        "title": step.title,
        "needs": list(step.needs),
        "heavy": step.heavy,
        "outcome": outcome,
        **(_when(ended.started, ended.ended, origin) if ended else _when(0.0, 0.0, 0.0)),
        "detail": ended.detail if ended else "",
    }


def _when(began: float, ended: float, origin: float) -> Manifest:
    """Return it from the run's beginning, in milliseconds, so that what followed on something does not overlap it."""
    start = round(max(began - origin, 0.0), 3)
    return {"start": start, "seconds": round(max(ended - origin - start, 0.0), 3)}


def verification_facts(found: Verification, *, reused: bool) -> Manifest:
    """Return what a manifest says of a suite's result."""
    return {
        "layer": found.layer,
        "key": found.key,
        "cached": reused,
        "seconds": round(found.seconds, 3),
        "counts": {outcome: found.count(outcome) for outcome in OUTCOMES},
        "checks": [
            {
                "name": check.name,
                "outcome": check.outcome,
                "seconds": round(check.seconds, 4),
                "detail": check.detail,
            }
            for check in found.checks
        ],
    }


def write(folder: Path, manifest: Manifest) -> None:
    """Write a run's manifest, page and trace to a folder, each whole or not at all, and of whole stacks the provenance.

    Raises:
        DiskError: the disk is full, read-only or not ours to write.
    """
    from mmstack.provenance import to_provenance  # noqa: PLC0415 - see render
    from mmstack.trace import to_trace  # noqa: PLC0415 - the same

    page, trace = render(manifest), json.dumps(to_trace(manifest))
    write_atomically(folder / PAGE_NAME, page)
    write_atomically(folder / TRACE_NAME, trace + "\n")
    if statement := to_provenance(manifest):
        write_atomically(folder / PROVENANCE_NAME, json.dumps(statement, indent=2) + "\n")
    # last: a run that finds it has all of them
    write_atomically(folder / MANIFEST_NAME, json.dumps(manifest, indent=2) + "\n")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold what describes a stack's result against other runs that end; each writes for moments alone.

    Raises:
        DiskError: the disk is read-only or not ours to write, or another run does not end its writing.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - a run that does nothing starts sooner without

    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        with disk_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise DiskError(
            f"cannot write the report of {folder}",
            why=f"another run holds {lock.lock_file} for more than {PATIENCE} s",
            fix="let that run go on, or end it; then run the same command again",
        ) from error
    try:
        yield
    finally:
        lock.release()


def write_atomically(path: Path, text: str) -> None:
    """Put `text` at `path` so that a reader finds the old file or the new one, never a part.

    Raises:
        DiskError: the disk is full, read-only or not ours to write.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(
            f"cannot write {path}",
            why=error.strerror or str(error),
            fix="make room, or make the folder writable, and run the same command again",
        ) from error


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the last run whose results are in a folder.

    Raises:
        UsageError: there is none.
        CatalogError: it is none that this version of mmstack wrote.
    """
    return read_manifest_file(folder / MANIFEST_NAME)


def read_manifest_file(
    path: Path, again: str = "run `uv run invoke build-stack` for this stack: it writes the manifest anew"
) -> Manifest:
    """Return the manifest that a file holds; see `read_manifest`. `again` is what to do where it holds none."""
    try:
        manifest = shapes.load(path)
    except FileNotFoundError as error:
        raise UsageError(f"there is no report yet: {path} does not exist", fix=again) from error
    except (OSError, ValueError) as error:
        raise CatalogError(f"{path} cannot be read", why=str(error), fix=again) from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise CatalogError(f"{path} has schema {shortened(schema)}, not {SCHEMA}", fix=again)
    if where := shapes.misfit(manifest, shapes.MANIFEST):
        raise CatalogError(f"{path} is no manifest of a run", why=f"{where} is not what it must be", fix=again)
    return dict(manifest)


def not_ours(error: Exception) -> CatalogError:
    """Return the error of whoever did not find in a manifest what we write into each."""
    return CatalogError(
        "the manifest is not one that this version of mmstack writes", why=repr(error), fix="build the stack again"
    )


def _description(folder: Path, manifest: Manifest) -> Manifest | None:
    """Return the manifest of the run that made what this one has found, if it came as far."""
    try:
        earlier = read_manifest(folder)
    except (UsageError, CatalogError):
        return None
    same = (earlier["key"], earlier["verdict"]) == (manifest["key"], manifest["verdict"])
    return earlier if same else None


def _has_installed(manifest: Manifest) -> bool:
    return any(step["kind"] == "install" and step["outcome"] in {"done", "cached"} for step in manifest["steps"])


def _installed_key(folder: Path) -> object:
    """Return the key of the plan that is installed, or nothing while another is being."""
    try:
        return shapes.load(folder / "env" / STAMP).get("key")
    except (OSError, ValueError, AttributeError):
        return None


def render(manifest: Manifest) -> str:
    """Return the page: one HTML document that needs nothing but itself.

    Raises:
        CatalogError: the manifest lacks what the page shows.
    """
    import jinja2  # noqa: PLC0415 - a run that does nothing writes no page, and starts sooner without

    from mmstack.trace import critical_path  # noqa: PLC0415 - the same

    try:
        path = critical_path(manifest)
        template = _environment().get_template("report.html.jinja")
        return template.render(manifest, chart=chart(manifest["steps"]), path=path, path_chart=chart(path["rows"]))
    except (jinja2.UndefinedError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise not_ours(error) from error


def _environment() -> jinja2.Environment:
    import jinja2  # noqa: PLC0415 - see render

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_inert,
    )
    environment.filters.update(duration=duration, size=size, is_link=is_link)
    return environment


def _inert(value: object) -> object:
    from markupsafe import Markup  # noqa: PLC0415 - see render

    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def is_link(text: str) -> bool:
    """Return whether `text` may stand as a link's target: a web address and nothing else."""
    return re.fullmatch(r"https?://\S+", text, re.IGNORECASE) is not None


def chart(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return where each step's bar lies on a common axis: starts and widths as fractions of `end`."""
    end = max((step["start"] + step["seconds"] for step in steps), default=0.0) or 1.0
    interval = next((each for each in _AXIS_STEPS if end / each <= _AXIS_TICKS), end / _AXIS_TICKS)
    ticks = [interval * number for number in range(int(end / interval) + 1)]
    return {
        "ticks": [{"at": tick / end, "label": _tick(tick, interval)} for tick in ticks],
        "bars": [{**step, "at": step["start"] / end, "width": step["seconds"] / end} for step in steps],
    }


def _tick(seconds: float, interval: float) -> str:
    if interval < MINUTE:
        return f"{seconds:.1f} s" if interval < 1 else f"{seconds:.0f} s"
    if interval < HOUR:
        return f"{seconds / MINUTE:.0f} min"
    return f"{seconds / HOUR:.0f} h"


def to_markdown(manifest: Manifest) -> str:
    """Return the summary for a page that renders Markdown, such as a CI job's."""
    lines = [
        f"## Stack {_cell(manifest['stack']['name'])}: {manifest['verdict']}",
        "",
        f"{duration(manifest['seconds'])}, Python {_cell(manifest['interpreter']['version'])}",
    ]
    if manifest["error"]:
        lines += ["", f"**{_cell(manifest['error']['what'])}**"]
    if manifest["artifacts"]:
        lines += ["", "| wheel | size | sha256 |", "|---|---:|---|"]
        lines += [
            f"| {_cell(each['filename'])} | {size(each['size'])} | `{_cell(each['sha256'])}` |"
            for each in manifest["artifacts"]
        ]
    if manifest["verifications"]:
        lines += ["", "| layer | passed | failed | not run |", "|---|---:|---:|---:|"]
        lines += [
            f"| {_cell(each['layer'])} | " + " | ".join(str(each["counts"][outcome]) for outcome in OUTCOMES) + " |"
            for each in manifest["verifications"]
        ]
    failed = failed_checks(manifest)
    for name, check in failed[:NAMED_FAILURES]:  # of a page that is too long GitHub shows nothing
        said = next(iter(check["detail"].splitlines()), "")
        lines += ["", f"failed: {_cell(name)} {_cell(check['name'])}: {_cell(said[:LONGEST_REASON])}"]
    if more := len(failed[NAMED_FAILURES:]):
        lines += ["", f"and {more} more checks failed"]
    return "\n".join(lines) + "\n"


def failed_checks(manifest: Manifest) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the checks that failed, each with its layer."""
    return [
        (found["layer"], check)
        for found in manifest["verifications"]
        for check in found["checks"]
        if check["outcome"] == "failed"
    ]


def _cell(text: str) -> str:
    """Return `text` so that Markdown shows it and obeys none of it, on one line."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", escape(" ".join(plain(text).split()), quote=False))
