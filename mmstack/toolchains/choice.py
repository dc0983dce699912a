"""Which CUDA toolkit a plan takes: the one that the user names, or the first of three kinds that serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmstack.errors import ConstraintError, HostError, UsageError, did_you_mean
from mmstack.keys import key
from mmstack.model import Toolkit
from mmstack.sources.places import expanded, redact
from mmstack.toolchains import redist, system

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmstack.model import CudaRelease, LockedRequirement

KINDS = ("auto", "system", "wheels", "redist")


def choose(
    wish: str,
    release: CudaRelease,
    requirements: Sequence[LockedRequirement],
    environ: Mapping[str, str],
    *,
    index_only: bool = False,
) -> tuple[Toolkit, tuple[str, ...]]:
    """Return the toolkit, and in words what was found and passed over.

    Args:
        wish: `auto`, `system`, `system:DIR`, `wheels`, `redist` or `redist:URL-or-DIR`, as typed.
        release: the CUDA version that the stack is for.
        requirements: the wheels that the stack's lock makes a toolkit of.
        environ: the user's variables.
        index_only: nothing may come from elsewhere than a package index.

    Raises:
        UsageError: the wish is none of these.
        ConstraintError: this version cannot be had that way.
        HostError: this machine has no such toolkit.
    """
    kind, _, place = (wish or "auto").partition(":")
    if kind not in KINDS or (place and kind not in {"system", "redist"}):
        raise UsageError(
            f"--toolkit: '{shown(wish)}' is no toolkit",
            why=did_you_mean(kind, [*KINDS, "system:DIR", "redist:URL", "redist:DIR"]),
            fix="choose one of these",
        )
    if index_only and kind not in {"auto", "wheels"}:
        raise UsageError(
            f"`--index-only` takes the toolkit from a package index, `--toolkit {shown(wish)}` does not",
            fix="leave one of them out",
        )
    if kind == "system":
        return (system.inspect(expanded(place, "--toolkit")) if place else _found(release, environ)), ()
    if kind == "wheels" or index_only:
        return _wheels(release, requirements, index_only=index_only), ()
    if kind == "redist":
        return _redist(release, place), ()
    found, notes = system.find(release.version, environ)
    if found:
        return found, notes
    return (_wheels(release, requirements) if release.wheels else _redist(release, "")), notes


def shown(wish: str) -> str:
    """Return what the user typed without the password of an address: it is printed, and kept in manifests."""
    kind, colon, place = wish.partition(":") if wish.startswith("redist:") else ("", "", wish)
    return f"{kind}{colon}{redact(place)}" if "://" in place else wish


def _found(release: CudaRelease, environ: Mapping[str, str]) -> Toolkit:
    found, notes = system.find(release.version, environ)
    if found is None:
        raise HostError(
            f"there is no whole CUDA {release.version} on this machine",
            why="\n".join(notes) or "none was found in CUDA_HOME, /usr/local, on PATH or among the distribution's",
            fix="install it, name one with `--toolkit system:DIR`, or leave `--toolkit` out",
        )
    return found


def _wheels(release: CudaRelease, requirements: Sequence[LockedRequirement], *, index_only: bool = False) -> Toolkit:
    if not release.wheels:
        raise ConstraintError(
            f"no package index holds a whole toolkit for CUDA {release.version}",
            why="NVIDIA's wheels carry nvcc itself from CUDA 13.0 on; before, only parts of it",
            fix=("leave out `--index-only`; " if index_only else "")
            + "install that toolkit and name it with `--toolkit system:DIR`, or take `--toolkit redist`",
        )
    compiler = next((item for item in requirements if item.name == "nvidia-cuda-nvcc"), None)
    origin = f"{len(requirements)} wheels" + (f", nvcc {compiler.version}" if compiler else "")
    identity = key("toolkit", {"wheels": [item.line() for item in requirements]})
    return Toolkit(
        kind="wheels", version=release.version, origin=origin, identity=identity, requirements=tuple(requirements)
    )


def _redist(release: CudaRelease, place: str) -> Toolkit:
    if release.manifest is None:
        raise ConstraintError(
            f"no list of redistributable archives is pinned for CUDA {release.version}",
            why=f"{release.file} has no [redist]",
            fix="give another toolkit with `--toolkit`",
        )
    base = redist.address(place)
    return Toolkit(
        kind="redist",
        version=release.version,
        origin=f"{release.manifest.filename} from {redact(base)}",
        identity=key("toolkit", {"manifest": release.manifest.sha256, "components": release.components}),
        manifest=release.manifest,
        base=base,
        components=release.components,
    )
