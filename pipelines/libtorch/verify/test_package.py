"""The wheel is whole, needs nothing but what every machine has, and names no folder that it was built in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import libtorch
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = libtorch.prefix
LIBRARIES = PREFIX.with_name("libtorch.libs")
# of glibc and of gcc's runtime, what every program of C++ needs; and zlib, which auditwheel counts among it
EVERYWHERE = re.compile(r"(ld-linux-[\w-]+|lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s|z))\.so\.\d+")
WORKPLACE = re.compile(rb"/libtorch-[0-9a-f]{16}/[\w./-]*")  # no more in front: that takes minutes of a large file


def needed(file: Path) -> set[str]:
    """The libraries that a library names."""
    with file.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".dynamic")
        assert isinstance(section, DynamicSection), file
        return {tag.needed for tag in section.iter_tags("DT_NEEDED")}


def test_everything_is_there() -> None:
    """Headers of both programming interfaces, libraries, CMake's files."""
    names = [
        "include/torch/script.h",
        "include/torch/csrc/api/include/torch/torch.h",
        "include/ATen/ATen.h",
        "include/c10/macros/cmake_macros.h",
        "lib/libtorch.so",
        "lib/libtorch_cpu.so",
        "lib/libc10.so",
        "share/cmake/Torch/TorchConfig.cmake",
        "share/cmake/Caffe2/Caffe2Targets.cmake",
    ]
    assert [name for name in names if not (PREFIX / name).is_file()] == []


def test_nothing_else_is_needed() -> None:
    """Each library needs those of the wheel, and what every machine has."""
    files = [*PREFIX.glob("lib/*.so*"), *LIBRARIES.iterdir()]
    inside = {file.name for file in files}
    assert {"libtorch_cpu.so", "libc10.so"} <= inside
    assert any(name.startswith("libopenblas") for name in inside)
    wanted = {name for file in files for name in needed(file)}
    assert {name for name in wanted - inside if not EVERYWHERE.fullmatch(name)} == set()


def test_nothing_of_python_is_in_it() -> None:
    """It is for C++ alone."""
    assert [file.name for file in PREFIX.rglob("*python*.so*")] == []


def test_no_file_names_where_it_was_built() -> None:
    """Neither what CMake reads, nor headers, nor what `__FILE__` left in the libraries."""
    files = [path for folder in (PREFIX, LIBRARIES) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 1000
    found = {path.name: WORKPLACE.findall(path.read_bytes())[:3] for path in files}
    assert {name: paths for name, paths in found.items() if paths} == {}
