from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from mmstack.keys import digest, file_digest, files_digest, key

if TYPE_CHECKING:
    from pathlib import Path

    from mmstack.keys import Json

NAMES = st.text(max_size=5)
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
INPUTS = st.dictionaries(NAMES, VALUES, max_size=4)


def test_a_key_is_the_same_on_every_machine_and_every_day() -> None:
    """Stored artifacts are found again by later versions of this code."""
    text = r'{"a":"\u00e4","b":[1,null,true],"format":1,"kind":"layer"}'
    assert key("layer", {"b": [1, None, True], "a": "ä"}) == hashlib.sha256(text.encode()).hexdigest()


@given(inputs=INPUTS)
def test_the_order_of_a_table_does_not_matter(inputs: dict[str, Json]) -> None:
    """Tables have no order, wherever they came from."""
    assert key("layer", dict(reversed(inputs.items()))) == key("layer", inputs)


@given(one=VALUES, other=VALUES)
def test_different_values_have_different_digests(one: Json, other: Json) -> None:
    """Types count: 1, True, "1" and [1] are four things."""
    assert (digest(one) == digest(other)) == (repr(canonical(one)) == repr(canonical(other)))


def canonical(value: Json) -> object:
    """Return a value with its tables in order."""
    if isinstance(value, dict):
        return sorted((name, canonical(each)) for name, each in value.items())
    return ["list", *map(canonical, value)] if isinstance(value, list) else value


@given(inputs=INPUTS, name=NAMES, value=VALUES)
def test_any_change_of_an_input_changes_the_key(inputs: dict[str, Json], name: str, value: Json) -> None:
    """Replaced, added or left out."""
    changed = {**inputs, name: value}
    same = name in inputs and repr(canonical(inputs[name])) == repr(canonical(value))
    assert (key("layer", changed) == key("layer", inputs)) == same


def test_the_kind_is_part_of_a_key() -> None:
    """A layer's key is never that of a verification."""
    assert key("layer", {}) != key("verify", {})


def test_a_file_s_digest_is_its_sha256(tmp_path: Path) -> None:
    """Also where it is longer than one block."""
    body = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(body)
    assert file_digest(tmp_path / "file") == hashlib.sha256(body).hexdigest()


def test_a_digest_of_files_covers_names_and_contents_and_not_their_order(tmp_path: Path) -> None:
    """Where the folder lies does not matter, what is in it does."""
    for folder in ("here", "there"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        for name in ("a", "sub/b"):
            (tmp_path / folder / name).write_text(name, encoding="utf-8")
    here, there = tmp_path / "here", tmp_path / "there"
    before = files_digest(here, [here / "a", here / "sub/b"])
    assert files_digest(there, [there / "sub/b", there / "a"]) == before
    (there / "a").write_text("x", encoding="utf-8")
    assert files_digest(there, [there / "a", there / "sub/b"]) != before
    (here / "a").rename(here / "c")
    assert files_digest(here, [here / "c", here / "sub/b"]) != before
