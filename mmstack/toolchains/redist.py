"""NVIDIA's redistributable archives: found by a release's manifest and merged into one toolkit.

A manifest is `redistrib_X.Y.Z.json`. It gives, for each component and platform, an archive's
address relative to its own, and that archive's digest; only the manifest itself is pinned by us.
"""

from __future__ import annotations

import filecmp
import json
import os
import platform
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mmstack.errors import ArchiveError, CatalogError, HostError, PinError, UsageError, did_you_mean
from mmstack.model import FilePin
from mmstack.run import interrupted, is_stopping
from mmstack.sources.archive import settle, unpack
from mmstack.sources.places import Offer, expanded, redact
from mmstack.store import disk_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmstack.model import Toolkit

BASE = "https://developer.download.nvidia.com/compute/cuda/redist/"
# "sbsa" is NVIDIA's name for servers with Arm processors; its "aarch64" means Jetson boards.
PLATFORMS: Mapping[str, str] = {"x86_64": "linux-x86_64", "aarch64": "linux-sbsa"}
ANY_PLATFORM = "linux-all"
# Neither `..` nor another host, nor anything that an address would have to quote.
RELATIVE_PATH = re.compile(r"(?:[A-Za-z0-9][\w.+-]*/)*[A-Za-z0-9][\w.+-]*\.tar\.xz", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")
SIZE = re.compile(r"[0-9]{1,18}")


def address(place: str) -> str:
    """Return the address below which manifests and archives are, ending in a slash.

    Args:
        place: an http or https address, a folder, or nothing for NVIDIA's own.

    Raises:
        UsageError: it is none of these.
    """
    try:
        parts = urlsplit(place or BASE)
        _ = parts.port
    except ValueError:
        raise _no_address(place) from None
    if parts.scheme in {"http", "https", "file"} and (parts.netloc or parts.path):
        return parts._replace(path=f"{parts.path.rstrip('/')}/", fragment="").geturl()
    if "://" in place:
        raise _no_address(place)
    return f"{expanded(place, '--toolkit').absolute().as_uri()}/"


def manifest_offer(toolkit: Toolkit) -> Offer:
    """Return where a toolkit's manifest is."""
    assert toolkit.manifest is not None  # noqa: S101 - what a toolkit of this kind is made of
    return Offer(pin=toolkit.manifest, urls=(_below(toolkit.base, toolkit.manifest.filename),))


def components(manifest: Path, toolkit: Toolkit, machine: str = "") -> tuple[Offer, ...]:
    """Return the archives of a toolkit's components, in its order.

    Args:
        manifest: the file that `manifest_offer` offers.
        toolkit: one that is made of archives.
        machine: `x86_64` or `aarch64`; by default, what this machine is.

    Raises:
        HostError: there are no archives for such a machine.
        CatalogError: the manifest does not have one of the components for it.
        PinError: the manifest is none, or says what no honest one says.
    """
    machine = machine or platform.machine()
    if machine not in PLATFORMS:
        raise HostError(
            f"there are no CUDA archives for {machine}",
            why=f"there are for {', '.join(PLATFORMS)}",
            fix="give a toolkit of this system: `--toolkit system`",
        )
    listing = _Listing(manifest=manifest, toolkit=toolkit, platform=PLATFORMS[machine], components=_read(manifest))
    return tuple(listing.offer(name) for name in toolkit.components)


def merge(archives: Sequence[Path], into: Path) -> Path:
    """Unpack archives into one toolkit: there whole, or not at all; the caller holds a lock against others.

    The files at the top of an archive, licences above all, go to `licenses/<component>`. `lib64`, where
    nvcc and others look for libraries, becomes another name of `lib`.

    Args:
        archives: files named `<component>-<platform>-<version>-archive.tar.xz`.
        into: a folder that is not there yet, or is empty.

    Raises:
        ArchiveError: an archive is damaged or dishonest, or has a file that differs from another's.
        DiskError: the disk is full, read-only or not ours to write; or `into` is in use.
        InterruptedRunError: we are stopping.
    """
    new = into.with_name(f".new-{into.name}")
    with disk_errors(into.parent):
        shutil.rmtree(new, ignore_errors=True)  # of a run that was killed
        home = new / "home"
        home.mkdir(parents=True)
        try:
            for archive in archives:
                if is_stopping():
                    raise interrupted()
                top = unpack(archive, new / archive.name)
                _file_licenses(top, home / "licenses" / archive.name.partition("-")[0])
                _move(top, home, archive, "")
            if (home / "lib").is_dir() and not os.path.lexists(home / "lib64"):
                (home / "lib64").symlink_to("lib")
            settle(home, into)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return into


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """A manifest that was read, and what is wanted of it."""

    manifest: Path
    toolkit: Toolkit
    platform: str
    components: dict[str, Any]

    def offer(self, name: str) -> Offer:
        """Return where a component's archive is."""
        archive = self._archive(name)
        path, digest, size = (archive.get(key) for key in ("relative_path", "sha256", "size"))
        if not isinstance(path, str) or not RELATIVE_PATH.fullmatch(path):
            raise _malformed(self.manifest, f"{name}: relative_path is {path!r:.200}, wanted a .tar.xz below it")
        if not isinstance(digest, str) or not SHA256.fullmatch(digest):
            raise _malformed(self.manifest, f"{name}: sha256 is {digest!r:.200}, wanted 64 hexadecimal digits")
        pin = FilePin(filename=path.rpartition("/")[2], sha256=digest)
        bytes_ = int(size) if isinstance(size, str) and SIZE.fullmatch(size) else None
        return Offer(pin=pin, urls=(_below(self.toolkit.base, path),), size=bytes_)

    def _archive(self, name: str) -> dict[str, Any]:
        found = self.components.get(name)
        if not isinstance(found, dict):
            known = [key for key, value in self.components.items() if isinstance(value, dict)]
            raise self._lacking(name, did_you_mean(name, known))
        archive = found.get(self.platform, found.get(ANY_PLATFORM))
        if archive is None:
            others = sorted(key for key, value in found.items() if isinstance(value, dict))
            raise self._lacking(f"{name} for {self.platform}", f"offered for: {', '.join(others) or 'nothing'}")
        if not isinstance(archive, dict):
            raise _malformed(self.manifest, f"{name}: {self.platform} is no table")
        return archive

    def _lacking(self, what: str, why: str) -> CatalogError:
        return CatalogError(
            f"{self.manifest.name} has no {what}",
            why=f"wanted for CUDA {self.toolkit.version}; {why}",
            fix=f"correct the components in toolkits/{self.toolkit.version}.toml, or give another toolkit",
        )


def _below(base: str, relative: str) -> str:
    parts = urlsplit(base)
    return parts._replace(path=f"{parts.path}{relative}").geturl()


def _no_address(place: str) -> UsageError:
    return UsageError(
        f"--toolkit: CUDA archives cannot be had from {redact(place)}",
        why="wanted an http or https address, or a folder",
        fix="name the place that NVIDIA's redistrib_X.Y.Z.json files are in",
    )


def _read(manifest: Path) -> dict[str, Any]:
    try:
        listed = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _malformed(manifest, f"it is no JSON: {error}") from error
    if not isinstance(listed, dict):
        raise _malformed(manifest, "it is no table of components")
    return listed


def _malformed(manifest: Path, why: str) -> PinError:
    return PinError(
        f"{manifest.name} is no manifest of CUDA archives",
        why=why,
        fix="its digest is the pinned one, so correct the pin: it must mean a manifest that NVIDIA has published",
    )


def _file_licenses(top: Path, folder: Path) -> None:
    for path in [path for path in top.iterdir() if path.is_file() and not path.is_symlink()]:
        folder.mkdir(parents=True, exist_ok=True)
        path.replace(folder / path.name)


def _move(source: Path, target: Path, archive: Path, prefix: str) -> None:
    """Move what a folder holds into another that may hold some of it; never through a link."""
    for path in sorted(source.iterdir()):
        place = target / path.name
        if not os.path.lexists(place):
            path.replace(place)
        elif _is_folder(path) and _is_folder(place):
            _move(path, place, archive, f"{prefix}{path.name}/")
        elif not _same(path, place):
            raise ArchiveError(
                f"{archive.name} cannot be merged with the archives before it",
                why=f"{prefix}{path.name} is another than theirs",
                fix="take all archives from one release of NVIDIA's; nothing of them was kept",
            )


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    modes = one.stat().st_mode, other.stat().st_mode
    return modes[0] == modes[1] and not one.is_dir() and filecmp.cmp(one, other, shallow=False)
