"""What this machine can build, and what to install where it cannot: facts in, findings out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from packaging.version import Version

from mmstack.errors import HostError, MmstackError, NetworkError
from mmstack.jobs import MEMORY_KEPT_FREE
from mmstack.toolchains.compilers import family_and_version
from mmstack.words import gib

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mmstack.model import Host, Plan

Verdict = Literal["ok", "warning", "missing"]
Family = Literal["debian", "fedora", "macos", "other"]

OLDEST_COMPILER = {"gcc": 9, "clang": 10}  # the first with all of C++17
INSTALL: Mapping[str, Mapping[Family, str]] = {
    "compiler": {
        "debian": "sudo apt-get install build-essential",
        "fedora": "sudo dnf install gcc gcc-c++ make",
        "macos": "xcode-select --install",
        "other": "install GCC 9 or clang 10, or a later one, with its C++ part",
    },
    "git": {
        "debian": "sudo apt-get install git",
        "fedora": "sudo dnf install git",
        "macos": "xcode-select --install",
        "other": "install git",
    },
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at; `fix` is what to do about it, empty where nothing is to be done."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a stack asks of a machine; sizes in bytes.

    Attributes:
        pythons: versions `X.Y` that it is made for, the preferred first.
        compiles: whether a layer of it is compiled.
        disk: the room that a build and its results take.
        memory_per_job: what the hungriest compile job takes.
    """

    pythons: tuple[str, ...]
    compiles: bool
    disk: int
    memory_per_job: int


def family(system: str, os_release: Mapping[str, str]) -> Family:
    """Return whose package manager this machine has, by the fields of its os-release file."""
    if system == "Darwin":
        return "macos"
    names = {os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()}
    if names & {"debian", "ubuntu"}:
        return "debian"
    return "fedora" if names & {"fedora", "rhel"} else "other"


def examine(
    host: Host,
    needs: Needs,
    *,
    state: Path,
    reach: Callable[[], str] | None,
    git: Path | None,
    cut_off: Callable[[], None],
    system: Family,
    sources: Mapping[str, Callable[[], str]] = MappingProxyType({}),
) -> tuple[Finding, ...]:
    """Return what is there and what is missing, one finding for each thing that a build needs.

    Args:
        host: the facts about this machine.
        needs: what the stack asks of it.
        state: the state folder, as a user would name it.
        reach: asks the package index for something small and returns what answered, or raises NetworkError.
        git: the git program, if there is one.
        cut_off: runs a command without a network, or raises HostError.
        system: whose package manager this machine has.
        sources: by layer, looks whether its source can be had here, or raises HostError.
    """
    return (
        _python(host, needs),
        _uv(host),
        _compiler(host, needs, system),
        _disk(host, needs, state),
        _memory(host, needs),
        *([_index(reach)] if reach else []),
        *(_source(name, look) for name, look in sources.items()),
        _git(git, system),
        _hermetic(cut_off),
        _gpu(host),
    )


def verdict(name: str, findings: Sequence[Finding], plan: Callable[[], Plan]) -> Finding:
    """Return whether a stack can be built here: the plan's own verdict, where nothing else was found missing."""
    lacking = [finding.name for finding in findings if finding.verdict == "missing"]
    try:
        planned = plan()
    except MmstackError as error:
        told = [finding for finding in findings if finding.name in lacking and finding.found.startswith(error.what)]
        if not told:
            finding = missing("stack", error)
            return replace(finding, found=f"{name} cannot be built here: {finding.found}")
    if lacking:
        found = f"{name} does not fit this machine as it is: {', '.join(lacking)}"
        return Finding(name="stack", verdict="missing", found=found)
    found = (
        f"{name} can be built here, by {planned.jobs} compile jobs at once, for Python {planned.interpreter.version}"
    )
    return Finding(name="stack", verdict="ok", found=found)


def missing(name: str, error: MmstackError) -> Finding:
    """Return the finding of what an error says is missing."""
    return Finding(name=name, verdict="missing", found=": ".join(filter(None, (error.what, error.why))), fix=error.fix)


def _python(host: Host, needs: Needs) -> Finding:
    usable = [python for python in host.pythons if python.minor in needs.pythons]
    if usable:
        best = min(usable, key=lambda python: needs.pythons.index(python.minor))
        return Finding(name="python", verdict="ok", found=f"{best.version} ({best.path})")
    there = ", ".join(python.version for python in host.pythons) or "none"
    reasons = "".join(f"; {name}: {note}" for name, note in host.notes.items() if name.startswith("python "))
    return Finding(
        name="python",
        verdict="missing",
        found=f"{there}, wanted one of {', '.join(needs.pythons)}{reasons}",
        fix=f"uv python install {needs.pythons[0]}",
    )


def _uv(host: Host) -> Finding:
    if host.uv:
        return Finding(name="uv", verdict="ok", found=host.uv)
    return Finding(
        name="uv",
        verdict="missing",
        found=host.notes.get("uv", "not found"),
        fix="`python3 -m pip install uv`, or `pipx install uv`",
    )


def _compiler(host: Host, needs: Needs, system: Family) -> Finding:
    lacking: Verdict = "missing" if needs.compiles else "warning"
    if host.compiler is None:
        found = host.notes.get("compiler", "not found")
        fix = "unset CC CXX, or set both to compilers that work" if re.match("(CC|CXX)=", found) else _install(system)
        return Finding(name="compiler", verdict=lacking, found=found, fix=fix)
    found = f"{host.compiler.version} ({host.compiler.cxx})"
    release = family_and_version(host.compiler.version)
    if release is None:
        return Finding(
            name="compiler",
            verdict="warning",
            found=f"{found}, neither GCC nor clang by its name",
            fix=_install(system),
        )
    kind, version = release
    if Version(version).major < OLDEST_COMPILER[kind]:
        wanted = f"wanted {kind} {OLDEST_COMPILER[kind]} or later, for C++17"
        return Finding(name="compiler", verdict=lacking, found=f"{found}, {wanted}", fix=_install(system))
    return Finding(name="compiler", verdict="ok", found=found)


def _install(system: Family) -> str:
    return INSTALL["compiler"][system]


def _disk(host: Host, needs: Needs, state: Path) -> Finding:
    found = f"{gib(host.disk_free)} free for {state}, {gib(needs.disk)} needed"
    if host.disk_free >= needs.disk:
        return Finding(name="disk", verdict="ok", found=found)
    fix = f"free {gib(needs.disk - host.disk_free)}, or set MMSTACK_HOME to a folder on a larger disk"
    return Finding(name="disk", verdict="missing", found=found, fix=fix)


def _memory(host: Host, needs: Needs) -> Finding:
    each = f"{gib(needs.memory_per_job)} per compile job"
    if host.memory < needs.memory_per_job:
        found = f"{gib(host.memory)}, less than {each}"
        return Finding(name="memory", verdict="warning", found=found, fix="add memory or swap; build with --jobs 1")
    room = max(host.memory - MEMORY_KEPT_FREE, needs.memory_per_job)
    jobs = min(host.cores, room // needs.memory_per_job)
    found = f"{gib(host.memory)}, {each}: room for {jobs} at once on {host.cores} cores"
    return Finding(name="memory", verdict="ok", found=found)


def _index(reach: Callable[[], str]) -> Finding:
    try:
        return Finding(name="index", verdict="ok", found=reach())
    except NetworkError as error:
        fix = error.fix or "check the network, and the index settings of uv and pip"
        return replace(missing("index", error), fix=fix)


def _source(layer: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name=f"source of {layer}", verdict="ok", found=look())
    except HostError as error:
        return missing(f"source of {layer}", error)


def _git(git: Path | None, system: Family) -> Finding:
    if git is not None:
        return Finding(name="git", verdict="ok", found=str(git))
    return Finding(
        name="git", verdict="warning", found="not found; only git sources need it", fix=INSTALL["git"][system]
    )


def _hermetic(cut_off: Callable[[], None]) -> Finding:
    try:
        cut_off()
    except HostError as error:
        found = f"{error.what}: {error.why}; only `--hermetic` needs it"
        return Finding(name="hermetic", verdict="warning", found=found, fix=error.fix)
    return Finding(name="hermetic", verdict="ok", found="commands can be cut off from the network")


def _gpu(host: Host) -> Finding:
    if "gpu" in host.notes:
        return Finding(
            name="gpu",
            verdict="warning",
            found=host.notes["gpu"],
            fix="see nvidia-smi: repair the driver's installation, or update one older than R510, which knows no "
            "`compute_cap`",
        )
    gpus = ", ".join(f"{gpu.name} ({gpu.capability}, driver {gpu.driver})" for gpu in host.gpus)
    return Finding(name="gpu", verdict="ok", found=gpus or "none visible: checks on a GPU will be reported as not run")
