"""Reads what the user typed into a request."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mmstack.errors import UsageError
from mmstack.model import Request
from mmstack.sources.places import redact
from mmstack.toolchains.choice import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SINGLE = ("stack", "cuda", "python", "arch", "toolkit", "mirror", "linker", "jobs")
MANY = ("source", "flag", "without")
JOBS = re.compile(r"[1-9][0-9]{0,5}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that choose what is built, as typed; `--help` says what each means."""

    stack: str = ""
    cuda: str = ""
    python: str = ""
    arch: str = ""
    toolkit: str = ""
    index_only: bool = False
    mirror: str = ""
    source: Sequence[str] = ()
    flag: Sequence[str] = ()
    without: Sequence[str] = ()
    linker: str = ""
    jobs: str = ""

    def request(self) -> Request:
        """Return the request that they mean.

        Raises:
            UsageError: a word has not the form that its option wants.
        """
        if self.jobs and not JOBS.fullmatch(self.jobs):
            raise UsageError(f"--jobs: '{self.jobs}' is no number of jobs", fix="write e.g. `--jobs 2`")
        return Request(
            stack=self.stack,
            cuda=self.cuda,
            python=self.python,
            arch=tuple(word.strip() for word in self.arch.replace(";", ",").split(",") if word.strip()),
            toolkit=self.toolkit,
            index_only=self.index_only,
            sources=_pairs("--source", self.source),
            flags=_pairs("--flag", self.flag),
            without=tuple(self.without),
            jobs=int(self.jobs or 0),
            linker=self.linker,
        )

    def kept(self) -> dict[str, Any]:
        """Return them as a manifest keeps them: those that were given, but for passwords."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values |= {"toolkit": shown(self.toolkit), "mirror": redact(self.mirror)}
        return {name: list(value) if name in MANY else value for name, value in values.items() if value}

    def words(self) -> list[str]:
        """Return them as the user would type them again, but for passwords."""
        given = self.kept()
        words = [f"--{name} {shlex.quote(given[name])}" for name in SINGLE if name in given]
        words += ["--index-only"] if self.index_only else []
        return words + [f"--{name} {shlex.quote(value)}" for name in MANY for value in given.get(name, ())]


def _pairs(option: str, words: Sequence[str]) -> Mapping[str, str]:
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            example = "LAYER.NAME=VALUE" if option == "--flag" else "LAYER=sdist"
            raise UsageError(f"{option}: '{word}' is not NAME=VALUE", fix=f"write e.g. `{option} {example}`")
        if name in pairs:
            raise UsageError(f"{option}: '{name}' is given twice", fix="leave one of them out")
        pairs[name] = value
    return pairs
