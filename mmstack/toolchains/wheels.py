"""A CUDA toolkit, or a single library or program, out of NVIDIA's wheels as they lie in an environment."""

from __future__ import annotations

import re
import shutil
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
    _name_for_linkers(home / "lib")
    _link(home / "lib64", "lib")
    return home


def lay_out(site: Path, into: Path) -> None:
    """Make a folder of each of NVIDIA's libraries in an environment, as what compiles against one looks for it.

    The environment itself stays as it was installed.
    """
    shutil.rmtree(into, ignore_errors=True)
    for source in sorted(site.glob("nvidia/*/lib")):
        folder = into / source.parent.name
        (folder / "lib").mkdir(parents=True)
        _link(folder / "include", str(source.with_name("include")))
        for library in source.iterdir():
            _link(folder / "lib" / library.name, str(library))
        _name_for_linkers(folder / "lib")


def program(site: Path, name: str) -> Path:
    """Return a program of the wheels.

    Raises:
        HostError: they do not hold it.
    """
    found = next(iter(sorted(site.glob(f"nvidia/*/bin/{name}"))), None)
    if found is None:
        raise HostError(f"NVIDIA's wheels hold no {name}", why=f"looked into {site}", fix="make the lock anew")
    return found


def _name_for_linkers(folder: Path) -> None:
    for library in sorted(folder.glob("lib*.so.*")):
        if match := VERSIONED.fullmatch(library.name):
            _link(library.with_name(match["name"]), library.name)


def _link(path: Path, target: str) -> None:
    if not path.is_symlink() and not path.exists():
        path.symlink_to(target)
