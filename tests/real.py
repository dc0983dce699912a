"""A copy of this checkout with a state of its own, for real builds that must not share what is built already."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("mmstack", "pipelines", "patches", "stacks", "toolkits", "tasks.py", "pyproject.toml")
CUDA = ("--cuda", "13.0", "--index-only", "--arch", "9.0")

DEMAND = "MMSTACK_DEMAND_ALL"  # set where a machine has all that a test needs, and nobody would read why it was skipped


def lacking(what: str) -> NoReturn:
    """End a test for what this machine lacks: skipped, or failed where everything is demanded."""
    if os.environ.get(DEMAND):
        pytest.fail(what)
    pytest.skip(what)


def lay_out(folder: Path) -> Path:
    """Copy this checkout to `folder/checkout`, link what is downloaded into `folder/state`, and return the copy."""
    root = folder / "checkout"
    root.mkdir(parents=True)
    for name in COPIED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, root / name)
    for kept in ("downloads", "repositories"):
        if (own_state() / kept).exists():
            shutil.copytree(own_state() / kept, folder / "state" / kept, copy_function=_link)
    return root


def own_state() -> Path:
    """Return the state folder of this checkout, as its tasks have it."""
    return Path(os.environ.get("MMSTACK_HOME") or ROOT / ".mmstack").expanduser().absolute()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
