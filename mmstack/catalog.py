"""Reads stacks, recipes, patch series and locks: all that the repository says of what can be built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar, get_args
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from mmstack import tables
from mmstack.errors import CatalogError, UsageError, did_you_mean
from mmstack.keys import digest, file_digest, files_digest
from mmstack.lock import read_lock
from mmstack.model import (
    CMakeProject,
    Conflict,
    Cost,
    CudaBuild,
    CudaRelease,
    CudaSupport,
    DistroPin,
    FilePin,
    Flag,
    GateRules,
    GitPin,
    LayerChoice,
    Part,
    Patch,
    Pins,
    RecipeData,
    SourceKind,
    Stack,
    WheelKind,
)
from mmstack.sources.places import redact
from mmstack.toolchains.architectures import parse_architecture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mmstack.model import Architecture, Lock
    from mmstack.tables import Table

T = TypeVar("T")
MEBIBYTE = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
TWO_NUMBERS = re.compile(r"\d{1,4}\.\d{1,4}")
BARE_NAME = re.compile(r"[A-Za-z0-9_-]+")
PRESET = "PRESET"
OF_EDITORS = re.compile(r"[.#].*|.*~|4913")  # what they write beside a file that is open
SHARED = ("conftest.py", "pytest.ini")  # of all suites, beside the layers' folders


@dataclass(frozen=True)
class Catalog:
    """The repository's stacks, layers, patches and CUDA versions, read when first asked for."""

    root: Path

    @property
    def cudas(self) -> set[str]:
        """Return the CUDA versions, `cpu` among them, that there is a stack for."""
        return {stack.cuda for stack in self.stacks.values()}

    @cached_property
    def stacks(self) -> Mapping[str, Stack]:
        """Return all stacks by name."""
        stacks = {file.stem: read_stack(file) for file in sorted(self.root.glob("stacks/*.toml"))}
        for stack in stacks.values():
            _check_stack(stack, self.recipes)
        return stacks

    @cached_property
    def recipes(self) -> Mapping[str, RecipeData]:
        """Return all layers by name."""
        return {file.parent.name: read_recipe(file) for file in sorted(self.root.glob("pipelines/*/recipe.toml"))}

    @cached_property
    def patches(self) -> Mapping[str, tuple[Patch, ...]]:
        """Return the patch series by project."""
        series = dict(read_series(file) for file in sorted(self.root.glob("patches/*/series.toml")))
        projects = {recipe.series for recipe in self.recipes.values()}
        for project in series:
            if project not in projects:
                raise CatalogError(
                    f"patches/{project}/series.toml is for a project that no recipe has",
                    why=did_you_mean(project, projects),
                    fix="correct the name of the folder and in the file",
                )
        return series

    @cached_property
    def toolkits(self) -> Mapping[str, CudaRelease]:
        """Return what is known of CUDA's versions, oldest first."""
        releases = (read_toolkit(file) for file in self.root.glob("toolkits/*.toml"))
        return {release.version: release for release in sorted(releases, key=lambda item: Version(item.version))}

    def toolkit(self, version: str) -> CudaRelease:
        """Return what is known of a CUDA version.

        Raises:
            CatalogError: nothing is.
        """
        if version not in self.toolkits:
            raise CatalogError(
                f"nothing is known of CUDA {version}",
                why=f"known: {', '.join(self.toolkits) or 'none'}",
                fix=f"add toolkits/{version}.toml",
            )
        return self.toolkits[version]

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

    @cached_property
    def _locks(self) -> dict[Path, Lock]:
        return {}

    def lock(self, stack: Stack) -> Lock:
        """Return the lock that stands beside a stack's file."""
        file = lock_file(stack)
        if file not in self._locks:
            self._locks[file] = read_lock(file)
        return self._locks[file]


def lock_file(stack: Stack) -> Path:
    """Return where a stack's lock is."""
    return stack.file.with_suffix(".lock")


def read_stack(file: Path) -> Stack:
    """Read `stacks/<name>.toml`."""
    table = tables.load(file).only("summary", "python", "cuda", "arch", "constraints", "layers", "expect")
    pythons, cuda = table.texts("python"), table.text("cuda")
    if not pythons or not all(TWO_NUMBERS.fullmatch(minor) for minor in pythons):
        raise table.wrong("python", "must be a list of Pythons, best first", fix='write e.g. ["3.11", "3.12"]')
    if cuda != "cpu" and not TWO_NUMBERS.fullmatch(cuda):
        raise table.wrong("cuda", "must be cpu or a version X.Y", fix='write e.g. "12.8"')
    architectures = _architectures(table, "arch")
    if bool(architectures) != (cuda != "cpu"):
        raise table.wrong("arch", "must list GPU architectures, and only where cuda is a version", fix='e.g. ["9.0"]')
    layers = tuple(_layer_choice(layer) for layer in table.tables("layers"))
    if not layers or len({layer.name for layer in layers}) < len(layers):
        raise table.wrong("layers", "must list layers, each once")
    expect = table.table("expect").only(*(layer.name for layer in layers))
    return Stack(
        name=file.stem,
        summary=table.text("summary"),
        python=pythons,
        cuda=cuda,
        layers=layers,
        expect={name: expect.table(name).strings() for name in expect.values},
        file=file,
        architectures=architectures,
        constraints=_requirements(table, "constraints"),
    )


def read_toolkit(file: Path) -> CudaRelease:
    """Read `toolkits/X.Y.toml`."""
    table = tables.load(file).only("gcc", "clang", "glibc", "driver", "architectures", "wheels", "redist")
    if not TWO_NUMBERS.fullmatch(file.stem):
        raise CatalogError(f"{file} is not named by a CUDA version", fix="name it X.Y.toml, e.g. 13.0.toml")
    architectures = _architectures(table, "architectures")
    if not architectures:
        raise table.wrong("architectures", "must list what its nvcc compiles for", fix='e.g. ["9.0"]')
    redist = table.table("redist").only("manifest", "sha256", "components")
    return CudaRelease(
        version=file.stem,
        gcc=_range(table, "gcc"),
        clang=_range(table, "clang"),
        glibc=_range(table, "glibc", ""),
        driver=_range(table, "driver"),
        architectures=architectures,
        wheels=_requirements(table.table("wheels").only("requires"), "requires"),
        manifest=FilePin(filename=_filename(redist, "manifest"), sha256=_sha256(redist)) if redist.values else None,
        components=redist.texts("components") if redist.values else (),
        file=file,
    )


def _architectures(table: Table, name: str) -> tuple[Architecture, ...]:
    words = table.texts(name, ())
    return tuple(
        _parsed(table, name, parse_architecture, word, "a list of architectures", "12.0+PTX") for word in words
    )


def _check_stack(stack: Stack, recipes: Mapping[str, RecipeData]) -> None:
    """Refuse layers, and flags of layers, that no recipe has."""
    for layer in stack.layers:
        if layer.name not in recipes:
            raise CatalogError(
                f"{stack.file}: there is no layer '{layer.name}'",
                why=did_you_mean(layer.name, recipes),
                fix="correct the name, or add pipelines/NAME/recipe.toml",
            )
        flags = choices_of_flags(recipes[layer.name])
        ranges = {flag.name: flag.versions for flag in recipes[layer.name].flags}
        for name, value in layer.flags.items():
            if name not in flags:
                raise CatalogError(
                    f"{stack.file}: layer '{layer.name}' has no flag '{name}'",
                    why=did_you_mean(name, flags),
                    fix="correct or remove it",
                )
            if not SpecifierSet(ranges.get(name, ""), prereleases=True).contains(layer.version):
                raise CatalogError(
                    f"{stack.file}: {layer.name} {layer.version} has no flag '{name}'",
                    why=f"it is one of {layer.name} {ranges[name]}",
                    fix="remove it",
                )
            if flags[name] and value not in flags[name]:
                raise CatalogError(
                    f"{stack.file}: '{value}' is no value of {layer.name}.{name}",
                    why=did_you_mean(value, flags[name]),
                    fix="choose one of these",
                )


def choices_of_flags(recipe: RecipeData) -> dict[str, tuple[str, ...]]:
    """Return what each flag of a layer may be set to, the choice of a preset among them; nothing means anything."""
    presets = {PRESET: tuple(recipe.presets)} if recipe.presets else {}
    return presets | {flag.name: flag.choices for flag in recipe.flags}


def read_recipe(file: Path) -> RecipeData:
    """Read `pipelines/<layer>/recipe.toml`."""
    table = tables.load(file).only(
        "summary",
        "project",
        "patches",
        "modules",
        "needs",
        "build",
        "run",
        "verify",
        "flags",
        "presets",
        "gates",
        "releases",
        "conflicts",
    )
    build = table.table("build").only(
        "against", "compiles", "memory_per_job_mib", "requires", "also", "environment", "cmake", "cuda", "files"
    )
    run = table.table("run").only("requires", "variants")
    variants = run.table("variants")
    folder = file.parent
    needs, against = table.texts("needs", ()), build.texts("against", ())
    if not set(against) <= set(needs):
        raise build.wrong("against", "must name layers that the key 'needs' names as well")
    if bad := [name for name in variants.values if not BARE_NAME.fullmatch(name)]:
        raise variants.wrong(bad[0], "must be named by letters, digits, - and _ alone", fix="rename it")
    flags = tuple(_flag(name, table.table("flags").table(name)) for name in table.table("flags").values)
    return RecipeData(
        name=folder.name,
        summary=table.text("summary"),
        project=table.text("project"),
        series=table.text("patches", table.text("project")),
        modules=table.texts("modules"),
        needs=needs,
        against=against,
        compiles=build.get("compiles", bool, default=False),
        memory_per_job=_memory(build),
        build_requires=_requirements(build, "requires"),
        run_requires=_requirements(run, "requires"),
        variants={name: _requirements(variants, name) for name in variants.values},
        verify_requires=_requirements(table.table("verify").only("requires"), "requires"),
        environment=build.table("environment").strings(),
        files=tuple(_beside(build, "files", name, folder) for name in build.texts("files", ())),
        cmake=_cmake(build, folder, flags) if "cmake" in build.values else None,
        cuda=_cuda(build.table("cuda")) if "cuda" in build.values else None,
        conflicts=tuple(_conflict(entry, flags) for entry in table.tables("conflicts")),
        flags=flags,
        gates=_gates(table.table("gates", required=True)),
        presets=_presets(table.table("presets"), flags),
        build_also=tuple(_also(entry) for entry in build.tables("also")),
        releases=_releases(table.tables("releases")),
        run_built={entry.text("version"): _requirements(entry, "requires") for entry in table.tables("releases")},
        costs={entry.text("version"): _cost(entry) for entry in table.tables("releases") if "cost" in entry.values},
        waived={entry.text("version"): entry.table("waived").strings() for entry in table.tables("releases")},
        support={
            entry.text("version"): _support(entry) for entry in table.tables("releases") if "cuda" in entry.values
        },
        folder=folder,
        digest=recipe_digest(folder),
        suite_digest=suite_digest(folder),
    )


def files_of(folder: Path) -> list[Path]:
    """Return the files of a recipe that can change what is built: pages and the weights of an estimate cannot."""
    files = [path for path in folder.iterdir() if path.is_file() and not OF_EDITORS.fullmatch(path.name)]
    return sorted(path for path in files if path.suffix != ".md" and path.name != "weights.json")


def recipe_digest(folder: Path) -> str:
    """Return the digest of a recipe."""
    return files_digest(folder, files_of(folder))


def suite_digest(folder: Path) -> str:
    """Return the digest of a layer's verification suite and what all suites share."""
    files = [
        path
        for path in (folder / "verify").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not OF_EDITORS.fullmatch(path.name)
    ]
    shared = [file_digest(path) if path.exists() else "" for path in (folder.parent / name for name in SHARED)]
    return digest([files_digest(folder, files), *shared])


def read_series(file: Path) -> tuple[str, tuple[Patch, ...]]:
    """Read `patches/<project>/series.toml`: the project's name and its patches in order."""
    table = tables.load(file).only("project", "patch")
    project = table.text("project")
    if project != file.parent.name:
        raise table.wrong("project", f"must be the folder's name, '{file.parent.name}'")
    return project, tuple(_patch(project, file.parent, entry) for entry in table.tables("patch"))


def _patch(project: str, folder: Path, table: Table) -> Patch:
    table.only("file", "id", "versions", "when", "sources", "reason", "upstream", "retire_when", "sha256")
    beside = {path.name: path for path in folder.iterdir() if path.is_file()}
    name = table.text("file")
    if name not in beside:
        raise CatalogError(
            f"{table.file}: key '{table.at('file')}': there is no '{name}' beside it",
            why=did_you_mean(name, [other for other in beside if other.endswith(".patch")]),
            fix="add or rename it",
        )
    file, expected = beside[name], _sha256(table)
    if (found := file_digest(file)) != expected:
        raise CatalogError(
            f"{file} is not the patch that {table.file.name} names",
            why=f"its sha256 is {found}, the series says {expected}",
            fix="restore the file, or write the new digest into the series",
        )
    return Patch(
        id=table.text("id"),
        project=project,
        file=file,
        sha256=expected,
        versions=_range(table, "versions"),
        reason=table.text("reason"),
        upstream=table.text("upstream"),
        retire_when=table.text("retire_when"),
        when=_ranges(table.table("when")),
        sources=tuple(_source_kind(table, "sources", kind) for kind in table.texts("sources", ())),
    )


def _parsed(table: Table, name: str, parse: Callable[[str], T], text: str, demand: str, example: str) -> T:
    """Return what a text means; every parser of versions and names has its own subclass of ValueError."""
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:
        raise table.wrong(name, f"must be {demand}", why=str(error), fix=f"write e.g. '{example}'") from error


def _range(table: Table, name: str, default: str | None = None) -> str:
    text = table.text(name, default)
    _parsed(table, name, SpecifierSet, text, "a version range", ">=2.14")
    return text


def _ranges(table: Table) -> dict[str, str]:
    return {name: _range(table, name) for name in table.values}


def _version(table: Table) -> str:
    text = table.text("version")
    _parsed(table, "version", Version, text, "a version", "2.13.0")
    return text


def _requirements(table: Table, name: str) -> tuple[str, ...]:
    lines = table.texts(name, ())
    for line in lines:
        _parsed(table, name, Requirement, line.replace("{version}", "0"), "a list of requirements", "numpy>=2,<3")
    return lines


def _sha256(table: Table) -> str:
    text = table.text("sha256")
    if not SHA256.fullmatch(text):
        raise table.wrong("sha256", "must be a sha256: 64 digits, 0-9 and a-f", fix="take it from the file itself")
    return text


def _source_kind(table: Table, name: str, text: str) -> SourceKind:
    for kind in get_args(SourceKind):
        if kind == text:
            return kind  # type: ignore[no-any-return]
    why = did_you_mean(text, get_args(SourceKind))
    raise table.wrong(name, f"names no kind of source: '{text}'", why=why)


def _layer_choice(table: Table) -> LayerChoice:
    table.only("name", "version", "source", "flags")
    source = _source_kind(table, "source", table.text("source"))
    if source in {"path", "installed"}:
        given = "path:DIR" if source == "path" else "installed --python PATH"
        raise table.wrong(
            "source",
            "must be pinned",
            why="it changes",
            fix=f"pin another kind here; `--source LAYER={given}` is for `build-stack`",
        )
    return LayerChoice(
        name=table.text("name"),
        version=_version(table),
        source=source,
        flags=table.table("flags").strings(),
    )


def _flag(name: str, table: Table) -> Flag:
    table.only("default", "choices", "help", "group", "versions")
    if name == PRESET:
        raise table.wrong("default", "belongs to a flag that cannot have this name", why="it chooses a preset")
    default, choices = table.text("default"), table.texts("choices", ())
    if choices and default not in choices:
        raise table.wrong("default", "must be one of the choices", why=did_you_mean(default, choices))
    return Flag(
        name=name,
        default=default,
        choices=choices,
        help=table.text("help"),
        group=table.text("group", ""),
        versions=_range(table, "versions", ""),
    )


def _presets(table: Table, flags: tuple[Flag, ...]) -> dict[str, dict[str, str]]:
    return {name: _flag_values(table.table(name), flags) for name in table.values}


def _flag_values(table: Table, flags: tuple[Flag, ...]) -> dict[str, str]:
    choices = {flag.name: flag.choices for flag in flags}
    values = table.only(*choices).strings()
    for name, value in values.items():
        if choices[name] and value not in choices[name]:
            raise table.wrong(name, "must be one of the flag's choices", why=did_you_mean(value, choices[name]))
    return values


def _also(table: Table) -> tuple[str, tuple[str, ...]]:
    table.only("versions", "requires")
    return _range(table, "versions"), _requirements(table, "requires")


def _cost(entry: Table) -> Cost:
    table = entry.table("cost").only("seconds", "seconds_per_architecture")
    return Cost(
        seconds=table.get("seconds", int), seconds_per_architecture=table.get("seconds_per_architecture", int, 0)
    )


def _cmake(build: Table, folder: Path, flags: tuple[Flag, ...]) -> CMakeProject:
    table = build.table("cmake").only("file", "command", "definitions", "folder", "target", "when", "versions")
    file, command = table.text("file", ""), table.texts("command", ())
    if bool(file) + bool(command) + ("definitions" in table.values) != 1:
        raise table.wrong("file", "must be there, or else 'command' or 'definitions' must", fix="give one of them")
    if file:
        _beside(table, "file", file, folder)
    tools = {canonicalize_name(Requirement(line).name) for line in build.texts("requires", ())}
    if missing := sorted({"cmake", "ninja"} - tools):
        raise build.wrong("requires", f"must name {' and '.join(missing)}, by which the CMake project is built")
    return CMakeProject(
        when=_flag_values(table.table("when"), flags),
        file=file,
        command=command,
        definitions=table.table("definitions").strings(),
        folder="" if file else _inside(table, "folder"),
        target=table.text("target", ""),
        versions=_range(table, "versions", ""),
    )


def _beside(table: Table, key: str, name: str, folder: Path) -> str:
    beside = [path.name for path in files_of(folder)]  # another one could change, and no key would
    if name not in beside:
        raise table.wrong(key, "must be a file of the recipe", why=did_you_mean(name, beside))
    return name


def _memory(table: Table) -> int:
    memory = table.get("memory_per_job_mib", int, 1024)
    if memory < 1:
        raise table.wrong("memory_per_job_mib", "must be at least 1")
    return memory * MEBIBYTE


def _cuda(table: Table) -> CudaBuild:
    table.only("memory_per_job_mib", "local_version", "units")
    if (units := table.get("units", int, 0)) < 0:
        raise table.wrong("units", "must be at least 0")
    return CudaBuild(memory_per_job=_memory(table), local_version=table.text("local_version", ""), units=units)


def _support(entry: Table) -> CudaSupport:
    table = entry.table("cuda").only("version", "architectures")
    if not TWO_NUMBERS.fullmatch(version := table.text("version")):
        raise table.wrong("version", "must be a version X.Y", fix='write e.g. "13.0"')
    return CudaSupport(version=version, architectures=_architectures(table, "architectures"))


def _conflict(table: Table, flags: tuple[Flag, ...]) -> Conflict:
    table.only("id", "when", "flags", "why", "fix", "warns")
    when = _ranges(table.table("when", required=True))
    if not when:
        raise table.wrong("when", "must name at least one version", fix="a conflict of nothing would hold everywhere")
    return Conflict(
        id=table.text("id"),
        when=when,
        why=table.text("why"),
        fix=table.text("fix"),
        flags=_flag_values(table.table("flags"), flags),
        warns=table.get("warns", bool, default=False),
    )


def _gates(table: Table) -> GateRules:
    table.only("wheel", "top_level", "extensions", "requires", "rpath", "gpu_modules")
    return GateRules(
        wheel=_wheel_kind(table),
        top_level=table.texts("top_level"),
        extensions=table.texts("extensions", ()),
        requires=table.texts("requires", ()),
        rpath=table.texts("rpath", ()),
        gpu_modules=table.texts("gpu_modules", ()),
    )


def _wheel_kind(table: Table) -> WheelKind:
    text = table.text("wheel")
    for kind in get_args(WheelKind):
        if kind == text:
            return kind  # type: ignore[no-any-return]
    raise table.wrong("wheel", f"must be one of {', '.join(get_args(WheelKind))}")


NOT_KINDS = ("version", "cuda", "waived", "requires", "cost")


def _releases(entries: tuple[Table, ...]) -> dict[str, dict[SourceKind, Pins]]:
    releases: dict[str, dict[SourceKind, Pins]] = {}
    for entry in entries:
        entry.only("sdist", "wheel", "git", "archive", "distro", *NOT_KINDS)
        if _version(entry) in releases:
            raise entry.wrong("version", "must be another than those before", fix="put its files into one entry")
        kinds = releases.setdefault(entry.text("version"), {})
        for kind in sorted(set(entry.values).difference(NOT_KINDS)):
            kinds[_source_kind(entry, kind, kind)] = _pins(entry, kind)
    return releases


def _pins(entry: Table, kind: str) -> Pins:
    if kind == "git":
        return Pins(git=_git(entry.table(kind)))
    if kind == "archive":
        table = entry.table(kind).only("filename", "sha256", "urls")
        return Pins(files=(_file_pin(table),), urls=_urls(table))
    if kind == "distro":
        table = entry.table(kind)
        return Pins(files=(_file_pin(table),), distro=_distro(table))
    if not entry.get(kind, list):
        raise entry.wrong(kind, "must list at least one file")
    return Pins(files=tuple(_index_file(pin, kind) for pin in entry.tables(kind)))


def _git(table: Table) -> GitPin:
    table.only("url", "tag", "commit", "submodules")
    if not COMMIT.fullmatch(commit := table.text("commit")):
        raise table.wrong("commit", "must be a commit's whole name: 40 digits, 0-9 and a-f", fix="`git rev-parse TAG`")
    return GitPin(
        url=table.text("url"), tag=table.text("tag"), commit=commit, submodules=table.get("submodules", int, 0)
    )


def _distro(table: Table) -> DistroPin:
    table.only("package", "version", "codename", "filename", "sha256", "libraries", "folders", "parts")
    return DistroPin(
        package=table.text("package"),
        version=table.text("version"),
        codename=table.text("codename"),
        parts=tuple(_part(part) for part in table.tables("parts")),
        libraries=table.texts("libraries", ()),
        folders=table.texts("folders", ()),
    )


def _part(table: Table) -> Part:
    table.only("path", "project", "filename", "sha256", "urls", "folder")
    project, urls = table.text("project", ""), _urls(table)
    if bool(project) == bool(urls):
        raise table.wrong("project", "must be there, or else 'urls' must", fix="give one of both")
    return Part(
        path=_inside(table, "path"),
        file=_file_pin(table),
        folder=_inside(table, "folder") if "folder" in table.values else "",
        project=project,
        urls=urls,
    )


def _inside(table: Table, name: str) -> str:
    path = PurePosixPath(text := table.text(name))
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise table.wrong(name, "must be a folder below the tree", fix="write e.g. 'third_party/x'")
    return text


def _urls(table: Table) -> tuple[str, ...]:
    urls = table.texts("urls", ())
    for url in urls:
        if urlsplit(url).scheme not in {"https", "file"}:
            raise table.wrong("urls", "must be addresses by https", why=f"it names {redact(url)}")
    return urls


def _index_file(table: Table, kind: str) -> FilePin:
    table.only("filename", "sha256", "variant")
    pin = _file_pin(table)
    if kind == "wheel":
        _parsed(
            table, "filename", parse_wheel_filename, pin.filename, "the name of a wheel", "base-1.0-py3-none-any.whl"
        )
    return pin


def _file_pin(table: Table) -> FilePin:
    return FilePin(filename=_filename(table, "filename"), sha256=_sha256(table), variant=table.text("variant", ""))


def _filename(table: Table, key: str) -> str:
    name = table.text(key)
    if "/" in name or "\0" in name or name in {"", ".", ".."}:
        raise table.wrong(key, "must be the name of a file, not a path")
    return name
