"""The tree of a folder that the user works on: built again and again, and touched only where the user changed it."""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mmstack.builders.build import remove_staged
from mmstack.errors import ChangedError
from mmstack.shapes import inner_path, load_as
from mmstack.store import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECORD = "sources.json"


def renew(new: Path, tree: Path, key: str) -> None:
    """Make a new tree the one that is built under a key; where there is one, touch only the sources that changed.

    What was compiled in the tree stays, so that the next build compiles no more than it must. What was copied to be
    packed does not: it would keep what the user has removed. Of a tree without a record nothing is known, nor kept.
    """
    record = tree.with_name(RECORD)
    names = {path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_symlink() or not path.is_dir()}
    before = _recorded(record) if tree.exists() else None
    if before is None:
        shutil.rmtree(tree, ignore_errors=True)
        new.replace(tree)
    else:
        write_json(record, {"files": sorted(before | names), "key": ""})  # whenever it is killed from here on
        remove_staged(tree)
        for name in sorted(before - names):
            _remove(tree, name)
        for name in sorted(names):
            if not _same(new / name, tree / name):
                _remove(tree, name)
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(new / name, tree / name, follow_symlinks=False)
    write_json(record, {"files": sorted(names), "key": key})


def is_ahead(*folders: Path) -> bool:
    """Return whether what is in some folders is dated after now, so that the clock has been set back since."""
    return any(any(_ahead(folder)) for folder in folders)


def date_by_our_clock(folder: Path) -> None:
    """Let no file be dated after now: another clock than ours was ahead when it was written, not when it was copied."""
    for file in _ahead(folder):
        os.utime(file, follow_symlinks=False)


def _ahead(folder: Path) -> Iterator[str]:
    now = time.time() + 2  # seconds, by which the clock of a server's disk may differ
    files = (f"{parent}/{name}" for parent, _folders, names in os.walk(folder) for name in names)
    return (file for file in files if os.lstat(file).st_mtime > now)


def holds(tree: Path, key: str) -> bool:
    """Return whether a tree is the one of a key."""
    try:
        return bool(load_as(tree.with_name(RECORD), {"key": str})["key"] == key)
    except (OSError, ValueError):
        return False


def demand(tree: Path, key: str) -> None:
    """Demand that a tree is still the one of a key.

    Raises:
        ChangedError: another run has renewed it.
    """
    if not holds(tree, key):
        raise ChangedError(
            f"another run builds the same folder of yours, as it is now, in {tree}",
            fix="let that one end, or run the same command again after it",
        )


def _recorded(record: Path) -> set[str] | None:
    try:
        return set(load_as(record, {"files": [inner_path], "key": str})["files"])
    except (OSError, ValueError):
        return None


def _same(new: Path, old: Path) -> bool:
    """Return whether both are links to the same place, or files alike in bytes and in whether they are programs."""
    if new.is_symlink() or old.is_symlink():
        return new.is_symlink() and old.is_symlink() and new.readlink() == old.readlink()
    return (
        old.is_file()
        and not (new.stat().st_mode ^ old.stat().st_mode) & stat.S_IXUSR
        and filecmp.cmp(new, old, shallow=False)
    )


def _remove(tree: Path, name: str) -> None:
    """Remove what stands under a name, unless nothing can, or that leads through a link."""
    path = tree / name
    if not os.path.lexists(path) or any((tree / parent).is_symlink() for parent in PurePosixPath(name).parents[:-1]):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
