from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mmstack.errors import HostError, UsageError
from mmstack.model import Compiler
from mmstack.toolchains import distribution
from mmstack.toolchains.distribution import Network, check_configured, compiling, find, launching, spread
from tests.lab import free_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = " ours (127.0.0.1:10245) [x86_64] speed=1.00 jobs=0/2 load=9\n"
THEIRS = " theirs (10.0.0.2:10245) [x86_64] speed=0.00 jobs=1/8 load=1000\n"
CLIENT = " other (10.0.0.3:0) [x86_64] speed=0.00 jobs=0/4 load=1000\n"


class Lab:
    """A machine with icecc, whose daemon and scheduler a test starts as it likes."""

    def __init__(self, root: Path, open_: ExitStack, port: int) -> None:
        self.root, self.open, self.port = root, open_, port
        (root / "icecc").write_text("#!/bin/sh\n", encoding="utf-8")
        (root / "icecc").chmod(0o755)

    def daemon(self) -> None:
        """Start a daemon, which has a socket."""
        server = self.open.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(self.root / "d"))

    def scheduler(self) -> None:
        """Start a scheduler, to which the daemon is connected."""
        server = self.open.enter_context(socket.create_server(("127.0.0.1", self.port)))
        self.open.enter_context(socket.create_connection(("127.0.0.1", self.port)))
        self.open.enter_context(server.accept()[0])

    def answer(self, listing: str) -> None:
        """Let the scheduler list these machines to the next who asks."""
        server = self.open.enter_context(socket.create_server(("127.0.0.1", self.port + 1)))

        def serve() -> None:
            with server.accept()[0] as line:
                line.recv(100)
                line.sendall(f"200-ICECC 1.4.0: 7s uptime\n{listing}200 done\n".encode())

        threading.Thread(target=serve, daemon=True).start()

    def find(self, wish: str = "icecc") -> Network | None:
        """Look for the network."""
        return find(wish, {"PATH": str(self.root), "ICECC_TEST_SOCKET": str(self.root / "d")})


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A machine on which icecc is installed, and nothing started."""
    port = free_pair()
    monkeypatch.setattr(distribution, "SCHEDULER_PORT", port)
    monkeypatch.chdir(tmp_path)
    with ExitStack() as opened:
        yield Lab(tmp_path, opened, port)


def test_the_machines_that_take_work_are_counted(lab: Lab) -> None:
    """Not our own, whose cores are counted already, and not one that only gives."""
    lab.daemon()
    lab.scheduler()
    lab.answer(OURS + THEIRS + CLIENT)
    found = lab.find()
    assert found is not None
    assert (found.machines, found.slots) == (1, 8)
    assert found.socket == lab.root / "d"


def test_nothing_is_asked_where_nothing_is_wished(tmp_path: Path) -> None:
    """A build is not distributed by accident."""
    assert find("none", {"PATH": str(tmp_path)}) is None


def test_an_unknown_way_is_told(tmp_path: Path) -> None:
    """With the nearest that is known."""
    with pytest.raises(UsageError, match="no way 'icec'") as caught:
        find("icec", {"PATH": str(tmp_path)})
    assert "did you mean 'icecc'" in caught.value.fix


def test_a_machine_without_icecc_is_told(tmp_path: Path) -> None:
    """What to install is said."""
    with pytest.raises(HostError, match="icecc is not on this machine") as caught:
        find("icecc", {"PATH": str(tmp_path)})
    assert "apt-get install icecc" in caught.value.fix


def test_a_machine_without_its_daemon_is_told(lab: Lab) -> None:
    """By itself icecc would compile here and say nothing."""
    with pytest.raises(HostError, match="no icecc daemon runs") as caught:
        lab.find()
    assert "start `iceccd`" in caught.value.fix


def test_a_daemon_without_its_scheduler_is_told(lab: Lab) -> None:
    """By itself icecc would compile here and say nothing."""
    lab.daemon()
    with pytest.raises(HostError, match="has no scheduler"):
        lab.find()


def test_a_scheduler_that_does_not_answer_is_told(lab: Lab) -> None:
    """With its address and port: a firewall may be in between."""
    lab.daemon()
    lab.scheduler()
    with pytest.raises(HostError, match=r"scheduler on 127\.0\.0\.1 does not answer") as caught:
        lab.find()
    assert str(lab.port + 1) in caught.value.why


@pytest.mark.parametrize(
    ("listing", "what"), [(THEIRS, "is not in its network"), (OURS + CLIENT, "no other machine compiles")]
)
def test_a_network_that_serves_nobody_is_told(lab: Lab, listing: str, what: str) -> None:
    """One that does not know us, and one in which we are alone with those who only give."""
    lab.daemon()
    lab.scheduler()
    lab.answer(listing)
    with pytest.raises(HostError, match=what):
        lab.find()


def network(root: Path) -> Network:
    """Return some network."""
    return Network(program=Path("/usr/bin/icecc"), socket=root / "d", machines=1, slots=8)


def cached(program: str) -> dict[str, str]:
    """Return a compiler cache's variables."""
    return {f"CMAKE_{name}_COMPILER_LAUNCHER": f"/usr/bin/{program}" for name in ("C", "CXX", "CUDA")}


def test_a_compiler_cache_is_asked_before_the_network(tmp_path: Path) -> None:
    """What ccache does not have is handed on; without it C and C++ go straight there, and nvcc never."""
    alone, beside = launching(network(tmp_path), {}), launching(network(tmp_path), cached("ccache"))
    assert {name for name in alone if name.startswith("CMAKE_")} == set(distribution.LAUNCHERS)
    assert beside["CCACHE_PREFIX"] == "/usr/bin/icecc"
    assert not [name for name in beside if name.startswith("CMAKE_")]
    assert alone["ICECC"] == beside["ICECC"] == "disable"


def test_a_cache_that_hands_nothing_on_is_refused(tmp_path: Path) -> None:
    """One of the two would have no effect."""
    with pytest.raises(UsageError, match="sccache and icecc do not go together") as caught:
        launching(network(tmp_path), cached("sccache"))
    assert "--compiler-cache ccache" in caught.value.fix


def test_the_compiler_of_the_build_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no other; the user's settings for icecc are kept, the rest of their variables are not."""
    packer = tmp_path / "bin" / "icecc-create-env"
    packer.parent.mkdir()
    packer.write_text('#!/bin/sh\necho "$@" > 1234.tar.gz\n', encoding="utf-8")
    packer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{packer.parent}{os.pathsep}{os.environ['PATH']}")
    compiler = Compiler(cc=Path("/usr/bin/gcc-12"), cxx=Path("/usr/bin/g++-12"), version="12.2.0")
    environ = {"ICECC_PREFERRED_HOST": "big", "ICECC": "no", "SECRET": "1"}
    found = compiling(network(tmp_path), compiler, tmp_path / "icecc", environ)
    assert Path(found["ICECC_VERSION"]).read_text(encoding="utf-8") == "--gcc /usr/bin/gcc-12 /usr/bin/g++-12\n"
    assert (found["ICECC_PREFERRED_HOST"], found["ICECC"]) == ("big", "")
    assert found["ICECC_TEST_SOCKET"] == str(tmp_path / "d")
    assert "SECRET" not in found


def test_a_compiler_that_cannot_be_packed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the program for it said."""
    packer = tmp_path / "icecc-create-env"
    packer.write_text("#!/bin/sh\necho no objcopy; exit 1\n", encoding="utf-8")
    packer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    compiler = Compiler(cc=Path("/usr/bin/gcc"), cxx=Path("/usr/bin/g++"), version="")
    with pytest.raises(HostError, match="cannot pack /usr/bin/g") as caught:
        compiling(network(tmp_path), compiler, tmp_path / "icecc", {})
    assert "no objcopy" in caught.value.why


@pytest.mark.parametrize(
    ("variables", "launcher"),
    [
        ({}, "/usr/bin/icecc"),
        (cached("icecc"), ""),
        ({**cached("ccache"), "CCACHE_PREFIX": "/usr/bin/icecc"}, ""),
    ],
)
def test_a_build_begun_another_way_is_refused(variables: dict[str, str], launcher: str) -> None:
    """CMake has written down what launches its compilers: it would go on as before, in silence."""
    with pytest.raises(UsageError, match="begun in one way") as caught:
        check_configured(variables, {"CMAKE_CXX_COMPILER_LAUNCHER": launcher}, Path("/work/built"))
    assert "remove /work/built" in caught.value.fix


@pytest.mark.parametrize("launcher", ["", "/usr/bin/icecc"])
def test_a_build_begun_the_same_way_carries_on(launcher: str) -> None:
    """With a network or without."""
    variables = {"CMAKE_CXX_COMPILER_LAUNCHER": launcher} if launcher else {}
    check_configured(variables, {"CMAKE_CXX_COMPILER_LAUNCHER": launcher}, Path("/work/built"))


LOG = """\
ICECC[7] 2026-11-27 14:12:43: Have to use host 10.0.0.2:10245 - Job ID: 5 - env: x86_64 - has env: false - match j: 0
ICECC[8] 2026-11-27 14:12:43: building myself, but telling localhost
ICECC[9] 2026-11-27 14:12:44: Have to use host 10.0.0.3:10245 - Job ID: 6 - env: x86_64 - has env: true - match j: 0
ICECC[9] 2026-11-27 14:12:45: got exception Error 15 - write to host failed (10.0.0.3)
"""


def test_where_compilations_went_is_counted(tmp_path: Path) -> None:
    """To each machine, here, and those that came back."""
    (tmp_path / "icecc.log").write_text(LOG, encoding="utf-8")
    found = spread(tmp_path)
    assert (dict(found.given), found.here, found.again) == ({"10.0.0.2": 1, "10.0.0.3": 1}, 1, 1)
    assert str(found) == (
        "2 of 3 compilations to other machines (1 to 10.0.0.2, 1 to 10.0.0.3); 1 came back and were done here"
    )


def test_a_build_in_which_nothing_was_compiled_counts_nothing(tmp_path: Path) -> None:
    """There is no log then."""
    assert str(spread(tmp_path)) == "0 of 0 compilations to other machines"
