"""Package indexes: which of the pinned files are offered, and where."""

from __future__ import annotations

import hashlib
import logging
import posixpath
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from unearth import Link
from unearth.collector import collect_links_from_location

from mmstack.errors import HostError, MmstackError, NetworkError, PinError
from mmstack.model import FilePin
from mmstack.sources.places import Offer, PlaceError, redact, wheel_rank
from mmstack.sources.web import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from unearth.fetchers import Fetcher

    from mmstack.model import LockedRequirement
    from mmstack.sources.settings import IndexSettings

SHOWN_FILES = 8

# What unearth has to say reaches the user as our errors; it must not print besides.
logging.getLogger("unearth").addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What a place lists, or why it could not be asked."""

    links: tuple[Link, ...] = ()
    trouble: str = ""


class Index:
    """All places that the user's settings name, asked as one.

    Every page is fetched once. Files are pinned by digest, so it does not matter which place
    they come from; a place that cannot be asked is an error only where a wanted file is found
    nowhere else, for then it might have been there.
    """

    def __init__(self, settings: IndexSettings, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.settings = settings
        self.web = Web(settings, sleep=sleep)
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._answers: dict[str, _Answer] = {}

    def close(self) -> None:
        """Give the connections back."""
        self.web.close()

    @property
    def troubles(self) -> tuple[str, ...]:
        """Return which places could not be asked so far and why, errors or not."""
        with self._lock:
            return tuple(answer.trouble for answer in self._answers.values() if answer.trouble)

    @property
    def fix(self) -> str:
        """Return what to do about a place that cannot be asked."""
        origins = ", ".join(self.settings.origins) or "the defaults of uv and pip"
        return (
            f"check the network, the proxy and the package-index settings (from {origins}); "
            "`build-stack --offline` makes do with what is already downloaded"
        )

    def locate(self, project: str, pins: Sequence[FilePin]) -> dict[FilePin, Offer]:
        """Return which of these files are offered; those that are not are left out.

        Raises:
            PinError: a file is offered, but nowhere with the pinned digest.
            NetworkError: a file was not found, and a place that may have it could not be asked.
        """
        links, troubles = self._listing(project)
        offers: dict[FilePin, Offer] = {}
        for pin in pins:
            named = [link for link in links if _filename(link) == pin.filename]
            offer = _offer(pin, named)
            if offer is not None:
                offers[pin] = offer
            elif named:
                raise _mismatch(pin.filename, (pin.sha256,), named)
        if troubles and len(offers) < len(set(pins)):
            raise self._unreachable(project, troubles)
        return offers

    def choose(self, requirement: LockedRequirement, tags: Sequence[str]) -> Offer:
        """Return the best of the locked wheels that suits an interpreter with these tags, best first.

        Raises:
            PinError: wheels that suit are offered, but nowhere with a locked digest.
            NetworkError: none was found, and a place could not be asked or none has this version.
            HostError: there are wheels of this version, but none for this interpreter.
        """
        links, troubles = self._listing(requirement.name)
        ranks = {tag: rank for rank, tag in enumerate(tags)}
        suitable = {}
        for link in links:
            rank = wheel_rank(_filename(link), requirement, ranks)
            if rank is not None:
                suitable[_filename(link)] = rank
        for filename in sorted(suitable, key=lambda name: (suitable[name], name)):
            offer = self._locked(filename, requirement, [link for link in links if _filename(link) == filename])
            if offer is not None:
                return offer
        if troubles:
            raise self._unreachable(requirement.name, troubles)
        if suitable:
            best = min(suitable, key=lambda name: suitable[name])
            raise _mismatch(best, requirement.sha256, [link for link in links if _filename(link) == best])
        raise self._unsuitable(requirement, links)

    def size_of(self, offer: Offer) -> int | None:
        """Return the size of an offered file, if any of its places says so."""
        if offer.size is not None:
            return offer.size
        sizes = (self.web.size(url) for url in offer.urls)
        return next((size for size in sizes if size is not None), None)

    def _locked(self, filename: str, requirement: LockedRequirement, links: Sequence[Link]) -> Offer | None:
        for link in sorted(links, key=lambda link: not _listed(link)):  # one without is read whole
            digest = self._digest(link, requirement.sha256)
            if digest in requirement.sha256:
                return _offer(FilePin(filename=filename, sha256=digest), links)
        return None

    def _digest(self, link: Link, accepted: tuple[str, ...]) -> str:
        """Return a link's digest: listed, or the only one that counts, or read from the file."""
        listed = _listed(link)
        if listed or (len(accepted) == 1 and not link.is_file):
            return listed or accepted[0]
        digest = hashlib.sha256()
        try:
            with self.web.open(link.url_without_fragment) as body:
                for chunk in body.chunks:
                    digest.update(chunk)
        except PlaceError as error:
            raise self._unreachable(_filename(link), [f"{redact(link.url)}: {error.reason}"]) from None
        return digest.hexdigest()

    def _listing(self, project: str) -> tuple[list[Link], list[str]]:
        pages = [posixpath.join(url, canonicalize_name(project), "") for url in self.settings.index_urls]
        answers = [
            *(self._ask(url, expand=True) for url in self.settings.find_links),
            *(self._ask(url, expand=False) for url in pages),
        ]
        return [link for answer in answers for link in answer.links], [
            answer.trouble for answer in answers if answer.trouble
        ]

    def _ask(self, url: str, *, expand: bool) -> _Answer:
        with self._lock:
            turn = self._turns.setdefault(url, threading.Lock())
        with turn:
            if url not in self._answers:
                answer = self._fetch(Link(url), expand=expand)
                with self._lock:
                    self._answers[url] = answer
            return self._answers[url]

    def _fetch(self, place: Link, *, expand: bool) -> _Answer:
        try:
            # unearth's own client is no Fetcher to the letter of the type either
            links = tuple(collect_links_from_location(cast("Fetcher", self.web), place, expand=expand))
            schemes = {link.parsed.scheme for link in links}  # of a malformed address, an error
        except PlaceError as error:
            return _Answer() if error.missing else _Answer(trouble=f"{redact(place.url)}: {error.reason}")
        except OSError as error:
            return _Answer(trouble=f"{redact(place.url)}: {error.strerror}")
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            return _Answer(trouble=f"{redact(place.url)}: it answered with a page that cannot be read")
        allowed = {"https": {"https"}, "http": {"http", "https"}}.get(place.parsed.scheme, {"file", "http", "https"})
        kept = tuple(link for link in links if link.parsed.scheme in allowed)
        if len(kept) < len(links):
            others = sorted(schemes - allowed)
            return _Answer(links=kept, trouble=f"{redact(place.url)}: it lists files by {', '.join(others)}, refused")
        return _Answer(links=kept)

    def _unreachable(self, project: str, troubles: Iterable[str]) -> NetworkError:
        return NetworkError(
            f"the package index could not be asked for {project}", why="; ".join(troubles), fix=self.fix
        )

    def _unsuitable(self, requirement: LockedRequirement, links: Iterable[Link]) -> MmstackError:
        what = f"{requirement.name} {requirement.version}"
        names = dict.fromkeys(_filename(link) for link in links)
        offered = [name for name in names if _is_release(name, requirement)]
        if not offered:
            return NetworkError(f"no configured place offers {what}", why="all of them answered", fix=self.fix)
        more = ", …" if len(offered) > SHOWN_FILES else ""
        return HostError(
            f"{what} has no wheel for this interpreter",
            why=f"offered: {', '.join(offered[:SHOWN_FILES])}{more}",
            fix="choose another Python with --python",
        )


def _is_release(filename: str, requirement: LockedRequirement) -> bool:
    stem = filename.removesuffix(".tar.gz").removesuffix(".zip")
    parts = stem.split("-") if filename.endswith(".whl") else stem.rsplit("-", 1)
    try:
        return canonicalize_name(parts[0]) == canonicalize_name(requirement.name) and (
            Version(parts[1]) == Version(requirement.version)
        )
    except (IndexError, InvalidVersion):
        return False


def _filename(link: Link) -> str:
    return posixpath.basename(unquote(link.parsed.path))


def _listed(link: Link) -> str:
    """Return the sha256 that a page gives for a link, or nothing: unearth takes its word for what hashes are."""
    try:
        found: object = (link.hash_option or {}).get("sha256", [""])[0]
    except AttributeError:
        return ""
    return found.lower() if isinstance(found, str) else ""


def _offer(pin: FilePin, links: Iterable[Link]) -> Offer | None:
    urls = [link.url_without_fragment for link in links if _listed(link) in {"", pin.sha256}]
    return Offer(pin=pin, urls=tuple(dict.fromkeys(urls))) if urls else None


def _mismatch(filename: str, expected: Sequence[str], links: Iterable[Link]) -> PinError:
    places = "; ".join(f"{redact(link.url)} has {_listed(link) or 'another'}" for link in links)
    return PinError(
        f"{filename} is offered with another sha256 than the pinned one",
        why=f"pinned: {', '.join(expected)}; {places}",
        fix="find out who changed the file; if the change is right, pin the new digest",
    )
