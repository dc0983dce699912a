"""A lab of machines that compile for one another by icecc: network namespaces, gone when the test is over."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = ("icecc", "iceccd", "icecc-scheduler", "icecc-create-env", "ip", "nsenter", "unshare")
SCHEDULER = "10.213.0.1"
# Each machine has a /run of its own, for its daemon's socket. A scheduler gives nothing to a machine that is busy, and
# here all of them are the same one; so each is told that it is idle.
MACHINE = """
mount -t tmpfs tmpfs /run && mkdir -m 777 /run/icecc && mount --bind "$1" /proc/stat && shift && exec "$@"
"""
READY_SECONDS = 30.0


def missing() -> str:
    """Return why there can be no lab here, nothing if there can."""
    if os.geteuid() != 0:
        return "namespaces of a network need root"
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not on this machine: {', '.join(lacking)}" if lacking else ""


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Three machines: `client`, on which the scheduler runs too and which takes no work, and two workers."""

    root: Path
    daemons: dict[str, psutil.Popen]

    def run(self, *words: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the client."""
        return subprocess.run(
            [*self.inside(cwd), *map(str, words)],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def inside(self, cwd: Path) -> tuple[str, ...]:
        """Return what a command on the client begins with."""
        return ("nsenter", "-t", str(self.daemons["client"].pid), "-m", "-n", f"-w{cwd}", "--")

    def python(self, program: str, *words: str | Path, cwd: Path, **variables: str) -> str:
        """Run a Python program on the client, with mmstack, and return what it printed."""
        done = self.run(
            sys.executable, "-c", program, *words, cwd=cwd, PYTHONPATH=os.pathsep.join(sys.path), **variables
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def seconds(self, name: str) -> float:
        """Return the CPU seconds of a machine's daemon with all that it compiled."""
        return sum(self.daemons[name].cpu_times()[:4])

    def served(self) -> list[str]:
        """Return which machine compiled each file that was compiled to its end, by the scheduler's log."""
        return re.findall(r" END \d+ status=0 .* server=(\w+)", (self.root / "scheduler.log").read_text("utf-8"))

    def kill(self, name: str) -> None:
        """Let a machine drop out of the network, with all that it compiles."""
        for process in (*self.daemons[name].children(recursive=True), self.daemons[name]):
            process.kill()


@contextmanager
def laboratory() -> Iterator[Lab]:
    """Yield a lab in which all machines have found their scheduler."""
    root = Path(mkdtemp(prefix="icecc-lab-", dir="/var/tmp"))
    root.chmod(0o777)  # the programs of icecc leave root behind
    names = [f"{root.name}-{name}" for name in ("client", "worker1", "worker2")]
    started: list[psutil.Popen] = []
    over = threading.Event()
    idle = threading.Thread(target=_idle, args=(root / "stat", over))
    idle.start()
    try:
        while not (root / "stat").exists():
            time.sleep(0.01)
        _wire(*names)
        started.append(_start(root, names[0], "icecc-scheduler", "-vvv", "-l", str(root / "scheduler.log")))
        daemons = {name.rpartition("-")[2]: _daemon(root, name) for name in names}
        started += daemons.values()
        lab = Lab(root=root, daemons=daemons)
        _wait(root / "scheduler.log", len(names))
        yield lab
    finally:
        for process in started:
            for each in (*(process.children(recursive=True) if process.is_running() else ()), process):
                each.kill()
            process.wait()
        over.set()
        idle.join()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)
        shutil.rmtree(root)


def _wire(client: str, *workers: str) -> None:
    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    for name in (client, *workers):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("-n", client, "link", "add", "bridge", "type", "bridge")
    ip("-n", client, "addr", "add", f"{SCHEDULER}/24", "dev", "bridge")
    ip("-n", client, "link", "set", "bridge", "up")
    for number, name in enumerate(workers, 2):
        ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"port{number}", "netns", client)
        ip("-n", client, "link", "set", f"port{number}", "master", "bridge", "up")
        ip("-n", name, "addr", "add", f"10.213.0.{number}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")


def _daemon(root: Path, name: str) -> psutil.Popen:
    short = name.rpartition("-")[2]
    (root / short).mkdir(mode=0o777)
    (root / short).chmod(0o777)
    words = [
        "-m",
        "1",
        "-s",
        SCHEDULER,
        "-N",
        short,
        "-b",
        str(root / short / "envs"),
        "-l",
        str(root / f"{short}.log"),
    ]
    return _start(root, name, "iceccd", *words, *(["--no-remote"] if short == "client" else ["-vvv"]))


def _start(root: Path, name: str, *words: str) -> psutil.Popen:
    with (root / "output").open("ab") as output:
        inside = ["ip", "netns", "exec", name, "unshare", "-m", "sh", "-c", MACHINE, "sh", str(root / "stat")]
        return psutil.Popen([*inside, *words], stdout=output, stderr=output)


def _idle(stat: Path, over: threading.Event) -> None:
    """Let a machine's clock of what its processors did say that they did nothing."""
    while True:
        stat.write_text(f"cpu  1 0 1 {int(time.monotonic() * 100)} 0 0 0 0 0 0\n", "utf-8")
        if over.wait(0.5):
            return


def _wait(log: Path, count: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not log.exists() or log.read_text("utf-8").count(": login ") < count:
        if time.monotonic() > deadline:
            raise TimeoutError(log.read_text("utf-8") if log.exists() else "the scheduler did not start")
        time.sleep(0.2)


def free_pair() -> int:
    """Return a port that is free, as is the one after it."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
