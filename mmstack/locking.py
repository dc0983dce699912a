"""Makes locks: what recipes ask for, resolved once for every Python of the stack, pinned by digest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from mmstack.envs import uv_path
from mmstack.errors import CommandError, NetworkError, UsageError
from mmstack.keys import digest
from mmstack.lock import applicable, parse_requirements
from mmstack.locked import TOOLKIT, asked_by, drift, inputs_of, resolves_alike
from mmstack.model import Lock
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mmstack.catalog import Catalog
    from mmstack.model import DistroPackage, DistroPin, Inputs, LockedRequirement, Stack
    from mmstack.sources.settings import IndexSettings


MACHINES = ("x86_64", "aarch64")
PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})
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
class Change:
    """What became of a distribution in one set of a lock: its versions before and after, empty where it was not."""

    set: str
    name: str
    before: str
    after: str


def changes(before: Lock, after: Lock) -> tuple[Change, ...]:
    """Return how the versions of a lock differ from those of another; of the same version, which of its files."""
    found = []
    for name in sorted({*before.sets, *after.sets}):
        was, now = _versions(before.sets.get(name, ())), _versions(after.sets.get(name, ()))
        found += [_change(name, item, was, now) for item in sorted({*was, *now}) if was.get(item) != now.get(item)]
    for layer in sorted({*before.packages, *after.packages}):
        was, now = _package_versions(before.packages.get(layer, ())), _package_versions(after.packages.get(layer, ()))
        title = f"packages of {layer}"
        found += [_change(title, item, was, now) for item in sorted({*was, *now}) if was.get(item) != now.get(item)]
    return tuple(found)


def with_layer(stacks: Iterable[Stack], layer: str) -> list[Stack]:
    """Return those of some stacks that have a layer.

    Raises:
        UsageError: none has.
    """
    found = [stack for stack in stacks if any(choice.name == layer for choice in stack.layers)]
    if not found:
        raise UsageError(
            f"--upgrade: no such stack has the layer '{layer}'", fix="name another, or leave `--stack` out"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Resolves requirements by `uv pip compile`, with the user's own package indexes.

    `packages` finds what a layer is built against in the distribution's archive; `environ` is the user's.
    """

    settings: IndexSettings
    work: Path
    packages: Callable[[DistroPin], tuple[DistroPackage, ...]]
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def lock(self, stack: Stack, catalog: Catalog, held: Lock | None = None, layer: str = "") -> Lock:
        """Return a stack's lock, but for the digests of its source trees.

        Args:
            stack: the stack.
            catalog: the catalog.
            held: its lock until now, whose versions stay wherever they may; nothing where all is resolved anew.
            layer: the layer whose requirements are resolved anew nevertheless, and all that these require.

        Raises:
            NetworkError: the requirements do not resolve with these indexes.
            HostError: this machine's distribution is not the one that a layer is built against.
        """
        inputs = inputs_of(stack, catalog)
        own = [catalog.recipe(choice.name).project for choice in stack.layers]
        kept = self._kept(stack, catalog, own, held, layer) if held else {}
        run_set = self._compile(stack, inputs.requires["run"], (), own, kept.get("run", ()))
        sets = {"run": run_set}
        for name, lines in inputs.requires.items():
            if name != "run":
                # the layers' own CUDA libraries are files of the toolkit: downloaded and unpacked once
                shared = sets.get(TOOLKIT, ()) if name.startswith("run-") else ()
                sets[name] = self._compile(stack, lines, (*run_set, *shared), own, kept.get(name, ()))
        known = {(item.name, item.version) for item in run_set}
        for name, items in sets.items():
            if name.startswith("run-") or name == "verify":
                sets[name] = tuple(item for item in items if (item.name, item.version) not in known)
        return Lock(sets=sets, inputs=inputs, packages=self._packages(stack, catalog, inputs, held, layer))

    def _packages(
        self, stack: Stack, catalog: Catalog, inputs: Inputs, held: Lock | None, layer: str
    ) -> dict[str, tuple[DistroPackage, ...]]:
        found = {}
        for name, pin in _distro_pins(stack, catalog).items():
            if not pin.libraries:
                continue
            same = held and name != layer and held.inputs.layers.get(name) == inputs.layers[name]
            found[name] = held.packages[name] if held and same and name in held.packages else self.packages(pin)
        return found

    def _kept(
        self, stack: Stack, catalog: Catalog, own: Sequence[str], held: Lock, layer: str
    ) -> dict[str, tuple[LockedRequirement, ...]]:
        """Return what of each set shall stay: all but what a layer requires, and but the whole of its own set."""
        free = {
            canonicalize_name(item.name)
            for lines in asked_by(stack, layer, catalog)
            for item in self._compile(stack, lines, (), own)
        }
        return {
            name: tuple(item for item in items if not _is_shared(name) or canonicalize_name(item.name) not in free)
            for name, items in held.sets.items()
            if name != f"build-{layer}"
        }

    def _compile(
        self,
        stack: Stack,
        wanted: Iterable[str],
        constraints: Sequence[LockedRequirement],
        own: Iterable[str],
        kept: Sequence[LockedRequirement] = (),
    ) -> tuple[LockedRequirement, ...]:
        self.work.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.work) as folder:  # another run may be locking another stack
            lines = self._resolve(stack, wanted, constraints, own, kept, Path(folder))
        return tuple(item for item in parse_requirements(lines) if _for_us(item, stack.python))

    def _resolve(
        self,
        stack: Stack,
        wanted: Iterable[str],
        constraints: Sequence[LockedRequirement],
        own: Iterable[str],
        kept: Sequence[LockedRequirement],
        folder: Path,
    ) -> str:
        inputs, bounds, result = (folder / name for name in ("requirements.in", "constraints.txt", "locked.txt"))
        # uv takes what an earlier result holds before all else that would do
        result.write_text("".join(f"{item.line()}\n" for item in kept), encoding="utf-8")
        inputs.write_text("\n".join([*wanted, ""]), encoding="utf-8")
        bounds.write_text("\n".join([*map(_constraint, constraints), *stack.constraints, ""]), encoding="utf-8")
        words: list[str | Path] = [
            "pip",
            "compile",
            inputs,
            "--constraints",
            bounds,
            "--output-file",
            result,
            "--universal",
            "--generate-hashes",
            "--no-header",
        ]
        words += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--only-binary", ":all:"]
        words += ["--python-version", min(stack.python, key=_minor), "--quiet"]
        for project in own:
            words += ["--no-emit-package", project]
        try:
            run([uv_path(), *words], env=scrubbed(self.work, self._variables()), cwd=folder)
        except CommandError as error:
            raise NetworkError(
                "the requirements do not resolve", why=error.why, fix="mend the recipe, or check the index settings"
            ) from error
        return result.read_text(encoding="utf-8")

    def _variables(self) -> dict[str, str]:
        """Return the user's settings as uv reads them.

        Not on the command line, which everybody on the machine can read: there may be a password among them.
        """
        settings = self.settings
        ours = {
            "UV_NO_CONFIG": "1",
            "UV_DEFAULT_INDEX": self._index(),
            "UV_HTTP_TIMEOUT": f"{math.ceil(settings.timeout)}",
            "NETRC": self.environ.get("NETRC") or str(Path.home() / ".netrc"),
        }
        if settings.trusted_hosts:
            ours["UV_INSECURE_HOST"] = " ".join(settings.trusted_hosts)
        ours |= {name: value for name, value in self.environ.items() if name.upper() in PROXIES}
        if settings.proxy:
            ours |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), settings.proxy)
        if bundle := settings.ca_bundle:
            ours["SSL_CERT_DIR" if bundle.is_dir() else "SSL_CERT_FILE"] = str(bundle)
        return ours

    def _index(self) -> str:
        """Return the default index alone: an extra one may hold only some of a release's files."""
        if not self.settings.index_urls:
            raise NetworkError("no package index is configured", fix="name one for uv or pip, then lock again")
        return self.settings.index_urls[-1]


def _distro_pins(stack: Stack, catalog: Catalog) -> dict[str, DistroPin]:
    taken = [layer for layer in stack.layers if layer.source == "distro"]
    pins = {layer.name: catalog.recipe(layer.name).releases[layer.version]["distro"].distro for layer in taken}
    return {name: pin for name, pin in pins.items() if pin}


def _is_shared(name: str) -> bool:
    """Return whether a set holds what several layers require."""
    return name == "verify" or name.partition("-")[0] == "run"


def _change(title: str, name: str, before: Mapping[str, str], after: Mapping[str, str]) -> Change:
    was, now = before.get(name, ""), after.get(name, "")
    shown = [text.partition(" (")[0] for text in (was, now)]
    # which files there are is only worth a word where nothing else differs
    was, now = (was, now) if shown[0] == shown[1] else (shown[0], shown[1])
    return Change(set=title, name=name, before=was, after=now)


def _versions(items: Iterable[LockedRequirement]) -> dict[str, str]:
    """Return what is said of each distribution: its versions with their markers, and which files."""
    found: dict[str, list[LockedRequirement]] = {}
    for item in items:
        found.setdefault(item.name, []).append(item)
    return {
        name: ", ".join(item.version + (f" where {item.marker}" if item.marker else "") for item in several)
        + f" ({digest(tuple(tuple(sorted(item.sha256)) for item in several))[:8]})"
        for name, several in found.items()
    }


def _package_versions(items: Iterable[DistroPackage]) -> dict[str, str]:
    return {f"{item.name} {item.architecture}": f"{item.version} ({item.sha256[:8]})" for item in items}


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
