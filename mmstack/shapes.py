"""What is read back from JSON, held against what was written: nobody promises that it is still the same."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    # A type; a test of a value; a list of one shape; a table that has at least these keys.
    Shape = type | Callable[[Any], bool] | list[Any] | Mapping[str, Any]


def load(file: Path) -> Any:  # noqa: ANN401 - whatever it holds
    """Return what a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or deeper than any of ours.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def load_as(file: Path, shape: Shape) -> Any:  # noqa: ANN401 - what the shape says
    """Return what a JSON file holds, if it is of that shape.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or of another shape.
    """
    value = load(file)
    if where := misfit(value, shape):
        raise ValueError(f"{where} is not what it must be")
    return value


def misfit(value: object, shape: Shape, at: str = "the document") -> str:
    """Return the first place where a value is not of a shape, nothing where all of it is."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return at
        return next((found for n, item in enumerate(value) if (found := misfit(item, shape[0], f"{at}[{n}]"))), "")
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            return at
        places = ((f"{at}.{name}", name, inner) for name, inner in shape.items())
        return next((found for place, name, inner in places if (found := _missing(value, name, inner, place))), "")
    if isinstance(shape, type):
        return "" if isinstance(value, shape) and (shape is bool or not isinstance(value, bool)) else at
    return "" if shape(value) else at


def _missing(value: Mapping[str, object], name: str, shape: Shape, at: str) -> str:
    return misfit(value[name], shape, at) if name in value else at


def maybe(shape: Shape) -> Callable[[Any], bool]:
    """Return the shape of what may also be null."""
    return lambda value: value is None or not misfit(value, shape)


def table_of(shape: Shape) -> Callable[[Any], bool]:
    """Return the shape of a table with any keys."""
    return lambda value: isinstance(value, dict) and not any(misfit(item, shape) for item in value.values())


def one_of(*words: str) -> Callable[[Any], bool]:
    """Return the shape of a closed set of words."""
    return lambda value: isinstance(value, str) and value in words


def amount(value: object) -> bool:
    """Return whether a value is a number that seconds and bytes can be."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value < 1e18 and math.isfinite(value)  # noqa: PLR2004 - an age of the world, and more than any disk


def count(value: object) -> bool:
    """Return whether a value is a whole number from 0 on."""
    return isinstance(value, int) and amount(value)


def file_name(value: object) -> bool:
    """Return whether a value is the name of a file, and no path that leads elsewhere."""
    return isinstance(value, str) and "\0" not in value and value not in {"", ".", ".."} and "/" not in value


def inner_path(value: object) -> bool:
    """Return whether a value is a path below a folder, and leads out of it nowhere."""
    if not isinstance(value, str) or "\0" in value:
        return False
    path = PurePosixPath(value)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def positive(value: object) -> bool:
    """Return whether a value is a whole number from 1 on."""
    return count(value) and value != 0


OUTCOMES = one_of("passed", "failed", "not run")
CHECK: Mapping[str, Any] = {"name": str, "outcome": OUTCOMES, "seconds": amount, "detail": str}
GPU_CODE: Shape = {"module": str, "target": str, "kernels": count}
ARTIFACT: Mapping[str, Any] = {
    "layer": str,
    "filename": file_name,
    "sha256": str,
    "size": count,
    "seconds": amount,
    "gates": [str],
    "reproducible": bool,
    "gpu_code": [GPU_CODE],
}
VERIFICATION: Mapping[str, Any] = {"layer": str, "seconds": amount, "checks": [CHECK]}
REQUIREMENT: Shape = {"name": str, "version": str, "sha256": [str]}
FILE: Shape = {"filename": file_name, "sha256": str}
LAYER: Shape = {
    "name": file_name,
    "project": str,
    "version": str,
    "recipe": str,
    "source": {
        "kind": str,
        "path": str,
        "folders": [str],
        "files": [FILE],
        "git": maybe({"url": str, "commit": str}),
        "packages": [{"name": str, "sha256": str}],
    },
    "patches": [{"id": str, "sha256": str, "reason": str, "upstream": str, "retire_when": str}],
    "cuda": str,
    "expect": table_of(str),
    "flags": table_of(str),
    "environment": table_of(str),
    "build_requires": [REQUIREMENT],
    "key": str,
    "verify_key": str,
    "reproducible": bool,
}
STEP: Shape = {
    "id": str,
    "kind": str,
    "layer": str,
    "title": str,
    "needs": [str],
    "heavy": bool,
    "outcome": one_of("done", "failed", "cached", "not reached"),
    "start": amount,
    "seconds": amount,
    "detail": str,
    "edges": [{"output": str, "start": amount, "seconds": amount}],
}
MANIFEST: Shape = {
    "generator": str,
    "engine": count,
    "builder": {},
    "stack": {"name": file_name, "summary": str, "cuda": str},
    "key": str,
    "verdict": one_of("verified", "not verified", "failed"),
    "error": maybe({"slug": str, "what": str, "why": str, "fix": str}),
    "started": str,
    "seconds": amount,
    "cpu_seconds": amount,
    "cores": positive,
    "jobs": count,
    "interpreter": {"path": str, "version": str, "tag": str, "platform": str},
    "compiler": maybe({"cc": str, "cxx": str, "version": str, "linker": maybe({"kind": str, "version": str})}),
    "toolkit": maybe(
        {
            "version": str,
            "kind": str,
            "origin": str,
            "architectures": [str],
            "files": [FILE],
            "requirements": [REQUIREMENT],
        }
    ),
    "layers": [LAYER],
    "requirements": [{"set": str, "name": str, "version": str, "sha256": [str]}],
    "artifacts": [{**ARTIFACT, "key": str}],
    "steps": [STEP],
    "compiler_caches": [
        {
            "step": str,
            "cache": str,
            "version": str,
            **dict.fromkeys(("hits", "misses", "uncacheable", "errors"), count),
        }
    ],
    "verifications": [
        {
            **VERIFICATION,
            "cached": bool,
            "counts": dict.fromkeys(("passed", "failed", "not run"), count),
        }
    ],
    "warnings": [str],
    "reproduce": str,
    "options": {},
}
