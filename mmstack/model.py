"""What things are: frozen values that the rest of the engine passes along.

No behaviour beyond what a value can say of itself, and no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SourceKind = Literal["wheel", "sdist", "path", "git", "archive", "distro"]
WheelKind = Literal["platform", "pure"]
EMPTY: Mapping[str, str] = MappingProxyType({})


class StepKind(str, Enum):
    """What a step of a plan does, in the order in which a layer passes through them."""

    FETCH = "fetch"
    SOURCE = "source"
    ENV = "env"
    BUILD = "build"
    GATE = "gate"
    INSTALL = "install"
    VERIFY = "verify"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Where this project, its state and its results live."""

    root: Path
    state: Path
    dist: Path


@dataclass(frozen=True, kw_only=True)
class FilePin:
    """One file of a package index, by name and digest (hex sha256).

    `variant` names the flavour of a release where it has several: its requirements are
    those of the lock's set `run-<variant>` besides the common ones.
    """

    filename: str
    sha256: str
    variant: str = ""


@dataclass(frozen=True, kw_only=True)
class LockedRequirement:
    """One distribution at one version, with the digests of all files that may serve it."""

    name: str
    version: str
    sha256: tuple[str, ...]
    marker: str = ""

    def line(self) -> str:
        """Return it as one line of a hash-pinned requirements file."""
        marker = f" ; {self.marker}" if self.marker else ""
        hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in self.sha256)
        return f"{self.name}=={self.version}{marker}{hashes}"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a layer's files come from.

    `files` holds the candidates of an index source in order of preference (a wheel layer
    may prefer one variant of a release to another); `path` the tree of a path source.
    """

    kind: SourceKind
    project: str
    version: str
    files: tuple[FilePin, ...] = ()
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Patch:
    """One change to an upstream tree, with the reason why it is still here.

    `versions` is the range of the project's versions, `when` the ranges of other
    distributions (`python` among them) under which it is applied.
    """

    id: str
    project: str
    file: Path
    sha256: str
    versions: str
    reason: str
    upstream: str
    retire_when: str
    when: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A build option of a layer that a user may set with `--flag LAYER.NAME=VALUE`."""

    name: str
    default: str
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """What a layer's wheel must be before it may enter the store.

    Attributes:
        wheel: `platform` demands this interpreter's own tag, `pure` demands `py3-none-any`.
        top_level: the names that may stand at the top of the wheel, dist-info apart.
        extensions: file patterns, each of which at least one compiled module must match.
        requires: distributions that the wheel's metadata must name.
        rpath: run paths that a compiled module may carry.
    """

    wheel: WheelKind
    top_level: tuple[str, ...]
    extensions: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CMakeProject:
    """A CMakeLists.txt of a layer's own, compiled before its wheel is made, where its flags are those of `when`."""

    file: str
    when: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A combination that is known not to work.

    `when` gives version ranges by name: layers, `python`, and the compiler by its family
    (`gcc`, `clang`); it holds when every range does. `fix` says what to do.
    """

    id: str
    when: Mapping[str, str]
    why: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class RecipeData:
    """All that data can say about how a layer is made: `pipelines/<layer>/recipe.toml`.

    `needs` are the layers that must be below it, `against` those of them that it is built
    against: their wheels are in its build environment and their keys in its key.
    """

    name: str
    summary: str
    project: str
    modules: tuple[str, ...]
    needs: tuple[str, ...]
    against: tuple[str, ...]
    compiles: bool
    memory_per_job: int
    build_requires: tuple[str, ...]
    run_requires: tuple[str, ...]
    variants: Mapping[str, tuple[str, ...]]
    verify_requires: tuple[str, ...]
    environment: Mapping[str, str]
    conflicts: tuple[Conflict, ...]
    flags: tuple[Flag, ...]
    gates: GateRules
    releases: Mapping[str, Mapping[SourceKind, tuple[FilePin, ...]]]
    folder: Path
    digest: str
    suite_digest: str
    cmake: CMakeProject | None = None


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """Which release of a layer a stack takes, and how."""

    name: str
    version: str
    source: SourceKind
    flags: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One tested combination: `stacks/<name>.toml`.

    `python` lists minor versions in order of preference; `cuda` is `cpu` or `X.Y`; `expect`
    is handed to the verification suites as it stands.
    """

    name: str
    summary: str
    python: tuple[str, ...]
    cuda: str
    layers: tuple[LayerChoice, ...]
    expect: Mapping[str, Mapping[str, str]]
    file: Path


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The resolved requirements of a stack, by set: `run`, `run-<variant>`, `verify`, `build-<layer>`.

    `inputs` is the digest of what they were resolved from.
    """

    sets: Mapping[str, tuple[LockedRequirement, ...]]
    inputs: str


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python that a stack may be built for; `tag` is its ABI, `platform` its wheel platform."""

    path: Path
    version: str
    tag: str
    platform: str
    markers: Mapping[str, str]
    tags: tuple[str, ...]

    @property
    def minor(self) -> str:
        """Return `3.11` for `3.11.7`."""
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """The host compilers of a build: `version` is what the C++ compiler says of itself."""

    cc: Path
    cxx: Path
    version: str


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One visible GPU; `capability` is `9.0` and the like."""

    name: str
    capability: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class Host:
    """Facts about this machine; sizes in bytes. `notes` says why a fact is wanting, by its name."""

    system: str
    machine: str
    cores: int
    memory: int
    disk_free: int
    pythons: tuple[Interpreter, ...]
    compiler: Compiler | None
    gpus: tuple[Gpu, ...]
    uv: str
    notes: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for, options already read but not yet checked against the catalog."""

    stack: str = ""
    cuda: str = ""
    python: str = ""
    jobs: int = 0
    sources: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    flags: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    without: tuple[str, ...] = ()
    arch: tuple[str, ...] = ()
    stop_after: str = ""
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """One layer of a plan, everything decided.

    `chosen` is the one file that an index source comes from; `key` covers all that can
    change the artifact; `work_key` names the folder that it is built in, which a path
    source keeps from one edit to the next.
    """

    recipe: RecipeData
    version: str
    source: Source
    chosen: FilePin | None
    patches: tuple[Patch, ...]
    flags: Mapping[str, str]
    environment: Mapping[str, str]
    build_requires: tuple[LockedRequirement, ...]
    key: str
    work_key: str
    verify_key: str
    reproducible: bool

    @property
    def name(self) -> str:
        """Return the layer's name."""
        return self.recipe.name


@dataclass(frozen=True, kw_only=True)
class Step:
    """One node of a plan's graph. `id` is `build mmx`; `needs` are the ids it waits for."""

    kind: StepKind
    layer: str
    needs: tuple[str, ...]
    key: str
    title: str

    @property
    def id(self) -> str:
        """Return the step's name, unique in its plan."""
        return f"{self.kind} {self.layer}".strip()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be done, decided before anything is: layers bottom-up and the graph of steps."""

    stack: Stack
    interpreter: Interpreter
    compiler: Compiler | None
    jobs: int
    layers: tuple[LayerPlan, ...]
    run_requires: tuple[LockedRequirement, ...]
    verify_requires: tuple[LockedRequirement, ...]
    steps: tuple[Step, ...]
    key: str
    warnings: tuple[str, ...] = ()

    def layer(self, name: str) -> LayerPlan:
        """Return the layer of that name."""
        return next(layer for layer in self.layers if layer.name == name)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A wheel in the store. `size` in bytes, `seconds` the build's wall time."""

    layer: str
    key: str
    path: Path
    sha256: str
    size: int
    seconds: float = 0.0
    gates: tuple[str, ...] = ()
    reproducible: bool = True

    @property
    def filename(self) -> str:
        """Return the wheel's file name."""
        return self.path.name


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One check of a verification suite; `not run` carries its reason in `detail`."""

    name: str
    outcome: Literal["passed", "failed", "not run"]
    seconds: float
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a layer's suite found."""

    layer: str
    key: str
    checks: tuple[CheckResult, ...]
    seconds: float

    def count(self, outcome: str) -> int:
        """Return how many checks ended so."""
        return sum(check.outcome == outcome for check in self.checks)

    @property
    def passed(self) -> bool:
        """Return whether something ran and nothing failed."""
        return self.count("passed") > 0 and self.count("failed") == 0
