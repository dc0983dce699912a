"""The installed PyTorch is the one that the stack promises."""

from __future__ import annotations

import os
import platform
import re
from typing import TYPE_CHECKING

import pytest
import torch
from packaging.version import Version

if TYPE_CHECKING:
    from conftest import Facts

ARCH_LIST = "arch_list"
RPC = "USE_TENSORPIPE"


def settings() -> dict[str, str]:
    """Read the `Build settings` of PyTorch's own summary into a map."""
    line = re.search(r"Build settings: (.*)", torch.__config__.show())
    assert line, "the build summary has no settings"
    return dict(re.findall(r"(\w+)=(.*?)(?=, \w+=|, ?$)", line[1]))


def arch_list() -> list[str]:
    """Return what the build holds kernels for; `torch.cuda.get_arch_list` answers only where a GPU is visible."""
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: "")()  # noqa: SLF001  # there is no public name for it
    return flags.split() if flags else []


def test_python_is_the_one_of_the_stack(facts: Facts) -> None:
    """The wheels were built for this interpreter."""
    assert platform.python_version() == facts.python


def test_version_is_the_one_of_the_stack(facts: Facts) -> None:
    """The release agrees, in the package as in the build summary; a local label such as `+cpu` is a variant."""
    assert Version(torch.__version__).public == Version(facts.version).public
    # the summary knows no pre-releases: that of 2.7.0a0 says 2.7.0
    assert Version(settings()["TORCH_VERSION"]).base_version == Version(facts.version).base_version


def test_cuda_version_is_the_one_of_the_stack(facts: Facts) -> None:
    """A CUDA stack has exactly its CUDA; a CPU stack a CPU build, or the unlabelled build that its index offers."""
    if facts.cuda != "cpu":
        assert torch.version.cuda == facts.cuda
        return
    label = Version(torch.__version__).local
    assert label in {None, "cpu"}
    if label == "cpu":
        assert torch.version.cuda is None
        assert arch_list() == []


def test_build_settings_are_those_the_stack_expects(facts: Facts) -> None:
    """Every setting that the stack names stands in the build summary with that value."""
    expected = {name: value for name, value in facts.expect.items() if name not in {ARCH_LIST, RPC}}
    if not expected:
        pytest.skip("not run: the stack expects no build settings")
    found = settings()
    assert {name: found.get(name) for name in expected} == expected


def test_architectures_are_those_the_stack_expects(facts: Facts) -> None:
    """The build holds kernels for the architectures that the stack names, and for no others."""
    if ARCH_LIST not in facts.expect:
        pytest.skip("not run: the stack expects no architectures")
    assert sorted(arch_list()) == sorted(facts.expect[ARCH_LIST].split())


def test_visible_gpus_are_among_the_architectures() -> None:
    """Each finds a kernel of its own, one of its major version, or PTX to compile; `sm_90a` is for 9.0 alone."""
    if not torch.cuda.is_available():
        pytest.skip("not run: no GPU")
    words = re.findall(r"(sm|compute)_(\d+)(\d)([a-z]?)", " ".join(arch_list()))
    known = [(kind, int(major), int(minor), feature) for kind, major, minor, feature in words]
    for number in range(torch.cuda.device_count()):
        here = torch.cuda.get_device_capability(number)
        served = [
            (major, minor) == here
            or (not feature and (major == here[0] or kind == "compute") and (major, minor) <= here)
            for kind, major, minor, feature in known
        ]
        assert any(served), f"{torch.cuda.get_device_name(number)}, {here}, is not served by {arch_list()}"


def test_linear_algebra_is_built_in() -> None:
    """LAPACK is there: without it PyTorch imports well and fails late."""
    assert "LAPACK is enabled" in torch.__config__.show()


def test_operators_run_in_threads(facts: Facts) -> None:
    """Operators have threads, by OpenMP, or by PyTorch's own pool: that has one for each two processors."""
    information = torch.__config__.parallel_info()
    if facts.expect.get("USE_OPENMP") == "OFF":
        assert "ATen parallel backend: native thread pool" in information
    else:
        assert torch.backends.openmp.is_available()  # type: ignore[no-untyped-call]  # annotated in part
        assert "ATen parallel backend: OpenMP" in information
    assert torch.get_num_threads() >= max(1, len(os.sched_getaffinity(0)) // 2)


def test_what_is_left_out_says_so(facts: Facts) -> None:
    """Of a build without RPC, PyTorch can be imported and says that it has none."""
    from torch.distributed import rpc  # noqa: PLC0415  # it is what failed to be imported

    if facts.expect.get(RPC) == "OFF":
        assert not rpc.is_available()  # type: ignore[no-untyped-call]  # annotated in part
    else:
        assert rpc.is_available()  # type: ignore[no-untyped-call]  # annotated in part
