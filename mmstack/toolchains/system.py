"""CUDA toolkits that are on this machine: where they are, whether they are whole, and how builds use them.

NVIDIA's own layout has all below one folder. Debian spreads a toolkit over `/usr`, and its nvcc knows
the rest by absolute paths: unpacked into another folder, it would take the parts of whichever toolkit
is in `/usr`, or none.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmstack.errors import CommandError, HostError
from mmstack.keys import file_digest, key
from mmstack.model import Toolkit
from mmstack.run import run
from mmstack.store import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MACHINE = platform.machine()
PROGRAMS = ("nvcc", "cudafe++", "cicc", "ptxas", "fatbinary", "nvlink")
MORE_PROGRAMS = ("__nvcc_device_query", "bin2c", "cuobjdump", "nvdisasm", "nvprune", "crt")
HEADERS = (  # the compiler's own, and those that the layers' headers include
    "crt/host_config.h",
    "cuda.h",
    "cuda_runtime.h",
    "cuda_runtime_api.h",
    "cublas_v2.h",
    "cublasLt.h",
    "cusolverDn.h",
    "cusparse.h",
    "curand.h",
    "cufft.h",
    "nvrtc.h",
    "cuda/std/version",
    "cub/cub.cuh",
    "thrust/complex.h",
)
LIBRARIES = ("libcudart.so", "libcudadevrt.a")
LIBDEVICE = "libdevice.10.bc"
DEBIAN = Path("lib", "nvidia-cuda-toolkit")
RELEASE = re.compile(r"release (?P<version>\d+\.\d+), V(?P<full>[\d.]+)")
BUILD = re.compile(r"^Build (?P<build>\S+)$", re.MULTILINE)
CUDA_VERSION = re.compile(r"^#\s*define\s+CUDA_VERSION\s+(\d+)", re.MULTILINE)
HERE = re.compile(r"^#\$ _HERE_=(?P<folder>.+)$", re.MULTILINE)
# In nvcc's own language, of which each toolkit's nvcc.profile is the only description.
PROFILE = """\
TOP = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES += "-I$(TOP)/include" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(TOP)/lib64/stubs" "-L$(TOP)/lib64"
"""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the parts of a toolkit are, each if it is there at all."""

    home: Path
    programs: Mapping[str, Path]
    includes: Path
    libraries: Path
    libdevice: Path

    @property
    def missing(self) -> list[str]:
        """Return what it lacks, by the names of files."""
        # CUDA 13 has its C++ libraries in a folder of their own.
        folders = (self.includes, self.includes / "cccl")
        return [
            *(name for name in PROGRAMS if not os.access(self.programs.get(name, ""), os.X_OK)),
            *(f"include/{name}" for name in HEADERS if not any((folder / name).is_file() for folder in folders)),
            *(name for name in LIBRARIES if not (self.libraries / name).is_file()),
            *([] if (self.libdevice / LIBDEVICE).is_file() else [LIBDEVICE]),
        ]


def inspect(home: Path) -> Toolkit:
    """Return the toolkit that is in a folder: NVIDIA's layout, `/usr`, or Debian's packages unpacked.

    Raises:
        HostError: there is none, it does not run, it is not whole, or its parts are of two versions.
    """
    layout = _layout(home.absolute())
    version, full, build = _says(layout)
    if layout.missing:
        raise HostError(
            f"{home} is not a whole CUDA toolkit",
            why=f"CUDA {version}, but it lacks {', '.join(layout.missing)}",
            fix=f"install the rest (NVIDIA's repository: `apt-get install cuda-toolkit-{version.replace('.', '-')}`; "
            "Debian: `apt-get install nvidia-cuda-toolkit`), or leave `--toolkit` out",
        )
    header = _header_version(layout)
    if header != version:
        raise HostError(
            f"{home} is a mixture of two CUDA toolkits",
            why=f"{layout.programs['nvcc']} is of CUDA {version}, {layout.includes / 'cuda.h'} of {header}",
            fix="install one of them anew, or name another folder with `--toolkit system:DIR`",
        )
    digests = {name: file_digest(layout.programs[name]) for name in ("nvcc", "cicc", "ptxas")}
    return Toolkit(
        kind="system",
        version=version,
        origin=f"{layout.home}, nvcc {full} ({build})",
        identity=key("toolkit", {"build": build, "programs": digests}),
        home=layout.home,
    )


def find(version: str, environ: Mapping[str, str], *, root: Path = Path("/")) -> tuple[Toolkit | None, tuple[str, ...]]:
    """Return the first whole toolkit of exactly that version, and in words what was passed over and why."""
    notes = []
    for name, found in _look(environ, root):
        if isinstance(found, HostError):
            notes.append(f"{name}: {found.why or found.what}")
        elif found.version == version:
            return found, tuple(notes)
        else:
            notes.append(f"{name}: CUDA {found.version}")
    return None, tuple(notes)


def every(environ: Mapping[str, str], *, root: Path = Path("/")) -> tuple[tuple[str, Toolkit | HostError], ...]:
    """Return all toolkits of this machine by where they were found, broken ones as the error that says so."""
    return tuple(_look(environ, root))


def classic(home: Path, place: Path) -> Path:
    """Return a toolkit's folder in NVIDIA's layout, which all build systems understand.

    That is the toolkit's own where it has that layout already, else `place`, which is filled with links
    to its parts where it is not there. The caller holds a lock against others who fill it.

    Raises:
        HostError: there is no toolkit.
        DiskError: `place` cannot be filled.
    """
    layout = _layout(home)
    usual = (home / "bin" / "nvcc", home / "include", home / "lib64")
    if (_nvcc(layout), layout.includes, layout.libraries) == usual:
        return home
    if not place.exists():
        fresh = place.with_name(f"{place.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        with disk_errors(place.parent):
            _lay_out(layout, fresh)
            fresh.replace(place)
    return place


def environment(home: Path) -> dict[str, str]:
    """Return the variables by which CMake and setup.py scripts find a toolkit of NVIDIA's layout.

    Without the last, CMake would prefer the libraries of a toolkit in `/usr` to those beside nvcc.
    """
    return {
        "CUDA_HOME": str(home),
        "CUDA_PATH": str(home),
        "CUDACXX": str(home / "bin" / "nvcc"),
        "CMAKE_LIBRARY_PATH": str(_layout(home).libraries),
    }


def _layout(home: Path) -> Layout:
    """Return where the parts of the toolkit would be; Debian's variables name `/usr/lib/cuda`, meaning `/usr`."""
    above = [home.parent.parent] if home.parent.name == "lib" else []
    debian = next((root for root in (home, home / "usr", *above) if (root / DEBIAN / "bin" / "nvcc").exists()), None)
    if debian:
        return Layout(
            home=debian,
            programs=_programs(debian / DEBIAN / "bin", debian / "bin"),
            includes=debian / "include",
            libraries=debian / "lib" / f"{MACHINE}-linux-gnu",
            libdevice=debian / DEBIAN / "libdevice",
        )
    target = home / "targets" / {"aarch64": "sbsa-linux"}.get(MACHINE, f"{MACHINE}-linux")
    includes = (home / "include", target / "include")
    libraries = (home / "lib64", home / "lib", target / "lib")
    return Layout(
        home=home,
        programs=_programs(home / "bin", home / "nvvm" / "bin"),
        includes=next((folder for folder in includes if (folder / "cuda_runtime.h").exists()), includes[0]),
        libraries=next((folder for folder in libraries if (folder / LIBRARIES[0]).exists()), libraries[0]),
        libdevice=home / "nvvm" / "libdevice",
    )


def _programs(*folders: Path) -> dict[str, Path]:
    places = [(name, folder / name) for name in (*PROGRAMS, *MORE_PROGRAMS) for folder in reversed(folders)]
    return {name: path for name, path in places if path.exists()}


def _nvcc(layout: Layout) -> Path:
    if "nvcc" not in layout.programs:
        raise HostError(
            f"{layout.home} is no CUDA toolkit",
            why=f"there is neither {layout.home / 'bin' / 'nvcc'} nor Debian's {layout.home / 'usr' / DEBIAN}",
            fix="name the folder that has a toolkit's bin/nvcc, e.g. `--toolkit system:/usr/local/cuda`",
        )
    return layout.programs["nvcc"]


def _says(layout: Layout) -> tuple[str, str, str]:
    """Return what nvcc says of itself: `12.4`, `12.4.131` and its build."""
    nvcc = _nvcc(layout)
    try:
        output = run([nvcc, "--version"], env={"PATH": os.defpath}).output
    except (CommandError, HostError, OSError) as error:
        raise _broken(nvcc, str(error)) from error
    release, build = RELEASE.search(output), BUILD.search(output)
    if release is None or build is None:
        raise _broken(nvcc, f"it said: {output[-200:] or 'nothing'}")
    return release["version"], release["full"], build["build"]


def _broken(nvcc: Path, why: str) -> HostError:
    return HostError(
        f"{nvcc} does not work",
        why=why,
        fix="install that toolkit anew, or name another with `--toolkit system:DIR`",
    )


def _header_version(layout: Layout) -> str:
    text = (layout.includes / "cuda.h").read_text(encoding="utf-8", errors="replace")
    match = CUDA_VERSION.search(text)
    return f"{int(match[1]) // 1000}.{int(match[1]) % 1000 // 10}" if match else "no stated version"


def _look(environ: Mapping[str, str], root: Path) -> Iterator[tuple[str, Toolkit | HostError]]:
    seen: set[Path] = set()
    for name, home in _homes(environ, root):
        place = _layout(home).home.resolve()
        if place in seen:
            continue
        seen.add(place)
        try:
            yield name, inspect(home)
        except HostError as error:
            yield name, error


def _homes(environ: Mapping[str, str], root: Path) -> Iterator[tuple[str, Path]]:
    """Yield where a toolkit may be, the user's own word first."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if environ.get(variable):
            yield f"{variable}={environ[variable]}", Path(environ[variable]).absolute()
    local = root / "usr" / "local"
    for folder in (*sorted(local.glob("cuda-*"), reverse=True), local / "cuda", root / "opt" / "cuda", root / "usr"):
        if (folder / "bin" / "nvcc").exists():
            yield str(folder), folder
    for folder in map(Path, filter(None, environ.get("PATH", os.defpath).split(os.pathsep))):
        for nvcc in (folder / "nvcc", *sorted(folder.glob("nvcc-[0-9]*"), reverse=True)):
            if os.access(nvcc, os.X_OK):
                yield str(nvcc), _home_of(nvcc, environ)


def _home_of(nvcc: Path, environ: Mapping[str, str]) -> Path:
    """Return the toolkit that an nvcc belongs to, which is often a script or a link and stands elsewhere.

    A script hands on to the nvcc that we ask for, a link does not: nvcc takes the link's folder for its own.
    """
    program = nvcc.resolve()
    try:
        output = run([program, "--dryrun", "none.cu"], env={"PATH": environ.get("PATH", os.defpath)}).output
    except (CommandError, HostError, OSError) as error:
        output = error.why if isinstance(error, CommandError) else ""
    match = HERE.search(output)
    return (Path(match["folder"]) if match else program.parent).absolute().parent


def _lay_out(layout: Layout, place: Path) -> None:
    """Fill a folder with links to the parts of a toolkit.

    nvcc itself is copied: it looks for its settings and for the other programs where it stands, and some
    tools follow links before they start it.
    """
    (place / "bin").mkdir(parents=True)
    (place / "nvvm" / "bin").mkdir(parents=True)
    for name, path in layout.programs.items():
        folder = place / "nvvm" / "bin" if name == "cicc" else place / "bin"
        if name == "nvcc":
            shutil.copy2(path, folder / name)
        else:
            (folder / name).symlink_to(path)
    (place / "bin" / "nvcc.profile").write_text(PROFILE, encoding="utf-8")
    (place / "nvvm" / "libdevice").symlink_to(layout.libdevice)
    (place / "lib64").symlink_to(layout.libraries)
    if not (layout.includes / "stdlib.h").exists():
        (place / "include").symlink_to(layout.includes)
        return
    # Among the system's own headers: compilers find these anyway, but must not find those twice.
    (place / "include").mkdir()
    for name in HEADERS:
        if "/" not in name:
            (place / "include" / name).symlink_to(layout.includes / name)
