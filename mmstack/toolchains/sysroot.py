"""A build root of a distribution's packages: a folder that holds their files as the system would, none installed.

Compilers, linkers and CMake look into it first; what it lacks (the C library, above all) they find on the machine.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from mmstack.errors import CatalogError, CommandError
from mmstack.run import interrupted, is_stopping, run, scrubbed
from mmstack.sources.archive import DAMAGE, Tree, demand_filter, settle, take
from mmstack.store import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import PurePosixPath

    from mmstack.sources.archive import Kind

# On every current system these are links into usr, while packages go on naming either of the two.
MERGED = re.compile(r"(?:\./)?(?P<path>(?:bin|sbin|lib|lib32|lib64|libx32)(?:/.*)?)", re.DOTALL)
MULTIARCH = re.compile(r"[a-z0-9_]+-[a-z]+-[a-z0-9]+")
HEADERS = ("*.h", "*.hpp", "*.hh")
LIBRARIES = ("lib*.so*", "lib*.a")


def make(debs: Sequence[Path], place: Path, log: Path | None = None) -> Path:
    """Unpack packages into one folder: there whole, or not at all; the caller holds a lock against others.

    No script of a package is run. Absolute links lead to where they would with the folder as a system's root.

    Args:
        debs: the packages' files, of one closure.
        place: where it belongs; a folder that is there is whole already.
        log: where what dpkg-deb says goes.

    Raises:
        ArchiveError: a package is damaged, holds what no honest one holds, or what another one holds.
        HostError: this machine has no dpkg-deb, or this Python no filter for tar members.
        DiskError: the disk is full, read-only or not ours to write.
        InterruptedRunError: we are stopping.
    """
    if place.exists():
        return place
    demand_filter()
    new = place.with_name(f".new-{place.name}")
    with disk_errors(place.parent):
        shutil.rmtree(new, ignore_errors=True)  # of a run that was killed
        root = new / "root"
        root.mkdir(parents=True)
        try:
            kinds: dict[PurePosixPath, Kind] = {}
            for deb in debs:
                if is_stopping():
                    raise interrupted()
                _unpack(deb, root, kinds, new / "data.tar", log)
            _link_merged(root)
            settle(root, place)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return place


def variables(root: Path, folders: Sequence[str] = ()) -> dict[str, str]:
    """Return by which variables compilers, linkers, CMake and programs find what a build root holds.

    Args:
        root: the build root.
        folders: in it, where headers and libraries are besides the usual places.

    Raises:
        CatalogError: there is no such folder in it.
    """
    more = [_folder(root, name) for name in folders]
    triplets = sorted(path.name for path in (root / "usr/lib").glob("*-*-*") if MULTIARCH.fullmatch(path.name))
    headers = [path for path in more if _holds(path, HEADERS)]
    libraries = [path for path in more if _holds(path, LIBRARIES)]
    include = [root / "usr/include", *(root / "usr/include" / triplet for triplet in triplets), *headers]
    usual = [*(root / "usr/lib" / triplet for triplet in triplets), root / "usr/lib"]
    # Not what is searched for `-l`, but where the libraries that those need are found: like the system's loader.
    behind = [*usual, *(root / "lib" / triplet for triplet in triplets), *libraries]
    link_flags = [
        "-Wl,--as-needed",
        *(f"-L{path}" for path in [*usual, *libraries]),
        f"-Wl,-rpath-link,{_list(behind)}",
    ]
    found = {
        # not CFLAGS: these are compiled into some libraries, and would tell where they were built
        "CMAKE_C_STANDARD_INCLUDE_DIRECTORIES": ";".join(map(str, include)),
        "CMAKE_CXX_STANDARD_INCLUDE_DIRECTORIES": ";".join(map(str, include)),
        "LDFLAGS": " ".join(link_flags),
        "CMAKE_PREFIX_PATH": str(root / "usr"),
        "CMAKE_INCLUDE_PATH": _list(headers),
        "CMAKE_LIBRARY_PATH": _list([*libraries, *usual]),
        "LD_LIBRARY_PATH": _list([*usual, *libraries]),
        "PKG_CONFIG_LIBDIR": _list(folder / "pkgconfig" for folder in [*usual, root / "usr/share"]),
        "PKG_CONFIG_SYSROOT_DIR": str(root),
    }
    return {name: value for name, value in found.items() if value}


def libraries(root: Path, folders: Sequence[str] = ()) -> tuple[Path, ...]:
    """Return the folders of the shared libraries in it; `folders` are those besides the usual places."""
    return tuple(map(Path, variables(root, folders)["LD_LIBRARY_PATH"].split(":")))


def programs(root: Path) -> tuple[Path, ...]:
    """Return the folders of the programs in it, for PATH."""
    return tuple(path for path in [root / "usr/bin"] if path.is_dir())


def _unpack(deb: Path, root: Path, kinds: dict[PurePosixPath, Kind], data: Path, log: Path | None) -> None:
    tree = Tree(deb, root, kept=0)
    tree.kinds = kinds  # of all packages: none may write through another's link, or over its files
    try:
        run(["dpkg-deb", "--fsys-tarfile", deb], env=scrubbed(data.parent), log=log, into=data)
        with tarfile.open(data, "r:") as tar:
            for member in tar:
                take(tar, _placed(member), tree)
    except CommandError as error:
        raise tree.refuse("", error.why or error.what) from error
    except DAMAGE as error:
        raise tree.refuse("", f"it is damaged: {error}") from error


def _placed(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a member as it belongs into a build root: below usr, and without absolute links."""
    name = _merged(member.name)
    if member.issym() and (member.linkname.startswith("/") or name != member.name):
        whole = posixpath.normpath(posixpath.join("/", posixpath.dirname(member.name), member.linkname))
        here = posixpath.join("/", posixpath.dirname(name))
        return member.replace(name=name, linkname=posixpath.relpath(f"/{_merged(whole.lstrip('/'))}", here), deep=False)
    return member.replace(
        name=name, linkname=_merged(member.linkname) if member.islnk() else member.linkname, deep=False
    )


def _merged(name: str) -> str:
    match = MERGED.fullmatch(name)
    return f"usr/{match['path']}" if match else name


def _link_merged(root: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if (root / "usr" / name).is_dir():
            (root / name).symlink_to(f"usr/{name}")


def _folder(root: Path, name: str) -> Path:
    if not (root / name).is_dir():
        raise CatalogError(
            f"the distribution's packages hold no folder {name}",
            why=f"looked into {root}",
            fix="correct the folders in the recipe, or the libraries that should bring it",
        )
    return root / name


def _holds(folder: Path, patterns: Iterable[str]) -> bool:
    return any(next(folder.rglob(pattern), None) is not None for pattern in patterns)


def _list(paths: Iterable[Path]) -> str:
    return ":".join(map(str, paths))
