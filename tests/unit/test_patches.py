from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mmstack.errors import PatchError
from mmstack.model import Patch
from mmstack.patches import apply, is_applied

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OLD = "".join(f"line {number}\n" for number in range(1, 13))
NEW = OLD.replace("line 6\n", "line six\nand more\n")
MANY = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Tree:
    """A tree and the patches for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "tree"
        self.root.mkdir()

    def put(self, **files: str | bytes) -> None:
        """Write files; a double underscore in a name is a slash."""
        for name, content in files.items():
            path = self.root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)

    def patch(self, text: str | bytes) -> Patch:
        """Return a patch of that text."""
        file = self.folder / "0001-some.patch"
        file.write_bytes(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
        return Patch(id="some", project="p", file=file, sha256="", versions="", reason="", upstream="", retire_when="")

    def apply(self, text: str | bytes) -> None:
        """Apply a patch of that text, after which the tree holds it."""
        apply(self.patch(text), self.root)
        assert is_applied(self.patch(text), self.root)

    def refusal(self, text: str | bytes) -> str:
        """Return why a patch is refused; nothing in the tree may have changed."""
        before = self.content()
        with pytest.raises(PatchError) as caught:
            apply(self.patch(text), self.root)
        assert self.content() == before
        assert "patches.edit" in caught.value.fix
        return str(caught.value)

    def content(self) -> Mapping[str, bytes]:
        """Return all files, and where links lead."""
        paths = [path for path in sorted(self.root.rglob("*")) if path.is_symlink() or path.is_file()]
        return {
            path.relative_to(self.root).as_posix(): os.fsencode(path.readlink())
            if path.is_symlink()
            else path.read_bytes()
            for path in paths
        }

    def text(self, name: str = "file") -> str:
        """Return a file's text."""
        return (self.root / name).read_bytes().decode("utf-8", "surrogateescape")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return a tree with one file."""
    tree = Tree(tmp_path)
    tree.put(file=OLD)
    return tree


def diff(old: str, new: str, name: str = "file", context: int = 3) -> str:
    """Return what `git diff` would write, by other means."""
    before, after = (StringIO(text).readlines() for text in (old, new))
    lines = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}", n=context)
    body = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return f"Some words.\n---\ndiff --git a/{name} b/{name}\n{body}"


def test_a_patch_is_applied_where_it_was_made(tree: Tree) -> None:
    """Line by line at its own place."""
    tree.apply(diff(OLD, NEW))
    assert tree.text() == NEW


def test_a_patch_is_applied_where_its_lines_have_moved(tree: Tree) -> None:
    """Lines above it do not matter, and later hunks move with the first."""
    new = NEW.replace("line 11\n", "")
    tree.put(file="x\n" * 50 + OLD)
    tree.apply(diff(OLD, new))
    assert tree.text() == "x\n" * 50 + new


def test_later_hunks_move_with_the_first(tree: Tree) -> None:
    """Where their lines stand twice, the place is the one that moved as far."""
    block = "".join(f"same {number}\n" for number in range(7))
    changed = block.replace("same 3\n", "same three\n")
    tree.put(file="x\n" * 50 + OLD + block + block)
    tree.apply(diff(OLD + block + block, NEW + changed + block))
    assert tree.text() == "x\n" * 50 + NEW + changed + block


def test_there_is_no_fuzz(tree: Tree) -> None:
    """One line of context that differs, be it by a space, and the patch is not for this tree."""
    tree.put(file=OLD.replace("line 4\n", "line 4 \n"))
    assert "does not apply to file" in tree.refusal(diff(OLD, NEW))


def test_a_place_that_is_not_the_only_one_is_not_guessed(tree: Tree) -> None:
    """Moved lines that stand there twice could mean either."""
    tree.put(file="x\n" + OLD + OLD)
    assert "does not apply" in tree.refusal(diff(OLD + "end\n", NEW + "end\n"))


def test_the_place_that_is_named_is_taken_even_if_there_are_others(tree: Tree) -> None:
    """The first of two equal blocks is changed where the patch says the first."""
    tree.put(file=OLD + OLD)
    tree.apply(diff(OLD + OLD, NEW + OLD))
    assert tree.text() == NEW + OLD


def test_the_beginning_and_the_end_are_places_too(tree: Tree) -> None:
    """A hunk without context on one side belongs to that end of the file."""
    assert "does not apply" in tree.refusal(diff("line 2\nline 3\n", "line 2\nline 3\nlast\n"))
    assert "does not apply" in tree.refusal(diff("line 2\nline 3\nline 4\n", "first\nline 2\nline 3\nline 4\n"))


def test_a_hunk_without_context_is_only_for_an_empty_file(tree: Tree) -> None:
    """Without context nothing says that the place is right."""
    assert "does not apply" in tree.refusal(diff(OLD, OLD.replace("line 5\n", "line 5\nnew\n"), context=0))
    tree.put(file="")
    tree.apply(diff("", "new\n"))
    assert tree.text() == "new\n"


def test_what_is_applied_is_not_applied_again(tree: Tree) -> None:
    """The error says that it is there, not that it does not fit."""
    tree.apply(diff(OLD, NEW))
    assert "is already applied" in tree.refusal(diff(OLD, NEW))


@pytest.mark.parametrize(
    "new",
    [OLD.replace("line 6\n", ""), OLD.removeprefix("line 1\n"), OLD.removesuffix("line 12\n"), ""],
    ids=["middle", "beginning", "end", "all"],
)
def test_a_patch_that_only_removes_lines_is_known_as_applied_or_not(tree: Tree, new: str) -> None:
    """The fresh tree holds every line that such a patch leaves, and yet it is not applied."""
    patch = diff(OLD, new)
    assert not is_applied(tree.patch(patch), tree.root)
    tree.apply(patch)
    assert tree.text() == new
    assert "is already applied" in tree.refusal(patch)


def test_half_a_patch_is_not_a_patch(tree: Tree) -> None:
    """Of two files one fits: neither is changed, and the patch counts as not applied."""
    tree.put(other="something else\n")
    patch = diff(OLD, NEW) + diff(OLD, NEW, "other")
    assert "does not apply to other" in tree.refusal(patch)
    tree.put(file=NEW)
    assert "is already applied" not in tree.refusal(patch)


@pytest.mark.parametrize("text", ["", "only words\n", "--- a/file\n+++ b/file\n", "diff --git a/file b/file\n"])
def test_a_patch_that_changes_nothing_is_refused(tree: Tree, text: str) -> None:
    """No hunk, nothing to do: somebody thinks it does something."""
    assert "changes nothing" in tree.refusal(text)


def test_a_hunk_that_changes_nothing_is_refused(tree: Tree) -> None:
    """Context alone is no change."""
    assert "changes nothing" in tree.refusal("--- a/file\n+++ b/file\n@@ -1,2 +1,2 @@\n line 1\n line 2\n")


def new_file(name: str, *lines: str, mode: str = "100644") -> str:
    """Return a patch that adds a file."""
    body = "".join(f"+{line}\n" for line in lines)
    hunk = f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{body}" if lines else ""
    return f"diff --git a/{name} b/{name}\nnew file mode {mode}\nindex 0000000..1111111\n{hunk}"


def removed_file(name: str, *lines: str) -> str:
    """Return a patch that removes a file."""
    body = "".join(f"-{line}\n" for line in lines)
    hunk = f"--- a/{name}\n+++ /dev/null\n@@ -1,{len(lines)} +0,0 @@\n{body}" if lines else ""
    return f"diff --git a/{name} b/{name}\ndeleted file mode 100644\nindex 1111111..0000000\n{hunk}"


@pytest.mark.parametrize("lines", [("one", "two"), ()], ids=["full", "empty"])
def test_a_new_file_is_added_with_its_folders(tree: Tree, lines: tuple[str, ...]) -> None:
    """Once; where there is one already, it is not overwritten."""
    patch = new_file("deep/er/new", *lines)
    tree.apply(patch)
    assert tree.text("deep/er/new") == "".join(f"{line}\n" for line in lines)
    assert "is already applied" in tree.refusal(patch)
    tree.put(deep__er__new="other\n")
    assert "adds deep/er/new, which is there" in tree.refusal(patch)


def test_a_file_is_not_added_below_a_file(tree: Tree) -> None:
    """Neither one of the tree nor one that the same patch adds."""
    assert "writes below a file" in tree.refusal(new_file("file/new", "x"))
    assert "writes below a file" in tree.refusal(new_file("new", "x") + new_file("new/er", "x"))


@pytest.mark.parametrize("lines", [("one", "two"), ()], ids=["full", "empty"])
def test_a_file_is_removed(tree: Tree, lines: tuple[str, ...]) -> None:
    """All of it, and only if it is what the patch says."""
    patch = removed_file("gone", *lines)
    tree.put(gone="one\ntwo\nthree\n")
    assert "does not apply to gone" in tree.refusal(patch)
    tree.put(gone="".join(f"{line}\n" for line in lines))
    tree.apply(patch)
    assert not (tree.root / "gone").exists()
    assert "is already applied" in tree.refusal(patch)


def test_a_file_that_loses_all_lines_stays(tree: Tree) -> None:
    """Empty is not removed."""
    tree.apply(diff(OLD, ""))
    assert tree.text() == ""


def test_a_file_that_is_not_there_cannot_be_changed(tree: Tree) -> None:
    """The error names it."""
    assert "changes other, which is not there" in tree.refusal(diff(OLD, NEW, "other"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a\nb", "a\nc"),
        ("a\nb", "a\nb\n"),
        ("a\nb\n", "a\nb"),
        ("a\nb", "a\nb\nc"),
        ("a\r\nb\r\n", "a\r\nc\r\n"),
        ("a\r\nb\r\n", "a\nb\n"),
        ("a\rb\n\x0c\x85\u2028x\n", "a\rb\nc\n"),
        ("\udcff\udcfe\nb\n", "\udcff\udcfe\nc\udce4\n"),
        ("a\0\nb\n", "a\0\nc\n"),
        ("\n\n\n", "\n\n"),
    ],
    ids=["end", "end comes", "end goes", "line after", "CRLF", "CRLF goes", "breaks", "bytes", "NUL", "empty lines"],
)
def test_every_byte_counts(tree: Tree, old: str, new: str) -> None:
    """The end of the file, line ends and bytes that are no UTF-8 come out as the patch has them."""
    tree.put(file=old)
    tree.apply(diff(old, new))
    assert tree.text() == new


def test_line_ends_must_match(tree: Tree) -> None:
    """A patch for LF is not one for CRLF."""
    tree.put(file=OLD.replace("\n", "\r\n"))
    assert "does not apply" in tree.refusal(diff(OLD, NEW))


def test_a_missing_end_of_the_last_line_must_match(tree: Tree) -> None:
    """A file that ends within a line is another than one that does not."""
    tree.put(file="a\nb")
    assert "does not apply" in tree.refusal(diff("a\nb\n", "a\nc\n"))


def test_a_name_may_have_a_space(tree: Tree) -> None:
    """As git writes it, with a tab behind."""
    tree.put(**{"my file": "a\n"})
    tree.apply("diff --git a/my file b/my file\n--- a/my file\t\n+++ b/my file\t\n@@ -1 +1 @@\n-a\n+b\n")
    assert tree.text("my file") == "b\n"


def test_a_diff_may_come_without_git(tree: Tree) -> None:
    """Plain unified diffs, with prefixes or without."""
    tree.apply("--- file\t2026-01-01\n+++ file\t2026-01-02\n@@ -12 +12 @@\n-line 12\n+line twelve\n")
    assert tree.text() == OLD.replace("line 12", "line twelve")


REFUSED = {
    "rename": ("diff --git a/file b/new\nsimilarity index 100%\nrename from file\nrename to new\n", "renames"),
    "copy": ("diff --git a/file b/new\nsimilarity index 100%\ncopy from file\ncopy to new\n", "renames"),
    "git's binary": ("diff --git a/file b/file\nindex 1..2 100644\nGIT binary patch\nliteral 1\nIc\n\n", "is binary"),
    "binary": ("diff --git a/file b/file\nindex 1..2 100644\nBinary files a/file and b/file differ\n", "is binary"),
    "mode": ("diff --git a/file b/file\nold mode 100644\nnew mode 100755\n", "sets the mode of file"),
    "new program": (new_file("new", "x", mode="100755"), "sets the mode of new"),
    "new link": (new_file("new", "file", mode="120000"), "sets the mode of new"),
    "one file twice": (diff(OLD, NEW) + diff(OLD, NEW), "changes file in two places"),
    "absolute": (new_file("/etc/new", "x"), "outside the tree"),
    "absolute without prefix": ("--- /dev/null\n+++ /etc/new\n@@ -0,0 +1 @@\n+x\n", "outside the tree"),
    "parent": (new_file("../new", "x"), "outside the tree"),
    "parent within": (new_file("deep/../../new", "x"), "outside the tree"),
    "parent of a change": ("--- a/../tree/file\n+++ b/../tree/file\n@@ -1 +1 @@\n-line 1\n+x\n", "outside the tree"),
    "backslash": (new_file("..\\new", "x"), "outside the tree"),
    "NUL": (new_file("new\0er", "x"), "outside the tree"),
    "quoted": ('--- /dev/null\n+++ "b/new"\n@@ -0,0 +1 @@\n+x\n', "outside the tree"),
    "below a link": (new_file("link/new", "x"), "through a symbolic link"),
    "through a link": (diff(OLD, NEW, "filelink"), "through a symbolic link"),
    "dead link": (new_file("dead", "x"), "through a symbolic link"),
    "short hunk": ("--- a/file\n+++ b/file\n@@ -1,3 +1,3 @@\n-line 1\n+x\n", "is malformed"),
    "long hunk": (diff(OLD, NEW).replace("-3,7 +3,8", "-3,6 +3,7"), "a hunk ends before its lines do: ' line 9'"),
    "lines behind": (diff(OLD, NEW) + "+x\n", "a hunk ends before its lines do: '+x'"),
    "empty hunk": ("--- a/file\n+++ b/file\n@@ -0,0 +0,0 @@\n", "is malformed"),
    "hunk of nothing": ("--- a/file\n+++ b/file\n@@ -0,0 +0,0 @@\n\\ No newline at end of file\n", "is malformed"),
    "no header": ("@@ -1 +1 @@\n-line 1\n+x\n", "is malformed"),
    "no numbers": ("--- a/file\n+++ b/file\n@@ -a +b @@\n-line 1\n+x\n", "changes nothing"),
    "cut short": (diff(OLD, OLD + "x\n").removesuffix("\n"), "ends within a line"),
    "a line without its end": (
        "--- a/file\n+++ b/file\n@@ -12 +12,2 @@\n-line 12\n+x\n\\ No newline at end of file\n+y\n",
        "without its end",
    ),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_what_hides_or_escapes_is_refused(tree: Tree, tmp_path: Path, text: str, words: str) -> None:
    """Nothing is written, neither in the tree nor beside it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tree.root / "link").symlink_to(outside)
    (tree.root / "filelink").symlink_to("file")
    (tree.root / "dead").symlink_to(outside / "new")
    assert words in tree.refusal(text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0001-some.patch", "outside", "tree"]
    assert list(outside.iterdir()) == []


def test_a_patch_may_end_with_git_s_signature(tree: Tree) -> None:
    """And with anything else that looks like no line of it."""
    tree.apply(diff(OLD, NEW) + "-- \n2.39.5\n\n")
    assert tree.text() == NEW


def test_a_patch_may_speak_of_binary_patches(tree: Tree) -> None:
    """What it adds is text, whatever it says."""
    tree.apply(diff(OLD, OLD + "GIT binary patch\n--- a/x\n+++ b/x\n"))
    assert tree.text().endswith("+++ b/x\n")


LINES = st.sampled_from(
    ["a\n", "b\n", "c\n", "\n", "-\n", "+\n", "-- x\n", "++ y\n", "@@ -1 +1 @@\n", "\\ z\n", "a\r\n"]
)
ENDS = st.sampled_from(["", "a", "b", "-"])
TEXTS = st.builds(lambda lines, end: "".join(lines) + end, st.lists(LINES, max_size=14), ENDS)
UNIQUE = st.lists(st.integers(0, 40), max_size=20, unique=True).map(
    lambda items: "".join(f"{item}\n" for item in items)
)


@given(old=TEXTS, new=TEXTS)
@MANY
def test_any_diff_makes_the_new_text_of_the_old(tmp_path: Path, old: str, new: str) -> None:
    """Whatever the lines look like."""
    assume(old != new)
    tree = fresh(tmp_path, old)
    tree.apply(diff(old, new))
    assert tree.text() == new


@given(old=UNIQUE, new=UNIQUE)
@MANY
def test_any_diff_is_applied_once(tmp_path: Path, old: str, new: str) -> None:
    """Where no line stands twice, there is no doubt about what is applied."""
    assume(old != new)
    tree = fresh(tmp_path, old)
    patch = diff(old, new)
    assert not is_applied(tree.patch(patch), tree.root)
    tree.apply(patch)
    assert "is already applied" in tree.refusal(patch)


@given(old=UNIQUE, new=UNIQUE, tree_text=UNIQUE, extra=st.lists(st.integers(50, 60), max_size=3, unique=True))
@MANY
def test_what_is_applied_elsewhere_is_what_git_makes(
    tmp_path: Path, old: str, new: str, tree_text: str, extra: list[int]
) -> None:
    """On a tree that has moved on, what is accepted is accepted by git too, with the same result."""
    assume(old != new)
    moved = "".join(f"{item}\n" for item in extra) + old
    for text in (moved, tree_text):
        tree = fresh(tmp_path, text)
        patch = tree.patch(diff(old, new))
        theirs = by_git(tmp_path / "git", patch.file, text)
        try:
            apply(patch, tree.root)
        except PatchError:
            assert theirs in {None, text}  # git knows no error for what is there already
        else:
            assert tree.text() == theirs


@given(old=TEXTS, new=TEXTS)
@MANY
def test_git_makes_the_same_of_it(tmp_path: Path, old: str, new: str) -> None:
    """On the tree that it was made for."""
    assume(old != new)
    tree = fresh(tmp_path, old)
    assert by_git(tmp_path / "git", tree.patch(diff(old, new)).file, old) == new


@given(text=st.text(st.sampled_from("ab/ .-+@\\\n01,")) | st.text(), lines=st.integers(0, 20), cut=st.integers(0, 400))
@MANY
def test_any_text_is_applied_or_refused(tmp_path: Path, text: str, lines: int, cut: int) -> None:
    """A patch with anything in the middle of it, or cut anywhere, never fails in another way."""
    good = diff(OLD, NEW).splitlines(keepends=True)
    for broken in ("".join([*good[:lines], text, *good[lines:]]), "".join(good)[:cut], text):
        tree = fresh(tmp_path, OLD)
        before = tree.content()
        try:
            apply(tree.patch(broken), tree.root)
        except PatchError:
            assert tree.content() == before
        else:
            assert tree.content() != before


def fresh(folder: Path, text: str) -> Tree:
    """Return a new tree with one file."""
    shutil.rmtree(folder / "tree", ignore_errors=True)
    tree = Tree(folder)
    tree.put(file=text)
    return tree


def by_git(folder: Path, patch: Path, text: str) -> str | None:
    """Return what git makes of a file, None if it refuses."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "file").write_bytes(text.encode())
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    words = ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", str(patch)]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, check=False)
    return (folder / "file").read_bytes().decode() if done.returncode == 0 else None


def test_every_refusal_names_the_patch_and_its_series(tree: Tree) -> None:
    """The remedy says which file to mend."""
    with pytest.raises(PatchError) as caught:
        apply(tree.patch("@@"), tree.root)
    assert re.match(r"patch 'some' ", caught.value.what)
    assert f"patches/{tree.folder.name}/series.toml" in caught.value.fix


def test_a_file_keeps_its_date(tree: Tree) -> None:
    """A build may take its own date from it."""
    tree.put(a=OLD)
    os.utime(tree.root / "a", (1e9, 1e9))
    tree.apply(diff(OLD, NEW, "a"))
    assert (tree.root / "a").stat().st_mtime == 1e9
