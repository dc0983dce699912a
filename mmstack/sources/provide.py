"""Every kind of source: fetched, and laid out as one plain tree."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mmstack.errors import ChangedError, NetworkError, PinError, UsageError
from mmstack.lock import tree_name
from mmstack.sources import trees
from mmstack.sources.archive import tree_digest, unpack
from mmstack.sources.download import out_of_reach
from mmstack.sources.places import Offer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mmstack.events import Listener
    from mmstack.model import DistroPackage, DistroPin, FilePin, Part, RecipeData, Source
    from mmstack.sources.distro import Archive
    from mmstack.sources.download import Downloads
    from mmstack.sources.git import Repositories
    from mmstack.sources.index import Index

NOT_SOURCE = frozenset({".git", ".hg", ".venv", "__pycache__"})
BUILT = frozenset({"build", "dist"})  # what builds leave at the top; deeper, as `mmengine/dist`, it may be a package


class Wanted(Protocol):
    """A layer's release as one kind of source has it: a layer of a plan, and what patches are proved against."""

    @property
    def name(self) -> str: ...  # noqa: D102 - as a layer of a plan has it
    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def recipe(self) -> RecipeData: ...  # noqa: D102
    @property
    def source(self) -> Source: ...  # noqa: D102
    @property
    def chosen(self) -> FilePin | None: ...  # noqa: D102
    @property
    def packages(self) -> tuple[DistroPackage, ...]: ...  # noqa: D102
    @property
    def tree(self) -> Mapping[str, str]: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where source trees come from.

    `index` asks for the package indexes, which a run may forbid; `options` are layers whose kind of source has
    an option of its own, named like the layer.
    """

    downloads: Downloads
    index: Callable[[], Index]
    repositories: Repositories
    archive: Archive
    listener: Listener
    offline: bool = False
    options: tuple[str, ...] = ()

    def fetch(self, layer: Wanted) -> None:
        """Bring what a layer's tree is made of, unless it is here; a package index's file is not brought here.

        Raises:
            NetworkError: it cannot be had; the other ways to it are named.
            PinError: what is served is not what the pin says.
            HostError: this machine lacks what fetching it takes.
        """
        source = layer.source
        try:
            if source.git and not self.repositories.has(source.git):
                self._demand_network(f"{source.project} {source.git.tag}")
                self.repositories.fetch(source.git)
            if source.kind == "archive" and layer.chosen:
                self._fetch_file(layer.chosen, source.urls)
            if source.distro and layer.chosen:
                self._fetch_distro(layer, source.distro, layer.chosen)
        except NetworkError as error:
            raise self._with_ways_on(error, layer) from error

    def examine(self, source: Source) -> str:
        """Return in words where a source is, if this machine can have it.

        Raises:
            HostError: it cannot.
        """
        if source.distro:
            self.archive.check(source.distro)
            return f"{source.distro.package} {source.distro.version} of {source.distro.codename}, by apt"
        assert source.git is not None  # noqa: S101 - nothing else is asked for
        if self.repositories.has(source.git):
            return f"{source.git.tag} is here"
        return f"{source.git.tag} will be fetched from {self.repositories.place(source.git)}"

    def lay_out(self, layer: Wanted, into: Path) -> Path:
        """Make a layer's tree in a new folder, without its patches, and return where in it the tree is.

        Raises:
            PinError: it is not the tree that the lock names.
            ArchiveError: an archive is damaged, or holds what no honest one holds.
        """
        tree, parts = self._lay_out(layer, into)
        if layer.tree:
            name = tree_name(layer.name, layer.source.kind, layer.version)
            trees.check(name, trees.digests(tree, parts), layer.tree)
        return tree

    def digests(self, layer: Wanted, scratch: Path) -> dict[str, str]:
        """Return the digests of a layer's tree as a lock has them, laid out in a folder that is gone afterwards."""
        try:
            return trees.digests(*self._lay_out(layer, scratch))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _lay_out(self, layer: Wanted, into: Path) -> tuple[Path, list[str]]:
        """Make a layer's tree, and return it and the folders in it that have a pin of their own."""
        into.parent.mkdir(parents=True, exist_ok=True)
        source = layer.source
        if source.path is not None:
            with _unchanging(layer.name, source.path):
                shutil.copytree(source.path, into, symlinks=True, ignore=_left_out_of(source.path))
            return into, []
        if source.git:
            return into, [item.path for item in self.repositories.lay_out(source.git, into)]
        assert layer.chosen is not None  # noqa: S101 - all others are of one file
        tree = unpack(self.downloads.path(layer.chosen), into)
        return tree, [self._add(part, tree) for part in (source.distro.parts if source.distro else ())]

    def _fetch_distro(self, layer: Wanted, pin: DistroPin, file: FilePin) -> None:
        self.archive.fetch_source(pin, file)
        self.archive.fetch_packages(pin, layer.packages)
        for part in pin.parts:
            if part.urls:
                self._fetch_file(part.file, part.urls)
            elif not self.downloads.has(part.file):
                self._demand_network(part.file.filename)
                offers = self.index().locate(part.project, [part.file])
                if part.file not in offers:
                    raise NetworkError(
                        f"none of your package indexes offers {part.file.filename}",
                        fix="check the index settings of uv or pip; `invoke doctor` shows which are in force",
                    )
                self.downloads.fetch([offers[part.file]], self.index(), self.listener)

    def _fetch_file(self, file: FilePin, urls: tuple[str, ...]) -> None:
        if not self.downloads.has(file):
            self._demand_network(file.filename)
            self.downloads.fetch([Offer(pin=file, urls=urls)], self.index(), self.listener)

    def _add(self, part: Part, tree: Path) -> str:
        """Put a part into its place, where there is nothing yet, or an empty folder."""
        place, around = tree / part.path, tree.parent / ".part"
        shutil.rmtree(around, ignore_errors=True)
        folder = unpack(self.downloads.path(part.file), around) / part.folder
        taken = place.is_symlink() or place.is_file() or (place.is_dir() and any(place.iterdir()))
        if not folder.is_dir() or taken:
            why = f"the tree has a {part.path} already" if folder.is_dir() else f"the archive has no {part.folder}"
            raise PinError(
                f"{part.file.filename} does not give the tree its {part.path}", why=why, fix="correct the recipe"
            )
        place.mkdir(parents=True, exist_ok=True)
        folder.replace(place)
        shutil.rmtree(around)
        return part.path

    def _demand_network(self, what: str) -> None:
        if self.offline:
            raise out_of_reach([what])

    def _with_ways_on(self, error: NetworkError, layer: Wanted) -> NetworkError:
        """Return an error that names, besides its own remedy, every other way to the release."""
        name, held = layer.name, layer.recipe.releases.get(layer.version, {})
        ways = ["`--mirror URL-or-FILE`"] if layer.source.git else []
        for kind in (kind for kind in held if kind != layer.source.kind):
            short = kind == "wheel" and name in self.options
            ways.append(f"`--{name} {kind}`" if short else f"`--source {name}={kind}`")
        if not ways:
            return error
        own = f"{error.fix}; " if error.fix else ""
        return NetworkError(error.what, why=error.why, fix=f"{own}other ways: {', '.join(ways)}")


def folder_digest(name: str, path: Path) -> str:
    """Return the digest of a folder that the user works on.

    Raises:
        UsageError: there is no such folder, or what it holds is elsewhere.
        ChangedError: a file went away meanwhile.
    """
    if not path.is_dir():
        raise UsageError(f"--source {name}=path:{path}: there is no such folder", fix="correct the path")
    if link := next(_links_out(path), None):
        raise UsageError(
            f"--source {name}=path:{path}: {link} leads out of the folder",
            why="a change of what it leads to would go unnoticed",
            fix="put there what it leads to, or a relative link to what is in the folder",
        )
    with _unchanging(name, path):
        return tree_digest(path, ignore=_is_left_out)


def _is_left_out(relative: str) -> bool:
    return relative in BUILT or relative.rpartition("/")[2] in NOT_SOURCE


def _left_out_of(root: Path) -> Callable[[str, list[str]], set[str]]:
    """Return what tells, of the names in a folder below `root`, those that are no source."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(root)
        return {name for name in names if _is_left_out((inside / name).as_posix())}

    return left_out


def _links_out(root: Path) -> Iterator[Path]:
    home = os.path.abspath(root)  # noqa: PTH100 - links stay what they are
    left_out = _left_out_of(root)
    for folder, folders, files in os.walk(root):
        aside = left_out(folder, [*folders, *files])
        folders[:] = [name for name in folders if name not in aside]
        for link in (Path(folder, name) for name in (*folders, *files) if name not in aside):
            if link.is_symlink():
                target = link.readlink()
                led = Path(os.path.abspath(link.parent / target))  # noqa: PTH100 - the same
                if target.is_absolute() or not led.is_relative_to(home):
                    yield link


@contextmanager
def _unchanging(name: str, path: Path) -> Iterator[None]:
    """Let a file that goes away while its folder is read, such as an editor's own, be an error that says so."""
    try:
        yield
    except (FileNotFoundError, shutil.Error) as error:  # the latter of copying: texts of all that went wrong
        if os.strerror(errno.ENOENT) not in str(error):
            raise
        raise ChangedError(
            f"the folder of {name} changed while it was read", why=str(error), fix=f"let {path} be, then run again"
        ) from error
