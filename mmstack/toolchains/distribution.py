"""Compilers of other machines: icecc spreads what is compiled over those whose daemons share a scheduler with ours.

They get our compiler and make the same bits, so they change how long a build takes and nothing else, and are in no key.
"""

from __future__ import annotations

import re
import shutil
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmstack.errors import CommandError, HostError, UsageError, did_you_mean
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmstack.model import Compiler

KINDS = ("none", "icecc")
LAUNCHER = "CMAKE_CXX_COMPILER_LAUNCHER"
LAUNCHERS = ("CMAKE_C_COMPILER_LAUNCHER", LAUNCHER)
SCHEDULER_PORT = 8765  # the next one answers questions in words
ANSWER_SECONDS = 10.0
SOCKETS = ("/run/icecc/iceccd.socket", "/run/iceccd.socket")
# ` name (address:port) [x86_64] speed=1.00 jobs=0/8 load=10`; the port is 0 of one that takes no work
MACHINE = re.compile(r"^ \S+ \((\S+):(\d+)\) .*\bjobs=\d+/(\d+) ", re.MULTILINE)
GIVEN = re.compile(r": Have to use host (\S+):\d+ ")
HERE = ": building myself, but telling localhost"
AGAIN = (": got exception ", ": local build forced by remote exception")
FIX = "start `iceccd` here and on the other machines, and `icecc-scheduler` on one; or build without `--distribute`"


@dataclass(frozen=True, kw_only=True)
class Network:
    """What icecc spreads compilations over: its program here, our daemon's socket, what the others do at once."""

    program: Path
    socket: Path
    machines: int
    slots: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Where compilations went: those given to each address, those done here, those that came back from elsewhere."""

    given: Mapping[str, int]
    here: int
    again: int

    def __str__(self) -> str:
        total = sum(self.given.values())
        shares = ", ".join(f"{count} to {address}" for address, count in sorted(self.given.items()))
        again = f"; {self.again} came back and were done here" if self.again else ""
        return f"{total} of {total + self.here} compilations to other machines{shares and f' ({shares})'}{again}"


def find(wish: str, environ: Mapping[str, str]) -> Network | None:
    """Return the machines that compile for this one, None for `none`.

    icecc itself compiles here without a word where it finds no daemon or its daemon no scheduler; so both are asked.

    Raises:
        UsageError: there is no such way.
        HostError: icecc, its daemon, its scheduler or another machine is missing.
    """
    if wish not in KINDS:
        raise UsageError(f"there is no way '{wish}' to distribute a build", fix=did_you_mean(wish, KINDS))
    if wish == "none":
        return None
    program = shutil.which("icecc", path=environ.get("PATH"))
    if program is None:
        raise HostError("icecc is not on this machine", fix="install it, e.g. `apt-get install icecc`")
    daemon = _socket(environ)
    scheduler = _scheduler()
    ours, listing = _ask(scheduler)
    machines = [(address, int(port), int(jobs)) for address, port, jobs in MACHINE.findall(listing)]
    if ours not in {address for address, _, _ in machines}:
        raise HostError(
            "this machine's icecc daemon is not in its network", why=f"{scheduler} does not list {ours}", fix=FIX
        )
    others = [jobs for address, port, jobs in machines if port and address != ours]
    if not others:
        raise HostError("no other machine compiles for this one", why=f"{scheduler} lists {ours} alone", fix=FIX)
    return Network(program=Path(program), socket=daemon, machines=len(others), slots=sum(others))


def launching(network: Network, cached: Mapping[str, str]) -> dict[str, str]:
    """Return what makes CMake's compilers go to the network; configuring stays here.

    Args:
        network: the machines.
        cached: the variables of the compiler cache, which asks the network for what it has not.

    Raises:
        UsageError: the cache does not go together with a network.
    """
    if not cached:
        return {**dict.fromkeys(LAUNCHERS, str(network.program)), "ICECC": "disable"}
    if Path(cached[LAUNCHER]).name != "ccache":
        raise UsageError(
            "sccache and icecc do not go together",
            why="sccache runs the compiler itself, and hands no compilation on",
            fix="take `--compiler-cache ccache` with `--distribute icecc`, or one of the two",
        )
    return {"CCACHE_PREFIX": str(network.program), "ICECC": "disable"}


def compiling(network: Network, compiler: Compiler, folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what makes icecc give compilations to other machines, and with them the compiler of this build.

    Args:
        network: the machines.
        compiler: the one of the build.
        folder: where the packed compiler and the log are.
        environ: the user's variables; those of icecc are kept.

    Raises:
        HostError: the compiler cannot be packed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    kind = ("--clang", compiler.cxx) if "clang" in compiler.cxx.name else ("--gcc", compiler.cc, compiler.cxx)
    try:
        run(["icecc-create-env", *kind], env=scrubbed(folder), cwd=folder)
        packed = next(folder.glob("*.tar.*"))
    except (CommandError, StopIteration) as error:
        why = error.why if isinstance(error, CommandError) else "it made no archive"
        raise HostError(f"icecc-create-env cannot pack {compiler.cxx}", why=why, fix="take another compiler") from error
    return {
        **{name: value for name, value in environ.items() if name.startswith("ICECC_")},
        "ICECC": "",
        "ICECC_VERSION": str(packed),
        "ICECC_TEST_SOCKET": str(network.socket),  # it fails without its daemon then, instead of compiling here
        "ICECC_DEBUG": "debug",
        "ICECC_LOGFILE": str(_log(folder)),
    }


def check_configured(variables: Mapping[str, str], cache: Mapping[str, str], folder: Path) -> None:
    """Demand that what is configured goes where it is now wanted to go.

    Raises:
        UsageError: it was configured for a network and is to be built without, or the other way round.
    """
    wanted, launcher = variables.get(LAUNCHER, ""), cache.get(LAUNCHER, "")
    spreads = "icecc" in {Path(wanted).name, Path(variables.get("CCACHE_PREFIX", "")).name}
    if launcher != wanted and (spreads or Path(launcher).name == "icecc"):
        raise UsageError(
            "a build that was begun in one way cannot be carried on in another",
            why=f"{folder} was configured for {launcher or 'no launcher'}, not for {wanted or 'none'}",
            fix=f"give the options that it was begun with, or remove {folder} to begin anew",
        )


def spread(folder: Path) -> Spread:
    """Return where compilations went, as icecc's log has it."""
    given: Counter[str] = Counter()
    here = again = 0
    if _log(folder).exists():
        with _log(folder).open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if match := GIVEN.search(line):
                    given[match[1]] += 1
                here += HERE in line
                again += any(words in line for words in AGAIN)
    return Spread(given=given, here=here, again=again)


def _log(folder: Path) -> Path:
    return folder / "icecc.log"


def _socket(environ: Mapping[str, str]) -> Path:
    named = environ.get("ICECC_TEST_SOCKET")
    own = f"{environ.get('HOME', '')}/.iceccd.socket"  # a daemon that the user started
    for path in map(Path, [named] if named else [*SOCKETS, own]):
        if path.is_socket():
            return path
    raise HostError("no icecc daemon runs on this machine", why="it has no socket where icecc looks", fix=FIX)


def _scheduler() -> str:
    """Return the address of the scheduler that this machine's daemon has found, by whatever means."""
    import psutil  # noqa: PLC0415 - a run that asks no other machine starts sooner without

    for connection in psutil.net_connections("tcp"):
        address, port = connection.raddr or ("", 0)
        if connection.status == psutil.CONN_ESTABLISHED and port == SCHEDULER_PORT:
            return address.removeprefix("::ffff:")
    raise HostError(
        "this machine's icecc daemon has no scheduler",
        why=f"there is no connection from here to a port {SCHEDULER_PORT}",
        fix=FIX,
    )


def _ask(scheduler: str) -> tuple[str, str]:
    """Return our own address as the scheduler sees it, and its list of machines."""
    try:
        with socket.create_connection((scheduler, SCHEDULER_PORT + 1), ANSWER_SECONDS) as line:
            line.sendall(b"listcs\nquit\n")
            answer = b"".join(iter(lambda: line.recv(1 << 16), b""))
            return str(line.getsockname()[0]), answer.decode(errors="replace")
    except OSError as error:
        raise HostError(
            f"the icecc scheduler on {scheduler} does not answer",
            why=f"port {SCHEDULER_PORT + 1}: {error}",
            fix="let that port through, or build without `--distribute`",
        ) from error
