"""What is said of two builds' GPU code, which an assembler of this machine writes as NVIDIA's does."""

from __future__ import annotations

import struct
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from benchmarks import machine_code

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

READER = """#!/bin/sh
test "$1 $2" = "--extract-elf all" || exit 2
case "$3" in *cpu.o) echo "cuobjdump info    : File '$3' does not contain device code"; exit 255;; esac
exec /bin/tar -xf "$3"
"""
NMS, ROI = "_Z3nmsPf", "_Z3roiPf"
HERE, THERE = (f"_ZN36_GLOBAL__N__{digest}_4_a_cu_3c51c3506hiddenEPi" for digest in ("397dc4eb", "2bc86b05"))
# as ptxas of CUDA 13.0 wrote them for sm_90
FROM_BANK_3 = struct.pack("<QQ", 0x00C0010000067AB9, 0x000FC80000000800)  # ULDC UR6, c[0x3][0x4]
PARAMETER = struct.pack("<QQ", 0x0000860000067AB9, 0x000FE20000000800)  # ULDC.64 UR6, c[0x0][0x218]
ADDITION = struct.pack("<QQ", 0x0000000600057C23, 0x004FCA0008000005)  # FFMA R5, R0, UR6, R5
CODE = FROM_BANK_3 + PARAMETER + ADDITION


def changed(bit: int) -> bytes:
    """Return the code with another bit at a place."""
    return (int.from_bytes(CODE, "little") ^ 1 << bit).to_bytes(len(CODE), "little")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What a cubin holds of a kernel."""

    name: str
    code: bytes = CODE
    registers: int = 24
    shared: int = 0
    kept: bool = False

    def assembly(self, symbol: int) -> str:
        """Return it as text; its registers are those of a symbol by number."""
        shared = f'.section .nv.shared.{self.name},"aw",@nobits\n.zero {self.shared}\n' if self.shared else ""
        shared += '.section .nv.shared.reserved.0,"aw",@nobits\n' if self.kept else ""
        return (
            f'.section .text.{self.name},"ax"\n.globl {self.name}\n{self.name}:\n'
            f".byte {','.join(map(str, self.code))}\n"
            f'{shared}.section .nv.info,""\n.byte 4,0x2f\n.short 8\n.long {symbol},{self.registers}\n'
            # another attribute of so many bytes, and one whose value stands where the others have their size
            f".byte 4,0x11\n.short 8\n.long {symbol},7\n.byte 3,0x50\n.short 12\n"
        )


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A folder for two libraries, and a program that takes out of one what lies in it."""

    folder: Path
    printed: pytest.CaptureFixture[str]

    def reader(self, place: Path) -> Path:
        """Write the program."""
        place.mkdir(parents=True, exist_ok=True)
        program = place / "cuobjdump"
        program.write_text(READER)
        program.chmod(0o755)
        return program

    def library(self, name: str, targets: Mapping[str, Sequence[Kernel]]) -> Path:
        """Make one that holds kernels for architectures."""
        folder = self.folder / f"of-{name}"
        folder.mkdir()
        for target, kernels in targets.items():
            cubin = folder / f"a.1.sm_{target}.cubin"
            numbers = [0] * len(kernels)
            for _ in range(2):  # the second time by the symbols' numbers
                text = "".join(each.assembly(number) for each, number in zip(kernels, numbers, strict=True))
                subprocess.run(["as", "-o", cubin, "-"], input=text, text=True, check=True)
                with cubin.open("rb") as stream:
                    symbols = ELFFile(stream).get_section_by_name(".symtab")
                    assert isinstance(symbols, SymbolTableSection)
                    names = [symbol.name for symbol in symbols.iter_symbols()]
                numbers = [names.index(each.name) for each in kernels]
        with tarfile.open(self.folder / name, "w") as archive:
            for path in folder.iterdir():
                archive.add(path, path.name)
        return self.folder / name

    def compare(self, first: Path, second: Path) -> tuple[list[str], int]:
        """Return the lines that are printed, and the status."""
        words = [str(first), str(second), "--cuobjdump", str(self.reader(self.folder))]
        with pytest.raises(SystemExit) as caught:
            machine_code.main(words)
        return self.printed.readouterr().out.splitlines(), int(caught.value.code or 0)


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """An empty one."""
    return Bench(folder=tmp_path, printed=capsys)


def test_the_same_code_is_alike_wherever_it_was_compiled(bench: Bench) -> None:
    """What is a file's own has another name in each; what the second has more makes the first no slower."""
    nms, large = Kernel(name=NMS), Kernel(name=NMS, shared=128)
    first = bench.library("first.so", {"90": [large, Kernel(name=HERE)], "120": [nms]})
    second = bench.library("second.so", {"120": [nms], "90": [Kernel(name=THERE), large]})
    more = bench.library("more.so", {"120": [nms, Kernel(name=ROI)], "90": [Kernel(name=THERE), large]})
    counts = "3 alike, 0 alike but for places of constants, 0 known, 0 not alike, 0 in the first alone, "
    counts += "{} in the second alone"
    assert bench.compare(first, second) == ([counts.format(0)], 0)
    assert bench.compare(first, more) == ([counts.format(1)], 0)


@pytest.mark.parametrize(
    ("change", "target", "alike"),
    [
        ({"code": changed(40)}, "90", True),  # where in the bank
        ({"code": changed(40)}, "61", False),  # GPUs before have other instructions
        ({"code": changed(54)}, "90", False),  # which bank
        ({"code": changed(16)}, "90", False),  # into which register
        ({"code": changed(64)}, "90", False),
        ({"code": changed(128 + 40)}, "90", False),  # which parameter
        ({"code": changed(256 + 40)}, "90", False),  # an operand that is no constant of a bank
        ({"code": CODE + ADDITION}, "90", False),
        ({"registers": 25}, "90", False),
        ({"shared": 4}, "90", False),
        ({"shared": 1024}, "90", False),
        ({"shared": 1025, "kept": True}, "90", False),
    ],
)
def test_what_is_not_alike_is_named(bench: Bench, change: Any, target: str, alike: bool) -> None:  # noqa: ANN401, FBT001 - a field of any type; by name
    """A bit of an instruction, an instruction, a register more, a byte of shared memory."""
    kernel = Kernel(name=NMS)
    first = bench.library("first.so", {target: [kernel, Kernel(name=ROI)]})
    second = bench.library("second.so", {target: [replace(kernel, **change), Kernel(name=ROI)]})
    (counts, *named), status = bench.compare(first, second)
    assert counts.startswith(
        f"1 alike, {int(alike)} alike but for places of constants, 0 known, {int(not alike)} not alike, 0 in the first"
    )
    assert named == ([] if alike else [f"not alike: sm_{target} {NMS}"])
    assert status == int(not alike)


@pytest.mark.parametrize(("mine", "theirs"), [((0, False), (1024, True)), ((300, False), (384, False))])
def test_as_much_shared_memory_is_alike(bench: Bench, mine: tuple[int, bool], theirs: tuple[int, bool]) -> None:
    """The system keeps a part, which a file may name or not; and what is handed out is rounded up."""
    first, second = (Kernel(name=NMS, shared=size, kept=kept) for size, kept in (mine, theirs))
    assert (
        bench.compare(bench.library("first.so", {"90": [first]}), bench.library("second.so", {"90": [second]}))[1] == 0
    )


def test_what_was_read_by_hand_may_differ_in_operands(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told with what was found; any other difference is one in such a kernel too."""
    monkeypatch.setattr(machine_code, "KNOWN", {"nms": "the other constant is as quick"})
    first = bench.library("first.so", {"90": [Kernel(name=NMS)]})
    lines, status = bench.compare(first, bench.library("a.so", {"90": [Kernel(name=NMS, code=changed(256 + 40))]}))
    assert (lines[1:], status) == ([f"known: sm_90 {NMS}: the other constant is as quick"], 0)
    lines, status = bench.compare(first, bench.library("b.so", {"90": [Kernel(name=NMS, code=changed(64))]}))
    assert (lines[1:], status) == ([f"not alike: sm_90 {NMS}"], 1)


def test_what_the_second_lacks_is_named(bench: Bench) -> None:
    """A kernel for one of two architectures; of many, some."""
    nms, many = Kernel(name=NMS), [Kernel(name=f"_Z3k{number}v") for number in range(10, 32)]
    first, second = (
        bench.library("first.so", {"90": [*many, nms], "80": [nms]}),
        bench.library("second.so", {"80": [nms]}),
    )
    lines, status = bench.compare(first, second)
    assert status == 1
    assert lines[0].startswith(
        "1 alike, 0 alike but for places of constants, 0 known, 0 not alike, 23 in the first alone,"
    )
    assert lines[1] == "in the first alone: sm_90 _Z3k10v"
    assert lines[-1] == "in the first alone: 3 more"


def test_a_name_that_two_objects_hold(bench: Bench) -> None:
    """Each has its own code, and both builds must hold both; a folder stands for the objects in it."""
    other, folder = Kernel(name=NMS, code=changed(64)), bench.folder / "objects"
    folder.mkdir()
    for name, kernel in (("a.o", Kernel(name=NMS)), ("b.o", other)):
        bench.library(name, {"90": [kernel]}).rename(folder / name)
    subprocess.run(["as", "-o", folder / "for-the-cpu.o", "-"], input="nop\n", text=True, check=True)
    assert bench.compare(folder, folder)[1] == 0
    assert bench.compare(folder, bench.library("one.so", {"90": [other]}))[0][1] == f"not alike: sm_90 {NMS}"


def test_the_modules_of_wheels_are_read(bench: Bench) -> None:
    """As the session `compare` gives them."""
    module, wheel = bench.library("_ext.so", {"90": [Kernel(name=NMS)]}), bench.folder / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(module, "mmcv/_ext.so")
        archive.writestr("mmcv/__init__.py", "")
    assert bench.compare(wheel, module)[1] == 0


def test_two_builds_without_a_kernel_are_not_called_alike(bench: Bench) -> None:
    """Nor what cannot be read, of which is said why."""
    empty, text = bench.folder / "empty", bench.folder / "text.so"
    empty.mkdir()
    text.write_text("none")
    assert bench.compare(empty, empty)[1] == 1
    with pytest.raises(SystemExit, match="does not look like a tar archive"):
        machine_code.main([str(text), str(text), "--cuobjdump", str(bench.reader(bench.folder))])


def test_the_program_is_the_gate_s(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stack that was built; without one, how to have it is said."""
    module, state = str(bench.library("_ext.so", {"90": [Kernel(name=NMS)]})), bench.folder / "state"
    monkeypatch.setenv("MMSTACK_HOME", str(state))
    with pytest.raises(SystemExit, match="build a stack for CUDA first"):
        machine_code.main([module, module])
    bench.reader(state / "toolkits" / "cubins-1-cp311" / "lib/python3.11/site-packages/nvidia/cu13/bin")
    with pytest.raises(SystemExit) as caught:
        machine_code.main([module, module])
    assert caught.value.code is False
