"""Applies patch series: exactly, or not at all.

A hunk must match line for line, at its place or at one other place only; there is no fuzz. One that
begins at the first line or ends without context belongs to the beginning or the end of its file.
A patch that does not apply, is already applied or changes nothing is an error with its name.
"""

from __future__ import annotations

import os
from io import StringIO
from typing import TYPE_CHECKING

from unidiff.constants import LINE_TYPE_ADDED, LINE_TYPE_CONTEXT, LINE_TYPE_NO_NEWLINE, LINE_TYPE_REMOVED
from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchSet

from mmstack.errors import PatchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from unidiff.patch import Hunk, PatchedFile

    from mmstack.model import Patch

NO_FILE = "/dev/null"
LONGEST_NAME, LONGEST_PATH = 255, 2048
LINE_TYPES = {LINE_TYPE_ADDED, LINE_TYPE_CONTEXT, LINE_TYPE_REMOVED}
PLAIN_MODES = {None, "100644"}


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
            date = path.stat().st_mtime_ns if path.exists() else None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode("utf-8", "surrogateescape"))
            if date is not None:
                os.utime(path, ns=(date, date))  # the tree may have its own date from this file


def is_applied(patch: Patch, tree: Path) -> bool:
    """Return whether a tree already holds all that the patch brings."""
    try:
        for file in _parse(patch):
            path = _inside(patch, tree, file)
            if file.target_file == NO_FILE:
                if path.exists():
                    return False
            elif not path.is_file() or (
                _replace(patch, file, _lines(path), backwards=True) and file.source_file == NO_FILE
            ):
                return False
    except PatchError:
        return False
    return True


def changed_files(patch: Patch, tree: Path) -> dict[Path, str | None]:
    """Return what the patch makes of the files that it touches; None for a file removed.

    Raises:
        PatchError: it does not apply, is already applied, or changes nothing.
    """
    files = _parse(patch)
    try:
        changes = _changes(patch, tree, files)
    except PatchError as error:
        if is_applied(patch, tree):
            raise _error(patch, "is already applied", "the tree holds its changes already") from error
        raise
    if not changes or all(path.exists() and _text(path) == text for path, text in changes.items()):
        raise _error(patch, "changes nothing", "it has no hunk that alters the tree")
    return changes


def _parse(patch: Patch) -> PatchSet:
    try:
        text = _text(patch.file)
        files = PatchSet(text)
    except (UnidiffParseError, ValueError, IndexError) as error:
        raise _error(patch, "is malformed", str(error)) from error
    if text and not text.endswith("\n"):
        raise _error(patch, "is malformed", "it ends within a line")
    if stray := _stray(text.split("\n"), files):
        raise _error(patch, "is malformed", f"a hunk ends before its lines do: {stray!r}")
    for file in files:
        if file.is_binary_file:
            raise _error(patch, f"changes {file.path}, which is binary", "only text can be reviewed")
        if file.is_rename:
            raise _error(patch, f"renames {file.path}", "a rename hides what changes; remove and add instead")
        changes_mode = file.source_file != NO_FILE != file.target_file and file.source_mode != file.target_mode
        if changes_mode or (file.source_file == NO_FILE and file.target_mode not in PLAIN_MODES):
            raise _error(patch, f"sets the mode of {file.path}", "a patch changes text alone")
    return files


def _stray(lines: Sequence[str], files: PatchSet) -> str:
    """Return a line that looks like one of a hunk, but stands behind it: the parser takes it for a comment."""
    for hunk in (hunk for file in files for hunk in file):
        end = max((line.diff_line_no or 0 for line in hunk if line.line_type in LINE_TYPES), default=0)
        if end == 0:
            return str(hunk)
        behind = lines[end + 1] if lines[end].startswith("\\") else lines[end]
        if behind.startswith((" ", "+", "-")) and not behind.startswith(("--- ", "-- ")):
            return behind
    return ""


def _changes(patch: Patch, tree: Path, files: PatchSet) -> dict[Path, str | None]:
    changes: dict[Path, str | None] = {}
    for file in files:
        path = _inside(patch, tree, file)
        if path in changes:
            raise _error(patch, f"changes {file.path} in two places", "put its hunks together")
        changes[path] = _changed(patch, path, file)
    for path in changes:
        if any(parent in changes or parent.is_file() for parent in path.parents):
            raise _error(patch, f"writes below a file: {path.relative_to(tree)}", "only a folder can hold a file")
    return changes


def _changed(patch: Patch, path: Path, file: PatchedFile) -> str | None:
    adds, removes = file.source_file == NO_FILE, file.target_file == NO_FILE
    if adds and path.exists():
        raise _error(patch, f"adds {file.path}, which is there", "the file exists")
    if not adds and (not path.is_file() or path.is_symlink()):
        raise _error(patch, f"changes {file.path}, which is not there", "the tree has no such file")
    lines = _replace(patch, file, _lines(path), backwards=False)
    if removes and lines:
        raise _error(patch, f"does not apply to {file.path}", "it removes the file, but not all of its lines")
    if any(not line.endswith("\n") for line in lines[:-1]):
        raise _error(patch, "is malformed", f"it leaves a line of {file.path} without its end")
    return None if removes else "".join(lines)


def _replace(patch: Patch, file: PatchedFile, lines: list[str], *, backwards: bool) -> list[str]:
    result, position, drift = [], 0, 0
    for hunk in file:
        old, new, start = _sides(hunk, backwards=backwards)
        last = not [line for line in hunk if line.line_type in LINE_TYPES][-1].is_context
        at = _find(lines, old, start + drift, position, first=start == 0, last=last)
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


def _find(lines: Sequence[str], wanted: list[str], expected: int, start: int, *, first: bool, last: bool) -> int | None:
    """Return where the wanted lines stand, none of them only in an empty file."""
    end = len(lines) - len(wanted)
    places = range(max(start, end if last else start), min(end, 0 if first else end) + 1)
    found = [at for at in places if lines[at : at + len(wanted)] == wanted and (wanted or not lines)]
    return expected if expected in found else found[0] if len(found) == 1 else None


def _inside(patch: Patch, tree: Path, file: PatchedFile) -> Path:
    name = file.target_file if file.source_file == NO_FILE else file.source_file
    relative = name.split("/", 1)[1] if name.startswith(("a/", "b/")) else name
    path = tree / relative
    parts = relative.split("/")
    if {"", ".", ".."} & set(parts) or set('\\\0"') & set(relative):
        raise _error(patch, f"names a path outside the tree: {relative!r}", "it must stay inside")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in parts) or len(os.fsencode(relative)) > LONGEST_PATH:
        raise _error(patch, f"names a path that is too long: {relative[:60]!r}…", "no file can have it")
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
        fix=f"narrow its range in patches/{patch.file.parent.name}/series.toml, or remove its entry there and make it "
        "anew with `invoke patches.edit` and `patches.save`",
    )
