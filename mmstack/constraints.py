"""Named conflicts: combinations known not to work, found before anything is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from mmstack.errors import ConstraintError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmstack.model import Conflict


def holds(when: Mapping[str, str], versions: Mapping[str, str]) -> bool:
    """Return whether every named version is there and in its range."""
    return all(
        name in versions and SpecifierSet(text, prereleases=True).contains(versions[name])
        for name, text in when.items()
    )


def check(conflicts: Iterable[Conflict], versions: Mapping[str, str]) -> None:
    """Refuse a combination that is known not to work.

    Raises:
        ConstraintError: it holds one of the conflicts.
    """
    for conflict in conflicts:
        if holds(conflict.when, versions):
            facts = ", ".join(f"{name} {versions[name]}" for name in conflict.when)
            raise refusal(conflict.id, why=f"{conflict.why} (here: {facts})", fix=conflict.fix)


def refusal(name: str, *, why: str, fix: str) -> ConstraintError:
    """Return the error that a combination cannot work, by the conflict's name."""
    return ConstraintError(f"this combination cannot work: {name}", why=why, fix=fix)
