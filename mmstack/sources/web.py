"""Addresses and what they answer: http, https and file, with the user's proxy, certificates and credentials."""

from __future__ import annotations

import re
import ssl
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2
from unearth import Link
from unearth.auth import MultiDomainBasicAuth
from unearth.collector import SUPPORTED_CONTENT_TYPES
from unearth.fetchers import PyPIClient

from mmstack.errors import CatalogError
from mmstack.sources.places import CHUNK, RETRY_PAUSES, PlaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mmstack.sources.settings import IndexSettings

MAX_REDIRECTS = 10
SIZE = re.compile(r"\d{1,18}", re.ASCII)
RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)
PASSING_STATUS = frozenset({408, 425, 429, *range(500, 600)})
MISSING_STATUS = frozenset({404, 410})
PASSING_ERRORS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ProxyError)


@dataclass(frozen=True, kw_only=True)
class Body:
    """The bytes of a file from `start` on; `total` is the size of the whole file, 0 if unknown."""

    start: int
    total: int
    etag: str
    chunks: Iterator[bytes] = field(repr=False)


class Web:
    """An HTTP client that honours the user's settings, and files by the same way.

    It is what unearth calls a fetcher. Every origin counts as secure: what comes from it is
    held against a pinned digest.
    """

    def __init__(self, settings: IndexSettings, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._timeout = settings.timeout
        try:
            self._client = PyPIClient(
                trusted_hosts=settings.trusted_hosts,
                verify=_context(settings),
                proxy=settings.proxy or None,
                timeout=settings.timeout,
                follow_redirects=True,
                max_redirects=MAX_REDIRECTS,
                auth=MultiDomainBasicAuth(prompting=False, index_urls=[*settings.index_urls, *settings.find_links]),
                event_hooks={"response": [_refuse_downgrade]},
            )
        except (ValueError, httpx2.InvalidURL):
            raise CatalogError(
                "the configured proxy has a malformed address",
                why="it must be http://host:port and the like",
                fix=f"correct it; the settings come from {', '.join(settings.origins)}, *_PROXY variables count too",
            ) from None

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """Return a page, trying again where that may help.

        Raises:
            PlaceError: there is no such page, or the place does not answer as it should.
        """
        return retried(lambda: self._page(url, headers), self._sleep)

    def head(self, url: str, *, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """Return what a place says about a file without sending it."""
        with self._errors():
            return self._client.head(url, headers=headers, follow_redirects=True)

    @contextmanager
    def get_stream(self, url: str, *, headers: Mapping[str, str] | None = None) -> Iterator[httpx2.Response]:
        """Return an answer whose body is still to come."""
        with self._errors(), self._client.stream("GET", url, headers=headers) as response:
            _check_status(response)
            yield response

    def iter_secure_origins(self) -> Iterable[tuple[str, str, str]]:
        """Trust every origin."""
        return (("*", "*", "*"),)

    @contextmanager
    def open(self, url: str, start: int = 0, etag: str = "") -> Iterator[Body]:
        """Open a file for reading from `start` on, or from its beginning if the place cannot do that.

        Raises:
            PlaceError: the place does not answer as it should, now or while it is read.
        """
        link = Link(url)
        if link.is_file:
            with _open_local(link, start) as body:
                yield body
            return
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if etag and not etag.startswith("W/"):
                headers["If-Range"] = etag
        with self.get_stream(url, headers=headers) as response:
            yield _body(response, start)

    def size(self, url: str) -> int | None:
        """Return how large a file is, if the place says so."""
        link = Link(url)
        try:
            if link.is_file:
                return link.file_path.stat().st_size
            response = self.head(url, headers={"Accept-Encoding": "identity"})
        except (PlaceError, OSError, ValueError):
            return None
        length = response.headers.get("Content-Length", "")
        return int(length) if response.is_success and length.isdigit() else None

    def _page(self, url: str, headers: Mapping[str, str] | None) -> httpx2.Response:
        with self._errors():
            response = self._client.get(url, headers=headers)
            _check_status(response)
        kind = response.headers.get("Content-Type", "nothing")
        if not kind.lower().startswith(SUPPORTED_CONTENT_TYPES):
            raise PlaceError(f"it answered with {kind}, which is no page of an index")
        return response

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx2.InvalidURL:
            raise PlaceError("its address is malformed") from None
        except httpx2.TooManyRedirects:
            raise PlaceError(f"it redirects more than {MAX_REDIRECTS} times") from None
        except httpx2.TimeoutException:
            raise PlaceError(f"no answer within {self._timeout:g} s", passing=True) from None
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise PlaceError(reason, passing=isinstance(error, PASSING_ERRORS)) from None


def retried(action: Callable[[], httpx2.Response], sleep: Callable[[float], None]) -> httpx2.Response:
    """Do it; after a failure that may pass, do it again after each of `RETRY_PAUSES`."""
    for pause in RETRY_PAUSES:
        try:
            return action()
        except PlaceError as error:
            if not error.passing:
                raise
        sleep(pause)
    return action()


def _context(settings: IndexSettings) -> ssl.SSLContext | bool:
    bundle = settings.ca_bundle
    if bundle is None:
        return True
    try:
        if bundle.is_dir():
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise CatalogError(
            f"the certificates in {bundle} cannot be used", why=str(error), fix="name a PEM file or a folder of them"
        ) from error


def _refuse_downgrade(response: httpx2.Response) -> None:
    """Follow redirects from http to https, never from https to http, nor to a file."""
    if not response.has_redirect_location:
        return
    try:
        target = response.request.url.join(response.headers["Location"]).scheme
    except httpx2.InvalidURL:
        raise PlaceError("it redirects to a malformed address") from None
    if target not in {response.request.url.scheme, "https"}:
        raise PlaceError(f"it redirects from {response.request.url.scheme} to {target}, which is refused")


def _check_status(response: httpx2.Response) -> None:
    status = response.status_code
    if status == httpx2.codes.RANGE_NOT_SATISFIABLE:
        raise PlaceError("it cannot continue where we stopped", passing=True, stale=True)
    if not response.is_success:
        raise PlaceError(
            f"it answered {status} {response.reason_phrase}".strip(),
            passing=status in PASSING_STATUS,
            missing=status in MISSING_STATUS,
        )


def _body(response: httpx2.Response, start: int) -> Body:
    length = response.headers.get("Content-Length", "")
    total = int(length) if SIZE.fullmatch(length) else 0
    begin = 0
    if response.status_code == httpx2.codes.PARTIAL_CONTENT:
        match = RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != start:
            raise PlaceError("it answered with another part of the file than was asked for")
        begin, total = start, int(match[2]) if match[2] != "*" else 0
    return Body(start=begin, total=total, etag=response.headers.get("ETag", ""), chunks=response.iter_raw())


@contextmanager
def _open_local(link: Link, start: int) -> Iterator[Body]:
    try:
        stream = link.file_path.open("rb")
    except (OSError, ValueError) as error:
        raise PlaceError(f"it cannot be read: {getattr(error, 'strerror', error)}", missing=True) from None
    with stream:
        total = stream.seek(0, 2)
        begin = start if start < total else 0
        stream.seek(begin)
        yield Body(start=begin, total=total, etag="", chunks=_read(stream.read))


def _read(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while True:
        try:
            chunk = read(CHUNK)
        except OSError as error:
            raise PlaceError(f"it cannot be read: {error.strerror}") from None
        if not chunk:
            return
        yield chunk
