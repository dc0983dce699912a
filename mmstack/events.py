"""What happened, as typed events: the engine says, console and report listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mmstack.errors import MmstackError
    from mmstack.model import Artifact, Plan, Step, Verification

Outcome = Literal["done", "cached", "failed"]
Verdict = Literal["verified", "not verified", "failed"]


@dataclass(frozen=True, kw_only=True)
class PlanReady:
    """The plan stands; `cached` are the ids of steps whose results are already there."""

    plan: Plan
    cached: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class StepStarted:
    """A step began."""

    step: Step


@dataclass(frozen=True, kw_only=True)
class StepEnded:
    """A step ended."""

    step: Step
    outcome: Outcome
    started: float
    ended: float
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class DownloadProgress:
    """`done` of `total` bytes of a file are here; `total` is 0 while unknown."""

    filename: str
    done: int
    total: int
    finished: bool = False


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """A compiler's progress in a step: `done` of `total` compile edges.

    `share` is how much of the work that is (0 to 1), `remaining` the seconds that the rest will take, once known.
    """

    step: Step
    done: int
    total: int
    share: float = 0.0
    remaining: float | None = None


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One command of ninja, by the first file that it made; times in seconds since the epoch."""

    output: str
    started: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What one run of ninja made in a step, also one that failed."""

    step: Step
    edges: tuple[Edge, ...]


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Another run holds what this one needs."""

    what: str


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that the user should know; `warning` where it may surprise them."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True, kw_only=True)
class CacheUsed:
    """A compiler cache served a step."""

    step: Step
    cache: str
    version: str
    hits: int
    misses: int
    uncacheable: int
    errors: int


@dataclass(frozen=True, kw_only=True)
class ArtifactStored:
    """A wheel passed its gates and is in the store."""

    artifact: Artifact


@dataclass(frozen=True, kw_only=True)
class LayerVerified:
    """A layer's suite ran."""

    verification: Verification


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """The run is over.

    Attributes:
        error: what ended it early.
        installed: whether its plan is what stands in `dist/` now.
        cpu_seconds: what it and its commands took of its `cores`.
    """

    plan: Plan
    artifacts: tuple[Artifact, ...]
    verifications: tuple[Verification, ...]
    seconds: float
    error: MmstackError | None = None
    installed: bool = True
    cpu_seconds: float = 0.0
    cores: int = 1

    @property
    def verdict(self) -> Verdict:
        """Return `verified` only where every suite of the plan has passed, and the plan is what is installed."""
        if self.error or any(found.count("failed") for found in self.verifications):
            return "failed"
        suites = {step.layer for step in self.plan.steps if step.kind == "verify"}
        passed = {found.layer for found in self.verifications if found.passed}
        return "verified" if self.installed and suites and suites <= passed else "not verified"


Event = (
    PlanReady
    | StepStarted
    | StepEnded
    | DownloadProgress
    | BuildProgress
    | Compiled
    | Waiting
    | Notice
    | CacheUsed
    | ArtifactStored
    | LayerVerified
    | RunEnded
)
Listener = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Listen to nothing."""
