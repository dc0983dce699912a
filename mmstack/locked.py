"""What a stack's lock holds, and all that is not so any more.

A lock fits as long as it holds what the stack is made of now: its file, the pins and files of its recipes, its patches,
and what they ask for.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name

from mmstack import constraints
from mmstack.catalog import files_of
from mmstack.errors import LockedError, UsageError
from mmstack.keys import file_digest
from mmstack.model import BUILT, Inputs, LayerInputs, Request
from mmstack.recipes import build_requires
from mmstack.resolve import BUILT_KINDS, compiler_facts, flag_values, patches_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mmstack.catalog import Catalog
    from mmstack.model import LayerChoice, Lock, Patch, Pins, Plan, RecipeData, Stack
    from mmstack.resolve import Selection

PROJECT = re.compile(r"[^A-Za-z0-9._-]")  # what a requirement's name ends before
TOOLKIT, CUBINS = "toolkit", "cubins"
CUOBJDUMP = "nvidia-cuda-cuobjdump"  # the newest reads the code of all CUDA versions, from 5.0 on


def inputs_of(stack: Stack, catalog: Catalog) -> Inputs:
    """Return what a stack is made of now."""
    release = None if stack.cuda == "cpu" else catalog.toolkit(stack.cuda)
    return Inputs(
        python=stack.python,
        cuda=stack.cuda,
        layers={choice.name: _layer(stack, choice, catalog) for choice in stack.layers},
        requires=wanted(stack, catalog),
        architectures=tuple(map(str, stack.architectures)),
        constraints=stack.constraints,
        manifest=release.manifest if release else None,
        components=release.components if release else (),
    )


def wanted(stack: Stack, catalog: Catalog) -> dict[str, tuple[str, ...]]:
    """Return what a stack asks for, by the sets of its lock."""
    recipes = [catalog.recipe(layer.name) for layer in stack.layers]
    versions = {layer.name: layer.version for layer in stack.layers}
    wanted = {"run": _lines(line for recipe in recipes for line in recipe.run_requires)}
    if stack.cuda != "cpu":
        wanted[CUBINS] = (CUOBJDUMP,)
        if toolkit := catalog.toolkit(stack.cuda).wheels:
            wanted[TOOLKIT] = toolkit
    for recipe in recipes:
        version = versions[recipe.name]
        offered = {file.variant for pins in recipe.releases.get(version, {}).values() for file in pins.files}
        for variant, lines in recipe.variants.items():
            if variant in offered:
                wanted[f"run-{variant}"] = tuple(line.replace("{version}", version) for line in lines)
        if stack.cuda == "cpu" and (needed := recipe.run_built.get(version)):
            wanted[f"run-{BUILT}"] = (*wanted.get(f"run-{BUILT}", ()), *needed)
    wanted["verify"] = _lines(line for recipe in recipes for line in recipe.verify_requires)
    for recipe in recipes:
        if recipe.build_requires:
            needed = build_requires(recipe, versions[recipe.name])
            wanted[f"build-{recipe.name}"] = _lines([*needed, *_below(recipe, recipes)])
    return wanted


def asked_by(stack: Stack, layer: str, catalog: Catalog) -> list[tuple[str, ...]]:
    """Return what a layer of a stack asks for of what it shares with others: what holds together, each by itself."""
    recipe = catalog.recipe(layer)
    alone = replace(stack, layers=tuple(choice for choice in stack.layers if choice.name == layer))
    sets = wanted(alone, catalog)
    own = {TOOLKIT, CUBINS, f"build-{recipe.name}"}
    return [lines for name, lines in sets.items() if lines and name not in own]


def resolves_alike(held: Inputs, now: Inputs) -> bool:
    """Return whether what was resolved for the one is what the other asks for as well."""

    def asked(inputs: Inputs) -> tuple[object, ...]:
        libraries = {
            name: (layer.libraries, layer.pins.get("package", "").rpartition(" of ")[2])
            for name, layer in inputs.layers.items()
            if layer.libraries
        }
        return inputs.python, inputs.constraints, dict(inputs.requires), libraries

    return asked(held) == asked(now)


def check(stacks: Iterable[Stack], catalog: Catalog) -> None:
    """Demand that locks hold what their stacks are made of.

    Raises:
        LockedError: one does not; all that changed is named.
    """
    found: dict[str, list[str]] = {}  # one change of a recipe is one of many stacks
    resolved = True
    for stack in stacks:
        held, now = catalog.lock(stack).inputs, inputs_of(stack, catalog)
        for change in drift(held, now):
            found.setdefault(change, []).append(stack.name)
        resolved = resolved and resolves_alike(held, now)
    if found:
        names = sorted({name for named in found.values() for name in named})
        raise LockedError(
            f"{', '.join(f'{name}.lock' for name in names)} {'is' if len(names) == 1 else 'are'} out of date",
            why="\n".join(
                change if len(names) == 1 else f"{change} ({', '.join(named)})" for change, named in found.items()
            ),
            fix="put back what changed, or write it down with "
            + ("`invoke lock --keep`, which keeps all versions" if resolved else "`invoke lock`, which resolves anew"),
        )


def check_request(request: Request, selection: Selection, catalog: Catalog) -> None:
    """Demand that a user's options ask for nothing that the stack's lock does not hold.

    Raises:
        UsageError: one asks for another source or another flag.
    """
    name = selection.stack.name
    for choice in selection.layers:
        source = selection.sources[choice.name]
        if source.kind != choice.source:
            raise UsageError(
                f"`--locked`: {name}.lock holds {choice.name} from '{choice.source}', not from '{source.kind}'",
                why="an option chooses another source than the stack does",
                fix=f"leave out the option that does, e.g. `--source {choice.name}=...`, or leave out `--locked`",
            )
        recipe = catalog.recipe(choice.name)
        usual = flag_values(recipe, choice, {})
        asked = flag_values(recipe, choice, request.flags)
        if other := [flag for flag, value in asked.items() if value != usual[flag]]:
            raise UsageError(
                f"`--locked`: {name}.lock holds {choice.name} with other flags",
                why=", ".join(f"{choice.name}.{flag} is {asked[flag]}, locked as {usual[flag]}" for flag in other),
                fix="leave out `--flag`, write the flag into the stack's file and lock it, or leave out `--locked`",
            )


def check_plan(plan: Plan) -> None:
    """Demand that a plan takes nothing of this machine, compilers and linkers apart, that no lock can hold.

    Raises:
        UsageError: it compiles for other GPUs than the stack says.
        LockedError: its CUDA toolkit is one that is installed.
    """
    if plan.toolkit and plan.architectures != plan.stack.architectures:
        raise UsageError(
            f"`--locked`: {plan.stack.name}.lock holds other GPU architectures",
            why=f"{_words(plan.architectures)}; locked: {_words(plan.stack.architectures)}",
            fix="leave out `--arch`, or `--locked`",
        )
    if plan.toolkit and plan.toolkit.kind == "system":
        raise LockedError(
            f"{plan.stack.name}.lock does not hold the CUDA toolkit of this machine",
            why=f"it would be taken from {plan.toolkit.home}: nothing pins what is in it",
            fix="take one that is pinned: `--toolkit wheels` from CUDA 13 on, or `--toolkit redist`",
        )


def check_manifest(manifest: Mapping[str, Any], catalog: Catalog) -> None:
    """Demand that what a manifest tells of a stack is what its lock holds.

    Raises:
        LockedError: something is not; each is named.
    """
    stack = catalog.stack(manifest["stack"]["name"])
    lock = catalog.lock(stack)
    choices = {choice.name: choice for choice in stack.layers}
    strange = [line for layer in manifest["layers"] for line in _not_locked(layer, manifest, choices, lock, catalog)]
    toolkit = manifest["toolkit"]
    held = {
        (item.name, item.version, digest) for items in lock.sets.values() for item in items for digest in item.sha256
    }
    wanted = [*manifest["requirements"], *(item for layer in manifest["layers"] for item in layer["build_requires"])]
    wanted += toolkit["requirements"] if toolkit else []
    unknown = {
        f"{item['name']} {item['version']}"
        for item in wanted
        if not {(item["name"], item["version"], digest) for digest in item["sha256"]} <= held
    }
    strange += [f"requirement {name}" for name in sorted(unknown)]
    strange += _toolkit_not_locked(toolkit, stack, lock) if toolkit else ()
    if strange:
        raise LockedError(
            f"what was built of {stack.name} is not what {stack.name}.lock holds",
            why="\n".join(strange),
            fix=f"build it anew: `invoke build-stack --stack {stack.name} --locked`",
        )


def _toolkit_not_locked(toolkit: Mapping[str, Any], stack: Stack, lock: Lock) -> Iterator[str]:
    """Yield what of a CUDA toolkit, as a manifest tells of it, its stack's lock does not hold."""
    if toolkit["kind"] == "system":
        yield f"the CUDA toolkit of this machine, {toolkit['origin']}"
    if toolkit["architectures"] != [str(item) for item in stack.architectures]:
        yield f"GPU architectures: {_words(toolkit['architectures'])}; locked: {_words(stack.architectures)}"
    pinned = lock.inputs.manifest and lock.inputs.manifest.sha256
    yield from (f"the CUDA toolkit's {file['filename']}" for file in toolkit["files"] if file["sha256"] != pinned)


def _not_locked(
    layer: Mapping[str, Any],
    manifest: Mapping[str, Any],
    choices: Mapping[str, LayerChoice],
    lock: Lock,
    catalog: Catalog,
) -> Iterator[str]:
    """Yield what of a layer, as a manifest tells of it, its stack's lock does not hold."""
    name, source = layer["name"], layer["source"]
    held = lock.inputs.layers.get(name)
    if held is None or (held.version, held.source) != (layer["version"], source["kind"]):
        yield f"{name} {layer['version']} from '{source['kind']}'"
        return
    recipe = catalog.recipe(name)
    if layer["recipe"] != recipe.digest:
        yield f"{name}: another recipe"
    digests = {value.partition(" ")[0] for value in held.pins.values()}
    yield from (f"{name}: file {file['filename']}" for file in source["files"] if file["sha256"] not in digests)
    yield from _patches_not_locked(layer, manifest, recipe, catalog)
    if source["git"] and source["git"]["commit"] not in digests:
        yield f"{name}: commit {source['git']['commit']}"
    packages = {item.sha256 for item in lock.packages.get(name, ())}
    yield from (f"{name}: package {item['name']}" for item in source["packages"] if item["sha256"] not in packages)
    usual = flag_values(recipe, choices[name], {})
    yield from (f"{name}: flag {flag}={value}" for flag, value in layer["flags"].items() if value != usual.get(flag))


def _patches_not_locked(
    layer: Mapping[str, Any], manifest: Mapping[str, Any], recipe: RecipeData, catalog: Catalog
) -> Iterator[str]:
    """Yield which patches a layer has, or lacks, that would not, or would, be applied where it was built."""
    name, kind, toolkit = layer["name"], layer["source"]["kind"], manifest["toolkit"]
    facts = {
        **{item["name"]: item["version"] for item in (*layer["build_requires"], *manifest["layers"])},
        "python": manifest["interpreter"]["version"],
        **compiler_facts(manifest["compiler"]["version"] if manifest["compiler"] else ""),
        **({"cuda": toolkit["version"]} if toolkit and recipe.cuda else {}),
    }
    found = patches_of(catalog, recipe.series, layer["version"], kind, facts) if kind in BUILT_KINDS else ()
    due = {patch.id: patch.sha256 for patch in found}
    applied = {patch["id"]: patch["sha256"] for patch in layer["patches"]}
    for patch in sorted({patch for patch, _ in due.items() ^ applied.items()}):
        yield f"{name}: patch {patch}" if patch in applied else f"{name}: without patch {patch}"
    if due == applied and list(due) != list(applied):
        yield f"{name}: its patches in another order"


def drift(held: Inputs, now: Inputs) -> tuple[str, ...]:
    """Return, one sentence each, what of a stack is not as its lock holds it."""
    return (*_stack_drift(held, now), *_layers_drift(held, now), *_requires_drift(held.requires, now.requires))


def _layer(stack: Stack, choice: LayerChoice, catalog: Catalog) -> LayerInputs:
    recipe = catalog.recipe(choice.name)
    pins = recipe.releases.get(choice.version, {}).get(choice.source)
    versions = {layer.name: layer.version for layer in stack.layers}
    series = catalog.patches.get(recipe.series, ()) if choice.source != "wheel" else ()
    able = [patch for patch in series if _may_apply(patch, choice, recipe, versions)]
    return LayerInputs(
        version=choice.version,
        source=choice.source,
        pins=_pins(pins) if pins else {},
        recipe={path.name: file_digest(path) for path in files_of(recipe.folder)},
        libraries=pins.distro.libraries if pins and pins.distro else (),
        patches={f"{patch.project}/{patch.file.name}": _patch(patch) for patch in able},
        flags=dict(choice.flags),
    )


def _pins(pins: Pins) -> dict[str, str]:
    """Return what a release is taken from by one kind of source, by name."""
    found = {file.filename: file.sha256 for file in pins.files}
    if pins.git:
        found |= {"commit": pins.git.commit, "submodules": str(pins.git.submodules)}
    if pins.distro:
        found["package"] = f"{pins.distro.package} {pins.distro.version} of {pins.distro.codename}"
        found |= {part.path: f"{part.file.sha256} {part.folder}".rstrip() for part in pins.distro.parts}
    return found


def _may_apply(patch: Patch, choice: LayerChoice, recipe: RecipeData, versions: Mapping[str, str]) -> bool:
    """Return whether a patch is applied on some machine: compilers and Pythons are not the lock's to know."""
    of_layers = {name: text for name, text in patch.when.items() if name in versions}
    return (
        constraints.holds({recipe.series: patch.versions}, {recipe.series: choice.version})
        and constraints.holds(of_layers, versions)
        and (not patch.sources or choice.source in patch.sources)
    )


def _patch(patch: Patch) -> str:
    when = ", ".join(f"{name}{text}" for name, text in sorted(patch.when.items()))
    return f"{patch.sha256} when {when}" if when else patch.sha256


def _words(words: Iterable[object]) -> str:
    return ", ".join(map(str, words)) or "none"


def _below(recipe: RecipeData, recipes: Sequence[RecipeData]) -> list[str]:
    return [line for other in recipes if other.name in recipe.against for line in other.run_requires]


def _lines(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(lines)))


def _stack_drift(held: Inputs, now: Inputs) -> Iterator[str]:
    for name in ("python", "architectures", "constraints", "components"):
        was, is_now = getattr(held, name), getattr(now, name)
        if was != is_now:
            yield f"{name} of the stack: {_words(is_now)}; locked: {_words(was)}"
    if held.cuda != now.cuda:
        yield f"the stack is for CUDA {now.cuda}, locked for {held.cuda}"
    if held.manifest != now.manifest:
        named = now.manifest.filename if now.manifest else "the manifest"
        yield f"{named} of the CUDA toolkit is {'pinned by another digest' if now.manifest else 'gone'}"


def _layers_drift(held: Inputs, now: Inputs) -> Iterator[str]:
    yield from _changes(held.layers, now.layers, "layer {}", changed="")
    for name, layer in now.layers.items():
        if name in held.layers:
            yield from _layer_drift(name, held.layers[name], layer)


def _layer_drift(name: str, held: LayerInputs, now: LayerInputs) -> Iterator[str]:
    if held.version != now.version:
        yield f"{name} is {now.version}, locked as {held.version}"
    if held.source != now.source:
        yield f"{name} is taken from {now.source}, locked as taken from {held.source}"
    yield from _changes(held.pins, now.pins, f"{name} pin {{}}")
    yield from _changes(held.recipe, now.recipe, f"{name} {{}}")
    yield from _changes(held.patches, now.patches, "patch {}")
    if set(held.patches) == set(now.patches) and list(held.patches) != list(now.patches):
        yield f"the patches of {name} are in another order"
    for flag in sorted({*held.flags, *now.flags}):
        was, is_now = held.flags.get(flag, "not set"), now.flags.get(flag, "not set")
        if was != is_now:
            yield f"flag {name}.{flag} is {is_now}, locked as {was}"
    if held.libraries != now.libraries:
        yield f"the libraries of {name} are {_words(now.libraries)}; locked: {_words(held.libraries)}"


def _requires_drift(held: Mapping[str, tuple[str, ...]], now: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    for name in sorted({*held, *now}):
        was, is_now = _by_project(held.get(name, ())), _by_project(now.get(name, ()))
        for project in sorted({*was, *is_now}):
            if project not in is_now:
                yield f"{project} is not asked for any more, locked as {was[project]} (set {name})"
            elif was.get(project) != is_now[project]:
                before = was.get(project, "not asked for")
                yield f"{project} is asked for as {is_now[project]}, locked as {before} (set {name})"


def _by_project(lines: Iterable[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(canonicalize_name(PROJECT.split(line, maxsplit=1)[0]), []).append(line)
    return {name: " and ".join(asked) for name, asked in found.items()}


def _changes(
    held: Mapping[str, object], now: Mapping[str, object], name: str, changed: str = "changed"
) -> Iterator[str]:
    for key in [*now, *(key for key in held if key not in now)]:
        if key not in held:
            yield f"{name.format(key)} is new"
        elif key not in now:
            yield f"{name.format(key)} is gone"
        elif changed and held[key] != now[key]:
            yield f"{name.format(key)} {changed}"
