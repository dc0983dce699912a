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


def check(conflicts: Iterable[Conflict], versions: Mapping[str, str], flags: Mapping[str, str]) -> tuple[str, ...]:
    """Refuse a combination that is known not to work, and return what to say of one that is not known to.

    Raises:
        ConstraintError: it holds one of the conflicts.
    """
    warnings = []
    for conflict in conflicts:
        if not holds(conflict.when, versions) or not conflict.flags.items() <= flags.items():
            continue
        if not conflict.warns:
            facts = ", ".join(f"{name} {versions[name]}" for name in conflict.when)
            raise refusal(conflict.id, why=f"{conflict.why} (here: {facts})", fix=conflict.fix)
        warnings.append(f"{conflict.id}: {conflict.why}; {conflict.fix}")
    return tuple(warnings)


def refusal(name: str, *, why: str, fix: str) -> ConstraintError:
    """Return the error that a combination cannot work, by the conflict's name."""
    return ConstraintError(f"this combination cannot work: {name}", why=why, fix=fix)
