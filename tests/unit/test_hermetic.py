from __future__ import annotations

import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from mmstack import hermetic
from mmstack.builders.offline import guard
from mmstack.errors import ChangedError, CommandError, HermeticError, HostError, UsageError
from mmstack.events import ignore
from mmstack.model import FilePin, Paths, StepKind
from mmstack.run import run, scrubbed
from mmstack.toolchains import caches
from mmstack.workshop import Workshop
from tests.miniature import Miniature, pinned
from tests.support import no_namespaces

if TYPE_CHECKING:
    from pathlib import Path

    from mmstack.model import Plan, Step

needs_namespaces = pytest.mark.skipif(bool(no_namespaces()), reason=no_namespaces() or "none")
SWALLOW = "import contextlib, socket\nwith contextlib.suppress(OSError): "
REACHES = {
    "an address": "import socket; socket.create_connection(('192.0.2.1', 80))",
    "an address of IPv6": "import socket; socket.create_connection(('2001:db8::1', 80))",
    "a name": "import socket; socket.getaddrinfo('example.org', 80)",
    "an address, and does without": f"{SWALLOW}socket.create_connection(('192.0.2.1', 80))",
    "a name, and does without": f"{SWALLOW}socket.getaddrinfo('example.org', 80)",
    "a name server of this machine": "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.sendto(b'?', ('127.0.0.53', 53))",
    "no datagram's address, and does without": "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    f"{SWALLOW}s.sendto(b'?', ('192.0.2.1', 53))",
}
TALKS_TO_ITSELF = """
import socket
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((address, port)), server.accept()[0]:
            pass
assert socket.gethostname() == "localhost"
assert socket.getaddrinfo(socket.gethostname(), port)
try:  # as one who waits for a server of his own
    socket.create_connection(("127.0.0.1", port))
except ConnectionRefusedError:
    print("fine")
"""


def alone(tmp_path: Path, *words: str, log: Path | None = None) -> str:
    """Run a command in a step that has no network and return what it printed."""
    with hermetic.inside("build ext"):
        return run(words, env=scrubbed(tmp_path), log=log).output


def python(program: str) -> tuple[str, ...]:
    """Return the words that run a program."""
    return sys.executable, "-c", program


@needs_namespaces
@pytest.mark.parametrize("program", REACHES.values(), ids=REACHES)
def test_who_tries_to_reach_the_network_fails(tmp_path: Path, program: str) -> None:
    """Even if he does without what he could not have; the step is named, and the log."""
    log = tmp_path / "build.log"
    with pytest.raises(HermeticError, match="step 'build ext' tried to reach the network") as caught:
        alone(tmp_path, *python(program), log=log)
    assert caught.value.code == 1
    assert f"attempts of {sys.executable}" in caught.value.why
    assert str(log) in caught.value.fix


@needs_namespaces
def test_a_server_of_this_machine_is_out_of_reach(tmp_path: Path) -> None:
    """It is there for whoever has a network; who has none is refused, and the log shows it."""
    log = tmp_path / "build.log"
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        assert run(python(program), env=scrubbed(tmp_path)).output == ""
        with pytest.raises(HermeticError) as caught:
            alone(tmp_path, *python(program), log=log)
    assert "ConnectionRefusedError" in caught.value.why
    assert "ConnectionRefusedError" in log.read_text(encoding="utf-8")


@needs_namespaces
def test_who_talks_to_himself_is_left_alone(tmp_path: Path) -> None:
    """The loopback interface is his own, and so is the name of the machine."""
    assert alone(tmp_path, *python(TALKS_TO_ITSELF)) == "fine"


@needs_namespaces
def test_a_command_ends_as_it_would_with_a_network(tmp_path: Path) -> None:
    """Its output, status and signal are its own; it inherits nothing but the three streams."""
    log = tmp_path / "build.log"
    assert alone(tmp_path, *python("import os; print(len(os.listdir('/proc/self/fd')) - 1)"), log=log) == "3"
    assert log.read_text(encoding="utf-8").startswith(f"$ {sys.executable} -c")
    for program, status in (
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.kill(os.getpid(), 15)", -15),
    ):
        with pytest.raises(CommandError) as caught:
            alone(tmp_path, *python(program))
        assert caught.value.status == status
        assert caught.value.argv == python(program)


@needs_namespaces
def test_a_program_that_is_not_here_is_told_as_ever(tmp_path: Path) -> None:
    """Not as a failure of what cuts it off."""
    with pytest.raises(HostError, match="no-such-program is not on this machine"):
        alone(tmp_path, "no-such-program")
    (tmp_path / "text").touch()
    with pytest.raises(HostError, match="text may not be run"):
        alone(tmp_path, str(tmp_path / "text"))


@needs_namespaces
def test_other_threads_keep_their_network(tmp_path: Path) -> None:
    """What one step may not, another that runs beside it may."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]})); print('reached')"
        told: list[str] = []
        with hermetic.inside("build ext"):
            thread = threading.Thread(target=lambda: told.append(run(python(program), env=scrubbed(tmp_path)).output))
            thread.start()
            thread.join()
    assert told == ["reached"]
    assert hermetic.step() == ""


def test_a_machine_that_cannot_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what its own program says; nothing runs with a network instead."""
    fake = tmp_path / "unshare"
    fake.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted'\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(HostError, match="cannot run a command without a network") as caught:
        alone(tmp_path, "touch", str(tmp_path / "touched"))
    assert (caught.value.code, caught.value.why) == (3, "unshare failed: Operation not permitted")
    assert not (tmp_path / "touched").exists()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(HostError, match="unshare is not on this machine"):
        alone(tmp_path, sys.executable, "-c", "")


def test_who_is_not_root_becomes_it_in_a_namespace_of_his_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else he could not make that of the network."""
    for uid, words in ((0, ["unshare", "--net", "--uts"]), (1000, ["unshare", "--map-root-user", "--net", "--uts"])):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        with hermetic.inside("build ext"), hermetic.isolation() as isolation:
            assert isolation
            assert isolation.words(["true"])[: len(words)] == words


def test_a_build_without_a_network_gets_no_proxy() -> None:
    """It could not reach it; whatever it tries without one is counted."""
    with hermetic.inside("build ext"), guard() as offline:
        assert set(offline.variables) == {"GIT_ALLOW_PROTOCOL", "GIT_CONFIG_NOSYSTEM", "GIT_TERMINAL_PROMPT"}
    with guard() as offline:
        assert "https_proxy" in offline.variables


def shop(tmp_path: Path, **more: str) -> Workshop:
    """Return a workshop whose user wants no network, in a shell with these variables."""
    paths = Paths(root=tmp_path, state=tmp_path / "state", dist=tmp_path / "dist")
    return Workshop(paths=paths, listener=ignore, environ={"PATH": os.environ["PATH"], **more}, hermetic=True)


@pytest.mark.parametrize(
    ("option", "wish", "variables", "named"),
    [
        ("distribute", "icecc", {}, "--distribute icecc"),
        ("compiler_cache", "sccache", {"SCCACHE_REDIS_ENDPOINT": "tcp://host"}, "SCCACHE_REDIS_ENDPOINT"),
        ("compiler_cache", "ccache", {"CCACHE_REMOTE_STORAGE": "redis://host"}, "CCACHE_REMOTE_STORAGE"),
    ],
)
def test_what_needs_other_machines_is_refused(
    tmp_path: Path, option: str, wish: str, variables: dict[str, str], named: str
) -> None:
    """Before anything is done, by its name and without its value."""
    wanting = shop(tmp_path, **variables)
    setattr(wanting, option, wish)
    with pytest.raises(UsageError, match="`--hermetic`") as caught:
        wanting.check_hermetic()
    assert caught.value.why.endswith(named)
    wanting.hermetic = False
    wanting.check_hermetic()


def test_a_cache_on_this_machine_is_none_of_another() -> None:
    """Its settings may stay."""
    assert caches.remote("sccache", {"SCCACHE_LOG": "debug", "CCACHE_REMOTE_STORAGE": "x"}) == []
    assert caches.remote("ccache", {"CCACHE_RESHARE": "1", "SCCACHE_REDIS": "x"}) == []


@needs_namespaces
def test_a_machine_that_can_passes(tmp_path: Path) -> None:
    """In a moment."""
    shop(tmp_path).check_hermetic()


def test_a_file_that_is_gone_is_not_fetched_by_a_step_without_a_network(tmp_path: Path) -> None:
    """No index is asked for it."""
    pin, requirement = FilePin(filename="ext-2.0.tar.gz", sha256="1" * 64), pinned("backend==82")
    with hermetic.inside("build ext"), pytest.raises(HermeticError, match="step 'build ext' needs a file") as caught:
        shop(tmp_path).offers_for("ext", [pin], [requirement], ())
    assert caught.value.why == "ext-2.0.tar.gz, backend 82"


class Sketch(Workshop):
    """A workshop whose steps leave what the next ones need, and no more."""

    def source(self, plan: Plan, step: Step) -> str:
        """Leave a tree."""
        self.place(plan.layer(step.layer)).tree.mkdir(parents=True, exist_ok=True)
        return "laid out"

    def build(self, plan: Plan, step: Step) -> str:
        """Leave a wheel."""
        place = self.place(plan.layer(step.layer))
        assert place.tree.is_dir()
        place.out.mkdir(exist_ok=True)
        (place.out / "top.whl").touch()
        return "built"

    def gate(self, plan: Plan, step: Step) -> str:
        """Find the wheel."""
        return next(self.place(plan.layer(step.layer)).out.glob("*.whl")).name


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ("cut:source open:source open:build cut:build open:gate", "a run with a network has worked on top meanwhile"),
        ("cut:source cut:build open:source open:build cut:gate open:gate", "a run with a network has worked on top"),
        ("open:source open:build cut:source cut:build open:build cut:gate", "another run has begun top anew"),
        ("open:source open:build cut:source open:gate cut:build cut:gate", "another run has begun top anew"),
    ],
)
def test_of_two_runs_one_without_a_network_neither_spoils_the_other_s(tmp_path: Path, turns: str, told: str) -> None:
    """They share a folder and take turns in it step by step: one is told so, and the other ends well."""
    plan = Miniature(root=tmp_path).write().plan()
    paths = Paths(root=tmp_path, state=tmp_path / "state", dist=tmp_path / "dist")
    runs = {name: Sketch(paths=paths, listener=ignore, environ={}, hermetic=name == "cut") for name in ("cut", "open")}
    failed = []
    for name, _, kind in (turn.partition(":") for turn in turns.split()):
        step = next(step for step in plan.steps if step.layer == "top" and step.kind is StepKind(kind))
        try:
            said = runs[name].execute(plan, step)
        except ChangedError as error:
            failed.append(error)
    (failure,) = failed
    assert failure.what.startswith(told)
    assert failure.fix.endswith("run the same command again")
    assert said == "top.whl"
