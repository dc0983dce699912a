"""Typed reading of TOML tables: every mistake names the file, the key and the remedy."""

from __future__ import annotations

from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any, TypeVar

from mmstack._compat import tomllib
from mmstack.errors import CatalogError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

T = TypeVar("T")
NAMES = {str: "a string", bool: "true or false", int: "an integer", list: "a list", dict: "a table"}


def load(path: Path) -> Table:
    """Read a TOML file.

    Raises:
        CatalogError: it is missing, unreadable or no TOML.
    """
    try:
        return Table(path, "", tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise CatalogError(f"{path} is missing", fix="restore it, e.g. with `git checkout`") from error
    except OSError as error:
        raise CatalogError(f"{path} cannot be read", why=str(error), fix="make it a file that can be") from error
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"{path} is not valid TOML", why=str(error), fix="mend the file at that place") from error


class Table:
    """A TOML table that hands out values of the type asked for and knows which keys it holds."""

    def __init__(self, file: Path, where: str, values: Mapping[str, Any]) -> None:
        self.file = file
        self.where = where
        self.values = values

    def only(self, *known: str) -> Table:
        """Refuse keys that are not known."""
        for name in self.values:
            if name not in known:
                raise CatalogError(
                    f"{self.file}: unknown key '{self.at(name)}'",
                    why=did_you_mean(name, known),
                    fix="correct or remove the key",
                )
        return self

    def get(self, name: str, kind: type[T], default: T | None = None) -> T:
        """Return a value of that type; a missing one without default is an error."""
        if name not in self.values:
            if default is None:
                raise CatalogError(f"{self.file}: key '{self.at(name)}' is missing", fix=f"add it, {NAMES[kind]}")
            return default
        value = self.values[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(name, f"must be {NAMES[kind]}")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string."""
        return self.get(name, str, default)

    def texts(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return a list of strings."""
        values = self.get(name, list, list(default) if default is not None else None)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(name, "must be a list of strings")
        return tuple(values)

    def table(self, name: str, *, required: bool = False) -> Table:
        """Return a table within this one, empty if it is not there and need not be."""
        return Table(self.file, self.at(name), self.get(name, dict, None if required else {}))

    def tables(self, name: str) -> tuple[Table, ...]:
        """Return a list of tables, empty if it is not there."""
        values = self.get(name, list, [])
        if not all(isinstance(value, dict) for value in values):
            raise self.wrong(name, "must be a list of tables")
        return tuple(Table(self.file, f"{self.at(name)}[{n}]", value) for n, value in enumerate(values))

    def strings(self) -> dict[str, str]:
        """Return the whole table as names to strings."""
        return {name: self.text(name) for name in self.values}

    def at(self, name: str) -> str:
        """Return the whole name of a key, as errors give it."""
        return f"{self.where}.{name}" if self.where else name

    def wrong(self, name: str, demand: str, *, why: str = "", fix: str = "correct it") -> CatalogError:
        """Return the error that a value is not what it must be."""
        found = why or f"it is {shortened(self.values.get(name))}"
        return CatalogError(f"{self.file}: key '{self.at(name)}' {demand}", why=found, fix=fix)
