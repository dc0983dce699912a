"""What data cannot say of mmcv: how flags become compiler options, and which ops must be inside."""

from __future__ import annotations

import ast
import fnmatch
import zipfile
from typing import TYPE_CHECKING

from mmstack.errors import GateError
from mmstack.recipes import DataOnly

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mmstack.recipes import BuildFacts


class Mmcv(DataOnly):
    """Gives both builds, CMake's and that of upstream's `setup.py`, the same options, and demands every op."""

    def environment(self, facts: BuildFacts) -> Mapping[str, str]:
        """Return every compiler option: setuptools drops those of the Python at hand where CFLAGS is set.

        Without `-DNDEBUG` upstream's assertions stay in, and one of them, in pixel_group, is wrong.
        """
        debug = "-g" if facts.flags["DEBUG_INFO"] == "ON" else "-g0"
        options = f"-O3 -DNDEBUG -fwrapv {debug}"
        compiled = {"MMCV_PREBUILT_EXT": "{built}/_ext.so"} if facts.flags["BUILD"] == "cmake" else {}
        common = {"CFLAGS": options, "CXXFLAGS": options, **compiled}
        if facts.cuda == "cpu":
            return {**common, "FORCE_CUDA": "0"}
        # Upstream gives nvcc no level, which for what runs on the host is -O0, and no -DNDEBUG: kernels check their
        # indices by assertions.
        # The list is spelt as torch.utils.cpp_extension wants it, for upstream's build; CMake is told by the engine
        architectures = ";".join(str(item) for item in facts.architectures)
        return {**common, "FORCE_CUDA": "1", "CUDAFLAGS": "-O1", "TORCH_CUDA_ARCH_LIST": architectures}

    def check(self, wheel: Path, facts: BuildFacts) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's signature
        """Demand that the compiled module names every function that mmcv's Python side loads from it.

        `ext_loader.load_ext('_ext', [...])` in `mmcv/ops/*.py` is where they are asked for. This looks
        at the names' strings, so that it needs no interpreter; the suite asks the module itself.
        """
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            modules = [archive.read(name) for name in fnmatch.filter(names, "mmcv/_ext.*.so")]
            wanted = {
                function
                for name in fnmatch.filter(names, "mmcv/ops/*.py")
                for function in _loaded(archive.read(name).decode())
            }
        # a linker keeps "deform_conv" as the tail of "modulated_deform_conv": only the end is certain
        missing = sorted(name for name in wanted if not any(name.encode() + b"\0" in code for code in modules))
        if missing or not wanted:
            raise GateError(
                f"{wheel.name}: gate 'ops' failed",
                why=f"mmcv._ext lacks {len(missing)} of {len(wanted)} functions: {', '.join(missing[:10])}",
                fix="look into the build log for sources that were left out",
            )
        return (f"ops ({len(wanted)})",)


def _loaded(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load_ext":
            yield from ast.literal_eval(node.args[1])


recipe = Mmcv()
