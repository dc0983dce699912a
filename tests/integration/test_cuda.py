"""CUDA stacks in miniature through the front door: no GPU, and an nvcc that only marks what it compiled for."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mmstack.envs import uv_path
from tests.support import Checkout, flip, refused, times
from tests.toolkits import GPU, MANIFEST, STACKS, WHEELS_ALONE, for_gpus, nvidia, program, served, with_kernels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support import Done

LOCAL_VERSION = "cu128base1.0"
TOKEN = "s3cr3t-t0ken"  # noqa: S105 - a made-up one


@pytest.fixture
def gpu(built: Checkout) -> Checkout:
    """A checkout of one's own with stacks for CUDA, of which what needs no GPU is built already."""
    for_gpus(built)
    return built


@pytest.fixture
def cuda(gpu: Checkout) -> Path:
    """A toolkit on this machine, of the version that the stack is for."""
    return nvidia(gpu.root.parent / "cuda", "12.8")


@pytest.fixture
def mirror(gpu: Checkout) -> Path:
    """A folder with NVIDIA's archives."""
    return gpu.root.parent / "mirror"


def succeeded(done: Done) -> str:
    """Demand success and return what was said."""
    assert done.code == 0, done.text
    return done.text


def targets(checkout: Checkout) -> dict[str, int]:
    """Return how many kernels the middle layer's wheel holds for each architecture."""
    code = next(item["gpu_code"] for item in checkout.manifest()["artifacts"] if item["layer"] == "ext")
    return {line["target"]: line["kernels"] for line in code}


def told(checkout: Checkout) -> dict[str, str]:
    """Return the variables that the middle layer's build saw, which it prints."""
    (log,) = (log for log in (checkout.state / "logs").glob("ext-*.log") if "CUDACXX" in log.read_text())
    line = next(line for line in log.read_text().splitlines() if line.startswith("{'"))
    return dict(ast.literal_eval(line))


def made(checkout: Checkout) -> list[str]:
    """Return what is in the folder of toolkits, the reader of GPU code apart."""
    folder = checkout.state / "toolkits"
    return sorted(path.name for path in folder.glob("*") if not path.name.startswith("cubins-"))


# -- a toolkit of this machine


def test_a_stack_is_built_for_gpus_and_its_code_is_read_back(gpu: Checkout, cuda: Path) -> None:
    """The plan names what it is compiled with and for, the results what came out; the second run does nothing."""
    words = ("build-stack", "--cuda", "12.8", "--toolkit", f"system:{cuda}")
    said = succeeded(gpu.invoke(*words))
    compiler = told(gpu)["CXX"]
    for line in (f"toolkit  CUDA 12.8, system: {cuda}, nvcc 12.8.99", "arch  8.0, 9.0+PTX", f"({compiler})"):
        assert line in said
    assert "stack gpu is built and verified" in said
    assert any(name.startswith(f"miniext-2.0+{LOCAL_VERSION}-") for name in gpu.wheels())
    manifest = gpu.manifest()
    assert manifest["verdict"] == "verified"
    assert (manifest["toolkit"]["kind"], manifest["toolkit"]["version"]) == ("system", "12.8")
    assert manifest["toolkit"]["architectures"] == ["8.0", "9.0+PTX"]
    assert targets(gpu) == {"sm_80": 2, "sm_90": 2, "compute_90": 2}
    page = (gpu.dist / "report.html").read_text()
    assert "<td>compute_90 (PTX)</td>" in page
    assert made(gpu) == []
    before = times(gpu.dist, gpu.state / "artifacts", gpu.state / "verified", gpu.state / "toolkits")
    assert "nothing to do: every step was done before" in succeeded(gpu.invoke(*words))
    assert times(gpu.dist, gpu.state / "artifacts", gpu.state / "verified", gpu.state / "toolkits") == before


def test_the_build_sees_the_plan_s_toolkit_and_nothing_of_the_user_s(gpu: Checkout, cuda: Path) -> None:
    """What is exported in the shell would compile for other GPUs, or with another toolkit."""
    own = {"CUDA_HOME": "/elsewhere", "CUDACXX": "/elsewhere/nvcc", "NVCC_APPEND_FLAGS": "--nonsense"}
    own |= {"CUDAARCHS": "50-real", "TORCH_CUDA_ARCH_LIST": "5.0", "NVCC_PREPEND_FLAGS": "--nonsense"}
    succeeded(gpu.build("--toolkit", f"system:{cuda}", "--arch", "9.0,12.0+PTX", "--stop-after", "gate", **own))
    seen = told(gpu)
    assert {name: seen.get(name) for name in (*own, "CUDA_PATH", "CUDAHOSTCXX", "MINIEXT_LOCAL_VERSION")} == {
        "CUDA_HOME": str(cuda),
        "CUDA_PATH": str(cuda),
        "CUDACXX": f"{cuda}/bin/nvcc",
        "CUDAARCHS": "90-real;120-real;120-virtual",
        "CUDAHOSTCXX": seen["CXX"],
        "NVCC_PREPEND_FLAGS": f"-ccbin {seen['CXX']}",
        "NVCC_APPEND_FLAGS": None,
        "TORCH_CUDA_ARCH_LIST": None,
        "MINIEXT_LOCAL_VERSION": LOCAL_VERSION,
    }
    assert targets(gpu) == {"sm_90": 2, "sm_120": 2, "compute_120": 2}


WRONG: dict[str, tuple[str, str]] = {
    "all": ("{name: ARCHITECTURES[1:] for name in KERNELS}", "no code for sm_80: missing from 2 kernels, among"),
    "one op": ("KERNELS | {'src/op.cu': ARCHITECTURES[1:]}", "the code for sm_80 lacks 1 of 2 kernels: op"),
    "its PTX": ("KERNELS | {'src/op.cu': ARCHITECTURES[:2]}", "the PTX for compute_90 lacks 1 of 2 kernels: op"),
    "too much": ("KERNELS | {'src/op.cu': [*ARCHITECTURES, '120-real']}", "code for sm_120, which was not asked for"),
    "no kernel": ("{}", "it holds no GPU code"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wheel_for_other_gpus_than_asked_for(gpu: Checkout, cuda: Path, what: str) -> None:
    """Kernel and architecture are named, and the wheel does not enter the store."""
    kernels, problem = WRONG[what]

    def change(tree: Path) -> None:
        setup = tree / "setup.py"
        setup.write_text(setup.read_text().replace("\nLOCAL_VERSION", f"\nKERNELS = {kernels}\nLOCAL_VERSION"))

    with_kernels(gpu, change)
    stored = sorted((gpu.state / "artifacts").iterdir())
    done = gpu.build("--toolkit", f"system:{cuda}", "--stop-after", "gate")
    refused(done, 1, "gpu-code failed", "gpu-code: miniext/_ext.", problem)
    assert sorted((gpu.state / "artifacts").iterdir()) == stored


# -- NVIDIA's archives


def test_archives_of_a_server_make_a_toolkit(gpu: Checkout, mirror: Path) -> None:
    """By their manifest, whose digest is pinned; its password is told to nobody; a folder with the same will do."""
    with served(mirror) as address:
        secret = address.replace("//", f"//user:{TOKEN}@")
        said = succeeded(gpu.build("--toolkit", f"redist:{secret}"))
    assert TOKEN not in said
    for path in [path for folder in (gpu.state, gpu.dist) for path in folder.rglob("*") if path.is_file()]:
        assert TOKEN.encode() not in path.read_bytes(), path
    assert f"toolkit  CUDA 12.8, redist: {MANIFEST} from {address}" in said
    assert "stack gpu is built and verified" in said
    (name,) = made(gpu)
    assert told(gpu)["CUDA_HOME"] == str(gpu.state / "toolkits" / name)
    assert gpu.manifest()["toolkit"]["kind"] == "redist"
    assert "nothing to do" in succeeded(gpu.build("--toolkit", f"redist:{mirror}"))


@pytest.mark.parametrize("file", [MANIFEST, "cuda_cudart-*.tar.xz"])
def test_one_flipped_bit(gpu: Checkout, mirror: Path, file: str) -> None:
    """It is found before anything is unpacked; once the folder is mended, the same command succeeds."""
    (path,) = mirror.rglob(file)
    flip(path)
    command = ("--toolkit", f"redist:{mirror}", "--stop-after", "gate")
    refused(gpu.build(*command), 4, path.name)
    assert made(gpu) == []
    assert list(gpu.state.glob(f"downloads/*/{path.name}*")) == []
    flip(path)
    succeeded(gpu.build(*command))
    assert targets(gpu) == {"sm_80": 2, "sm_90": 2, "compute_90": 2}
    assert len(made(gpu)) == 1


def test_what_was_fetched_makes_a_toolkit_without_the_archives(gpu: Checkout, mirror: Path) -> None:
    """After `fetch`, nothing that the toolkit or its check is made of is asked for again."""
    toolkit = ("--toolkit", f"redist:{mirror}")
    refused(gpu.build(*toolkit, "--offline"), 3, "`invoke fetch` first")
    succeeded(gpu.invoke("fetch", "--cuda", "12.8", *toolkit))
    assert made(gpu) == []
    shutil.rmtree(mirror)
    shutil.rmtree(gpu.index)
    assert "is built and verified" in succeeded(gpu.build(*toolkit, "--offline"))


def test_a_folder_that_lacks_an_archive(gpu: Checkout, mirror: Path) -> None:
    """It is named, and nothing half made is left."""
    (archive,) = mirror.rglob("cuda_nvcc-*.tar.xz")
    archive.unlink()
    refused(gpu.build("--toolkit", f"redist:{mirror}", "--stop-after", "gate"), 3, archive.name)
    assert made(gpu) == []


# -- NVIDIA's wheels


def test_wheels_of_the_package_index_make_a_toolkit(gpu: Checkout) -> None:
    """`--index-only` means the same toolkit; once fetched, no index is needed."""
    gpu.stack = "gpu13"
    succeeded(gpu.invoke("fetch", "--cuda", WHEELS_ALONE, "--index-only"))
    shutil.rmtree(gpu.index)
    said = succeeded(gpu.invoke("build-stack", "--cuda", WHEELS_ALONE, "--toolkit", "wheels", "--offline"))
    assert f"toolkit  CUDA {WHEELS_ALONE}, wheels: 2 wheels, nvcc {WHEELS_ALONE}" in said
    assert targets(gpu) == {"sm_80": 2, "sm_90": 2, "compute_90": 2}
    home = told(gpu)["CUDA_HOME"]
    assert home.startswith(str(gpu.state / "toolkits"))
    assert home.endswith("nvidia/cu13")
    assert any(name.startswith("miniext-2.0+cu1399base1.0-") for name in gpu.wheels())
    assert "nothing to do" in succeeded(gpu.build("--index-only"))


@pytest.mark.parametrize("words", [("--toolkit", "wheels"), ("--index-only",)])
def test_a_version_that_there_are_no_wheels_for(gpu: Checkout, words: tuple[str, ...]) -> None:
    """What can be had instead is said, and nothing is fetched."""
    before = times(gpu.state / "downloads")
    done = gpu.build(*words)
    refused(done, 2, "no package index holds a whole toolkit for CUDA 12.8", "--toolkit system:DIR", "redist")
    assert times(gpu.state / "downloads") == before


def test_a_broken_toolkit_is_passed_over_aloud(gpu: Checkout, cuda: Path) -> None:
    """Left to choose, it says what it did not take and why, and takes the next kind; asked for, that is an error."""
    gpu.stack = "gpu13"
    (cuda / "nvvm" / "bin" / "cicc").unlink()
    said = succeeded(gpu.build("--stop-after", "gate", CUDA_HOME=str(cuda)))
    assert f"not taken: CUDA_HOME={cuda}: CUDA 12.8, but it lacks cicc" in said
    assert f"toolkit  CUDA {WHEELS_ALONE}, wheels: " in said
    assert told(gpu)["CUDA_HOME"] != str(cuda)
    refused(gpu.build("--toolkit", "system", CUDA_HOME=str(cuda)), 3, f"no whole CUDA {WHEELS_ALONE}", "lacks cicc")
    refused(gpu.build("--toolkit", f"system:{cuda}"), 3, f"{cuda} is not a whole CUDA toolkit", "cicc")


# -- architectures


def nvidia_smi(folder: Path, script: str) -> dict[str, str]:
    """Return a PATH on which the driver's program answers so."""
    place = program(folder / "driver" / "nvidia-smi", f"#!/bin/sh\n{script}\n").parent
    return {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}"}


def test_native_means_the_gpus_of_this_machine(gpu: Checkout, cuda: Path, tmp_path: Path) -> None:
    """Where there is none, nothing is guessed."""
    words = ("--toolkit", f"system:{cuda}", "--arch", "native", "--dry-run")
    done = gpu.build(*words, **nvidia_smi(tmp_path, "echo No devices were found; exit 6"))
    refused(done, 3, "`--arch native` means the GPUs of this machine, and none is visible", "e.g. `--arch 9.0`")
    done = gpu.build(*words, **nvidia_smi(tmp_path, "echo A card, 12.0, 580.65.06"))
    assert "arch  12.0\n" in succeeded(done)


def test_an_older_toolkit_of_the_same_major_version(gpu: Checkout) -> None:
    """It builds what it can, with a warning by name, and refuses what only a newer one knows."""
    older = nvidia(gpu.root.parent / "cuda-12.4", "12.4")
    toolkit = ("--toolkit", f"system:{older}")
    refused(gpu.build(*toolkit, "--arch", "12.0"), 2, "sm_120 needs CUDA 12.8 or newer; yours is 12.4")
    said = succeeded(gpu.build(*toolkit, "--arch", "9.0"))
    assert "warning: cuda-minor-version: the toolkit is CUDA 12.4, the stack is for 12.8" in said
    assert any(text.startswith("cuda-minor-version: ") for text in gpu.manifest()["warnings"])
    assert any(name.startswith("miniext-2.0+cu124base1.0-") for name in gpu.wheels())
    assert targets(gpu) == {"sm_90": 2}


# -- a Python that has the layer below already


@pytest.fixture
def venv(gpu: Checkout) -> Path:
    """An environment of the user's that holds the lowest layer, which can be asked for it."""
    shutil.copy(GPU / "installed.py", gpu.root / "pipelines" / "base")
    place = gpu.root.parent / "venv"
    uv(gpu, "venv", "--quiet", str(place))
    (wheel,) = gpu.root.glob("dist/mini/wheels/minibase-*.whl")
    uv(gpu, "pip", "install", "--quiet", "--no-index", "--no-deps", "--python", str(place), str(wheel))
    return place


def uv(gpu: Checkout, *words: str) -> None:
    """Run uv as a user would."""
    environ = gpu.environ(UV_PYTHON=sys.executable, UV_CACHE_DIR=str(gpu.root.parent / "cache"))
    subprocess.run([uv_path(), *words], env=environ, check=True, timeout=60)


def test_a_layer_that_a_python_has_is_built_upon(gpu: Checkout, cuda: Path, venv: Path) -> None:
    """It is imported from there, in the result too, and never built; once it is gone, that is said."""
    words = ("--toolkit", f"system:{cuda}", "--source", "base=installed", "--python", f"{venv}/bin/python")
    succeeded(gpu.build(*words))
    manifest = gpu.manifest()
    assert [item["source"]["kind"] for item in manifest["layers"]] == ["installed", "sdist", "sdist"]
    assert [item["layer"] for item in manifest["artifacts"]] == ["ext", "top"]
    assert not any(name.startswith("minibase") for name in gpu.wheels())
    probe = [str(gpu.dist / "env" / "bin" / "python"), "-c", "import minibase, minitop; print(minibase.__file__)"]
    found = subprocess.run(probe, capture_output=True, text=True, check=True).stdout
    assert found.startswith(f"{venv}/lib/")
    assert "base: 1 passed" in succeeded(gpu.invoke("verify", "--stack", "gpu"))
    uv(gpu, "pip", "uninstall", "--quiet", "--python", str(venv), "minibase")
    refused(gpu.build(*words), 3, f"{venv}/bin/python does not hold this layer", "minibase", "--python PATH")
    refused(gpu.invoke("verify", "--stack", "gpu"), 1, "the suite of base did not run", "minibase")


def test_a_layer_that_the_named_python_lacks(gpu: Checkout, cuda: Path, venv: Path) -> None:
    """Nothing is built; and without a Python named there is none to ask."""
    uv(gpu, "pip", "uninstall", "--quiet", "--python", str(venv), "minibase")
    words = ("--toolkit", f"system:{cuda}", "--source", "base=installed")
    refused(gpu.build(*words, "--python", f"{venv}/bin/python"), 3, "does not hold this layer", "minibase")
    refused(gpu.build(*words), 2, "--source base=installed names no Python that has it")


# -- interruption


def killed(checkout: Checkout, words: tuple[str, ...], begun: Callable[[], bool]) -> None:
    """Kill a build with `kill -9` as soon as something has begun."""
    process = checkout.start("build-stack", "--stack", checkout.stack, *words)
    deadline = time.monotonic() + 60
    while not begun():
        assert time.monotonic() < deadline, "it did not begin"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("kind", ["redist", "wheels"])
def test_killed_while_a_toolkit_is_made_the_next_run_makes_it(built: Checkout, kind: str) -> None:
    """What was half made is never taken for a toolkit, and is cleared away."""
    for_gpus(built, more=2000)
    built.stack = {"redist": "gpu", "wheels": "gpu13"}[kind]
    words = ("--toolkit", {"redist": f"redist:{built.root.parent}/mirror", "wheels": "wheels"}[kind])
    half = {"redist": ".new-cuda-*/*/*", "wheels": "cuda-*/lib/python*/site-packages/nvidia/*"}[kind]
    killed(built, words, lambda: any(built.state.glob(f"toolkits/{half}")))
    whole = {"redist": "cuda-*", "wheels": "cuda-*/.complete"}[kind]
    assert list(built.state.glob(f"toolkits/{whole}")) == []
    succeeded(built.build(*words, "--stop-after", "gate"))
    (name,) = made(built)
    assert name.startswith(f"cuda-{STACKS[built.stack]}-{kind}-")
    assert len(list((built.state / "toolkits" / name).rglob("more/*.h"))) == 2000
