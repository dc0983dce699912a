"""What a C++ program computes with the library is what NumPy computes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cmake
import libtorch
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

CMAKE = Path(cmake.CMAKE_BIN_DIR) / "cmake"  # which need not be on PATH
CONSUMER = Path(__file__).with_name("consumer")
COMPILER = os.environ.get("CXX", "c++")
EXACT = 1e-12


def call(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command, which must end well, and return what it printed."""
    done = subprocess.run(  # noqa: S603  # compilers, and what they compiled here
        [str(word) for word in words], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that CMake links: it finds the library by its prefix alone, and no protobuf whatever is installed."""
    tree = tmp_path_factory.mktemp("consumer")
    shutil.copytree(CONSUMER, tree / "source")
    find = [f"-DCMAKE_PREFIX_PATH={libtorch.prefix}", "-DCMAKE_DISABLE_FIND_PACKAGE_Protobuf=ON"]
    call(CMAKE, "-G", "Ninja", "-S", "source", "-B", "build", f"-DCMAKE_CXX_COMPILER={COMPILER}", *find, cwd=tree)
    call(CMAKE, "--build", "build", cwd=tree)
    return tree / "build" / "program"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that is linked by the compiler alone, as README.md says."""
    folder, prefix = tmp_path_factory.mktemp("script"), libtorch.prefix
    headers = [f"-I{prefix}/include", f"-I{prefix}/include/torch/csrc/api/include"]
    libraries = [f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
    call(COMPILER, "-std=c++14", *headers, CONSUMER / "script.cpp", "-o", "script", *libraries, cwd=folder)
    return folder / "script"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program saves its network."""
    return tmp_path_factory.mktemp("saved") / "net.pt"


@pytest.fixture(scope="module")
def result(program: Path, file: Path) -> dict[str, Any]:
    """What it prints, run in another folder and without any variable that could lead it anywhere."""
    return dict(json.loads(call(program, file, cwd=Path("/"), env={})))


def ramp(count: int, first: float, last: float) -> NDArray[np.float64]:
    """The same numbers as the program's."""
    return np.linspace(first, last, count)


def close(found: object, expected: object, tolerance: float = EXACT) -> None:
    """Compare in double precision; shapes may differ, what is in them not."""
    np.testing.assert_allclose(found, np.ravel(np.asarray(expected)), rtol=tolerance, atol=tolerance)


def test_it_ran_to_its_end(result: Mapping[str, Any]) -> None:
    """The document is whole, and the last thing that it says is there."""
    assert result["end"] == [1]


def test_the_release_is_the_one_of_the_stack(result: Mapping[str, Any], facts: Any) -> None:  # noqa: ANN401
    """In the headers as in the wheel."""
    assert result["version"] == facts.version
    assert importlib.metadata.version("libtorch") == facts.version


def test_settings_are_those_that_were_asked_for(result: Mapping[str, Any], facts: Any) -> None:  # noqa: ANN401
    """What is compiled in says of every flag that it names what the stack says."""
    found = dict(re.findall(r"(\w+)=(.*?)(?=, |\n|$)", result["settings"].partition("Build settings:")[2]))
    assert facts.expect
    assert {name: found.get(name) for name in facts.expect} == facts.expect
    assert "LAPACK is enabled" in result["settings"]


def test_tensors(result: Mapping[str, Any]) -> None:
    """Products, sums, sorting, views."""
    a, b = ramp(12, -1, 2).reshape(3, 4), ramp(20, 0, 1).reshape(4, 5)
    close(result["product"], a @ b)
    close(result["sums"], (a * a).sum(0))
    close(result["sorted"], np.sort(np.sin(10 * a.ravel())))
    close(result["moved"], a.T[1::2])


def test_a_gradient(result: Mapping[str, Any]) -> None:
    """Of x² sin x, by the rules."""
    x = ramp(5, -1, 1)
    close(result["gradient"], 2 * x * np.sin(x) + x**2 * np.cos(x))


def test_a_network_learns(result: Mapping[str, Any]) -> None:
    """Every loss, and the weights at the end, are those of the same steps written by hand."""
    x, y = ramp(8, -1, 1).reshape(4, 2), ramp(4, 1, -1).reshape(4, 1)
    values = [ramp(6, -0.5, 0.5).reshape(3, 2), ramp(3, -0.1, 0.1), ramp(3, 0.3, -0.2).reshape(1, 3), np.zeros(1)]
    speeds = [np.zeros_like(value) for value in values]
    losses = []
    for _step in range(20):
        weight, bias, weight2, bias2 = values
        hidden = np.tanh(x @ weight.T + bias)
        error = hidden @ weight2.T + bias2 - y
        losses.append(np.mean(error**2))
        slope = 2 * error / error.size
        below = (slope @ weight2) * (1 - hidden**2)
        gradients = [below.T @ x, below.sum(0), slope.T @ hidden, slope.sum(0)]
        speeds = [0.9 * speed + gradient for speed, gradient in zip(speeds, gradients, strict=True)]
        values = [value - 0.2 * speed for value, speed in zip(values, speeds, strict=True)]
    close(result["losses"], losses, 1e-10)
    close(result["weight"], values[0], 1e-10)
    assert losses[-1] < losses[0] / 2


def test_a_network_is_saved(result: Mapping[str, Any], file: Path) -> None:
    """The program reads it back; and the archive holds the weights bit for bit."""
    assert result["reloaded"] == "the same"
    weights = np.array(result["weight"]).tobytes()
    with zipfile.ZipFile(file) as archive:
        assert weights in [archive.read(name) for name in archive.namelist()]


def test_linear_algebra(result: Mapping[str, Any]) -> None:
    """LAPACK is there and right."""
    a, b = np.cos(ramp(9, -1, 2).reshape(3, 3)) + 2 * np.eye(3), ramp(3, 1, 2)
    close(result["solution"], np.linalg.solve(a, b))
    close(result["eigenvalues"], np.linalg.eigvalsh(a + a.T))
    close(result["singular values"], np.linalg.svd(a, compute_uv=False))
    close(result["determinant"], [np.linalg.det(a)])
    close(result["cholesky"], np.linalg.cholesky(a @ a.T))


@pytest.mark.parametrize("count", [12, 31])
def test_fourier_transforms(result: Mapping[str, Any], count: int) -> None:
    """Of a length with small factors, and of a prime, by the definition."""
    where = np.arange(count)
    matrix = np.exp(-2j * np.pi * np.outer(where, where) / count)
    spectrum = matrix @ np.sin(np.exp(ramp(count, 0, 3)))
    close(result[f"spectrum {count}"], np.stack([spectrum.real, spectrum.imag], -1), 1e-10)


def test_threads(result: Mapping[str, Any]) -> None:
    """Four threads share the work, each of them once, and nothing is lost."""
    assert result["threads"] == [999 * 1000 / 2, 1, 1, 1, 1]


def test_an_error_is_an_exception(result: Mapping[str, Any]) -> None:
    """Thrown in the library, caught in the program, with its text."""
    assert "shapes cannot be multiplied (2x3 and 2x3)" in result["complaint"]


def test_a_script_without_cmake(script: Path, tmp_path: Path) -> None:
    """TorchScript compiles, runs, is saved and loaded, in a program that the compiler alone linked."""
    found = call(script, tmp_path / "scaled.pt", cwd=Path("/"), env={}).split()
    assert [float(text) for text in found] == [2.5 * (2.5 * x) + 2 for x in range(3)]
