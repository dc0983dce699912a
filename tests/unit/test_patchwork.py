from __future__ import annotations

import errno
import io
import os
import shutil
from contextlib import nullcontext
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from mmstack import patches, patchwork
from mmstack.console import Console
from mmstack.errors import DiskError, HostError, NetworkError, PatchError, UsageError
from mmstack.events import ignore
from mmstack.keys import file_digest
from mmstack.model import Paths
from mmstack.session import Session
from mmstack.workshop import Workshop
from tests.miniature import WAYS, Miniature
from tests.support import pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mmstack.catalog import Catalog
    from mmstack.model import RecipeData

UPSTREAM = "".join(f"{name} = 1\n" for name in ("zero", "one", "two", "three", "four", "five", "six", "seven"))


class Bench:
    """A checkout with one release of `ext` downloaded, and a patch series for it."""

    def __init__(self, folder: Path) -> None:
        self.mini = Miniature(root=folder / "checkout").write()
        shutil.rmtree(folder / "checkout/patches")
        self.state = folder / "state"
        tree = folder / "upstream"
        (tree / "pkg").mkdir(parents=True)
        (tree / "ext.py").write_text(UPSTREAM, encoding="utf-8")
        (tree / "pkg" / "old.py").write_text("old = 1\n", encoding="utf-8")
        sdist = folder / "ext-2.0.tar.gz"
        pack(tree, sdist, "ext-2.0")
        self.mini.edit("pipelines/ext/recipe.toml", "5" * 64, file_digest(sdist))
        kept = self.state / "downloads" / file_digest(sdist) / sdist.name
        kept.parent.mkdir(parents=True)
        sdist.rename(kept)
        for file, name in (("pipelines/ext/recipe.toml", "2.1"), ("pipelines/base/recipe.toml", "1.0")):
            self._unpin(file, name)
        self.unpin_top()

    def _unpin(self, file: str, version: str) -> None:
        """Leave one release: nothing else is downloaded."""
        path = self.mini.root / file
        head, *releases = path.read_text(encoding="utf-8").split("[[releases]]\n")
        kept = [text for text in releases if f'version = "{version}"' not in text]
        self.mini.put(file, "[[releases]]\n".join([head, *kept]))

    def unpin_top(self) -> None:
        """Leave the layer above without a release."""
        self._unpin("pipelines/top/recipe.toml", "3.0")

    @property
    def shop(self) -> Workshop:
        """Return a workshop that has no network."""
        paths = Paths(root=self.mini.root, state=self.state, dist=self.mini.root / "dist")
        return Workshop(paths=paths, listener=ignore, environ={}, offline=True)

    @property
    def catalog(self) -> Catalog:
        """Return the catalog as it is now."""
        return self.mini.catalog

    @property
    def recipe(self) -> RecipeData:
        """Return the layer that is patched."""
        return self.catalog.recipe("ext")

    def edit(self) -> Path:
        """Lay out the tree."""
        return patchwork.edit(self.shop, self.catalog, self.recipe, "2.0")

    def save(self, name: str = "some-name", reason: str = "It is broken.") -> Path:
        """Make a patch of it."""
        return patchwork.save(self.shop, self.catalog, self.recipe, name, reason)

    def proofs(self) -> dict[str, tuple[str, ...] | str]:
        """Prove all series: which patches apply to each release and kind of source, or why that is not known."""
        return {
            f"{proof.release.version} {proof.release.source.kind}": (
                proof.trouble.what if proof.trouble else proof.patches
            )
            for proof in patchwork.prove_all(self.shop, self.catalog)
        }

    def series(self) -> list[str]:
        """Return the ids of the series."""
        return [patch.id for patch in self.catalog.patches.get("ext", ())]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a checkout to edit in."""
    return Bench(tmp_path)


def change(tree: Path) -> None:
    """Change, add and remove lines, files and folders."""
    text = (tree / "ext.py").read_text(encoding="utf-8")
    (tree / "ext.py").write_text(text.replace("one = 1\n", "one = 2\nmore = 1\n") + "end", encoding="utf-8")
    (tree / "pkg" / "old.py").unlink()
    (tree / "new" / "er").mkdir(parents=True)
    (tree / "new" / "er" / "__init__.py").touch()
    (tree / "new" / "ö und ü.py").write_bytes(b"a = '\xff'\r\n")


def contents(tree: Path) -> dict[str, bytes]:
    """Return all files."""
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_an_edit_becomes_a_patch_that_makes_the_same_tree(bench: Bench, tmp_path: Path) -> None:
    """It applies to the release and is a valid entry of the series."""
    tree = bench.edit()
    shutil.copytree(tree, tmp_path / "fresh")
    change(tree)
    edited = contents(tree)
    file = bench.save()
    [patch] = bench.catalog.patches["ext"]
    patches.apply(patch, tmp_path / "fresh")
    assert contents(tmp_path / "fresh") == edited
    assert file == patch.file == bench.mini.root / "patches/ext/0001-some-name.patch"
    assert (patch.id, patch.versions, patch.reason) == ("ext-some-name", "==2.0", "It is broken.")
    assert "It is broken." in file.read_text(encoding="utf-8", errors="replace")
    assert not tree.exists()


def test_the_next_edit_begins_where_the_series_ends(bench: Bench) -> None:
    """Patches stand on each other, and their numbers go on."""
    change(bench.edit())
    bench.save()
    tree = bench.edit()
    assert "more = 1\n" in (tree / "ext.py").read_text(encoding="utf-8")
    (tree / "ext.py").write_text("other = 1\n", encoding="utf-8")
    assert bench.save("second").name == "0002-second.patch"
    assert bench.series() == ["ext-some-name", "ext-second"]
    assert bench.proofs() == {"2.0 sdist": ("ext-some-name", "ext-second")}


def test_a_number_is_not_used_again(bench: Bench) -> None:
    """Where an earlier patch was retired, the file of a later one is not overwritten."""
    for name in ("first", "second"):
        tree = bench.edit()
        (tree / f"{name}.py").write_text("x = 1\n", encoding="utf-8")
        bench.save(name)
    series = bench.mini.root / "patches/ext/series.toml"
    head, _first, second = series.read_text(encoding="utf-8").split("[[patch]]\n")
    bench.mini.put("patches/ext/series.toml", f"{head}[[patch]]\n{second}")
    (bench.edit() / "third.py").write_text("x = 1\n", encoding="utf-8")
    assert bench.save("third").name == "0003-third.patch"


def test_an_edit_is_not_begun_twice(bench: Bench) -> None:
    """What the user edited is never laid out anew over it."""
    tree = bench.edit()
    (tree / "ext.py").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="is there from an earlier edit") as caught:
        bench.edit()
    assert "invoke patches.save ext NAME" in caught.value.fix
    assert (tree / "ext.py").read_text(encoding="utf-8") == "mine"


def touch(tree: Path) -> None:
    """Change what is no content."""
    (tree / "ext.py").touch()
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "ext.pyc").write_bytes(b"\0")
    (tree / "empty").mkdir()


@pytest.mark.parametrize("act", [lambda _tree: None, touch], ids=["nothing", "no content"])
def test_without_a_change_there_is_no_patch(bench: Bench, act: Callable[[Path], None]) -> None:
    """The edit stays open, and the series as it was."""
    tree = bench.edit()
    act(tree)
    with pytest.raises(UsageError, match="was not changed"):
        bench.save()
    assert bench.series() == []
    assert tree.exists()


@pytest.mark.parametrize("name", ["", "Big", "with space", "../up", "-dash", "a/b"])
def test_a_name_is_a_slug(bench: Bench, name: str) -> None:
    """It becomes the name of a file."""
    change(bench.edit())
    with pytest.raises(UsageError, match="is no name for a patch"):
        bench.save(name)


def test_a_name_is_used_once(bench: Bench) -> None:
    """An id alone names one patch."""
    change(bench.edit())
    bench.save()
    (bench.edit() / "x.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="there is a patch 'ext-some-name' already"):
        bench.save()


def test_without_an_edit_there_is_nothing_to_save(bench: Bench) -> None:
    """The error says how to begin."""
    with pytest.raises(UsageError, match="no tree of ext is being edited") as caught:
        bench.save()
    assert "invoke patches.edit ext" in caught.value.fix


@pytest.mark.parametrize("part", ["base", "tree"])
def test_a_tree_that_is_gone_is_no_edit(bench: Bench, part: str) -> None:
    """Its patch would remove every file, or add them all; what is left of it stays."""
    folder = bench.edit().parent
    (folder / part).rename(folder / "aside")
    with pytest.raises(UsageError, match=f"{part} is gone"):
        bench.save()
    assert (folder / "aside").is_dir()


def test_what_a_patch_cannot_say_is_not_saved(bench: Bench) -> None:
    """A name that no diff can carry is refused before the series has it."""
    tree = bench.edit()
    (tree / "tab\there.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(PatchError):
        bench.save()
    assert bench.series() == []
    assert list(bench.mini.root.glob("patches/ext/*.patch")) == []
    assert tree.exists()


@pytest.mark.parametrize("act", ["link", "program", "replaced"])
def test_links_and_modes_are_not_left_out_silently(bench: Bench, act: str) -> None:
    """The edited tree is the only copy, so it stays."""
    tree = bench.edit()
    change(tree)
    file = tree / "ext.py"
    if act == "program":
        file.chmod(0o755)
    if act == "replaced":
        file.unlink()
    if act != "program":
        (tree / "link.py" if act == "link" else file).symlink_to("pkg")
    with pytest.raises(PatchError, match="links, or which files are programs") as caught:
        bench.save()
    assert caught.value.why == ("link.py" if act == "link" else "ext.py")
    assert bench.series() == []
    assert tree.exists()


def test_a_program_may_be_removed(bench: Bench) -> None:
    """A patch can say that."""
    bench.edit()
    shutil.rmtree(bench.state / "edit" / "ext" / "tree")
    base = bench.state / "edit" / "ext" / "base"
    (base / "pkg" / "old.py").chmod(0o755)
    shutil.copytree(base, base.with_name("tree"))
    (base.with_name("tree") / "pkg" / "old.py").unlink()
    bench.save()
    assert bench.series() == ["ext-some-name"]


def test_only_a_pinned_release_can_be_edited(bench: Bench) -> None:
    """The error names those that are."""
    with pytest.raises(UsageError, match=r"ext 9\.9 is not pinned as a source") as caught:
        patchwork.edit(bench.shop, bench.catalog, bench.recipe, "9.9")
    assert caught.value.why == "pinned: 2.0 (sdist)"


def test_a_release_that_is_not_here_is_fetched(bench: Bench) -> None:
    """Offline that is an error, and nothing is left that looks like an edit."""
    shutil.rmtree(bench.state / "downloads")
    with pytest.raises(NetworkError):
        bench.edit()
    assert not (bench.state / "edit" / "ext").exists()


def test_a_series_is_proved_for_every_kind_of_source(bench: Bench) -> None:
    """Where one cannot be had, that is said, and the others are proved; a patch counts for its kinds alone."""
    change(bench.edit())
    bench.save()
    packed = bench.state.parent / "ext-v2.0.tar.gz"
    pack(bench.state.parent / "upstream", packed, "ext-2.0")
    kept = bench.state / "downloads" / file_digest(packed) / packed.name
    kept.parent.mkdir()
    recipe = bench.mini.root / "pipelines/ext/recipe.toml"
    recipe.write_text(
        recipe.read_text(encoding="utf-8") + WAYS.replace("a1" * 32, file_digest(packed)), encoding="utf-8"
    )
    packed.rename(kept)
    found = bench.proofs()
    assert {name: found.pop(name) for name in ("2.0 sdist", "2.0 archive")} == {
        "2.0 sdist": ("ext-some-name",),
        "2.0 archive": ("ext-some-name",),
    }
    assert found["2.0 git"] == "ext v2.0 is needed, is not here, and `--offline` forbids to fetch it"
    assert set(found) == {"2.0 git", "2.0 distro"}
    bench.mini.edit("patches/ext/series.toml", "versions =", 'sources = ["archive"]\nversions =')
    assert bench.proofs() == {"2.0 archive": ("ext-some-name",)}


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [(NetworkError("no host"), pytest.raises(NetworkError)), (HostError("no apt"), nullcontext())],
)
def test_only_the_network_is_to_blame(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, trouble: HostError, expected: AbstractContextManager[object]
) -> None:
    """Nobody need have Debian; who asks for all to be proved is told where the network did not let it."""
    proof = patchwork.Proof(release=patchwork.release(bench.recipe, "2.0"), patches=("ext-a",), trouble=trouble)
    monkeypatch.setattr(patchwork, "prove_all", lambda *_words: iter([proof]))
    paths = Paths(root=bench.mini.root, state=bench.state, dist=bench.mini.root / "dist")
    said = io.StringIO()
    session = Session(paths=paths, console=Console(stdout=said, stderr=io.StringIO()))
    session.check_patches(strict=False)
    with expected:
        session.check_patches(strict=True)
    assert said.getvalue().count(f"not proved: {trouble.what}") == 2


def test_a_full_disk_proves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no source that cannot be had."""
    change(bench.edit())
    bench.save()
    full = DiskError("the disk is full")
    monkeypatch.setattr(patchwork, "lay_out", Mock(side_effect=full))
    with pytest.raises(DiskError):
        bench.proofs()


def test_an_edit_that_cannot_begin_leaves_nothing(bench: Bench) -> None:
    """A series that does not apply is told each time, and once it is mended nothing is in the way."""
    change(bench.edit())
    file = bench.save()
    digest, text = file_digest(file), file.read_bytes()
    file.write_bytes(text.replace(b"-one = 1", b"-one = 9"))
    bench.mini.edit("patches/ext/series.toml", digest, file_digest(file))
    for _ in range(2):
        with pytest.raises(PatchError, match=r"does not apply to ext\.py"):
            bench.edit()
    bench.mini.edit("patches/ext/series.toml", file_digest(file), digest)
    file.write_bytes(text)
    assert bench.edit().is_dir()


def test_a_tree_that_is_the_whole_folder_can_be_edited(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As git's are, where an archive's are in a folder of their own."""

    def lay_out(_shop: Workshop, _wanted: patchwork.Release, into: Path) -> Path:
        into.mkdir(parents=True)
        (into / "ext.py").write_text(UPSTREAM, encoding="utf-8")
        return into

    monkeypatch.setattr(patchwork, "lay_out", lay_out)
    (bench.edit() / "ext.py").write_text("", encoding="utf-8")
    assert bench.save().exists()


def test_a_series_is_never_half_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be written it is as it was, and so is what was edited."""
    change(bench.edit())
    bench.save()
    series = bench.mini.root / "patches/ext/series.toml"
    before = series.read_bytes()
    tree = bench.edit()
    (tree / "ext.py").write_text("", encoding="utf-8")

    def full(*_args: object, **_options: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(DiskError):
            bench.save("second")
    assert series.read_bytes() == before
    assert sorted(path.name for path in series.parent.iterdir()) == ["0001-some-name.patch", "series.toml"]
    assert bench.save("second").exists()


def test_a_series_that_does_not_apply_is_found(bench: Bench) -> None:
    """Each patch is tried on every release in its range, on top of those before it."""
    change(bench.edit())
    file = bench.save()
    digest = file_digest(file)
    text = file.read_text(encoding="utf-8", errors="surrogateescape").replace("-one = 1", "-one = 9")
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    bench.mini.edit("patches/ext/series.toml", digest, file_digest(file))
    with pytest.raises(PatchError, match=r"patch 'ext-some-name' does not apply to ext\.py"):
        bench.proofs()
    assert list((bench.state / "work").iterdir()) == []
