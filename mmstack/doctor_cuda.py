"""What a CUDA stack finds on this machine, and what mends it where it finds less: facts in, findings out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mmstack.doctor import Finding, missing, verdict
from mmstack.errors import ConstraintError, MmstackError
from mmstack.model import Toolkit
from mmstack.resolve import Findings, candidates, check_prebuilt, prebuilt, resolve
from mmstack.toolchains import architectures, compilers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mmstack.catalog import Catalog
    from mmstack.doctor import Family, Verdict
    from mmstack.errors import HostError
    from mmstack.model import (
        Architecture,
        Compiler,
        CudaRelease,
        CudaSupport,
        Gpu,
        Host,
        Installed,
        Interpreter,
        Plan,
        Request,
        Stack,
    )
    from mmstack.resolve import Selection

T = TypeVar("T")
# No driver before it knows these generations, whatever CUDA version a program is of. Source: the tables of
# https://docs.omniverse.nvidia.com/usd/latest/common/technical-requirements.html
BLACKWELL_DRIVER = ">=570"
BLACKWELL = ("10", "12")
INSTALL_COMPILER: Mapping[Family, str] = {
    "debian": "sudo apt-get install g++-{major}",
    "fedora": "Fedora: sudo dnf install gcc{major}-c++; Red Hat and its kin: sudo dnf install "
    "gcc-toolset-{major}-gcc-c++, then scl enable gcc-toolset-{major} bash",
    "macos": "build on Linux: there is no CUDA for macOS",
    "other": "install g++-{major} with its gcc-{major}",
}


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What was found for a CUDA stack; what could not be had is the error that says why.

    Attributes:
        interpreter: the Python that the plan takes.
        toolkits: all CUDA toolkits of this machine, by where they were found.
        toolkit: the one that the plan takes, None where nothing is compiled for GPUs.
        installed: the layers that an existing Python holds.
    """

    request: Request
    selection: Selection
    catalog: Catalog
    interpreter: Interpreter | MmstackError
    toolkits: Sequence[tuple[str, Toolkit | HostError]]
    toolkit: Toolkit | MmstackError | None
    installed: Mapping[str, Installed] | MmstackError

    @property
    def release(self) -> CudaRelease:
        """Return what is known of the CUDA version that is compiled with, or would be."""
        taken = self.toolkit.version if isinstance(self.toolkit, Toolkit) else self.selection.stack.cuda
        return self.catalog.toolkit(taken)

    @property
    def prebuilt(self) -> dict[str, CudaSupport]:
        """Return what the layers that are not built here were built with, by `name version`."""
        installed = {} if isinstance(self.installed, MmstackError) else self.installed
        selection = self.selection.found(installed)
        found = prebuilt(selection, self.catalog, installed)
        return {f"{name} {selection.version(name)}": support for name, support in found.items()}

    def plan(self, host: Host) -> Plan:
        """Return the plan as it will be, but for which file of a release an index offers.

        Raises:
            MmstackError: there can be none.
        """
        interpreter, installed = _had(self.interpreter), _had(self.installed)
        sources = self.selection.sources.items()
        chosen = {name: candidates(source, interpreter)[0] for name, source in sources if source.files}
        findings = Findings(chosen=chosen, toolkit=_had(self.toolkit), installed=installed)
        return resolve(self.request, self.selection.found(installed), host, interpreter, self.catalog, findings)


def examine(general: Iterable[Finding], host: Host, looked: Looked, system: Family) -> tuple[Finding, ...]:
    """Return the findings for a CUDA stack: those that every stack has, this one's own, and the verdict.

    Args:
        general: what `doctor.examine` found; what is found here of the same thing stands in its place.
        host: the facts about this machine.
        looked: what was found for the stack.
        system: whose package manager this machine has.
    """
    target = _architectures(host, looked)
    own = [*_driver(host, looked), *_gpu(host, looked, target)]
    if looked.toolkit is not None:
        below = _prebuilt(looked)
        own += [*_toolkits(looked, looked.toolkit), _compiler(host, looked.release, system), *below]
        if all(finding.verdict == "ok" for finding in below):
            own.append(_arch(host, looked, target))
    findings = tuple({finding.name: finding for finding in [*general, *own]}.values())
    return (*findings, verdict(looked.selection.stack.name, findings, lambda: looked.plan(host)))


def _driver(host: Host, looked: Looked) -> list[Finding]:
    if not host.gpus:
        return []
    driver, release = host.gpus[0].driver, looked.release  # a machine has one driver for all its GPUs
    able = [each.version for each in looked.catalog.toolkits.values() if _within(driver, each.driver)]
    found = f"{driver} runs " + (
        f"CUDA {able[-1].partition('.')[0]}.x programs" if able else "no known CUDA's programs"
    )
    blind = [gpu for gpu in host.gpus if not _knows(gpu)]
    if _within(driver, release.driver) and not blind:
        return [Finding(name="driver", verdict="ok", found=found)]
    if not _within(driver, release.driver):
        found += f", CUDA {release.version} needs {release.driver.removeprefix('>=')} or newer"
    if blind:
        found += f", {_title(blind[0])} needs {BLACKWELL_DRIVER.removeprefix('>=')} or newer"
    fix = ", or ".join(["update it", *_other_stacks(looked, host.gpus)])
    return [Finding(name="driver", verdict="missing", found=found, fix=fix)]


def _gpu(host: Host, looked: Looked, target: Sequence[Architecture] | MmstackError) -> list[Finding]:
    if "gpu" in host.notes:
        return []
    if not host.gpus:
        fix = "on a machine with one, run what `invoke verify --bundle NAME.tar.gz` makes of the built stack"
        found = "none visible: GPU checks will be reported as not run"
        return [Finding(name="gpu", verdict="warning", found=found, fix=fix)]
    gpus = dict.fromkeys(host.gpus)
    each = [_one_gpu(gpu, looked, target) for gpu in gpus]
    verdict: Verdict = "ok"
    if any(finding.verdict != "ok" for finding in each):  # the stack is of use where it serves one of them
        verdict = "missing" if all(finding.verdict == "missing" for finding in each) else "warning"
    found = "; ".join(finding.found for finding in each)
    fix = "; ".join(dict.fromkeys(finding.fix for finding in each if finding.fix))
    return [Finding(name="gpu", verdict=verdict, found=found, fix=fix)]


def _one_gpu(gpu: Gpu, looked: Looked, target: Sequence[Architecture] | MmstackError) -> Finding:
    """Return whether what is built would run on a GPU; where nothing can be built, whether something could."""
    its, release, title = architectures.parse_architecture(gpu.capability), looked.release, _title(gpu)
    others = ", or ".join(_other_stacks(looked, [gpu]))
    for name, support in looked.prebuilt.items():
        if not architectures.runs(support.architectures, its):
            found = f"{name} has no code for this {title}, only for {architectures.listed(support.architectures)}"
            return Finding(name="gpu", verdict="missing", found=found, fix=others or "build that layer from source")
    code = release.architectures if isinstance(target, MmstackError) else target
    if looked.toolkit is None or architectures.runs(code, its):
        return Finding(name="gpu", verdict="ok", found=title)
    if architectures.runs(release.architectures, its):
        found = f"would be built without code for this {title}, only for {architectures.listed(code)}"
        return Finding(name="gpu", verdict="warning", found=found, fix="`--arch native` compiles for it")
    wanted, _able = architectures.needed(its, looked.catalog.toolkits.values())
    meant = looked.catalog.toolkit(looked.selection.stack.cuda)
    if architectures.runs(meant.architectures, its):
        others = f"leave `--toolkit` out, or give a toolkit of CUDA {meant.version}"
    found = f"nvcc {release.version} cannot target this {title}: {wanted}"
    return Finding(name="gpu", verdict="missing", found=found, fix=others or "no stack here is for it")


def _toolkits(looked: Looked, taken: Toolkit | MmstackError) -> list[Finding]:
    """Return what is here, and what is taken of it or instead."""
    lines = [
        f"{name}: {item.why or item.what}" if isinstance(item, MmstackError) else f"{name}: CUDA {item.version}"
        for name, item in looked.toolkits
    ]
    here = Finding(name="toolkits", verdict="ok", found="\n".join(lines) or "none on this machine")
    if isinstance(taken, MmstackError):
        fixes = dict.fromkeys(item.fix for _name, item in looked.toolkits if isinstance(item, MmstackError))
        why = "" if taken.why == here.found else taken.why
        lacking = replace(missing("toolkit", taken), found=": ".join(filter(None, (taken.what, why))))
        return [replace(here, verdict="warning" if fixes else "ok", fix="\n".join(fixes)), lacking]
    meant, found = looked.selection.stack.cuda, f"CUDA {taken.version}, {taken.kind}: {taken.origin}"
    if taken.version == meant:
        return [here, Finding(name="toolkit", verdict="ok", found=found)]
    fix = f"give a toolkit of CUDA {meant}, or leave `--toolkit` out"
    return [here, Finding(name="toolkit", verdict="warning", found=f"{found}; the stack is for {meant}", fix=fix)]


def _compiler(host: Host, release: CudaRelease, system: Family) -> Finding:
    """Return which compiler is taken, and which others nvcc accepts or refuses."""
    fitting = {item: compilers.accepts(release, item) for item in host.compilers}
    here = {
        word: ", ".join(_named(item) for item, fits in fitting.items() if fits is accepted)
        for word, accepted in (("accepted here", True), ("refused here", False))
    }
    listed = "".join(f"; {word}: {names}" for word, names in here.items() if names)
    try:
        taken = compilers.choose(release, host.compilers, host.compiler, explicit=host.compiler_named)
    except MmstackError as error:
        finding = missing("compiler", error)
        fix = INSTALL_COMPILER[system].format(major=compilers.newest(release.gcc).removeprefix("g++-"))
        if host.compiler_named:
            fix = "unset CC CXX" + ("" if here["accepted here"] else f"; {fix}")
        return replace(finding, found=f"{finding.found}{listed}", fix=fix)
    why = "as CC and CXX say" if host.compiler_named else "the newest that serves"
    bounds = f"nvcc {release.version} accepts g++ {release.gcc} and clang++ {release.clang}"
    return Finding(name="compiler", verdict="ok", found=f"{_named(taken)}, {why}; {bounds}{listed}")


def _prebuilt(looked: Looked) -> list[Finding]:
    """Return what the layers that are not built here were built with, and whether that suits the toolkit."""
    if isinstance(looked.installed, MmstackError):
        return [missing("prebuilt", looked.installed)]
    found = [
        f"{name}: CUDA {support.version}, for {architectures.listed(support.architectures)}"
        for name, support in looked.prebuilt.items()
    ]
    try:
        if isinstance(looked.toolkit, Toolkit):
            selection = looked.selection.found(looked.installed)
            check_prebuilt(selection, looked.catalog, looked.toolkit, looked.installed)
    except ConstraintError as error:
        return [missing("prebuilt", error)]
    return [Finding(name="prebuilt", verdict="ok", found="\n".join(found))] if found else []


def _architectures(host: Host, looked: Looked) -> tuple[Architecture, ...] | MmstackError:
    try:
        return architectures.choose(
            looked.request.arch,
            default=looked.selection.stack.architectures,
            release=looked.release,
            releases=looked.catalog.toolkits.values(),
            offered=looked.catalog.cudas,
            supports=looked.prebuilt,
            gpus=host.gpus,
        )
    except MmstackError as error:
        return error


def _arch(host: Host, looked: Looked, target: Sequence[Architecture] | MmstackError) -> Finding:
    if not isinstance(target, MmstackError):
        return Finding(name="arch", verdict="ok", found=architectures.listed(target))
    finding = missing("arch", target)
    its = [architectures.parse_architecture(gpu.capability) for gpu in host.gpus]
    if its and all(architectures.runs(looked.release.architectures, one) for one in its):
        return replace(finding, fix=f"`--arch native`, for the GPUs of this machine; or {finding.fix}")
    return finding


def _had(found: T | MmstackError) -> T:
    if isinstance(found, MmstackError):
        raise found
    return found


def _other_stacks(looked: Looked, gpus: Sequence[Gpu]) -> list[str]:
    """Return how to choose the newest of the other stacks that serve these GPUs under their driver, if one does."""
    catalog, this = looked.catalog, looked.selection.stack
    fitting = [
        stack.cuda
        for stack in catalog.stacks.values()
        if stack.cuda not in {"cpu", this.cuda} and all(_serves(stack, gpu, catalog) for gpu in gpus)
    ]
    return [f"choose `--cuda {max(fitting, key=Version)}`"] if fitting else []


def _serves(stack: Stack, gpu: Gpu, catalog: Catalog) -> bool:
    its, release = architectures.parse_architecture(gpu.capability), catalog.toolkit(stack.cuda)
    supports = [catalog.recipe(layer.name).support.get(layer.version) for layer in stack.layers]
    codes = [release.architectures, *(support.architectures for support in supports if support)]
    driven = _within(gpu.driver, release.driver) and _knows(gpu)
    return driven and all(architectures.runs(code, its) for code in codes)


def _knows(gpu: Gpu) -> bool:
    """Return whether a GPU's driver is of its time."""
    return gpu.capability.partition(".")[0] not in BLACKWELL or _within(gpu.driver, BLACKWELL_DRIVER)


def _within(driver: str, bounds: str) -> bool:
    return SpecifierSet(bounds).contains(driver)


def _named(compiler: Compiler) -> str:
    return f"{compilers.title(compiler)} ({compiler.cxx})"


def _title(gpu: Gpu) -> str:
    return f"{gpu.name} ({gpu.capability})"
