"""Makes the wheels of a manifest again, apart from all that was built here, and says how what came out differs."""

from __future__ import annotations

import os
import shutil
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mmstack.diagnose import plain
from mmstack.elf import section_digests
from mmstack.errors import CatalogError, ConstraintError, HostError, PinError, RebuildError, UsageError
from mmstack.keys import ENGINE, file_digest
from mmstack.model import Paths
from mmstack.options import MANY, SINGLE, Options
from mmstack.report import layer_facts, not_ours
from mmstack.shapes import misfit
from mmstack.sources.archive import DAMAGE
from mmstack.sources.places import user_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmstack.model import Artifact, Plan
    from mmstack.shapes import Shape

# What is fetched, or made of what is fetched, and so is no result of a build; and who uses it.
SHARED = ("downloads", "repositories", "distro", "uv-cache", "toolkits", "locks", "uses")
FOLDER = "rebuild"
TYPED: Mapping[str, Shape] = {**dict.fromkeys(SINGLE, str), **{name: [str] for name in MANY}, "index_only": bool}
OF_THE_CHECKOUT = ("version", "recipe", "flags")
SHOWN = 60
LONGEST = 100
ARCHIVE_ERRORS = (*DAMAGE, RuntimeError, OSError)


def place(manifest: Mapping[str, Any]) -> str:
    """Return the name, within the state, of the folder in which a manifest is built again.

    Raises:
        CatalogError: the manifest has no key.
    """
    key = str(manifest.get("key", ""))
    if not (key.isalnum() and key.isascii()):
        raise CatalogError("the manifest has no key", fix="give one that `invoke build-stack` wrote")
    return f"{FOLDER}/{key[:16]}"


def apart(paths: Paths, manifest: Mapping[str, Any]) -> Paths:
    """Return where a manifest is built again: a state of its own, which shares with this checkout what is fetched.

    Raises:
        CatalogError: the manifest has no key.
    """
    state = paths.state / place(manifest)
    state.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        (paths.state / name).mkdir(exist_ok=True)
        if not (state / name).is_symlink():
            (state / name).symlink_to(paths.state / name)
    return Paths(root=paths.root, state=state, dist=state / "dist")


def options(manifest: Mapping[str, Any], ours: Options) -> Options:
    """Return the options of a manifest, but for how and where it is built, which is this machine's business.

    Raises:
        CatalogError: it has others than this version knows.
        UsageError: it does not name the wheel of each layer, or has no use for the toolkit that is named here.
        HostError: what it was built from is a folder that is not here.
    """
    try:
        asked = _typed(manifest["options"])
        asked.request()  # refuses what no option means
        minor = ".".join(manifest["interpreter"]["version"].split(".")[:2])
        stack = manifest["stack"]["name"]
        toolkit, wish = manifest["toolkit"], ours.toolkit or asked.toolkit
        linker = manifest["compiler"] and manifest["compiler"]["linker"]
        found: dict[str, Any] = {  # what was left to be found out there
            "arch": ",".join(toolkit["architectures"]) if toolkit else asked.arch,
            "toolkit": toolkit["kind"] if toolkit and wish in {"", "auto"} else wish,
            "linker": linker["kind"] if linker and asked.linker == "auto" else asked.linker,
        }
        held = any(layer["source"]["kind"] == "installed" for layer in manifest["layers"])
        pinned(manifest)
        wheels = [(item["layer"], item["filename"], item["sha256"]) for item in manifest["artifacts"]]
        made = {layer["name"]: layer["key"] for layer in manifest["layers"] if layer["source"]["kind"] != "installed"}
        strays = [name for name, _filename, _sha256 in wheels if name not in made]
        lacking = sorted(made.keys() - {name for name, _filename, _sha256 in wheels})
    except (KeyError, TypeError, AttributeError) as error:
        raise not_ours(error) from error
    if strays or lacking or not wheels:
        raise UsageError(
            f"the manifest has no layer '{strays[0]}'" if strays else f"the manifest names no wheel of {lacking}",
            why="it names a wheel of it" if strays else "its build did not come so far",
            fix="give the manifest of a whole build",
        )
    if ours.toolkit and not toolkit:
        raise UsageError(
            "`--toolkit` says nothing here", why="the manifest's build had no CUDA toolkit", fix="leave it out"
        )
    for layer, folder in _own_trees(asked):
        if not os.path.isdir(folder):  # noqa: PTH112 - false for a name that no folder can have
            raise HostError(
                f"{layer} was built from {folder}, which is not on this machine",
                why="the manifest names a folder of its user's own",
                fix="put the same tree there",
            )
    python = ours.python or (asked.python if held else minor)
    return replace(asked, stack=stack, cuda="", python=python, mirror=ours.mirror, jobs=ours.jobs, **found)


def _own_trees(asked: Options) -> Iterator[tuple[str, Path]]:
    """Yield the layers that a folder is built for, and which."""
    for layer, _equals, wish in (item.partition("=") for item in asked.source):
        kind, _colon, folder = wish.partition(":")
        if kind == "path" and folder:
            with suppress(ValueError):  # planning refuses it
                yield layer, user_path(folder)


def _typed(given: Mapping[str, Any]) -> Options:
    """Return the options that a manifest keeps, if each is of the kind that can be typed.

    Raises:
        KeyError: one is unknown.
        TypeError: one is of another kind.
    """
    if where := misfit(given, {name: TYPED[name] for name in given}, "options"):
        raise TypeError(f"{where} is not what it must be")
    return Options(**given)


def pinned(manifest: Mapping[str, Any]) -> frozenset[str]:
    """Return the digests of all files that a manifest's layers are made of."""
    return frozenset(file["sha256"] for layer in manifest["layers"] for file in layer["source"]["files"])


def check(plan: Plan, manifest: Mapping[str, Any]) -> None:
    """Demand that a plan has the same inputs as a manifest.

    Raises:
        PinError: this checkout has other recipes, patches or locks.
        HostError: this machine has another compiler, toolkit or Python, and what else differs may follow from that.
        CatalogError: the manifest lacks what it is held against.
    """
    try:
        checkout, machine = list(_other_checkout(plan, manifest)), list(_other_tools(plan, manifest))
        inputs = list(_other_inputs(plan, manifest))
        keys = {layer["name"]: layer["key"] for layer in manifest["layers"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise not_ours(error) from error
    if all(keys.get(layer.name) == layer.key for layer in plan.layers) and len(keys) == len(plan.layers):
        return
    if checkout or not machine:
        raise other_checkout(manifest, "\n".join([*checkout, *inputs, *machine]) or "the keys differ")
    raise HostError(
        "this machine does not make what the manifest names",
        why="\n".join([*machine, *inputs]),
        fix="install what the manifest names, or build on a machine that has it",
    )


def other_checkout(manifest: Mapping[str, Any], why: str) -> PinError:
    """Return the error of a checkout that is not the one of a manifest, whose commit is named if it is known."""
    builder = manifest.get("builder")
    commit = builder.get("commit") if isinstance(builder, dict) else None
    return PinError(
        "this checkout does not make what the manifest names",
        why=why,
        fix=f"check out commit {commit} of mmstack" if commit else "take the checkout that made the manifest",
    )


@contextmanager
def of_this_checkout(manifest: Mapping[str, Any]) -> Iterator[None]:
    """Within, what a manifest asks for and cannot be planned is for another checkout to make.

    Raises:
        PinError: it cannot.
    """
    try:
        yield
    except (UsageError, CatalogError, ConstraintError) as error:
        raise other_checkout(manifest, f"{error.what}: {error.why}" if error.why else error.what) from error


def _other_checkout(plan: Plan, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words what this checkout has otherwise, whatever the machine."""
    if manifest["engine"] != ENGINE:
        yield f"engine: {manifest['engine']} in the manifest, {ENGINE} here"
    ours, theirs = {layer.name for layer in plan.layers}, {layer["name"] for layer in manifest["layers"]}
    for name in sorted(ours ^ theirs):
        yield f"layer {name}: only {'here' if name in ours else 'in the manifest'}"
    for here, there in _other_layers(plan, manifest):
        held = here["source"]["kind"] == "installed"  # whose version is this machine's
        yield from _other_fields(here, there, [field for field in OF_THE_CHECKOUT if not (held and field == "version")])


def _other_layers(plan: Plan, manifest: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield each layer that is another, as it is here and in the manifest."""
    ours = {layer.name: layer_facts(layer) for layer in plan.layers}
    for there in manifest["layers"]:
        here = ours.get(there["name"])
        if here and here["key"] != there["key"]:
            yield here, there


def _other_fields(here: Mapping[str, Any], there: Mapping[str, Any], fields: Sequence[str]) -> Iterator[str]:
    for field in fields:
        if here[field] != there[field]:
            words = f"{_short(there[field])} in the manifest, {_short(here[field])} here"
            yield f"{here['name']}: another {field}: {words}"


def _other_inputs(plan: Plan, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words what else the layers are made of otherwise: another checkout's, or what another machine takes."""
    for here, there in _other_layers(plan, manifest):
        name = here["name"]
        yield from _other_fields(here, there, ["environment"])
        yield from _other_items(name, "patch", here["patches"], there["patches"], "id")
        yield from _other_items(name, "build requirement", here["build_requires"], there["build_requires"], "name")
        sources = [{**each["source"], "path": "", "folders": []} for each in (there, here)]
        if sources[0] != sources[1]:
            other = [field for field in sources[1] if sources[0].get(field) != sources[1][field]]
            yield f"{name}: another source: {', '.join(other)}"


def _other_items(
    layer: str, what: str, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], key: str
) -> Iterator[str]:
    here, there = ({item[key]: item for item in items} for items in (ours, theirs))
    for name in [*there, *(name for name in here if name not in there)]:
        if name not in here:
            yield f"{layer}: {what} {name} is only in the manifest"
        elif name not in there:
            yield f"{layer}: {what} {name} is only here"
        elif here[name] != there[name]:
            yield f"{layer}: {what} {name} is another"


def _other_tools(plan: Plan, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words what this machine has otherwise than the one that built."""
    theirs = manifest["compiler"] or {"version": None, "linker": None}
    linker = plan.compiler.linker if plan.compiler else None
    toolkit = manifest["toolkit"]
    pairs = {
        "compiler": (theirs["version"], plan.compiler.version if plan.compiler else None),
        "linker": (theirs["linker"], linker and vars(linker)),
        "Python": (
            [manifest["interpreter"]["tag"], manifest["interpreter"]["platform"]],
            [plan.interpreter.tag, plan.interpreter.platform],
        ),
        "CUDA toolkit": (
            toolkit and [toolkit["version"], toolkit["identity"]],
            [plan.toolkit.version, plan.toolkit.identity] if plan.toolkit else None,
        ),
        "architectures": (
            toolkit and toolkit["architectures"],
            [str(item) for item in plan.architectures] if plan.toolkit else None,
        ),
    }
    for what, (there, here) in pairs.items():
        if there != here:
            yield f"{what}: {_short(there)} in the manifest, {_short(here)} here"
    for ours, old in _other_layers(plan, manifest):
        if ours["source"]["kind"] == "installed":
            yield f"{ours['name']}: another is installed: {_short(old['version'])} and {_short(ours['version'])} here"


def compare(manifest: Mapping[str, Any], made: Mapping[str, Artifact], wheels: Path) -> list[dict[str, Any]]:
    """Return for each wheel of a manifest whether it came out the same, and if not, how it differs where that is known.

    Args:
        manifest: of the first build.
        made: the artifacts of the second, by layer.
        wheels: where the wheels of the first may lie.
    """
    found = []
    for item in manifest["artifacts"]:
        artifact, old = made[item["layer"]], wheels / Path(item["filename"]).name
        same = artifact.sha256 == item["sha256"]
        differences: Sequence[str] = ()
        if not same:
            here = old.is_file() and file_digest(old) == item["sha256"]
            differences = (
                wheel_differences(old, artifact.path) if here else (f"{old.name} of the manifest is not at hand",)
            )
        found.append(
            {
                "layer": item["layer"],
                "filename": item["filename"],
                "sha256": item["sha256"],
                "rebuilt": artifact.sha256,
                "same": same,
                "differences": list(differences),
            }
        )
    return found


def demand_same(compared: Sequence[Mapping[str, Any]], state: Path) -> None:
    """End a rebuild: its state goes if all came out the same; else the wheels stay, to be looked at.

    Raises:
        RebuildError: a wheel came out differently.
    """
    different = [item for item in compared if not item["same"]]
    if not different:
        shutil.rmtree(state)
        return
    lines = [f"{item['filename']}: {line}" for item in different for line in _first(item["differences"])]
    raise RebuildError(
        f"{len(different)} of {len(compared)} wheels came out differently",
        why="\n".join(lines),
        fix=f"the new wheels are below {state / 'artifacts'}; remove {state} to build them once more",
        compared=compared,
    )


def _first(differences: Sequence[str]) -> Iterator[str]:
    yield from differences[:SHOWN]
    if more := len(differences[SHOWN:]):
        yield f"and {more} more differences"


def wheel_differences(first: Path, second: Path) -> tuple[str, ...]:
    """Return how two wheels differ: file by file, ELF files section by section, then in how they are packed."""
    try:
        with TemporaryDirectory() as folder, zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
            found = tuple(_differences(one, other, Path(folder)))
    except ARCHIVE_ERRORS as error:
        return (f"cannot be compared: {error}",)
    if not found and file_digest(first) != file_digest(second):
        return ("the same files, packed by another program",)
    return found


def _differences(one: zipfile.ZipFile, other: zipfile.ZipFile, scratch: Path) -> Iterator[str]:
    ours, theirs = ({entry.filename: entry for entry in each.infolist()} for each in (one, other))
    for name in sorted(ours.keys() ^ theirs.keys()):
        yield f"{plain(name)}: only in the {'first' if name in ours else 'second'}"
    both = [name for name in ours if name in theirs]
    for name in both:
        before, after = one.read(name), other.read(name)
        if before != after:
            yield from (f"{plain(name)}: {text}" for text in _content(before, after, scratch))
    for name in both:
        packed = [(each.date_time, each.external_attr >> 16, each.compress_type) for each in (ours[name], theirs[name])]
        if packed[0] != packed[1]:
            yield f"{plain(name)}: packed with another {_packing(packed[0], packed[1])}"
    if both != [name for name in theirs if name in ours]:
        yield "the files stand in another order"


def _packing(before: tuple[Any, ...], after: tuple[Any, ...]) -> str:
    names = ("date", "mode", "compression")
    parts = zip(names, before, after, strict=True)
    return ", ".join(f"{name} ({old} and {new})" for name, old, new in parts if old != new)


def _content(before: bytes, after: bytes, scratch: Path) -> Iterator[str]:
    files = [scratch / "first", scratch / "second"]
    for file, body in zip(files, (before, after), strict=True):
        file.write_bytes(body)
    one, other = (section_digests(file) for file in files)
    if one is None or other is None:
        yield _text(before, after)
        return
    for name in [*one, *(name for name in other if name not in one)]:
        if name not in one or name not in other:
            yield f"section {plain(name)} is only in the {'first' if name in one else 'second'}"
        elif one[name] != other[name]:
            yield f"section {plain(name)} differs ({one[name][0]} and {other[name][0]} bytes)"
    if one == other:
        yield "differs outside its sections"


def _text(before: bytes, after: bytes) -> str:
    try:
        lines = [body.decode("utf-8").splitlines() for body in (before, after)]
    except UnicodeDecodeError:
        at = next(
            (n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
        )
        return f"differs from byte {at} on ({len(before)} and {len(after)} bytes)"
    for number, (old, new) in enumerate(zip(*lines, strict=False), start=1):
        if old != new:
            return f"line {number} is {_short(old)} and {_short(new)}"
    return f"has {len(lines[0])} and {len(lines[1])} lines"


def _short(value: object) -> str:
    text = plain(str(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
