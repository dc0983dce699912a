"""Events to the terminal: the only place that prints."""

from __future__ import annotations

import io
import json as codec
import os
import re
import sys
import threading
import time
import traceback as tracebacks
from collections import Counter
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich import box
from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from mmstack.diagnose import first_error, plain
from mmstack.errors import CommandError, MmstackError, RebuildError
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
from mmstack.jobs import memory_per_job
from mmstack.report import OUTCOMES, PAGE_NAME, to_manifest, to_markdown
from mmstack.resolve import BUILT_KINDS
from mmstack.run import is_stopping
from mmstack.sources.places import redact
from mmstack.words import duration, gib, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import TextIO

    from typing_extensions import Self

    from mmstack.doctor import Finding
    from mmstack.events import Event
    from mmstack.model import LayerPlan, Plan, Step
    from mmstack.report import Manifest

QUIET_SECONDS = 10.0
SHORT_KEY = 12
_MARKS = {
    "done": ("✓", "green"),
    "cached": ("·", "dim"),
    "failed": ("✗", "red"),
    "passed": ("✓", "green"),
    "not run": ("○", "yellow"),
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "missing": ("✗", "red"),
}


class Display(Protocol):
    """How a run in progress is shown: live bars on a terminal, plain lines elsewhere."""

    def started(self, step: Step) -> None:
        """Show that a step runs."""

    def ended(self, step: Step, line: Text) -> None:
        """Show that it no longer does, and leave `line` behind."""

    def download(self, event: DownloadProgress) -> None:
        """Show how much of a file is here."""

    def build(self, event: BuildProgress) -> None:
        """Show how far a compiler is."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Console:
    """Listens to a run and tells it, and prints what the tasks have to say.

    Use it as a context manager, so that the live display ends with the run.

    Args:
        json: standard output is for the one JSON document, all else goes to standard error.
        verbose: whole keys, patch ids and the checks that passed as well.
        dist: the folder that holds one folder per stack, as the summary is to name it.
        stdout: where results go.
        stderr: where errors go.
        clock: seconds from any fixed moment.
    """

    def __init__(
        self,
        *,
        json: bool = False,
        verbose: bool = False,
        dist: Path = Path("dist"),
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._json = json
        self._verbose = verbose
        self._dist = dist
        # the system gives none to whom its user has closed it
        closed = io.StringIO()
        self._stdout = stdout or sys.stdout or closed
        self._documented = False
        self._github = os.environ.get("GITHUB_ACTIONS") == "true"
        self._results = _terminal(self._stdout)
        self._errors = _terminal(stderr or sys.stderr or closed)
        self._out = self._errors if json else self._results
        bars = self._out.file.isatty() and not self._out.is_dumb_terminal and not self._github
        self._display: Display = _Bars(self._out) if bars else _Lines(self._say, self._safe, clock, fold=self._github)
        self._ended: list[StepEnded] = []
        self._cached: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the live display, if there is one."""
        self._display.close()

    def __call__(self, event: Event) -> None:
        """Tell an event; safe to call from any thread."""
        with self._lock:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        match event:
            case PlanReady():
                self._cached = event.cached
                self.plan(event.plan, event.cached)
            case StepStarted():
                self._display.started(event.step)
            case StepEnded():
                self._step_ended(event)
            case DownloadProgress():
                self._display.download(event)
            case BuildProgress():
                self._display.build(event)
            case Waiting() | Notice():
                self._remark(event)
            case ArtifactStored():
                artifact = event.artifact
                self._say(self._line("done", f"stored {artifact.filename} ({size(artifact.size)})"))
            case LayerVerified():
                self._layer_verified(event)
            case RunEnded():
                self._run_ended(event)

    def document(self, content: object) -> None:
        """Print the one JSON document that `--json` promises; without `--json` there is none."""
        if self._json:
            self._documented = True
            try:
                self._stdout.write(codec.dumps(content, indent=2) + "\n")
                self._stdout.flush()
            except BrokenPipeError:
                self._results.on_broken_pipe()

    def text(self, text: str) -> None:
        """Print lines of text."""
        self._say(Text(self._safe(text)))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print rows under headings."""
        table = Table(*columns, box=box.SIMPLE, header_style="dim", pad_edge=False)
        for row in rows:
            table.add_row(*(Text(self._safe(cell)) for cell in row))
        self._out.print(table)

    def plan(self, plan: Plan, cached: frozenset[str]) -> None:
        """Print what will be done: the layers bottom-up, then the run's own facts."""
        self._say(Text.assemble("stack ", (self._safe(plan.stack.name), "bold"), f"  {self._safe(plan.stack.summary)}"))
        self.table(
            ("layer", "version", "source", "patches", "key", "state"),
            [
                (layer.name, layer.version, _source(layer), str(len(layer.patches)), self._key(layer.key), state)
                for layer, state in ((layer, _state(plan, layer.name, cached)) for layer in plan.layers)
            ],
        )
        if self._verbose:
            for layer in plan.layers:
                for patch in layer.patches:
                    self.text(f"  {layer.name} patch {patch.id}: {patch.reason}")
        here = sum(step.id in cached for step in plan.steps)
        compiler = f"{plan.compiler.version} ({plan.compiler.cxx})" if plan.compiler else "none needed"
        for name, value in (
            ("steps", f"{len(plan.steps)}, {here} of them cached"),
            ("jobs", str(plan.jobs)),
            ("compiler", compiler),
            *_linker_facts(plan),
            *_gpu_facts(plan),
            *_source_facts(plan),
            ("python", f"{plan.interpreter.version} ({plan.interpreter.path})"),
        ):
            self._pair(name, value)
        for warning in plan.warnings:
            self._warn(warning)

    def findings(self, findings: Iterable[Finding]) -> None:
        """Print what doctor found, and after it what to do, thing by thing."""
        listed = list(findings)
        self.table(
            ("", "", "found"),
            [(f"{_MARKS[each.verdict][0]} {each.verdict}", each.name, each.found) for each in listed],
        )
        for each in listed:
            if each.fix and each.verdict != "ok":
                self._say(self._line(each.verdict, f"{each.name}: {each.fix}"))

    def error(self, error: MmstackError, *, traceback: bool = False) -> None:
        """Print what failed, why and what to do, and of a command its first real error.

        Under `--json`, the error is the document if there was none yet, also where nobody reads the words; wheels that
        differ stand beside it.
        """
        try:
            self._words(error, traceback=traceback)
        finally:
            if not self._documented:
                told = {"slug": error.slug, "code": error.code, "what": error.what, "why": error.why, "fix": error.fix}
                compared = {"rebuilt": error.compared} if isinstance(error, RebuildError) else {}
                self.document({"error": told, **compared})

    def _words(self, error: MmstackError, *, traceback: bool) -> None:
        self.close()
        if self._github:
            self._command(self._errors, "error", error.what)
        else:
            self._errors.print(self._line("failed", error.what), soft_wrap=True)
        cause = _first_error(error) if isinstance(error, CommandError) else ""
        why = "" if cause and not self._verbose and error.why.count("\n") > 1 else error.why
        facts = [("why", why), ("first error", cause), ("fix", error.fix)]
        if isinstance(error, CommandError) and error.log:
            facts.append(("log", str(error.log)))
        for name, value in facts:
            if value:
                self._pair(name, value, terminal=self._errors)
        if traceback:
            self._errors.print(Text(self._safe("".join(tracebacks.format_exception(error)))), soft_wrap=True)

    def summary(self, manifest: Manifest) -> None:
        """Print what a run came to, from its manifest."""
        if manifest["artifacts"]:
            self.text("\nwheels")
        for each in manifest["artifacts"]:
            built = f", built in {duration(each['seconds'])}" if each["seconds"] else ""
            self.text(f"  {each['filename']}  {size(each['size'])}{built}\n    sha256 {each['sha256']}")
        if manifest["verifications"]:
            self.text("\nverification")
        for found in manifest["verifications"]:
            self._verification(found)
        self.text("")
        self._headline(manifest)
        folder = self._dist / manifest["stack"]["name"]
        page, activate = folder / PAGE_NAME, folder / "env" / "bin" / "activate"
        if page.exists():
            self._pair("report", str(page))
        if manifest["verdict"] != "failed" and activate.exists():
            self._pair("activate", f"source {activate}")

    def _headline(self, manifest: Manifest) -> None:
        stack, took = manifest["stack"]["name"], duration(manifest["seconds"])
        stopped = ("done", f"stack {stack}: done as far as asked ({took})")
        partly = ("warning", f"stack {stack}: finished without verifying all of it ({took})")
        outcome, words = {
            "verified": ("done", f"stack {stack} is built and verified ({took})"),
            "not verified": stopped if any(step["outcome"] == "not reached" for step in manifest["steps"]) else partly,
            "failed": ("failed", f"stack {stack} failed after {took}"),
        }[manifest["verdict"]]
        self._say(self._line(outcome, words))

    def _verification(self, found: Mapping[str, Any]) -> None:
        counts = ", ".join(f"{found['counts'][outcome]} {outcome}" for outcome in OUTCOMES)
        outcome = "failed" if found["counts"]["failed"] else "passed" if found["counts"]["passed"] else "not run"
        cached = " (cached)" if found["cached"] else ""
        self._say(self._line(outcome, f"{found['layer']}: {counts}{cached}", indent=2))
        for check in found["checks"]:
            if check["outcome"] == "failed":
                self._say(self._line("failed", f"{check['name']}: {check['detail']}", indent=4))
            elif check["outcome"] == "passed" and self._verbose:
                self._say(self._line("passed", check["name"], indent=4))
        reasons = Counter(check["detail"] for check in found["checks"] if check["outcome"] == "not run")
        for reason, number in reasons.items():
            self._say(self._line("not run", f"{number} not run: {reason or 'no reason given'}", indent=4))

    def _run_ended(self, event: RunEnded) -> None:
        self.close()
        manifest = to_manifest(event, steps=self._ended, cached=self._cached)
        if event.error is None and all(step.outcome == "cached" for step in self._ended):
            self.text("nothing to do: every step was done before")
        self.summary(manifest)
        self._append_job_summary(manifest)

    def _append_job_summary(self, manifest: Manifest) -> None:
        target = os.environ.get("GITHUB_STEP_SUMMARY")
        if not (self._github and target):
            return
        try:
            with Path(target).open("a", encoding="utf-8") as sink:
                sink.write(to_markdown(manifest))
        except OSError as error:
            self._warn(f"the job summary was not written: {error}")

    def _step_ended(self, event: StepEnded) -> None:
        self._ended.append(event)
        if event.outcome == "cached":
            if self._verbose:  # the plan's table has said so already
                self._display.ended(event.step, self._line("cached", f"{event.step.title} (cached)"))
            return
        took = {"done": "", "failed": "failed after "}[event.outcome] + duration(event.ended - event.started)
        detail = f": {event.detail.splitlines()[0]}" if event.detail else ""
        self._display.ended(event.step, self._line(event.outcome, f"{event.step.title} ({took}){detail}"))

    def _layer_verified(self, event: LayerVerified) -> None:
        found = event.verification
        counts = ", ".join(f"{found.count(outcome)} {outcome}" for outcome in OUTCOMES)
        self._say(self._line("passed" if found.passed else "failed", f"{found.layer}: {counts}"))

    def _remark(self, event: Notice | Waiting) -> None:
        match event:
            case Waiting():
                self.text(f"waiting: {event.what}")
            case Notice(level="warning"):
                self._warn(event.text)
            case Notice():
                self.text(event.text)

    def _warn(self, text: str) -> None:
        if self._github:
            self._command(self._out, "warning", text)
        else:
            self._say(self._line("warning", f"warning: {text}"))

    def _pair(self, name: str, value: str, *, terminal: Terminal | None = None) -> None:
        indented = self._safe(value).replace("\n", "\n" + " " * 13)
        (terminal or self._out).print(Text.assemble((f"{name:>11}  ", "dim"), indented), soft_wrap=True)

    def _line(self, outcome: str, text: str, *, indent: int = 0) -> Text:
        mark, style = _MARKS[outcome]
        hanging = self._safe(text).replace("\n", "\n" + " " * (indent + 2))
        return Text.assemble(" " * indent, (mark, style), " ", hanging)

    def _say(self, line: Text) -> None:
        self._out.print(line, soft_wrap=True)

    def _command(self, terminal: Terminal, name: str, text: str) -> None:
        terminal.print(Text(_workflow_command(name, text)), soft_wrap=True)

    def _key(self, key: str) -> str:
        return key if self._verbose else key[:SHORT_KEY]

    def _safe(self, text: str) -> str:
        """Return `text` so that neither the terminal nor the CI runner obeys any of it."""
        shown = plain(text)
        if self._github:
            return re.sub(r"(?m)^(\s*):(?=:)", r"\1: ", shown).replace("##[", "# #[")
        return shown


class _Bars:
    """A live display: a line per running step, a bar per file that is on its way, and their total."""

    def __init__(self, terminal: Terminal) -> None:
        name = TextColumn("{task.description}", markup=False, table_column=_clipped())
        bar = BarColumn(bar_width=24, complete_style="cyan", finished_style="cyan", pulse_style="cyan")
        count = TextColumn("{task.fields[count]}", markup=False)
        self._terminal = terminal
        self._steps = Progress(name, bar, count, TimeElapsedColumn(), console=terminal)
        self._files = Progress(name, bar, DownloadColumn(), console=terminal)
        self._live = Live(
            Group(self._steps, self._files),
            console=terminal,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._running: dict[str, TaskID] = {}
        self._active: dict[str, TaskID] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._total: TaskID | None = None

    def started(self, step: Step) -> None:
        self._live.start()
        self._running[step.id] = self._steps.add_task(plain(step.title), total=None, count="")

    def ended(self, step: Step, line: Text) -> None:
        if step.id in self._running:
            self._steps.remove_task(self._running.pop(step.id))
        self._terminal.print(line, soft_wrap=True)

    def build(self, event: BuildProgress) -> None:
        if event.step.id in self._running:
            self._steps.update(self._running[event.step.id], completed=event.share, total=1, count=_progress(event))

    def download(self, event: DownloadProgress) -> None:
        self._live.start()
        if self._total is None:
            self._total = self._files.add_task("all files", total=None)
        self._sizes[event.filename] = (event.done, event.total)
        whole = sum(max(sizes) for sizes in self._sizes.values())
        self._files.update(self._total, completed=sum(done for done, _ in self._sizes.values()), total=whole)
        if event.finished:
            if event.filename in self._active:
                self._files.remove_task(self._active.pop(event.filename))
        else:
            if event.filename not in self._active:
                self._active[event.filename] = self._files.add_task(plain(event.filename), total=None)
            self._files.update(self._active[event.filename], completed=event.done, total=event.total or None)
        self._files.update(self._total, visible=len(self._active) > 1)

    def close(self) -> None:
        self._live.stop()


class _Lines:
    """A display for logs: what began and ended, and now and then how far it is."""

    def __init__(
        self, say: Callable[[Text], None], safe: Callable[[str], str], clock: Callable[[], float], *, fold: bool
    ) -> None:
        self._say = say
        self._safe = safe
        self._clock = clock
        self._fold = fold
        self._spoke = clock()
        self._running: dict[str, Step] = {}
        self._fetching: dict[str, tuple[float, DownloadProgress]] = {}

    def started(self, step: Step) -> None:
        self._running[step.id] = step
        if not self._fold:
            self._say(Text(f"> {self._safe(step.title)}"))
        elif len(self._running) == 1:
            self._open()

    def ended(self, step: Step, line: Text) -> None:
        was_running = self._running.pop(step.id, None)
        if self._fold and was_running:
            self._say(Text("::endgroup::"))
        self._say(line)
        if self._fold and was_running and self._running:
            self._open()

    def build(self, event: BuildProgress) -> None:
        if self._may_speak():
            self._say(Text(f"  {self._safe(event.step.title)}: {_progress(event)}"))

    def download(self, event: DownloadProgress) -> None:
        name, now = self._safe(event.filename), self._clock()
        if event.finished:
            began, _ = self._fetching.pop(event.filename, (now, event))
            self._say(Text(f"  fetched {name} ({size(event.done)} in {duration(now - began)})"))
        elif event.filename not in self._fetching:
            self._fetching[event.filename] = (now, event)
            self._say(Text(f"  fetching {name}" + (f" ({size(event.total)})" if event.total else "")))
        else:
            self._fetching[event.filename] = (self._fetching[event.filename][0], event)
            if self._may_speak():
                done = sum(latest.done for _, latest in self._fetching.values())
                whole = sum(max(latest.done, latest.total) for _, latest in self._fetching.values())
                self._say(Text(f"  fetching {len(self._fetching)} file(s): {size(done)} of {size(whole)}"))

    def close(self) -> None:
        if self._fold and self._running:
            self._say(Text("::endgroup::"))
        self._running.clear()

    def _open(self) -> None:
        self._say(Text(_workflow_command("group", ", ".join(step.title for step in self._running.values()))))

    def _may_speak(self) -> bool:
        if self._clock() - self._spoke < QUIET_SECONDS:
            return False
        self._spoke = self._clock()
        return True


class Terminal(RichConsole):
    """A stream of the user's."""

    def on_broken_pipe(self) -> None:
        """Print nothing more where nobody reads, and end; one that is stopping says by its status how it ended."""
        try:
            with redirect_stdout(self.file):  # which it takes for the one that nobody reads, and there may be two
                super().on_broken_pipe()
        except SystemExit:
            if not is_stopping():
                raise


def _terminal(stream: TextIO) -> Terminal:
    if isinstance(stream, io.TextIOWrapper):
        # An ASCII log loses the marks; the words beside them stay.
        stream.reconfigure(errors="replace")
    # A log has no width: nothing may be cut there, nor moved to the start of a line.
    width = None if stream.isatty() else 240
    return Terminal(file=stream, width=width, markup=False, emoji=False, highlight=False)


def _progress(event: BuildProgress) -> str:
    """Return `312/1333, about 41 min left`; an estimate is never right to the second."""
    count = f"{event.done}/{event.total}"
    if event.remaining is None or event.done >= event.total:
        return count
    minutes = round(event.remaining / 60)
    left = f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"  # noqa: PLR2004
    return f"{count}, about {left} left" if minutes else f"{count}, less than a minute left"


def _clipped() -> Column:
    return Column(no_wrap=True, overflow="ellipsis", max_width=48)


def _workflow_command(name: str, text: str) -> str:
    shown = plain(text).replace("%", "%25").replace("\n", "%0A").replace("##[", "# #[")
    return f"::{name}::{shown}"


def _source(layer: LayerPlan) -> str:
    return layer.source.kind if layer.reproducible else f"{layer.source.kind} (not reproducible)"


def _source_facts(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield what a layer's own history, flags and cost are, for those of which they are known."""
    for layer in plan.layers:
        if git := layer.source.git:
            known = f"about {git.submodules} submodules" if git.submodules else "its submodules"
            yield layer.name, f"{redact(git.url)} {git.tag} at {git.commit[:12]}, {known} and theirs"
        if layer.packages:
            yield layer.name, f"built against {len(layer.packages)} packages of the distribution"
        if layer.source.kind in BUILT_KINDS and layer.flags:
            yield f"{layer.name} flags", " ".join(f"{name}={value}" for name, value in layer.flags.items())
        if layer.seconds:
            here = f"{duration(layer.seconds / layer.jobs.total)} here with {layer.jobs.total} jobs"
            memory = f"{gib(memory_per_job(layer))} of memory a job"
            yield f"{layer.name} takes", f"about {duration(layer.seconds)} of one core, {here}: an estimate; {memory}"


def _linker_facts(plan: Plan) -> list[tuple[str, str]]:
    linker = plan.compiler.linker if plan.compiler else None
    return [("linker", linker.version or "the compiler's own, which does not say what it is")] if linker else []


def _gpu_facts(plan: Plan) -> list[tuple[str, str]]:
    if plan.toolkit is None:
        return []
    return [
        ("toolkit", f"CUDA {plan.toolkit.version}, {plan.toolkit.kind}: {plan.toolkit.origin}"),
        ("arch", ", ".join(map(str, plan.architectures))),
    ]


def _state(plan: Plan, layer: str, cached: frozenset[str]) -> str:
    steps = [step for step in plan.steps if step.layer == layer]
    here = sum(step.id in cached for step in steps)
    if here == len(steps):
        return "cached"
    return f"{here} of {len(steps)} steps cached" if here else "to do"


def _first_error(error: CommandError) -> str:
    """Return the first real error of a command: from its log, else from what it ended with."""
    found = ""
    if error.log:
        with suppress(OSError), error.log.open(encoding="utf-8", errors="replace") as lines:
            found = first_error(lines)
    return found or first_error(error.why.splitlines())
