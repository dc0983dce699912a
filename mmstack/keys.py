"""Content keys: the same inputs give the same key, on every machine and every day."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    Json = str | int | bool | None | Mapping[str, "Json"] | list["Json"] | tuple["Json", ...]

FORMAT = 1
ENGINE = 3  # rises when the engine builds differently, so that nothing is taken for what it no longer makes


def digest(value: Json) -> str:
    """Return the hex sha256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def key(kind: str, inputs: Mapping[str, Json]) -> str:
    """Return the content key of a thing of that kind made from these inputs."""
    return digest({"format": FORMAT, "kind": kind, **inputs})


def file_digest(path: Path) -> str:
    """Return the hex sha256 of a file's contents."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def files_digest(root: Path, files: Iterable[Path]) -> str:
    """Return one digest over the names (relative to `root`) and contents of some files."""
    return digest([[path.relative_to(root).as_posix(), file_digest(path)] for path in sorted(files)])
