"""GPU architectures: one notion, read from what the user says, checked, and spelt for every build system."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from mmstack.errors import ConstraintError, HostError, UsageError
from mmstack.model import Architecture

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from mmstack.model import CudaRelease, CudaSupport, Gpu

ARCHITECTURE = re.compile(r"(?P<major>\d{1,3})\.(?P<minor>\d)(?P<feature>[a-z]?)(?P<ptx>\+PTX)?", re.ASCII)
GROUPS = ("native", "all", "all-major")


def parse_architecture(word: str) -> Architecture:
    """Return what a word such as `12.0+PTX` means.

    Raises:
        ValueError: it is no architecture.
    """
    match = ARCHITECTURE.fullmatch(word)
    if match is None:
        raise ValueError(f"'{word}' is no GPU architecture")
    return Architecture(
        major=int(match["major"]), minor=int(match["minor"]), feature=match["feature"], ptx=bool(match["ptx"])
    )


def check_words(words: Iterable[str]) -> None:
    """Refuse words that are neither architectures nor a group of them.

    Raises:
        UsageError: one is not.
    """
    for word in words:
        if word not in GROUPS and not ARCHITECTURE.fullmatch(word):
            raise UsageError(
                f"--arch: '{word}' is no GPU architecture",
                why="an architecture is a compute capability such as 9.0, 12.0 or 12.0+PTX; "
                f"groups are {', '.join(GROUPS)}",
                fix="write e.g. `--arch 9.0,12.0+PTX`",
            )


def choose(
    words: Sequence[str],
    *,
    default: Sequence[Architecture],
    release: CudaRelease,
    releases: Iterable[CudaRelease],
    offered: Container[str],
    supports: Mapping[str, CudaSupport],
    gpus: Sequence[Gpu],
) -> tuple[Architecture, ...]:
    """Return what to compile for, lowest first: only what nvcc compiles and every prebuilt layer runs on.

    `all` means every architecture of which both are true, `all-major` the lowest of each generation,
    both with PTX of the newest, as nvcc understands them; `native` the visible GPUs.

    Args:
        words: what the user asked for, none for the default.
        default: what the stack is for.
        release: the toolkit's version.
        releases: all known versions, oldest first, to say which ones would do.
        offered: those that there is a stack for.
        supports: what the prebuilt layers have code for, by `name version`.
        gpus: the visible GPUs.

    Raises:
        ConstraintError: nvcc or a prebuilt layer does not know one of them.
        HostError: `native`, and no GPU is visible.
        UsageError: a word has no meaning.
    """
    check_words(words)
    possible = [
        item
        for item in release.architectures
        if not item.feature and all(runs(support.architectures, item) for support in supports.values())
    ]
    found: set[Architecture] = set()
    for word in words:
        found |= {*_group(word, possible, gpus)} if word in GROUPS else {parse_architecture(word)}
    chosen = _together(found or default)
    for item in chosen:
        _check_compiler(item, release, releases, possible, offered)
        _check_layers(item, supports, possible)
    return chosen


def runs(code: Iterable[Architecture], gpu: Architecture) -> bool:
    """Return whether code for these architectures runs on that GPU.

    Machine code runs within its generation on the same and later minors, PTX on everything later,
    and code of a feature set on its own GPU alone. Source:
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility
    """
    here = (gpu.major, gpu.minor)
    return any(
        here == (item.major, item.minor)
        or (not item.feature and item.major == gpu.major and item.minor <= gpu.minor)
        or (item.ptx and not item.feature and (item.major, item.minor) <= here)
        for item in code
    )


def cmake_words(architectures: Iterable[Architecture]) -> str:
    """Return the list as CMake's `CMAKE_CUDA_ARCHITECTURES` wants it: `90-real;120-real;120-virtual`."""
    words = []
    for item in architectures:
        words += [f"{item.number}-real", *([f"{item.number}-virtual"] if item.ptx else [])]
    return ";".join(words)


def _group(word: str, possible: Sequence[Architecture], gpus: Sequence[Gpu]) -> list[Architecture]:
    if word == "native":
        if not gpus:
            raise HostError(
                "`--arch native` means the GPUs of this machine, and none is visible",
                fix="name the architecture, e.g. `--arch 9.0`; `invoke doctor` says what it found",
            )
        return [parse_architecture(gpu.capability) for gpu in gpus]
    chosen = list(possible)
    if word == "all-major":
        chosen = [item for n, item in enumerate(chosen) if n == 0 or item.major != chosen[n - 1].major]
    return [*chosen[:-1], *(replace(item, ptx=True) for item in chosen[-1:])]


def _together(found: Iterable[Architecture]) -> tuple[Architecture, ...]:
    """Return each architecture once, with PTX where it was asked for."""
    merged: dict[str, Architecture] = {}
    for item in sorted(found):  # with PTX sorts after without
        merged[item.capability] = item
    return tuple(merged.values())


def _check_compiler(
    item: Architecture,
    release: CudaRelease,
    releases: Iterable[CudaRelease],
    possible: Iterable[Architecture],
    offered: Container[str],
) -> None:
    if item.capability in {each.capability for each in release.architectures}:
        return
    wanted, able = needed(item, releases)
    others = [version for version in able if version in offered]
    raise ConstraintError(
        f"--arch: CUDA {release.version} cannot compile for {item.capability}",
        why=f"{wanted}; yours is {release.version}, which compiles for {listed(release.architectures)}",
        fix=f"choose among {listed(possible)}" + (f", or take CUDA {others[0]}" if others else ""),
    )


def needed(item: Architecture, releases: Iterable[CudaRelease]) -> tuple[str, list[str]]:
    """Return which CUDA versions compile for an architecture, in words and as a list, the oldest first."""
    known = [(each.version, item.capability in {one.capability for one in each.architectures}) for each in releases]
    able = [version for version, does in known if does]
    if not able:
        return f"no known CUDA compiles for sm_{item.number}", []
    last = " or newer" if known[-1][1] else f" to {able[-1]}" if len(able) > 1 else ""
    return f"sm_{item.number} needs CUDA {able[0]}{last}", able


def _check_layers(item: Architecture, supports: Mapping[str, CudaSupport], possible: Iterable[Architecture]) -> None:
    for name, support in supports.items():
        if not runs(support.architectures, item):
            raise ConstraintError(
                f"--arch: {name} does not run on a GPU of capability {item.major}.{item.minor}",
                why=f"its wheel has code for {listed(support.architectures)}",
                fix=f"choose among {listed(possible)}, or build that layer from source",
            )


def listed(architectures: Iterable[Architecture]) -> str:
    """Return a list of architectures in words."""
    return ", ".join(str(item) for item in architectures) or "nothing"
