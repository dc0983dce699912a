"""Through the front door: builds with the network cut, by the user and by `--hermetic`."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import no_namespaces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import Checkout

pytestmark = pytest.mark.skipif(bool(no_namespaces()), reason=no_namespaces() or "none")
CUT = ("unshare", "--map-root-user", "--net")
ASKS = """
import socket
from setuptools import setup
with socket.create_connection(("127.0.0.1", {port})) as asked:
    print("the answer is", asked.recv(9).decode())
setup()
"""


@contextmanager
def answering() -> Iterator[int]:
    """Yield the port of a server of this machine that greets whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    came, _ = server.accept()
                except OSError:
                    return
                with came:
                    came.sendall(b"42")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_what_was_fetched_is_built_with_the_network_cut(fresh: Checkout) -> None:
    """`fetch`, then no network at all, then `build-stack --offline` ends well."""
    done = fresh.invoke("fetch", "--stack", "mini", "--json")
    assert done.code == 0, done.text
    assert json.loads(done.out)["fetched"]["stack"] == "mini"
    done = fresh.build("--offline", before=CUT)
    assert done.code == 0, done.text
    assert "stack mini is built and verified" in done.text


def test_a_stack_is_built_and_verified_without_a_network(fresh: Checkout, golden: Checkout) -> None:
    """Every step but fetch is cut off, and makes what it makes otherwise."""
    done = fresh.build("--hermetic", "--locked")
    assert done.code == 0, done.text
    assert fresh.manifest()["verdict"] == "verified"
    assert fresh.wheels() == golden.wheels()


def test_a_build_that_asks_another_is_found_out(fresh: Checkout) -> None:
    """It asks a server of this machine: with a network it gets its answer, without one the step fails by name."""
    with answering() as port:

        def ask(tree: Path) -> None:
            (tree / "setup.py").write_text(ASKS.format(port=port), encoding="utf-8")

        fresh.publish("top", ask)
        done = fresh.build("--hermetic")
        assert done.code == 1, done.text
        assert "step 'build top' tried to reach the network" in done.text
        assert "ConnectionRefusedError" in done.text
        (log,) = (fresh.state / "logs").glob("top-*.log")
        assert "ConnectionRefusedError" in log.read_text(encoding="utf-8")
        done = fresh.build()
        assert done.code == 0, done.text
        assert "the answer is 42" in log.read_text(encoding="utf-8")


def test_what_was_made_with_a_network_is_not_carried_on_with(fresh: Checkout) -> None:
    """A run that had one has built a wheel that asked for something; without one it is built from the start."""
    with answering() as port:

        def ask(tree: Path) -> None:
            (tree / "setup.py").write_text(ASKS.format(port=port), encoding="utf-8")

        fresh.publish("top", ask)
        done = fresh.build("--stop-after", "build")
        assert done.code == 0, done.text
        done = fresh.build("--hermetic")
    assert done.code == 1, done.text
    assert "step 'build top' tried to reach the network" in done.text


def test_other_machines_are_not_asked_by_a_build_without_a_network(fresh: Checkout) -> None:
    """Refused before anything is fetched."""
    done = fresh.build("--hermetic", "--distribute", "icecc")
    assert done.code == 2, done.text
    assert "`--hermetic` cuts every build off" in done.text
    assert not (fresh.state / "downloads").exists()
