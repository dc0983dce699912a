"""The one place that starts other programs: never a shell, always a stated environment."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from mmstack.errors import CommandError, DiskError, HostError, InterruptedRunError
from mmstack.hermetic import isolation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mmstack.hermetic import Isolation

KEPT_VARIABLES = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")
TAIL_LINES = 30
GRACE_SECONDS = 5.0
OVERSEE_SECONDS = 0.1
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# Outlives us when we are killed without warning, and kills what we had started: a compiler that
# nobody waits for would go on writing to the tree in which the next run builds. By session and not
# by process group: ninja puts each of its compilers into a group of its own.
WATCHDOG = """
import os, signal, sys
running = set()
for line in sys.stdin:
    (running.add if line[0] == "+" else running.discard)(int(line[1:]))
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        if os.getsid(int(name)) in running:
            os.kill(int(name), signal.SIGKILL)
    except OSError:
        pass
"""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A command that ended well: all that it printed, both streams together."""

    output: str


_running: set[subprocess.Popen[str]] = set()
_running_lock = threading.Lock()
_stopping = threading.Event()
_watchdog: subprocess.Popen[str] | None = None


def scrubbed(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a build: an allow-list, a private HOME, and `extra`."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {**kept, "HOME": str(home), "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", **(extra or {})}


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    into: Path | None = None,
    doomed: Callable[[], bool] | None = None,
) -> Completed:
    """Run a command to its end, its output going to `log` and to `on_line` line by line.

    The command gets its own session, so that stopping it stops all that it started; what leaves that session and
    holds on to the command's output is killed soon after the command has ended. With `into`,
    what it prints goes to that file byte by byte, and only what it says of errors counts as its output.
    `doomed` is asked all the while, and the command killed as soon as it says so. In a step that is to have
    no network the command has none.

    Raises:
        HostError: the program is not on this machine, or the machine cannot cut it off from the network.
        HermeticError: it tried to reach the network from which it was cut off.
        CommandError: it ended with another status than 0.
        DiskError: it did because the disk is full.
        InterruptedRunError: we are stopping.
    """
    words = [str(word) for word in argv]
    if _stopping.is_set():
        raise interrupted()
    with isolation() as alone:
        with into.open("wb") if into else nullcontext(subprocess.PIPE) as printed:
            process = _start(words, env=env, cwd=cwd, printed=printed, alone=alone)
        with _tracked(process), _overseen(process, doomed), _open_log(log, words) as sink:
            lines = _drain(process, sink, on_line)
            status = process.wait()
        if _stopping.is_set():
            raise interrupted()
        if status != 0:
            _check_room(words[0], lines)
        if alone:
            alone.check(words[0], lines[-TAIL_LINES:], status=status, log=log)
    if status != 0:
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        raise CommandError(
            f"{words[0]} ended with {how}",
            argv=words,
            status=status,
            log=log,
            why="\n".join(lines[-TAIL_LINES:]),
        )
    return Completed(output="\n".join(lines))


def stop_all() -> None:
    """Stop every running command and refuse new ones: what Ctrl-C and SIGTERM ask for."""
    _stopping.set()
    with _running_lock:
        processes = list(_running)
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_SECONDS)
        _kill_session(process)


def _check_room(program: str, lines: Sequence[str]) -> None:
    """Tell a full disk from a program's own failure: programs only say so in words, here always the system's."""
    full = next((line for line in lines if any(os.strerror(number) in line for number in NO_ROOM)), None)
    if full is not None:
        raise DiskError(
            "the disk is full",
            why=f"{program}: {full.strip()}",
            fix="free some space there; MMSTACK_HOME moves the state. Then run the same command again",
        )


def is_stopping() -> bool:
    """Return whether we were asked to stop."""
    return _stopping.is_set()


def interrupted() -> InterruptedRunError:
    """Return the error of whoever is asked to do more while we are stopping."""
    return InterruptedRunError("interrupted", fix="run the same command again: it carries on where it stopped")


def _start(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None,
    printed: int | IO[bytes],
    alone: Isolation | None,
) -> subprocess.Popen[str]:
    if alone:
        with alone.writer as writer:  # closed here, it ends with the command
            return _open(alone.words(words), env=env, cwd=cwd, printed=printed, passed=(writer.fileno(),))
    return _open(words, env=env, cwd=cwd, printed=printed)


def _open(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None,
    printed: int | IO[bytes],
    passed: Sequence[int] = (),
) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(  # noqa: S603 - argv is ours, no shell reads it
            words,
            pass_fds=passed,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT if printed == subprocess.PIPE else subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError as error:
        missing = error.filename or words[0]
        raise HostError(f"{missing} is not on this machine", fix=f"install {missing}") from error
    except PermissionError as error:
        raise HostError(
            f"{words[0]} may not be run", why=str(error), fix="make it a program that you may run"
        ) from error
    except OSError as error:  # no format that the system knows, or no process more
        raise HostError(
            f"{words[0]} does not start", why=str(error), fix="see that it is a program, and that `ulimit -u` allows it"
        ) from error


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _kill_session(process: subprocess.Popen[str]) -> None:
    """Kill a command and all that it started, as the watchdog does: ninja's compilers are in groups of their own."""
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - names, and fast
        with suppress(OSError):
            if os.getsid(int(name)) == process.pid:
                os.kill(int(name), signal.SIGKILL)


@contextmanager
def _tracked(process: subprocess.Popen[str]) -> Iterator[None]:
    with _running_lock:
        _running.add(process)
        _tell_watchdog(f"+{process.pid}\n")
    if _stopping.is_set():  # between the look before the start and now
        _signal_group(process, signal.SIGTERM)
    try:
        yield
    finally:
        status = process.poll()
        if status is None or status < 0:
            _kill_session(process)
            process.wait()
        with _running_lock:
            _running.discard(process)
            _tell_watchdog(f"-{process.pid}\n")


def _pipe_of(process: subprocess.Popen[str]) -> str:
    """Return what Linux calls the pipe that a command prints into."""
    stream = process.stdout or process.stderr
    assert stream is not None  # noqa: S101 - Popen was given PIPE for one of them
    return f"pipe:[{os.fstat(stream.fileno()).st_ino}]"


def _kill_holders(pipe: str) -> None:
    """Kill what a command has left behind in a session of its own: it holds our pipe, which else never ends."""
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - names, and fast
        with suppress(OSError):
            held = (os.readlink(f"/proc/{name}/fd/{number}") for number in os.listdir(f"/proc/{name}/fd"))  # noqa: PTH115, PTH208 - the same
            if int(name) != os.getpid() and pipe in held:
                os.kill(int(name), signal.SIGKILL)


@contextmanager
def _overseen(process: subprocess.Popen[str], doomed: Callable[[], bool] | None) -> Iterator[None]:
    over, pipe = threading.Event(), _pipe_of(process)

    def oversee() -> None:
        ended = 0.0
        while not over.wait(OVERSEE_SECONDS):
            if doomed and doomed():
                _kill_session(process)
                return
            if process.poll() is not None:
                ended = ended or time.monotonic()
                if time.monotonic() - ended > GRACE_SECONDS:
                    _kill_holders(pipe)
                    return

    overseer = threading.Thread(target=oversee, daemon=True)
    overseer.start()
    try:
        yield
    finally:
        over.set()
        overseer.join()


def _tell_watchdog(line: str) -> None:
    global _watchdog  # noqa: PLW0603 - one for all commands of this process, which it outlives
    if _watchdog is None:
        _watchdog = subprocess.Popen(  # noqa: S603 - as above
            [sys.executable, "-I", "-S", "-c", WATCHDOG],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    assert _watchdog.stdin is not None  # noqa: S101 - Popen was given PIPE
    with suppress(BrokenPipeError):
        _watchdog.stdin.write(line)
        _watchdog.stdin.flush()


@contextmanager
def _open_log(log: Path | None, words: Sequence[str]) -> Iterator[IO[str] | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8", errors="replace") as sink:
        sink.write(f"$ {' '.join(words)}\n")
        yield sink


def _drain(process: subprocess.Popen[str], sink: IO[str] | None, on_line: Callable[[str], None] | None) -> list[str]:
    lines: list[str] = []
    stream = process.stdout or process.stderr
    assert stream is not None  # noqa: S101 - Popen was given PIPE for one of them
    with stream as output:
        for line in output:
            lines.append(line.rstrip("\n"))
            if sink is not None:
                sink.write(line)
                sink.flush()
            if on_line is not None:
                on_line(lines[-1])
    return lines
