"""Every kind of source as one plain tree, with a release that is pinned in every way."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mmstack import patchwork
from mmstack.catalog import Catalog
from mmstack.errors import ChangedError, HostError, NetworkError, PinError, UsageError
from mmstack.events import ignore
from mmstack.keys import file_digest
from mmstack.model import DistroPackage, DistroPin, FilePin, GitPin, Request
from mmstack.sources import trees
from mmstack.sources.archive import tree_digest
from mmstack.sources.download import Downloads
from mmstack.sources.git import Submodule
from mmstack.sources.provide import Sources, folder_digest
from tests.miniature import PINS, Miniature
from tests.support import ROOT, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmstack.patchwork import Release
    from mmstack.sources.places import Offer

EXT = "pipelines/ext/recipe.toml"
LIBRARY = DistroPackage(name="libdemo-dev", version="1.0-1", architecture="all", sha256="d" * 64)
UNREACHABLE = NetworkError("nobody answers", why="no route", fix="look at the cable")
ALL = "`--source ext=archive`, `--source ext=distro`, `--source ext=git`, `--source ext=sdist`, `--source ext=wheel`"
NO_GIT = ALL.replace("`--source ext=git`, ", "")


@dataclass
class FakeRepositories:
    """A cache of repositories: what it has, and what goes wrong."""

    trouble: HostError | None = None
    has_all: bool = False
    fetched: list[GitPin] = field(default_factory=list)

    def has(self, _pin: GitPin) -> bool:
        """Return whether it is here."""
        return self.has_all

    def fetch(self, pin: GitPin) -> None:
        """Bring it."""
        if self.trouble:
            raise self.trouble
        self.fetched.append(pin)

    def lay_out(self, _pin: GitPin, into: Path) -> tuple[Submodule, ...]:
        """Write a tree with one submodule."""
        (into / "third_party" / "part").mkdir(parents=True)
        (into / "ext.py").write_text("ext = 1\n", encoding="utf-8")
        (into / "third_party" / "part" / "part.h").write_text("part\n", encoding="utf-8")
        return (Submodule(path="third_party/part", url="https://host.test/part", commit="e" * 40),)


@dataclass
class FakeArchive:
    """A distribution's archive: what it was asked for, and what goes wrong."""

    trouble: HostError | None = None
    asked: list[Any] = field(default_factory=list)

    def fetch_source(self, _pin: DistroPin, file: FilePin) -> None:
        """Bring a source package."""
        if self.trouble:
            raise self.trouble
        self.asked.append(file.filename)

    def fetch_packages(self, _pin: DistroPin, packages: Sequence[DistroPackage]) -> None:
        """Bring libraries."""
        self.asked += [package.name for package in packages]


@dataclass(kw_only=True)
class Bench:
    """A catalog whose middle layer is pinned in every way, and a provider with nothing fetched yet."""

    folder: Path
    index: Callable[[], Any]
    repositories: FakeRepositories = field(default_factory=FakeRepositories)
    archive: FakeArchive = field(default_factory=FakeArchive)
    offline: bool = False
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.mini = Miniature(root=self.folder / "checkout").write().pin_every_way()

    @property
    def sources(self) -> Sources:
        """Return the provider as it is now."""
        return Sources(
            downloads=Downloads(self.folder / "downloads"),
            index=self.index,
            repositories=self.repositories,  # type: ignore[arg-type]
            archive=self.archive,  # type: ignore[arg-type]
            listener=ignore,
            offline=self.offline,
            options=self.options,
        )

    def release(self, kind: str) -> Release:
        """Return the middle layer's release from a kind of source."""
        return patchwork.release(self.mini.catalog.recipe("ext"), "2.0", kind)

    def pin(self, filename: str, files: dict[str, str], *, here: bool = True) -> Path:
        """Pack an archive and pin it where the recipe names it; download it, or leave that to others."""
        tree = self.folder / "trees" / filename
        for name, text in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text, encoding="utf-8")
        packed = self.folder / filename
        pack(tree, packed, "any-1.0")
        text = (self.mini.root / EXT).read_text(encoding="utf-8")
        before, _, after = text.partition(f'filename = "{filename}"')
        assert after, filename
        old = after.partition('sha256 = "')[2][:64]
        self.mini.put(EXT, f'{before}filename = "{filename}"{after.replace(old, file_digest(packed), 1)}')
        place = self.folder / "downloads" / file_digest(packed) / filename
        if here:
            place.parent.mkdir(parents=True)
            packed.rename(place)
        return place if here else packed

    def distro(self, *, here: bool = True, source: dict[str, str] | None = None) -> None:
        """Pack the distribution's source and both of its parts."""
        self.pin("libext_2.0.orig.tar.gz", source or {"ext.py": "ext = 1\n"}, here=here)
        self.pin("part-1.0.tar.gz", {"src/part/part.h": "part\n", "src/else.h": "else\n"}, here=here)
        self.pin("other-1.0.tar.gz", {"other.h": "other\n"}, here=here)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench without a package index."""

    def index() -> Any:  # noqa: ANN401 - stands for one
        raise UNREACHABLE

    bench = Bench(folder=tmp_path, index=index)
    bench.mini.edit(EXT, "libext_2.0.orig.tar.xz", "libext_2.0.orig.tar.gz")
    return bench


def contents(tree: Path) -> dict[str, str]:
    """Return all files of a tree, but for what every sdist has."""
    files = [path for path in tree.rglob("*") if path.is_file() and path.name != "PKG-INFO"]
    return {path.relative_to(tree).as_posix(): path.read_text(encoding="utf-8") for path in files}


# -- what goes wrong on the way


WAYS = {
    "git": ("git", (), f"`--mirror URL-or-FILE`, {NO_GIT}"),
    "git, an option": (
        "git",
        ("ext",),
        f"`--mirror URL-or-FILE`, {NO_GIT.replace('source ext=wheel', 'ext wheel')}",
    ),
    "another layer's option": ("archive", ("base",), f"{ALL.replace('`--source ext=archive`, ', '')}"),
    "distro": ("distro", (), f"{ALL.replace('`--source ext=distro`, ', '')}"),
}


@pytest.mark.parametrize(("kind", "options", "ways"), WAYS.values(), ids=WAYS)
def test_what_cannot_be_had_is_told_with_every_other_way(
    bench: Bench, kind: str, options: tuple[str, ...], ways: str
) -> None:
    """After its own remedy, each as it is to be typed, and none that the release does not have."""
    bench.options = options
    bench.repositories.trouble = bench.archive.trouble = UNREACHABLE
    with pytest.raises(NetworkError) as caught:
        bench.sources.fetch(bench.release(kind))
    assert (caught.value.what, caught.value.why, caught.value.code) == ("nobody answers", "no route", 3)
    assert caught.value.fix == f"look at the cable; other ways: {ways}"
    assert caught.value.__cause__ is UNREACHABLE


def test_the_ways_on_to_a_real_release_are_those_that_users_need(bench: Bench) -> None:
    """Of the stack whose lowest layer comes from a repository, with the option that this layer has."""
    catalog = Catalog(ROOT)
    lowest = catalog.stack("cu128").layers[0]
    bench.options, bench.repositories.trouble = (lowest.name,), NetworkError("nobody answers")
    with pytest.raises(NetworkError) as caught:
        bench.sources.fetch(patchwork.release(catalog.recipe(lowest.name), lowest.version, lowest.source))
    assert caught.value.fix == "other ways: `--mirror URL-or-FILE`, `--source torch=archive`, `--torch wheel`"


def test_only_ways_that_there_are_are_named(bench: Bench) -> None:
    """Of a release that is nowhere but in a repository, a mirror is the only other."""
    head, _, rest = (bench.mini.root / EXT).read_text(encoding="utf-8").partition('version = "2.0"\n')
    git = rest.partition("[releases.git]")[2].partition("[releases.archive]")[0]
    bench.mini.put(EXT, f'{head}version = "2.0"\n[releases.git]{git}')
    bench.repositories.trouble = NetworkError("nobody answers")
    with pytest.raises(NetworkError) as caught:
        bench.sources.fetch(bench.release("git"))
    assert caught.value.fix == "other ways: `--mirror URL-or-FILE`"


def test_where_there_is_no_other_way_an_error_stays_as_it_is(bench: Bench) -> None:
    """An archive that stands alone."""
    head, _, rest = (bench.mini.root / EXT).read_text(encoding="utf-8").partition('version = "2.0"\n')
    archive = rest.partition("[releases.archive]")[2].partition("[releases.distro]")[0]
    bench.mini.put(EXT, f'{head}version = "2.0"\n[releases.archive]{archive}')
    with pytest.raises(NetworkError) as caught:
        bench.sources.fetch(bench.release("archive"))
    assert caught.value.fix == "look at the cable"


def test_what_a_machine_lacks_is_no_matter_of_the_network(bench: Bench) -> None:
    """Its own remedy is enough."""
    bench.archive.trouble = HostError("no tools", fix="take another")
    with pytest.raises(HostError) as caught:
        bench.sources.fetch(bench.release("distro"))
    assert caught.value is bench.archive.trouble


@pytest.mark.parametrize(("kind", "what"), [("git", "ext v2.0"), ("archive", "ext-v2.0.tar.gz")])
def test_offline_nothing_is_asked(bench: Bench, kind: str, what: str) -> None:
    """What is not here is an error, and how to get it is said."""
    bench.offline = True
    with pytest.raises(NetworkError, match=f"{what} is needed, is not here, and `--offline`") as caught:
        bench.sources.fetch(bench.release(kind))
    assert "run without `--offline`, or `invoke fetch` first; other ways: " in caught.value.fix
    assert bench.repositories.fetched == []


@pytest.mark.parametrize("kind", ["git", "archive", "distro"])
def test_what_is_here_is_not_fetched_again(bench: Bench, kind: str) -> None:
    """Offline, and with nobody who answers."""
    bench.offline, bench.repositories.has_all = True, True
    bench.pin("ext-v2.0.tar.gz", {"ext.py": "ext = 1\n"})
    bench.distro()
    bench.sources.fetch(bench.release(kind))
    assert bench.repositories.fetched == []


def test_a_part_that_no_index_offers_is_named(bench: Bench) -> None:
    """With how to look at one's settings, and the other ways."""

    class Empty:
        def locate(self, _project: str, _pins: object) -> dict[FilePin, Offer]:
            return {}

    bench.index = Empty
    with pytest.raises(NetworkError, match=r"none of your package indexes offers part-1\.0\.tar\.gz") as caught:
        bench.sources.fetch(bench.release("distro"))
    assert "`invoke doctor`" in caught.value.fix
    assert "`--source ext=git`" in caught.value.fix


# -- what is fetched


def test_a_commit_is_fetched(bench: Bench) -> None:
    """The one that the recipe pins."""
    bench.sources.fetch(bench.release("git"))
    assert [pin.commit for pin in bench.repositories.fetched] == ["c" * 40]


def test_an_archive_is_fetched_from_its_address(bench: Bench, server: Any, make_index: Callable[..., Any]) -> None:  # noqa: ANN401 - conftest's
    """And is what its pin says, or is refused."""
    packed = bench.pin("ext-v2.0.tar.gz", {"ext.py": "ext = 1\n"}, here=False)
    server.add("/ext-v2.0.tar.gz", packed.read_bytes())
    bench.index = make_index
    wanted = bench.release("archive")
    there = replace(wanted, source=replace(wanted.source, urls=(f"{server.url}/ext-v2.0.tar.gz",)))
    bench.sources.fetch(there)
    assert contents(bench.sources.lay_out(there, bench.folder / "tree")) == {"ext.py": "ext = 1\n"}
    other = replace(there, source=replace(there.source, files=(FilePin(filename="ext-v2.0.tar.gz", sha256="0" * 64),)))
    with pytest.raises(PinError, match=r"ext-v2\.0\.tar\.gz"):
        bench.sources.fetch(other)


def test_a_distribution_s_source_is_fetched_with_its_libraries_and_parts(
    bench: Bench,
    server: Any,  # noqa: ANN401 - conftest's
    make_index: Callable[..., Any],
) -> None:
    """A part from the index that offers it, or from its own address."""
    bench.distro(here=False)
    for name in ("part-1.0.tar.gz", "other-1.0.tar.gz"):
        server.add(f"/{name}", (bench.folder / name).read_bytes())
    digest = file_digest(bench.folder / "part-1.0.tar.gz")
    server.page("part", {f"{server.url}/part-1.0.tar.gz": digest})
    bench.index = lambda: make_index(f"{server.url}/simple")
    bench.mini.lock(PINS, packages={"ext": (LIBRARY,)})
    layer = bench.mini.layer("ext", Request(sources={"ext": "distro"}))
    assert layer.source.distro is not None
    first, second = layer.source.distro.parts
    pin = replace(layer.source.distro, parts=(first, replace(second, urls=(f"{server.url}/other-1.0.tar.gz",))))
    bench.sources.fetch(replace(layer, source=replace(layer.source, distro=pin)))
    assert bench.archive.asked == ["libext_2.0.orig.tar.gz", "libdemo-dev"]
    kept = {path.name for path in (bench.folder / "downloads").rglob("*.tar.gz")}
    assert kept == {"part-1.0.tar.gz", "other-1.0.tar.gz"}


def test_a_file_of_an_index_is_left_to_others(bench: Bench) -> None:
    """They fetch it with all else that a build wants of an index."""
    bench.sources.fetch(bench.release("sdist"))


# -- the tree


def test_parts_are_put_into_their_places(bench: Bench) -> None:
    """A folder of a release, or all of it; where an empty folder waits for it, too."""
    bench.distro()
    source = bench.folder / "downloads" / bench.release("distro").source.files[0].sha256 / "libext_2.0.orig.tar.gz"
    assert source.exists()
    tree = bench.sources.lay_out(bench.release("distro"), bench.folder / "work" / "tree")
    assert contents(tree) == {
        "ext.py": "ext = 1\n",
        "third_party/part/part.h": "part\n",
        "third_party/other/other.h": "other\n",
    }
    assert [path.name for path in (bench.folder / "work").iterdir()] == ["tree"]


def test_a_part_may_fill_an_empty_folder(bench: Bench) -> None:
    """As a repository's archive has them where submodules belong."""
    into = bench.folder / "tree"
    bench.distro()
    wanted = bench.release("distro")
    tree = bench.sources.lay_out(wanted, into)
    part = tree / "third_party" / "part"
    (part / "part.h").unlink()
    assert wanted.source.distro is not None
    assert bench.sources._add(wanted.source.distro.parts[0], tree) == "third_party/part"  # noqa: SLF001 - the step itself
    assert contents(part) == {"part.h": "part\n"}


NO_PLACE = {
    "something there": (
        {"ext.py": "", "third_party/part/own.h": "own\n"},
        "src/part",
        "part-1.0.tar.gz does not give the tree its third_party/part|the tree has a third_party/part already",
    ),
    "a file there": (
        {"third_party/part": "own\n"},
        "src/part",
        "part-1.0.tar.gz does not give the tree its third_party/part|the tree has a third_party/part already",
    ),
    "nothing to put": (
        {"ext.py": ""},
        "src/elsewhere",
        "part-1.0.tar.gz does not give the tree its third_party/part|the archive has no src/elsewhere",
    ),
    "a file to put": ({"ext.py": ""}, "src/else.h", "the archive has no src/else.h"),
}


@pytest.mark.parametrize(("source", "folder", "words"), NO_PLACE.values(), ids=NO_PLACE)
def test_a_part_overwrites_nothing(bench: Bench, source: dict[str, str], folder: str, words: str) -> None:
    """A recipe that does not fit its release is told so."""
    bench.distro(source=source)
    bench.mini.edit(EXT, '"src/part"', f'"{folder}"')
    with pytest.raises(PinError) as caught:
        bench.sources.lay_out(bench.release("distro"), bench.folder / "tree")
    assert all(word in str(caught.value) for word in words.split("|")), caught.value
    assert caught.value.fix == "correct the recipe"


def test_a_folder_of_the_user_s_is_copied_without_what_is_no_source(bench: Bench) -> None:
    """Results of earlier builds, repositories and environments; a package is none for its name. Links stay links."""
    own = bench.folder / "own"
    sources = ("pkg/x.py", "pkg/build", "pkg/dist/dist.py")
    for name in (".git/config", "build/x.o", "dist/x.whl", ".venv/bin/python", "pkg/__pycache__/x.pyc", *sources):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(name, encoding="utf-8")
    (own / "link").symlink_to("pkg/x.py")
    layer = bench.mini.layer("ext", Request(sources={"ext": f"path:{own}"}), trees={"ext": folder_digest("ext", own)})
    tree = bench.sources.lay_out(layer, bench.folder / "tree")
    assert contents(tree) == {**{name: name for name in sources}, "link": "pkg/x.py"}
    assert (tree / "link").is_symlink()
    assert folder_digest("ext", own) == tree_digest(tree)


def test_a_folder_that_is_not_there_is_told(bench: Bench) -> None:
    """With what was typed."""
    missing = bench.folder / "nowhere"
    with pytest.raises(UsageError, match=f"--source ext=path:{missing}: there is no such folder"):
        folder_digest("ext", missing)


def test_a_folder_may_be_named_from_where_one_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By however many dots."""
    own = bench.folder / "own"
    (own / "pkg").mkdir(parents=True)
    (own / "pkg" / "up").symlink_to("../other")
    monkeypatch.chdir(own / "pkg")
    assert folder_digest("ext", Path("..")) == folder_digest("ext", own)
    (own / "link").symlink_to("../elsewhere")
    for name in ("..", "../pkg/..", "../../own"):
        with pytest.raises(UsageError, match="link leads out of the folder"):
            folder_digest("ext", Path(name))


@pytest.mark.parametrize("target", ["../elsewhere", "/elsewhere", "pkg/../../elsewhere"])
def test_a_folder_holds_all_that_it_is_made_of(bench: Bench, target: str) -> None:
    """What a link leads to elsewhere could change, and the key would not."""
    own = bench.folder / "own"
    (own / "pkg").mkdir(parents=True)
    (own / "pkg" / "up").symlink_to("..")
    (own / "build").symlink_to("/elsewhere")  # no source
    assert folder_digest("ext", own)
    (own / "link").symlink_to(target)
    with pytest.raises(UsageError, match=f"{own / 'link'} leads out of the folder"):
        folder_digest("ext", own)


def test_a_file_that_goes_away_while_its_folder_is_read_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor's own, most likely."""
    own = bench.folder / "own"
    own.mkdir()
    (own / "a.py").touch()
    layer = bench.mini.layer("ext", Request(sources={"ext": f"path:{own}"}), trees={"ext": folder_digest("ext", own)})

    def gone(*_args: object, **_options: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), own / "a.py")

    def not_copied(*_args: object, **_options: object) -> None:
        raise shutil.Error([(own / "a.py", "a.py", f"[Errno 2] {os.strerror(errno.ENOENT)}: 'a.py'")])

    with monkeypatch.context() as patch:
        patch.setattr("mmstack.sources.archive.file_digest", gone)
        with pytest.raises(ChangedError, match="the folder of ext changed while it was read"):
            folder_digest("ext", own)
    monkeypatch.setattr(shutil, "copytree", not_copied)
    with pytest.raises(ChangedError, match="the folder of ext changed while it was read"):
        bench.sources.lay_out(layer, bench.folder / "tree")


@pytest.mark.parametrize("kind", ["git", "distro", "sdist"])
def test_the_digests_of_a_tree_name_its_parts(bench: Bench, kind: str) -> None:
    """Each by its folder, and the whole; the folder that it was laid out in is gone."""
    bench.distro()
    bench.pin("ext-2.0.tar.gz", {"ext.py": "ext = 1\n"})
    scratch = bench.folder / "work" / "scratch"
    found = bench.sources.digests(bench.release(kind), scratch)
    parts = {"git": {"third_party/part"}, "distro": {"third_party/part", "third_party/other"}, "sdist": set()}
    assert set(found) == {trees.WHOLE} | parts[kind]
    assert not scratch.exists()


def test_two_ways_to_the_same_files_have_the_same_digest(bench: Bench) -> None:
    """Part by part, whatever brought them."""
    bench.distro()
    git, distro = (bench.sources.digests(bench.release(kind), bench.folder / "x") for kind in ("git", "distro"))
    assert git["third_party/part"] == distro["third_party/part"]
    assert git[trees.WHOLE] != distro[trees.WHOLE]


def test_a_tree_is_the_one_that_the_lock_names(bench: Bench) -> None:
    """Or it is refused, and the part is named that is another."""
    bench.distro()
    right = bench.sources.digests(bench.release("distro"), bench.folder / "x")
    request = Request(sources={"ext": "distro"})

    def lay_out(**changes: str) -> Path:
        lock = {"ext distro 2.0": right | changes}
        bench.mini.lock(PINS, packages={"ext": (LIBRARY,)}, trees=lock)
        return bench.sources.lay_out(bench.mini.layer("ext", request), bench.folder / f"tree-{len(changes)}")

    assert contents(lay_out())
    changes = {"third_party/part": "0" * 64, trees.WHOLE: "1" * 64}
    with pytest.raises(PinError, match=r"the source tree of ext distro 2\.0 is not the one") as caught:
        lay_out(**changes)
    assert caught.value.why == f"third_party/part has {right['third_party/part']}, pinned is {'0' * 64}"
    assert "invoke lock --trees" in caught.value.fix
