"""Makes locks: what recipes ask for, resolved once for every Python of the stack, pinned by digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from mmstack.envs import uv_path
from mmstack.errors import CommandError, NetworkError
from mmstack.keys import digest
from mmstack.lock import parse_requirements
from mmstack.model import Lock
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mmstack.catalog import Catalog
    from mmstack.model import LockedRequirement, RecipeData, Stack
    from mmstack.sources.settings import IndexSettings


def inputs_digest(stack: Stack, catalog: Catalog) -> str:
    """Return the digest of all that a stack's lock is resolved from."""
    return digest({"sets": _wanted(stack, catalog), "python": stack.python})


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Resolves requirements by `uv pip compile`, with the user's own package indexes."""

    settings: IndexSettings
    work: Path

    def lock(self, stack: Stack, catalog: Catalog) -> Lock:
        """Return a stack's lock.

        Raises:
            NetworkError: the requirements do not resolve with these indexes.
        """
        wanted = _wanted(stack, catalog)
        own = [catalog.recipe(layer.name).project for layer in stack.layers]
        run_set = self._compile(stack, wanted["run"], (), own)
        sets = {"run": run_set}
        for name, lines in wanted.items():
            if name != "run":
                sets[name] = self._compile(stack, lines, run_set, own)
        known = {(item.name, item.version) for item in run_set}
        for name, items in sets.items():
            if name.startswith("run-") or name == "verify":
                sets[name] = tuple(item for item in items if (item.name, item.version) not in known)
        return Lock(sets=sets, inputs=inputs_digest(stack, catalog))

    def _compile(
        self, stack: Stack, lines: Iterable[str], constraints: Sequence[LockedRequirement], own: Iterable[str]
    ) -> tuple[LockedRequirement, ...]:
        self.work.mkdir(parents=True, exist_ok=True)
        inputs, bounds = self.work / "requirements.in", self.work / "constraints.txt"
        inputs.write_text("\n".join([*lines, ""]), encoding="utf-8")
        bounds.write_text("".join(f"{_constraint(item)}\n" for item in constraints), encoding="utf-8")
        words: list[str | Path] = [
            "pip",
            "compile",
            inputs,
            "--constraints",
            bounds,
            "--universal",
            "--generate-hashes",
            "--no-header",
        ]
        words += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--only-binary", ":all:"]
        words += ["--python-version", min(stack.python, key=_minor), "--quiet", *self._index_options()]
        for project in own:
            words += ["--no-emit-package", project]
        try:
            done = run([uv_path(), *words], env=scrubbed(self.work, {"UV_NO_CONFIG": "1"}), cwd=self.work)
        except CommandError as error:
            raise NetworkError(
                "the requirements do not resolve", why=error.why, fix="mend the recipe, or check the index settings"
            ) from error
        return tuple(item for item in parse_requirements(done.output) if _for_us(item))

    def _index_options(self) -> list[str]:
        """Return the default index alone: an extra one may hold only some of a release's files."""
        if not self.settings.index_urls:
            raise NetworkError("no package index is configured", fix="name one for uv or pip, then lock again")
        return ["--default-index", self.settings.index_urls[-1]]


def _wanted(stack: Stack, catalog: Catalog) -> dict[str, tuple[str, ...]]:
    recipes = [catalog.recipe(layer.name) for layer in stack.layers]
    versions = {layer.name: layer.version for layer in stack.layers}
    wanted = {"run": _lines(line for recipe in recipes for line in recipe.run_requires)}
    wanted["verify"] = _lines(line for recipe in recipes for line in recipe.verify_requires)
    for recipe in recipes:
        for variant, lines in recipe.variants.items():
            wanted[f"run-{variant}"] = tuple(line.replace("{version}", versions[recipe.name]) for line in lines)
        if recipe.build_requires:
            wanted[f"build-{recipe.name}"] = _lines([*recipe.build_requires, *_below(recipe, recipes)])
    return wanted


def _below(recipe: RecipeData, recipes: Sequence[RecipeData]) -> list[str]:
    return [line for other in recipes if other.name in recipe.against for line in other.run_requires]


def _lines(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(lines)))


def _constraint(item: LockedRequirement) -> str:
    return f"{canonicalize_name(item.name)}=={item.version}" + (f" ; {item.marker}" if item.marker else "")


def _for_us(item: LockedRequirement) -> bool:
    """Return whether a requirement may apply on Linux: the stacks are built nowhere else."""
    return "sys_platform == 'win32'" not in item.marker and "sys_platform == 'darwin'" not in item.marker


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
