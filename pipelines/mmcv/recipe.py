"""What data cannot say of mmcv: how flags become compiler options, and which ops must be inside."""

from __future__ import annotations

import ast
import fnmatch
import zipfile
from typing import TYPE_CHECKING

from mmstack.errors import GateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mmstack.recipes import BuildFacts


class Mmcv:
    """Builds upstream's `setup.py` with explicit options, and demands every op."""

    def environment(self, facts: BuildFacts) -> Mapping[str, str]:
        """Return compiler options that come after Python's own `-g`, so that they win."""
        debug = "-g" if facts.flags["DEBUG_INFO"] == "ON" else "-g0"
        return {"CFLAGS": debug, "CXXFLAGS": debug, "FORCE_CUDA": "0" if facts.cuda == "cpu" else "1"}

    def check(self, wheel: Path, facts: BuildFacts) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's signature
        """Demand that the compiled module names every function that mmcv's Python side loads from it.

        `ext_loader.load_ext('_ext', [...])` in `mmcv/ops/*.py` is where they are asked for.
        """
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            modules = [archive.read(name) for name in fnmatch.filter(names, "mmcv/_ext.*.so")]
            wanted = {
                function
                for name in fnmatch.filter(names, "mmcv/ops/*.py")
                for function in _loaded(archive.read(name).decode())
            }
        missing = sorted(name for name in wanted if not any(b"\0" + name.encode() + b"\0" in code for code in modules))
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
