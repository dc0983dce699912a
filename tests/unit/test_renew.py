"""What becomes of the tree of a folder that the user works on."""

from __future__ import annotations

import json
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
from mmstack.events import Notice
from mmstack.model import Paths, Request, StepKind
from mmstack.sources.archive import tree_digest
from mmstack.sources.provide import folder_digest
from mmstack.workshop import Workshop
from tests.miniature import Miniature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmstack.builders.build import Workplace
    from mmstack.events import Event

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


@pytest.mark.parametrize("name", ["é" * 128, "/".join(["a" * 255] * 17)], ids=["file", "path"])
def test_a_name_that_nothing_can_have_is_of_nothing(tmp_path: Path, name: str) -> None:
    """A record that was damaged names what it may, and the tree is renewed all the same."""
    lay(tmp_path / "tree", {"a": "one"})
    (tmp_path / "sources.json").write_text(json.dumps({"files": ["a", name, f"{name}/b"], "key": ""}), encoding="utf-8")
    renew(lay(tmp_path / "new", {"b": "two"}), tmp_path / "tree", "two")
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["b"]


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


class Own:
    """A folder of the user's own that is built again and again."""

    def __init__(self, root: Path) -> None:
        self.mini = Miniature(root=root / "checkout").write()
        self.folder = lay(root / "own", {"setup.py": "one", "pkg/a.py": "one", "link": "->setup.py"})
        self.told: list[Event] = []
        paths = Paths(root=self.mini.root, state=root / "state", dist=root / "dist")
        self.shop = Workshop(paths=paths, listener=self.told.append, environ={})

    def lay_out(self, text: str) -> Workplace:
        """Edit a file, and let its step lay the folder out, in which something is compiled then."""
        (self.folder / "pkg" / "a.py").write_text(text, encoding="utf-8")
        trees = {"top": folder_digest("top", self.folder)}
        plan = self.mini.plan(Request(sources={"top": f"path:{self.folder}"}), trees=trees)
        step = next(step for step in plan.steps if step.layer == "top" and step.kind is StepKind.SOURCE)
        self.shop.execute(plan, step)
        return self.shop.place(plan.layer("top"))


def test_a_file_that_is_dated_after_now_undoes_no_build(tmp_path: Path) -> None:
    """As one from a machine whose clock is ahead: after each edit all would be compiled again, for ever."""
    own, ahead = Own(tmp_path), time.time() + 86400
    for name in ("setup.py", "link"):
        os.utime(own.folder / name, (ahead, ahead), follow_symlinks=False)
    compiled = lay(own.lay_out("two").built, {"a.o": "o"}) / "a.o"
    place = own.lay_out("three")
    assert (place.tree / "pkg" / "a.py").read_text(encoding="utf-8") == "three"
    assert compiled.exists()
    assert own.told == []


def test_what_is_undone_by_a_clock_that_was_set_back_is_told(tmp_path: Path) -> None:
    """It may take hours to compile, and no edit is the reason."""
    own, ahead = Own(tmp_path), time.time() + 86400
    compiled = lay(own.lay_out("two").built, {"a.o": "o"}) / "a.o"
    os.utime(compiled, (ahead, ahead))
    own.lay_out("three")
    assert not compiled.exists()
    (notice,) = own.told
    assert isinstance(notice, Notice)
    assert notice.text == "top: what was compiled before is dated after now, so it is compiled anew"


def test_of_a_tree_without_a_record_nothing_is_kept(tmp_path: Path) -> None:
    """An earlier checkout's says less."""
    lay(tmp_path / "tree", {"a": "one", "old": "x"})
    (tmp_path / "sources.json").write_text('{"files": ["a"]}', encoding="utf-8")
    renew(lay(tmp_path / "new", {"a": "two"}), tmp_path / "tree", "two")
    assert [path.read_text(encoding="utf-8") for path in (tmp_path / "tree").iterdir()] == ["two"]
