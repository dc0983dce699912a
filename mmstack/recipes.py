"""What a layer's `recipe.py` may say beyond its data: a small protocol and its default."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from packaging.specifiers import SpecifierSet

from mmstack.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmstack.model import Architecture, RecipeData


@dataclass(frozen=True, kw_only=True)
class BuildFacts:
    """What a recipe may base its environment on.

    Attributes:
        flags: the layer's flags.
        versions: the stack's versions by name.
        cuda: the version of the toolkit that it is compiled with, or `cpu`.
        architectures: what it is compiled for.
        version: the layer's own.
    """

    flags: Mapping[str, str]
    versions: Mapping[str, str]
    cuda: str
    architectures: tuple[Architecture, ...] = ()
    version: str = ""


class Recipe(Protocol):
    """What data cannot say of a layer. All methods are pure but for reading the wheel."""

    def environment(self, facts: BuildFacts) -> Mapping[str, str]:
        """Return build variables; `{jobs}` in a value becomes the number of parallel jobs."""

    def expect(self, facts: BuildFacts) -> Mapping[str, str]:
        """Return what the layer's suite shall expect of a build with these facts, besides what the stack says."""

    def check_configured(self, output: str, cache: Mapping[str, str], facts: BuildFacts) -> None:
        """Hold what CMake said while configuring, and the variables of its cache, against what was asked.

        Raises:
            GateError: it is another thing.
        """

    def check(self, wheel: Path, facts: BuildFacts) -> tuple[str, ...]:
        """Return the names of the layer's own gates that the wheel passed.

        Raises:
            GateError: it did not.
        """


class DataOnly:
    """The recipe of a layer that needs no code, and the base of those that need some."""

    def environment(self, facts: BuildFacts) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's signature
        """Return nothing."""
        return {}

    def expect(self, facts: BuildFacts) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's signature
        """Return nothing."""
        return {}

    def check_configured(self, output: str, cache: Mapping[str, str], facts: BuildFacts) -> None:
        """Demand nothing."""

    def check(self, wheel: Path, facts: BuildFacts) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's signature
        """Demand nothing."""
        return ()


def build_requires(recipe: RecipeData, version: str) -> tuple[str, ...]:
    """Return what a release of a layer requires to be built."""
    also = [
        line
        for versions, lines in recipe.build_also
        if SpecifierSet(versions, prereleases=True).contains(version)
        for line in lines
    ]
    return (*recipe.build_requires, *also)


def load_recipe(folder: Path) -> Recipe:
    """Return the object `recipe` of a layer's `recipe.py`, or the default where there is none.

    Raises:
        CatalogError: the file does not define it, or does not even run.
    """
    file = folder / "recipe.py"
    if not file.exists():
        return DataOnly()
    module = ModuleType(f"recipe_{folder.name}")
    module.__file__ = str(file)
    try:  # from its source: Python would take bytecode for that of an older file of the same second and size
        exec(compile(file.read_bytes(), file, "exec"), module.__dict__)  # noqa: S102 - what a recipe is for
    except Exception as error:  # a recipe may go wrong in every way that Python knows
        raise CatalogError(f"{file} does not run", why=f"{type(error).__name__}: {error}", fix="mend it") from error
    recipe = getattr(module, "recipe", None)
    if recipe is None:
        raise CatalogError(f"{file} defines no `recipe`", fix="end it with `recipe = ...`")
    return cast("Recipe", recipe)
