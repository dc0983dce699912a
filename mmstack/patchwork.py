"""Keeps patch series: proves them against the pinned sources, and makes new patches from edited trees."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import stat
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from mmstack import constraints, patches
from mmstack.errors import DiskError, HostError, MmstackError, PatchError, UsageError
from mmstack.keys import file_digest
from mmstack.model import Patch, Source
from mmstack.report import write_atomically
from mmstack.resolve import BUILT_KINDS
from mmstack.shapes import load_as

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mmstack.catalog import Catalog
    from mmstack.model import DistroPackage, FilePin, RecipeData
    from mmstack.workshop import Workshop

SLUG = re.compile(r"[a-z0-9][a-z0-9.-]*")
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release of a layer as one kind of source has it."""

    recipe: RecipeData
    version: str
    source: Source

    @property
    def name(self) -> str:
        """Return the layer's name."""
        return self.recipe.name

    @property
    def chosen(self) -> FilePin | None:
        """Return the file that it is in, if it is one."""
        return self.source.files[0] if self.source.files else None

    @property
    def packages(self) -> tuple[DistroPackage, ...]:
        """Return what it is built against: a tree alone needs nothing."""
        return ()

    @property
    def tree(self) -> Mapping[str, str]:
        """Return the digests that its tree must have: that of its pin is enough."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A series that applies, in order, to one release: every patch in its range, whatever its `when`.

    `trouble` is why nothing could be proved: the source could not be had.
    """

    release: Release
    patches: tuple[str, ...]
    trouble: HostError | None = None


def prove_all(workshop: Workshop, catalog: Catalog) -> Iterator[Proof]:
    """Apply every series to every release, from each kind of source that its recipe pins.

    Raises:
        PatchError: one does not apply, is already applied or changes nothing.
        DiskError: the disk is full, and so on.
    """
    for recipe in catalog.recipes.values():
        for each in releases(recipe):
            if found := _in_range(catalog, each):
                yield _prove(workshop, catalog, each, tuple(patch.id for patch in found))


def releases(recipe: RecipeData) -> Iterator[Release]:
    """Yield every release of a layer that is built here, once for each kind of source."""
    for version, kinds in recipe.releases.items():
        for kind, pins in kinds.items():
            if kind in BUILT_KINDS:
                source = Source(kind=kind, project=recipe.project, version=version, **vars(pins))
                yield Release(recipe=recipe, version=version, source=source)


def release(recipe: RecipeData, version: str, kind: str = "") -> Release:
    """Return a release from that kind of source, or from the first that its recipe pins.

    Raises:
        UsageError: it is not pinned so.
    """
    known = list(releases(recipe))
    found = next((item for item in known if item.version == version and kind in {"", item.source.kind}), None)
    if found is None:
        pinned = ", ".join(f"{item.version} ({item.source.kind})" for item in known)
        raise UsageError(
            f"{recipe.name} {version} is not pinned as {kind or 'a source'}",
            why=f"pinned: {pinned or 'none'}",
            fix="choose one of these",
        )
    return found


def lay_out(workshop: Workshop, wanted: Release, into: Path) -> Path:
    """Fetch a release and make its tree, without patches.

    Raises:
        NetworkError: it cannot be had.
        PinError: it is not what its pin says.
    """
    if wanted.source.kind == "sdist":
        workshop.download(wanted.recipe.project, wanted.source.files)
    workshop.sources.fetch(wanted)
    return workshop.sources.lay_out(wanted, into)


def edit(workshop: Workshop, catalog: Catalog, recipe: RecipeData, version: str, kind: str = "") -> Path:
    """Lay out a release with its series applied, for the user to edit, and return the tree.

    Raises:
        UsageError: a tree that was edited before is still there.
    """
    folder = workshop.paths.state / "edit" / recipe.name
    if folder.exists():
        raise UsageError(
            f"{folder / 'tree'} is there from an earlier edit",
            fix=f"save it with `invoke patches.save {recipe.name} NAME`, or remove {folder}",
        )
    with workshop.scratch("edit") as scratch:
        new = scratch / "new"
        base = _patched(workshop, catalog, release(recipe, version, kind), scratch / "source")
        shutil.copytree(base, new / "tree", symlinks=True)
        base.rename(new / "base")
        (new / "edit.json").write_text(json.dumps({"version": version}), encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        new.rename(folder)
    return folder / "tree"


def save(workshop: Workshop, catalog: Catalog, recipe: RecipeData, name: str, reason: str) -> Path:
    """Write what was edited as a new patch at the end of the series, and return its file.

    Raises:
        UsageError: there is no edited tree, or it was not changed, or the name is no slug, or taken.
        PatchError: what was edited is not what a patch can say.
    """
    if not SLUG.fullmatch(name):
        raise UsageError(f"'{name}' is no name for a patch", fix="write lower-case words joined by hyphens")
    folder = workshop.paths.state / "edit" / recipe.name
    if not (folder / "edit.json").exists():
        raise UsageError(
            f"no tree of {recipe.name} is being edited", fix=f"begin with `invoke patches.edit {recipe.name}`"
        )
    if missing := [part for part in (folder / "base", folder / "tree") if not part.is_dir()]:
        raise UsageError(
            f"{missing[0]} is gone, so it is not known what was edited",
            fix=f"put it back, or remove {folder} and edit anew",
        )
    _demand_text_alone(folder / "base", folder / "tree")
    body = "".join(_tree_diff(folder / "base", folder / "tree"))
    if not body:
        raise UsageError(f"{folder / 'tree'} was not changed", fix="edit it, then save again")
    patch = _new_patch(catalog, recipe, name, reason, folder)
    series = patch.file.with_name("series.toml")
    series.parent.mkdir(parents=True, exist_ok=True)
    # as bytes: text mode would rewrite the line ends of some systems
    patch.file.write_bytes(f"{_header(patch, name)}{body}".encode("utf-8", "surrogateescape"))
    try:
        patches.changed_files(patch, folder / "base")
        _append(series, patch)
    except MmstackError:
        patch.file.unlink()
        raise
    shutil.rmtree(folder)
    return patch.file


def _new_patch(catalog: Catalog, recipe: RecipeData, name: str, reason: str, folder: Path) -> Patch:
    present = catalog.patches.get(recipe.series, ())
    identity = f"{recipe.series}-{name}"
    if any(patch.id == identity for patch in present):
        raise UsageError(f"there is a patch '{identity}' already", fix="choose another name")
    number = 1 + max((int(found[0]) for patch in present if (found := NUMBER.match(patch.file.name))), default=0)
    try:
        version = load_as(folder / "edit.json", {"version": str})["version"]
    except ValueError as error:
        raise UsageError(
            f"{folder / 'edit.json'} cannot be read", why=str(error), fix=f"remove {folder}, then edit anew"
        ) from error
    return Patch(
        id=identity,
        project=recipe.series,
        file=catalog.root / "patches" / recipe.series / f"{number:04d}-{name}.patch",
        sha256="",
        versions=f"=={version}",
        reason=reason,
        upstream="not reported yet",
        retire_when="upstream takes it",
    )


def _header(patch: Patch, name: str) -> str:
    return f"Subject: {name.replace('-', ' ')}\n\n{patch.reason}\n\nUpstream: {patch.upstream}\n---\n"


def _prove(workshop: Workshop, catalog: Catalog, wanted: Release, names: tuple[str, ...]) -> Proof:
    try:
        with workshop.scratch("prove") as folder:
            _patched(workshop, catalog, wanted, folder / "tree")
    except DiskError:
        raise
    except HostError as error:
        return Proof(release=wanted, patches=names, trouble=error)
    return Proof(release=wanted, patches=names)


def _patched(workshop: Workshop, catalog: Catalog, wanted: Release, folder: Path) -> Path:
    tree = lay_out(workshop, wanted, folder)
    for patch in _in_range(catalog, wanted):
        patches.apply(patch, tree)
    return tree


def _in_range(catalog: Catalog, wanted: Release) -> tuple[Patch, ...]:
    series = wanted.recipe.series
    return tuple(
        patch
        for patch in catalog.patches.get(series, ())
        if constraints.holds({series: patch.versions}, {series: wanted.version})
        and (not patch.sources or wanted.source.kind in patch.sources)
    )


def _demand_text_alone(base: Path, tree: Path) -> None:
    """Demand that no link was edited, and no file made a program or none.

    Raises:
        PatchError: one was.
    """
    before, after = _kinds(base), _kinds(tree)
    changed = {name for name, kind in after.items() if kind != before.get(name, "a file")}
    changed |= {name for name in before.keys() - after.keys() if before[name].startswith("a link")}
    if changed:
        raise PatchError(
            "what was edited is not what a patch can say: links, or which files are programs",
            why=", ".join(sorted(changed)),
            fix="undo that, then save again: a patch changes text alone",
        )


def _kinds(root: Path) -> dict[str, str]:
    """Return what each file and link of a tree is besides its text."""
    return {
        path.relative_to(root).as_posix(): f"a link to {path.readlink()}"
        if path.is_symlink()
        else "a program"
        if path.stat().st_mode & stat.S_IXUSR
        else "a file"
        for path in root.rglob("*")
        if (path.is_symlink() or path.is_file()) and "__pycache__" not in path.parts
    }


def _tree_diff(base: Path, tree: Path) -> Iterator[str]:
    for name in sorted(_files(base) | _files(tree)):
        old, new = _lines(base / name), _lines(tree / name)
        if old != new:
            yield f"diff --git a/{name} b/{name}\n"
            yield from (
                ["new file mode 100644\n"] if old is None else ["deleted file mode 100644\n"] if new is None else []
            )
            sides = ("/dev/null" if old is None else f"a/{name}", "/dev/null" if new is None else f"b/{name}")
            for line in difflib.unified_diff(old or [], new or [], *sides):
                yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _files(root: Path) -> set[str]:
    """Return the files of a tree, without what Python writes beside them where it runs them."""
    paths = {path.relative_to(root) for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts}


def _lines(path: Path) -> list[str] | None:
    if not path.is_file() or path.is_symlink():
        return None
    return StringIO(path.read_bytes().decode("utf-8", "surrogateescape")).readlines()


def _append(series: Path, patch: Patch) -> None:
    text = series.read_text(encoding="utf-8") if series.exists() else f"project = {json.dumps(patch.project)}\n"
    entry = {
        "file": patch.file.name,
        "id": patch.id,
        "versions": patch.versions,
        "reason": patch.reason,
        "upstream": patch.upstream,
        "retire_when": patch.retire_when,
        "sha256": file_digest(patch.file),
    }
    lines = "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in entry.items())
    write_atomically(series, f"{text.rstrip()}\n\n[[patch]]\n{lines}")
