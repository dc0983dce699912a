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

    from mmstack.recipes import BuildFacts

SourceKind = Literal["wheel", "sdist", "path", "git", "archive", "distro", "installed"]
WheelKind = Literal["platform", "library", "pure"]
ToolkitKind = Literal["system", "wheels", "redist"]
BUILT = "built"  # the variant of a release that is compiled here for the CPU
EARLIEST = 315_532_800  # 1980, in seconds since the epoch: no zip archive, so no wheel, can say that a file is older
EMPTY: Mapping[str, str] = MappingProxyType({})


class StepKind(str, Enum):
    """What a step of a plan does, in the order in which a layer passes through them."""

    FETCH = "fetch"
    SOURCE = "source"
    ENV = "env"
    CONFIGURE = "configure"
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
    """One file, by name and digest (hex sha256).

    `variant` names the flavour of a release where it has several: its requirements are
    those of the lock's set `run-<variant>` besides the common ones.
    """

    filename: str
    sha256: str
    variant: str = ""


@dataclass(frozen=True, kw_only=True)
class GitPin:
    """A commit of an upstream's repository; it names the commit of every submodule, and theirs of the nested ones.

    Attributes:
        url: where the upstream has it.
        tag: what the upstream calls the commit.
        commit: its 40 hex digits.
        submodules: how many it names itself, nested ones apart, as far as is known; 0 where it is not.
    """

    url: str
    tag: str
    commit: str
    submodules: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """A folder of another release that a source tree lacks: what a submodule would hold.

    Attributes:
        path: where it belongs in the tree.
        project: what a package index calls the release that has it; nothing where `urls` say where the file is.
        folder: where it is in that release's archive, empty where it is all of it.
    """

    path: str
    file: FilePin
    folder: str
    project: str = ""
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DistroPin:
    """A distribution's source package, and what of the distribution stands in for submodules that it lacks.

    Attributes:
        package: its name, and `version` its version there.
        codename: of the distribution's release, as /etc/os-release has it.
        libraries: the packages that are built against; a lock pins them and what they need.
        folders: of these packages' files, where headers and libraries are besides the usual places.
    """

    package: str
    version: str
    codename: str
    parts: tuple[Part, ...] = ()
    libraries: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DistroPackage:
    """A binary package of a distribution at one version, by digest (hex sha256)."""

    name: str
    version: str
    architecture: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Pins:
    """What a release is taken from by one kind of source.

    Attributes:
        files: the candidates of an index source; the one file of an archive or of a distribution's package.
        urls: where an archive is.
    """

    files: tuple[FilePin, ...] = ()
    urls: tuple[str, ...] = ()
    git: GitPin | None = None
    distro: DistroPin | None = None


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


@dataclass(frozen=True, kw_only=True, order=True)
class Architecture:
    """A compute capability to compile for: `12.0`, `9.0a`, `12.0+PTX`.

    `feature` is the letter of code for that very GPU (`a`) or its family (`f`); `ptx` adds code that
    later GPUs can still translate. Source: "Virtual Architecture Feature List" of
    https://docs.nvidia.com/cuda/cuda-compiler-driver-nvcc/.
    """

    major: int
    minor: int
    feature: str = ""
    ptx: bool = False

    @property
    def capability(self) -> str:
        """Return `12.0` or `9.0a`: what nvcc's tables are held against."""
        return f"{self.major}.{self.minor}{self.feature}"

    @property
    def number(self) -> str:
        """Return `120` or `90a`, as in `sm_120`."""
        return f"{self.major}{self.minor}{self.feature}"

    def __str__(self) -> str:
        return f"{self.capability}+PTX" if self.ptx else self.capability


@dataclass(frozen=True, kw_only=True)
class CudaRelease:
    """What is known of one CUDA version: `toolkits/X.Y.toml`.

    Attributes:
        version: `13.0`.
        gcc: range of the g++ versions that its nvcc accepts; `clang` likewise.
        glibc: range of the C libraries whose headers its own get on with.
        driver: range of the Linux drivers on which its programs run.
        architectures: the compute capabilities that its nvcc compiles for.
        wheels: requirements that make a whole toolkit out of a package index, where they do.
        manifest: the list of its redistributable archives.
        components: which of these make a toolkit.
    """

    version: str
    gcc: str
    clang: str
    glibc: str = ""
    driver: str
    architectures: tuple[Architecture, ...]
    wheels: tuple[str, ...]
    manifest: FilePin | None
    components: tuple[str, ...]
    file: Path


@dataclass(frozen=True, kw_only=True)
class Toolkit:
    """The CUDA toolkit of a plan: which it is, and where it is or what it will be made of.

    Attributes:
        version: `13.0`, as its nvcc says or as it will.
        origin: where it comes from, in words for the plan.
        identity: what distinguishes it from others of its version: goes into keys.
        home: the folder of a system toolkit.
        requirements: the wheels that it is made of.
        manifest: the list of archives that it is made of, and `base` the address they are at.
    """

    kind: ToolkitKind
    version: str
    origin: str
    identity: str
    home: Path | None = None
    requirements: tuple[LockedRequirement, ...] = ()
    manifest: FilePin | None = None
    base: str = ""
    components: tuple[str, ...] = ()


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
    urls: tuple[str, ...] = ()
    git: GitPin | None = None
    distro: DistroPin | None = None


@dataclass(frozen=True, kw_only=True)
class Patch:
    """One change to an upstream tree, with the reason why it is still here.

    `versions` is the range of the project's versions, `when` the ranges of other
    distributions (`python` among them) under which it is applied, `sources` the kinds of source, if not all.
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
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A build option of a layer that a user may set with `--flag LAYER.NAME=VALUE`.

    `group` is what it is listed under, `versions` the range of releases that have it, all if empty.
    """

    name: str
    default: str
    choices: tuple[str, ...]
    help: str
    group: str = ""
    versions: str = ""


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """What a layer's wheel must be before it may enter the store.

    Attributes:
        wheel: `platform` demands this interpreter's own tag, `library` this machine's for any Python,
            `pure` demands `py3-none-any`.
        top_level: the names that may stand at the top of the wheel, dist-info apart.
        extensions: file patterns, each of which at least one compiled module must match.
        requires: distributions that the wheel's metadata must name.
        rpath: patterns of the run paths that a compiled module may carry.
        gpu_modules: file patterns of modules that must hold code for each architecture, while the project itself
            says which kernels are for which; where there are none, those of `extensions` hold every kernel for each.
    """

    wheel: WheelKind
    top_level: tuple[str, ...]
    extensions: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    gpu_modules: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CMakeProject:
    """What CMake configures and ninja compiles before a layer's wheel is made, so that it can be stopped and resumed.

    Attributes:
        when: the flags under which it is so.
        file: a CMakeLists.txt beside the recipe.
        command: where there is none, what the tree's own Python program configures by, run in the tree.
        definitions: where there is neither, what the tree's own CMakeLists.txt is told besides the layer's flags.
        folder: where the tree's own project is configured, below the tree.
        target: what is compiled, ninja's default if empty.
        versions: the range of releases that have it.
    """

    when: Mapping[str, str]
    file: str = ""
    command: tuple[str, ...] = ()
    definitions: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    folder: str = ""
    target: str = ""
    versions: str = ""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a release takes to compile, in seconds of one core: by itself, and for each GPU architecture besides."""

    seconds: int
    seconds_per_architecture: int = 0


@dataclass(frozen=True, kw_only=True)
class CudaBuild:
    """How a layer is compiled for GPUs: bytes of memory a job, and the local part of its wheel's version.

    `units` is how many files a CMake project of ours gives to nvcc, 0 where nobody says.

    In `local_version`, `{cuda}` is the toolkit's version and `{<layer>}` that of a layer, both without
    what comes after the minor version and `{cuda}` without its dot.
    """

    memory_per_job: int
    local_version: str
    units: int = 0


@dataclass(frozen=True, kw_only=True)
class CudaSupport:
    """What a released wheel was built with: CUDA `X.Y`, and the GPU architectures that it has code for."""

    version: str
    architectures: tuple[Architecture, ...]


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A layer that an existing Python holds: nothing of it is built, and others are built against it.

    Attributes:
        version: its release.
        digest: of its installed files.
        folders: where that Python imports from.
        support: what it was built with, None for one without CUDA.
    """

    version: str
    digest: str
    folders: tuple[Path, ...]
    support: CudaSupport | None


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A combination that is known not to work, or not known to.

    `when` gives version ranges by name: layers, `python`, what a layer requires to be built, the compiler by its
    family (`gcc`, `clang`), and `cuda` for what is compiled for GPUs; `flags` gives values of the layer's own. It
    holds when all of them do. `fix` says what to do. Where `warns`, the plan says so and goes on.
    """

    id: str
    when: Mapping[str, str]
    why: str
    fix: str
    flags: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    warns: bool = False


@dataclass(frozen=True, kw_only=True)
class RecipeData:
    """All that data can say about how a layer is made: `pipelines/<layer>/recipe.toml`.

    `needs` are the layers that must be below it, `against` those of them that it is built
    against: their wheels are in its build environment and their keys in its key. `waived` says by
    release which gates its prebuilt wheels are known to fail, and why that does no harm.

    Attributes:
        series: whose patches are applied: the project's own, where it says nothing else.
        files: what of the recipe's folder is laid over the patched tree.
        build_also: what a range of releases requires to be built besides `build_requires`.
        run_built: what a release requires to run where it is built here for the CPU.
        presets: values of flags, by the name of the choice.
        costs: what a release takes to compile.
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
    releases: Mapping[str, Mapping[SourceKind, Pins]]
    folder: Path
    digest: str
    suite_digest: str
    series: str = ""
    files: tuple[str, ...] = ()
    cmake: CMakeProject | None = None
    cuda: CudaBuild | None = None
    support: Mapping[str, CudaSupport] = field(default_factory=lambda: MappingProxyType({}))
    waived: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    build_also: tuple[tuple[str, tuple[str, ...]], ...] = ()
    run_built: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    presets: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    costs: Mapping[str, Cost] = field(default_factory=lambda: MappingProxyType({}))


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

    `python` lists minor versions in order of preference; `cuda` is `cpu` or `X.Y`, and
    `architectures` what is compiled for where the user does not say; `constraints` narrow what the
    recipes require; `expect` is handed to the verification suites as it stands.
    """

    name: str
    summary: str
    python: tuple[str, ...]
    cuda: str
    layers: tuple[LayerChoice, ...]
    expect: Mapping[str, Mapping[str, str]]
    file: Path
    architectures: tuple[Architecture, ...] = ()
    constraints: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LayerInputs:
    """What a layer of a stack is made of, before anything of it is fetched.

    Attributes:
        pins: what it is taken from, by name: the sha256 of each file, the commit of a repository.
        libraries: the distribution's packages that it is built against, as its recipe names them.
        recipe: the sha256 of each file of its recipe that can change what is built.
        patches: the sha256 of each patch that can be applied, in their order, and when it is.
        flags: as the stack sets them.
    """

    version: str
    source: str
    pins: Mapping[str, str]
    recipe: Mapping[str, str]
    libraries: tuple[str, ...] = ()
    patches: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    flags: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a stack is made of: all that its files, recipes and patches say of what goes into it.

    Attributes:
        manifest: the list of NVIDIA's archives, and `components` which of them make a CUDA toolkit.
        requires: what is asked for, by the lock's sets.
    """

    python: tuple[str, ...]
    cuda: str
    layers: Mapping[str, LayerInputs]
    requires: Mapping[str, tuple[str, ...]]
    architectures: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    manifest: FilePin | None = None
    components: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Lock:
    """What a stack is made of, and its resolved requirements, by set.

    The sets are `run`, `run-<variant>`, `verify`, `build-<layer>`, and for a CUDA stack `toolkit` and
    `cubins`: a toolkit made of wheels, and the program that reads compiled GPU code.

    Attributes:
        packages: what a layer is built against of its distribution, by layer.
        trees: digests (hex sha256) of source trees by `tree_name`: of each part by its folder, of the whole by `tree`.
    """

    sets: Mapping[str, tuple[LockedRequirement, ...]]
    inputs: Inputs
    packages: Mapping[str, tuple[DistroPackage, ...]] = field(default_factory=lambda: MappingProxyType({}))
    trees: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))


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
class Linker:
    """What a compiler links with: `default`, its own, or `mold` or `lld`, and what that says of itself."""

    kind: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """The host compilers of a build: `version` is what the C++ compiler says of itself, `linker` known once chosen."""

    cc: Path
    cxx: Path
    version: str
    linker: Linker | None = None


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One visible GPU; `capability` is `9.0` and the like."""

    name: str
    capability: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class Host:
    """Facts about this machine; sizes in bytes.

    `compiler` is the one that CC and CXX (`compiler_named`) or PATH name, `compilers` are all that
    are here, newest first; `gpu_choice` is what the user's variables say of which GPUs programs see;
    `glibc` is the C library's version, empty where it is another one; `notes` says why a fact is wanting, by its name.
    """

    cores: int
    memory: int
    disk_free: int
    pythons: tuple[Interpreter, ...]
    compiler: Compiler | None
    gpus: tuple[Gpu, ...]
    uv: str
    compilers: tuple[Compiler, ...] = ()
    compiler_named: bool = False
    gpu_choice: tuple[str, ...] = ()
    glibc: str = ""
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
    toolkit: str = ""
    index_only: bool = False
    linker: str = ""


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """How many files are compiled at once, of these how many by nvcc, and how many architectures by one nvcc.

    `nvcc` is 0 where nothing tells these apart: then all are taken for the heavier kind.
    """

    total: int
    nvcc: int = 0
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """One layer of a plan, everything decided.

    Attributes:
        chosen: the one file that an index source comes from.
        facts: what its recipe is told.
        build_requires: what stands beside it while it is built, or examined if it is prebuilt.
        key: covers all that can change the artifact.
        work_key: names the folder that it is built in, which a path source keeps from one edit to the next.
        local_version: what its wheel's version ends with.
        cuda: the CUDA version that it is of.
        expect: what its suite is told to expect.
        folder: the digest of the user's own folder that it is made from.
        variant: whose `run-<variant>` requirements it needs besides the common ones.
        packages: what of a distribution it is built against.
        tree: digests that its source tree must have, as a lock has them.
        seconds: an estimate of what it takes to compile, on one core; 0 where nothing is known.
        warnings: what is not known to work of it.
    """

    recipe: RecipeData
    version: str
    source: Source
    chosen: FilePin | None
    patches: tuple[Patch, ...]
    flags: Mapping[str, str]
    facts: BuildFacts
    environment: Mapping[str, str]
    build_requires: tuple[LockedRequirement, ...]
    key: str
    work_key: str
    verify_key: str
    reproducible: bool
    local_version: str = ""
    cuda: str = "cpu"
    expect: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    installed: Installed | None = None
    folder: str = ""
    variant: str = ""
    packages: tuple[DistroPackage, ...] = ()
    tree: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    seconds: int = 0
    jobs: Jobs = Jobs(total=1)
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the layer's name."""
        return self.recipe.name

    @property
    def for_gpus(self) -> bool:
        """Return whether it is compiled with a CUDA toolkit."""
        return self.facts.cuda != "cpu"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One node of a plan's graph. `id` is `build mmx`; `needs` are the ids it waits for.

    `heavy` are those that can keep all cores busy: compiling and verifying.
    """

    kind: StepKind
    layer: str
    needs: tuple[str, ...]
    key: str
    title: str
    heavy: bool = False

    @property
    def id(self) -> str:
        """Return the step's name, unique in its plan."""
        return f"{self.kind} {self.layer}".strip()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be done, decided before anything is: layers bottom-up and the graph of steps.

    `roomy` is whether a suite may run beside a compilation: where memory is enough for both.
    """

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
    toolkit: Toolkit | None = None
    architectures: tuple[Architecture, ...] = ()
    cubins: tuple[LockedRequirement, ...] = ()
    roomy: bool = False

    @property
    def made(self) -> tuple[LayerPlan, ...]:
        """Return the layers that there is a wheel of."""
        return tuple(layer for layer in self.layers if layer.installed is None)

    @property
    def beside(self) -> tuple[Path, ...]:
        """Return the folders that installed layers are imported from."""
        return tuple(folder for layer in self.layers if layer.installed for folder in layer.installed.folders)

    def layer(self, name: str) -> LayerPlan:
        """Return the layer of that name."""
        return next(layer for layer in self.layers if layer.name == name)


@dataclass(frozen=True, kw_only=True)
class GpuCode:
    """The kernels that a compiled module holds for one architecture, as `sm_90` code or `compute_90` PTX."""

    module: str
    target: str
    kernels: int


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
    gpu_code: tuple[GpuCode, ...] = ()

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
