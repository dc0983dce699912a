from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstack.errors import GateError, HostError
from mmstack.model import Architecture, GpuCode
from mmstack.toolchains.cubins import GpuContents, Listing, check_code, check_targets, read_code, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

NMS, ROI, HIDDEN = "_Z3nmsIfEvPKT_PS0_i", "_Z3roiPi", "_ZN36_GLOBAL__N__195156d2_4_a_cu_3c7ab8be6hiddenEPi"
HOPPER, BLACKWELL = Architecture(major=9, minor=0), Architecture(major=12, minor=0)
PORTABLE = Architecture(major=12, minor=0, ptx=True)
# Both as printed, by cuobjdump 13.5 and 11.8: columns, blank lines and all.
ELF = """
Fatbin elf code:
================
arch = sm_{arch}
code version = [1,8]
host = linux
compile_size = 64bit

symbols:
OBJECT        WEAK    DEFAULT    -                                 U  .nv.reservedSmem.offset0
NOTYPE        WEAK    DEFAULT    RESERVED_SHARED                      __nv_reservedSMEM_offset_0_alias
OBJECT        LOCAL   DEFAULT    -                                    table
FUNC          LOCAL   DEFAULT    -                                    $_Z3roiPi$_Z6helperi
{kernels}"""
OLD_ELF = """
Fatbin elf code:
================
arch = sm_{arch}
code version = [1,7]
host = linux
compile_size = 64bit

symbols:
STT_OBJECT       STB_LOCAL  STV_DEFAULT    table
STT_FUNC         STB_LOCAL  STV_DEFAULT    $_Z3roiPi$_Z6helperi
{kernels}"""
PTX_HEADER = """
Fatbin ptx code:
================
arch = sm_{arch}
code version = [9,0]
host = linux
compile_size = 64bit
compressed
ptxasOptions = 
"""  # noqa: W291 - it prints that space
PTX = """

.version 9.0
.target sm_{arch}
.address_size 64

.const .align 4 .b8 table[64];

.func (.param .b32 func_retval0) _Z6helperi(
.param .b32 _Z6helperi_param_0
)
{{
ret;
}}
{kernels}"""
KERNEL = "FUNC          {bind:<7} DEFAULT    ENTRY                                {name}\n"
OLD_KERNEL = "STT_FUNC         STB_{bind:<6} STO_ENTRY      {name}\n"


def _elf(arch: str, *kernels: str) -> str:
    lines = (KERNEL.format(bind="LOCAL" if "GLOBAL__N" in name else "GLOBAL", name=name) for name in kernels)
    return ELF.format(arch=arch, kernels="".join(lines))


def _ptx(arch: str, *kernels: str) -> str:
    entries = (f"\n{'' if 'GLOBAL__N' in name else '.visible '}.entry {name}(\n.param .u64 p\n)\n" for name in kernels)
    return PTX.format(arch=arch, kernels="".join(entries))


def _cuobjdump(folder: Path, symbols: str, *ptx: str, status: int = 0) -> Path:
    """Make a program that answers as cuobjdump does, for one module."""
    (folder / "symbols").write_text(symbols)
    (folder / "ptx").mkdir()
    for number, text in enumerate(ptx, 1):
        (folder / "ptx" / f"m.{number}.sm_120.ptx").write_text(text)
    program = folder / "cuobjdump"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$1" in\n--dump-elf-symbols) cat "{folder}/symbols"; exit {status};;\n'
        f'--extract-ptx) test "$2" = all && cp "{folder}"/ptx/* .;;\nesac\n'
    )
    program.chmod(0o755)
    return program


def _contents(**targets: Sequence[str]) -> GpuContents:
    return GpuContents(kernels={target: Counter(names) for target, names in targets.items()})


def test_machine_code_and_ptx_are_read(tmp_path: Path) -> None:
    """Each kernel of each object, for each target; device functions and variables are none."""
    symbols = _elf("90", HIDDEN, NMS) + PTX_HEADER.format(arch="120") + _elf("120", HIDDEN, NMS)
    symbols += _elf("90", NMS, ROI) + PTX_HEADER.format(arch="120") + _elf("120", NMS, ROI)
    program = _cuobjdump(tmp_path, symbols, _ptx("120", HIDDEN, NMS), _ptx("120", NMS, ROI))
    contents = read_code(program, tmp_path / "m.so")
    kernels = Counter({NMS: 2, HIDDEN: 1, ROI: 1})
    assert contents.kernels == {"sm_90": kernels, "sm_120": kernels, "compute_120": kernels}
    assert list(check_code(contents, [HOPPER, PORTABLE])) == []


def test_older_programs_are_understood(tmp_path: Path) -> None:
    """Before CUDA 13 the columns had other names."""
    lines = (OLD_KERNEL.format(bind="GLOBAL", name=name) for name in (NMS, ROI))
    program = _cuobjdump(tmp_path, OLD_ELF.format(arch="86", kernels="".join(lines)))
    assert read_code(program, tmp_path / "m.so").kernels == {"sm_86": Counter([NMS, ROI])}


def test_code_for_one_gpu_or_family_has_its_letter(tmp_path: Path) -> None:
    """sm_90a is not sm_90."""
    symbols = _elf("90a", NMS) + PTX_HEADER.format(arch="100f")
    contents = read_code(_cuobjdump(tmp_path, symbols, _ptx("100f", NMS)), tmp_path / "m.so")
    assert set(contents.kernels) == {"sm_90a", "compute_100f"}
    wanted = [Architecture(major=9, minor=0, feature="a")]
    assert list(check_code(contents, wanted)) == ["PTX for compute_100f, which was not asked for"]


def test_a_module_without_gpu_code(tmp_path: Path) -> None:
    """The ops were left out of it silently: that is what the gate is for."""
    said = "cuobjdump info    : File 'm.so' does not contain device code\n"
    contents = read_code(_cuobjdump(tmp_path, said, status=255), tmp_path / "m.so")
    assert contents == GpuContents()
    assert list(check_code(contents, [HOPPER])) == ["it holds no GPU code"]
    assert list(check_code(_contents(sm_90=()), [HOPPER])) == ["it holds no GPU code"]
    assert summary(contents, "m.so") == ()


def test_a_module_that_cannot_be_read(tmp_path: Path) -> None:
    """What the program says is in the error, and the module's name."""
    said = "cuobjdump fatal   : Support for 'sm_4' has been removed.\n"
    with pytest.raises(GateError, match=r"m\.so") as caught:
        read_code(_cuobjdump(tmp_path, said, status=1), tmp_path / "m.so")
    assert "'sm_4' has been removed" in caught.value.why


def test_no_program(tmp_path: Path) -> None:
    """That is this machine's fault, not the module's."""
    with pytest.raises(HostError, match="cuobjdump"):
        read_code(tmp_path / "cuobjdump", tmp_path / "m.so")


@pytest.mark.parametrize(
    ("symbols", "ptx"),
    [
        (KERNEL.format(bind="GLOBAL", name=NMS), ()),
        (ELF.replace("arch = sm_{arch}\n", "").format(kernels=KERNEL.format(bind="GLOBAL", name=NMS)), ()),
        (PTX_HEADER.format(arch="90"), (f".visible .entry {NMS}(\n",)),
    ],
)
def test_kernels_for_nobody_knows_what(tmp_path: Path, symbols: str, ptx: tuple[str, ...]) -> None:
    """Output of another form is refused, not taken for what it seems."""
    with pytest.raises(GateError) as caught:
        read_code(_cuobjdump(tmp_path, symbols, *ptx), tmp_path / "m.so")
    assert NMS in caught.value.why


def test_nothing_is_left_of_reading(tmp_path: Path) -> None:
    """PTX is unpacked where it is told to be, and taken away."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program = _cuobjdump(tmp_path, PTX_HEADER.format(arch="120"), _ptx("120", NMS))
    assert read_code(program, tmp_path / "m.so", scratch).kernels == {"compute_120": Counter([NMS])}
    assert list(scratch.iterdir()) == []


WORDS = st.sampled_from(["Fatbin", "elf code:", "ptx code:", "arch =", "sm_90", "FUNC", "ENTRY", ".entry", ".target"])


@given(lines=st.lists(st.lists(WORDS | st.text(), max_size=6).map(" ".join)))
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    """Whatever a future cuobjdump prints ends in kernels or in the one error that becomes a gate's."""
    for take in (lambda listing: [listing.take(line) for line in lines], lambda listing: listing.take_ptx(lines)):
        listing = Listing()
        try:
            take(listing)
        except ValueError as error:
            assert "before any architecture" in str(error)  # noqa: PT017 - some texts are refused, not all
        list(check_code(GpuContents(kernels=listing.kernels), [PORTABLE]))
        assert len(summary(GpuContents(kernels=listing.kernels), "m.so")) == len(listing.kernels)


def test_an_architecture_that_is_wholly_missing() -> None:
    """Named with how much lacks it, by names that people know."""
    problems = list(check_code(_contents(sm_90=[NMS, ROI]), [HOPPER, PORTABLE]))
    assert problems == [
        "no code for sm_120: missing from 2 kernels, among them nms<float>, roi",
        "no PTX for compute_120: missing from 2 kernels, among them nms<float>, roi",
    ]


def test_one_object_without_an_architecture() -> None:
    """A kernel of an object that was compiled with other flags is named."""
    problems = list(check_code(_contents(sm_90=[NMS, ROI], sm_120=[NMS]), [HOPPER, BLACKWELL]))
    assert problems == ["the code for sm_120 lacks 1 of 2 kernels: roi"]


def test_a_kernel_that_several_objects_hold_counts_in_each() -> None:
    """Another object's copy does not help the one that lacks it: each launches its own."""
    problems = list(check_code(_contents(sm_90=[NMS, NMS], sm_120=[NMS]), [HOPPER, BLACKWELL]))
    assert problems == ["the code for sm_120 lacks 1 of 2 kernels: nms<float>"]


def test_ptx_that_lacks_a_kernel() -> None:
    """Later GPUs run what PTX holds."""
    contents = _contents(sm_120=[NMS, ROI], compute_120=[ROI])
    assert list(check_code(contents, [PORTABLE])) == ["the PTX for compute_120 lacks 1 of 2 kernels: nms<float>"]


def test_what_was_not_asked_for() -> None:
    """Every architecture that nobody wanted costs size, and shows that the flags were not ours."""
    contents = _contents(sm_80=[NMS], sm_120=[NMS], compute_90=[], lto_90=[], sm_90=[NMS])
    assert list(check_code(contents, [HOPPER])) == [
        "code for sm_80, which was not asked for",
        "code for sm_120, which was not asked for",
        "PTX for compute_90, which was not asked for",
        "code for lto_90, which was not asked for",
    ]


def test_a_number_without_end_is_no_architecture_either() -> None:
    """Python refuses to read one of so many digits; PTX of a foreign module may name it."""
    endless = f"compute_{'9' * 5000}"
    contents = _contents(sm_90=[NMS], **{endless: [NMS]})
    assert list(check_code(contents, [HOPPER])) == [f"PTX for {endless}, which was not asked for"]
    assert [line.target for line in summary(contents, "m.so")] == ["sm_90", endless]


def test_long_lists_are_cut() -> None:
    """Eight names tell enough."""
    problem = next(check_code(_contents(sm_90=[f"_Z3k{number}v" for number in range(10, 22)]), [BLACKWELL]))
    assert problem.endswith("k17 and 4 more")


def test_without_a_demangler_the_names_are_the_linkers(monkeypatch: pytest.MonkeyPatch) -> None:
    """c++filt comes with compilers, but not everywhere."""
    monkeypatch.setattr("mmstack.toolchains.cubins.shutil.which", lambda _name: None)
    assert next(check_code(_contents(sm_80=[NMS]), [HOPPER])).endswith(NMS)


def test_the_summary_is_a_table() -> None:
    """Machine code from old to new, then PTX."""
    contents = _contents(compute_120=[NMS], sm_120=[NMS, ROI], sm_90=[NMS, ROI])
    assert summary(contents, "m.so") == (
        GpuCode(module="m.so", target="sm_90", kernels=2),
        GpuCode(module="m.so", target="sm_120", kernels=2),
        GpuCode(module="m.so", target="compute_120", kernels=1),
    )


def _toolkit() -> Path | None:
    """Return a folder that holds both programs, if there is one."""
    homes = [Path(os.environ[name]) / "bin" for name in ("CUDA_HOME",) if name in os.environ]
    folders = [*homes, *map(Path, os.environ["PATH"].split(os.pathsep)), Path("/usr/local/cuda/bin")]
    programs = ("nvcc", "cuobjdump")
    return next((path for path in folders if all((path / name).is_file() for name in programs)), None)


SOURCE = """
template <typename T> __global__ void twice(T* x) { x[threadIdx.x] *= 2; }
namespace { __global__ void hidden(int* x) { x[0] = 1; } }
void launch(float* x, double* y, int* z) { twice<<<1, 1>>>(x); twice<<<1, 1>>>(y); hidden<<<1, 1>>>(z); }
"""


@pytest.mark.skipif(_toolkit() is None, reason="no folder on PATH, nor CUDA_HOME, holds nvcc and cuobjdump")
def test_what_a_real_compiler_made(tmp_path: Path) -> None:
    """The newest and the one before, with PTX for the newest: read back, whole, and nothing else."""
    folder = _toolkit()
    assert folder is not None
    env = {"PATH": f"{folder}:/usr/bin:/bin"}
    codes = subprocess.run([folder / "nvcc", "--list-gpu-code"], env=env, capture_output=True, text=True, check=True)
    numbers = sorted(int(code.removeprefix("sm_")) for code in codes.stdout.split() if code[3:].isdigit())[-2:]
    old, new = (Architecture(major=number // 10, minor=number % 10) for number in numbers)
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    (tmp_path / "a.cu").write_text(SOURCE)
    subprocess.run(
        [folder / "nvcc", "-c", "a.cu", *flags, f"-gencode=arch=compute_{new.number},code=compute_{new.number}"],
        cwd=tmp_path,
        env=env,
        check=True,
    )
    contents = read_code(folder / "cuobjdump", tmp_path / "a.o")
    portable = Architecture(major=new.major, minor=new.minor, ptx=True)
    assert list(check_code(contents, [old, portable])) == []
    assert {line.target: line.kernels for line in summary(contents, "a.o")} == {
        f"sm_{old.number}": 3,
        f"sm_{new.number}": 3,
        f"compute_{new.number}": 3,
    }
    (problem,) = check_code(contents, [portable])
    assert problem == f"code for sm_{old.number}, which was not asked for"


def test_a_project_may_choose_its_kernels_for_each_gpu() -> None:
    """As torch does, of whose kernels some are for one architecture alone; but each asked for has some."""
    contents = _contents(sm_80=(NMS, ROI), sm_90=(NMS,), sm_90a=(HIDDEN,))
    assert list(check_targets(contents, [HOPPER])) == []
    assert list(check_targets(contents, [HOPPER, PORTABLE])) == ["no code for sm_120", "no PTX for compute_120"]
    assert list(check_targets(GpuContents(), [HOPPER])) == ["no code for sm_90"]
