"""What data cannot say of torch: how flags reach CMake, and that CMake and the wheel answer with what was asked."""

from __future__ import annotations

import re
import zipfile
from pathlib import PurePath
from typing import TYPE_CHECKING

from mmstack.errors import GateError
from mmstack.recipes import DataOnly

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmstack.recipes import BuildFacts

# of the wheels that run beside torch, which refuses an older cuDNN than it was compiled with
FROM_WHEELS = {
    "CUDNN_ROOT": "{nvidia}/cudnn",
    "CUDNN_INCLUDE_DIR": "{nvidia}/cudnn/include",
    "CUDNN_LIBRARY": "{nvidia}/cudnn/lib",
    "NCCL_ROOT": "{nvidia}/nccl",
    "NCCL_INCLUDE_DIR": "{nvidia}/nccl/include",
    "NCCL_LIB_DIR": "{nvidia}/nccl/lib",
}
# what CMake's cache has as found, and where that should be
FOUND_IN = {"CUDNN_LIBRARY_PATH": "CUDNN_LIBRARY", "NCCL_LIBRARIES": "NCCL_LIB_DIR"}
# what only a build with CUDA has: without it they are off whatever they say
FOR_GPUS = frozenset(
    {
        "BUILD_LAZY_CUDA_LINALG",
        "BUILD_SPLIT_CUDA",
        "USE_CUDNN",
        "USE_CUDSS",
        "USE_CUFILE",
        "USE_CUSPARSELT",
        "USE_FLASH_ATTENTION",
        "USE_MAGMA",
        "USE_MEM_EFF_ATTENTION",
        "USE_NCCL",
        "USE_NVSHMEM",
        "USE_SYSTEM_NCCL",
    }
)
# `--   USE_GLOO              : ON`, of cmake/Summary.cmake; the last line for a name is the most special one
SUMMARY = re.compile(r"^--\s+([A-Z][A-Z0-9_]*)\s*:\s*(\S*)\s*$", re.MULTILINE)
SETTING = re.compile(r'\{"([A-Z0-9_]+)", "([^"]*)"\}')
SETTINGS = "torch/include/caffe2/core/macros.h"  # what torch.__config__.show() says is compiled from this
NO = frozenset({"", "0", "FALSE", "N", "NO", "OFF"})
YES = frozenset({"1", "ON", "TRUE", "Y", "YES"})
BLAS = {"OPENBLAS": "OPEN"}  # what CMake calls it afterwards
RUN = re.compile(r"(C(?:XX)?_HAS_AVX\w*)_EXITCODE")  # what CMake's cache says of a check that ran what it had compiled


class Torch(DataOnly):
    """Hands every flag to upstream's build as the variable of that name, and holds the answers against it."""

    def environment(self, facts: BuildFacts) -> Mapping[str, str]:
        """Return the variables of a build: `tools/setup_helpers/cmake.py` forwards these names to CMake."""
        flags = {name: value for name, value in facts.flags.items() if value}
        if facts.cuda == "cpu":
            flags |= dict.fromkeys(FOR_GPUS & facts.flags.keys(), "OFF")
        variables = {
            **flags,
            "MAX_JOBS": "{jobs}",
            # without both, the version is that of whatever repository lies around the tree
            "PYTORCH_BUILD_NUMBER": "1",
            "PYTORCH_BUILD_VERSION": facts.version,
            "USE_CCACHE": "OFF",  # or CMake takes a ccache that it happens to find
            "USE_CUDA": "OFF" if facts.cuda == "cpu" else "ON",
            "USE_ROCM": "OFF",
        }
        if facts.cuda != "cpu":
            variables |= FROM_WHEELS
            variables["TORCH_CUDA_ARCH_LIST"] = ";".join(str(item) for item in facts.architectures)
        return variables

    def expect(self, facts: BuildFacts) -> Mapping[str, str]:
        """Return what `torch.__config__.show()` must say, and whether there is RPC, of which it is silent."""
        flags = facts.flags
        names = ("USE_GLOO", "USE_MKLDNN", "USE_OPENMP", "USE_NNPACK", "USE_MPI")
        said = {name: flags[name] for name in names if name in flags}
        if "USE_TENSORPIPE" in flags:
            said["USE_TENSORPIPE"] = flags["USE_TENSORPIPE"]
        if flags.get("USE_DISTRIBUTED") == "OFF":
            said |= dict.fromkeys({"USE_GLOO", "USE_MPI", "USE_TENSORPIPE"} & said.keys(), "OFF")
        blas = {"BLAS_INFO": _blas(flags["BLAS"]).lower()} if flags.get("BLAS") else {}
        return {**said, **blas, "BUILD_TYPE": flags["CMAKE_BUILD_TYPE"]}

    def check_configured(self, output: str, cache: Mapping[str, str], facts: BuildFacts) -> None:
        """Demand that every flag is what was asked, as CMake's summary says, or its cache what the summary leaves out.

        A library that is missing turns its flag off without an error, and only there it shows. Nor may the processor
        of this machine decide what is compiled: of the same inputs, another machine would make another wheel.
        """
        found = dict(SUMMARY.findall(output))
        if "TORCH_VERSION" not in found:
            raise GateError(
                "CMake's summary is missing: it cannot be seen what is being built",
                why="no line of the output names TORCH_VERSION",
                fix="look into the log; for a release whose build prints none, tell pipelines/torch/recipe.py",
            )
        said = {name: cache[name] for name in facts.flags if name in cache} | found
        _compare("CMake", said, {**self.environment(facts), "TORCH_VERSION": facts.version})
        if facts.cuda != "cpu":
            _check_libraries(cache, facts.flags)
        lacking = [
            match[1]
            for name, status in sorted(cache.items())
            if (match := RUN.fullmatch(name)) and cache.get(f"{match[1]}_COMPILED") == "TRUE" and status != "0"
        ]
        if lacking:
            raise GateError(
                "this machine's processor decides what would be compiled",
                why=f"CMake could compile {', '.join(lacking)}, and not run it",
                fix="build on a processor that has it, or a release that asks the compiler alone: 2.4 and later",
            )

    def check(self, wheel: Path, facts: BuildFacts) -> tuple[str, ...]:
        """Demand that what is compiled into the wheel is what was asked.

        Before 2.9 only the suite can see it. Of a wheel that was not built here nothing was asked: it has no flags.
        """
        with zipfile.ZipFile(wheel) as archive:
            if not facts.flags or SETTINGS not in archive.namelist():
                return ()
            found = dict(SETTING.findall(archive.read(SETTINGS).decode()))
        wanted = self.expect(facts)
        _compare("the wheel", found, wanted)
        return (f"settings ({len(wanted.keys() & found.keys())})",)


def _check_libraries(cache: Mapping[str, str], flags: Mapping[str, str]) -> None:
    strays = [
        f"{name} is {cache[name]}"
        for name, place in FOUND_IN.items()
        if name in cache and not PurePath(cache[name]).is_relative_to(cache.get(place) or name)
    ]
    if strays:
        raise GateError(
            "a library of this machine would be compiled against",
            why=f"{'; '.join(strays)}: torch will run beside that of NVIDIA's wheel, which the lock pins",
            fix="leave it out: `--flag torch.USE_CUDNN=OFF`, `--flag torch.USE_NCCL=OFF`",
        )
    if flags.get("USE_KINETO") == "ON" and cache.get("LIBKINETO_NOCUPTI") == "ON":
        raise GateError(
            "the profiler would not see the GPU",
            why="CMake found no CUPTI, and leaves it out of Kineto without an error",
            fix="give a toolkit that holds CUPTI with `--toolkit`, or leave Kineto out: `--flag torch.USE_KINETO=OFF`",
        )


def _compare(who: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    wrong = [
        f"{name} is {found[name] or 'empty'}, asked was {value}"
        for name, value in sorted(wanted.items())
        if name in found and _same(found[name]) != _same(_blas(value) if name in {"BLAS", "BLAS_INFO"} else value)
    ]
    if wrong:
        raise GateError(
            f"{who} says something else than what was asked",
            why="; ".join(wrong),
            fix="install what is missing for it, or set the flag to what can be had: `--flag torch.NAME=VALUE`",
        )


def _same(value: str) -> str:
    word = value.upper()
    return "OFF" if word in NO else "ON" if word in YES else word


def _blas(value: str) -> str:
    return BLAS.get(value.upper(), value)


recipe = Torch()
