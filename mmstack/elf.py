"""Compiled modules as the dynamic loader will see them: what they need, lack and offer."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.hash import GNUHashSection
from elftools.elf.sections import StringTableSection, Symbol, SymbolTableSection

from mmstack.errors import GateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LOADER_CONFIGURATION = Path("/etc/ld.so.conf")
DEFAULT_FOLDERS = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")
SHORTEST_LIKENESS = 6
SMALLEST_SECTION, SMALLEST_SEGMENT = 40, 32  # of the headers of 32-bit files
# What the reader raises where a file lies to it, besides its own errors.
DAMAGED = (
    ELFError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What code is for: the ELF machine, its word size and its byte order."""

    name: str
    bits: int
    little_endian: bool

    def __str__(self) -> str:
        return f"{self.name.removeprefix('EM_')} {self.bits}-bit {'little' if self.little_endian else 'big'}-endian"


@dataclass(frozen=True, kw_only=True)
class Module:
    """A dynamically linked ELF file: its header and dynamic section; `shared` where it can be loaded."""

    path: Path
    machine: Machine
    shared: bool
    soname: str
    needed: tuple[str, ...]
    run_paths: tuple[str, ...]


@contextmanager
def _opened(path: Path) -> Iterator[ELFFile]:
    """Open an ELF file; the reader trusts its numbers, so a damaged file may end it in many ways.

    Raises:
        GateError: the file cannot be read as an ELF file.
    """
    with path.open("rb") as stream:
        try:
            yield _bounded(ELFFile(stream))
        except DAMAGED as error:
            raise GateError(
                f"{path.name} is no sound ELF file", why=f"{path}: {error}", fix="build it again"
            ) from error


def _bounded(elf: ELFFile) -> ELFFile:
    """Refuse tables that are larger than their file: the reader would walk them to their end, however far that is."""
    for table, count, size, smallest in (
        ("section", elf.num_sections(), elf["e_shentsize"], SMALLEST_SECTION),
        ("segment", elf.num_segments(), elf["e_phentsize"], SMALLEST_SEGMENT),
    ):
        if count and (size < smallest or count * size > elf.stream_len):
            raise ELFError(f"it says that it has {count} {table}s of {size} bytes")
    return elf


def read_module(path: Path) -> Module | None:
    """Return what a file says of itself, or None for one that is no ELF file with dynamic symbols."""
    with suppress(GateError), _opened(path) as elf:
        if _symbols(elf) is None:
            return None
        tags = _dynamic_tags(elf)
        return Module(
            path=path,
            machine=Machine(name=str(elf["e_machine"]), bits=elf.elfclass, little_endian=elf.little_endian),
            shared=elf["e_type"] == "ET_DYN",
            soname="".join(tags["DT_SONAME"]),
            needed=tuple(tags["DT_NEEDED"]),
            run_paths=tuple(entry for value in tags["DT_RPATH"] + tags["DT_RUNPATH"] for entry in value.split(":")),
        )
    return None


def _dynamic_tags(elf: ELFFile) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in ("DT_SONAME", "DT_NEEDED", "DT_RPATH", "DT_RUNPATH")}
    for segment in elf.iter_segments():
        for tag in segment.iter_tags() if isinstance(segment, DynamicSegment) else ():
            kind = str(tag.entry.d_tag)
            if kind in found:
                found[kind].append(getattr(tag, kind.removeprefix("DT_").lower()))
    return found


def _symbols(elf: ELFFile) -> SymbolTableSection | None:
    section = elf.get_section_by_name(".dynsym")
    return section if isinstance(section, SymbolTableSection) else None


def undefined_symbols(module: Module) -> frozenset[str]:
    """Return the names that a module cannot be loaded without and does not define."""
    with _opened(module.path) as elf:
        table = _symbols(elf)
        return frozenset(
            symbol.name
            for symbol in (table.iter_symbols() if table is not None else ())
            if symbol.name and symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_WEAK"
        )


def section_digests(path: Path) -> dict[str, tuple[int, str]] | None:
    """Return size and sha256 of each section of an ELF file, in its order; None for one that is none."""
    with suppress(GateError), _opened(path) as elf:
        found: dict[str, tuple[int, str]] = {}
        for number, section in enumerate(elf.iter_sections()):
            name = section.name or f"section {number}"
            body = b"" if section["sh_type"] == "SHT_NOBITS" else section.data()
            unique = f"{name} ({number})" if name in found else name
            found[unique] = (section["sh_size"], hashlib.sha256(body).hexdigest())
        return found
    return None


def defined_symbols(path: Path, names: Iterable[str]) -> frozenset[str]:
    """Return those of the names that a library defines, through its own hash table: fast in any size."""
    with _opened(path) as elf:
        table = next((section for section in elf.iter_sections() if isinstance(section, GNUHashSection)), None)
        if table is not None:
            return frozenset(name for name in names if _is_defined(table.get_symbol(name)))
        symbols = _symbols(elf)  # the chains of an old kind of table may go round in circles
        listed = {symbol.name for symbol in symbols.iter_symbols() if _is_defined(symbol)} if symbols else set()
        return frozenset(listed.intersection(names))


def _is_defined(symbol: Symbol | None) -> bool:
    return symbol is not None and symbol["st_shndx"] != "SHN_UNDEF"


def most_likely(symbol: str, libraries: Iterable[Path]) -> Path | None:
    """Return the library whose own names begin most like the symbol, the likely home of one that is missing."""
    best, longest = None, SHORTEST_LIKENESS - 1
    for path in libraries:
        length = _likeness(symbol.encode(), _names(path))
        if length > longest:
            best, longest = path, length
    return best


def _names(path: Path) -> bytes:
    with _opened(path) as elf:
        section = elf.get_section_by_name(".dynstr")
        # packed or without bytes of its own, it could be made to grow without bound
        if not isinstance(section, StringTableSection) or section.compressed or section["sh_size"] > elf.stream_len:
            return b""
        return section.data()


def _likeness(symbol: bytes, names: bytes) -> int:
    known, unknown = 0, len(symbol) + 1
    while unknown - known > 1:
        middle = (known + unknown) // 2
        known, unknown = (middle, unknown) if b"\0" + symbol[:middle] in names else (known, middle)
    return known


def system_folders(configuration: Path = LOADER_CONFIGURATION) -> tuple[Path, ...]:
    """Return where the dynamic loader looks on this machine: its configuration, then its defaults."""
    folders = [*_configured(configuration), *map(Path, DEFAULT_FOLDERS)]
    return tuple(dict.fromkeys(folders))


def _configured(configuration: Path) -> Iterator[Path]:
    try:
        lines = configuration.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.partition("#")[0].split()
        if words[:1] == ["include"]:
            for pattern in words[1:]:
                for name in sorted(glob(str(configuration.parent / pattern))):  # noqa: PTH207 - may be absolute
                    yield from _configured(Path(name))
        elif words and words[0].startswith("/"):
            yield Path(words[0])


def run_folders(module: Module) -> Iterator[Path]:
    """Yield the folders that a module's run paths mean."""
    for entry in module.run_paths:
        text = entry.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", str(module.path.parent))
        yield Path(os.path.normpath(text))


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Finds libraries as the dynamic loader will once all layers are installed.

    Attributes:
        machine: what the interpreter runs; libraries for another machine are passed over.
        known: libraries of the wheel and of the layers below, by file name and soname.
        folders: the system's library folders.
        unpacked: where the wheel under examination is unpacked.
        site: the site-packages that it will share with the layers below.
    """

    machine: Machine
    known: Mapping[str, Path]
    folders: tuple[Path, ...]
    unpacked: Path
    site: Path | None
    _modules: dict[Path, Module | None] = field(default_factory=dict)

    def module(self, path: Path) -> Module | None:
        """Return a library that this machine can load, or None."""
        if path not in self._modules:
            found = read_module(path) if path.is_file() else None
            self._modules[path] = found if found is not None and found.machine == self.machine else None
        return self._modules[path]

    def find(self, name: str, wanted_by: Module) -> Module | None:
        """Return the library of that name which a module will get."""
        known = [self.known[name]] if name in self.known else []
        candidates = [folder / name for folder in self._run_paths(wanted_by)]
        candidates += [*known, *(folder / name for folder in self.folders)]
        return next((found for path in candidates if (found := self.module(path)) is not None), None)

    def scope(self, module: Module) -> dict[str, Module | None]:
        """Return all that is loaded with a module, nearest first; None for what cannot be found."""
        found: dict[str, Module | None] = {}
        waiting = [(name, module) for name in module.needed]
        while waiting:
            name, wanted_by = waiting.pop(0)
            if name in found:
                continue
            library = found[name] = self.find(name, wanted_by)
            waiting += [(needed, library) for needed in library.needed] if library is not None else []
        return found

    def _run_paths(self, module: Module) -> Iterator[Path]:
        for folder in run_folders(module):
            yield folder
            if self.site is not None and folder.is_relative_to(self.unpacked):
                yield self.site / folder.relative_to(self.unpacked)
