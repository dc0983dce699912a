"""A local package index that misbehaves on demand."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from mmstack.sources.index import Index
from mmstack.sources.settings import IndexSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Server:
    """What it serves, what it does wrong, and what it was asked.

    A fault is used up by one GET, unless it is there always: a status, `drop N` (close after N bytes), `no-range`,
    `other-range`, `wrong`, `unsized N` (no length, close after N bytes), `sleep S`,
    `meet` (go on when all who meet are there) or `to URL`.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    faults: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    always: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0
    release: threading.Event = field(default_factory=threading.Event)
    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def secret_url(self, user: str = "user:t0ken") -> str:
        """Return the address with credentials in it."""
        return self.url.replace("//", f"//{user}@")

    def add(self, path: str, body: bytes, kind: str = "application/octet-stream") -> str:
        """Serve a body and return its sha256."""
        self.files[path] = body
        self.types[path] = kind
        return hashlib.sha256(body).hexdigest()

    def page(self, project: str, links: dict[str, str]) -> None:
        """Serve an index page: address to sha256, which may be empty."""
        anchors = "".join(
            f'<a href="{url}{"#sha256=" + digest if digest else ""}">{url}</a>' for url, digest in links.items()
        )
        self.add(f"/simple/{project}/", f"<!DOCTYPE html><html><body>{anchors}</body></html>".encode(), "text/html")

    def count(self, path: str) -> int:
        """Return how often a path was asked for with GET."""
        return sum(method == "GET" and asked == path for method, asked, _ in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *_details: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        state, path = self.state, self.path.partition("?")[0]
        state.asked.append((self.command, path, self.headers.get("Range", "")))
        state.headers.append(dict(self.headers))
        fault = state.faults[path].pop(0) if state.faults[path] and body else state.always.get(path, "")
        word, _, value = fault.partition(" ")
        if word == "meet":
            self.state.meeting.wait()
        if word == "sleep":
            state.release.wait(float(value))
        if word == "to":
            self._head(302, {"Location": value, "Content-Length": "0"})
        elif word.isdigit() or path not in state.files:
            self._head(int(word or 404), {"Content-Length": "0"})
        else:
            self._file(state.files[path], word, int(value) if word in {"drop", "unsized"} else -1, body=body)

    def _file(self, content: bytes, word: str, limit: int, *, body: bool) -> None:
        etag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        if word == "wrong":
            content = bytes(255 - byte for byte in content)
        start = 0
        if (wanted := self.headers.get("Range")) and word != "no-range":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if self.headers.get("If-Range", etag) != etag:
                start = 0
        part = content[start:]
        headers = {"ETag": etag, "Content-Type": self.state.types[self.path.partition("?")[0]]}
        if word != "unsized":
            headers["Content-Length"] = str(len(part))
        if start:
            shown = start + (word == "other-range")
            whole = "9" * 5000 if word == "endless-range" else len(content)
            headers["Content-Range"] = f"bytes {shown}-{len(content) - 1}/{whole}"
        self._head(206 if start else 200, headers)
        if body:
            cut = part if limit < 0 else part[:limit]
            self.wfile.write(cut)
            self.wfile.flush()
            self.state.sent += len(cut)
            self.close_connection = limit >= 0 or word == "unsized"

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_details: object) -> None:
        """Expect clients to hang up."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Run a local HTTP server for one test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Server()
    http = _Quiet(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    state.release.set()
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def sleeps() -> list[float]:
    """Collect the pauses between attempts instead of waiting."""
    return []


@pytest.fixture
def make_index(sleeps: list[float]) -> Iterator[Callable[..., Index]]:
    """Return a maker of indexes that do not really wait; they are closed after the test."""
    made: list[Index] = []

    def make(*index_urls: str, find_links: tuple[str, ...] = (), timeout: float = 5.0) -> Index:
        settings = IndexSettings(
            index_urls=index_urls,
            find_links=find_links,
            ca_bundle=None,
            trusted_hosts=(),
            proxy="",
            timeout=timeout,
            origins=("UV_INDEX_URL",),
        )
        made.append(Index(settings, sleep=sleeps.append))
        return made[-1]

    yield make
    for index in made:
        with suppress(RuntimeError):
            index.close()


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture(name="wait_for")
def _wait_for() -> Callable[..., None]:
    return wait_for
