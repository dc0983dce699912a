"""Downloads by content: every file in the folder of its sha256, whole or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from mmstack.digests import Digests
from mmstack.errors import NetworkError, PinError
from mmstack.events import DownloadProgress, Notice, ignore
from mmstack.model import FilePin
from mmstack.run import interrupted
from mmstack.sources.crew import at_once
from mmstack.sources.places import CHUNK, RETRY_PAUSES, PlaceError, redact, wheel_rank
from mmstack.store import disk_errors, held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mmstack.events import Event, Listener
    from mmstack.model import LockedRequirement
    from mmstack.sources.index import Index
    from mmstack.sources.places import Offer

AT_ONCE = 8
LEAP = 1 << 20
PROGRESS_SECONDS = 0.1


class Downloads:
    """The folder of downloaded files, shared by all runs.

    A file that is there has passed its check, and counts only while it still would. What an interrupted
    download brought stays beside it as `<filename>.part`, and the next one continues it.

    Args:
        root: the folder.
        sleep: how to wait between attempts.
        listener: who is told of a file that is no longer what its pin says.
        digests: what is known of the files.
        strict: refuse such a file, instead of downloading it anew.
    """

    def __init__(
        self,
        root: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        listener: Listener = ignore,
        digests: Digests | None = None,
        strict: bool = False,
    ) -> None:
        self.root = root
        self.digests = digests or Digests(root.parent / "digests")
        self._sleep = sleep
        self._listener = listener
        self._strict = strict
        self._told: set[FilePin] = set()
        self._stopped = threading.Event()

    def path(self, pin: FilePin) -> Path:
        """Return where a file is or will be."""
        return self.root / pin.sha256 / pin.filename

    def has(self, pin: FilePin) -> bool:
        """Return whether a file is here, and is what its pin says; another is told of.

        Raises:
            PinError: it is not, and we are strict.
        """
        path = self.path(pin)
        try:
            found = self.digests.of(path, pin.sha256)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            found = f"nothing that can be read ({error.strerror})"
        if found != pin.sha256:
            self._damaged(pin, found)
        return found == pin.sha256

    def _damaged(self, pin: FilePin, found: str) -> None:
        what, why = f"{pin.filename} is not what was downloaded", f"expected sha256 {pin.sha256}, here is {found}"
        if self._strict:
            raise PinError(what, why=why, fix=f"remove {self.path(pin)} and run `invoke fetch`")
        if pin not in self._told:
            self._told.add(pin)
            self._listener(Notice(text=f"{what}, and does not count: {why}", level="warning"))

    def find(self, requirement: LockedRequirement, tags: Sequence[str]) -> FilePin | None:
        """Return the best wheel that is here of those a requirement allows; asks no network."""
        ranks = {tag: rank for rank, tag in enumerate(tags)}
        best: dict[FilePin, tuple[int, int]] = {}
        for digest in requirement.sha256:
            for path in (self.root / digest).glob("*.whl"):
                pin = FilePin(filename=path.name, sha256=digest)
                rank = wheel_rank(path.name, requirement, ranks)
                if rank is not None and self.has(pin):
                    best[pin] = rank
        return min(best, key=lambda pin: (best[pin], pin.filename), default=None)

    def stop(self) -> None:
        """Make every `fetch` end with an InterruptedRunError, from any thread."""
        self._stopped.set()

    def fetch(self, offers: Sequence[Offer], index: Index, listener: Listener) -> None:
        """Download all that is not here yet, several at a time; the first failure ends it.

        Raises:
            PinError: no place has the file that the pin means.
            NetworkError: a file could not be had from any of its places.
            DiskError: the disk is full, read-only or not ours to write.
            InterruptedRunError: we are stopping.
        """
        wanted = {offer.pin: offer for offer in offers if not self.has(offer.pin)}
        halt = threading.Event()
        crew = _Crew(self, index, listener, lambda: halt.is_set() or self._stopped.is_set(), self._sleep)
        at_once(crew.fetch, wanted.values(), workers=AT_ONCE, stopped=self._stopped.is_set, halt=halt)


def out_of_reach(names: Sequence[str]) -> NetworkError:
    """Return the error of an offline run that needs what is not here."""
    what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    return NetworkError(
        f"{what} is needed, is not here, and `--offline` forbids to fetch it",
        why=", ".join(names) if len(names) > 1 else "",
        fix="run without `--offline`, or `invoke fetch` first",
    )


class _Crew:
    """What the threads of one `fetch` share."""

    def __init__(
        self,
        downloads: Downloads,
        index: Index,
        listener: Listener,
        halted: Callable[[], bool],
        sleep: Callable[[float], None],
    ) -> None:
        self.downloads = downloads
        self.index = index
        self.listener = listener
        self.halted = halted
        self.sleep = sleep
        self.speaking = threading.Lock()

    def say(self, event: Event) -> None:
        """Tell the listener, one thread at a time, and nothing more once it is over."""
        with self.speaking:
            if not self.halted():
                self.listener(event)

    def fetch(self, offer: Offer) -> None:
        """Bring one file, unless another run has brought it meanwhile."""
        path = self.downloads.path(offer.pin)
        part = path.with_name(f"{path.name}.part")
        with disk_errors(self.downloads.root), self.locked(offer.pin):
            if not self.downloads.has(offer.pin):
                path.parent.mkdir(exist_ok=True)
                try:
                    self.from_places(offer, part)
                    part.replace(path)
                except OSError:
                    # Most likely the disk is full: leave it no fuller than it was.
                    with suppress(OSError):
                        part.unlink()
                    raise
                finally:
                    _tidy(part)
            size = path.stat().st_size
        self.say(DownloadProgress(filename=offer.pin.filename, done=size, total=size, finished=True))

    @contextmanager
    def locked(self, pin: FilePin) -> Iterator[None]:
        """Hold a digest against other runs; a dead run's lock is free."""
        what = f"another download of {pin.filename}"
        with held(self.downloads.root / ".locks" / pin.sha256, what, self.say, self.halted):
            yield

    def from_places(self, offer: Offer, part: Path) -> None:
        """Fill the part from the first place that has the right file."""
        reasons: list[str] = []
        wrong: PinError | None = None
        for url in offer.urls:
            if reasons:
                self.say(Notice(text=f"{reasons[-1]}; trying the next place", level="warning"))
            try:
                self.from_place(offer.pin, url, part)
            except PlaceError as error:
                reasons.append(f"{redact(url)}: {error.reason}")
            except PinError as error:
                wrong = wrong or error
                reasons.append(error.why)
            else:
                return
        raise wrong or NetworkError(
            f"{offer.pin.filename} could not be downloaded", why="; ".join(reasons), fix=self.index.fix
        )

    def from_place(self, pin: FilePin, url: str, part: Path) -> None:
        """Fill the part from one place, patiently: only failures without progress are counted."""
        failures, restarted, etags = 0, False, [""]
        while True:
            before = _size(part)
            try:
                digest, sized = self.attempt(pin, url, part, etags)
            except PlaceError as error:
                if error.stale:
                    part.unlink()
                failures = 1 if _size(part) - before >= LEAP else failures + 1
                if not error.passing or failures > len(RETRY_PAUSES):
                    raise
                self.sleep(RETRY_PAUSES[failures - 1])
                continue
            if digest == pin.sha256:
                return
            part.unlink()
            # Bytes of an earlier attempt may be to blame, or an end that came early where no length was told:
            # once, all of them are fetched anew.
            if restarted or (sized and not before):
                raise _wrong(pin, url, digest)
            restarted = True

    def attempt(self, pin: FilePin, url: str, part: Path, etags: list[str]) -> tuple[str, bool]:
        """Append to the part until its end; return its digest, and whether the place told how long it is."""
        with part.open("a+b") as sink:
            hasher = _digest(sink)
            if hasher.hexdigest() == pin.sha256:
                return pin.sha256, True
            with self.index.web.open(url, sink.tell(), etags[-1]) as body:
                etags.append(body.etag)
                if body.start != sink.tell():
                    sink.truncate(body.start)
                    hasher = hashlib.sha256()
                spoken = 0.0
                for chunk in body.chunks:
                    if self.halted():
                        raise interrupted()
                    sink.write(chunk)
                    hasher.update(chunk)
                    if time.monotonic() - spoken >= PROGRESS_SECONDS:
                        self.say(DownloadProgress(filename=pin.filename, done=sink.tell(), total=body.total))
                        spoken = time.monotonic()
            sink.flush()
            os.fsync(sink.fileno())
        return hasher.hexdigest(), body.total > 0


def _digest(stream: IO[bytes]) -> hashlib._Hash:
    stream.seek(0)
    hasher = hashlib.sha256()
    while chunk := stream.read(CHUNK):
        hasher.update(chunk)
    return hasher


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tidy(part: Path) -> None:
    """Remove what holds nothing."""
    if part.exists() and not _size(part):
        part.unlink()
    with suppress(OSError):
        part.parent.rmdir()


def _wrong(pin: FilePin, url: str, digest: str) -> PinError:
    return PinError(
        f"{pin.filename} is not the file that its pin means",
        why=f"expected sha256 {pin.sha256}, got {digest} from {redact(url)}",
        fix="the download was thrown away; find out who changed the file, or correct the pin if the change is right",
    )
