"""What becomes of the tree of a folder that the user works on."""

from __future__ import annotations

import os
import shutil
import time
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstack.builders.renew import demand, is_ahead, renew
from mmstack.errors import ChangedError
from mmstack.sources.archive import tree_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

from pathlib import Path

NAMES = st.sampled_from(["a", "b", "pkg/a", "pkg/b", "pkg/sub/a", "sub"])
KINDS = st.sampled_from(["one", "two", "one!", "->a", "->nowhere", "->../outside"])


def lay(root: Path, entries: Mapping[str, str]) -> Path:
    """Lay out a folder: `!` makes a program, `->` a link; what does not fit beside what is there is left out."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, what in sorted(entries.items()):
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if what.startswith("->"):
                path.symlink_to(what.removeprefix("->"))
            else:
                path.write_text(what.rstrip("!"), encoding="utf-8")
                path.chmod(0o755 if what.endswith("!") else 0o644)
        except OSError:
            continue
    return root


@given(st.lists(st.dictionaries(NAMES, KINDS), min_size=2, max_size=4))
def test_a_tree_is_always_what_the_folder_is(folders: list[dict[str, str]]) -> None:
    """Files, links and program bits, whatever it was before; and nothing is written through a link."""
    with TemporaryDirectory() as place:
        base = Path(place)
        (base / "outside").write_text("mine", encoding="utf-8")
        for number, entries in enumerate(folders):
            wanted = tree_digest(lay(base / "new", entries))
            renew(base / "new", base / "tree", str(number))
            assert tree_digest(base / "tree") == wanted
            assert (base / "outside").read_text(encoding="utf-8") == "mine"


def times(folder: Path) -> tuple[int, int]:
    """Return by what a compiler's own tools tell whether a file was touched."""
    status = (folder / "tree" / "same").stat()
    return status.st_ino, status.st_mtime_ns


def test_what_did_not_change_is_not_touched(tmp_path: Path) -> None:
    """Else all would be compiled again; and what was compiled stays."""
    for text in ("one", "two"):
        lay(tmp_path / "new", {"same": "x", "other": text, "pkg/gone" if text == "one" else "pkg/come": "y"})
        os.utime(tmp_path / "new" / "same", (1, len(text)))
        renew(tmp_path / "new", tmp_path / "tree", text)
        if text == "one":
            before = times(tmp_path)
            lay(tmp_path / "compiled", {"a.o": "o"}).rename(tmp_path / "tree" / "build")
    assert times(tmp_path) == before
    assert (tmp_path / "tree" / "build" / "a.o").exists()
    assert not (tmp_path / "tree" / "pkg" / "gone").exists()


def test_what_was_copied_to_be_packed_is_removed(tmp_path: Path) -> None:
    """Setuptools never removes a module from there that is not in the tree any more."""
    for key, entries in (("one", {"pkg/a": "a", "pkg/b": "b"}), ("two", {"pkg/a": "a"})):
        renew(lay(tmp_path / "new", entries), tmp_path / "tree", key)
        if key == "one":
            for folder in ("build/lib/pkg", "build/lib.linux-x86_64-cpython-311/pkg", "build/temp.linux-x86_64"):
                (tmp_path / "tree" / folder).mkdir(parents=True)
    assert sorted(path.name for path in (tmp_path / "tree" / "build").iterdir()) == ["temp.linux-x86_64"]


def test_a_tree_that_another_run_has_renewed_is_not_built_on(tmp_path: Path) -> None:
    """It would come to stand under the wrong key."""
    renew(lay(tmp_path / "new", {"a": "one"}), tmp_path / "tree", "one")
    demand(tmp_path / "tree", "one")
    renew(lay(tmp_path / "new", {"a": "two"}), tmp_path / "tree", "two")
    with pytest.raises(ChangedError, match="another run builds the same folder"):
        demand(tmp_path / "tree", "one")
    demand(tmp_path / "tree", "two")


def test_after_a_kill_nothing_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the killed run had laid out is removed when it is not wanted any more, and no key fits meanwhile."""
    renew(lay(tmp_path / "new", {"a": "one"}), tmp_path / "tree", "one")

    def killed(new: Path, old: Path, **_more: bool) -> None:
        old.write_bytes(new.read_bytes())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy", killed)
        with pytest.raises(KeyboardInterrupt):
            renew(lay(tmp_path / "new", {"a": "one", "b": "two"}), tmp_path / "tree", "two")
    with pytest.raises(ChangedError):
        demand(tmp_path / "tree", "two")
    renew(lay(tmp_path / "new", {"a": "one"}), tmp_path / "tree", "one")
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["a"]


@pytest.mark.parametrize("now", ["->{outside}", "one"])
def test_after_a_kill_nothing_is_removed_through_what_took_a_folder_s_place(tmp_path: Path, now: str) -> None:
    """The record then names what was in the folder as well as the link or file that stands there."""
    outside = lay(tmp_path / "outside", {"a": "mine"})
    lay(tmp_path / "tree", {"pkg": now.format(outside=outside)})
    (tmp_path / "sources.json").write_text('{"files": ["pkg", "pkg/a"], "key": ""}', encoding="utf-8")
    renew(lay(tmp_path / "new", {"b": "two"}), tmp_path / "tree", "two")
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["b"]
    assert (outside / "a").read_text(encoding="utf-8") == "mine"


def test_what_is_dated_after_now_is_seen(tmp_path: Path) -> None:
    """What was compiled while the clock was ahead is newer than any edit since."""
    lay(tmp_path / "tree", {"a": "one"})
    assert not is_ahead(tmp_path / "tree", tmp_path / "gone")
    ahead = time.time() + 60
    os.utime(lay(tmp_path / "built", {"pkg/a": "object"}) / "pkg" / "a", (ahead, ahead))
    assert is_ahead(tmp_path / "tree", tmp_path / "built")


def test_of_a_tree_without_a_record_nothing_is_kept(tmp_path: Path) -> None:
    """An earlier checkout's says less."""
    lay(tmp_path / "tree", {"a": "one", "old": "x"})
    (tmp_path / "sources.json").write_text('{"files": ["a"]}', encoding="utf-8")
    renew(lay(tmp_path / "new", {"a": "two"}), tmp_path / "tree", "two")
    assert [path.read_text(encoding="utf-8") for path in (tmp_path / "tree").iterdir()] == ["two"]
