"""Every way mmstack can fail: one class per kind, each saying what happened, why, and what to do.

Nothing in the engine exits; an error carries the exit code that `tasks.py` ends with.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mmstack.model import Verification

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_HOST = 3
EXIT_PIN = 4
EXIT_INTERRUPTED = 130


class MmstackError(Exception):
    """A failure that a user can act on.

    Args:
        what: one sentence, what happened.
        why: the cause, with the names and values that matter.
        fix: what to do next, as a sentence or a command.
    """

    code: ClassVar[int] = EXIT_FAILED
    slug: ClassVar[str] = "failed"

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class UsageError(MmstackError):
    """The command line asks for something that does not exist or cannot be combined."""

    code = EXIT_USAGE
    slug = "usage"


class NoBillError(UsageError):
    """A wheel holds no bill that tells what it is made of."""

    slug = "no-bill"


class CatalogError(MmstackError):
    """A stack, recipe, series or lock file is wrong; the message names file and key."""

    code = EXIT_USAGE
    slug = "catalog"


class ConstraintError(MmstackError):
    """The request is well formed, but its parts contradict each other or a known bound."""

    code = EXIT_USAGE
    slug = "constraint"


class HostError(MmstackError):
    """This machine lacks something that the stack needs."""

    code = EXIT_HOST
    slug = "host"


class NetworkError(HostError):
    """A file could not be had from any configured place."""

    slug = "network"


class DiskError(HostError):
    """The disk is full, read-only or not ours to write."""

    slug = "disk"


class PinError(MmstackError):
    """A source or an artifact is not what its pin says."""

    code = EXIT_PIN
    slug = "pin"


class LockedError(PinError):
    """A stack's lock does not hold what the stack is made of."""

    slug = "locked"


class ArchiveError(PinError):
    """An archive holds what no honest source archive holds."""

    slug = "archive"


class ChangedError(MmstackError):
    """What a run has planned with is not the same any more: what it made would stand under the wrong key."""

    slug = "changed"


class PatchError(MmstackError):
    """A patch does not apply, is already applied, or changes nothing."""

    slug = "patch"


class CommandError(MmstackError):
    """A command that we started ended in failure.

    Attributes:
        argv: the command.
        status: its exit status; negative for a signal.
        log: the file that holds all it printed, if there is one.
    """

    slug = "command"

    def __init__(
        self,
        what: str,
        *,
        argv: Sequence[str],
        status: int,
        log: Path | None = None,
        why: str = "",
        fix: str = "",
    ) -> None:
        super().__init__(what, why=why, fix=fix)
        self.argv = tuple(argv)
        self.status = status
        self.log = log


class BuildError(CommandError):
    """A layer did not build."""

    slug = "build"


class GateError(MmstackError):
    """An artifact is not what it must be before it may enter the store."""

    slug = "gate"


class HermeticError(MmstackError):
    """A step tried to reach the network from which it was cut off."""

    slug = "hermetic"


class VerificationError(MmstackError):
    """A built layer does not do what its suite demands; `verification` is what the suite found, if it ran."""

    slug = "verification"

    def __init__(self, what: str, *, why: str = "", fix: str = "", verification: Verification | None = None) -> None:
        super().__init__(what, why=why, fix=fix)
        self.verification = verification


class RebuildError(MmstackError):
    """A wheel that was made again is not, byte for byte, the one that it was to be; `compared` says it of each."""

    slug = "rebuild"

    def __init__(self, what: str, *, why: str, fix: str, compared: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(what, why=why, fix=fix)
        self.compared = compared


class InterruptedRunError(MmstackError):
    """The user or the system asked us to stop; the next run carries on."""

    code = EXIT_INTERRUPTED
    slug = "interrupted"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'? ` where a known word is near, then all that are known."""
    choices = sorted(known)
    near = get_close_matches(word, choices, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(choices) or 'none'}"
