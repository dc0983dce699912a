"""What a compiler links with: its own linker, or a faster one that the user asks for.

Every build learns it from `LDFLAGS`: CMake begins a project's linker flags with it, and setuptools links by it.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

from mmstack.errors import CommandError, HostError, UsageError, did_you_mean
from mmstack.model import Linker
from mmstack.run import run
from mmstack.toolchains.compilers import title

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmstack.model import Compiler

OWN = "default"
# What each says of itself, the fastest first. A linker that is asked for must answer by its own name: a program of
# another kind may stand in its place.
SAYS = {
    "mold": re.compile(r"^mold \d[^\n]*", re.MULTILINE),
    "lld": re.compile(r"^(?:\S+ )?LLD \d[^\n]*", re.MULTILINE),
}
SAYS_OWN = re.compile(r"^(?:GNU (?:ld|gold)\b|mold \d|(?:\S+ )?LLD \d)[^\n]*", re.MULTILINE)
WISHES = (OWN, "auto", *SAYS)


def find(wish: str, compiler: Compiler, environ: Mapping[str, str]) -> Linker:
    """Return the linker that is wished for; `auto` is the first of mold and lld that the compiler links with.

    Raises:
        UsageError: there is no such linker.
        HostError: it is not on this machine, or the compiler does not link with it.
    """
    if wish not in WISHES:
        raise UsageError(f"there is no linker '{wish}'", why=did_you_mean(wish, WISHES), fix="choose one of these")
    for kind in SAYS if wish == "auto" else ():
        if found := SAYS[kind].search(_ask(compiler.cxx, kind, environ)[0]):
            return Linker(kind=kind, version=found[0])
    if wish in SAYS:
        return _named(wish, compiler, environ)
    own = SAYS_OWN.search(_ask(compiler.cxx, OWN, environ)[0])
    return Linker(kind=OWN, version=own[0] if own else "")


def flags(linker: Linker | None) -> str:
    """Return what a compiler must be told to link with it, nothing for its own."""
    return f"-fuse-ld={linker.kind}" if linker and linker.kind != OWN else ""


def _named(kind: str, compiler: Compiler, environ: Mapping[str, str]) -> Linker:
    said, why = _ask(compiler.cxx, kind, environ)
    if found := SAYS[kind].search(said):
        return Linker(kind=kind, version=found[0])
    if shutil.which(f"ld.{kind}", path=environ.get("PATH", os.defpath)) is None:
        raise HostError(
            f"{kind} is not on this machine",
            why=f"no ld.{kind} is on PATH",
            fix=f"install it, e.g. `apt-get install {kind}`, or leave `--linker` out",
        )
    raise HostError(
        f"{title(compiler)} does not link with {kind}",
        why=why,
        fix="take a newer compiler (g++ knows mold from 12.1 on), another linker, or leave `--linker` out",
    )


def _ask(cxx: Path, kind: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return what the linker says of itself when the compiler calls it, and why it says nothing."""
    told = [] if kind == OWN else [f"-fuse-ld={kind}"]
    try:
        said = run([cxx, *told, "-Wl,--version"], env={"PATH": os.defpath, **environ, "LC_ALL": "C"}).output
    except (CommandError, HostError) as error:
        return "", error.why.splitlines()[0] if error.why else error.what
    return said, f"`{' '.join(told)}` calls something else"
