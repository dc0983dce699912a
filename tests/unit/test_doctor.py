from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mmstack.doctor import Finding, Needs, examine, family
from mmstack.errors import HostError, NetworkError
from mmstack.model import Compiler, Gpu, Host, Interpreter

GIB = 1 << 30
DEBIAN = {"ID": "debian"}
PYTHON = Interpreter(
    path=Path("/bin/python3.11"), version="3.11.7", tag="cp311", platform="linux_x86_64", markers={}, tags=()
)
COMPILER = Compiler(
    cc=Path("/bin/cc"), cxx=Path("/bin/c++"), version="c++ (Debian 12.2.0-14) 12.2.0 [x86_64-linux-gnu]"
)
HOST = Host(
    cores=8,
    memory=16 * GIB,
    disk_free=50 * GIB,
    pythons=(PYTHON,),
    compiler=COMPILER,
    gpus=(Gpu(name="NVIDIA H200", capability="9.0", driver="570.86"),),
    uv="0.13.8",
)
NEEDS = Needs(pythons=("3.12", "3.11"), compiles=True, disk=10 * GIB, memory_per_job=2 * GIB)


def found(
    name: str,
    host: Host = HOST,
    needs: Needs = NEEDS,
    *,
    git: Path | None = Path("/bin/git"),
    system: str = "Linux",
    os_release: dict[str, str] | None = None,
    network: NetworkError | None = None,
    bound: HostError | None = None,
) -> Finding:
    """Return what doctor finds of one thing."""

    def reach() -> str:
        if network is not None:
            raise network
        return "the configured index answers"

    def cut_off() -> None:
        if bound is not None:
            raise bound

    findings = examine(
        host,
        needs,
        state=Path(".mmstack"),
        reach=reach,
        git=git,
        cut_off=cut_off,
        system=family(system, os_release or DEBIAN),
    )
    assert [finding.name for finding in findings] == [
        "python", "uv", "compiler", "disk", "memory", "index", "git", "hermetic", "gpu"
    ]  # fmt: skip
    return next(finding for finding in findings if finding.name == name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("python", "3.11.7 (/bin/python3.11)"),
        ("uv", "0.13.8"),
        ("compiler", "c++ (Debian 12.2.0-14) 12.2.0 [x86_64-linux-gnu] (/bin/c++)"),
        ("disk", "50.0 GiB free for .mmstack, 10.0 GiB needed"),
        ("memory", "16.0 GiB, 2.0 GiB per compile job: room for 7 at once on 8 cores"),
        ("index", "the configured index answers"),
        ("git", "/bin/git"),
        ("hermetic", "commands can be cut off from the network"),
        ("gpu", "NVIDIA H200 (9.0, driver 570.86)"),
    ],
)
def test_a_machine_that_has_all_needs_nothing(name: str, text: str) -> None:
    """Every finding is ok, says what is there, and asks for nothing."""
    assert found(name) == Finding(name=name, verdict="ok", found=text, fix="")


def test_the_preferred_python_is_named() -> None:
    """The stack's order decides, not the machine's."""
    newer = replace(PYTHON, version="3.12.1", path=Path("/bin/python3.12"))
    assert found("python", replace(HOST, pythons=(PYTHON, newer))).found == "3.12.1 (/bin/python3.12)"


def test_a_python_that_fits_is_missing() -> None:
    """What is there is named, with the reason why it does not do, and how to get one that does."""
    old = replace(PYTHON, version="3.9.1")
    host = replace(HOST, pythons=(old,), notes={"python 3.11": "no Python.h", "gpu": "broken"})
    finding = found("python", host)
    assert (finding.verdict, finding.fix) == ("missing", "uv python install 3.12")
    assert finding.found == "3.9.1, wanted one of 3.12, 3.11; python 3.11: no Python.h"
    assert found("python", replace(HOST, pythons=())).found.startswith("none, wanted")


def test_what_keeps_a_machine_from_hermetic_builds_is_a_warning() -> None:
    """All others need it not."""
    finding = found("hermetic", bound=HostError("it cannot", why="unshare: not permitted", fix="run as root"))
    assert (finding.verdict, finding.fix) == ("warning", "run as root")
    assert finding.found == "it cannot: unshare: not permitted; only `--hermetic` needs it"


def test_uv_is_missing() -> None:
    """It is the one thing that pip has to bring."""
    finding = found("uv", replace(HOST, uv="", notes={"uv": "uv is not on this machine"}))
    assert finding == Finding(
        name="uv",
        verdict="missing",
        found="uv is not on this machine",
        fix="`python3 -m pip install uv`, or `pipx install uv`",
    )


@pytest.mark.parametrize(
    ("system", "os_release", "fix"),
    [
        ("Linux", {"ID": "debian"}, "sudo apt-get install build-essential"),
        ("Linux", {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "sudo apt-get install build-essential"),
        ("Linux", {"ID": "fedora"}, "sudo dnf install gcc gcc-c++ make"),
        ("Linux", {"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "sudo dnf install gcc gcc-c++ make"),
        ("Darwin", {}, "xcode-select --install"),
        ("Linux", {"ID": "nixos"}, "install GCC 9 or clang 10, or a later one, with its C++ part"),
    ],
)
def test_no_compiler_is_mended_by_this_system_s_own_command(system: str, os_release: dict[str, str], fix: str) -> None:
    """The family of the distribution decides, known by itself or by what it is like."""
    host = replace(HOST, compiler=None, notes={"compiler": "none on PATH"})
    finding = found("compiler", host, system=system, os_release=os_release or {"ID": ""})
    assert (finding.verdict, finding.found, finding.fix) == ("missing", "none on PATH", fix)


def test_a_compiler_that_was_named_wrongly_needs_no_installation() -> None:
    """The variable is what has to change."""
    host = replace(HOST, compiler=None, notes={"compiler": "CXX=nosuch: not the name of one program"})
    assert "unset CC CXX" in found("compiler", host).fix


def test_no_compiler_is_a_warning_where_nothing_is_compiled() -> None:
    """A stack of wheels can do without."""
    needs = replace(NEEDS, compiles=False)
    assert found("compiler", replace(HOST, compiler=None), needs).verdict == "warning"


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("g++ (Ubuntu 9.4.0-1ubuntu1~20.04) 9.4.0 [x]", "ok"),
        ("g++ (Debian 8.3.0-6) 8.3.0 [x]", "missing"),
        ("g++ 12.2.0 [x]", "ok"),
        ("g++ (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3) [x]", "ok"),
        ("g++ (GCC) 4.8.5 20150623 (Red Hat 4.8.5-44) [x]", "missing"),
        ("x86_64-conda-linux-gnu-c++ (conda-forge gcc 14.3.0-5) 14.3.0 [x]", "ok"),
        ("g++ (crosstool-NG 1.25.0.28_1d5e2b2) 8.5.0 [x]", "missing"),
        ("Debian clang version 14.0.6 [x]", "ok"),
        ("clang version 9.0.1-16.1 [x]", "missing"),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4) [x]", "ok"),
        ("icpx 2024 [x]", "warning"),
    ],
)
def test_compilers_must_know_the_language(version: str, verdict: str) -> None:
    """The bound is on the compiler's own version, not on its distribution's."""
    finding = found("compiler", replace(HOST, compiler=replace(COMPILER, version=version)))
    assert finding.verdict == verdict
    assert version in finding.found
    assert bool(finding.fix) == (verdict != "ok")


def test_a_full_disk_is_told_with_what_lacks() -> None:
    """How much to free, or where else to go."""
    finding = found("disk", replace(HOST, disk_free=3 * GIB))
    assert (finding.verdict, finding.found) == ("missing", "3.0 GiB free for .mmstack, 10.0 GiB needed")
    assert finding.fix == "free 7.0 GiB, or set MMSTACK_HOME to a folder on a larger disk"
    assert found("disk", replace(HOST, disk_free=10 * GIB)).verdict == "ok"


def test_little_memory_means_fewer_jobs() -> None:
    """Memory bounds the jobs; too little for one is a warning."""
    assert "room for 3 at once on 8 cores" in found("memory", replace(HOST, memory=7 * GIB)).found
    finding = found("memory", replace(HOST, memory=GIB))
    assert (finding.verdict, finding.found) == ("warning", "1.0 GiB, less than 2.0 GiB per compile job")
    assert "--jobs 1" in finding.fix


def test_an_index_that_does_not_answer_is_missing() -> None:
    """With the cause and the remedy of the error, or the usual remedy."""
    finding = found("index", network=NetworkError("no index answered", why="refused", fix="start the proxy"))
    assert finding == Finding(
        name="index", verdict="missing", found="no index answered: refused", fix="start the proxy"
    )
    finding = found("index", network=NetworkError("no index answered"))
    assert (finding.found, "index settings" in finding.fix) == ("no index answered", True)


def test_git_is_only_noted() -> None:
    """The default stack does without."""
    finding = found("git", git=None, os_release={"ID": "fedora"})
    assert (finding.verdict, finding.fix) == ("warning", "sudo dnf install git")


def test_no_gpu_is_information_and_a_broken_driver_a_warning() -> None:
    """Neither stops a build; neither is silent."""
    none = found("gpu", replace(HOST, gpus=()))
    assert (none.verdict, none.fix) == ("ok", "")
    assert "not run" in none.found
    broken = found("gpu", replace(HOST, gpus=(), notes={"gpu": "nvidia-smi ended with status 9"}))
    assert (broken.verdict, broken.found) == ("warning", "nvidia-smi ended with status 9")
    assert broken.fix


def test_a_system_of_its_own_kind_is_no_other() -> None:
    """Nothing is guessed from part of a name."""
    assert family("Linux", {"ID": "debianish"}) == "other"
    assert family("Linux", {}) == "other"
