"""Hold the GPU code of two builds against each other: `uv run python -m benchmarks.machine_code FIRST SECOND`.

Each is a wheel, a library, an object, or a folder of objects; no GPU is needed. A kernel takes the time that its
instructions take: what two builds hold alike is slower in neither. Alike are kernels of the same instructions, bit for
bit, the same registers, of which more mean fewer threads at once, and as much shared memory, which is handed out by 128
bytes; what the system keeps of it for itself is in the file of a kernel if another in the same unit has some.

Where in a bank of constants one lies depends on what else is compiled with it. Kernels that differ in nothing else are
alike *but for places of constants*: from sm_70 on, bits 38 to 53 of an instruction whose form, bits 9 to 11, is 3 or 5,
where the bank, bits 54 to 58, is not that of a kernel's parameters, 0, as in
https://gitlab.freedesktop.org/mesa/mesa/-/blob/mesa-23.3.0/src/nouveau/codegen/nv50_ir_emit_gv100.cpp.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import struct
import sys
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from benchmarks.costs import ROOT
from mmstack.errors import CommandError, MmstackError
from mmstack.run import run
from mmstack.toolchains.cubins import NO_CODE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

CODE, SHARED, KEPT = ".text.", ".nv.shared.", ".nv.shared.reserved.0"
KEPT_BYTES, HANDED_OUT = 1024, 128
# what a file's nameless namespace and its `static` things are called: by digests of its path, and its name
OWN = re.compile(r"\d+_(?:GLOBAL__N_|INTERNAL)_[0-9a-f]{8}_\d+_\w+?_cu_[0-9a-f]{8}")
TARGET = re.compile(r"\.sm_((\d+)[a-z]?)\.cubin")
REGISTERS = (4, 0x2F)  # EIFMT_SVAL and EIATTR_REGCOUNT
FORMS_FROM, INSTRUCTION = 70, 16
OF_CONSTANTS, PLACE, OPERAND = {3, 5}, 0xFFFF << 38, 0xFFFFFFFF << 32
SHOWN = 20
KNOWN = {  # kernels that were read by hand, and may differ in operands
    "assign_score_withk_forward_cuda_kernel": "where its assertion's address lies is an operand (MOV)",
}

Kernel = tuple[str, str]
"""What it is for, e.g. 90, and its name."""
Code = tuple[str, str, str, int, int]
"""Digests of its instructions, of these without places of constants, and without any operand that is no register;
registers of a thread; parts of shared memory."""


def read(cuobjdump: Path, module: Path, scratch: Path) -> dict[Kernel, set[Code]]:
    """Return each kernel of a build; more than one code where several of its parts hold one of that name.

    Raises:
        CommandError: it cannot be read.
    """
    found: dict[Kernel, set[Code]] = defaultdict(set)
    folder = Path(tempfile.mkdtemp(dir=scratch))
    for number, path in enumerate(_modules(module, folder)):
        place = folder / f"cubins-{number}"
        place.mkdir()
        try:
            run([cuobjdump, "--extract-elf", "all", path.resolve()], env={}, cwd=place)
        except CommandError as error:
            if NO_CODE not in error.why:
                raise
        for file in sorted(place.iterdir()):
            ((target, digits),) = TARGET.findall(file.name)
            with file.open("rb") as stream:
                for name, code in _kernels(ELFFile(stream), forms=int(digits) >= FORMS_FROM):
                    found[target, OWN.sub("own", name)].add(code)
    return found


def _modules(module: Path, folder: Path) -> list[Path]:
    if module.is_dir():
        return sorted(module.glob("*.o"))
    if not zipfile.is_zipfile(module):
        return [module]
    with zipfile.ZipFile(module) as wheel:
        return [Path(wheel.extract(name, folder)) for name in wheel.namelist() if name.endswith(".so")]


def _kernels(cubin: ELFFile, *, forms: bool) -> Iterator[tuple[str, Code]]:
    registers = dict(_registers(cubin))
    for section in cubin.iter_sections():
        if section.name.startswith(CODE):
            name, code = section.name.removeprefix(CODE), section.data()
            views = (code, _masked(code, _place), _masked(code, _operand)) if forms else (code, code, code)
            whole, placed, bare = (hashlib.sha256(each).hexdigest() for each in views)
            yield name, (whole, placed, bare, registers[name], _shared(cubin, name))


def _shared(cubin: ELFFile, kernel: str) -> int:
    section = cubin.get_section_by_name(f"{SHARED}{kernel}")
    size = section["sh_size"] if section else 0
    kept = KEPT_BYTES if size and cubin.get_section_by_name(KEPT) else 0
    return -(-(size - kept) // HANDED_OUT)


def _masked(code: bytes, mask: Callable[[int], int]) -> bytes:
    """Return instructions without the bits that are none to look at, of the first half of each."""
    bare = bytearray(code)
    for place in range(0, len(code), INSTRUCTION):
        (word,) = struct.unpack_from("<Q", code, place)
        struct.pack_into("<Q", bare, place, word & ~mask(word))
    return bytes(bare)


def _place(word: int) -> int:
    return PLACE if word >> 9 & 7 in OF_CONSTANTS and word >> 54 & 31 else 0


def _operand(_word: int) -> int:
    return OPERAND


def _registers(cubin: ELFFile) -> Iterator[tuple[str, int]]:
    symbols, section = cubin.get_section_by_name(".symtab"), cubin.get_section_by_name(".nv.info")
    if not isinstance(symbols, SymbolTableSection) or section is None:
        return
    info, place = section.data(), 0
    while place < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, place)
        place += 4
        if (form, attribute) == REGISTERS:
            symbol, count = struct.unpack_from("<II", info, place)
            yield symbols.get_symbol(symbol).name, count
        if form == REGISTERS[0]:  # else what stands for the size is the value
            place += size


def report(first: Mapping[Kernel, set[Code]], second: Mapping[Kernel, set[Code]]) -> tuple[str, bool]:
    """Return in words how the kernels of two builds compare, and whether each of the first's is alike in the second."""
    missing = sorted(first.keys() - second.keys())
    changed = sorted(kernel for kernel in first.keys() & second.keys() if first[kernel] != second[kernel])
    unlike = [kernel for kernel in changed if _from(1, first[kernel]) != _from(1, second[kernel])]
    other = [kernel for kernel in unlike if not _known(kernel) or _from(2, first[kernel]) != _from(2, second[kernel])]
    counts = {
        "alike": len(first) - len(missing) - len(changed),
        "alike but for places of constants": len(changed) - len(unlike),
        "known": len(unlike) - len(other),
        "not alike": len(other),
        "in the first alone": len(missing),
        "in the second alone": len(second.keys() - first.keys()),
    }
    lines = [", ".join(f"{count} {what}" for what, count in counts.items())]
    lines += [f"known: sm_{kernel[0]} {kernel[1]}: {_known(kernel)}" for kernel in unlike if kernel not in other]
    for what, kernels in (("in the first alone", missing), ("not alike", other)):
        lines += [f"{what}: sm_{target} {name}" for target, name in kernels[:SHOWN]]
        lines += [f"{what}: {len(kernels) - SHOWN} more"] if len(kernels) > SHOWN else []
    return "\n".join(lines), bool(first) and not missing and not other


def _known(kernel: Kernel) -> str:
    return next((why for name, why in KNOWN.items() if name in kernel[1]), "")


def _from(place: int, codes: set[Code]) -> set[tuple[str | int, ...]]:
    return {code[place:] for code in codes}


def the_gates() -> Path:
    """Return the program that the gate `gpu-code` reads by, which the build of a stack for CUDA leaves in the state.

    Raises:
        SystemExit: there was no such build.
    """
    state = Path(os.environ.get("MMSTACK_HOME") or ROOT / ".mmstack")
    found = sorted(state.glob("toolkits/cubins-*/lib/*/site-packages/nvidia/*/bin/cuobjdump"))
    if not found:
        sys.exit(f"no cuobjdump in {state}: build a stack for CUDA first, or name it with --cuobjdump")
    return found[-1]


def main(words: Sequence[str]) -> None:
    """Read both, and compare.

    Raises:
        SystemExit: they are not alike, or cannot be read.
    """
    options = argparse.ArgumentParser(prog="python -m benchmarks.machine_code", description="Compare GPU code.")
    options.add_argument("first", type=Path)
    options.add_argument("second", type=Path)
    options.add_argument("--cuobjdump", type=Path, help="the program; else what the gate `gpu-code` reads by")
    chosen = options.parse_args(words)
    program = chosen.cuobjdump or the_gates()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            both = [read(program, module, Path(scratch)) for module in (chosen.first, chosen.second)]
        except MmstackError as error:
            sys.exit(f"{error.what}\n{error.why}")
    text, same = report(*both)
    print(text)  # noqa: T201 - what this program is for
    sys.exit(not same)


if __name__ == "__main__":
    main(sys.argv[1:])
