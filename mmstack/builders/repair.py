"""Shared libraries of a sysroot become part of the wheel that needs them, so that it runs where no sysroot is."""

from __future__ import annotations

import os
import shutil
import zipfile
from typing import TYPE_CHECKING

from mmstack.builders.enclose import check_members

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmstack.builders.build import Build

OUT = "repaired"


def repair(build: Build, wheel: Path, folders: Sequence[Path]) -> Path:
    """Bring what a wheel needs of these folders into it, in its own place; one that has it already stays as it is.

    Nothing of this machine's own comes in: every library is one that any machine has (glibc's, the compiler's), of
    the wheel itself, or of these folders. The tag stays: what is built with a machine's headers is for its like.

    Raises:
        BuildError: a library is nowhere, or the wheel needs symbols that no common platform has.
        GateError: the wheel holds what would not come out of it again.
    """
    with zipfile.ZipFile(wheel) as archive:
        check_members(archive, wheel)
    fresh = build.place.out.with_name(OUT)
    shutil.rmtree(fresh, ignore_errors=True)
    words: list[str | Path] = [build.place.env / "bin" / "auditwheel", "repair", "--no-update-tags"]
    build.run(*words, "--ldpaths", os.pathsep.join(map(str, folders)), "--wheel-dir", fresh, wheel)
    (fresh / wheel.name).replace(wheel)
    return wheel
