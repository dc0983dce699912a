"""Locks: what a stack is made of, by version and digest, and no word on where it comes from."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from packaging.markers import Marker, UndefinedEnvironmentName
from packaging.version import Version

from mmstack import tables
from mmstack.errors import CatalogError
from mmstack.model import DistroPackage, FilePin, Inputs, LayerInputs, Lock, LockedRequirement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

VERSION = 2
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?: *; *(?P<marker>[^\\]+?))?(?: *\\)?")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
SHA256 = re.compile(r"[0-9a-f]{64}")
PACKAGE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]+)=(?P<version>[\w.+:~-]+) (?P<architecture>[a-z0-9-]+) (?P<sha256>[0-9a-f]{64})"
)
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def read_lock(file: Path) -> Lock:
    """Read a lock.

    Raises:
        CatalogError: it is missing or malformed.
    """
    if not file.exists():
        raise CatalogError(f"{file} is missing", fix=f"make it with `invoke lock --stack {file.stem}`")
    table = tables.load(file)
    if table.get("version", int) != VERSION:
        raise table.wrong("version", "must be one that this mmstack knows", fix="make it anew: `invoke lock`")
    table.only("version", "stack", "toolkit", "layers", "requires", "set", "packages", "trees", "sha256")
    sets, digests = table.table("set"), table.table("sha256")
    packages, trees = table.table("packages"), table.table("trees")
    return Lock(
        inputs=_inputs(table),
        sets={name: tuple(_entry(line, digests) for line in sets.texts(name)) for name in sets.values},
        packages={name: tuple(_package(line, packages) for line in packages.texts(name)) for name in packages.values},
        trees={name: trees.table(name).strings() for name in trees.values},
    )


def _inputs(table: tables.Table) -> Inputs:
    stack = table.table("stack", required=True).only("python", "cuda", "arch", "constraints")
    toolkit = table.table("toolkit").only("manifest", "sha256", "components")
    layers, requires = table.table("layers"), table.table("requires", required=True)
    return Inputs(
        python=stack.texts("python"),
        cuda=stack.text("cuda"),
        layers={name: _layer(layers.table(name)) for name in layers.values},
        requires={name: requires.texts(name) for name in requires.values},
        architectures=stack.texts("arch", ()),
        constraints=stack.texts("constraints", ()),
        manifest=FilePin(filename=toolkit.text("manifest"), sha256=toolkit.text("sha256")) if toolkit.values else None,
        components=toolkit.texts("components") if toolkit.values else (),
    )


def _layer(table: tables.Table) -> LayerInputs:
    table.only("version", "source", "libraries", "pins", "recipe", "patches", "flags")
    return LayerInputs(
        version=table.text("version"),
        source=table.text("source"),
        libraries=table.texts("libraries", ()),
        **{name: table.table(name).strings() for name in ("pins", "recipe", "patches", "flags")},
    )


def tree_name(layer: str, kind: str, version: str) -> str:
    """Return by what name a lock holds the digests of a release's source tree, taken from that kind of source."""
    return f"{layer} {kind} {version}"


def write_lock(lock: Lock) -> str:
    """Return the text of a lock file: what goes in, what each set holds, and once for each release its digests."""
    lines = ["# made by `invoke lock`; not to be edited", f"version = {VERSION}", *_made_of(lock.inputs), "", "[set]"]
    digests: dict[str, tuple[str, ...]] = {}
    for name, requirements in sorted(lock.sets.items()):
        lines += _list(name, map(_line, requirements))
        digests |= {f"{item.name}=={item.version}": item.sha256 for item in requirements}
    if lock.packages:
        lines += ["", "[packages]"]
    for name, packages in sorted(lock.packages.items()):
        lines += _list(name, map(_words, packages))
    for name, digests_of_parts in sorted(lock.trees.items()):
        lines += _strings(f"trees.{_key(name)}", dict(sorted(digests_of_parts.items())))
    lines += ["", "[sha256]"]
    for release, values in sorted(digests.items()):
        lines += _list(release, values)
    return "\n".join(lines) + "\n"


def _made_of(inputs: Inputs) -> list[str]:
    stack = [("python", inputs.python), ("arch", inputs.architectures), ("constraints", inputs.constraints)]
    lines = _strings("stack", {"cuda": inputs.cuda}) + [f"{name} = {_text(list(words))}" for name, words in stack]
    if inputs.manifest:
        lines += _strings("toolkit", {"manifest": inputs.manifest.filename, "sha256": inputs.manifest.sha256})
        lines += _list("components", inputs.components)
    for name, layer in inputs.layers.items():
        where = f"layers.{_key(name)}"
        lines += _strings(where, {"version": layer.version, "source": layer.source})
        lines += _list("libraries", layer.libraries) if layer.libraries else []
        lines += _strings(f"{where}.pins", layer.pins) + _strings(f"{where}.recipe", layer.recipe)
        lines += _strings(f"{where}.patches", layer.patches) if layer.patches else []
        lines += _strings(f"{where}.flags", layer.flags) if layer.flags else []
    lines += ["", "[requires]"]
    for name, words in sorted(inputs.requires.items()):
        lines += _list(name, words)
    return lines


def _strings(where: str, values: Mapping[str, str]) -> list[str]:
    return ["", f"[{where}]", *(f"{_key(name)} = {_text(value)}" for name, value in values.items())]


def _list(name: str, values: Iterable[str]) -> list[str]:
    return [f"{_key(name)} = [", *(f"  {_text(value)}," for value in values), "]"]


def parse_requirements(text: str) -> tuple[LockedRequirement, ...]:
    """Read a hash-pinned requirements file as `uv pip compile --generate-hashes` writes it."""
    found: list[LockedRequirement] = []
    for block in re.split(r"\n(?=\S)", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)):
        head = block.split("\n", 1)[0].strip()
        if not head or head.startswith("#"):
            continue
        match = REQUIREMENT.fullmatch(head)
        hashes = tuple(sorted(HASH.findall(block)))
        if match is None or not hashes:
            raise CatalogError(
                "a resolved requirement is not pinned by version and hash",
                why=head,
                fix="run the same command again; where a file says so, have it written anew by `invoke build-stack`",
            )
        found.append(
            LockedRequirement(
                name=match["name"],
                version=match["version"],
                marker=(match["marker"] or "").strip(),
                sha256=hashes,
            )
        )
    return tuple(found)


def applicable(requirements: Iterable[LockedRequirement], markers: Mapping[str, str]) -> tuple[LockedRequirement, ...]:
    """Return the requirements that an interpreter with these markers installs.

    Raises:
        CatalogError: a marker compares what cannot be compared.
    """
    return tuple(item for item in requirements if not item.marker or _applies(item, markers))


def _applies(item: LockedRequirement, markers: Mapping[str, str]) -> bool:
    try:
        return Marker(item.marker).evaluate(dict(markers))
    except (UndefinedEnvironmentName, ValueError) as error:
        raise CatalogError(
            f"the marker of {item.name} {item.version} has no meaning: {item.marker}",
            why=str(error),
            fix="make the lock anew: `invoke lock`",
        ) from error


def _key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else _text(name)


def _text(value: str | list[str]) -> str:
    """Return a value as TOML writes it."""
    return json.dumps(value, ensure_ascii=False)


def _line(item: LockedRequirement) -> str:
    return f"{item.name}=={item.version}" + (f" ; {item.marker}" if item.marker else "")


def _words(item: DistroPackage) -> str:
    return f"{item.name}={item.version} {item.architecture} {item.sha256}"


def _package(line: str, table: tables.Table) -> DistroPackage:
    match = PACKAGE.fullmatch(line)
    if match is None:
        raise CatalogError(f"{table.file}: {line!r} is no pinned package", fix="make it anew: `invoke lock`")
    return DistroPackage(**match.groupdict())


def _entry(line: str, digests: tables.Table) -> LockedRequirement:
    match = REQUIREMENT.fullmatch(line)
    if match is None:
        raise CatalogError(f"{digests.file}: {line!r} is no pinned requirement", fix="make it anew: `invoke lock`")
    marker = match["marker"] or ""
    try:
        Version(match["version"])
        if marker:
            Marker(marker)
    except (ValueError, RecursionError) as error:
        raise CatalogError(
            f"{digests.file}: {line!r} has no valid version or marker",
            why=str(error),
            fix="make it anew: `invoke lock`",
        ) from error
    release = f"{match['name']}=={match['version']}"
    found = digests.texts(release)
    if not found or not all(SHA256.fullmatch(digest) for digest in found):
        raise digests.wrong(release, "must be a list of sha256", fix="make it anew: `invoke lock`")
    return LockedRequirement(name=match["name"], version=match["version"], marker=marker, sha256=found)
