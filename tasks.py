"""The front door: Invoke tasks that read options, call the engine, and end with its exit code."""

from __future__ import annotations

import copy
import os
import re
import signal
import sys
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.exceptions import Exit, ParseError
from invoke.parser.parser import Parser
from invoke.program import Program
from invoke.tasks import task as invoke_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from invoke.context import Context

    from mmstack.errors import UsageError
    from mmstack.session import Session

# Invoke has turned it off, and then each run compiles what it imports
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

# letters that Invoke would choose mean something else in each task: `-h` was `--hermetic`
task = partial(invoke_task, auto_shortflags=False)

ROOT = Path(__file__).resolve().parent
EXIT_USAGE = 2
CHOICE = {
    "stack": "the stack, a file in stacks/ (default: the one that --cuda names)",
    "cuda": "the CUDA version to build for, X.Y, or cpu (default: cpu)",
    "python": "the Python to build for, X.Y or a path (default: the stack's first that is here)",
    "arch": "GPU architectures: a list such as 9.0,12.0+PTX, native, all or all-major (default: the stack's)",
    "toolkit": "the CUDA toolkit: auto, system, system:DIR, wheels, redist, redist:URL or redist:DIR",
    "torch": "where torch comes from, short for --source torch=...: source, wheel, or installed in --python PATH",
    "index-only": "take everything from a package index",
    "mirror": "where git repositories are fetched instead: a base URL, or a file of lines `from = to`",
    "source": "LAYER=git, archive, distro, sdist, wheel, source (whichever is built) or path:DIR; again for each layer",
    "flag": "LAYER.NAME=VALUE; again for each flag",
    "without": "leave a layer out; again for each",
    "linker": "what links: default (the compiler's own), mold, lld, or auto: the first of these two that is here",
    "compiler-cache": "none, sccache (downloaded), ccache (installed), or auto: ccache, else sccache (default: none)",
    "distribute": "none, or icecc: compile on other machines too (default: none)",
    "jobs": "compile this many files at once (default: from cores and memory)",
}
LOCKED = {"locked": "refuse whatever the stack's lock does not hold"}
MANNER = {
    "json": "print one JSON document on standard output; all else goes to standard error",
    "verbose": "say more",
    "debug": "show the traceback of a failure",
}
BUILDING = ("compiler-cache", "distribute")  # how a build is done, of which a plan knows nothing
LISTS = ["source", "flag", "without"]
LAYER_OPTIONS = ("torch",)  # layers whose kind of source has an option of its own


@contextmanager
def _session(
    *, json: bool = False, verbose: bool = False, debug: bool = False, offline: bool = False, locked: bool = False
) -> Iterator[Session]:
    # imported here and not above: `invoke --list` shall answer at once
    from mmstack.console import Console  # noqa: PLC0415
    from mmstack.errors import MmstackError  # noqa: PLC0415
    from mmstack.model import Paths  # noqa: PLC0415
    from mmstack.run import interrupted  # noqa: PLC0415
    from mmstack.session import Session  # noqa: PLC0415
    from mmstack.store import disk_errors  # noqa: PLC0415

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks
            signal.signal(number, _interrupt)
    console = Console(json=json, verbose=verbose, dist=Path(os.path.relpath(ROOT / "dist")))
    try:
        state = _state()
        paths = Paths(root=ROOT, state=state, dist=ROOT / "dist")
        with console, disk_errors(state):
            yield Session(paths, console, offline=offline, locked=locked, layer_options=LAYER_OPTIONS)
    except MmstackError as error:
        error.fix += _lacking(error.fix)
        with suppress(SystemExit):  # nobody reads it: the status says so too
            console.error(error, traceback=debug)
        raise Exit(code=error.code) from error
    except KeyboardInterrupt as interrupt:
        stopped = interrupted()
        with suppress(SystemExit):  # the same
            console.error(stopped)
        raise Exit(code=stopped.code) from interrupt


def _lacking(fix: str) -> str:
    """Return in words which options of a remedy are the build's and not those of the task that runs."""
    contexts = {str(context.name): context for context in copy.deepcopy(namespace).to_contexts()}
    names = [word for word in sys.argv[1:] if word in contexts]
    if len(names) != 1:  # which of them failed is not known here
        return ""
    named = dict.fromkeys(re.findall(r"`(--[a-z-]+)", fix))
    lacking = [option for option in named if option not in contexts[names[0]].flags]
    if not set(lacking) <= contexts["build-stack"].flags.keys() or not lacking:
        return ""
    return f" (`build-stack` has {', '.join(lacking)}; `{names[0]}` has not)"


def _state() -> Path:
    from mmstack.errors import UsageError  # noqa: PLC0415 - see _session
    from mmstack.sources.places import user_path  # noqa: PLC0415 - see _session

    said = os.environ.get("MMSTACK_HOME")
    try:
        state = user_path(said).absolute() if said else ROOT / ".mmstack"
    except ValueError as error:
        raise UsageError(f"MMSTACK_HOME: '{said}' is no folder", why=str(error), fix="correct or unset it") from error
    try:
        state.exists()  # raises where no folder can have that name
        there = next(path for path in (state, *state.parents) if os.path.lexists(path))
        if not there.is_dir():
            why = "it is a link to what is not there" if there.is_symlink() else ""
            raise UsageError(
                f"the state cannot be in {state}: {there} is no folder",
                why=why,
                fix="correct MMSTACK_HOME, or unset it" if said else "remove it",
            )
    except OSError as error:  # it may not be looked at, or no folder can have that name
        raise UsageError(f"MMSTACK_HOME: {state} cannot be used", why=str(error), fix="correct or unset it") from error
    return state


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _options(*, source: Sequence[str] | None = None, torch: str = "", **words: Any) -> Any:  # noqa: ANN401 - as Invoke has them
    from mmstack.options import Options  # noqa: PLC0415 - see _session

    return Options(source=[*(source or ()), *([f"torch={torch}"] if torch else [])], **words)


@task(
    iterable=LISTS,
    help={
        **CHOICE,
        **LOCKED,
        **MANNER,
        "stop-after": "stop when all steps of this kind are done: "
        "fetch, source, env, configure, build, gate, install or verify",
        "offline": "use only what was fetched before",
        "hermetic": "cut every step but fetch off from the network, and fail one that tries to reach it",
        "dry-run": "show the plan and stop",
    },
)
def build_stack(
    _c: Context,
    stack: str = "",
    cuda: str = "",
    python: str = "",
    arch: str = "",
    toolkit: str = "",
    torch: str = "",
    index_only: bool = False,
    mirror: str = "",
    source: Sequence[str] | None = None,
    flag: Sequence[str] | None = None,
    without: Sequence[str] | None = None,
    linker: str = "",
    compiler_cache: str = "none",
    distribute: str = "none",
    jobs: str = "",
    stop_after: str = "",
    offline: bool = False,
    locked: bool = False,
    hermetic: bool = False,
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Build a stack, install it into dist/<stack>/env, and verify every layer."""
    with _session(json=json, verbose=verbose, debug=debug, offline=offline, locked=locked) as session:
        options = _options(
            stack=stack,
            cuda=cuda,
            python=python,
            arch=arch,
            toolkit=toolkit,
            torch=torch,
            index_only=index_only,
            mirror=mirror,
            source=source,
            flag=flag,
            without=without,
            linker=linker,
            jobs=jobs,
        )
        session.engine.workshop.compiler_cache = compiler_cache
        session.engine.workshop.distribute = distribute
        session.engine.workshop.hermetic = hermetic
        session.build(options, stop_after=stop_after, dry_run=dry_run)


@task(
    iterable=LISTS, help={**{name: text for name, text in CHOICE.items() if name not in BUILDING}, **LOCKED, **MANNER}
)
def plan(
    _c: Context,
    stack: str = "",
    cuda: str = "",
    python: str = "",
    arch: str = "",
    toolkit: str = "",
    torch: str = "",
    index_only: bool = False,
    mirror: str = "",
    source: Sequence[str] | None = None,
    flag: Sequence[str] | None = None,
    without: Sequence[str] | None = None,
    linker: str = "",
    jobs: str = "",
    locked: bool = False,
    json: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Show what build-stack would do, every step with its key, before anything is done."""
    with _session(json=json, verbose=verbose, debug=debug, locked=locked) as session:
        options = _options(
            stack=stack,
            cuda=cuda,
            python=python,
            arch=arch,
            toolkit=toolkit,
            torch=torch,
            index_only=index_only,
            mirror=mirror,
            source=source,
            flag=flag,
            without=without,
            linker=linker,
            jobs=jobs,
        )
        session.plan(options)


@task(
    iterable=LISTS,
    help={
        **{name: text for name, text in CHOICE.items() if name not in {"linker", "jobs", *BUILDING}},
        "compiler-cache": CHOICE["compiler-cache"],
        **LOCKED,
        **MANNER,
    },
)
def fetch(
    _c: Context,
    stack: str = "",
    cuda: str = "",
    python: str = "",
    arch: str = "",
    toolkit: str = "",
    torch: str = "",
    index_only: bool = False,
    mirror: str = "",
    source: Sequence[str] | None = None,
    flag: Sequence[str] | None = None,
    without: Sequence[str] | None = None,
    compiler_cache: str = "none",
    locked: bool = False,
    json: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Download everything that build-stack needs, so that it can run --offline."""
    with _session(json=json, verbose=verbose, debug=debug, locked=locked) as session:
        options = _options(
            stack=stack,
            cuda=cuda,
            python=python,
            arch=arch,
            toolkit=toolkit,
            torch=torch,
            index_only=index_only,
            mirror=mirror,
            source=source,
            flag=flag,
            without=without,
        )
        session.engine.workshop.compiler_cache = compiler_cache
        session.fetch(options)


@task(
    iterable=["bundle_without"],
    help={
        "stack": "the stack to verify (default: the only one in dist/)",
        "checkpoint": "a released checkpoint for the suites that can use one",
        "video": "a video for the suites that can use one",
        "bundle": "verify nothing here: make this .tar.gz, which does it on another machine without a network",
        "bundle-without": "leave a layer out of the bundle, of which that machine has its own; again for each",
        **LOCKED,
        **MANNER,
    },
)
def verify(
    _c: Context,
    stack: str = "",
    checkpoint: str = "",
    video: str = "",
    bundle: str = "",
    bundle_without: Sequence[str] | None = None,
    locked: bool = False,
    json: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Install the wheels of dist/<stack>/ into fresh environments and prove each layer."""
    given = {"checkpoint": checkpoint, "video": video}
    files = {name: str(Path(value).absolute()) for name, value in given.items() if value}
    with _session(json=json, verbose=verbose, debug=debug, locked=locked) as session:
        if bundle or bundle_without:
            session.bundle(stack, bundle, bundle_without or (), files)
        else:
            session.verify(stack, files)


@task(
    iterable=["source", "flag"],
    help={
        **{name: text for name, text in CHOICE.items() if name not in {"without", "linker", "jobs", *BUILDING}},
        **MANNER,
    },
)
def doctor(
    _c: Context,
    stack: str = "",
    cuda: str = "",
    python: str = "",
    arch: str = "",
    toolkit: str = "",
    torch: str = "",
    index_only: bool = False,
    mirror: str = "",
    source: Sequence[str] | None = None,
    flag: Sequence[str] | None = None,
    json: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Say what this machine can build, and what to install if it cannot."""
    with _session(json=json, verbose=verbose, debug=debug) as session:
        options = _options(
            stack=stack,
            cuda=cuda,
            python=python,
            arch=arch,
            toolkit=toolkit,
            torch=torch,
            index_only=index_only,
            mirror=mirror,
            source=source,
            flag=flag,
        )
        able = session.doctor(options)
    if not able:
        raise Exit(code=3)


@task(positional=["wheel"], help={"wheel": "a wheel file, wherever it is from", **MANNER})
def explain(_c: Context, wheel: str, json: bool = False, verbose: bool = False, debug: bool = False) -> None:
    """Tell what a wheel is made of, from what it says of itself, and the command that makes it again."""
    with _session(json=json, verbose=verbose, debug=debug) as session:
        session.explain(wheel)


@task(
    help={
        "from": "the manifest of the build that is to be made again: a manifest.json, or the folder that it is in",
        "python": "the Python to build for (default: one of the manifest's version)",
        "toolkit": "where the manifest's CUDA toolkit is here, e.g. system:DIR (default: as the manifest says)",
        "mirror": CHOICE["mirror"],
        "jobs": CHOICE["jobs"],
        "offline": "use only what was fetched before",
        **MANNER,
    }
)
def rebuild(
    _c: Context,
    from_: str,
    python: str = "",
    toolkit: str = "",
    mirror: str = "",
    jobs: str = "",
    offline: bool = False,
    json: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Make the wheels of a manifest again from the same inputs, and compare them with it bit for bit."""
    with _session(json=json, verbose=verbose, debug=debug, offline=offline) as session:
        session.rebuild(from_, _options(python=python, toolkit=toolkit, mirror=mirror, jobs=jobs))


@task(help={"stack": "the stack (default: the only one in dist/)", **MANNER})
def report(_c: Context, stack: str = "", json: bool = False, verbose: bool = False, debug: bool = False) -> None:
    """Show a built stack's report again and write its page anew."""
    with _session(json=json, verbose=verbose, debug=debug) as session:
        session.report(stack)


@task(
    help={
        "stack": "the stack to lock (default: all)",
        "check": "only see whether the locks fit, and name all that does not",
        "keep": "keep every version that is pinned, and write down anew what else the stacks are made of",
        "upgrade": "resolve anew what this layer requires, and keep every other version",
        "trees": "fetch the sources too, and pin the digests of their trees",
        "mirror": CHOICE["mirror"],
        "json": MANNER["json"],
        "debug": MANNER["debug"],
    }
)
def lock(
    _c: Context,
    stack: str = "",
    check: bool = False,
    keep: bool = False,
    upgrade: str = "",
    trees: bool = False,
    mirror: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Write down what stacks are made of: resolve what they require and pin it by version and digest."""
    with _session(json=json, debug=debug) as session:
        if check:
            session.check_locks(stack, alone=not (keep or upgrade or trees))
        else:
            session.lock(stack, keep=keep, upgrade=upgrade, with_trees=trees, mirror=mirror)


@task(
    help={
        "max-size": "what may stay in all, e.g. 20GB: what was not used for longest goes first",
        "older-than": "what was not used for so long goes, e.g. 30d",
        "dry-run": "only say what would go",
        **MANNER,
    }
)
def gc(
    _c: Context,
    max_size: str = "",
    older_than: str = "",
    dry_run: bool = False,
    json: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Remove from .mmstack/ what is of no use any more, and what is over these limits; never what is in use."""
    with _session(json=json, verbose=verbose, debug=debug) as session:
        session.gc(max_size, older_than, dry_run=dry_run, verbose=verbose)


@task(
    name="compare",
    positional=["layer", "first", "second"],
    help={
        "layer": "the layer",
        "first": "a kind of source, e.g. git",
        "second": "another, e.g. archive",
        "version": "its release (default: the first of its recipe)",
        "mirror": CHOICE["mirror"],
        **MANNER,
    },
)
def sources_compare(
    _c: Context,
    layer: str,
    first: str,
    second: str,
    version: str = "",
    mirror: str = "",
    json: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Show file by file how two ways to the same release differ."""
    with _session(json=json, verbose=verbose, debug=debug) as session:
        session.compare_sources(layer, (first, second), version, mirror)


@task(
    name="check",
    help={"strict": "end at a source that could not be had from the network, with status 3", "debug": MANNER["debug"]},
)
def patches_check(_c: Context, strict: bool = False, debug: bool = False) -> None:
    """Prove every patch series against the pinned sources."""
    with _session(debug=debug) as session:
        session.check_patches(strict=strict)


@task(
    name="edit",
    positional=["layer"],
    help={
        "layer": "the layer",
        "version": "its release",
        "source": "the kind of source (default: the first that is pinned)",
        "debug": MANNER["debug"],
    },
)
def patches_edit(_c: Context, layer: str, version: str = "", source: str = "", debug: bool = False) -> None:
    """Lay out a layer's tree, patched, for editing."""
    with _session(debug=debug) as session:
        session.edit_patches(layer, version, source)


@task(
    name="save",
    positional=["layer", "name"],
    help={"layer": "the layer", "name": "a short name", "reason": "why it is needed", "debug": MANNER["debug"]},
)
def patches_save(_c: Context, layer: str, name: str, reason: str = "", debug: bool = False) -> None:
    """Make a new patch from an edited tree, at the end of the layer's series."""
    with _session(debug=debug) as session:
        session.save_patch(layer, name, reason or name.replace("-", " "))


@task(iterable=["case"], help={"case": "what to measure, e.g. cpu; again for each (default: all)"})
def bench(_c: Context, case: Sequence[str] | None = None) -> None:
    """Measure upstream's way to build and ours in turn, and write docs/benchmarks.md."""
    with _session():
        from benchmarks.builds import CASES, main  # noqa: PLC0415 - see _session

        if unknown := sorted(set(case or ()) - set(CASES)):
            from mmstack.errors import UsageError, did_you_mean  # noqa: PLC0415 - see _session

            raise UsageError(f"--case: there is no case '{unknown[0]}'", fix=did_you_mean(unknown[0], CASES))
        main(case or ())


namespace = Collection(build_stack, plan, fetch, verify, explain, rebuild, doctor, report, lock, gc, bench)
namespace.add_collection(Collection("patches", patches_check, patches_edit, patches_save))
namespace.add_collection(Collection("sources", sources_compare))


def _check_words(words: list[str]) -> None:
    """Refuse what Invoke's parser refuses: it ends with status 1 and no hint, a wrong command line is 2 here."""
    refused = _refused(words)
    if refused:
        from mmstack.console import Console  # noqa: PLC0415 - see _session

        Console(json="--json" in words).error(refused)
        raise Exit(code=EXIT_USAGE)


def _refused(words: list[str]) -> UsageError | None:
    program = Program()
    contexts = copy.deepcopy(namespace).to_contexts()  # Invoke takes a task's help from it when it first looks
    try:
        ours = Parser(initial=program.initial_context, ignore_unknown=True).parse_argv(words).unparsed
        Parser(initial=program.initial_context, contexts=contexts).parse_argv(ours)
    except ParseError as error:
        return _usage_error(error, words)
    if "--complete" in words:  # a shell's words follow, which need not be whole
        return None
    for option, known in (("--help", {each.name for each in contexts}), ("--list", set(namespace.collections))):
        named = words[words.index(option) + 1 :][:1] if option in words else []
        if named and not named[0].startswith("-") and named[0] not in known:
            return _no_task(named[0])
    if "--" not in words:
        return None
    from mmstack.errors import UsageError  # noqa: PLC0415 - see _session

    # Invoke keeps it for a task that asks, and none does
    return UsageError("no task takes what stands after `--`", fix="put options right after the task's name")


def _usage_error(error: ParseError, words: list[str]) -> UsageError:
    from mmstack.errors import UsageError, did_you_mean  # noqa: PLC0415 - see _session
    from mmstack.sources.places import shown  # noqa: PLC0415 - see _session

    context = error.context if error.context and error.context.name else None
    known = "`invoke --list` lists the tasks"
    fix = f"`invoke --help {context.name}` lists its options" if context else known
    said = re.sub(r"\b(\w+)_\b", r"\1", str(error))  # what is a word of Python has a line behind it there
    if valueless := re.search(r"<Argument: ([\w-]+)", said):
        return UsageError(f"--{valueless[1]} needs a value", fix=fix)
    unknown = re.fullmatch(r"No idea what (['\"])(.*)\1 is!", str(error), re.DOTALL)
    if unknown is None:
        return UsageError(said, fix=fix)
    word = unknown[2]
    if context and word.startswith("-"):
        flags = [name for name in context.flags if name.startswith("--")]
        return UsageError(f"{context.name} has no option '{shown(word)}'", why=did_you_mean(word, flags), fix=fix)
    before = words[words.index(word) - 1] if word in words else ""
    if context and words.count(before) > 1 and before in context.flags:
        return UsageError(f"{before} is given twice", why=f"with '{shown(word)}' the second time", fix="give it once")
    return _no_task(word)


def _no_task(word: str) -> UsageError:
    from mmstack.errors import UsageError, did_you_mean  # noqa: PLC0415 - see _session
    from mmstack.sources.places import shown  # noqa: PLC0415 - see _session

    names = [str(each.name) for each in namespace.to_contexts()]
    why = did_you_mean(word, names)
    return UsageError(f"there is no task '{shown(word)}'", why=why, fix="`invoke --list` lists the tasks")


# Invoke offers no other place between reading the tasks and reading the command line
if {"invoke", "inv"} & {Path(sys.argv[0]).name, Path(sys.argv[0]).parent.name}:
    _check_words(sys.argv[1:])
