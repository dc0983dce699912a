"""Sources from git: a commit and those of all its submodules, fetched through mirrors, proved by their ids."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mmstack.errors import CommandError, NetworkError, PinError
from mmstack.events import DownloadProgress, Notice
from mmstack.run import is_stopping
from mmstack.sources.archive import settle, unpack
from mmstack.sources.gitcommand import REMOTE, Git, RemoteError, said
from mmstack.sources.mirrors import ADDRESS, fault, stem
from mmstack.sources.places import redact
from mmstack.store import disk_errors, held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmstack.events import Listener
    from mmstack.model import GitPin
    from mmstack.sources.mirrors import Mirror

WORKERS = 8
PATIENCE_SECONDS = 60.0
RETRY_PAUSES = (0.5, 2.0)
FETCH = ("fetch", "--depth=1", "--progress", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")
LEFTOVERS = ("*.lock", "refs/**/*.lock", "objects/**/tmp_*")
# What `git archive` does and a checkout does not: the tree shall be that of a checkout.
ATTRIBUTES = "* -export-ignore -export-subst -filter\n"
RECEIVED = re.compile(r"Receiving objects: .*, ([0-9.]+) (bytes|KiB|MiB|GiB)\b")
UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
TREE_LINE = re.compile(r"(?P<mode>[0-7]{6}) [a-z]+ (?P<id>[0-9a-f]{40})\t(?P<path>.+)")
OF_GIT = re.compile(r'(?:^|[/"])\.git(?:$|[/"])', re.IGNORECASE)
AROUND = {"", ".", ".."}  # what a path within a tree has no use for
COMMIT = re.compile(r"[0-9a-f]{40}")
GITLINK, FILES = "160000", ("100644", "100755")


@dataclass(frozen=True, kw_only=True)
class Submodule:
    """A repository within a source tree: where in it, where its upstream has it, and at which commit."""

    path: str
    url: str
    commit: str

    @property
    def name(self) -> str:
        """Return what its upstream calls the repository."""
        address = re.split(r"[?#]", self.url)[0]  # what follows may be a secret
        return re.split(r"[/:]", stem(address))[-1]

    @property
    def title(self) -> str:
        """Return what to call it in a message."""
        return f"submodule {self.path}" if self.path else self.name


class Repositories:
    """The cache of repositories, shared by all runs and stacks: one bare repository for each upstream's.

    Nothing counts as fetched because it is there: every object of a commit's tree must be found. With whom git
    talks and what it is told, see `Git`.

    Args:
        root: the folder of the cache.
        home: a private HOME.
        listener: is told what is fetched, from any thread.
        mirror: where to fetch from.
        environ: the user's variables.
        keep: remove nothing that is damaged: there is no network to fetch it anew.
        patience: how many seconds a server may say nothing.
        sleep: how to wait between attempts.
    """

    def __init__(
        self,
        root: Path,
        home: Path,
        listener: Listener,
        mirror: Mirror,
        *,
        environ: Mapping[str, str],
        keep: bool = False,
        patience: float = PATIENCE_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._git = Git(home, environ, patience)
        self._shelf = _Shelf(root=root, git=self._git, listener=listener)
        self._mirror = mirror
        self._keep = keep
        self._sleep = sleep

    def place(self, pin: GitPin) -> str:
        """Return from where a release is fetched, fit to be shown."""
        return redact(self._mirror.rewrite(pin.url))

    def has(self, pin: GitPin) -> bool:
        """Return whether a commit and those of all its submodules are here, whole; asks no network.

        Raises:
            HostError: there is no git, or one of long ago.
            PinError: what is here is not what the pin says, or what no honest repository holds.
        """
        return all(self._shelf.whole(item) for level in self._levels(pin) for item in level)

    def fetch(self, pin: GitPin) -> tuple[Submodule, ...]:
        """Fetch what is not here yet of a commit and all its submodules, nested ones too, and return these.

        Each is fetched without its history. Whatever happens, what is whole is kept.

        Raises:
            HostError: there is no git, or one of long ago.
            NetworkError: a repository could not be had.
            PinError: a commit is not where its pin says, or holds what no honest one does.
            DiskError: the disk is full, read-only or not ours to write.
            InterruptedRunError: we are stopping.
        """
        failed = threading.Event()
        fetcher = _Fetcher(
            shelf=self._shelf,
            mirror=self._mirror,
            sleep=self._sleep,
            tag=pin.tag,
            halted=lambda: failed.is_set() or is_stopping(),
        )
        new = not self._shelf.whole(_top(pin))
        found: list[Submodule] = []
        for level in self._levels(pin):
            self._bring(level, fetcher, failed)
            if new and not found:
                fetcher.look_at_tag(_top(pin))
            if len(found) == 1 and pin.submodules not in {0, len(level)}:
                text = f"{_top(pin).name} {pin.tag} has {len(level)} submodules, where its pin says {pin.submodules}"
                self._shelf.listener(Notice(text=text))
            found += level
        return tuple(found[1:])

    def submodules(self, pin: GitPin) -> tuple[Submodule, ...]:
        """Return all submodules of a commit that is here, nested ones too.

        Raises:
            NetworkError: one has not been fetched.
            PinError: what is here is damaged, or what no honest repository holds.
        """
        items: list[Submodule] = []
        for level in self._levels(pin):
            for item in level:
                self._demand_whole(item)
            items += level
        return tuple(items[1:])

    def lay_out(self, pin: GitPin, into: Path) -> tuple[Submodule, ...]:
        """Make the tree of a commit with all its submodules and return these; what is damaged here is fetched anew.

        Contents, links and program bits are those of a checkout; nothing of git's own is in it. Every file has the
        time of the commit that it is from.

        Args:
            pin: the commit.
            into: a folder that is not there yet, or is empty.

        Raises:
            HostError: there is no git, or one of long ago.
            NetworkError: it has not been fetched, or could not be had anew.
            PinError: what is here is damaged and stays, not what the pin says, or what no honest repository holds.
            DiskError: the disk is full, read-only or not ours to write.
            InterruptedRunError: we are stopping.
        """
        items = [_top(pin), *self.submodules(pin)]
        with disk_errors(into.parent):
            into.parent.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}-"))
            try:
                for item in items:
                    self._place_sound(pin, item, new)
                settle(new / "tree", into)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        return tuple(items[1:])

    def _levels(self, pin: GitPin) -> Iterator[list[Submodule]]:
        """Yield the tree itself, its submodules, theirs, and so on; whoever asks on has made sure of the last."""
        top = _top(pin)
        _demand_honest(top, local=True)
        yield [top]
        level = self._parts(top)
        while level:
            yield level
            level = [part for item in level for part in self._parts(item)]

    def _parts(self, item: Submodule) -> list[Submodule]:
        """Return the submodules that a commit names itself."""
        links: dict[str, str] = {}
        modules = ""
        for line in self._git.local(self._shelf.path(item), "ls-tree", "-r", item.commit).splitlines():
            found = TREE_LINE.fullmatch(line)
            if found is None or OF_GIT.search(found["path"]) or AROUND & set(found["path"].split("/")):
                raise _dishonest(item, f"it holds {line.partition(chr(9))[2]!r}")
            if found["mode"] == GITLINK:
                links[found["path"]] = found["id"]
            elif found["path"] == ".gitmodules" and found["mode"] in FILES:
                modules = found["id"]
        addresses = self._addresses(item, modules) if links and modules else {}
        for path in links:
            if path not in addresses:
                raise _dishonest(item, f"its .gitmodules has no address for {path}")
        return [_part(item, path, addresses[path], links[path]) for path in sorted(links) if addresses[path]]

    def _addresses(self, item: Submodule, modules: str) -> dict[str, str]:
        """Return the address of each path in .gitmodules; nothing for one that git itself leaves out."""
        try:
            listed = self._git.local(self._shelf.path(item), "config", "--blob", modules, "--list", "-z")
        except CommandError as error:
            raise _dishonest(item, f"its .gitmodules makes no sense: {said(error)}") from error
        sections: dict[str, dict[str, str]] = {}
        for record in listed.split("\0"):
            key, _, value = record.partition("\n")
            name, _, variable = key.rpartition(".")
            sections.setdefault(name, {}).setdefault(variable, value)
        return {
            section["path"]: "" if section.get("update") == "none" else section["url"]
            for section in sections.values()
            if section.get("path") and section.get("url")
        }

    def _bring(self, level: Sequence[Submodule], fetcher: _Fetcher, failed: threading.Event) -> None:
        """Fetch what is missing, each repository by a worker of its own; the first failure stops the others."""
        jobs: dict[Path, list[Submodule]] = {}
        for item in level:
            if not self._shelf.whole(item):
                jobs.setdefault(self._shelf.path(item), []).append(item)
        with ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="git") as pool:
            futures = [pool.submit(fetcher.bring, items) for items in jobs.values()]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                failed.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _demand_whole(self, item: Submodule) -> None:
        if not self._shelf.whole(item):
            raise NetworkError(
                f"{item.title} is not here",
                why=f"commit {item.commit} of {redact(item.url)} has not been fetched",
                fix="fetch it first, with a network",
            )

    def _place_sound(self, pin: GitPin, item: Submodule, new: Path) -> None:
        """Put a repository's tree where it belongs, of a repository that is fetched anew where it is damaged."""
        try:
            self._place(item, new)
        except PinError as error:
            if self._keep:
                raise
            self._shelf.listener(Notice(text=f"{error.what}: it is fetched anew", level="warning"))
            self.fetch(pin)
            self._place(item, new)

    def _place(self, item: Submodule, new: Path) -> None:
        """Put a repository's tree into the empty folder that the tree above it has there.

        Raises:
            PinError: the repository is damaged; it is gone now, unless it is to be kept.
        """
        archive, part, inner = new / f"{item.name}.tar.gz", new / "part", PurePosixPath("tree", item.path)
        words = ("archive", "--format=tar.gz", "-1", f"--prefix={inner}/", f"--output={archive}", item.commit)
        with self._shelf.locked(item, is_stopping) as repository:
            info = repository / "info"
            info.mkdir(exist_ok=True)
            (info / "attributes").write_text(ATTRIBUTES, encoding="utf-8")
            try:
                self._git.local(repository, *words)
            except CommandError as error:
                if error.status < 0 or self._git.sound(repository):  # git was ended, or lacks something else
                    raise
                if not self._keep:
                    shutil.rmtree(repository)
                raise PinError(
                    f"what was here of {item.title} is damaged",
                    why=f"{repository.name}: {said(error)}",
                    fix=f"remove {repository}, and run `invoke fetch` with a network"
                    if self._keep
                    else "it was removed; run the same command again to fetch it anew",
                ) from error
        unpack(archive, part)
        (part / inner).replace(new / inner)
        shutil.rmtree(part)
        archive.unlink()


@dataclass(frozen=True, kw_only=True)
class _Shelf:
    """Where each upstream's repository is, and who uses it."""

    root: Path
    git: Git
    listener: Listener

    def path(self, item: Submodule) -> Path:
        """Return the folder of a repository."""
        return self.root / f"{item.name}-{hashlib.sha256(stem(item.url).encode()).hexdigest()[:16]}.git"

    def whole(self, item: Submodule) -> bool:
        """Return whether a commit is here with all that belongs to it."""
        return self.git.whole(self.path(item), item.commit)

    @contextmanager
    def locked(self, item: Submodule, halted: Callable[[], bool]) -> Iterator[Path]:
        """Hold a repository against other runs; a dead run's lock is free."""
        repository = self.path(item)
        lock = self.root / ".locks" / repository.name
        with held(lock, f"another run's use of {item.name}", self.listener, halted):
            yield repository

    def prepare(self, repository: Path) -> None:
        """Make a repository, or mend it: a server leaves out whatever a repository claims to have."""
        if repository.is_dir():
            tidy(repository)
            if not self.git.whole(repository, "--all"):
                shutil.rmtree(repository)
        if not repository.is_dir():
            new = repository.with_name(f".new-{repository.name}")
            shutil.rmtree(new, ignore_errors=True)
            self.git.local(new, "init", "--quiet", "--bare", "--template=")
            new.replace(repository)


@dataclass(frozen=True, kw_only=True)
class _Fetcher:
    """Brings commits from wherever the mirror says they are; `halted` says that it is over."""

    shelf: _Shelf
    mirror: Mirror
    sleep: Callable[[float], None]
    tag: str
    halted: Callable[[], bool]

    def bring(self, items: Sequence[Submodule]) -> None:
        """Fetch commits of one repository, unless another run has done so meanwhile."""
        with disk_errors(self.shelf.root), self.shelf.locked(items[0], self.halted) as repository:
            for item in items:
                if not self.shelf.whole(item):
                    self.shelf.prepare(repository)
                    self._obtain(item, repository)

    def look_at_tag(self, item: Submodule) -> None:
        """Say so if the upstream means another commit by the tag; if not, hardly anything is transferred."""
        name = f"refs/tags/{self.tag}"
        with self.shelf.locked(item, self.halted) as repository:
            try:
                self._ask(item, *FETCH, REMOTE, f"+{name}:{name}")
                commit = self.shelf.git.local(repository, "rev-parse", f"{name}^{{}}")
            except RemoteError as error:
                text = f"the tag {self.tag} of {item.name} cannot be looked at ({error.reason})"
            else:
                if commit == item.commit:
                    return
                text = f"the tag {self.tag} of {item.name} is at {commit} now"
            finally:
                tidy(repository)
        self.shelf.listener(Notice(text=f"{text}; the pinned commit {item.commit} is used", level="warning"))

    def _obtain(self, item: Submodule, repository: Path) -> None:
        try:
            self._fetch(item)
        except RemoteError as error:
            raise NetworkError(
                f"{item.title} could not be fetched",
                why=f"{self._place(item)}: {error.reason}",
                fix="run the same command again: what is whole is kept",
            ) from error
        finally:
            tidy(repository)

    def _fetch(self, item: Submodule) -> None:
        """Fetch a commit by its id, or from a server that refuses that, by a name that it has there."""
        try:
            self._pull(item, item.commit)
        except RemoteError as error:
            if item.commit not in error.reason:
                raise
            self._pull(item, self._name_of(item, error))
        if not self.shelf.whole(item):
            raise RemoteError("it did not send all that belongs to the commit")

    def _pull(self, item: Submodule, what: str) -> None:
        """Fetch something, patiently; a server that names the commit lacks it or keeps it to itself."""
        words = (*FETCH, REMOTE, f"+{what}:refs/pins/{item.commit}")
        for pause in RETRY_PAUSES:
            try:
                return self._transfer(item, *words)
            except RemoteError as error:
                if not error.passing or item.commit in error.reason:
                    raise
            self.sleep(pause)
        return self._transfer(item, *words)

    def _name_of(self, item: Submodule, refusal: RemoteError) -> str:
        """Return a branch or a tag that is at a commit.

        Raises:
            PinError: there is none.
        """
        names: dict[str, str] = {}
        for line in self._ask(item, "ls-remote", "--heads", "--tags", REMOTE).splitlines():
            commit, _, name = line.partition("\t")
            names[name.removesuffix("^{}")] = commit  # of an annotated tag, a second line has the commit
        for name, commit in names.items():
            if commit == item.commit:
                return name
        reason = f"{self._place(item)}: {refusal.reason}"
        if not item.path:
            now = names.get(f"refs/tags/{self.tag}")
            reason += f"; the tag {self.tag} is at {now} there" if now else f"; there is no tag {self.tag} there"
        raise PinError(
            f"{item.title}: commit {item.commit} cannot be had",
            why=reason,
            fix="a mirror may be behind its upstream: have it updated, or leave it out; "
            "if the upstream itself took the commit away, find out why before you pin another",
        )

    def _transfer(self, item: Submodule, *words: str) -> None:
        """Have something sent, and tell how much of it has come."""
        received = 0

        def hear(line: str) -> None:
            nonlocal received
            found = RECEIVED.search(line)
            if found:
                received = int(float(found[1]) * UNITS[found[2]])
                self.shelf.listener(DownloadProgress(filename=item.name, done=received, total=0))

        self._ask(item, *words, on_line=hear)
        if received:
            self.shelf.listener(DownloadProgress(filename=item.name, done=received, total=received, finished=True))

    def _ask(self, item: Submodule, *words: str, on_line: Callable[[str], None] = lambda _line: None) -> str:
        """Put a question to a repository's server."""
        address, repository = self.mirror.rewrite(item.url), self.shelf.path(item)
        try:
            return self.shelf.git.remote(repository, address, *words, on_line=on_line, halted=self.halted)
        except RemoteError as error:
            if "fsck error" in error.reason:
                raise _dishonest(item, error.reason) from error
            raise

    def _place(self, item: Submodule) -> str:
        return redact(self.mirror.rewrite(item.url))


def tidy(repository: Path) -> None:
    """Remove what a git that was killed leaves behind."""
    for pattern in LEFTOVERS:
        for path in repository.glob(pattern):
            path.unlink()


def resolve(url: str, base: str) -> str:
    """Return the address that .gitmodules means: a relative one starts at that of the repository that it is in.

    Nothing is returned for one that leads out of the host, or out of the file system.
    """
    found = ADDRESS.fullmatch(base)
    if found is None or not url.startswith(("./", "../")):
        return url
    folders = found["path"].strip("/").split("/")
    while url.startswith(("./", "../")):
        step, _, url = url.partition("/")
        if step == ".." and not folders:
            return ""
        folders = folders[:-1] if step == ".." else folders
    return found["place"] + "/".join([*folders, url])


def _top(pin: GitPin) -> Submodule:
    return Submodule(path="", url=pin.url, commit=pin.commit)


def _part(item: Submodule, path: str, url: str, commit: str) -> Submodule:
    part = Submodule(path=str(PurePosixPath(item.path, path)), url=resolve(url, item.url), commit=commit)
    _demand_honest(part, local=item.url.startswith("file:"))
    return part


def _demand_honest(item: Submodule, *, local: bool) -> None:
    """Refuse to give git what it should not be given; folders of this machine only where the tree is from one."""
    reason = fault(item.url)
    if not reason and item.url.startswith("file:") and not local:
        reason = "it is a folder of this machine"
    if reason:
        raise _dishonest(item, f"its address {redact(item.url)!r} is refused: {reason}")
    if not COMMIT.fullmatch(item.commit):
        raise _dishonest(item, f"{item.commit!r} names no commit by 40 hex digits")


def _dishonest(item: Submodule, why: str) -> PinError:
    return PinError(
        f"{item.title} cannot be used",
        why=why,
        fix="find out what happened to this upstream; correct the pin, if it is that",
    )
