"""Proof that a build downloads nothing: every proxy that it is told of is ours, and writes down who asks for what."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING

from mmstack import hermetic
from mmstack.errors import GateError
from mmstack.words import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

# git's other transports heed no proxy, so they are forbidden; and who passes the proxy by has to find a host first
REFUSED = re.compile(r"transport '[\w+-]+' not allowed|Could not resolve host(?:name)?\b")
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Guard:
    """The variables that keep a command offline, and what it tried nevertheless."""

    variables: dict[str, str]
    attempts: list[str] = field(default_factory=list)

    def read(self, line: str) -> None:
        """Take note of a line that the command printed."""
        if REFUSED.search(line):
            self.attempts.append(line.strip())

    def check(self, who: str) -> None:
        """Demand that nothing was asked for.

        Raises:
            GateError: something was; each address is named.
        """
        if self.attempts:
            once = list(dict.fromkeys(self.attempts))
            raise GateError(
                f"{who} wants to download something while it is built",
                why=listed(once[:SHOWN], len(once)),
                fix="make it a part of the source, or switch off the flag that wants it",
            )


@contextmanager
def guard() -> Iterator[Guard]:
    """Yield what keeps a command offline; addresses are refused at once, so that nobody waits for an answer."""
    attempts: list[str] = []
    rules = {
        "GIT_ALLOW_PROTOCOL": "file:http:https",
        "GIT_CONFIG_NOSYSTEM": "1",  # may name another proxy
        "GIT_TERMINAL_PROMPT": "0",
    }
    if hermetic.step():  # no proxy can be reached, and the kernel itself counts who tries without
        yield Guard(variables=rules, attempts=attempts)
        return

    class Refusal(BaseHTTPRequestHandler):
        """Writes an address down and refuses it; CONNECT names the host alone."""

        def refuse(self) -> None:
            attempts.append(self.path)
            self.send_error(HTTPStatus.FORBIDDEN, "a build downloads nothing")

        do_CONNECT = do_GET = do_HEAD = do_POST = refuse  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_words: object) -> None:
            """Say nothing: whoever asked is told, and so is the user."""

    with ThreadingTCPServer(("127.0.0.1", 0), Refusal) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        names = [f"{kind}_proxy" for kind in ("http", "https", "ftp", "all")]
        try:
            yield Guard(
                variables={**dict.fromkeys([*names, *map(str.upper, names)], address), **rules},
                attempts=attempts,
            )
        finally:
            server.shutdown()
            thread.join()
