"""The one place that starts other programs: never a shell, always a stated environment."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from mmstack.errors import CommandError, HostError, InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

KEPT_VARIABLES = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")
TAIL_LINES = 30
GRACE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A command that ended well: all that it printed, both streams together."""

    output: str


_running: set[subprocess.Popen[str]] = set()
_running_lock = threading.Lock()
_stopping = threading.Event()


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
) -> Completed:
    """Run a command to its end, its output going to `log` and to `on_line` line by line.

    The command gets its own process group, so that stopping it stops its children.

    Raises:
        HostError: the program is not on this machine.
        CommandError: it ended with another status than 0.
        InterruptedRunError: we are stopping.
    """
    words = [str(word) for word in argv]
    if _stopping.is_set():
        raise _interrupted()
    try:
        process = subprocess.Popen(  # noqa: S603 - argv is ours, no shell reads it
            words,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError as error:
        missing = error.filename or words[0]
        raise HostError(f"{missing} is not on this machine", fix=f"install {missing}") from error
    with _tracked(process), _open_log(log, words) as sink:
        lines = _drain(process, sink, on_line)
        status = process.wait()
    if _stopping.is_set():
        raise _interrupted()
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
        _signal_group(process, signal.SIGKILL)


def _interrupted() -> InterruptedRunError:
    return InterruptedRunError("interrupted", fix="run the same command again: it carries on where it stopped")


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextmanager
def _tracked(process: subprocess.Popen[str]) -> Iterator[None]:
    with _running_lock:
        _running.add(process)
    try:
        yield
    finally:
        with _running_lock:
            _running.discard(process)
        if process.poll() is None:
            _signal_group(process, signal.SIGKILL)
            process.wait()


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
    assert process.stdout is not None  # noqa: S101 - Popen was given PIPE
    with process.stdout as output:
        for line in output:
            lines.append(line.rstrip("\n"))
            if sink is not None:
                sink.write(line)
                sink.flush()
            if on_line is not None:
                on_line(lines[-1])
    return lines
