"""Request + host facts + catalog -> plan. Pure: what must be looked up comes in as `Findings`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, get_args

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from mmstack import constraints, jobs
from mmstack.catalog import PRESET, choices_of_flags
from mmstack.errors import CatalogError, ConstraintError, HostError, UsageError, did_you_mean
from mmstack.graph import steps
from mmstack.keys import ENGINE, key
from mmstack.lock import applicable, tree_name
from mmstack.model import BUILT, LayerChoice, LayerPlan, Plan, Source, SourceKind
from mmstack.recipes import BuildFacts, load_recipe
from mmstack.sources.places import expanded, shown
from mmstack.toolchains import architectures as gpu
from mmstack.toolchains import compilers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mmstack.catalog import Catalog
    from mmstack.keys import Json
    from mmstack.model import (
        Architecture,
        Compiler,
        CudaRelease,
        CudaSupport,
        FilePin,
        Flag,
        Host,
        Installed,
        Interpreter,
        Linker,
        Lock,
        LockedRequirement,
        Patch,
        RecipeData,
        Request,
        Stack,
        Toolkit,
    )

INSTALLED = "installed.py"
INDEX_KINDS = ("wheel", "sdist")
SOURCES: tuple[SourceKind, ...] = ("git", "archive", "sdist", "distro")  # what `source` means, best first
BUILT_KINDS = frozenset({*SOURCES, "path"})
MEMORY_OF_A_SUITE = 2 << 30
PYTHON_VERSION = re.compile(r"(\d+\.\d+)(\.\d+)?\Z", re.ASCII)
CUDA_VERSION = re.compile(r"\d+\.\d+")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a request names: the stack, and for each of its layers which release and from where."""

    stack: Stack
    layers: tuple[LayerChoice, ...]
    sources: Mapping[str, Source]

    def version(self, name: str) -> str:
        """Return the version of a layer."""
        return next(layer.version for layer in self.layers if layer.name == name)

    def found(self, installed: Mapping[str, Installed]) -> Selection:
        """Return it with the versions of the layers that an existing Python holds."""
        layers = [
            replace(layer, version=installed[layer.name].version) if layer.name in installed else layer
            for layer in self.layers
        ]
        return replace(self, layers=tuple(layers))


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What had to be looked up: each layer's file, the digests of path sources, the CUDA toolkit, the linker."""

    chosen: Mapping[str, FilePin] = field(default_factory=lambda: MappingProxyType({}))
    trees: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    toolkit: Toolkit | None = None
    installed: Mapping[str, Installed] = field(default_factory=lambda: MappingProxyType({}))
    linker: Linker | None = None


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What all layers of a plan are compiled with."""

    compiler: Compiler | None
    toolkit: Toolkit | None
    architectures: tuple[Architecture, ...]
    release: CudaRelease | None = None


def select(request: Request, catalog: Catalog) -> Selection:
    """Return which stack a request means, and the sources of its layers.

    Raises:
        UsageError: it names a stack, layer, flag or source that does not exist.
    """
    stack = _stack(request, catalog)
    _check_gpu_options(request, stack)
    names = [layer.name for layer in stack.layers]
    for option, named in (("--source", request.sources), ("--without", request.without)):
        for name in named:
            _known(f"{option}: layer", name, names)
    layers = tuple(layer for layer in stack.layers if layer.name not in request.without)
    if not layers:
        raise UsageError(f"stack '{stack.name}' has no layer that `--without` leaves", fix="leave out fewer of them")
    for layer in layers:
        if missing := set(catalog.recipe(layer.name).needs) & set(request.without):
            raise UsageError(
                f"layer '{layer.name}' needs '{', '.join(missing)}', which `--without` leaves out",
                fix=f"add `--without {layer.name}`",
            )
    sources = {layer.name: _source(request, catalog, layer) for layer in layers}
    _check_flags(request, catalog, stack.layers, sources)
    return Selection(stack=stack, layers=layers, sources=sources)


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


def compiled_for_gpus(selection: Selection, catalog: Catalog) -> tuple[str, ...]:
    """Return the layers that a CUDA toolkit is needed for."""
    if selection.stack.cuda == "cpu":
        return ()
    return tuple(
        name
        for name, source in selection.sources.items()
        if source.kind in BUILT_KINDS and catalog.recipe(name).cuda is not None
    )


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
    tools = _tools(request, selection, host, catalog, findings)
    versions = {layer.name: layer.version for layer in selection.layers}
    said = tools.compiler.version if tools.compiler else ""
    facts = {**versions, "python": interpreter.version, **compiler_facts(said)}
    locked = applicable_sets(lock, interpreter)
    layers: dict[str, LayerPlan] = {}
    for choice in _bottom_up(selection, catalog):
        recipe = catalog.recipe(choice.name)
        if recipe.compiles and selection.sources[choice.name].kind in BUILT_KINDS and tools.compiler is None:
            raise _no_compiler(choice.name, host)
        layers[choice.name] = _layer(
            request, selection, choice, recipe, tools, interpreter, catalog, findings, facts, locked, layers
        )
    variants = [plan.variant for plan in layers.values() if plan.variant]
    run = _merge(locked, ["run", *(f"run-{variant}" for variant in variants if f"run-{variant}" in locked)])
    verify = _merge(locked, ["verify"], without=run)
    upward = tuple(layers.values())
    ordered = tuple(
        replace(
            layer,
            jobs=jobs.choose(host, layer, request.jobs),
            verify_key=_verify_key(upward[:count], (*run, *verify), host, interpreter),
        )
        for count, layer in enumerate(upward, start=1)
    )
    compiled = [layer for layer in ordered if layer.recipe.compiles and layer.source.kind in BUILT_KINDS]
    plan_key = _plan_key(stack, ordered, run, verify)
    return Plan(
        stack=stack,
        interpreter=interpreter,
        compiler=tools.compiler,
        jobs=max((layer.jobs.total for layer in compiled), default=request.jobs or host.cores),
        layers=ordered,
        run_requires=run,
        verify_requires=verify,
        steps=steps(stack, ordered, plan_key),
        key=plan_key,
        warnings=_warnings(ordered, tools, stack, host, prebuilt(selection, catalog, findings.installed)),
        toolkit=tools.toolkit,
        architectures=tools.architectures,
        cubins=_merge(locked, ["cubins"]) if tools.toolkit else (),
        roomy=all(jobs.room_beside(host, layer) >= MEMORY_OF_A_SUITE for layer in compiled),
    )


def _tools(request: Request, selection: Selection, host: Host, catalog: Catalog, findings: Findings) -> Tools:
    """Return what a plan compiles and links with."""
    toolkit, chosen = findings.toolkit, choose_compiler(host, catalog, findings.toolkit)
    compiler = replace(chosen, linker=findings.linker) if chosen else None
    if toolkit is None:
        return Tools(compiler=compiler, toolkit=None, architectures=())
    release = catalog.toolkit(toolkit.version)
    supports = {
        f"{name} {selection.version(name)}": item
        for name, item in prebuilt(selection, catalog, findings.installed).items()
    }
    check_prebuilt(selection, catalog, toolkit, findings.installed)
    return Tools(
        compiler=compiler,
        toolkit=toolkit,
        release=release,
        architectures=gpu.choose(
            request.arch,
            default=selection.stack.architectures,
            release=release,
            releases=catalog.toolkits.values(),
            offered=catalog.cudas,
            supports=supports,
            gpus=host.gpus,
        ),
    )


def suits(release: CudaRelease, host: Host) -> bool:
    """Return whether a CUDA version's headers get on with a machine's C library."""
    return not (release.glibc and host.glibc) or SpecifierSet(release.glibc).contains(host.glibc)


def choose_compiler(host: Host, catalog: Catalog, toolkit: Toolkit | None) -> Compiler | None:
    """Return the compiler of a plan: where a CUDA toolkit is needed, the host's must suit it.

    Raises:
        ConstraintError: the one that the user named does not.
        HostError: none does, or the C library's headers are too new for the toolkit's.
    """
    if toolkit is None:
        return host.compiler
    release = catalog.toolkit(toolkit.version)
    if toolkit.kind != "system" and not suits(release, host):  # what a distribution has it may have mended
        able = [each.version for each in catalog.toolkits.values() if suits(each, host)]
        able = [version for version in able if version in catalog.cudas]
        others = f"`--cuda {able[-1]}`, or " if able else ""
        raise HostError(
            f"glibc {host.glibc} is too new for CUDA {release.version}",
            why=f"NVIDIA's headers of CUDA {release.version} get on with glibc {release.glibc}: newer ones declare "
            "functions such as rsqrt otherwise, and nothing compiles",
            fix=f"{others}build on a distribution with an older one, e.g. in a container of Ubuntu 24.04 or Debian 12",
        )
    return compilers.choose(release, host.compilers, host.compiler, explicit=host.compiler_named)


def check_prebuilt(
    selection: Selection, catalog: Catalog, toolkit: Toolkit, installed: Mapping[str, Installed]
) -> None:
    """Refuse to compile against layers that were built without CUDA, or for another major version of it.

    Raises:
        ConstraintError: one was.
    """
    for name, held in installed.items():
        if held.support is None:
            raise constraints.refusal(
                "cuda-is-missing-below",
                why=f"{name} {held.version}, as it is installed, was built without CUDA",
                fix="name a Python whose build has CUDA, or choose `--cuda cpu`",
            )
    major = toolkit.version.partition(".")[0]
    for name, support in prebuilt(selection, catalog, installed).items():
        its_major = support.version.partition(".")[0]
        if its_major != major:
            given = its_major if name in installed else major  # what of the two the user brought along
            raise constraints.refusal(
                "cuda-major-version",
                why=f"{name} {selection.version(name)} was built with CUDA {support.version}, "
                f"the toolkit is {toolkit.version}",
                fix=" or ".join([f"give a toolkit of CUDA {its_major}", *_other_stacks(given, selection, catalog)]),
            )


def _other_stacks(major: str, selection: Selection, catalog: Catalog) -> list[str]:
    """Return how to choose the newest stack of a major version of CUDA, where there is one besides the selected."""
    fitting = [stack.cuda for stack in catalog.stacks.values() if stack.cuda.partition(".")[0] == major]
    others = [version for version in fitting if version != selection.stack.cuda]
    return [f"choose `--cuda {max(others, key=Version)}`"] if others else []


def prebuilt(selection: Selection, catalog: Catalog, installed: Mapping[str, Installed]) -> dict[str, CudaSupport]:
    """Return what the layers that are not built here were built with."""
    found: dict[str, CudaSupport] = {}
    for choice in selection.layers:
        kind, held = selection.sources[choice.name].kind, installed.get(choice.name)
        support = held.support if held else catalog.recipe(choice.name).support.get(choice.version)
        if support and kind not in BUILT_KINDS:
            found[choice.name] = support
    return found


def applicable_sets(lock: Lock, interpreter: Interpreter) -> dict[str, tuple[LockedRequirement, ...]]:
    """Return the lock's sets as this interpreter installs them."""
    return {name: applicable(requirements, interpreter.markers) for name, requirements in lock.sets.items()}


def _stack(request: Request, catalog: Catalog) -> Stack:
    if request.stack:
        stack = catalog.stack(request.stack)
        if request.cuda and request.cuda != stack.cuda:
            raise UsageError(
                f"stack '{stack.name}' is for CUDA {stack.cuda}, not {request.cuda}",
                fix="leave out one of `--stack` and `--cuda`",
            )
        return stack
    wanted, known = request.cuda or "cpu", catalog.cudas
    if wanted != "cpu" and not CUDA_VERSION.fullmatch(wanted):
        raise UsageError(
            f"--cuda: '{wanted}' is no CUDA version",
            why="it is `cpu` or X.Y",
            fix=f"choose among {', '.join(sorted(known))}",
        )
    fitting = [stack for stack in catalog.stacks.values() if stack.cuda == wanted]
    if not fitting:
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


def _check_gpu_options(request: Request, stack: Stack) -> None:
    gpu.check_words(request.arch)
    for option, given in (("--arch", request.arch), ("--toolkit", request.toolkit)):
        if given and stack.cuda == "cpu":
            raise UsageError(
                f"stack '{stack.name}' compiles nothing for a GPU, so `{option}` has no meaning",
                fix=f"leave `{option}` out, or choose a CUDA stack with `--cuda X.Y`",
            )


def _known(what: str, name: str, names: Iterable[str]) -> None:
    known = list(names)
    if name not in known:
        raise UsageError(f"{what} '{name}' is not in this stack", why=did_you_mean(name, known), fix="correct the name")


def _check_flags(
    request: Request, catalog: Catalog, layers: Sequence[LayerChoice], sources: Mapping[str, Source]
) -> None:
    choices_of = {choice.name: choice for choice in layers}
    for full, value in request.flags.items():
        layer, _, flag = full.partition(".")
        _known("--flag: layer", layer, choices_of)
        recipe = catalog.recipe(layer)
        flags = choices_of_flags(recipe)
        if flag not in flags:
            raise UsageError(
                f"layer '{layer}' has no flag '{flag}'", why=did_you_mean(flag, flags), fix="correct the name"
            )
        version = choices_of[layer].version
        if flag != PRESET and flag not in {item.name for item in flags_of(recipe, version)}:
            known = next(item.versions for item in recipe.flags if item.name == flag)
            raise UsageError(
                f"{layer} {version} has no flag '{flag}'", why=f"it is one of {layer} {known}", fix="leave it out"
            )
        if layer in sources and sources[layer].kind not in BUILT_KINDS:
            raise UsageError(
                f"`--flag {full}` has no effect: {layer} is not built here",
                why=f"it is taken as '{sources[layer].kind}'",
                fix=f"leave it out, or add `--source {layer}=source`",
            )
        choices = flags[flag]
        if choices and value not in choices:
            raise UsageError(
                f"--flag: '{value}' is no value of {full}", why=did_you_mean(value, choices), fix="choose one of these"
            )


def _source(request: Request, catalog: Catalog, choice: LayerChoice) -> Source:
    recipe = catalog.recipe(choice.name)
    text = request.sources.get(choice.name) or _usual_source(request, recipe, choice)
    if text == "source":
        text = _built_source(recipe, choice)
    kind, _, rest = text.partition(":")
    if request.index_only and kind not in INDEX_KINDS:
        raise UsageError(
            f"`--index-only` takes everything from a package index, `--source {choice.name}={text}` does not",
            fix="leave one of them out",
        )
    if kind in BUILT_KINDS and not recipe.build_requires:
        raise UsageError(
            f"layer '{choice.name}' cannot be built from source",
            why="its recipe names no build.requires",
            fix=f"take its wheel, or complete {recipe.folder / 'recipe.toml'}, then `invoke lock`",
        )
    if kind == "path":
        return _path_source(recipe, choice, rest)
    if kind == "installed" and not rest:
        return _installed_source(request, recipe, choice)
    if kind not in get_args(SourceKind) or rest:
        raise UsageError(
            f"--source: '{shown(text)}' is no kind of source",
            why=did_you_mean(kind, [*get_args(SourceKind), "source"]),
            fix="write LAYER=sdist or LAYER=path:DIR",
        )
    releases = recipe.releases.get(choice.version, {})
    for known, pins in releases.items():
        if known == kind:
            return Source(kind=known, project=recipe.project, version=choice.version, **vars(pins))
    if request.sources.get(choice.name):
        raise UsageError(
            f"layer '{choice.name}' {choice.version} has no source '{kind}'",
            why=did_you_mean(kind, [*releases, *(["source"] if BUILT_KINDS & releases.keys() else []), "path:DIR"]),
            fix="choose one of these",
        )
    raise CatalogError(
        f"stack takes {choice.name} {choice.version} from '{kind}', which its recipe does not pin",
        why="pinned: " + ", ".join(f"{version} ({', '.join(kinds)})" for version, kinds in recipe.releases.items()),
        fix=f"add the release to {recipe.folder / 'recipe.toml'}",
    )


def _built_source(recipe: RecipeData, choice: LayerChoice) -> str:
    """Return the kind of source that a layer is built from where the user does not care which."""
    kinds = [choice.source, *SOURCES]
    held = recipe.releases.get(choice.version, {})
    return next((kind for kind in kinds if kind in BUILT_KINDS and kind in held), kinds[1])


def _installed_source(request: Request, recipe: RecipeData, choice: LayerChoice) -> Source:
    if not (recipe.folder / INSTALLED).exists():
        raise UsageError(
            f"layer '{choice.name}' cannot be taken as installed",
            why=f"its recipe has no {INSTALLED}, which says what is there",
            fix="choose another source for it",
        )
    if "/" not in request.python:
        raise UsageError(
            f"--source {choice.name}=installed names no Python that has it", fix="add `--python /path/to/python`"
        )
    return Source(kind="installed", project=recipe.project, version=choice.version)


def _usual_source(request: Request, recipe: RecipeData, choice: LayerChoice) -> str:
    """Return the stack's kind of source, or what of the release a package index holds where nothing else may be."""
    if not request.index_only or choice.source in INDEX_KINDS:
        return choice.source
    held = [kind for kind in INDEX_KINDS if kind in recipe.releases.get(choice.version, {})]
    if not held:
        raise ConstraintError(
            f"no package index holds {choice.name} {choice.version}",
            why=f"the stack takes it from '{choice.source}'",
            fix="leave `--index-only` out",
        )
    return held[0]


def _path_source(recipe: RecipeData, choice: LayerChoice, text: str) -> Source:
    if not text:
        raise UsageError("--source: path names no folder", fix=f"write {choice.name}=path:DIR")
    path = expanded(text, f"--source {choice.name}=path")
    return Source(kind="path", project=recipe.project, version=choice.version, path=path)


def choose_python(stack: Stack, host: Host) -> Interpreter:
    """Return the Python that the stack prefers among those of a machine; one that was asked for is the only one.

    Raises:
        HostError: none of the stack's Pythons is here.
        ConstraintError: the one that is here is not the stack's.
    """
    found = host.pythons
    ranks = {minor: rank for rank, minor in enumerate(stack.python)}
    usable = sorted((ranks[item.minor], n) for n, item in enumerate(found) if item.minor in ranks)
    if usable:
        return found[usable[0][1]]
    if found:
        demand_python(stack, found[0].minor)
    notes = [f"{minor}: {note}" for minor in stack.python if (note := host.notes.get(f"python {minor}"))]
    raise HostError(
        "none of the stack's Pythons is on this machine, or can be built for",
        why="\n".join([f"stack '{stack.name}' is made for {', '.join(stack.python)}", *notes]),
        fix=f"`uv python install {stack.python[0]}`, your distribution's package with its headers, or name one with "
        "`--python PATH`",
    )


def demand_python(stack: Stack, version: str) -> None:
    """Demand that a stack is made for a version of Python; what is no version is looked at elsewhere.

    Raises:
        ConstraintError: it is not.
    """
    minor = PYTHON_VERSION.match(version)
    if minor and minor[1] not in stack.python:
        raise ConstraintError(
            f"stack '{stack.name}' is not for Python {minor[1]}",
            why=f"it is made for {', '.join(stack.python)}",
            fix=f"choose one of these, e.g. `--python {stack.python[0]}`",
        )


def _serves(pin: FilePin, interpreter: Interpreter) -> bool:
    if not pin.filename.endswith(".whl"):
        return True
    *_, tags = parse_wheel_filename(pin.filename)
    return not {str(tag) for tag in tags}.isdisjoint(interpreter.tags)


def compiler_facts(said: str) -> dict[str, str]:
    """Return a compiler's family and version, by what it says of itself; nothing where it says neither."""
    found = compilers.family_and_version(said)
    return dict([found]) if found else {}


def _no_compiler(layer: str, host: Host) -> HostError:
    return HostError(
        "there is no C++ compiler on this machine that can be taken",
        why=f"layer '{layer}' is compiled from source; {host.notes.get('compiler', 'none was found')}",
        fix="install one (Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf install gcc-c++`), or name a C and a C++ "
        "compiler of one version in CC and CXX",
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
    tools: Tools,
    interpreter: Interpreter,
    catalog: Catalog,
    findings: Findings,
    facts: Mapping[str, str],
    locked: Mapping[str, tuple[LockedRequirement, ...]],
    below: Mapping[str, LayerPlan],
) -> LayerPlan:
    source = selection.sources[choice.name]
    chosen, installed = findings.chosen.get(choice.name), findings.installed.get(choice.name)
    support = prebuilt(selection, catalog, findings.installed).get(choice.name)
    cuda = support.version if support else selection.stack.cuda
    built = source.kind in BUILT_KINDS
    flags = flag_values(recipe, choice, request.flags) if built else {}  # what is not built here has none
    toolkit = tools.toolkit if built and recipe.cuda else None
    told = BuildFacts(
        flags=flags,
        versions=facts,
        cuda=toolkit.version if toolkit else "cpu",
        architectures=tools.architectures if toolkit else (),
        version=choice.version,
    )
    variant = "" if installed else _variant(recipe, choice.version, chosen, cuda)
    build_requires = (
        _build_requires(recipe, locked, below, variant if toolkit else "")
        if built
        else locked.get(f"run-{variant}", ())
    )
    versions = {**{item.name: item.version for item in build_requires}, **facts}
    if toolkit:
        versions["cuda"] = toolkit.version
    warnings = constraints.check(recipe.conflicts, versions, flags) if built else ()
    patches = patches_of(catalog, recipe.series, choice.version, source.kind, versions) if built else ()
    own = load_recipe(recipe.folder)
    environment = {**recipe.environment, **own.environment(told)} if built else {}
    packages = catalog.lock(selection.stack).packages.get(choice.name, ()) if source.distro else ()
    if source.distro and source.distro.libraries and not packages:
        raise CatalogError(
            f"the stack's lock has no packages for '{choice.name}'",
            fix=f"make it anew: `invoke lock --stack {selection.stack.name}`",
        )
    compiler = tools.compiler if recipe.compiles and built else None
    inputs: dict[str, Json] = {
        "engine": ENGINE,
        "recipe": recipe.digest,
        "version": choice.version,
        "kind": source.kind,
        "source": findings.trees.get(choice.name)
        or (installed.digest if installed else chosen.sha256 if chosen else None),
        # besides what they change, what the bill in the wheel says of them
        "patches": [[patch.file.name, patch.sha256, patch.id, patch.reason, patch.upstream] for patch in patches],
        "flags": flags,
        "environment": environment,
        "compiler": compiler.version if compiler else None,
        "linker": [compiler.linker.kind, compiler.linker.version] if compiler and compiler.linker else None,
        "toolkit": [toolkit.version, toolkit.identity] if toolkit else None,
        "architectures": [str(item) for item in told.architectures],
        "python": [interpreter.tag, interpreter.platform],
        "build": _files(build_requires),
        "against": [below[name].key for name in recipe.against] if built else [],
    }
    if source.git:
        inputs["source"] = source.git.commit
    if source.distro:
        inputs["parts"] = [[part.path, part.file.sha256, part.folder] for part in source.distro.parts]
        inputs["packages"] = [[item.name, item.version, item.sha256] for item in packages]
    layer_key = key("layer", inputs)
    expect = {} if installed else (built and own.expect(told)) or selection.stack.expect.get(choice.name, {})
    return LayerPlan(
        recipe=recipe,
        version=choice.version,
        source=source,
        chosen=chosen,
        patches=patches,
        flags=flags,
        facts=told,
        environment=environment,
        build_requires=build_requires,
        key=layer_key,
        work_key=key("work", {**inputs, "source": str(source.path)}) if source.path else layer_key,
        verify_key="",  # of the whole stack's requirements, which are known when all layers are
        reproducible=source.kind not in {"path", "installed"}
        and all(below[name].reproducible for name in recipe.against),
        local_version=_local_version(recipe, toolkit, facts),
        cuda=cuda,
        expect=expect,
        installed=installed,
        folder=findings.trees.get(choice.name, ""),
        variant=variant,
        packages=packages,
        tree=catalog.lock(selection.stack).trees.get(tree_name(choice.name, source.kind, choice.version), {}),
        seconds=_seconds(recipe, choice.version, told) if built else 0,
        warnings=warnings,
    )


def _seconds(recipe: RecipeData, version: str, facts: BuildFacts) -> int:
    cost = recipe.costs.get(version)
    return cost.seconds + cost.seconds_per_architecture * len(facts.architectures) if cost else 0


def _local_version(recipe: RecipeData, toolkit: Toolkit | None, versions: Mapping[str, str]) -> str:
    """Return what tells a wheel from those of the same release for another CUDA or other layers below."""
    if recipe.cuda is None or toolkit is None:
        return ""
    text = recipe.cuda.local_version.replace("{cuda}", toolkit.version.replace(".", ""))
    for name in recipe.needs:
        release = Version(versions[name])
        text = text.replace(f"{{{name}}}", f"{release.major}.{release.minor}")
    return text


def flags_of(recipe: RecipeData, version: str) -> tuple[Flag, ...]:
    """Return the flags that a release of a layer has."""
    return tuple(flag for flag in recipe.flags if constraints.holds({"": flag.versions}, {"": version}))


def flag_values(recipe: RecipeData, choice: LayerChoice, wished: Mapping[str, str]) -> dict[str, str]:
    """Return the value of each flag: its default, or what the preset, the stack, or the user says, the last wins."""
    prefix = f"{choice.name}."
    asked = {name.removeprefix(prefix): value for name, value in wished.items() if name.startswith(prefix)}
    given = dict(choice.flags) | asked
    given = dict(recipe.presets.get(given.get(PRESET, ""), {})) | given
    return {flag.name: given.get(flag.name, flag.default) for flag in flags_of(recipe, choice.version)}


def _variant(recipe: RecipeData, version: str, chosen: FilePin | None, cuda: str) -> str:
    """Return whose requirements a layer has: its wheel's, or, built here, those of the release's own wheel."""
    if chosen and chosen.variant:
        return chosen.variant
    if cuda == "cpu" and recipe.run_built.get(version):
        return BUILT
    released = recipe.releases.get(version, {}).get("wheel")
    return released.files[0].variant if released else ""


def _build_requires(
    recipe: RecipeData,
    locked: Mapping[str, tuple[LockedRequirement, ...]],
    below: Mapping[str, LayerPlan],
    variant: str,
) -> tuple[LockedRequirement, ...]:
    """Return what a layer is built by, and what must stand beside it and those below for libraries to be found."""
    variants = [variant, *(below[name].variant for name in recipe.against)]
    names = [f"build-{recipe.name}", *(f"run-{name}" for name in variants if f"run-{name}" in locked)]
    return _merge(locked, names)


def patches_of(
    catalog: Catalog, series: str, version: str, kind: SourceKind, facts: Mapping[str, str]
) -> tuple[Patch, ...]:
    """Return a series' patches for a release, where these are the versions of all that they may depend on."""
    return tuple(
        patch
        for patch in catalog.patches.get(series, ())
        if constraints.holds({series: patch.versions}, {series: version})
        and constraints.holds(patch.when, facts)
        and (not patch.sources or kind in patch.sources)
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
    layers: Sequence[LayerPlan], requirements: Sequence[LockedRequirement], host: Host, interpreter: Interpreter
) -> str:
    """Return the key of what the suite of the last of these layers finds in an environment of all of them."""
    layer = layers[-1]
    return key(
        "verify",
        {
            "suite": layer.recipe.suite_digest,
            "layers": [each.key for each in layers],
            "requirements": _files(requirements),
            "expect": dict(layer.expect),
            "cuda": layer.cuda,
            "python": interpreter.version,
            "gpus": [[gpu.name, gpu.capability, gpu.driver] for gpu in host.gpus],
            "gpu_choice": list(host.gpu_choice),
        },
    )


def _plan_key(
    stack: Stack,
    layers: Sequence[LayerPlan],
    run: Sequence[LockedRequirement],
    verify: Sequence[LockedRequirement],
) -> str:
    return key(
        "install",
        {
            "stack": stack.name,
            "layers": [layer.key for layer in layers],
            "run": _files(run),
            "verify": _files(verify),  # what is written down beside the environment, to verify it again
        },
    )


def _files(requirements: Iterable[LockedRequirement]) -> list[Json]:
    return [[item.name, item.version, *item.sha256] for item in requirements]


def _warnings(
    layers: Sequence[LayerPlan], tools: Tools, stack: Stack, host: Host, supports: Mapping[str, CudaSupport]
) -> tuple[str, ...]:
    warnings = [
        f"{layer.name} is built from the folder {layer.source.path}: the result cannot be made again elsewhere"
        for layer in layers
        if layer.source.kind == "path"
    ]
    warnings += [warning for layer in layers for warning in layer.warnings]
    if tools.toolkit and tools.toolkit.version != stack.cuda:
        warnings.append(
            f"cuda-minor-version: the toolkit is CUDA {tools.toolkit.version}, the stack is for {stack.cuda}: its "
            "programs run by minor-version compatibility, and nothing newer than that toolkit knows can be compiled for"
        )
    if tools.release and not suits(tools.release, host):  # or it would have been refused
        warnings.append(
            f"glibc-too-new: NVIDIA's headers of CUDA {tools.release.version} get on with glibc {tools.release.glibc}, "
            f"and here is {host.glibc}: unless your distribution has mended them, nothing compiles"
        )
    for each in dict.fromkeys(host.gpus) if stack.cuda != "cpu" else ():
        its = gpu.parse_architecture(each.capability)
        lacking = [name for name, support in supports.items() if not gpu.runs(support.architectures, its)]
        lacking += ["what is compiled here"] if tools.toolkit and not gpu.runs(tools.architectures, its) else []
        if lacking:
            warnings.append(
                f"gpu-not-served: {', '.join(lacking)} will have no code for this machine's {each.name} "
                f"({each.capability}), so that verification fails here; `invoke doctor` says what serves it"
            )
    return tuple(warnings)
