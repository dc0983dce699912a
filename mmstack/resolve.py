"""Request + host facts + catalog -> plan. Pure: what must be looked up comes in as `Findings`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, get_args

from packaging.utils import canonicalize_name, parse_wheel_filename

from mmstack import constraints
from mmstack.errors import CatalogError, ConstraintError, HostError, UsageError, did_you_mean
from mmstack.keys import key
from mmstack.lock import applicable
from mmstack.model import LayerChoice, LayerPlan, Plan, Source, SourceKind, Step, StepKind
from mmstack.recipes import BuildFacts, load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mmstack.catalog import Catalog
    from mmstack.keys import Json
    from mmstack.model import (
        FilePin,
        Host,
        Interpreter,
        Lock,
        LockedRequirement,
        Patch,
        RecipeData,
        Request,
        Stack,
    )

ENGINE = 1
MEMORY_KEPT_FREE = 1 << 30
COMPILER = re.compile(r"(?:gcc|g\+\+|GCC|clang|c\+\+)[^\n]*?(?P<version>\d+\.\d+(?:\.\d+)?)")
PACKAGING_NOTE = re.compile(r"\([^()]*\)")  # `(crosstool-NG 1.25.0) 11.4.0`: the distribution's, not the compiler's
CUDA_VERSION = re.compile(r"\d+\.\d+")
ARCHITECTURE = re.compile(r"\d+\.\d[a-z]?(\+PTX)?")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a request names: the stack, and for each of its layers which release and from where."""

    stack: Stack
    layers: tuple[LayerChoice, ...]
    sources: Mapping[str, Source]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What had to be looked up: the file chosen for each layer, and the digests of path sources."""

    chosen: Mapping[str, FilePin] = field(default_factory=lambda: MappingProxyType({}))
    trees: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def select(request: Request, catalog: Catalog) -> Selection:
    """Return which stack a request means, and the sources of its layers.

    Raises:
        UsageError: it names a stack, layer, flag or source that does not exist.
    """
    stack = _stack(request, catalog)
    _check_architectures(request, stack)
    names = [layer.name for layer in stack.layers]
    for option, named in (("--source", request.sources), ("--without", request.without)):
        for name in named:
            _known(f"{option}: layer", name, names)
    _check_flags(request, catalog, names)
    layers = tuple(layer for layer in stack.layers if layer.name not in request.without)
    for layer in layers:
        if missing := set(catalog.recipe(layer.name).needs) & set(request.without):
            raise UsageError(
                f"layer '{layer.name}' needs '{', '.join(missing)}', which `--without` leaves out",
                fix=f"add `--without {layer.name}`",
            )
    return Selection(
        stack=stack, layers=layers, sources={layer.name: _source(request, catalog, layer) for layer in layers}
    )


def candidates(source: Source, interpreter: Interpreter) -> tuple[FilePin, ...]:
    """Return the files of an index source that serve this interpreter, best first.

    Raises:
        HostError: there are files, but none for this interpreter.
    """
    found = tuple(pin for pin in source.files if _serves(pin, interpreter))
    if source.files and not found:
        raise HostError(
            f"{source.project} {source.version} is pinned for no such machine as this",
            why=f"Python {interpreter.minor} on {interpreter.platform}; pinned: "
            + ", ".join(pin.filename for pin in source.files),
            fix="choose another Python with `--python X.Y`, or another stack",
        )
    return found


def resolve(
    request: Request, selection: Selection, host: Host, interpreter: Interpreter, catalog: Catalog, findings: Findings
) -> Plan:
    """Decide everything that will be done.

    Raises:
        CatalogError: stack, recipes and lock do not fit together.
        ConstraintError: the combination is known not to work.
        HostError: this machine lacks what the stack needs.
    """
    stack, lock = selection.stack, catalog.lock(selection.stack)
    versions = {layer.name: layer.version for layer in selection.layers}
    facts = {**versions, "python": interpreter.version, **_compiler_facts(host)}
    locked = applicable_sets(lock, interpreter)
    layers: dict[str, LayerPlan] = {}
    for choice in _bottom_up(selection, catalog):
        recipe = catalog.recipe(choice.name)
        if recipe.compiles and selection.sources[choice.name].kind != "wheel" and host.compiler is None:
            raise _no_compiler(choice.name)
        constraints.check(recipe.conflicts, facts)
        layers[choice.name] = _layer(
            request, selection, choice, recipe, host, interpreter, catalog, findings, facts, locked, layers
        )
    variants = [plan.chosen.variant for plan in layers.values() if plan.chosen and plan.chosen.variant]
    run = _merge(locked, ["run", *(f"run-{variant}" for variant in variants if f"run-{variant}" in locked)])
    verify = _merge(locked, ["verify"], without=run)
    ordered = tuple(layers.values())
    return Plan(
        stack=stack,
        interpreter=interpreter,
        compiler=host.compiler,
        jobs=request.jobs or _jobs(host, ordered),
        layers=ordered,
        run_requires=run,
        verify_requires=verify,
        steps=steps(stack, ordered, _plan_key(stack, ordered, run)),
        key=_plan_key(stack, ordered, run),
        warnings=_warnings(ordered),
    )


def applicable_sets(lock: Lock, interpreter: Interpreter) -> dict[str, tuple[LockedRequirement, ...]]:
    """Return the lock's sets as this interpreter installs them."""
    return {name: applicable(requirements, interpreter.markers) for name, requirements in lock.sets.items()}


def steps(stack: Stack, layers: Sequence[LayerPlan], install_key: str) -> tuple[Step, ...]:
    """Return the graph: each layer's chain on those of the layers it needs, then install, then verify upwards."""
    graph = [Step(kind=StepKind.FETCH, layer="", needs=(), key=install_key, title="fetch requirements")]
    for layer in layers:
        graph += _chain(layer)
    built = tuple(f"{StepKind.GATE} {layer.name}" for layer in layers)
    graph.append(
        Step(
            kind=StepKind.INSTALL,
            layer="",
            needs=(str(StepKind.FETCH), *built),
            key=install_key,
            title=f"install dist/{stack.name}/env",
        )
    )
    below = str(StepKind.INSTALL)
    for layer in layers:
        step = Step(
            kind=StepKind.VERIFY, layer=layer.name, needs=(below,), key=layer.verify_key, title=f"verify {layer.name}"
        )
        graph.append(step)
        below = step.id
    return tuple(graph)


def _chain(layer: LayerPlan) -> list[Step]:
    kinds = [StepKind.FETCH, StepKind.SOURCE, StepKind.ENV, StepKind.BUILD, StepKind.GATE]
    if layer.source.kind == "wheel":
        kinds = [StepKind.FETCH, StepKind.GATE]
    needs: tuple[str, ...] = ()
    chain: list[Step] = []
    for kind in kinds:
        if kind is StepKind.ENV:
            needs = (*needs, *(f"{StepKind.GATE} {name}" for name in layer.recipe.against))
        step = Step(kind=kind, layer=layer.name, needs=needs, key=layer.key, title=f"{kind} {layer.name}")
        chain.append(step)
        needs = (step.id,)
    return chain


def _stack(request: Request, catalog: Catalog) -> Stack:
    if request.stack:
        stack = catalog.stack(request.stack)
        if request.cuda and request.cuda != stack.cuda:
            raise UsageError(
                f"stack '{stack.name}' is for CUDA {stack.cuda}, not {request.cuda}",
                fix="leave out one of `--stack` and `--cuda`",
            )
        return stack
    wanted = request.cuda or "cpu"
    if wanted != "cpu" and not CUDA_VERSION.fullmatch(wanted):
        raise UsageError(f"--cuda: '{wanted}' is no CUDA version", why="it is `cpu` or X.Y", fix="e.g. `--cuda cpu`")
    fitting = [stack for stack in catalog.stacks.values() if stack.cuda == wanted]
    if not fitting:
        known = {stack.cuda for stack in catalog.stacks.values()}
        raise UsageError(
            f"there is no stack for CUDA {wanted}", why=did_you_mean(wanted, known), fix="choose one of these"
        )
    # the stack named like its CUDA version goes before those that a user added for the same
    chosen = [stack for stack in fitting if stack.name == wanted] or fitting
    if len(chosen) > 1:
        raise UsageError(
            f"there are {len(chosen)} stacks for CUDA {wanted}",
            why=", ".join(stack.name for stack in chosen),
            fix="choose one with `--stack NAME`",
        )
    return chosen[0]


def _check_architectures(request: Request, stack: Stack) -> None:
    for word in request.arch:
        if not ARCHITECTURE.fullmatch(word):
            raise UsageError(
                f"--arch: '{word}' is no GPU architecture",
                why="an architecture is a compute capability such as 9.0, 12.0 or 12.0+PTX",
                fix="write e.g. `--arch 9.0,12.0+PTX`",
            )
    if request.arch and stack.cuda == "cpu":
        raise UsageError(
            f"stack '{stack.name}' compiles nothing for a GPU, so `--arch` has no meaning",
            fix="leave `--arch` out, or choose a CUDA stack with `--cuda X.Y`",
        )


def _known(what: str, name: str, names: Iterable[str]) -> None:
    known = list(names)
    if name not in known:
        raise UsageError(f"{what} '{name}' is not in this stack", why=did_you_mean(name, known), fix="correct the name")


def _check_flags(request: Request, catalog: Catalog, names: Sequence[str]) -> None:
    for full, value in request.flags.items():
        layer, _, flag = full.partition(".")
        _known("--flag: layer", layer, names)
        flags = {item.name: item for item in catalog.recipe(layer).flags}
        if flag not in flags:
            raise UsageError(
                f"layer '{layer}' has no flag '{flag}'", why=did_you_mean(flag, flags), fix="correct the name"
            )
        choices = flags[flag].choices
        if choices and value not in choices:
            raise UsageError(
                f"--flag: '{value}' is no value of {full}", why=did_you_mean(value, choices), fix="choose one of these"
            )


def _source(request: Request, catalog: Catalog, choice: LayerChoice) -> Source:
    recipe = catalog.recipe(choice.name)
    text = request.sources.get(choice.name, choice.source)
    kind, _, rest = text.partition(":")
    if kind in get_args(SourceKind) and kind != "wheel" and not recipe.build_requires:
        raise UsageError(
            f"layer '{choice.name}' cannot be built from source",
            why="its recipe names no build.requires",
            fix=f"take its wheel, or complete {recipe.folder / 'recipe.toml'}, then `invoke lock`",
        )
    if kind == "path":
        return _path_source(recipe, choice, rest)
    if kind not in get_args(SourceKind) or rest:
        raise UsageError(
            f"--source: '{text}' is no kind of source",
            why=did_you_mean(kind, get_args(SourceKind)),
            fix="write LAYER=sdist or LAYER=path:DIR",
        )
    releases = recipe.releases.get(choice.version, {})
    for known, files in releases.items():
        if known == kind:
            return Source(kind=known, project=recipe.project, version=choice.version, files=files)
    if request.sources.get(choice.name):
        raise UsageError(
            f"layer '{choice.name}' {choice.version} has no source '{kind}'",
            why=did_you_mean(kind, [*releases, "path:DIR"]),
            fix="choose one of these",
        )
    raise CatalogError(
        f"stack takes {choice.name} {choice.version} from '{kind}', which its recipe does not pin",
        why="pinned: " + ", ".join(f"{version} ({', '.join(kinds)})" for version, kinds in recipe.releases.items()),
        fix=f"add the release to {recipe.folder / 'recipe.toml'}",
    )


def _path_source(recipe: RecipeData, choice: LayerChoice, text: str) -> Source:
    if not text:
        raise UsageError("--source: path names no folder", fix=f"write {choice.name}=path:DIR")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"--source {choice.name}=path:{text}: {error}", fix="write the whole path") from error
    return Source(kind="path", project=recipe.project, version=choice.version, path=path)


def choose_python(stack: Stack, found: Sequence[Interpreter]) -> Interpreter:
    """Return the Python that the stack prefers among those found; one that was asked for is the only one.

    Raises:
        HostError: none of the stack's Pythons is here.
        ConstraintError: the one that is here is not the stack's.
    """
    ranks = {minor: rank for rank, minor in enumerate(stack.python)}
    usable = sorted((ranks[item.minor], n) for n, item in enumerate(found) if item.minor in ranks)
    if usable:
        return found[usable[0][1]]
    if found:
        raise ConstraintError(
            f"stack '{stack.name}' is not for Python {found[0].minor}",
            why=f"it is made for {', '.join(stack.python)}",
            fix=f"choose one of these, e.g. `--python {stack.python[0]}`",
        )
    raise HostError(
        "none of the stack's Pythons is on this machine",
        why=f"stack '{stack.name}' is made for {', '.join(stack.python)}",
        fix=f"`uv python install {stack.python[0]}`, or name one with `--python PATH`",
    )


def _serves(pin: FilePin, interpreter: Interpreter) -> bool:
    if not pin.filename.endswith(".whl"):
        return True
    *_, tags = parse_wheel_filename(pin.filename)
    return not {str(tag) for tag in tags}.isdisjoint(interpreter.tags)


def _compiler_facts(host: Host) -> dict[str, str]:
    if host.compiler is None:
        return {}
    match = COMPILER.search(PACKAGING_NOTE.sub("", host.compiler.version))
    if match is None:
        return {}
    family = "clang" if "clang" in host.compiler.version.lower() else "gcc"
    return {family: match["version"]}


def _no_compiler(layer: str) -> HostError:
    return HostError(
        "there is no working C++ compiler on this machine",
        why=f"layer '{layer}' is compiled from source",
        fix="install one (Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf install gcc-c++`) or name it in CXX",
    )


def _bottom_up(selection: Selection, catalog: Catalog) -> tuple[LayerChoice, ...]:
    done: set[str] = set()
    for choice in selection.layers:
        if missing := [name for name in catalog.recipe(choice.name).needs if name not in done]:
            raise CatalogError(
                f"{selection.stack.file}: layer '{choice.name}' needs '{missing[0]}' below it",
                why="the stack does not have it there",
                fix="list the stack's layers bottom-up",
            )
        done.add(choice.name)
    return selection.layers


def _layer(  # one layer's decisions in one place
    request: Request,
    selection: Selection,
    choice: LayerChoice,
    recipe: RecipeData,
    host: Host,
    interpreter: Interpreter,
    catalog: Catalog,
    findings: Findings,
    facts: Mapping[str, str],
    locked: Mapping[str, tuple[LockedRequirement, ...]],
    below: Mapping[str, LayerPlan],
) -> LayerPlan:
    source = selection.sources[choice.name]
    chosen = findings.chosen.get(choice.name)
    flags = _flags(recipe, choice, request)
    build_facts = BuildFacts(flags=flags, versions=facts, cuda=selection.stack.cuda)
    built = source.kind != "wheel"
    build_requires = _build_requires(recipe, locked, below) if built else ()
    tools = {item.name: item.version for item in build_requires}
    patches = _patches(catalog, recipe.project, choice.version, {**tools, **facts}) if built else ()
    environment = {**recipe.environment, **load_recipe(recipe.folder).environment(build_facts)} if built else {}
    inputs: dict[str, Json] = {
        "engine": ENGINE,
        "recipe": recipe.digest,
        "version": choice.version,
        "source": findings.trees.get(choice.name) or (chosen.sha256 if chosen else None),
        "patches": [patch.sha256 for patch in patches],
        "flags": flags,
        "environment": environment,
        "compiler": host.compiler.version if host.compiler and recipe.compiles and built else None,
        "python": [interpreter.tag, interpreter.platform],
        "build": [[item.name, item.version, *item.sha256] for item in build_requires],
        "against": [below[name].key for name in recipe.against] if built else [],
    }
    layer_key = key("layer", inputs)
    return LayerPlan(
        recipe=recipe,
        version=choice.version,
        source=source,
        chosen=chosen,
        patches=patches,
        flags=flags,
        environment=environment,
        build_requires=build_requires,
        key=layer_key,
        work_key=key("work", {**inputs, "source": str(source.path)}) if source.path else layer_key,
        verify_key=_verify_key(recipe, selection.stack, layer_key, below, locked, host),
        reproducible=source.kind != "path" and all(below[name].reproducible for name in recipe.against),
    )


def _flags(recipe: RecipeData, choice: LayerChoice, request: Request) -> dict[str, str]:
    prefix = f"{choice.name}."
    asked = {name.removeprefix(prefix): value for name, value in request.flags.items() if name.startswith(prefix)}
    return {flag.name: flag.default for flag in recipe.flags} | dict(choice.flags) | asked


def _build_requires(
    recipe: RecipeData, locked: Mapping[str, tuple[LockedRequirement, ...]], below: Mapping[str, LayerPlan]
) -> tuple[LockedRequirement, ...]:
    variants = [plan.chosen.variant for name in recipe.against if (plan := below[name]).chosen and plan.chosen.variant]
    names = [f"build-{recipe.name}", *(f"run-{name}" for name in variants if f"run-{name}" in locked)]
    return _merge(locked, names)


def _patches(catalog: Catalog, project: str, version: str, facts: Mapping[str, str]) -> tuple[Patch, ...]:
    return tuple(
        patch
        for patch in catalog.patches.get(project, ())
        if constraints.holds({project: patch.versions}, {project: version}) and constraints.holds(patch.when, facts)
    )


def _merge(
    locked: Mapping[str, tuple[LockedRequirement, ...]],
    names: Iterable[str],
    without: Iterable[LockedRequirement] = (),
) -> tuple[LockedRequirement, ...]:
    known = {canonicalize_name(item.name) for item in without}
    merged: dict[str, LockedRequirement] = {}
    for name in names:
        if name not in locked:
            raise CatalogError(f"the stack's lock has no set '{name}'", fix="make it anew: `invoke lock`")
        for item in locked[name]:
            if canonicalize_name(item.name) not in known:
                merged.setdefault(canonicalize_name(item.name), item)
    return tuple(merged.values())


def _verify_key(
    recipe: RecipeData,
    stack: Stack,
    layer_key: str,
    below: Mapping[str, LayerPlan],
    locked: Mapping[str, tuple[LockedRequirement, ...]],
    host: Host,
) -> str:
    requirements = [*locked.get("run", ()), *locked.get("verify", ())]
    return key(
        "verify",
        {
            "suite": recipe.suite_digest,
            "layers": [*(plan.key for plan in below.values()), layer_key],
            "requirements": [[item.name, item.version] for item in requirements],
            "expect": dict(stack.expect.get(recipe.name, {})),
            "cuda": stack.cuda,
            "gpus": [[gpu.name, gpu.capability] for gpu in host.gpus],
        },
    )


def _plan_key(stack: Stack, layers: Sequence[LayerPlan], run: Sequence[LockedRequirement]) -> str:
    return key(
        "install",
        {
            "stack": stack.name,
            "layers": [layer.key for layer in layers],
            "run": [[item.name, item.version, *item.sha256] for item in run],
        },
    )


def _jobs(host: Host, layers: Sequence[LayerPlan]) -> int:
    heaviest = max((layer.recipe.memory_per_job for layer in layers if layer.recipe.compiles), default=1)
    return max(1, min(host.cores, (host.memory - MEMORY_KEPT_FREE) // heaviest))


def _warnings(layers: Sequence[LayerPlan]) -> tuple[str, ...]:
    return tuple(
        f"{layer.name} is built from the folder {layer.source.path}: the result cannot be made again elsewhere"
        for layer in layers
        if layer.source.kind == "path"
    )
