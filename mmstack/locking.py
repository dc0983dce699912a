"""Makes locks: what recipes ask for, resolved once for every Python of the stack, pinned by digest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from mmstack.envs import uv_path
from mmstack.errors import CommandError, NetworkError, UsageError
from mmstack.lock import applicable, parse_requirements
from mmstack.locked import TOOLKIT, drift, inputs_of, resolves_alike
from mmstack.model import Lock
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mmstack.catalog import Catalog
    from mmstack.model import DistroPackage, DistroPin, LockedRequirement, Stack
    from mmstack.sources.settings import IndexSettings


MACHINES = ("x86_64", "aarch64")
LINUX = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


def kept(stack: Stack, catalog: Catalog) -> Lock:
    """Return a stack's lock with all that is resolved as it is, and the rest as the stack is now.

    Raises:
        UsageError: the stack asks for something else now.
    """
    held, inputs = catalog.lock(stack), inputs_of(stack, catalog)
    if not resolves_alike(held.inputs, inputs):
        raise UsageError(
            f"--keep: what {stack.name} requires is not what {stack.name}.lock was resolved from",
            why="\n".join(drift(held.inputs, inputs)),
            fix=f"resolve it anew: `invoke lock --stack {stack.name}`",
        )
    return replace(held, inputs=inputs)


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
        inputs = inputs_of(stack, catalog)
        own = [catalog.recipe(layer.name).project for layer in stack.layers]
        run_set = self._compile(stack, inputs.requires["run"], (), own)
        sets = {"run": run_set}
        for name, lines in inputs.requires.items():
            if name != "run":
                # the layers' own CUDA libraries are files of the toolkit: downloaded and unpacked once
                shared = sets.get(TOOLKIT, ()) if name.startswith("run-") else ()
                sets[name] = self._compile(stack, lines, (*run_set, *shared), own)
        known = {(item.name, item.version) for item in run_set}
        for name, items in sets.items():
            if name.startswith("run-") or name == "verify":
                sets[name] = tuple(item for item in items if (item.name, item.version) not in known)
        packages = {name: self.packages(pin) for name, pin in _distro_pins(stack, catalog).items() if pin.libraries}
        return Lock(sets=sets, inputs=inputs, packages=packages)

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


def _distro_pins(stack: Stack, catalog: Catalog) -> dict[str, DistroPin]:
    taken = [layer for layer in stack.layers if layer.source == "distro"]
    pins = {layer.name: catalog.recipe(layer.name).releases[layer.version]["distro"].distro for layer in taken}
    return {name: pin for name, pin in pins.items() if pin}


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
