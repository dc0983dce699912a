"""Applies patch series: exactly, or not at all.

A hunk must match line for line, at its place or at one other place only; there is no fuzz.
A patch that does not apply, is already applied or changes nothing is an error with its name.
"""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from unidiff.constants import LINE_TYPE_NO_NEWLINE
from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchSet

from mmstack.errors import PatchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from unidiff.patch import Hunk, PatchedFile

    from mmstack.model import Patch

NO_FILE = "/dev/null"


def apply(patch: Patch, tree: Path) -> None:
    """Apply a patch to a tree; on failure the tree is as it was.

    Raises:
        PatchError: it does not apply, is already applied, or changes nothing.
    """
    changes = changed_files(patch, tree)
    for path, content in changes.items():
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode("utf-8", "surrogateescape"))


def is_applied(patch: Patch, tree: Path) -> bool:
    """Return whether a tree already holds all that the patch brings."""
    try:
        for file in _parse(patch):
            path = _inside(patch, tree, file)
            if file.is_removed_file:
                if path.exists():
                    return False
            else:
                _replace(patch, file, _lines(path), backwards=True)
    except (PatchError, FileNotFoundError):
        return False
    return True


def changed_files(patch: Patch, tree: Path) -> dict[Path, str | None]:
    """Return what the patch makes of the files that it touches; None for a file removed.

    Raises:
        PatchError: it does not apply, is already applied, or changes nothing.
    """
    files = _parse(patch)
    try:
        changes = {_inside(patch, tree, file): _changed(patch, tree, file) for file in files}
    except PatchError as error:
        if is_applied(patch, tree):
            raise _error(patch, "is already applied", "the tree holds its changes already") from error
        raise
    if not changes or all(path.exists() and _text(path) == text for path, text in changes.items()):
        raise _error(patch, "changes nothing", "it has no hunk that alters the tree")
    return changes


def _parse(patch: Patch) -> PatchSet:
    try:
        text = patch.file.read_text(encoding="utf-8", errors="surrogateescape")
        if "GIT binary patch" in text:
            raise _error(patch, "is binary", "only text can be reviewed")
        return PatchSet(text)
    except (UnidiffParseError, ValueError, IndexError) as error:
        raise _error(patch, "is malformed", str(error)) from error


def _changed(patch: Patch, tree: Path, file: PatchedFile) -> str | None:
    path = _inside(patch, tree, file)
    if file.is_rename:
        raise _error(patch, f"renames {file.path}", "a rename hides what changes; remove and add instead")
    if file.is_added_file:
        if path.exists():
            raise _error(patch, f"adds {file.path}, which is there", "the file exists")
        return "".join(line for hunk in file for line in _body(hunk, removed=False))
    if not path.is_file() or path.is_symlink():
        raise _error(patch, f"changes {file.path}, which is not there", "the tree has no such file")
    lines = _replace(patch, file, _lines(path), backwards=False)
    return None if file.is_removed_file else "".join(lines)


def _replace(patch: Patch, file: PatchedFile, lines: list[str], *, backwards: bool) -> list[str]:
    result, position, drift = [], 0, 0
    for hunk in file:
        old, new, start = _sides(hunk, backwards=backwards)
        at = _find(lines, old, start + drift, position)
        if at is None:
            raise _error(
                patch, f"does not apply to {file.path}", f"the lines at {start + 1} are not what the hunk expects"
            )
        drift = at - start
        result += lines[position:at] + new
        position = at + len(old)
    return result + lines[position:]


def _sides(hunk: Hunk, *, backwards: bool) -> tuple[list[str], list[str], int]:
    source, target = _body(hunk, removed=True), _body(hunk, removed=False)
    if backwards:
        return target, source, max(hunk.target_start - 1, 0)
    return source, target, max(hunk.source_start - 1, 0)


def _body(hunk: Hunk, *, removed: bool) -> list[str]:
    lines: list[str] = []
    ours = False
    for line in hunk:
        if line.line_type == LINE_TYPE_NO_NEWLINE:
            if ours:
                lines[-1] = lines[-1].removesuffix("\n")
            continue
        ours = line.is_context or (line.is_removed if removed else line.is_added)
        if ours:
            lines.append(line.value)
    return lines


def _find(lines: Sequence[str], wanted: list[str], expected: int, start: int) -> int | None:
    if expected >= start and lines[expected : expected + len(wanted)] == wanted:
        return expected
    found = [at for at in range(start, len(lines) - len(wanted) + 1) if lines[at : at + len(wanted)] == wanted]
    return found[0] if len(found) == 1 and wanted else None


def _inside(patch: Patch, tree: Path, file: PatchedFile) -> Path:
    name = file.target_file if file.source_file == NO_FILE else file.source_file
    relative = name.split("/", 1)[1] if name.startswith(("a/", "b/")) else name
    path = tree / relative
    parts = relative.split("/")
    if relative.startswith("/") or ".." in parts or "" in parts or "\\" in relative or "\0" in relative:
        raise _error(patch, f"names a path outside the tree: {relative!r}", "it must stay inside")
    if any(parent.is_symlink() for parent in [path, *path.parents] if tree in parent.parents):
        raise _error(patch, f"writes through a symbolic link: {relative!r}", "it must stay inside")
    return path


def _lines(path: Path) -> list[str]:
    return StringIO(_text(path)).readlines() if path.exists() else []


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _error(patch: Patch, what: str, why: str) -> PatchError:
    return PatchError(
        f"patch '{patch.id}' {what}",
        why=why,
        fix="make it anew with `invoke patches.edit` and `patches.save`, or narrow its range in "
        f"patches/{patch.file.parent.name}/series.toml",
    )
