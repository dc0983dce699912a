"""A CUDA toolkit, or a single program of it, out of NVIDIA's wheels as they lie in an environment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mmstack.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

VERSIONED = re.compile(r"(?P<name>lib\w+\.so)\.\d+")


def complete(site: Path, version: str) -> Path:
    """Return the toolkit that an environment's wheels make together, with the names that linkers look for.

    The wheels hold `libcudart.so.13`, while `-lcudart` means `libcudart.so`, and `lib`, while compilers look
    into `lib64`.

    Raises:
        HostError: the wheels hold no toolkit of that version.
    """
    home = site / "nvidia" / f"cu{version.partition('.')[0]}"
    if not (home / "bin" / "nvcc").exists():
        raise HostError(
            f"the wheels for CUDA {version} hold no compiler",
            why=f"there is no {home / 'bin' / 'nvcc'}",
            fix="give another toolkit: `--toolkit system` or `--toolkit redist`",
        )
    for library in sorted((home / "lib").glob("lib*.so.*")):
        if match := VERSIONED.fullmatch(library.name):
            _link(library.with_name(match["name"]), library.name)
    _link(home / "lib64", "lib")
    return home


def program(site: Path, name: str) -> Path:
    """Return a program of the wheels.

    Raises:
        HostError: they do not hold it.
    """
    found = next(iter(sorted(site.glob(f"nvidia/*/bin/{name}"))), None)
    if found is None:
        raise HostError(f"NVIDIA's wheels hold no {name}", why=f"looked into {site}", fix="make the lock anew")
    return found


def _link(path: Path, target: str) -> None:
    if not path.is_symlink() and not path.exists():
        path.symlink_to(target)
