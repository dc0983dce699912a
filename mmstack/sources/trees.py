"""Source trees by digest: of the whole and of each part, and how two ways to the same release differ."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmstack.errors import PinError
from mmstack.keys import file_digest
from mmstack.sources.archive import tree_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

WHOLE = "tree"
SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Files by which two trees differ: in the first alone, in the second alone, in both but not the same."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.first or self.second or self.changed)


def digests(tree: Path, parts: Iterable[str]) -> dict[str, str]:
    """Return the digest of a whole tree, as `tree`, and of each of its parts by its folder.

    Raises:
        ArchiveError: there is something that is neither file, folder nor link.
    """
    return {WHOLE: tree_digest(tree), **{part: tree_digest(tree / part) for part in sorted(parts)}}


def check(what: str, found: Mapping[str, str], pinned: Mapping[str, str]) -> None:
    """Hold a tree against the digests that a lock has of it.

    Raises:
        PinError: one is another; parts are named before the whole.
    """
    wrong = [name for name in pinned if found.get(name) != pinned[name]]
    if wrong:
        named = [name for name in wrong if name != WHOLE] or wrong
        raise PinError(
            f"the source tree of {what} is not the one that the lock names",
            why="; ".join(f"{name} has {found.get(name, 'nothing')}, pinned is {pinned[name]}" for name in named),
            fix="find out who changed it; if the change is right, make the lock anew with `invoke lock --trees`",
        )


def difference(first: Path, second: Path) -> Difference:
    """Return how two trees differ, file by file; folders count by what is in them."""
    one, two = _contents(first), _contents(second)
    return Difference(
        first=tuple(sorted(one.keys() - two.keys())),
        second=tuple(sorted(two.keys() - one.keys())),
        changed=tuple(sorted(name for name in one.keys() & two.keys() if one[name] != two[name])),
    )


def lines(found: Difference, names: Sequence[str], limit: int = SHOWN) -> list[str]:
    """Return it in words, at most so many files of each sort; `names` are those of the two."""
    said = []
    for title, files in (
        (f"in {names[0]} alone", found.first),
        (f"in {names[1]} alone", found.second),
        ("in both, but not the same", found.changed),
    ):
        if files:
            said += [f"{title}: {len(files)}", *(f"  {name}" for name in files[:limit])]
            said += [f"  … and {len(files) - limit} more"] if len(files) > limit else []
    return said


def _contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): _content(path)
        for path in root.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link {path.readlink()}"
    mode = "program" if path.stat().st_mode & stat.S_IXUSR else "file"
    return f"{mode} {file_digest(path)}"
