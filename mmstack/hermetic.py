"""Commands without a network: each in a network namespace of its own, in which nothing but itself can be reached.

What a command tries to reach nevertheless is counted by the kernel, so that an attempt is told even of a program that
does without what it could not have.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mmstack.errors import HermeticError, HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAM = Path(__file__).with_name("alone.py")
_step: ContextVar[str] = ContextVar("step", default="")


@contextmanager
def inside(step: str) -> Iterator[None]:
    """Let every command that this thread starts meanwhile have no network, and errors name this step."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def step() -> str:
    """Return the step whose commands have no network, nothing where they have one."""
    return _step.get()


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """How one command is cut off, and the pipe by which it is told what came of it."""

    step: str
    reader: TextIO
    writer: TextIO

    def words(self, command: Sequence[str]) -> list[str]:
        """Return what runs a command without a network."""
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        ours = [sys.executable, "-I", "-S", str(PROGRAM), str(self.writer.fileno())]
        return ["unshare", *user, "--net", "--uts", "--", *ours, *command]

    def check(self, program: str, lines: Sequence[str], *, status: int, log: Path | None) -> None:
        """Demand that a command that has ended had no network, and did without one.

        Args:
            program: its name.
            lines: the last lines that it printed.
            status: its exit status; negative for a signal.
            log: the file that holds all that it printed.

        Raises:
            HostError: this machine can make no such network, or has no such program.
            HermeticError: it tried to reach one.
        """
        told = self.reader.read().split()
        if not told and status > 0:
            raise impossible("\n".join(lines))
        if told[1:2] == ["unstartable"]:
            missing = int(told[2]) == errno.ENOENT
            what = f"{program} is not on this machine" if missing else f"{program} may not be run"
            raise HostError(what, why=os.strerror(int(told[2])), fix=f"install {program}")
        if told[1:]:  # not if it was killed: whoever did that has his own say
            self._judge(program, lines, int(told[1]), int(told[2]) if status else 0, log)

    def _judge(self, program: str, lines: Sequence[str], tried: int, refused: int, log: Path | None) -> None:
        # who waits for a server of his own is refused at first and goes on; of one that failed it may be the reason
        if not tried + refused:
            return
        look = f"read {log}; " if log else ""
        raise HermeticError(
            f"step '{self.step}' tried to reach the network, from which `--hermetic` cuts it off",
            why="\n".join(
                [f"attempts of {program}, by the kernel's count: {tried + refused}; the last that it said:", *lines]
            ),
            fix=f"{look}make what it wants a part of the source, switch off what wants it, or leave `--hermetic` out",
        )


@contextmanager
def isolation() -> Iterator[Isolation | None]:
    """Yield how the command that is about to start is cut off, None where it is not."""
    if not (name := step()):
        yield None
        return
    read, write = os.pipe()
    with os.fdopen(read, encoding="ascii") as reader, os.fdopen(write, "w", encoding="ascii") as writer:
        yield Isolation(step=name, reader=reader, writer=writer)


def impossible(why: str) -> HostError:
    """Return the error that this machine can cut nothing off from the network."""
    return HostError(
        "this machine cannot run a command without a network, as `--hermetic` demands",
        why=why or "unshare said nothing",
        fix="run as root, or allow user namespaces to others (`sysctl kernel.unprivileged_userns_clone=1`, on Ubuntu "
        "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`; in a container, grant CAP_SYS_ADMIN); "
        "or leave `--hermetic` out",
    )
