"""What a wheel says of itself, in words: what it is made of, and the command that makes it again.

A wheel comes from anywhere, so what it says is held against the form that we write, and nothing of it is run.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmstack import bill
from mmstack.errors import CatalogError, NoBillError, PinError
from mmstack.keys import file_digest
from mmstack.resolve import compiler_facts, flag_values, patches_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mmstack.catalog import Catalog
    from mmstack.model import LayerChoice, RecipeData, Stack

FLAG, VARIABLE = "flag:", "variable:"
PYTHON = re.compile(r"cp([0-9])([0-9]+t?)")
INSIDE = {"submodules": "submodule", "parts": "part", "packages": "package"}


@dataclass(frozen=True, kw_only=True)
class Command:
    """The command that makes a wheel again, and what speaks against it coming out the same."""

    words: tuple[str, ...]
    doubt: str = ""

    def __str__(self) -> str:
        return " ".join(self.words)


def explain(wheel: Path, catalog: Catalog) -> tuple[dict[str, Any], list[str]]:
    """Return what a wheel's own bill says, as plain data and in words, and the command here that makes it again.

    Of a wheel that upstream released, and so holds no bill, return what this checkout pins it as.

    Raises:
        UsageError: there is no such file, or it holds no bill of ours and no recipe pins it.
        PinError: it is no wheel, is damaged, or its bill is none.
    """
    try:
        document = bill.read(wheel)
    except NoBillError:
        if said := _released(wheel, catalog):
            return said, in_words(said)
        raise
    try:
        said = {"file": wheel.name, "sha256": file_digest(wheel), **_read(document)}
        command = make_again(said, catalog)
        said["command"] = str(command) if command else ""
        said["doubt"] = (
            command.doubt if command else "no stack of this checkout has this release and what it is built against"
        )
        return said, in_words(said)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise PinError(
            f"{wheel.name} holds a bill that mmstack did not write", why=repr(error), fix="ask whoever built it"
        ) from error


def _released(wheel: Path, catalog: Catalog) -> dict[str, Any] | None:
    """Return what is known of a released wheel that a recipe here pins; None of any other."""
    sha256 = file_digest(wheel)
    for recipe in catalog.recipes.values():
        for version, kinds in recipe.releases.items():
            files = kinds["wheel"].files if "wheel" in kinds else ()
            for pin in (file for file in files if file.sha256 == sha256):
                python = _python(pin.filename)
                taken = [
                    stack.name
                    for stack in catalog.stacks.values()
                    for choice in stack.layers
                    if (choice.name, choice.version, choice.source) == (recipe.name, version, "wheel")
                    and python in {"", *stack.python}
                ]
                first = next(file for file in files if _python(file.filename) == python)  # which a stack prefers
                option = f" --python {python}" if python else ""
                return {
                    "file": wheel.name,
                    "sha256": sha256,
                    "layer": recipe.name,
                    "name": recipe.project,
                    "version": version,
                    "source": {"kind": "wheel", "file": wheel.name, "sha256": sha256},
                    "command": f"uv run invoke fetch --stack {taken[0]}{option}" if taken and first == pin else "",
                    "doubt": "it is upstream's release, pinned here by its sha256: what it was built of, upstream says",
                }
    return None


def _python(filename: str) -> str:
    """Return the Python that a wheel is for, nothing where it is for several."""
    found = PYTHON.fullmatch(filename.split("-")[-3])
    return f"{found[1]}.{found[2]}" if found else ""


def _read(document: Mapping[str, Any]) -> dict[str, Any]:
    main = document["metadata"]["component"]
    facts = _facts(main)
    roles: dict[str, list[dict[str, Any]]] = {}
    for item in document["components"]:
        roles.setdefault(_facts(item)["role"][0], []).append(_component(item))
    (ancestor,) = main["pedigree"]["ancestors"]
    source = _component(ancestor)
    return {
        "layer": facts["layer"][0],
        "name": str(main["name"]),
        "version": str(main["version"]),
        "licences": [_licence(item) for item in main.get("licenses", [])],
        "source": {"kind": source.pop("source"), **source},
        **{name: roles.get(role, []) for name, role in INSIDE.items()},
        "patches": roles.get("patch", []),
        "flags": {name.removeprefix(FLAG): values[0] for name, values in facts.items() if name.startswith(FLAG)},
        "variables": {
            name.removeprefix(VARIABLE): values[0] for name, values in facts.items() if name.startswith(VARIABLE)
        },
        "compiler": next((item["description"] for item in roles.get("compiler", [])), ""),
        "linker": next(iter(roles.get("linker", [])), None),
        "toolkit": next(iter(roles.get("toolkit", [])), None),
        "toolkit_parts": roles.get("toolkit-part", []),
        "architectures": facts.get("architecture", []),
        "against": roles.get("against", []),
        "build_requires": roles.get("build", []),
        "python": facts["python"][0],
        "platform": facts["platform"][0],
        "cuda": facts["cuda"][0],
        "recipe": facts["recipe"][0],
        "key": facts["key"][0],
    }


def _facts(component: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in component["properties"]:
        found.setdefault(str(item["name"]).removeprefix(bill.PREFIX), []).append(str(item["value"]))
    return found


def _component(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of a component: what all have, and its own facts."""
    own = {name: values[0] for name, values in _facts(item).items() if name not in {"role", "one-of"}}
    return {
        "name": str(item["name"]),
        "version": str(item.get("version", "")),
        "description": str(item.get("description", "")),
        "sha256": next((str(each["content"]) for each in item.get("hashes", [])), ""),
        "purl": str(item.get("purl", "")),
        "links": [str(each["url"]) for each in item.get("externalReferences", [])],
        **own,
    }


def _licence(item: Mapping[str, Any]) -> str:
    return (
        str(item["expression"]) if "expression" in item else str(item["license"].get("id") or item["license"]["name"])
    )


def make_again(said: Mapping[str, Any], catalog: Catalog) -> Command | None:
    """Return how this checkout makes such a wheel; None where none of its stacks has that release."""
    name = said["layer"]
    if name not in catalog.recipes:
        return None
    recipe = catalog.recipe(name)
    for stack in catalog.stacks.values():
        choices = {choice.name: choice for choice in stack.layers}
        cuda = said["cuda"] == stack.cuda or (said["cuda"] == "cpu" and not recipe.cuda)
        if cuda and _has(choices, said):
            words = tuple(_words(said, stack, choices, recipe))
            return Command(words=words, doubt="; ".join(_doubts(said, stack, recipe, catalog)))
    return None


def _has(choices: Mapping[str, LayerChoice], said: Mapping[str, Any]) -> bool:
    """Return whether a stack has this release, and those that it was built against: of an installed one any."""
    return all(
        item["layer"] in choices and (item["source"] == "installed" or choices[item["layer"]].version == _release(item))
        for item in (said, *said["against"])
    )


def _release(item: Mapping[str, Any]) -> str:
    """Return a version without its local part, which names the CUDA version and the layers below."""
    return str(item["version"].partition("+")[0])


def _words(
    said: Mapping[str, Any], stack: Stack, choices: Mapping[str, LayerChoice], recipe: RecipeData
) -> Iterator[str]:
    name = said["layer"]
    yield from ("uv", "run", "invoke", "build-stack", "--stack", shlex.quote(stack.name))
    yield from _origins(said, choices)
    usual = flag_values(recipe, choices[name], {})
    for flag, value in said["flags"].items():
        if usual.get(flag) != value:
            yield from ("--flag", _value(f"{name}.{flag}={value}"))
    if said["architectures"]:
        yield from ("--arch", _value(",".join(said["architectures"])))
    if said["toolkit"]:
        yield from ("--toolkit", _value(said["toolkit"]["kind"]))
    if said["linker"] and said["linker"]["name"] != "default":
        yield from ("--linker", _value(said["linker"]["name"]))
    yield from ("--stop-after", "gate")


def _value(text: str) -> str:
    """Return what is said as the value of an option, which neither a shell nor the task takes for more.

    Raises:
        ValueError: the task would take it for another option.
    """
    if text.startswith("-"):
        raise ValueError(f"{text!r} is no value of an option")
    return shlex.quote(text)


def _origins(said: Mapping[str, Any], choices: Mapping[str, LayerChoice]) -> Iterator[str]:
    """Yield the options that choose the Python, and where a layer and what it was built against come from."""
    kinds = {said["layer"]: said["source"]["kind"], **{item["layer"]: item["source"] for item in said["against"]}}
    if "installed" in kinds.values():
        yield from ("--python", "PATH")
    elif python := PYTHON.fullmatch(said["python"]):
        yield from ("--python", ".".join(python.groups()))
    for layer, kind in kinds.items():
        if kind == "path":
            yield from ("--source", f"{layer}=path:DIR")
        elif kind != choices[layer].source:
            yield from ("--source", shlex.quote(f"{layer}={kind}"))


def _doubts(said: Mapping[str, Any], stack: Stack, recipe: RecipeData, catalog: Catalog) -> Iterator[str]:
    if said["source"]["kind"] == "path":
        yield f"it was made from somebody's own folder, whose digest was {said['source'].get('tree', '')}"
    if said["recipe"] != recipe.digest:
        yield "the recipe of this checkout is another than the one that made it"
    yield from _unlocked(said, stack, catalog)
    due = {patch.id: patch.sha256 for patch in patches_of(catalog, recipe.series, *_circumstances(said, stack, recipe))}
    if others := sorted({name for name, _ in due.items() ^ {(item["id"], item["sha256"]) for item in said["patches"]}}):
        yield f"patches of this checkout are others: {', '.join(others)}"
    for below in said["against"]:
        what = f"it was built against {below['name']} {below['version']}"
        pinned = catalog.recipe(below["layer"]).releases.get(_release(below), {}).get("wheel")
        if not below["sha256"]:  # flags and patches of what is below are in its own bill alone
            yield f"{what} of key {below['key']}: `invoke plan` says whether it has that key here"
        elif not pinned or below["sha256"] not in {file.sha256 for file in pinned.files}:
            yield f"{what} of sha256 {below['sha256']}, which this checkout does not pin"


def _unlocked(said: Mapping[str, Any], stack: Stack, catalog: Catalog) -> Iterator[str]:
    try:
        lock = catalog.lock(stack)
    except CatalogError as error:  # one that somebody is about to write
        yield error.what
        return
    locked = {(item.name, item.version) for items in lock.sets.values() for item in items}
    if others := [item for item in said["build_requires"] if (item["name"], item["version"]) not in locked]:
        names = ", ".join(f"{item['name']} {item['version']}" for item in others)
        yield f"it was built with what the lock of '{stack.name}' does not name: {names}"


def _circumstances(said: Mapping[str, Any], stack: Stack, recipe: RecipeData) -> tuple[str, Any, dict[str, str]]:
    """Return what decides which patches are applied: release, kind of source, and what else they may depend on."""
    python = PYTHON.fullmatch(said["python"])
    return (
        _release(said),
        said["source"]["kind"],
        {
            **{item["name"]: item["version"] for item in said["build_requires"]},
            **{choice.name: choice.version for choice in stack.layers},
            **{item["layer"]: _release(item) for item in said["against"]},  # of an installed one any
            **({"python": ".".join(python.groups())} if python else {}),
            **compiler_facts(said["compiler"]),
            **({"cuda": said["cuda"]} if recipe.cuda and said["cuda"] != "cpu" else {}),
        },
    )


def in_words(said: Mapping[str, Any]) -> list[str]:
    """Return an explanation as lines of text."""
    return [f"{said['name']} {said['version']}", *(f"  {what:<11} {text}" for what, text in _lines(said) if text)]


def _lines(said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "file", f"{said['file']}, sha256 {said['sha256']}"
    if "key" in said:
        yield from _inside(said)
        yield "make again", said["command"]
    else:
        yield "source", "a release as upstream published it"
        yield "fetch", said["command"]
    yield "but", said["doubt"]


def _inside(said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "key", said["key"]
    yield "licence", ", ".join(said["licences"])
    yield "source", _source(said["source"])
    for module in said["submodules"]:
        yield "submodule", f"{module['path']} at commit {module['commit']}"
    for part in said["parts"]:
        yield "part", f"{part['path']} from {part['file']}, sha256 {part['sha256']}"
    for package in said["packages"]:
        yield "package", f"{package['name']} {package['version']} ({package['architecture']})"
    for patch in said["patches"]:
        yield "patch", f"{patch['id']}: {patch['description']} ({patch['upstream']})"
    yield "flags", " ".join(f"{name}={value}" for name, value in said["flags"].items())
    yield "variables", " ".join(f"{name}={value}" for name, value in said["variables"].items())
    yield "compiler", said["compiler"]
    yield "linker", said["linker"]["description"] if said["linker"] else ""
    if toolkit := said["toolkit"]:
        yield "toolkit", f"CUDA {toolkit['version']} ({toolkit['kind']}), for {', '.join(said['architectures'])}"
    for below in said["against"]:
        proof = f"sha256 {below['sha256']}" if below["sha256"] else f"key {below['key']}"
        yield "against", f"{below['name']} {below['version']}, {proof}"
    yield "built with", ", ".join(f"{item['name']} {item['version']}" for item in said["build_requires"])
    yield "for", f"{said['python']}, {said['platform']}"


def _source(source: Mapping[str, Any]) -> str:
    if source["kind"] == "git":
        return f"git {', '.join(source['links'])}, tag {source['tag']}, commit {source['commit']}"
    if source["kind"] == "path":
        return f"a folder of somebody's own, digest {source['tree']}"
    release = f"{source['name']} {source['version']} of {source['distribution']}: " if "distribution" in source else ""
    return f"{source['kind']} {release}{source['file']}, sha256 {source['sha256']}"
