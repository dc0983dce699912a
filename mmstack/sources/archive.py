"""Source archives: unpacked whole or not at all, and never outside their folder."""

from __future__ import annotations

import bz2
import calendar
import errno
import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Literal

from mmstack.errors import ArchiveError, DiskError, HostError
from mmstack.keys import file_digest
from mmstack.model import EARLIEST
from mmstack.store import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

MAX_BYTES = 16 << 30
MAX_MEMBERS = 500_000
MAX_RATIO = 200
FREE_BYTES = 64 << 20  # the ratio says nothing about small archives
MAX_NAME = 255
MAX_PATH = 2048
CHUNK = 1 << 18
EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
LONGEST_EXTENSION = 1 << 20
LATEST = 1 << 32

Kind = Literal["folder", "file", "link"]
# zipfile speaks of broken text by ValueError and of unknown methods by NotImplementedError.
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    ValueError,
    NotImplementedError,
)
OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {
    ".tar.gz": gzip.open,  # type: ignore[dict-item] # it returns binary streams where no mode is given
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}


def unpack(archive: Path, into: Path) -> Path:
    """Unpack a source archive into a new folder and return the one folder that it holds.

    Modes become 0644, 0755 for folders and programs; owners are ours; times are kept.

    Args:
        archive: a `.tar.gz`, `.tar.bz2`, `.tar.xz` or `.zip`.
        into: a folder that is not there yet, or is empty.

    Raises:
        ArchiveError: the archive is damaged, or holds what no honest source archive holds.
        HostError: this Python has no filter for tar members.
        DiskError: the disk is full, read-only or not ours to write.
    """
    demand_filter()
    with disk_errors(into.parent):
        into.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}-"))
        try:
            top = _unpack(archive, new)
            new.chmod(0o755)
            settle(new, into)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return into / top


def demand_filter() -> None:
    """Demand what `take` needs.

    Raises:
        HostError: this Python has no filter for tar members.
    """
    if not hasattr(tarfile, "data_filter"):
        raise HostError(
            "this Python cannot unpack archives safely",
            why="its tarfile has no data filter",
            fix="use Python 3.10.12, 3.11.4, 3.12 or later",
        )


def tree_digest(root: Path, ignore: Callable[[str], bool] | None = None) -> str:
    """Return one sha256 for all files and links below a folder: paths, program bits, contents, targets.

    Folders count by what is in them, as in git.

    Args:
        root: the folder.
        ignore: called with each path relative to `root`; a folder that it names is not entered.

    Raises:
        ArchiveError: there is something that is neither file, folder nor link.
        DiskError: something cannot be read.
    """
    digest = hashlib.sha256()
    with disk_errors(root):
        for relative, path, mode in sorted(_walk(root, "", ignore or (lambda _path: False))):
            if stat.S_ISLNK(mode):
                kind, content = b"l", hashlib.sha256(os.fsencode(path.readlink())).digest()
            elif stat.S_ISREG(mode):
                kind, content = b"x" if mode & stat.S_IXUSR else b"f", bytes.fromhex(file_digest(path))
            else:
                raise ArchiveError(f"{path} is neither file, folder nor link", fix="remove it")
            digest.update(kind + relative + b"\0" + content)
    return digest.hexdigest()


def settle(new: Path, into: Path) -> None:
    """Give a finished folder its name, at which there is nothing yet, or an empty folder.

    Raises:
        DiskError: something is there.
    """
    try:
        new.replace(into)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise
        raise DiskError(f"{into} is already there", fix="unpack into a new folder, or remove that one") from error


def _walk(root: Path, prefix: str, ignore: Callable[[str], bool]) -> Iterator[tuple[bytes, Path, int]]:
    for entry in os.scandir(root / prefix):
        relative = f"{prefix}{entry.name}"
        if ignore(relative):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, f"{relative}/", ignore)
        else:
            yield os.fsencode(relative), Path(entry.path), entry.stat(follow_symlinks=False).st_mode


def _unpack(archive: Path, root: Path) -> str:
    tree = Tree(archive, root)
    try:
        if archive.name.endswith(".zip"):
            _unpack_zip(archive, tree)
        else:
            _unpack_tar(archive, tree)
    except DAMAGE as error:
        raise tree.refuse("", f"it is damaged or cut short: {error}") from error
    except OSError as error:
        # bz2 has no error of its own, and zipfile seeks where a broken header tells it to.
        if error.errno not in {None, errno.EINVAL}:
            raise
        raise tree.refuse("", f"it is damaged: {error}") from error
    return tree.top()


def _unpack_tar(archive: Path, tree: Tree) -> None:
    opener = next((opener for suffix, opener in OPENERS.items() if archive.name.endswith(suffix)), None)
    if opener is None:
        raise tree.refuse("", f"it is none of {', '.join(OPENERS)}, .zip")
    with opener(archive) as stream:
        # Bounded below tarfile, which reads headers of any size into memory.
        bounded = _Bounded(stream, tree)
        with tarfile.open(fileobj=bounded, mode="r|", tarinfo=_Member) as tar:  # type: ignore[call-overload]
            for member in tar:
                take(tar, member, tree)
        while bounded.read(CHUNK):  # the checksum stands at the very end
            pass


def take(tar: tarfile.TarFile, member: tarfile.TarInfo, tree: Tree) -> None:
    """Put a member of a tar into a tree.

    Raises:
        ArchiveError: no honest archive holds such a member.
    """
    name = member.name
    tree.demand_honest(name)
    try:
        tarfile.data_filter(member, str(tree.root))
    except (tarfile.FilterError, OSError) as error:  # newer Pythons follow links to judge, through rings and all
        raise tree.refuse(name, str(error)) from error
    if member.isdir():
        tree.folder(name)
    elif member.issym():
        tree.link(name, member.linkname)
    elif member.islnk():
        tree.twin(name, member.linkname)
    elif member.isreg():
        stream = tar.extractfile(member)
        assert stream is not None  # noqa: S101 - regular files have one
        if member.issparse():  # its holes are written too, and stand nowhere in the archive
            tree.spend(member.size)
        tree.file(name, stream, mode=member.mode, mtime=member.mtime)
    else:
        raise tree.refuse(name, "it is a device, a pipe or of a kind unknown")


def _unpack_zip(archive: Path, tree: Tree) -> None:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            name, mode = info.orig_filename, info.external_attr >> 16
            kind = stat.S_IFMT(mode)
            tree.demand_honest(name)
            if info.flag_bits & 1:
                raise tree.refuse(name, "it is encrypted")
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}:
                raise tree.refuse(name, "it is a device, a pipe or of a kind unknown")
            if info.is_dir() or kind == stat.S_IFDIR:
                tree.folder(name)
                continue
            with packed.open(info) as stream:
                bounded = _Bounded(stream, tree)
                if kind == stat.S_IFLNK:
                    tree.link(name, os.fsdecode(bounded.read(MAX_PATH + 1)))
                else:
                    tree.file(name, bounded, mode=mode, mtime=_zip_time(info))


class _Member(tarfile.TarInfo):
    """A header that is not read where it says that more of it follows than a name can be long: that goes to memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header.

        Raises:
            ReadError: it announces too much.
        """
        found = super().frombuf(buf, encoding, errors)
        if found.type in EXTENSIONS and found.size > LONGEST_EXTENSION:
            raise tarfile.ReadError(f"a header of {found.size} bytes")
        return found


def _zip_time(info: zipfile.ZipInfo) -> int:
    try:
        return calendar.timegm((*info.date_time, 0, 0, 0))
    except ValueError:
        return EARLIEST


class _Bounded:
    """A stream that ends in an error where it gives more than its archive may hold."""

    def __init__(self, stream: IO[bytes], tree: Tree) -> None:
        self.stream = stream
        self.tree = tree

    def read(self, size: int) -> bytes:
        """Read so many bytes, less at the end."""
        chunk = self.stream.read(size)
        self.tree.spend(len(chunk))
        return chunk


class Tree:
    """A new folder that is filled member by member, each held against those before it.

    No member is ever written through a link: whatever stands above it must be a folder
    that this class has made.

    Args:
        archive: what it is filled from.
        root: the folder.
        kept: how many of the folders above a link it may not lead out of: by default, the one that all is in.
    """

    def __init__(self, archive: Path, root: Path, *, kept: int = 1) -> None:
        self.archive = archive
        self.root = root
        self.kept = kept
        self.kinds: dict[PurePosixPath, Kind] = {}
        self.members = 0
        self.bytes = 0
        self.limit = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * archive.stat().st_size))

    def refuse(self, name: str, why: str) -> ArchiveError:
        """Return the error that names the member and the reason."""
        member = f"{name!r}: " if name else ""
        return ArchiveError(
            f"{self.archive.name} cannot be unpacked",
            why=f"{member}{why}",
            fix="get the file again from a place that you trust; nothing of it was kept",
        )

    def spend(self, size: int) -> None:
        """Count unpacked bytes."""
        self.bytes += size
        if self.bytes > self.limit:
            raise self.refuse("", f"it unpacks to more than {self.limit} bytes, {MAX_RATIO} times its size")

    def demand_honest(self, name: str) -> None:
        """Refuse a name that no honest member has."""
        reason = _suspicious(name)
        if reason:
            raise self.refuse(name, reason)

    def check(self, name: str) -> PurePosixPath:
        """Return a member's path, if it is an honest one and free."""
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise self.refuse("", f"it has more than {MAX_MEMBERS} members")
        self.demand_honest(name)
        path = PurePosixPath(name)
        if not path.parts:
            raise self.refuse(name, "it would replace the folder that is unpacked into")
        for parent in list(path.parents)[:-1]:
            if self.kinds.get(parent, "folder") != "folder":
                raise self.refuse(name, f"it would be written through the {self.kinds[parent]} {str(parent)!r}")
        if path in self.kinds:
            raise self.refuse(name, "it occurs twice")
        return path

    def folder(self, name: str) -> None:
        """Make a folder; one may be named many times."""
        self.demand_honest(name)
        path = PurePosixPath(name)
        if not path.parts or self.kinds.get(path) == "folder":
            return
        path = self.check(name)
        self._parents(path)
        self.kinds[path] = "folder"
        self._make(path)

    def file(self, name: str, stream: IO[bytes] | _Bounded, *, mode: int, mtime: float) -> None:
        """Write a file."""
        path = self.check(name)
        self._parents(path)
        self.kinds[path] = "file"
        target = self.root / path
        with target.open("xb") as sink:
            while chunk := stream.read(CHUNK):
                sink.write(chunk)
        target.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
        when = int(max(EARLIEST, min(LATEST, mtime)))
        os.utime(target, (when, when))

    def link(self, name: str, target: str) -> None:
        """Make a symbolic link to within the tree.

        `..` may only lead the target: there it leaves folders that are real. After a name it
        might leave a linked one, and lead elsewhere than it says.
        """
        path = self.check(name)
        parts = PurePosixPath(target).parts
        ups = next((n for n, part in enumerate(parts) if part != ".."), len(parts))
        rest = "/".join(parts[ups:])
        if (
            target.startswith("/")
            or ups > len(path.parents) - 1 - self.kept
            or (_suspicious(rest) and rest)
            or not parts
        ):
            raise self.refuse(name, f"its link to {target!r} leaves the tree, or may do so")
        self._parents(path)
        self.kinds[path] = "link"
        (self.root / path).symlink_to(target)

    def twin(self, name: str, target: str) -> None:
        """Copy a file that is already there, where the archive has a hard link."""
        path, source = self.check(name), PurePosixPath(target)
        if _suspicious(target) or self.kinds.get(source) != "file":
            raise self.refuse(name, f"hard link to {target!r}, which is no file of the archive")
        self._parents(path)
        self.kinds[path] = "file"
        self.spend((self.root / source).stat().st_size)
        shutil.copy2(self.root / source, self.root / path)

    def top(self) -> str:
        """Return the name of the one folder at the top."""
        tops = sorted({path.parts[0] for path in self.kinds})
        if len(tops) != 1 or self.kinds[PurePosixPath(tops[0])] != "folder":
            shown = ", ".join(repr(name) for name in tops[:4]) or "nothing"
            raise self.refuse("", f"it must hold one folder at its top, it holds {shown}")
        return tops[0]

    def _parents(self, path: PurePosixPath) -> None:
        for parent in list(path.parents)[-2::-1]:
            if parent not in self.kinds:
                self.kinds[parent] = "folder"
                self._make(parent)

    def _make(self, path: PurePosixPath) -> None:
        (self.root / path).mkdir(mode=0o755)
        (self.root / path).chmod(0o755)


def _suspicious(name: str) -> str:
    """Return what is wrong with a name, or nothing."""
    if not name or "\0" in name:
        return "the name is empty or holds a NUL"
    if name.startswith("/"):
        return "the name is an absolute path"
    if "\\" in name or re.match(r"[A-Za-z]:", name):
        return "the name has a backslash or a drive letter"
    if ".." in name.split("/"):
        return "the name leads out of the folder"
    encoded = os.fsencode(name)
    if len(encoded) > MAX_PATH or any(len(part) > MAX_NAME for part in encoded.split(b"/")):
        return "the name is too long"
    return ""
