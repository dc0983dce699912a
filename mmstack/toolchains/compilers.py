"""The C and C++ compilers of this machine, and which of them a CUDA version's nvcc works with."""

from __future__ import annotations

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mmstack.errors import CommandError, ConstraintError, HostError
from mmstack.model import Compiler
from mmstack.run import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmstack.model import CudaRelease

NAME = re.compile(r"(?:g|clang)\+\+(?:-[\d.]+)?")
C_TWINS = {"g++": "gcc", "clang++": "clang", "c++": "cc"}
TWINS = C_TWINS | {c: cxx for cxx, c in C_TWINS.items()}
ONE_OF_TWO = re.compile(r"(?P<before>.*-)?(?P<name>clang\+\+|g\+\+|c\+\+|clang|gcc|cc)(?P<after>-[\d.]+)?")
SAYS = re.compile(r"(?:gcc|g\+\+|GCC|clang|c\+\+|\bcc\b)[^\n]*?(?P<version>\d+\.\d+(?:\.\d+)?)")
PACKAGING_NOTE = re.compile(r"\([^()]*\)")  # `(crosstool-NG 1.25.0) 11.4.0`: the distribution's, not the compiler's
CALLED = re.compile(r"^\S+ \(")
AT_ONCE = 8


def family_and_version(text: str) -> tuple[str, str] | None:
    """Return `("gcc", "12.2.0")` or `("clang", ...)` for what a compiler says of itself, None where that is unclear."""
    match = SAYS.search(PACKAGING_NOTE.sub("", text))
    if match is None:
        return None
    return "clang" if "clang" in text.lower() else "gcc", match["version"]


def twin(name: str) -> str:
    """Return the C compiler of a C++ compiler's name or path, or the other way; nothing where it tells of none."""
    path = Path(name)
    match = ONE_OF_TWO.fullmatch(path.name)
    if match is None:
        return ""
    return str(path.with_name(f"{match['before'] or ''}{TWINS[match['name']]}{match['after'] or ''}"))


def find_compilers(environ: Mapping[str, str]) -> tuple[Compiler, ...]:
    """Return every g++ and clang++ on PATH that works and has its C compiler beside it: newest first, each once."""
    pairs = list(_pairs(environ.get("PATH", os.defpath)))
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        found = [compiler for compiler in pool.map(lambda pair: _known(pair[0], pair[1], environ), pairs) if compiler]
    once: dict[object, Compiler] = {}
    for compiler in found:
        # A cache such as ccache is one program under many names: what it says tells them apart.
        once.setdefault((compiler.cxx.resolve(), family_and_version(compiler.version)), compiler)
    return tuple(sorted(once.values(), key=_rank, reverse=True))


def choose(
    release: CudaRelease, compilers: Sequence[Compiler], preferred: Compiler | None, *, explicit: bool
) -> Compiler:
    """Return the compiler that nvcc shall work with: the newest that it accepts, g++ rather than clang++.

    Args:
        release: the CUDA version.
        compilers: all that are here.
        preferred: the one that `CC` and `CXX` or PATH name.
        explicit: the user named it, so it is that one or none.

    Raises:
        ConstraintError: nvcc does not accept the one that the user named.
        HostError: that one does not work, or nvcc accepts none.
    """
    if explicit:
        return _named(release, preferred)
    candidates = [*([preferred] if preferred else []), *compilers]
    accepted = [compiler for compiler in candidates if accepts(release, compiler)]
    if accepted:
        return max(accepted, key=lambda compiler: (_is_gcc(compiler), _rank(compiler)))
    here = ", ".join(dict.fromkeys(map(title, candidates)))
    raise HostError(
        f"no compiler on this machine is one that CUDA {release.version}'s nvcc accepts",
        why=f"it accepts g++ {release.gcc} and clang++ {release.clang}; here is {here or 'none'}",
        fix=f"install one: `apt-get install {newest(release.gcc)}`, or your distribution's package of it",
    )


def _named(release: CudaRelease, preferred: Compiler | None) -> Compiler:
    if preferred is None:
        raise HostError(
            "CC and CXX name no working compilers",
            fix="set them to the paths of a C and a C++ compiler, or leave both unset",
        )
    found = family_and_version(preferred.version)
    if found is None or accepts(release, preferred):  # nvcc itself judges what we cannot
        return preferred
    bounds = SpecifierSet(_bounds(release, found[0]))
    new = any(Version(found[1]) >= Version(bound.version) for bound in bounds if bound.operator.startswith("<"))
    gxx = newest(release.gcc)
    raise ConstraintError(
        f"{title(preferred)} is too {'new' if new else 'old'} for CUDA {release.version}'s nvcc",
        why=f"it accepts g++ {release.gcc} and clang++ {release.clang}; CC and CXX name {preferred.cxx}",
        fix=f"`apt-get install {gxx}`, then `CC={gxx.replace('++', 'cc')} CXX={gxx}`; "
        "or leave CC and CXX unset to have the newest that it accepts",
    )


def _pairs(path: str) -> Iterator[tuple[Path, Path]]:
    """Yield the C and C++ compilers of PATH, as the shell would find each."""
    seen: set[str] = set()
    for folder in (Path(word).absolute() for word in path.split(os.pathsep) if word):
        for cxx in sorted(folder.glob("*++*")):
            if not NAME.fullmatch(cxx.name) or cxx.name in seen or not os.access(cxx, os.X_OK):
                continue
            seen.add(cxx.name)
            if cc := shutil.which(twin(cxx.name), path=f"{folder}{os.pathsep}{path}"):
                yield Path(cc).absolute(), cxx


def probe(cc: Path, cxx: Path, environ: Mapping[str, str]) -> Compiler:
    """Return a C and a C++ compiler as a pair.

    Raises:
        CommandError: one does not work.
        HostError: one may not be run, or they are not of one version.
        OSError: one cannot be run.
    """
    environment = {**environ, "LC_ALL": "C"}
    c, first = (run([each, "--version"], env=environment).output.partition("\n")[0] for each in (cc, cxx))
    target = run([cxx, "-dumpmachine"], env=environment).output.strip()
    found = family_and_version(c), family_and_version(first)
    if None not in found and found[0] != found[1]:
        raise HostError(
            "CC and CXX must name a pair of one version",
            why=f"{cc} says `{c}`, {cxx} `{first}`",
            fix="set both, or one alone: the other of its pair is then found",
        )
    if found[1] and found[1][0] == "gcc":  # which says first by what name it was called, and that changes nothing
        first = CALLED.sub("g++ (", first)
    return Compiler(cc=cc, cxx=cxx, version=f"{first} [{target}]")


def _known(cc: Path, cxx: Path, environ: Mapping[str, str]) -> Compiler | None:
    try:
        compiler = probe(cc, cxx, environ)
    except (CommandError, HostError, OSError):
        return None
    return compiler if family_and_version(compiler.version) else None


def accepts(release: CudaRelease, compiler: Compiler) -> bool:
    """Return whether a CUDA version's nvcc works with a compiler."""
    found = family_and_version(compiler.version)
    return found is not None and SpecifierSet(_bounds(release, found[0])).contains(found[1])


def _bounds(release: CudaRelease, family: str) -> str:
    return release.gcc if family == "gcc" else release.clang


def _rank(compiler: Compiler) -> tuple[Version, bool]:
    found = family_and_version(compiler.version)
    return Version(found[1] if found else "0"), _is_gcc(compiler)


def _is_gcc(compiler: Compiler) -> bool:
    found = family_and_version(compiler.version)
    return found is not None and found[0] == "gcc"


def title(compiler: Compiler) -> str:
    """Return `g++ 12.2.0`."""
    found = family_and_version(compiler.version)
    return f"{'g++' if found[0] == 'gcc' else 'clang++'} {found[1]}" if found else compiler.version


def newest(bounds: str) -> str:
    """Return `g++-15` for bounds such as `<16`."""
    majors = [int(bound.version.partition(".")[0]) - 1 for bound in SpecifierSet(bounds) if bound.operator == "<"]
    return f"g++-{min(majors)}" if majors else "g++"
