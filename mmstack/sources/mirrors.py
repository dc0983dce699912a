"""Mirrors: where else the repositories of an upstream are, as the user says it after `--mirror`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from mmstack.errors import UsageError
from mmstack.sources.places import redact

# Only what starts with a letter or a digit may follow where a program could take a dash for an option, and only
# these transports: git runs a program of any name for `name::address`.
USER = r"(?:[A-Za-z0-9_][^\s/@\\]*@)?"
LOGIN = r"(?:[A-Za-z0-9_][^\s/@:\\]*@)?"  # no `::` before the host: git would run what stands before it
HOST = r"(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])"
ADDRESS = re.compile(
    rf"(?P<place>(?:https?|ssh|git)://{USER}{HOST}(?::[0-9]+)?/|file:///|{LOGIN}{HOST}:(?![:/\\]))"
    r"(?P<path>[^\s\\?#]*)"
)
RULE = re.compile(r"(?P<old>[^\s=]+)\s*=\s*(?P<new>\S+)(?:\s+#.*)?")
SUFFIX = ".git"
LONGEST = 200  # bytes of one name: file systems take 255, and what is kept of it adds some


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """Where to fetch a repository from instead of its upstream; without anything, from there.

    What a mirror serves is what the upstream has: commits are named by their content.

    Attributes:
        base: holds every repository at the path that it has on its own host; not shown, for it may hold a password.
        rules: pairs of address and replacement, for one repository or all below an address; not shown either.
    """

    base: str = field(default="", repr=False)
    rules: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def rewrite(self, url: str) -> str:
        """Return where to fetch a repository from; the longest rule that means it wins."""
        found = ADDRESS.fullmatch(url)
        if self.base and found and found["place"] != "file:///":
            return f"{self.base.rstrip('/')}/{found['path'].strip('/')}"
        for old, new in sorted(self.rules, key=lambda rule: len(stem(rule[0])), reverse=True):
            if stem(url) == stem(old):
                return new if new.endswith(SUFFIX) or not url.endswith(SUFFIX) else f"{new.rstrip('/')}{SUFFIX}"
            folder = old if old.endswith(":") else f"{old.rstrip('/')}/"
            if url.startswith(folder):
                return f"{new.rstrip('/')}/{url[len(folder) :].lstrip('/')}"
        return url


def read_mirror(text: str) -> Mirror:
    """Return what the user means by `--mirror`: a base address, or a file of lines `from = to`.

    A base holds `https://host/a/b.git` at `<base>/a/b.git`, whatever the host. In a file, `from` is the address
    of a repository or the beginning of many; blank lines and `#` comments are skipped.

    Raises:
        UsageError: it is neither, or a line of the file makes no sense.
    """
    if "://" in text or ADDRESS.fullmatch(text):
        reason = fault(f"{text.rstrip('/')}/")
        if reason:
            raise UsageError(
                f"--mirror {redact(text)} cannot be used",
                why=reason,
                fix="name it like https://host/path or file:///folder",
            )
        return Mirror(base=text)
    try:
        file = Path(text).expanduser()
        lines = [] if file.is_dir() else file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--mirror {text} cannot be read",
            why=getattr(error, "strerror", None) or "it is no text, or its name is no name",
            fix="name a base address, or a file of lines `from = to`",
        ) from None
    if file.is_dir():
        raise UsageError(f"--mirror {text} is a folder", fix=f"name it by its address: {file.absolute().as_uri()}")
    return Mirror(rules=_rules(file, lines))


def fault(url: str) -> str:
    """Return why git shall not be given an address, or nothing."""
    found = ADDRESS.fullmatch(url)
    if found is None or not url.isprintable():
        return "it is no address of https, http, ssh, git or file"
    if ".." in unquote(found["path"]).split("/"):
        return "it has '..' in it"
    if found["path"].startswith("-"):
        return "it looks like an option"
    if any(len(part.encode(errors="replace")) > LONGEST for part in unquote(found["path"]).split("/")):
        return "a part of it is longer than the name of a file may be"
    return ""


def _rules(file: Path, lines: list[str]) -> tuple[tuple[str, str], ...]:
    rules: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = RULE.fullmatch(line.strip())
        if found is None:
            raise _wrong(file, number, "it is not `from = to`")
        old, new = found["old"], found["new"]
        for side, address in (("left", old), ("right", new)):
            reason = fault(address if address.endswith(":") else f"{address.rstrip('/')}/")
            if reason:
                raise _wrong(file, number, f"on the {side}, {reason}")
        if stem(old) in rules:
            raise _wrong(file, number, "another line speaks of the same address")
        rules[stem(old)] = (old, new)
    if not rules:
        raise UsageError(f"{file} holds no rule", fix="write lines `from = to`, or leave `--mirror` out")
    return tuple(rules.values())


def stem(url: str) -> str:
    """Return what names a repository however its address ends."""
    return url.rstrip("/").removesuffix(SUFFIX)


def _wrong(file: Path, number: int, why: str) -> UsageError:
    """Return the error of a line, without showing it: it may hold a password."""
    return UsageError(f"{file}:{number} is no rule of a mirror", why=why, fix="write it as `from = to`, two addresses")
