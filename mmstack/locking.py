"""Makes locks: what recipes ask for, resolved once for every Python of the stack, pinned by digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from mmstack.envs import uv_path
from mmstack.errors import CommandError, NetworkError
from mmstack.keys import digest
from mmstack.lock import applicable, parse_requirements
from mmstack.model import BUILT, Lock
from mmstack.recipes import build_requires
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mmstack.catalog import Catalog
    from mmstack.keys import Json
    from mmstack.model import DistroPackage, DistroPin, LockedRequirement, RecipeData, Stack
    from mmstack.sources.settings import IndexSettings


TOOLKIT, CUBINS = "toolkit", "cubins"
MACHINES = ("x86_64", "aarch64")
LINUX = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}
CUOBJDUMP = "nvidia-cuda-cuobjdump"  # the newest reads the code of all CUDA versions


def inputs_digest(stack: Stack, catalog: Catalog) -> str:
    """Return the digest of all that a stack's lock is resolved from."""
    inputs: dict[str, Json] = {
        "sets": _wanted(stack, catalog),
        "python": stack.python,
        "constraints": stack.constraints,
    }
    if pins := _distro_pins(stack, catalog):
        inputs["libraries"] = {name: [pin.codename, *pin.libraries] for name, pin in pins.items()}
    return digest(inputs)


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Resolves requirements by `uv pip compile`, with the user's own package indexes.

    `packages` finds what a layer is built against in the distribution's archive.
    """

    settings: IndexSettings
    work: Path
    packages: Callable[[DistroPin], tuple[DistroPackage, ...]]

    def lock(self, stack: Stack, catalog: Catalog) -> Lock:
        """Return a stack's lock, but for the digests of its source trees.

        Raises:
            NetworkError: the requirements do not resolve with these indexes.
            HostError: this machine's distribution is not the one that a layer is built against.
        """
        wanted = _wanted(stack, catalog)
        own = [catalog.recipe(layer.name).project for layer in stack.layers]
        run_set = self._compile(stack, wanted["run"], (), own)
        sets = {"run": run_set}
        for name, lines in wanted.items():
            if name != "run":
                # the layers' own CUDA libraries are files of the toolkit: downloaded and unpacked once
                shared = sets.get(TOOLKIT, ()) if name.startswith("run-") else ()
                sets[name] = self._compile(stack, lines, (*run_set, *shared), own)
        known = {(item.name, item.version) for item in run_set}
        for name, items in sets.items():
            if name.startswith("run-") or name == "verify":
                sets[name] = tuple(item for item in items if (item.name, item.version) not in known)
        packages = {name: self.packages(pin) for name, pin in _distro_pins(stack, catalog).items() if pin.libraries}
        return Lock(sets=sets, inputs=inputs_digest(stack, catalog), packages=packages)

    def _compile(
        self, stack: Stack, wanted: Iterable[str], constraints: Sequence[LockedRequirement], own: Iterable[str]
    ) -> tuple[LockedRequirement, ...]:
        self.work.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.work) as folder:  # another run may be locking another stack
            lines = self._resolve(stack, wanted, constraints, own, Path(folder))
        return tuple(item for item in parse_requirements(lines) if _for_us(item, stack.python))

    def _resolve(
        self,
        stack: Stack,
        wanted: Iterable[str],
        constraints: Sequence[LockedRequirement],
        own: Iterable[str],
        folder: Path,
    ) -> str:
        inputs, bounds = folder / "requirements.in", folder / "constraints.txt"
        inputs.write_text("\n".join([*wanted, ""]), encoding="utf-8")
        bounds.write_text("\n".join([*map(_constraint, constraints), *stack.constraints, ""]), encoding="utf-8")
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
            return run([uv_path(), *words], env=scrubbed(self.work, {"UV_NO_CONFIG": "1"}), cwd=folder).output
        except CommandError as error:
            raise NetworkError(
                "the requirements do not resolve", why=error.why, fix="mend the recipe, or check the index settings"
            ) from error

    def _index_options(self) -> list[str]:
        """Return the default index alone: an extra one may hold only some of a release's files."""
        if not self.settings.index_urls:
            raise NetworkError("no package index is configured", fix="name one for uv or pip, then lock again")
        return ["--default-index", self.settings.index_urls[-1]]


def _wanted(stack: Stack, catalog: Catalog) -> dict[str, tuple[str, ...]]:
    recipes = [catalog.recipe(layer.name) for layer in stack.layers]
    versions = {layer.name: layer.version for layer in stack.layers}
    wanted = {"run": _lines(line for recipe in recipes for line in recipe.run_requires)}
    if stack.cuda != "cpu":
        wanted[CUBINS] = (CUOBJDUMP,)
        if toolkit := catalog.toolkit(stack.cuda).wheels:
            wanted[TOOLKIT] = toolkit
    for recipe in recipes:
        version = versions[recipe.name]
        offered = {file.variant for pins in recipe.releases.get(version, {}).values() for file in pins.files}
        for variant, lines in recipe.variants.items():
            if variant in offered:
                wanted[f"run-{variant}"] = tuple(line.replace("{version}", version) for line in lines)
        if stack.cuda == "cpu" and (needed := recipe.run_built.get(version)):
            wanted[f"run-{BUILT}"] = (*wanted.get(f"run-{BUILT}", ()), *needed)
    wanted["verify"] = _lines(line for recipe in recipes for line in recipe.verify_requires)
    for recipe in recipes:
        if recipe.build_requires:
            needed = build_requires(recipe, versions[recipe.name])
            wanted[f"build-{recipe.name}"] = _lines([*needed, *_below(recipe, recipes)])
    return wanted


def _distro_pins(stack: Stack, catalog: Catalog) -> dict[str, DistroPin]:
    taken = [layer for layer in stack.layers if layer.source == "distro"]
    pins = {layer.name: catalog.recipe(layer.name).releases[layer.version]["distro"].distro for layer in taken}
    return {name: pin for name, pin in pins.items() if pin}


def _below(recipe: RecipeData, recipes: Sequence[RecipeData]) -> list[str]:
    return [line for other in recipes if other.name in recipe.against for line in other.run_requires]


def _lines(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(lines)))


def _constraint(item: LockedRequirement) -> str:
    return f"{canonicalize_name(item.name)}=={item.version}" + (f" ; {item.marker}" if item.marker else "")


def _for_us(item: LockedRequirement, pythons: Iterable[str]) -> bool:
    """Return whether a requirement may apply where stacks are built: on Linux, for one of the stack's Pythons."""
    return any(
        applicable(
            [item], {**LINUX, "platform_machine": machine, "python_version": minor, "python_full_version": f"{minor}.0"}
        )
        for machine in MACHINES
        for minor in pythons
    )


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
