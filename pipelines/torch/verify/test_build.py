"""The installed PyTorch is the one that the stack promises."""

from __future__ import annotations

import platform
import re
from typing import TYPE_CHECKING

import pytest
import torch
from packaging.version import Version

if TYPE_CHECKING:
    from conftest import Facts

ARCH_LIST = "arch_list"


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
    assert Version(settings()["TORCH_VERSION"]).public == Version(facts.version).public


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
    expected = {name: value for name, value in facts.expect.items() if name != ARCH_LIST}
    if not expected:
        pytest.skip("not run: the stack expects no build settings")
    found = settings()
    assert {name: found.get(name) for name in expected} == expected


def test_architectures_are_those_the_stack_expects(facts: Facts) -> None:
    """The build holds kernels for the architectures that the stack names, and for no others."""
    if ARCH_LIST not in facts.expect:
        pytest.skip("not run: the stack expects no architectures")
    assert sorted(arch_list()) == sorted(facts.expect[ARCH_LIST].split())


def test_visible_gpu_is_among_the_architectures() -> None:
    """The visible GPU finds a kernel of its own, one of its major version, or PTX to compile."""
    if not torch.cuda.is_available():
        pytest.skip("not run: no GPU")
    major, minor = torch.cuda.get_device_capability()
    capability = major * 10 + minor
    known = [(kind, int(number)) for kind, number in re.findall(r"(sm|compute)_(\d+)", " ".join(arch_list()))]
    binary = any(kind == "sm" and number // 10 == major and number <= capability for kind, number in known)
    portable = any(kind == "compute" and number <= capability for kind, number in known)
    assert binary or portable, f"sm_{capability} is not served by {arch_list()}"


def test_linear_algebra_and_threads_are_built_in() -> None:
    """LAPACK and OpenMP are there: without them PyTorch imports well and fails late."""
    summary = torch.__config__.show()
    assert "LAPACK is enabled" in summary
    assert torch.backends.openmp.is_available()  # type: ignore[no-untyped-call]  # annotated in part
