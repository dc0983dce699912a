from __future__ import annotations

import errno
import gzip
import io
import os
import stat
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmstack.errors import ArchiveError, DiskError, HostError, MmstackError
from mmstack.model import EARLIEST
from mmstack.sources import archive
from mmstack.sources.archive import tree_digest, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

Member = tuple[str, bytes | str | None]  # a name and: contents, a link's target, or None for a folder
SYMLINK = stat.S_IFLNK | 0o777
KINDS = [".tar.gz", ".tar.bz2", ".tar.xz", ".zip"]
HONEST: list[Member] = [("demo-1.0", None), ("demo-1.0/setup.py", b"setup()"), ("demo-1.0/src/a.c", b"int a;")]


def _tar(path: Path, *members: tarfile.TarInfo | Member) -> Path:
    with tarfile.open(path, f"w:{path.suffix[1:]}") as tar:  # type: ignore[call-overload]
        for member in members:
            info, content = (member, b"") if isinstance(member, tarfile.TarInfo) else _info(*member)
            tar.addfile(info, io.BytesIO(content))
    return path


def _info(name: str, what: bytes | str | None, **more: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mtime = 1_700_000_000
    content = what if isinstance(what, bytes) else b""
    info.size = len(content)
    if what is None:
        info.type = tarfile.DIRTYPE
    elif isinstance(what, str):
        info.type, info.linkname = tarfile.SYMTYPE, what
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def _zip(path: Path, *members: Member) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as packed:
        warnings.filterwarnings("ignore", "Duplicate name")
        for name, what in members:
            info = zipfile.ZipInfo("x", (2023, 11, 14, 22, 13, 20))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.filename = f"{name}/" if what is None else name
            if isinstance(what, str):
                info.external_attr = SYMLINK << 16
            packed.writestr(info, what or "")
    return path


def _pack(path: Path, *members: Member) -> Path:
    return _zip(path, *members) if path.suffix == ".zip" else _tar(path, *members)


def _refused(path: Path) -> str:
    """Unpack in vain and return the reason; nothing is left of it."""
    into = path.parent / "into"
    with pytest.raises(ArchiveError) as caught:
        unpack(path, into)
    assert path.name in caught.value.what
    assert caught.value.fix
    assert sorted(other.name for other in path.parent.iterdir()) == [path.name]
    return caught.value.why


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_archive_is_unpacked(tmp_path: Path, kind: str) -> None:
    """Its one folder comes out, with contents, times and sane modes."""
    top = unpack(_pack(tmp_path / f"demo-1.0{kind}", *HONEST), tmp_path / "new" / "into")
    assert top == tmp_path / "new" / "into" / "demo-1.0"
    assert (top / "setup.py").read_bytes() == b"setup()"
    assert (top / "src" / "a.c").read_bytes() == b"int a;"
    assert (top / "setup.py").stat().st_mtime == 1_700_000_000
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["into"]


def test_all_kinds_give_the_same_tree(tmp_path: Path) -> None:
    """The tree is the archive's content, not its format's."""
    digests = {tree_digest(unpack(_pack(tmp_path / f"a{kind}", *HONEST), tmp_path / f"into{kind}")) for kind in KINDS}
    assert len(digests) == 1


def test_modes_are_normalised(tmp_path: Path) -> None:
    """Programs stay programs; setuid, group and world rights go; odd times become possible ones."""
    members = [
        _info("d/run", b"#!", mode=0o6777),
        _info("d/data", b"", mode=0o666, mtime=0),
        _info("d/secret", b"", mode=0o000),
    ]
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    top = unpack(tmp_path / "d.tar.gz", tmp_path / "into")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (top, *top.iterdir())}
    assert modes == {"d": 0o755, "run": 0o755, "data": 0o644, "secret": 0o644}
    assert (top / "data").stat().st_mtime == EARLIEST


def test_links_within_the_tree_are_kept(tmp_path: Path) -> None:
    """Symbolic links stay links, hard links become files of their own."""
    twin, _ = _info("d/twin", b"", type=tarfile.LNKTYPE, linkname="d/sub/file")
    _tar(tmp_path / "d.tar.gz", ("d/sub/file", b"x"), ("d/sub/up", "../sub/file"), ("d/here", "sub"), twin)
    top = unpack(tmp_path / "d.tar.gz", tmp_path / "into")
    assert (top / "sub" / "up").readlink() == Path("../sub/file")
    assert (top / "here" / "file").read_bytes() == b"x"
    assert (top / "twin").read_bytes() == b"x"
    assert not (top / "twin").is_symlink()
    assert (top / "twin").stat().st_nlink == 1


@pytest.mark.parametrize("kind", [".tar.gz", ".zip"])
@pytest.mark.parametrize(
    "name",
    ["/etc/x", "../x", "d/../../x", "d/..", "d/..\\x", "C:/x", "c:x", "d/" + "x" * 300, "d/" + "y/" * 1100 + "x"],
)
def test_hostile_names_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    """The message names the member; nothing is written."""
    why = _refused(_pack(tmp_path / f"d{kind}", ("d/ok", b"x"), (name, b"x")))
    assert repr(name) in why


def test_a_name_with_nul_is_refused(tmp_path: Path) -> None:
    """A name that zipfile would silently cut short."""
    _zip(tmp_path / "d.zip", ("d/ok", b"x"), ("d/aXb", b"x"))
    content = (tmp_path / "d.zip").read_bytes().replace(b"d/aXb", b"d/a\0b")
    (tmp_path / "d.zip").write_bytes(content)
    assert "NUL" in _refused(tmp_path / "d.zip")


@pytest.mark.parametrize("kind", [".tar.gz", ".zip"])
@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../../x", "sub/../../x", "sub/../x", "../d/../../x", "."])
def test_links_out_of_the_tree_are_refused(tmp_path: Path, kind: str, target: str) -> None:
    """Also those that would only leave it through another link."""
    assert "'d/link'" in _refused(_pack(tmp_path / f"d{kind}", ("d/sub", None), ("d/link", target)))


@pytest.mark.parametrize("kind", [".tar.gz", ".zip"])
@pytest.mark.parametrize(
    "members",
    [
        [("d/a", "b"), ("d/a/x", b"x")],
        [("d/a", "b"), ("d/a", b"x")],
        [("d/a", b"1"), ("d/a", b"2")],
        [("d/a", b"1"), ("d/a/x", b"2")],
        [("d/a", b"1"), ("d//./a", b"2")],
        [("d/a", "b"), ("d/a", None)],
        [("d", "e"), ("e/x", b"x")],
    ],
)
def test_nothing_is_overwritten_or_written_through(tmp_path: Path, kind: str, members: list[Member]) -> None:
    """A member may not take another's place, nor pass through a link or a file."""
    _refused(_pack(tmp_path / f"d{kind}", *members))


def test_a_hard_link_must_mean_a_file_of_the_archive(tmp_path: Path) -> None:
    """Neither outside, nor a link, nor what is not there yet."""
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_text("secret")
    for target in (str(outside), f"../{outside.name}", "d/none", "d/link", "d"):
        path = tmp_path / "d.tar.gz"
        twin, _ = _info("d/twin", b"", type=tarfile.LNKTYPE, linkname=target)
        _tar(path, ("d/link", "x"), twin)
        assert "d/twin" in _refused(path)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
def test_devices_and_pipes_are_refused(tmp_path: Path, kind: bytes) -> None:
    """A source archive holds files, folders and links."""
    special, _ = _info("d/special", b"", type=kind)
    assert "d/special" in _refused(_tar(tmp_path / "d.tar.gz", ("d/ok", b"x"), special))


def test_devices_in_a_zip_are_refused(tmp_path: Path) -> None:
    """Zip archives can carry them as well."""
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as packed:
        info = zipfile.ZipInfo("d/pipe")
        info.external_attr = (stat.S_IFIFO | 0o644) << 16
        packed.writestr(info, b"")
    assert "d/pipe" in _refused(tmp_path / "d.zip")


@pytest.mark.parametrize("kind", [".tar.gz", ".zip"])
@pytest.mark.parametrize("members", [[("a/x", b""), ("b/x", b"")], [("x", b"")], [], [("a/x", b""), ("y", b"")]])
def test_one_folder_must_stand_at_the_top(tmp_path: Path, kind: str, members: list[Member]) -> None:
    """Two of them, none, or a bare file are no source archive."""
    assert "one folder" in _refused(_pack(tmp_path / f"d{kind}", *members))


@pytest.mark.parametrize("kind", KINDS)
def test_bombs_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What unpacks to many times its size is stopped on the way."""
    monkeypatch.setattr(archive, "FREE_BYTES", 1 << 16)
    assert "times its size" in _refused(_pack(tmp_path / f"d{kind}", ("d/zeros", bytes(4 << 20))))


def test_bombs_in_headers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names are read whole by tarfile: none is longer than a megabyte, and their bytes count as well."""
    assert "a header of 41943" in _refused(_tar(tmp_path / "d.tar.gz", ("d/" + "x" * (4 << 20), b"")))
    (tmp_path / "d.tar.gz").unlink()
    monkeypatch.setattr(archive, "FREE_BYTES", 1 << 16)
    assert "times its size" in _refused(_tar(tmp_path / "d.tar.gz", ("d/" + "x" * (1 << 19), b"")))


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty files cost inodes."""
    monkeypatch.setattr(archive, "MAX_MEMBERS", 10)
    assert "10 members" in _refused(_tar(tmp_path / "d.tar.gz", *[(f"d/{n}", b"") for n in range(11)]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "cut little", "flip", "empty", "rubbish"])
def test_damaged_archives_are_refused(tmp_path: Path, kind: str, damage: str) -> None:
    """Cut short or changed: found, said, and nothing is left."""
    path = _pack(tmp_path / f"d{kind}", ("d/a", os.urandom(50_000)))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 255
    cuts: dict[str, bytes] = {
        "cut": bytes(content[: len(content) // 2]),
        "cut little": bytes(content[:-4]),
        "empty": b"",
        "rubbish": b"no archive",
    }
    path.write_bytes(cuts.get(damage, bytes(content)))
    _refused(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    """There is no password to give."""
    path = _zip(tmp_path / "d.zip", ("d/a", b"x"))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    assert "encrypted" in _refused(path)


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    """The message lists the known ones."""
    (tmp_path / "d.rar").write_bytes(b"Rar!")
    assert ".tar.xz" in _refused(tmp_path / "d.rar")


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    """What is there stays there."""
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "mine").touch()
    with pytest.raises(DiskError, match="already there"):
        unpack(_tar(tmp_path / "d.tar.gz", *HONEST), tmp_path / "into")
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["mine"]


def test_a_folder_that_is_not_ours_to_write(tmp_path: Path) -> None:
    """The kernel refuses new folders there, to everybody."""
    with pytest.raises(DiskError, match="/sys"):
        unpack(_tar(tmp_path / "d.tar.gz", *HONEST), Path("/sys/mmstack/into"))


def test_an_old_python_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the filter there is no safe unpacking, and no unsafe one instead."""
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(HostError, match="3\\.10\\.12"):
        unpack(_tar(tmp_path / "d.tar.gz", *HONEST), tmp_path / "into")


NAMES = st.lists(
    st.sampled_from(["d", "e", "..", ".", "", "link", "a\\b", "C:", "x" * 300, "é", "\udcff", "a\nb", "~"]),
    min_size=1,
    max_size=5,
).map("/".join)
MEMBERS = st.lists(
    st.tuples(NAMES, st.one_of(st.binary(max_size=9), NAMES, st.none())) | st.tuples(NAMES, NAMES), max_size=6
)


def _shot(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in root.rglob("*")}


def _goes_round(path: Path) -> bool:
    """Tell a link that leads to itself, of which `realpath` may say anything: of `d -> d//d` it says `/d`."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _tried(path: Path, outside: Path) -> None:
    """Unpack, and see that it either worked within its folder or left no trace."""
    before = _shot(outside)
    into = path.parent / "into"
    try:
        top = unpack(path, into)
    except ArchiveError:
        assert [other.name for other in path.parent.iterdir()] == [path.name]
    else:
        for found in into.rglob("*"):
            if not _goes_round(found):
                assert Path(os.path.realpath(found)).is_relative_to(os.path.realpath(top))
        assert len(tree_digest(top)) == 64
    assert _shot(outside) == before


@pytest.mark.parametrize("kind", [".tar.gz", ".zip"])
@settings(deadline=None, max_examples=100)
@given(members=MEMBERS, hard=st.booleans())
def test_nothing_is_ever_written_outside(kind: str, members: list[Member], *, hard: bool) -> None:
    """Whatever the members are called and wherever their links lead."""
    with tempfile.TemporaryDirectory() as base:
        _hostile(Path(base), kind, members, hard=hard)


def _text(name: str) -> str:
    return name.replace("\udcff", "ÿ")  # zipfile can write no other


def _hostile(base: Path, kind: str, members: list[Member], *, hard: bool) -> None:
    (base / "outside").mkdir()
    (base / "outside" / "d").write_bytes(b"precious")
    (base / "box").mkdir()
    path = base / "box" / f"a{kind}"
    if kind == ".zip":
        members = [(_text(name), _text(what) if isinstance(what, str) else what) for name, what in members]
        _zip(path, *members)
    else:
        infos = [_info(name, what)[0] for name, what in members]
        for info in infos:
            info.size = 0
            if hard and info.issym():
                info.type = tarfile.LNKTYPE
        _tar(path, *infos)
    _tried(path, base / "outside")


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_no_damage_to_a_tar_is_worse_than_an_error(data: st.DataObject) -> None:
    """Headers with any bytes changed unpack, or are refused; nothing else happens."""
    stream = io.BytesIO()
    pax, _ = _info("d/" + "long" * 40 + "é", b"")
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in (_info("d/a", b"x" * 600), _info("d/l", "a"), (pax, b"")):
            tar.addfile(info, io.BytesIO(content))
    content = _damaged(data, stream.getvalue()[:5120])
    with tempfile.TemporaryDirectory() as base:
        path = Path(base) / "box" / "a.tar.gz"
        path.parent.mkdir()
        path.write_bytes(gzip.compress(content, 1))
        _tried(path, Path(base) / "none")


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_no_damage_to_a_zip_is_worse_than_an_error(data: st.DataObject) -> None:
    """The same for zip archives, whose every byte lies open."""
    with tempfile.TemporaryDirectory() as base:
        path = Path(base) / "box" / "a.zip"
        path.parent.mkdir()
        _zip(path, ("d", None), ("d/a", b"x" * 90), ("d/l", "a"))
        path.write_bytes(_damaged(data, path.read_bytes()))
        _tried(path, Path(base) / "none")


def _damaged(data: st.DataObject, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    return bytes(damaged)


def _tree(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(b"a")
    (root / "sub" / "b").write_bytes(b"b")
    (root / "link").symlink_to("a")
    return root


def _relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("sub/b")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "a").write_bytes(b"A"),
    "name": lambda root: (root / "a").rename(root / "c"),
    "place": lambda root: (root / "sub" / "b").rename(root / "b"),
    "program bit": lambda root: (root / "a").chmod(0o755),
    "one more": lambda root: (root / "sub" / "c").touch(),
    "target": lambda root: _relink(root / "link"),
    "link to file": lambda root: (root / "a").replace(root / "link"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_digest_of_a_tree_sees_every_change(tmp_path: Path, change: str) -> None:
    """Contents, names, places, program bits and targets all count."""
    tree = _tree(tmp_path / "tree")
    before = tree_digest(tree)
    CHANGES[change](tree)
    assert tree_digest(tree) != before


def test_the_digest_of_a_tree_sees_nothing_else(tmp_path: Path) -> None:
    """Not where it lies, when it was made, other rights, empty folders, nor what is ignored."""
    one, two = _tree(tmp_path / "one"), _tree(tmp_path / "two" / "deep")
    os.utime(two / "a", (1, 1))
    (two / "a").chmod(0o600)
    (two / "empty").mkdir()
    (two / "sub" / "__pycache__").mkdir()
    (two / "sub" / "__pycache__" / "b.pyc").touch()
    assert tree_digest(one) == tree_digest(two, lambda path: path.endswith("__pycache__"))
    assert tree_digest(one) != tree_digest(two)


def test_a_pipe_in_a_tree_is_refused_not_read(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MmstackError, match="pipe"):
        tree_digest(tmp_path)
