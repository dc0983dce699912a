"""Reads what other programs print: makes it safe to show, and finds what went wrong in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Terminal escape sequences: CSI, the string kinds (OSC, DCS, …), then the short ones.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
# Control characters but tab and newline, bidirectional overrides, and halves of surrogate pairs.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_COMPILER = re.compile(r"(?:^|[\s/-])(?:cc|c\+\+|gcc|g\+\+|clang|clang\+\+|nvcc|ld)(?:-[\d.]+)?\s")
_CERTAIN = re.compile(
    r"""
      :\d+(?::\d+)?:\ (?:fatal\ )?error:\         # gcc, clang: file:line:column
    | \(\d+\):\ (?:catastrophic\ )?error\b[^:]{,40}:\   # nvcc: file(line)
    | ^[\w.+/-]+:\ (?:fatal\ )?error:\            # a tool by its name
    | ^(?:nvcc|ptxas|nvlink)\ .*?(?:fatal|error)\s*:
    | undefined\ reference\ to | multiple\ definition\ of | cannot\ find\ -l
    | No\ space\ left\ on\ device
    | (?:^|\d\ )\s*Killed\b
    """,
    re.VERBOSE,
)
_LIKELY = re.compile(r"^(?:\u00d7|error\b|ERROR\b|Error\b|make.*\*\*\*)")


def plain(text: str) -> str:
    """Return `text` without anything that a terminal would obey instead of show."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def first_error(lines: Iterable[str]) -> str:
    """Return the first real error in a build's output: the failing command, then the error's line.

    Compiler and linker errors count before tracebacks and CMake's errors, and those before the
    summaries that pip, setuptools and make end with. Of a log that holds several commands (the
    `$ command` lines of `run.py`), only the last is judged. Empty if there is no error.
    """
    search = _Search()
    for raw in lines:
        line = plain(raw).rstrip()
        if line.startswith("$ "):
            search = _Search(command=line[2:])
        else:
            search.read(line)
    return search.result()


@dataclass
class _Search:
    """What is known of a log so far; `found` holds the first error of each rank."""

    command: str = ""
    found: dict[int, tuple[str, str]] = field(default_factory=dict)
    failed: str = ""
    cmake: str = ""
    traceback: int | None = None

    def read(self, line: str) -> None:
        text = line.strip()
        if self.failed:
            self.command = text
            self._note(2, self.failed)
            self.failed = ""
        elif text.startswith("FAILED: "):
            self.failed = text
        elif text:
            self._judge(text, indent=len(line) - len(line.lstrip()))

    def result(self) -> str:
        if not self.found:
            return ""
        return "\n".join(part for part in self.found[min(self.found)] if part)

    def _judge(self, text: str, *, indent: int) -> None:
        if (" -c " in text or " -o " in text) and _COMPILER.search(text):
            self.command = text
        elif _CERTAIN.search(text):
            self._note(0, text)
        elif self.cmake:
            self.found.setdefault(1, (self.cmake, text))
            self.cmake = ""
        elif text.startswith("CMake Error"):
            self._read_cmake(text)
        elif text.startswith("Traceback (most recent call last)"):
            self.traceback = indent
        elif self.traceback is not None:
            if indent <= self.traceback:
                self._note(1, text)
                self.traceback = None
        elif _LIKELY.search(text):
            self._note(2, text)

    def _read_cmake(self, text: str) -> None:
        if text.endswith(":"):
            self.cmake = text
        else:
            self._note(1, text)

    def _note(self, rank: int, text: str) -> None:
        self.found.setdefault(rank, (self.command, text))
