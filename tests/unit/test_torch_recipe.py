"""The lowest layer's recipe: flags become variables, and what CMake and the wheel answer must be what was asked."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.tags import sys_tags

from mmstack.catalog import Catalog
from mmstack.errors import GateError
from mmstack.gates import Expected, check_wheel
from mmstack.model import Architecture, Interpreter
from mmstack.recipes import BuildFacts, load_recipe

if TYPE_CHECKING:
    from mmstack.recipes import Recipe

ROOT = Path(__file__).resolve().parents[2]
SAID = (Path(__file__).parent / "data" / "torch-1.13.1-configure.txt").read_text(encoding="utf-8")
# what was asked when CMake said that
ASKED = {
    "ATEN_THREADING": "NATIVE",
    "BLAS": "OpenBLAS",
    "BUILD_BINARY": "OFF",
    "BUILD_CAFFE2": "OFF",
    "BUILD_CAFFE2_OPS": "OFF",
    "BUILD_TEST": "OFF",
    "CMAKE_BUILD_TYPE": "Release",
    "USE_DISTRIBUTED": "ON",
    "USE_FBGEMM": "OFF",
    "USE_GLOO": "ON",
    "USE_ITT": "OFF",
    "USE_KINETO": "OFF",
    "USE_MKLDNN": "OFF",
    "USE_MPI": "OFF",
    "USE_NCCL": "OFF",
    "USE_NNPACK": "OFF",
    "USE_NUMA": "OFF",
    "USE_OPENMP": "OFF",
    "USE_PYTORCH_QNNPACK": "OFF",
    "USE_QNNPACK": "OFF",
    "USE_SYSTEM_LIBS": "ON",
    "USE_TENSORPIPE": "OFF",
    "USE_XNNPACK": "OFF",
}
ARCHITECTURES = (Architecture(major=8, minor=0), Architecture(major=9, minor=0, ptx=True))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The recipe's code."""
    return load_recipe(ROOT / "pipelines" / "torch")


def facts(cuda: str = "cpu", version: str = "1.13.1", **flags: str) -> BuildFacts:
    """Return what the recipe is told."""
    architectures = () if cuda == "cpu" else ARCHITECTURES
    return BuildFacts(flags=ASKED | flags, versions={}, cuda=cuda, architectures=architectures, version=version)


# -- what is asked


def test_every_flag_is_a_variable_of_its_name(recipe: Recipe) -> None:
    """With the release's clean version, and without a compiler cache that CMake finds by itself."""
    said = recipe.environment(facts())
    assert said.items() >= ASKED.items()
    assert {name: said[name] for name in sorted(said.keys() - ASKED.keys())} == {
        "MAX_JOBS": "{jobs}",
        "PYTORCH_BUILD_NUMBER": "1",
        "PYTORCH_BUILD_VERSION": "1.13.1",
        "USE_CCACHE": "OFF",
        "USE_CUDA": "OFF",
        "USE_ROCM": "OFF",
    }


def test_a_flag_without_a_value_is_left_to_upstream(recipe: Recipe) -> None:
    """An empty variable would be an answer."""
    assert "BLAS" not in recipe.environment(facts(BLAS=""))


GPU_FLAGS = ("USE_CUDNN", "USE_FLASH_ATTENTION", "USE_MAGMA", "USE_MEM_EFF_ATTENTION", "USE_NCCL", "BUILD_SPLIT_CUDA")


def test_without_a_gpu_what_is_for_gpus_is_off(recipe: Recipe) -> None:
    """Whatever its flag says; a release that does not have the flag is told nothing of it."""
    said = recipe.environment(facts(**dict.fromkeys(GPU_FLAGS, "ON")))
    assert {name: said[name] for name in GPU_FLAGS} == dict.fromkeys(GPU_FLAGS, "OFF")
    assert "USE_CUSPARSELT" not in said
    assert "TORCH_CUDA_ARCH_LIST" not in said


def test_for_gpus_flags_and_architectures_are_what_was_asked(recipe: Recipe) -> None:
    """One list of architectures serves all."""
    said = recipe.environment(facts("12.8", USE_CUDNN="ON", USE_NCCL="OFF"))
    assert (said["USE_CUDA"], said["USE_CUDNN"], said["USE_NCCL"]) == ("ON", "ON", "OFF")
    assert said["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0+PTX"
    assert said["CUDNN_ROOT"] == "{nvidia}/cudnn"


def test_every_release_that_is_built_can_be_told_its_flags(recipe: Recipe) -> None:
    """With their defaults, for the CPU and for GPUs."""
    data = Catalog(ROOT).recipe("torch")
    flags = {flag.name: flag.default for flag in data.flags}
    for cuda in ("cpu", "12.8"):
        told = BuildFacts(flags=flags, versions={}, cuda=cuda, architectures=ARCHITECTURES, version="2.9.1")
        assert set(recipe.environment(told)) >= {name for name, value in flags.items() if value}
        assert recipe.expect(told)["BUILD_TYPE"] == flags["CMAKE_BUILD_TYPE"]


# -- what CMake answers


def test_what_cmake_really_said_is_what_was_asked(recipe: Recipe) -> None:
    """Its `False` is `OFF`, its `open` is OpenBLAS; of two lines for one name the second counts."""
    recipe.check_configured(SAID, {}, facts())


OTHERWISE = {
    "on that was to be off": ({"USE_GLOO": "OFF"}, "USE_GLOO is ON, asked was OFF"),
    "off that was to be on": ({"USE_MKLDNN": "ON"}, "USE_MKLDNN is OFF, asked was ON"),
    "off by another word": ({"BUILD_TEST": "1"}, "BUILD_TEST is False, asked was 1"),
    "another library": ({"BLAS": "MKL"}, "BLAS is open, asked was MKL"),
    "several": (
        {"USE_XNNPACK": "ON", "USE_FBGEMM": "ON"},
        "USE_FBGEMM is OFF, asked was ON; USE_XNNPACK is OFF, asked was ON",
    ),
}


@pytest.mark.parametrize(("asked", "why"), OTHERWISE.values(), ids=OTHERWISE)
def test_a_summary_that_says_otherwise_ends_the_build(recipe: Recipe, asked: dict[str, str], why: str) -> None:
    """Before an hour is spent on it; each flag is named with both values."""
    with pytest.raises(GateError, match="CMake says something else than what was asked") as caught:
        recipe.check_configured(SAID, {}, facts(**asked))
    assert caught.value.why == why
    assert "--flag torch.NAME=VALUE" in caught.value.fix


def test_a_gpu_build_that_finds_no_toolkit_is_refused(recipe: Recipe) -> None:
    """CMake turns it off with a warning, and goes on."""
    with pytest.raises(GateError) as caught:
        recipe.check_configured(SAID, {}, facts("12.8"))
    assert "USE_CUDA is OFF, asked was ON" in caught.value.why


def test_another_version_is_refused(recipe: Recipe) -> None:
    """What a repository around the tree would make of it."""
    said = SAID.replace(": 1.13.1", ": 1.13.1a0+git1234567")
    with pytest.raises(GateError) as caught:
        recipe.check_configured(said, {}, facts())
    assert caught.value.why == "TORCH_VERSION is 1.13.1a0+git1234567, asked was 1.13.1"


@pytest.mark.parametrize("said", ["", SAID.partition("-- ******** Summary")[0]], ids=["nothing", "no summary"])
def test_without_a_summary_nothing_is_taken_on_trust(recipe: Recipe, said: str) -> None:
    """A release that prints none must be told of."""
    with pytest.raises(GateError, match="CMake's summary is missing") as caught:
        recipe.check_configured(said, {}, facts())
    assert "TORCH_VERSION" in caught.value.why
    assert caught.value.fix


CACHED = {
    "what the summary leaves out": ({"USE_NUMA": "ON"}, "USE_NUMA is ON, asked was OFF"),
    "off by itself": ({"USE_SYSTEM_LIBS": "OFF"}, "USE_SYSTEM_LIBS is OFF, asked was ON"),
    "the same": ({"USE_NUMA": "0", "USE_SYSTEM_LIBS": "TRUE", "ATEN_THREADING": "NATIVE"}, ""),
    "what the summary says too": ({"USE_GLOO": "OFF"}, ""),
    "what nobody asked for": ({"USE_UCC": "ON", "CMAKE_CXX_FLAGS": "-O3"}, ""),
}


@pytest.mark.parametrize(("cache", "why"), CACHED.values(), ids=CACHED)
def test_where_the_summary_is_silent_the_cache_counts(recipe: Recipe, cache: dict[str, str], why: str) -> None:
    """A library that is missing turns its flag off without an error."""
    if not why:
        recipe.check_configured(SAID, cache, facts())
        return
    with pytest.raises(GateError) as caught:
        recipe.check_configured(SAID, cache, facts())
    assert caught.value.why == why


FOUND = {"CUDNN_LIBRARY": "/w/cudnn/lib", "CUDNN_LIBRARY_PATH": "/w/cudnn/lib/libcudnn.so", "LIBKINETO_NOCUPTI": "OFF"}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"CUDNN_LIBRARY_PATH": "/usr/lib/libcudnn.so"}, "CUDNN_LIBRARY_PATH is /usr/lib/libcudnn.so"),
        ({"NCCL_LIBRARIES": "/usr/lib/libnccl.so"}, "NCCL_LIBRARIES is /usr/lib/libnccl.so"),
        ({"LIBKINETO_NOCUPTI": "ON"}, "no CUPTI"),
    ],
)
def test_what_comes_of_this_machine_or_not_at_all_ends_a_build_for_gpus(
    recipe: Recipe, other: dict[str, str], said: str
) -> None:
    """The gates would refuse the one after hours, and nobody would see the other."""
    asked, told = facts("12.8", USE_KINETO="ON"), re.sub(r"(USE_(?:CUDA|KINETO) +: )OFF", r"\1ON", SAID)
    recipe.check_configured(told, FOUND, asked)
    with pytest.raises(GateError) as caught:
        recipe.check_configured(told, FOUND | other, asked)
    assert said in caught.value.why


RAN = {"CXX_HAS_AVX512_1": "", "CXX_HAS_AVX512_1_COMPILED": "FALSE", "CXX_HAS_AVX512_2_COMPILED": "TRUE"}


@pytest.mark.parametrize("status", ["FAILED_TO_RUN", "132"])
def test_what_the_processor_of_this_machine_decides_is_refused(recipe: Recipe, status: str) -> None:
    """One without AVX-512 would build no kernels for it, of inputs that are the same."""
    recipe.check_configured(SAID, {**RAN, "CXX_HAS_AVX512_2_EXITCODE": "0"}, facts())
    with pytest.raises(GateError, match="this machine's processor decides") as caught:
        recipe.check_configured(SAID, {**RAN, "CXX_HAS_AVX512_2_EXITCODE": status}, facts())
    assert caught.value.why == "CMake could compile CXX_HAS_AVX512_2, and not run it"


# -- what the wheel answers

EXPECTED = {
    "all": ({}, {"USE_GLOO": "ON", "USE_TENSORPIPE": "OFF", "BLAS_INFO": "open", "BUILD_TYPE": "Release"}),
    "nothing distributed": (
        {"USE_DISTRIBUTED": "OFF", "USE_MPI": "ON", "USE_TENSORPIPE": "ON"},
        {"USE_GLOO": "OFF", "USE_MPI": "OFF", "USE_TENSORPIPE": "OFF"},
    ),
    "another library": ({"BLAS": "MKL"}, {"BLAS_INFO": "mkl"}),
    "debug": ({"CMAKE_BUILD_TYPE": "Debug"}, {"BUILD_TYPE": "Debug"}),
}


@pytest.mark.parametrize(("flags", "said"), EXPECTED.values(), ids=EXPECTED)
def test_the_suite_is_told_what_torch_must_say_of_itself(
    recipe: Recipe, flags: dict[str, str], said: dict[str, str]
) -> None:
    """By its own names and values."""
    assert recipe.expect(facts(**flags)).items() >= said.items()


def test_of_a_library_that_was_left_to_upstream_nothing_is_expected(recipe: Recipe) -> None:
    """It takes what it finds."""
    assert "BLAS_INFO" not in recipe.expect(facts(BLAS=""))


def wheel(folder: Path, **settings: str) -> Path:
    """Return a wheel in which these settings are compiled, or none."""
    lines = "".join(f'  {{"{name}", "{value}"}}, \\\n' for name, value in settings.items())
    with zipfile.ZipFile(folder / "torch.whl", "w") as archive:
        archive.writestr("torch/version.py", "")
        if settings:
            archive.writestr("torch/include/caffe2/core/macros.h", f"#define CAFFE2_BUILD_STRINGS {{ \\\n{lines}}}\n")
    return folder / "torch.whl"


def test_a_wheel_says_what_was_asked(recipe: Recipe, tmp_path: Path) -> None:
    """What it says nothing of is left to the suite."""
    file = wheel(tmp_path, USE_GLOO="ON", USE_MKLDNN="OFF", BLAS_INFO="open", BUILD_TYPE="Release", CXX_FLAGS=" -O2")
    assert recipe.check(file, facts()) == ("settings (4)",)


def test_a_wheel_that_says_otherwise_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    """With what it says."""
    file = wheel(tmp_path, USE_GLOO="", BLAS_INFO="mkl", BUILD_TYPE="Release")
    with pytest.raises(GateError, match="the wheel says something else than what was asked") as caught:
        recipe.check(file, facts())
    assert caught.value.why == "BLAS_INFO is mkl, asked was open; USE_GLOO is empty, asked was ON"


def test_a_wheel_that_names_no_settings_or_was_asked_for_none_is_let_through(recipe: Recipe, tmp_path: Path) -> None:
    """Then no gate is counted as passed."""
    assert recipe.check(wheel(tmp_path), facts()) == ()
    told = BuildFacts(flags={}, versions={}, cuda="cpu")
    assert recipe.check(wheel(tmp_path, USE_GLOO="OFF"), told) == ()


def test_a_wheel_without_its_library_is_refused(tmp_path: Path) -> None:
    """With a wrong install prefix `setup.py` packs 4 MB of Python, leaves libtorch_cpu.so out, and ends well."""
    tag = next(tag for tag in sys_tags() if tag.platform.startswith("linux_"))
    wheel = tmp_path / f"torch-1.13.1-{tag}.whl"
    metadata = "Metadata-Version: 2.1\nName: torch\nVersion: 1.13.1\nRequires-Dist: typing-extensions\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("torch/__init__.py", "")
        archive.writestr("torch-1.13.1.dist-info/METADATA", metadata)
        archive.writestr("torch-1.13.1.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
    interpreter = Interpreter(
        path=Path(sys.executable),
        version="3.11.0",
        tag=tag.abi,
        platform=tag.platform,
        markers={},
        tags=tuple(map(str, sys_tags())),
    )
    rules = Catalog(ROOT).recipe("torch").gates
    with pytest.raises(GateError) as caught:
        check_wheel(wheel, Expected(rules=rules, project="torch", version="1.13.1", interpreter=interpreter))
    assert "no compiled module is named torch/lib/libtorch_cpu.so" in str(caught.value)
