from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mmstack.errors import CatalogError
from mmstack.tables import Table, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the file under test is."""
    return tmp_path / "some.toml"


def refusal(act: Callable[[], object]) -> CatalogError:
    """Return the error that an act ends with, which must say what to do."""
    with pytest.raises(CatalogError) as caught:
        act()
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"key = ", "not valid TOML"),
        (b"key = 1\nkey = 2", "not valid TOML"),
        (b"key = '\xff'", "not valid TOML"),
        (b"key = " + b"[" * 5000, "not valid TOML"),
        (b"key = " + b"9" * 5000, "not valid TOML"),
        (b"key = 2026-99-99", "not valid TOML"),
    ],
    ids=["no value", "twice", "no UTF-8", "deep", "endless number", "no date"],
)
def test_a_file_that_is_no_toml_is_named(file: Path, content: bytes, words: str) -> None:
    """The error names the file and the parser's own place in it."""
    file.write_bytes(content)
    error = refusal(lambda: load(file))
    assert f"{file} is {words}" in error.what
    assert error.why


def test_a_missing_file_is_named(file: Path) -> None:
    """It says which file to restore."""
    assert refusal(lambda: load(file)).what == f"{file} is missing"


def test_what_cannot_be_read_is_an_error_of_its_own(file: Path) -> None:
    """A folder in the place of a file is no TOML that was written wrongly."""
    file.mkdir()
    assert refusal(lambda: load(file)).what == f"{file} cannot be read"


def table(**values: object) -> Table:
    """Return the table `outer.inner` of a file."""
    return Table("some.toml", "outer.inner", values)  # type: ignore[arg-type]  # only its name is used


@pytest.mark.parametrize(
    ("read", "value", "demand"),
    [
        (lambda it: it.text("key"), 1, "a string"),
        (lambda it: it.get("key", bool), 1, "true or false"),
        (lambda it: it.get("key", int), True, "an integer"),
        (lambda it: it.texts("key"), "word", "a list"),
        (lambda it: it.texts("key"), ["word", 1], "a list of strings"),
        (lambda it: it.table("key"), [], "a table"),
        (lambda it: it.tables("key"), [1], "a list of tables"),
    ],
)
def test_a_value_of_another_type_is_told_with_the_type_that_it_must_have(
    read: Callable[[Table], object], value: object, demand: str
) -> None:
    """File, whole key, what it must be and what it is."""
    error = refusal(lambda: read(table(key=value)))
    assert error.what == f"some.toml: key 'outer.inner.key' must be {demand}"
    assert repr(value) in error.why


def test_an_unknown_key_is_told_with_the_one_that_was_meant() -> None:
    """A typo is answered with the nearest key and all others."""
    error = refusal(lambda: table(requiers=[]).only("requires", "variants"))
    assert error.what == "some.toml: unknown key 'outer.inner.requiers'"
    assert error.why == "did you mean 'requires'? known: requires, variants"


def test_a_missing_key_is_told_with_its_type() -> None:
    """What to add is part of the error; a default makes it none."""
    error = refusal(lambda: table().text("key"))
    assert (error.what, error.fix) == ("some.toml: key 'outer.inner.key' is missing", "add it, a string")
    assert table().text("key", "default") == "default"
    assert table().texts("key", ()) == ()
    assert table().get("key", bool, default=False) is False


def test_tables_within_know_where_they_are() -> None:
    """An error deep within names the whole way to it."""
    inner = table(list=[{}, {"key": {"x": 1}}]).tables("list")[1].table("key")
    assert refusal(lambda: inner.text("x")).what.startswith("some.toml: key 'outer.inner.list[1].key.x'")


def test_a_value_is_shown_in_short(file: Path) -> None:
    """A value may be nested deeper than Python prints, or longer than a terminal."""
    deep: Any = 1
    for _ in range(100_000):
        deep = {"a": deep}
    assert len(refusal(lambda: table(key=deep).text("key")).why) < 200
    file.write_text("a" + ".a" * 2_000 + " = 1", encoding="utf-8")
    assert len(refusal(lambda: load(file).text("a")).why) < 200
