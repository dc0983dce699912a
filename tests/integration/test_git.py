"""Sources from git, against real repositories in folders, behind a web server, and behind nothing that answers."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from filelock import FileLock

from mmstack import run
from mmstack.errors import CommandError, DiskError, HostError, InterruptedRunError, MmstackError, NetworkError, PinError
from mmstack.events import DownloadProgress, Event, Notice, Waiting
from mmstack.model import GitPin, Paths
from mmstack.sources.archive import tree_digest
from mmstack.sources.git import RETRY_PAUSES, Repositories, Submodule, resolve
from mmstack.sources.mirrors import Mirror, read_mirror
from mmstack.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
MOMENT = 1_600_000_000
LONG = 60.0  # on a machine that is busy with a build
GIT_ENV = {
    "PATH": os.environ["PATH"],
    "HOME": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "protocol.file.allow",
    "GIT_CONFIG_VALUE_0": "always",
    "GIT_CONFIG_KEY_1": "init.defaultBranch",
    "GIT_CONFIG_VALUE_1": "main",
    **{
        f"GIT_{who}_{what}": f"a{at}b"
        for who in ("AUTHOR", "COMMITTER")
        for what, at in (("NAME", " "), ("EMAIL", "@"))
    },
    **{f"GIT_{who}_DATE": f"{MOMENT} +0200" for who in ("AUTHOR", "COMMITTER")},
}
UPSTREAM = "https://host.test/org/super.git"
BACKEND = Path(subprocess.check_output(["git", "--exec-path"], text=True).strip()) / "git-http-backend"
FILES: dict[str, bytes] = {
    "README": b"read $Format:%H$\n",
    "noise": os.urandom(200_000),
    "src/a.c": b"int a;\n" * 40,
    "run.sh": b"#!/bin/sh\n",
    "left/out": b"by archives only\n",
    "dos.bat": b"echo\n",
    "big.bin": b"not fetched by its filter\n",
    "na\xefve name": b"umlaut\n",
    ".gitattributes": b"README export-subst\nleft export-ignore\n*.bat text eol=crlf\n*.bin filter=lfs\n",
}


def git(*words: str | Path, at: Path, give: bytes = b"", more: Mapping[str, str] | None = None) -> str:
    """Run git as an upstream's author, and return what it says."""
    env = {**GIT_ENV, **(more or {})}
    return (
        subprocess.run(["git", *words], cwd=at, env=env, input=give, check=True, capture_output=True)
        .stdout.decode()
        .strip()
    )


@dataclass(kw_only=True)
class Author:
    """Makes repositories in a folder that is laid out like a host."""

    root: Path

    def repository(self, name: str, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> str:
        """Commit files and submodules, making the repository where there is none; return the commit."""
        work = self.root / name
        if not work.is_dir():
            work.mkdir(parents=True)
            git("init", "-q", at=work)
            work.with_name(f"{work.name}.git").symlink_to(work / ".git")
        for file, content in files.items():
            (work / file).parent.mkdir(parents=True, exist_ok=True)
            (work / file).write_bytes(content)
        git("add", "-A", at=work)
        for path, commit in (links or {}).items():
            git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}", at=work)
        git("commit", "-q", "--allow-empty", "-m", name, at=work)
        return git("rev-parse", "HEAD", at=work)

    def tag(self, name: str, tag: str, *words: str) -> None:
        """Name the last commit."""
        git("tag", *words, tag, at=self.root / name)


def modules(*entries: tuple[str, str], more: str = "") -> dict[str, bytes]:
    """Return a .gitmodules of pairs of path and address."""
    text = "".join(f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n' for path, url in entries)
    return {".gitmodules": (text + more).encode()}


@dataclass(kw_only=True)
class Bench:
    """An upstream with submodules, nested ones too, and an empty cache."""

    folder: Path
    mirror: Mirror
    author: Author
    pin: GitPin
    environ: dict[str, str]
    patience: float = 120.0
    said: list[Event] = field(default_factory=list)
    sleeps: list[float] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """Return the cache."""
        return self.folder / "cache"

    def repositories(self) -> Repositories:
        """Return the cache as a new run sees it."""
        return Repositories(
            self.root,
            self.folder / "home",
            self.said.append,
            self.mirror,
            environ=self.environ,
            patience=self.patience,
            sleep=self.sleeps.append,
        )

    def fetch(self) -> tuple[Submodule, ...]:
        """Fetch the pin."""
        return self.repositories().fetch(self.pin)

    def tree(self, name: str = "tree") -> Path:
        """Fetch the pin and lay it out."""
        self.fetch()
        self.repositories().lay_out(self.pin, self.folder / name)
        return self.folder / name

    def fail(self, kind: type[MmstackError]) -> MmstackError:
        """Fetch in vain; afterwards, nothing half fetched is left."""
        with pytest.raises(kind) as caught:
            self.fetch()
        assert type(caught.value) is kind
        assert caught.value.why
        assert caught.value.fix
        assert self.rubbish() == []
        return caught.value

    def rubbish(self) -> list[Path]:
        """Return what git leaves behind when it fails, and what we might."""
        names = [
            path for path in self.root.rglob("*") if path.name.startswith((".new-", "tmp_")) or path.suffix == ".lock"
        ]
        return [*names, *self.folder.glob(".tree*")]

    def repository(self, name: str) -> Path:
        """Return the cache's repository of that name."""
        (found,) = self.root.glob(f"{name}-*.git")
        return found

    def at(self, commit: str, *, submodules: int = 0, tag: str = "v1", url: str = UPSTREAM) -> None:
        """Pin another commit."""
        self.pin = GitPin(url=url, tag=tag, commit=commit, submodules=submodules)

    def spoken(self, kind: type[Event]) -> list[Any]:
        """Return the events of a kind."""
        return [event for event in self.said if isinstance(event, kind)]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GitPin]:
    """A host's folder with a superproject of three submodules, one of which has one itself; never changed."""
    author = Author(root=tmp_path_factory.mktemp("upstream") / "host")
    deep = author.repository("other/deep", {"deep.h": b"#define DEEP\n"})
    nest_modules = modules(("third party/deep", "../deep.git/"))
    nest = author.repository("other/nest", {"noise": os.urandom(200_000), **nest_modules}, {"third party/deep": deep})
    math = author.repository("org/math", {"math.c": b"int m;\n" * 40, "x.bat": b"@\n"})
    author.repository("org/math", {"math.c": b"int m;\n" * 40 + b"more\n"})
    work = author.root / "org" / "super"
    author.repository("org/super", FILES)
    (work / "run.sh").chmod(0o755)
    (work / "link").symlink_to("src/a.c")
    optional = '[submodule "o"]\n\tpath = optional\n\turl = https://nobody.test/x\n\tupdate = none\n'
    stale = '[submodule "s"]\n\tpath = ../../stale\n\turl = ext::id\n'
    named = modules(
        ("third_party/math", "../math.git"), ("third_party/nest", "https://b.test/other/nest"), more=optional + stale
    )
    links = {"third_party/math": math, "third_party/nest": nest, "optional": deep}
    commit = author.repository("org/super", named, links)
    author.tag("org/super", "v1", "-a", "-m", "release")
    return author.root, GitPin(url=UPSTREAM, tag="v1", commit=commit, submodules=2)


@pytest.fixture
def bench(upstream: tuple[Path, GitPin], tmp_path: Path) -> Bench:
    """The upstream above through a mirror that is a folder."""
    root, pin = upstream
    home = tmp_path / "user"
    home.mkdir()
    environ = {"HOME": str(home)}
    return Bench(folder=tmp_path, mirror=read_mirror(root.as_uri()), author=Author(root=root), pin=pin, environ=environ)


@pytest.fixture
def own(bench: Bench) -> Bench:
    """A bench whose upstream is still to be made, at org/super."""
    bench.author = Author(root=bench.folder / "host")
    bench.author.root.mkdir()
    bench.mirror = read_mirror(bench.author.root.as_uri())
    return bench


def test_the_tree_is_that_of_a_clone_with_its_submodules(bench: Bench) -> None:
    """Byte for byte, whatever attributes say of archives and filters; nothing of git's, one time for all."""
    tree = bench.tree()
    clone = bench.folder / "clone"
    config = {f"GIT_CONFIG_KEY_{n + 2}": f"url.{bench.mirror.base}/.insteadOf" for n in range(2)}
    config |= {
        "GIT_CONFIG_VALUE_2": "https://host.test/",
        "GIT_CONFIG_VALUE_3": "https://b.test/",
        "GIT_CONFIG_COUNT": "4",
    }
    git("clone", "-q", "--recurse-submodules", UPSTREAM, clone, at=bench.folder, more=config)
    assert git("rev-parse", "HEAD", at=clone) == bench.pin.commit
    assert tree_digest(tree) == tree_digest(clone, lambda path: path.rpartition("/")[2] == ".git")
    assert (tree / "third_party/nest/third party/deep/deep.h").is_file()
    assert (tree / "README").read_bytes() == FILES["README"]
    assert (tree / "dos.bat").read_bytes() == b"echo\r\n"
    found = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {path.stat().st_mtime for path in found} == {MOMENT}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o644, 0o755}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tree, *tree.rglob("*")) if path.is_dir()} == {0o755}
    assert bench.rubbish() == []


def test_every_submodule_is_named_with_its_upstream(bench: Bench) -> None:
    """The address is the upstream's own, not the mirror's; a relative one starts at the upstream's."""
    found = {item.path: item.url for item in bench.fetch()}
    assert found == {
        "third_party/math": "https://host.test/org/math.git",
        "third_party/nest": "https://b.test/other/nest",
        "third_party/nest/third party/deep": "https://b.test/other/deep.git/",
    }
    assert bench.repositories().lay_out(bench.pin, bench.folder / "tree") == bench.fetch()


def test_a_file_of_rules_is_a_mirror_too(bench: Bench) -> None:
    """Flat as a code host's mirrors are, and with a prefix as a company's: the same tree."""
    wanted = tree_digest(bench.tree("wanted"))
    root = bench.author.root
    flat = bench.folder / "flat"
    flat.mkdir()
    (flat / "super.git").symlink_to(root / "org" / "super" / ".git")
    rules = bench.folder / "rules"
    hosts = f"https://host.test = {root.as_uri()}\nhttps://b.test/ = {root.as_uri()}/\n"
    rules.write_text(f"{hosts}{UPSTREAM} = {flat.as_uri()}/super.git\n", encoding="utf-8")
    shutil.rmtree(bench.root)
    bench.mirror = read_mirror(str(rules))
    assert tree_digest(bench.tree()) == wanted


def test_what_was_fetched_needs_no_network(bench: Bench) -> None:
    """Nor the mirror, nor the upstream; and a fetch of what is here asks nobody."""
    assert not bench.repositories().has(bench.pin)
    bench.fetch()
    bench.mirror, count = Mirror(), len(bench.said)
    assert bench.repositories().has(bench.pin)
    assert git("rev-list", "--count", bench.pin.commit, at=bench.repository("super")) == "1"  # no history
    assert len(bench.fetch()) == 3
    assert bench.tree().is_dir()
    assert bench.said[count:] == []


def test_what_was_not_fetched_cannot_be_laid_out(bench: Bench) -> None:
    """It says so, and makes nothing."""
    with pytest.raises(NetworkError, match="super is not here"):
        bench.repositories().lay_out(bench.pin, bench.folder / "tree")
    bench.fetch()
    shutil.rmtree(bench.repository("deep"))
    assert not bench.repositories().has(bench.pin)
    with pytest.raises(NetworkError, match="submodule third_party/nest/third party/deep is not here"):
        bench.repositories().lay_out(bench.pin, bench.folder / "tree")
    assert not (bench.folder / "tree").exists()


def test_a_folder_in_the_way_is_left_alone(bench: Bench) -> None:
    """A tree is whole or not there."""
    (bench.folder / "tree").mkdir()
    (bench.folder / "tree" / "mine").touch()
    with pytest.raises(DiskError):
        bench.tree()
    assert [path.name for path in (bench.folder / "tree").iterdir()] == ["mine"]
    assert bench.rubbish() == []


def test_the_next_release_brings_only_what_is_new(own: Bench) -> None:
    """What the last one brought is not sent again, and one upstream is one repository, however it is called."""
    old = own.author.repository("org/super", {f"f{n}": os.urandom(3000) for n in range(30)})
    own.author.tag("org/super", "v1")
    own.at(old)
    own.fetch()
    new = own.author.repository("org/super", {"f0": b"changed"})
    own.author.tag("org/super", "v2")
    own.at(new, tag="v2", url=UPSTREAM.removesuffix(".git"))
    own.fetch()
    sizes = sorted(pack.stat().st_size for pack in own.repository("super").glob("objects/pack/*.pack"))
    assert sizes.pop() > 80_000
    assert sum(sizes) < 5000
    done = [event.done for event in own.spoken(DownloadProgress) if event.finished]
    assert len(done) == 2
    assert done[0] > 80_000
    assert done[1] < 5000
    own.at(old)
    assert own.repositories().has(own.pin)


@pytest.mark.parametrize("damage", ["blob", "config", "shallow.lock", "empty", "pack"])
def test_a_damaged_repository_is_mended(bench: Bench, damage: str) -> None:
    """It is never trusted because it is there; another release's objects are not vouched for either."""
    wanted = tree_digest(bench.tree("wanted"))
    repository = bench.repository("math")
    (pack,) = repository.glob("objects/pack/*.pack")
    if damage == "blob":  # every object loose, and one of them gone
        content = pack.read_bytes()
        pack.with_suffix(".idx").unlink()
        pack.unlink()
        git("unpack-objects", "-q", at=repository, give=content)
        blob = git("rev-parse", f"{next(repository.glob('refs/pins/*')).name}:math.c", at=repository)
        (repository / "objects" / blob[:2] / blob[2:]).unlink()
    elif damage == "config":
        (repository / "config").write_text("[nonsense", encoding="utf-8")
    elif damage == "empty":
        shutil.rmtree(repository)
        repository.mkdir()
    else:
        pack.chmod(0o644)
        pack.write_bytes(pack.read_bytes()[:40])
        (repository / "shallow.lock").touch()
        (repository / "objects" / "pack" / "tmp_pack_x").touch()
    assert not bench.repositories().has(bench.pin)
    assert tree_digest(bench.tree()) == wanted
    assert bench.rubbish() == []


def rot(bench: Bench) -> Path:
    """Change a byte of a submodule's file where git keeps it, and return the repository."""
    (pack,) = bench.repository("math").glob("objects/pack/*.pack")
    content = bytearray(pack.read_bytes())
    blob = git(
        "rev-parse", f"{next(bench.repository('math').glob('refs/pins/*')).name}:math.c", at=bench.repository("math")
    )
    listed = git("verify-pack", "-v", pack, at=bench.folder).splitlines()
    offset = next(int(line.split()[4]) for line in listed if line.startswith(blob))
    content[offset + 6] ^= 0xFF
    pack.chmod(0o644)
    pack.write_bytes(content)
    return bench.repository("math")


def test_bytes_that_rot_are_found_when_they_are_used(bench: Bench) -> None:
    """The repository is fetched anew, which is said, and the tree is what it was."""
    wanted = tree_digest(bench.tree("wanted"))
    rot(bench)
    bench.said.clear()
    bench.repositories().lay_out(bench.pin, bench.folder / "tree")
    assert tree_digest(bench.folder / "tree") == wanted
    (notice,) = bench.spoken(Notice)
    assert (notice.text, notice.level) == (
        "what was here of submodule third_party/math is damaged: it is fetched anew",
        "warning",
    )
    assert bench.rubbish() == []


def test_what_cannot_be_fetched_anew_is_not_thrown_away(bench: Bench) -> None:
    """In a run without a network the repository stays, with all that is whole in it, and what to do is said."""
    state = bench.folder / "state"
    bench.fetch()
    rot(bench)
    state.mkdir()
    bench.root.rename(state / "repositories")
    shop = Workshop(
        paths=Paths(root=bench.folder, state=state, dist=bench.folder / "dist"),
        listener=bench.said.append,
        environ=bench.environ,
        offline=True,
        mirror=bench.mirror,
    )
    with pytest.raises(PinError, match=r"third_party/math is damaged") as caught:
        shop.sources.repositories.lay_out(bench.pin, bench.folder / "tree")
    (repository,) = (state / "repositories").glob("math-*.git")
    assert str(repository) in caught.value.fix


def test_a_moved_tag_is_told(own: Bench) -> None:
    """The pin names a commit, and that is what is used; who pinned the tag should know."""
    commit = own.author.repository("org/super", {"a": b"1"})
    own.at(commit)
    moved = own.author.repository("org/super", {"a": b"2"})
    own.author.tag("org/super", "v1", "-a", "-m", "moved")
    assert (own.tree() / "a").read_bytes() == b"1"
    (notice,) = own.spoken(Notice)
    assert notice.level == "warning"
    assert "v1" in notice.text
    assert moved in notice.text
    assert commit in notice.text


def test_a_tag_that_is_gone_is_told(own: Bench) -> None:
    """The commit is still there."""
    own.at(own.author.repository("org/super", {"a": b"1"}))
    assert (own.tree() / "a").read_bytes() == b"1"
    (notice,) = own.spoken(Notice)
    assert "cannot be looked at" in notice.text
    assert own.rubbish() == []


def test_a_tag_where_it_belongs_needs_no_word(bench: Bench) -> None:
    """An annotated one; each repository says what it fetched, once."""
    bench.fetch()
    assert bench.spoken(Notice) == []
    finished = [event.filename for event in bench.spoken(DownloadProgress) if event.finished]
    assert sorted(finished) == ["deep", "math", "nest", "super"]


@pytest.mark.parametrize("tagged", [True, False])
def test_a_commit_that_its_upstream_took_away(own: Bench, *, tagged: bool) -> None:
    """The message names tag and commit, and where the tag is now."""
    gone = own.author.repository("org/super", {"a": b"1"})
    work = own.author.root / "org" / "super"
    git("commit", "-q", "--amend", "-m", "another", at=work)
    git("reflog", "expire", "--expire=now", "--all", at=work)
    git("gc", "-q", "--prune=now", at=work)
    if tagged:
        own.author.tag("org/super", "v1", "-a", "-m", "moved")
    own.at(gone)
    error = own.fail(PinError)
    assert gone in error.what
    now = git("rev-parse", "HEAD", at=work)
    assert (f"the tag v1 is at {now} there" if tagged else "there is no tag v1 there") in error.why
    assert own.sleeps == []


def test_a_submodule_commit_that_is_missing(own: Bench) -> None:
    """It is named by its place in the tree; what its neighbours brought is kept."""
    math = own.author.repository("org/math", {"m": b"1"})
    named = modules(("lib/math", "../math"), ("lib/more", "../math"))
    own.at(own.author.repository("org/super", named, {"lib/math": math, "lib/more": "1" * 40}), submodules=2)
    error = own.fail(PinError)
    assert "submodule lib/more" in error.what
    assert "1" * 40 in error.what
    assert git("cat-file", "-t", math, at=own.repository("math")) == "commit"


def test_a_pin_that_miscounts_submodules(bench: Bench) -> None:
    """The commit names them all, so it is no error; but what a plan has shown is put right."""
    bench.at(bench.pin.commit, submodules=3)
    bench.fetch()
    assert any("has 2 submodules, where its pin says 3" in notice.text for notice in bench.spoken(Notice))


def hostile_tree(author: Author, kind: str) -> str:
    """Return a commit whose tree no git would check out."""
    work = author.root / "org" / "super"
    author.repository("org/super", {"x": b"1"})

    def blob(content: bytes) -> str:
        return git("hash-object", "-w", "--stdin", at=work, give=content)

    def tree(*entries: tuple[str, str, str]) -> str:
        kinds = {"040000": "tree", "160000": "commit"}
        lines = "".join(f"{mode} {kinds.get(mode, 'blob')} {oid}\t{name}\n" for mode, oid, name in entries)
        return git("mktree", "--missing", at=work, give=lines.encode())

    text = modules(("a/sub", "https://host.test/org/super"))[".gitmodules"]
    sub = tree(("160000", git("rev-parse", "HEAD", at=work), "sub"))
    top = {
        "a folder of git's": lambda: tree(("040000", tree(("100644", blob(b"[core]"), "config")), ".git")),
        "a folder like git's": lambda: tree(("040000", tree(("100644", blob(b"[core]"), "config")), ".GIT")),
        "a linked .gitmodules": lambda: tree(("120000", blob(b"/etc/passwd"), ".gitmodules"), ("040000", sub, "a")),
        "a folder that is a link": lambda: tree(
            ("100644", blob(text), ".gitmodules"), ("120000", blob(b"/tmp"), "a"), ("040000", sub, "a")
        ),
        "an option as a path": lambda: tree(
            ("100644", blob(text.replace(b"a/sub", b"-u")), ".gitmodules"),
            ("160000", git("rev-parse", "HEAD", at=work), "-u"),
        ),
    }[kind]()
    commit = git("commit-tree", top, "-m", "x", at=work)
    git("tag", "v1", commit, at=work)
    return commit


@pytest.mark.parametrize(
    "kind",
    [
        "a folder of git's",
        "a folder like git's",
        "a linked .gitmodules",
        "a folder that is a link",
        "an option as a path",
    ],
)
def test_a_tree_that_is_a_trap(own: Bench, kind: str) -> None:
    """No honest upstream has it, so it ends before anything is written."""
    own.at(hostile_tree(own.author, kind), submodules=1)
    error = own.fail(PinError)
    assert "super cannot be used" in error.what
    assert own.sleeps == []
    if "git's" in kind:  # not even where the user has told git to look away
        config = '[fetch "fsck"]\n\thasDotgit = ignore\n'
        (Path(own.environ["HOME"]) / ".gitconfig").write_text(config, encoding="utf-8")
        assert "it holds" in own.fail(PinError).why


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% {marker}",
        "fd::0/x",
        "-u./{marker}",
        "../../../../../{marker}",
        "file://{marker}",
        "{marker}",
        "ssh://-oProxyCommand=touch%20{marker}/x",
        "https://host.test/%2e%2e/x",
    ],
)
def test_an_address_that_is_a_trap(own: Bench, url: str) -> None:
    """A submodule may neither start a program, nor give an option, nor read a folder of this machine."""
    marker = own.folder / "marker"
    named = modules(("lib", url.replace("{marker}", str(marker))))
    own.at(own.author.repository("org/super", named, {"lib": "1" * 40}), submodules=1)
    error = own.fail(PinError)
    assert "submodule lib" in error.what or "super cannot be used" in error.what
    assert not marker.exists()


@pytest.mark.parametrize(
    "text", [b"[submodule", b"", b'[submodule "x"]\n\tpath = other\n\turl = https://host.test/x\n']
)
def test_a_submodule_without_an_address(own: Bench, text: bytes) -> None:
    """Git itself does not know what to do then."""
    own.at(own.author.repository("org/super", {".gitmodules": text}, {"lib": "1" * 40}), submodules=1)
    assert ".gitmodules" in own.fail(PinError).why


def test_an_upstream_that_is_a_folder_may_name_folders(own: Bench) -> None:
    """It needs no mirror then."""
    math = own.author.repository("org/math", {"m": b"1"})
    named = modules(("lib", "../math"), ("abs", (own.author.root / "org" / "math").as_uri()))
    commit = own.author.repository("org/super", named, {"lib": math, "abs": math})
    own.mirror = Mirror()
    own.at(commit, submodules=2, url=(own.author.root / "org" / "super").as_uri())
    assert (own.tree() / "lib" / "m").read_bytes() == (own.folder / "tree" / "abs" / "m").read_bytes() == b"1"


@pytest.mark.parametrize("url", ["ext::id", "-ux", "/srv/x", "ftp://host.test/x"])
def test_a_pin_with_an_address_that_is_refused(bench: Bench, url: str) -> None:
    """Before anything is asked."""
    bench.at(bench.pin.commit, url=url)
    assert "refused" in bench.fail(PinError).why


def test_relative_addresses() -> None:
    """As git resolves them."""
    assert resolve("../x.git", "https://host.test/a/b.git") == "https://host.test/a/x.git"
    assert resolve("./x.git", "https://host.test/a/b/") == "https://host.test/a/b/x.git"
    assert resolve("../../c/x", "git@host.test:a/b.git") == "git@host.test:c/x"
    assert resolve("../x", "git@host.test:b.git") == "git@host.test:x"
    assert resolve("../../../x", "https://host.test/a/b.git") == ""
    assert resolve("https://o.test/x", "https://host.test/a/b.git") == "https://o.test/x"


def test_hooks_templates_and_filters_do_not_run(bench: Bench) -> None:
    """Not even those of the user's own configuration, which says how to reach a network."""
    home, marker = Path(bench.environ["HOME"]), bench.folder / "marker"
    for folder in (home / "hooks", home / "template" / "hooks"):
        folder.mkdir(parents=True)
        for name in ("reference-transaction", "post-checkout", "post-update"):
            (folder / name).write_text(f"#!/bin/sh\ntouch {marker}\n", encoding="utf-8")
            (folder / name).chmod(0o755)
    config = f"[core]\n\thooksPath = {home}/hooks\n[init]\n\ttemplateDir = {home}/template\n"
    config += f'[filter "lfs"]\n\tsmudge = touch {marker}\n\trequired\n[fetch]\n\tfsckObjects = false\n'
    (home / ".gitconfig").write_text(config, encoding="utf-8")
    env = {"HOME": str(home), "GIT_CONFIG_GLOBAL": str(home / ".gitconfig")}
    git("clone", "-q", bench.author.root / "org" / "super", bench.folder / "try", at=bench.folder, more=env)
    assert marker.exists()  # they do run where git is left to itself
    marker.unlink()
    bench.tree()
    assert not marker.exists()
    assert not list(bench.root.rglob("hooks"))


def test_no_git_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to get it."""
    monkeypatch.setenv("PATH", str(bench.folder))
    with pytest.raises(HostError, match="git is not on this machine") as caught:
        bench.fetch()
    assert "install git" in caught.value.fix


def program(bench: Bench, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put another git in front of the real one."""
    folder = bench.folder / "bin"
    folder.mkdir()
    (folder / "git").write_text(f'#!/bin/sh\n{text}\nexec {shutil.which("git")} "$@"\n', encoding="utf-8")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_git_of_long_ago_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not take our configuration."""
    program(bench, monkeypatch, "echo git version 2.25.1; exit")
    with pytest.raises(HostError, match=r"too old: git version 2\.25\.1"):
        bench.fetch()


def test_a_full_disk_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not taken for a server's failure."""
    full = 'case "$*" in *fetch*) echo fatal: write error: No space left on device; exit 128;; esac'
    program(bench, monkeypatch, full)
    bench.fail(DiskError)
    assert bench.sleeps == []


def test_a_git_that_is_killed_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched is not damaged by it; and a server that git was ended at is asked again."""
    wanted = tree_digest(bench.tree("wanted"))
    with monkeypatch.context() as patch:
        program(bench, patch, 'case "$*" in *archive*) kill -9 $$;; esac')
        with pytest.raises(CommandError):
            bench.repositories().lay_out(bench.pin, bench.folder / "tree")
    assert bench.repositories().has(bench.pin)
    bench.repositories().lay_out(bench.pin, bench.folder / "tree")
    assert tree_digest(bench.folder / "tree") == wanted


def test_a_fetch_that_is_killed_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no server that says nothing."""
    once = bench.folder / "once"
    text = f'case "$*" in *" fetch "*) [ -e {once} ] || {{ touch {once}; kill -9 $$; }};; esac'
    program(bench, monkeypatch, text)
    bench.fetch()
    assert bench.repositories().has(bench.pin)
    assert len(bench.sleeps) == 1


# --- behind a web server ---------------------------------------------------------------------------------------


@dataclass
class Host:
    """A web server of repositories, and what it does wrong.

    Args:
        cut: how many answers to a fetch end before their end, of the repository `only`.
        stall: whether these stop there, and wait for `release` instead.
        old: whether it speaks the protocol's first version only, which refuses bare commits.
        delay: how many seconds it thinks before each answer.
        status: what it answers instead, by repository.
    """

    root: Path
    url: str = ""
    cut: int = 0
    only: str = ""
    stall: bool = False
    old: bool = False
    delay: float = 0.0
    status: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    credentials: set[str] = field(default_factory=set)
    release: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    busy: int = 0
    busiest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    """Answers by git's own program for web servers."""

    protocol_version = "HTTP/1.0"
    host: Host

    def do_GET(self) -> None:
        """Answer what is there."""
        with self.host.lock:
            self.host.asked.append(self.path)
            self.host.credentials.add(self.headers.get("Authorization", ""))
            self.host.busy += 1
            self.host.busiest = max(self.host.busiest, self.host.busy)
        try:
            time.sleep(self.host.delay)
            with suppress(BrokenPipeError, ConnectionResetError):
                self.answer()
        finally:
            with self.host.lock:
                self.host.busy -= 1

    do_POST = do_GET  # noqa: N815 - the same

    def answer(self) -> None:
        """Say what git says, or less."""
        path, _, query = self.path.partition("?")
        path = "/" + path.partition("//")[2].partition("/")[2] if path.startswith("http:") else path
        status = next((code for name, code in self.host.status.items() if f"/{name}/" in path), 0)
        if status:
            self.send_response(status)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()
            return
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        head, _, body = self.backend(path, query, asked).partition(b"\r\n\r\n")
        self.send_response(200)
        for line in head.decode().splitlines():
            self.send_header(*line.split(": ", 1))
        self.end_headers()
        if b"PACK" in body and self.host.cut > 0 and self.host.only in path:
            self.host.cut -= 1
            self.wfile.write(body[: len(body) * 2 // 3])
            self.wfile.flush()
            self.host.stalled.set()
            if self.host.stall:
                self.host.release.wait(LONG)
        else:
            self.wfile.write(body)

    def backend(self, path: str, query: str, asked: bytes) -> bytes:
        """Return what git's program answers."""
        env = {**GIT_ENV, "GIT_PROJECT_ROOT": str(self.host.root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path}
        env |= {"REQUEST_METHOD": self.command, "QUERY_STRING": query, "SERVER_PROTOCOL": "HTTP/1.0"}
        env |= {"CONTENT_TYPE": self.headers.get("Content-Type", ""), "REMOTE_ADDR": "127.0.0.1"}
        env |= {"CONTENT_LENGTH": str(len(asked)), "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", "")}
        if not self.host.old:
            env["GIT_PROTOCOL"] = self.headers.get("Git-Protocol", "")
        return subprocess.run([BACKEND], env=env, input=asked, capture_output=True, check=True).stdout

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def host(bench: Bench) -> Iterator[Host]:
    """The bench's upstream behind a web server, which is its mirror now."""
    state = Host(root=bench.author.root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"host": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    bench.mirror = read_mirror(state.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    state.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_over_http_the_tree_is_the_same(bench: Bench, host: Host) -> None:
    """Commits prove that a server gave what a folder holds."""
    wanted = tree_digest(bench.tree())
    shutil.rmtree(bench.root)
    bench.mirror = read_mirror(bench.author.root.as_uri())
    assert tree_digest(bench.tree("again")) == wanted
    assert host.asked


def test_a_server_that_refuses_bare_commits_is_asked_for_a_name(bench: Bench, host: Host) -> None:
    """The tag that is at the commit; nothing is tried twice."""
    host.old = True
    bench.fail(PinError)  # of math, no name is at the commit
    assert git("cat-file", "-t", bench.pin.commit, at=bench.repository("super")) == "commit"
    assert bench.sleeps == []
    bench.mirror = read_mirror(bench.author.root.as_uri())
    assert bench.tree().is_dir()


def test_a_server_that_refuses_a_commit_without_a_name(bench: Bench, host: Host) -> None:
    """It says which submodule, and what the server said."""
    host.old = True
    error = bench.fail(PinError)
    assert "submodule third_party/math" in error.what
    assert "does not allow request" in error.why


def test_a_truncated_pack_is_fetched_again(bench: Bench, host: Host) -> None:
    """Once or twice it may happen."""
    host.cut = len(RETRY_PAUSES)
    assert bench.tree().is_dir()
    assert bench.sleeps == list(RETRY_PAUSES)


def test_a_pack_that_is_always_truncated(bench: Bench, host: Host) -> None:
    """It ends, says so, and keeps nothing of it."""
    host.cut = 1000
    error = bench.fail(NetworkError)
    assert "super could not be fetched" in error.what
    assert host.url in error.why
    assert bench.sleeps == list(RETRY_PAUSES)
    assert not list(bench.root.rglob("*.pack"))
    host.cut = 0
    assert bench.tree().is_dir()


@pytest.mark.parametrize(("status", "words"), [(401, "could not read Username"), (404, "not found"), (503, "503")])
def test_a_server_that_does_not_give_it(bench: Bench, host: Host, status: int, words: str) -> None:
    """Nobody is asked for a password; the first failure stops the neighbours, and what is whole is kept."""
    host.status = {"math.git": status}
    error = bench.fail(NetworkError)
    assert "submodule third_party/math" in error.what
    assert words in error.why
    assert git("cat-file", "-t", bench.pin.commit, at=bench.repository("super")) == "commit"


@pytest.mark.parametrize("address", ["http://127.0.0.1:{free}", "git://127.0.0.1:{free}", "http://nowhere.invalid"])
def test_a_host_that_cannot_be_reached(bench: Bench, address: str) -> None:
    """Nobody listens, or nobody has that name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bench.mirror = read_mirror(address.replace("{free}", str(probe.getsockname()[1])))
    assert bench.mirror.base in bench.fail(NetworkError).why


@pytest.mark.parametrize("scheme", ["http", "git"])
def test_a_host_that_says_nothing(bench: Bench, scheme: str) -> None:
    """It is not waited for longer than one's patience, nor asked again."""
    bench.patience = 0.6
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bench.mirror = read_mirror(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        error = bench.fail(NetworkError)
    assert time.monotonic() - began < LONG / 2
    assert "said nothing for 0.6 s" in error.why
    assert bench.sleeps == []


def test_a_server_that_stops_in_the_middle(bench: Bench, host: Host) -> None:
    """As good as one that says nothing at all."""
    bench.patience, host.cut, host.stall = 0.8, 1, True
    assert "said nothing" in bench.fail(NetworkError).why


def test_submodules_come_at_the_same_time(bench: Bench, host: Host) -> None:
    """Many slow ones take about as long as one."""
    bench.author = Author(root=bench.folder / "host")
    names = [f"lib{number}" for number in range(6)]
    links = {name: bench.author.repository(f"org/{name}", {"x": name.encode()}) for name in names}
    named = modules(*((name, f"../{name}") for name in names))
    bench.at(bench.author.repository("org/super", named, links), submodules=6, url="https://host.test/org/super")
    host.root, host.delay = bench.author.root, 0.2
    assert len(bench.fetch()) == 6
    assert host.busiest > 3


def test_the_users_own_configuration_of_git_counts(bench: Bench, host: Host) -> None:
    """Where it says how to reach a host, without a mirror."""
    text = f'[url "{host.url}/"]\n\tinsteadOf = https://host.test/\n\tinsteadOf = https://b.test/\n'
    (Path(bench.environ["HOME"]) / ".gitconfig").write_text(text, encoding="utf-8")
    bench.mirror = Mirror()
    assert bench.tree().is_dir()


def test_a_proxy_is_used(bench: Bench, host: Host) -> None:
    """The one of the user's variables."""
    bench.environ["http_proxy"] = host.url
    bench.mirror = read_mirror("http://far.test")
    assert bench.tree().is_dir()
    assert any(path.startswith("http://far.test/") for path in host.asked)


def test_credentials_of_a_mirror_are_used_and_never_shown(bench: Bench, host: Host) -> None:
    """Neither in what is said, nor on the disk."""
    bench.mirror = read_mirror(host.url.replace("//", "//user:t0ken@"))
    host.status = {"math.git": 503}
    host.cut = 1
    error = bench.fail(NetworkError)
    assert "t0ken" not in f"{error!s}{error!r}{error.__cause__}{bench.said}"
    host.status, bench.mirror = {"super.git": 401}, read_mirror(host.url.replace("//", "//user:t0ken@"))
    shutil.rmtree(bench.root)
    error = bench.fail(NetworkError)
    assert f"Basic {base64.b64encode(b'user:t0ken').decode()}" in host.credentials
    assert "t0ken" not in f"{error!s}{error!r}{error.__cause__}{bench.said}"
    assert not [path for path in bench.root.rglob("*") if path.is_file() and b"t0ken" in path.read_bytes()]


# --- interrupted -----------------------------------------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
from mmstack.model import GitPin
from mmstack.sources.git import Repositories
from mmstack.sources.mirrors import read_mirror
folder, mirror, url, commit = sys.argv[1:]
folder = Path(folder)
pin = GitPin(url=url, tag="v1", commit=commit, submodules=2)
Repositories(folder / "cache", folder / "home", print, read_mirror(mirror), environ={}).fetch(pin)
"""


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.mark.parametrize("only", ["super", "nest"])
def test_killed_in_the_middle_of_a_fetch(bench: Bench, host: Host, only: str) -> None:
    """After `kill -9`, no git lives on; the next run takes what is whole, mends the rest, and has the same tree."""
    host.stall, host.cut, host.only = True, 1, only
    words = [str(bench.folder), host.url, bench.pin.url, bench.pin.commit]
    with subprocess.Popen([sys.executable, "-c", KILLED, *words], cwd=ROOT) as process:
        try:
            assert host.stalled.wait(LONG)
            wait_for(lambda: bool(list(bench.root.rglob("tmp_pack_*"))))
        finally:
            process.kill()
    wait_for(lambda: not gits(bench.root))
    assert not bench.repositories().has(bench.pin)
    host.stall, host.cut = False, 0
    host.asked.clear()
    wanted = tree_digest(bench.tree())
    assert any("/super" in path for path in host.asked) == (only == "super")
    bench.mirror = read_mirror(bench.author.root.as_uri())
    # a lock may be left where all had come: it goes when something is fetched into that repository again
    assert [path for path in bench.rubbish() if path.suffix != ".lock"] == []
    shutil.rmtree(bench.root)
    assert tree_digest(bench.tree("again")) == wanted


def gits(root: Path) -> list[int]:
    """Return the processes that have to do with a folder."""
    return [process.pid for process in psutil.process_iter() if str(root) in " ".join(words(process))]


def words(process: psutil.Process) -> list[str]:
    """Return a process's command line, if it is still there."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Whether this process was asked to stop, for one test."""
    event = threading.Event()
    monkeypatch.setattr(run, "_stopping", event)
    return event


def test_a_fetch_can_be_interrupted(bench: Bench, host: Host, stopping: threading.Event) -> None:
    """It ends at once, leaves no process and nothing half, and the next run carries on."""
    host.stall, host.cut, host.only = True, 1, "nest"

    def stop() -> None:
        host.stalled.wait(LONG)
        run.stop_all()

    stopper = threading.Thread(target=stop)
    stopper.start()
    began = time.monotonic()
    with pytest.raises(InterruptedRunError):
        bench.fetch()
    stopper.join()
    assert time.monotonic() - began < LONG / 2
    assert gits(bench.root) == []
    assert bench.rubbish() == []
    stopping.clear()
    host.stall, host.cut = False, 0
    assert bench.tree().is_dir()


def test_two_runs_share_the_cache(bench: Bench) -> None:
    """One waits for the other, says so, and can be stopped while it waits."""
    bench.fetch()
    repository = bench.repository("math")
    shutil.rmtree(repository)
    with FileLock(bench.root / ".locks" / repository.name):
        thread = threading.Thread(target=bench.fetch)
        thread.start()
        wait_for(lambda: bool(bench.spoken(Waiting)))
    thread.join()
    assert [event.what for event in bench.spoken(Waiting)] == ["another run's use of math"]
    assert bench.repositories().has(bench.pin)


def test_who_waits_for_another_run_can_be_stopped(bench: Bench, stopping: threading.Event) -> None:
    """Without having fetched it."""

    def stop() -> None:
        wait_for(lambda: bool(bench.spoken(Waiting)))
        stopping.set()

    bench.fetch()
    repository = bench.repository("math")
    shutil.rmtree(repository)
    with FileLock(bench.root / ".locks" / repository.name):
        stopper = threading.Thread(target=stop)
        stopper.start()
        with pytest.raises(InterruptedRunError):
            bench.fetch()
        stopper.join()
    assert not repository.exists()
