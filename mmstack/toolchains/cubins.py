"""Compiled GPU code as NVIDIA's cuobjdump reads it back: which kernels a module holds, for which GPUs.

What a compiler was told is no proof of what it made: an object that was compiled with other flags, or
not at all, shows only on the GPU that lacks its code ("no kernel image is available").
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mmstack.errors import CommandError, DiskError, GateError, HostError
from mmstack.model import GpuCode
from mmstack.run import run
from mmstack.words import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mmstack.model import Architecture

SHOWN = 8
NO_CODE = "does not contain device code"
HEADER = re.compile(r"Fatbin (\w+) code:")
ARCH = re.compile(r"arch = sm_(\d+[a-z]?)")
KINDS: Mapping[str, str] = {"elf": "sm", "ptx": "compute"}
# `FUNC  GLOBAL  DEFAULT  ENTRY  name`; before CUDA 13, `STT_FUNC  STB_GLOBAL  STO_ENTRY  name`.
KERNEL = re.compile(r"(?:STT_)?FUNC\s.*\s(?:STO_)?ENTRY\s+(\S+)")
PTX_TARGET = re.compile(r"\s*\.target\s+sm_(\d+[a-z]?)\b")
PTX_KERNEL = re.compile(r"\s*(?:\.(?:visible|weak)\s+)?\.entry\s+([\w$%]+)")
TARGET = re.compile(r"([a-z]+)_(\d{1,9})([a-z]?)")


@dataclass(frozen=True, kw_only=True)
class GpuContents:
    """The kernels of a module by target: `sm_90` for machine code, `compute_90` for PTX.

    Kernels are named as the linker knows them, and counted: what two of the module's objects hold is
    there twice, and each of them launches its own.
    """

    kernels: Mapping[str, Counter[str]] = field(default_factory=dict)


def read_code(cuobjdump: Path, module: Path, scratch: Path | None = None) -> GpuContents:
    """Return what a module holds; nothing, where it holds no GPU code.

    Args:
        cuobjdump: the program, of this CUDA version or a newer one.
        module: a shared library or an object.
        scratch: where PTX, tens of megabytes of text, is unpacked for reading; by default, where the
            system keeps such files.

    Raises:
        GateError: it cannot be read.
        HostError: the program is not there.
        DiskError: there is no room to unpack.
        InterruptedRunError: we are stopping.
    """
    listing = Listing()
    try:
        with TemporaryDirectory(prefix="ptx-", dir=scratch) as folder:
            run([cuobjdump, "--dump-elf-symbols", module.absolute()], env={}, on_line=listing.take)
            if listing.has_ptx:
                run([cuobjdump, "--extract-ptx", "all", module.absolute()], env={}, cwd=Path(folder))
            for file in sorted(Path(folder).iterdir()):
                with file.open(encoding="utf-8", errors="replace") as lines:
                    listing.take_ptx(lines)
    except CommandError as error:
        if NO_CODE in error.why:
            return GpuContents()
        raise _unreadable(module.name, f"{error.what}\n{error.why}".strip()) from error
    except ValueError as error:
        raise _unreadable(module.name, str(error)) from error
    except OSError as error:
        raise DiskError(f"the PTX of {module.name} cannot be read", why=str(error), fix="make room") from error
    return GpuContents(kernels=listing.kernels)


class Listing:
    """What cuobjdump prints of one module after another line."""

    def __init__(self) -> None:
        self.kernels: dict[str, Counter[str]] = {}
        self.has_ptx = False
        self._kind = ""
        self._target = ""

    def take(self, line: str) -> None:
        """Read a line of a symbol list.

        Raises:
            ValueError: it is not of the kind that we know.
        """
        if match := HEADER.fullmatch(line):
            self._kind, self._target = match[1], ""
            self.has_ptx |= match[1] == "ptx"
        elif self._kind and (match := ARCH.fullmatch(line)):
            self._target = f"{KINDS.get(self._kind, self._kind)}_{match[1]}"
            self.kernels.setdefault(self._target, Counter())
        elif match := KERNEL.fullmatch(line):
            if not self._target:
                raise ValueError(f"cuobjdump names a kernel before any architecture: {line}")
            self.kernels[self._target][match[1]] += 1

    def take_ptx(self, lines: Iterable[str]) -> None:
        """Read a PTX file.

        Raises:
            ValueError: it does not say what it is for.
        """
        target = ""
        for line in lines:
            if match := PTX_TARGET.match(line):
                target = f"compute_{match[1]}"
                self.kernels.setdefault(target, Counter())
            elif match := PTX_KERNEL.match(line):
                if not target:
                    raise ValueError(f"the PTX names a kernel before any architecture: {line.strip()}")
                self.kernels[target][match[1]] += 1


def check_code(contents: GpuContents, wanted: Sequence[Architecture]) -> Iterator[str]:
    """Yield, in words, how a module differs from what was asked for: every kernel for each, and nothing else."""
    every: Counter[str] = reduce(or_, contents.kernels.values(), Counter())
    if not every:
        yield "it holds no GPU code"
        return
    targets = _targets(wanted)
    for target in sorted(targets, key=_order):
        missing = every - contents.kernels.get(target, Counter())
        if missing == every:
            yield f"no {_spelled(target)}: missing from {_count(every)}, among them {_shown(missing)}"
        elif missing:
            yield f"the {_spelled(target)} lacks {missing.total()} of {_count(every)}: {_shown(missing)}"
    for target in sorted(contents.kernels.keys() - targets, key=_order):
        yield f"{_spelled(target)}, which was not asked for"


def check_targets(contents: GpuContents, wanted: Sequence[Architecture]) -> Iterator[str]:
    """Yield, in words, what of that which was asked for a module has no kernel for."""
    held = {target for target, kernels in contents.kernels.items() if kernels}
    yield from (f"no {_spelled(target)}" for target in sorted(_targets(wanted) - held, key=_order))


def summary(contents: GpuContents, module: str) -> tuple[GpuCode, ...]:
    """Return a line for each target of a module, machine code first."""
    targets = sorted(contents.kernels, key=_order)
    return tuple(GpuCode(module=module, target=name, kernels=contents.kernels[name].total()) for name in targets)


def _targets(wanted: Iterable[Architecture]) -> set[str]:
    return {f"{kind}_{item.number}" for item in wanted for kind in ("sm", *(["compute"] if item.ptx else []))}


def _order(target: str) -> tuple[bool, str, int, str]:
    match = TARGET.fullmatch(target)
    kind, number, feature = match.groups() if match else (target, "0", "")
    return kind != "sm", kind, int(number), feature


def _spelled(target: str) -> str:
    return f"PTX for {target}" if target.startswith("compute_") else f"code for {target}"


def _count(kernels: Counter[str]) -> str:
    total = kernels.total()
    return f"{total} kernels" if total > 1 else "1 kernel"


def _shown(kernels: Counter[str]) -> str:
    """Return some kernels' names as their authors wrote them, without what they take."""
    names = sorted(kernels)
    program = shutil.which("c++filt")
    if program is not None:
        with suppress(HostError, CommandError):
            names = run([program, "--no-params", "--", *names[:SHOWN]], env={}).output.splitlines() + names[SHOWN:]
    return listed(names[:SHOWN], len(names))


def _unreadable(module: str, why: str) -> GateError:
    return GateError(
        f"the GPU code of {module} cannot be read", why=why, fix="build it again, or take a newer cuobjdump"
    )
