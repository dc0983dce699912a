"""Source trees by digest, and how two of them differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmstack.errors import PinError
from mmstack.sources import trees
from mmstack.sources.trees import Difference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = st.sampled_from(["a", "b", "pkg/a", "pkg/b", "pkg/deep/a"])
TREES = st.dictionaries(NAMES, st.sampled_from(["one", "two", ""]), max_size=4)


def tree(folder: Path, files: dict[str, str]) -> Path:
    """Write a tree."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@given(one=TREES, other=TREES, data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_two_trees_differ_by_their_files(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, str], other: dict[str, str], data: st.DataObject
) -> None:
    """What only one has, what both have otherwise; and a tree is like itself."""
    folder = tmp_path_factory.mktemp("trees")
    first, second = tree(folder / "first", one), tree(folder / "second", other)
    found = trees.difference(first, second)
    assert set(found.first) == one.keys() - other.keys()
    assert set(found.second) == other.keys() - one.keys()
    assert set(found.changed) == {name for name in one.keys() & other.keys() if one[name] != other[name]}
    assert bool(found) == (one != other)
    again = tree(folder / "again", dict(data.draw(st.permutations(sorted(one.items())))))
    assert trees.difference(first, again) == Difference(first=(), second=(), changed=())


def program(path: Path) -> None:
    """Let it be run."""
    path.chmod(0o755)


def link(path: Path) -> None:
    """Put a link in its place that reads the same."""
    path.rename(path.with_name("b"))
    path.symlink_to("b")


CHANGES: dict[str, tuple[Callable[[Path], None], bool]] = {
    "a program": (program, True),
    "a link": (link, True),
    "a time": (lambda path: path.touch(), False),
    "who may read it": (lambda path: path.chmod(0o600), False),
    "an empty folder beside it": (lambda path: path.with_name("empty").mkdir(), False),
}


@pytest.mark.parametrize(("change", "differs"), CHANGES.values(), ids=CHANGES)
def test_what_is_the_same_text_may_be_another_thing(
    tmp_path: Path,
    change: Callable[[Path], None],
    differs: bool,  # noqa: FBT001 - a table
) -> None:
    """Programs and links are; times, other rights and folders are not. The digests say the same."""
    first, second = (tree(tmp_path / name, {"a": "x", "c": "y"}) for name in ("first", "second"))
    change(second / "a")
    assert ("a" in trees.difference(first, second).changed) == differs
    assert (trees.digests(first, ()) != trees.digests(second, ())) == differs


def test_a_link_s_target_counts_and_not_what_is_there(tmp_path: Path) -> None:
    """Also where nothing is, or a folder is behind it."""
    first, second = (tree(tmp_path / name, {"pkg/a": "x"}) for name in ("first", "second"))
    (first / "nowhere").symlink_to("away")
    (second / "nowhere").symlink_to("gone")
    for root in (first, second):
        (root / "same").symlink_to("pkg")
    assert trees.difference(first, second) == Difference(first=(), second=(), changed=("nowhere",))


def test_digests_are_of_each_part_and_the_whole(tmp_path: Path) -> None:
    """A change in a part changes its digest and that of the whole."""
    root = tree(tmp_path / "tree", {"a": "x", "lib/one/b": "y", "lib/two/c": "z"})
    before = trees.digests(root, ["lib/two", "lib/one"])
    (root / "lib/two/c").write_text("other", encoding="utf-8")
    after = trees.digests(root, ["lib/one", "lib/two"])
    assert [name for name in before if before[name] != after[name]] == ["tree", "lib/two"]


RIGHT = {"tree": "a" * 64, "lib/one": "b" * 64}
CHECKS = {
    "the same": (RIGHT, None),
    "more than pinned": (RIGHT | {"lib/two": "c" * 64}, None),
    "a part": (RIGHT | {"lib/one": "0" * 64, "tree": "1" * 64}, f"lib/one has {'0' * 64}, pinned is {'b' * 64}"),
    "a part is missing": ({"tree": "a" * 64}, f"lib/one has nothing, pinned is {'b' * 64}"),
    "what is around the parts": (RIGHT | {"tree": "1" * 64}, f"tree has {'1' * 64}, pinned is {'a' * 64}"),
}


@pytest.mark.parametrize(("found", "why"), CHECKS.values(), ids=CHECKS)
def test_a_tree_is_held_against_what_is_pinned(found: dict[str, str], why: str | None) -> None:
    """The part that is another is named, and the whole only where no part is."""
    if why is None:
        trees.check("ext git 2.0", found, RIGHT)
        return
    with pytest.raises(PinError, match=r"the source tree of ext git 2\.0 is not the one that the lock names") as caught:
        trees.check("ext git 2.0", found, RIGHT)
    assert caught.value.why == why
    assert "invoke lock --trees" in caught.value.fix


def test_a_difference_is_told_in_a_few_lines(tmp_path: Path) -> None:
    """How many files of each sort, the first of them by name; nothing where nothing differs."""
    files = {f"f{number:02}": "x" for number in range(30)}
    first, second = tree(tmp_path / "first", files | {"a": "x"}), tree(tmp_path / "second", {"a": "y", "z": "x"})
    said = trees.lines(trees.difference(first, second), ("git", "archive"), limit=2)
    assert said == [
        "in git alone: 30",
        "  f00",
        "  f01",
        "  … and 28 more",
        "in archive alone: 1",
        "  z",
        "in both, but not the same: 1",
        "  a",
    ]
    assert trees.lines(trees.difference(first, first), ("git", "archive")) == []
