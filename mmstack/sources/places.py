"""What is known of the places that offer files without asking any: no HTTP client is loaded for it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from mmstack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmstack.model import FilePin, LockedRequirement

RETRY_PAUSES = (0.5, 1.0, 2.0, 4.0)
CHUNK = 1 << 18
LONGEST_NAME = 255  # that a file can have
CREDENTIALS = re.compile(r"//[^/\s]*@")


class PlaceError(Exception):
    """A place did not answer as it should; never leaves the sources.

    Attributes:
        reason: why, without credentials.
        passing: whether it may help to try again.
        missing: whether the place says that it has no such thing.
        stale: whether it refuses to continue where we stopped.
    """

    def __init__(self, reason: str, *, passing: bool = False, missing: bool = False, stale: bool = False) -> None:
        self.reason = CREDENTIALS.sub("//***@", reason)
        super().__init__(self.reason)
        self.passing = passing
        self.missing = missing
        self.stale = stale


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A pinned file and every place that offers it, in the order in which to try them.

    The addresses may carry credentials: only what `redact` makes of them is fit to be shown.
    """

    pin: FilePin
    urls: tuple[str, ...] = field(repr=False)
    size: int | None = None


def expanded(text: str, option: str) -> Path:
    """Return the path that a user means.

    Raises:
        UsageError: it is the home of nobody, an address, or no path at all.
    """
    if "://" in text:
        raise UsageError(f"{option}: {redact(text)} is no path", why="it is an address", fix="give a path")
    try:
        return user_path(text)
    except ValueError as error:
        raise UsageError(f"{option}: {text!r} is no path", why=str(error), fix="write the whole path") from error


def user_path(text: str) -> Path:
    """Return a path, its `~` being somebody's home.

    Raises:
        ValueError: it is the home of nobody, or no path at all.
    """
    if "\0" in text:
        raise ValueError("it holds a NUL")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def shown(word: str) -> str:
    """Return a word of the user's fit to be shown: of an address no user, no password, no query."""
    return redact(word) if "://" in word else word


def redact(url: str) -> str:
    """Return an address fit to be shown: no user, no password, no query."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "a malformed address"
    if ":" in parts.netloc and "@" not in parts.netloc and "@" in url:
        return "a malformed address"  # most likely a password with a slash in it
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    return "a malformed address" if CREDENTIALS.search(shown) else shown


def wheel_rank(filename: str, requirement: LockedRequirement, ranks: Mapping[str, int]) -> tuple[int, int] | None:
    """Return how well a wheel of that name serves, lowest best; None if it does not at all."""
    if len(filename) > LONGEST_NAME:  # its tags multiply
        return None
    try:
        name, version, build, tags = parse_wheel_filename(filename)
    except (InvalidWheelFilename, InvalidVersion):
        return None
    if name != canonicalize_name(requirement.name) or version != Version(requirement.version):
        return None
    fitting = [ranks[str(tag)] for tag in tags if str(tag) in ranks]
    return (min(fitting), -build[0] if build else 0) if fitting else None
