"""A C++ extension compiles against the installed headers, loads, computes, and has a gradient."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).with_name("extension.cpp")
# Without ninja, which is no requirement of PyTorch's; -O0 because the test waits for the compiler, not the operator.
SETUP = f"""
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

setup(
    name="mmstack_verify",
    ext_modules=[CppExtension("mmstack_verify", [{str(SOURCE)!r}], extra_compile_args=["-O0", "-g0"])],
    cmdclass={{"build_ext": BuildExtension.with_options(use_ninja=False, no_python_abi_suffix=True)}},
)
"""


@pytest.fixture(scope="module")
def _extension(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile the operator with this machine's compiler and load it into PyTorch."""
    if find_spec("setuptools") is None:
        pytest.skip("not run: the environment has no setuptools, which old releases of PyTorch do not require")
    if not any(map(shutil.which, filter(None, [os.environ.get("CXX"), "c++", "g++"]))):
        pytest.skip("not run: there is no C++ compiler")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("not run: this Python's headers are not installed")
    folder = tmp_path_factory.mktemp("extension")
    (folder / "setup.py").write_text(SETUP, encoding="utf-8")
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", "lib", "--build-temp", "temp"]
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(folder / "cache")}
    done = subprocess.run(  # noqa: S603  # the interpreter that runs this test
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (library,) = (folder / "lib").glob("mmstack_verify*.so")
    torch.ops.load_library(library)  # type: ignore[no-untyped-call]  # annotated in part


@pytest.mark.usefixtures("_extension")
def test_operator_computes(device: torch.device) -> None:
    """Its values are those of the formula; the same elementary functions are used, so the bits agree."""
    x, y = torch.randn(2, 5, 7, dtype=torch.float64).to(device)
    assert torch.equal(torch.ops.mmstack_verify.square_sine(x, y), x * x * y.sin())


@pytest.mark.usefixtures("_extension")
def test_operator_has_a_gradient(device: torch.device) -> None:
    """The backward written in C++ agrees with finite differences."""
    inputs = tuple(torch.randn(3, 4, dtype=torch.float64).to(device).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(torch.ops.mmstack_verify.square_sine, inputs, atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("_extension")
def test_operator_reports_errors() -> None:
    """A C++ exception crosses into Python: compiler, runtime and PyTorch agree on the ABI."""
    with pytest.raises(RuntimeError, match="two tensors of one shape"):
        torch.ops.mmstack_verify.square_sine(torch.zeros(2), torch.zeros(3))
