"""Reads stacks, recipes, patch series and locks: all that the repository says of what can be built."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, get_args

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from mmstack import tables
from mmstack.errors import CatalogError, UsageError, did_you_mean
from mmstack.keys import digest, file_digest, files_digest
from mmstack.lock import read_lock
from mmstack.model import (
    Conflict,
    FilePin,
    Flag,
    GateRules,
    LayerChoice,
    Patch,
    RecipeData,
    SourceKind,
    Stack,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmstack.model import Lock
    from mmstack.tables import Table

MEBIBYTE = 1 << 20
HEX_DIGITS = set("0123456789abcdef")
SHA256_LENGTH = 64


@dataclass(frozen=True)
class Catalog:
    """The repository's stacks, layers and patches, read when first asked for."""

    root: Path

    @cached_property
    def stacks(self) -> Mapping[str, Stack]:
        """Return all stacks by name."""
        return {file.stem: read_stack(file) for file in sorted(self.root.glob("stacks/*.toml"))}

    @cached_property
    def recipes(self) -> Mapping[str, RecipeData]:
        """Return all layers by name."""
        return {file.parent.name: read_recipe(file) for file in sorted(self.root.glob("pipelines/*/recipe.toml"))}

    @cached_property
    def patches(self) -> Mapping[str, tuple[Patch, ...]]:
        """Return the patch series by project."""
        series = [read_series(file) for file in sorted(self.root.glob("patches/*/series.toml"))]
        return dict(series)

    def stack(self, name: str) -> Stack:
        """Return the stack of that name.

        Raises:
            UsageError: there is none.
        """
        if name not in self.stacks:
            raise UsageError(
                f"there is no stack '{name}'",
                why=did_you_mean(name, self.stacks),
                fix="choose one with `--stack NAME`, or add stacks/NAME.toml",
            )
        return self.stacks[name]

    def recipe(self, name: str) -> RecipeData:
        """Return the layer of that name.

        Raises:
            UsageError: there is none.
        """
        if name not in self.recipes:
            raise UsageError(
                f"there is no layer '{name}'",
                why=did_you_mean(name, self.recipes),
                fix="correct the name, or add pipelines/NAME/recipe.toml",
            )
        return self.recipes[name]

    def lock(self, stack: Stack) -> Lock:
        """Return the lock that stands beside a stack's file."""
        return read_lock(lock_file(stack))


def lock_file(stack: Stack) -> Path:
    """Return where a stack's lock is."""
    return stack.file.with_suffix(".lock")


def read_stack(file: Path) -> Stack:
    """Read `stacks/<name>.toml`."""
    table = tables.load(file).only("summary", "python", "cuda", "layers", "expect")
    expect = table.table("expect")
    return Stack(
        name=file.stem,
        summary=table.text("summary"),
        python=table.texts("python"),
        cuda=table.text("cuda"),
        layers=tuple(_layer_choice(layer) for layer in table.tables("layers")),
        expect={name: expect.table(name).strings() for name in expect.values},
        file=file,
    )


def read_recipe(file: Path) -> RecipeData:
    """Read `pipelines/<layer>/recipe.toml`."""
    table = tables.load(file).only(
        "summary", "project", "modules", "needs", "build", "run", "verify", "flags", "gates", "releases", "conflicts"
    )
    build = table.table("build").only("against", "compiles", "memory_per_job_mib", "requires", "environment")
    run = table.table("run").only("requires", "variants")
    variants = run.table("variants")
    folder = file.parent
    return RecipeData(
        name=folder.name,
        summary=table.text("summary"),
        project=table.text("project"),
        modules=table.texts("modules"),
        needs=table.texts("needs", ()),
        against=build.texts("against", ()),
        compiles=build.get("compiles", bool, default=False),
        memory_per_job=build.get("memory_per_job_mib", int, 1024) * MEBIBYTE,
        build_requires=build.texts("requires", ()),
        run_requires=run.texts("requires", ()),
        variants={name: variants.texts(name) for name in variants.values},
        verify_requires=table.table("verify").only("requires").texts("requires", ()),
        environment=build.table("environment").strings(),
        conflicts=tuple(_conflict(entry) for entry in table.tables("conflicts")),
        flags=tuple(_flag(name, table.table("flags").table(name)) for name in table.table("flags").values),
        gates=_gates(table.table("gates", required=True)),
        releases=_releases(table.tables("releases")),
        folder=folder,
        digest=files_digest(folder, [path for path in folder.iterdir() if path.is_file() and path.suffix != ".md"]),
        suite_digest=suite_digest(folder),
    )


def suite_digest(folder: Path) -> str:
    """Return the digest of a layer's verification suite and what all suites share."""
    shared = folder.parent / "conftest.py"
    files = [path for path in (folder / "verify").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return digest([files_digest(folder, files), file_digest(shared) if shared.exists() else ""])


def read_series(file: Path) -> tuple[str, tuple[Patch, ...]]:
    """Read `patches/<project>/series.toml`: the project's name and its patches in order."""
    table = tables.load(file).only("project", "patch")
    project = table.text("project")
    return project, tuple(_patch(project, file.parent, entry) for entry in table.tables("patch"))


def _patch(project: str, folder: Path, table: Table) -> Patch:
    table.only("file", "id", "versions", "when", "reason", "upstream", "retire_when", "sha256")
    file = folder / table.text("file")
    if not file.is_file() or file.parent != folder:
        raise CatalogError(f"{table.file}: patch file '{table.text('file')}' is not beside it", fix="add or rename it")
    expected = _sha256(table)
    if (found := file_digest(file)) != expected:
        raise CatalogError(
            f"{file} is not the patch that {table.file.name} names",
            why=f"its sha256 is {found}, the series says {expected}",
            fix="restore the file, or write the new digest into the series",
        )
    when = table.table("when").strings()
    for name, text in {**when, "versions": table.text("versions")}.items():
        _specifier(table, name, text)
    return Patch(
        id=table.text("id"),
        project=project,
        file=file,
        sha256=expected,
        versions=table.text("versions"),
        reason=table.text("reason"),
        upstream=table.text("upstream"),
        retire_when=table.text("retire_when"),
        when=when,
    )


def _specifier(table: Table, name: str, text: str) -> SpecifierSet:
    try:
        return SpecifierSet(text, prereleases=True)
    except InvalidSpecifier as error:
        raise CatalogError(
            f"{table.file}: '{name}' is no version range", why=str(error), fix="write e.g. '>=2.14'"
        ) from error


def _sha256(table: Table) -> str:
    text = table.text("sha256")
    if len(text) != SHA256_LENGTH or not HEX_DIGITS.issuperset(text):
        raise CatalogError(f"{table.file}: '{table.where}.sha256' is no sha256", why=f"it is {text!r}")
    return text


def _source_kind(table: Table, text: str) -> SourceKind:
    for kind in get_args(SourceKind):
        if kind == text:
            return kind  # type: ignore[no-any-return]
    raise CatalogError(f"{table.file}: no source kind '{text}'", why=did_you_mean(text, get_args(SourceKind)))


def _layer_choice(table: Table) -> LayerChoice:
    table.only("name", "version", "source", "flags")
    return LayerChoice(
        name=table.text("name"),
        version=table.text("version"),
        source=_source_kind(table, table.text("source")),
        flags=table.table("flags").strings(),
    )


def _flag(name: str, table: Table) -> Flag:
    table.only("default", "choices", "help")
    return Flag(name=name, default=table.text("default"), choices=table.texts("choices", ()), help=table.text("help"))


def _conflict(table: Table) -> Conflict:
    table.only("id", "when", "why", "fix")
    when = table.table("when", required=True).strings()
    for name, text in when.items():
        _specifier(table, name, text)
    return Conflict(id=table.text("id"), when=when, why=table.text("why"), fix=table.text("fix"))


def _gates(table: Table) -> GateRules:
    table.only("wheel", "top_level", "extensions", "requires", "rpath")
    wheel = table.text("wheel")
    if wheel not in {"platform", "pure"}:
        raise CatalogError(f"{table.file}: 'gates.wheel' must be platform or pure", why=f"it is {wheel!r}")
    return GateRules(
        wheel="pure" if wheel == "pure" else "platform",
        top_level=table.texts("top_level"),
        extensions=table.texts("extensions", ()),
        requires=table.texts("requires", ()),
        rpath=table.texts("rpath", ()),
    )


def _releases(entries: tuple[Table, ...]) -> dict[str, dict[SourceKind, tuple[FilePin, ...]]]:
    releases: dict[str, dict[SourceKind, tuple[FilePin, ...]]] = {}
    for entry in entries:
        entry.only("version", "sdist", "wheel")
        kinds = releases.setdefault(entry.text("version"), {})
        for kind in set(entry.values) - {"version"}:
            kinds[_source_kind(entry, kind)] = tuple(_file_pin(pin) for pin in entry.tables(kind))
    return releases


def _file_pin(table: Table) -> FilePin:
    table.only("filename", "sha256", "variant")
    return FilePin(filename=table.text("filename"), sha256=_sha256(table), variant=table.text("variant", ""))
