from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mmstack.errors import HostError, UsageError
from mmstack.model import Compiler, Linker
from mmstack.toolchains.linkers import find, flags

MOLD, BFD = "mold 1.10.1 (compatible with GNU ld)", "GNU ld (GNU Binutils for Debian) 2.40"
LLD = "Debian LLD 14.0.6 (compatible with GNU linkers)"
OLD_GCC = "c++: error: unrecognized command-line option '-fuse-ld=mold'; did you mean '-fuse-ld=gold'?"


class Machine:
    """A PATH with linkers on it, and a compiler that says what these say, or why it calls none."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cases: list[str] = []

    def linker(self, name: str) -> None:
        """Put a linker on PATH."""
        (self.root / f"ld.{name}").write_text("#!/bin/sh\n", encoding="utf-8")
        (self.root / f"ld.{name}").chmod(0o755)

    def says(self, words: str, text: str, status: int = 0) -> None:
        """Have the compiler answer so when it is called with these words."""
        self.cases.append(f'"{words}") echo "collect2 version 12.2.0"; echo "{text}"; exit {status};;')

    def find(self, wish: str) -> Linker:
        """Look for what is wished."""
        cxx = self.root / "c++"
        cxx.write_text(f'#!/bin/sh\ncase "$*" in\n{"".join(self.cases)}\n*) exit 1;; esac\n', encoding="utf-8")
        cxx.chmod(0o755)
        compiler = Compiler(cc=cxx, cxx=cxx, version="c++ (Debian 12.2.0-14) 12.2.0 [x86_64-linux-gnu]")
        return find(wish, compiler, {"PATH": str(self.root)})


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine of no linkers but those that a test adds."""
    return Machine(tmp_path)


@pytest.mark.parametrize("text", [MOLD, LLD, BFD, "GNU gold (GNU Binutils for Debian 2.40) 1.16"])
def test_the_compilers_own_linker_is_asked_who_it_is(machine: Machine, text: str) -> None:
    """Whatever stands behind its name; the compiler is told nothing."""
    machine.says("-Wl,--version", text)
    found = machine.find("default")
    assert found == Linker(kind="default", version=text)
    assert flags(found) == flags(None) == ""


def test_a_compiler_whose_linker_does_not_say_who_it_is_still_links(machine: Machine) -> None:
    """Its key holds nothing of a linker then."""
    machine.says("-Wl,--version", "ld: unknown option: --version", status=1)
    assert machine.find("default") == Linker(kind="default", version="")


@pytest.mark.parametrize(("wish", "text"), [("mold", MOLD), ("lld", LLD)])
def test_the_linker_that_is_wished_for_is_taken(machine: Machine, wish: str, text: str) -> None:
    """With what it says of itself when this compiler calls it."""
    machine.says(f"-fuse-ld={wish} -Wl,--version", text)
    found = machine.find(wish)
    assert found == Linker(kind=wish, version=text)
    assert flags(found) == f"-fuse-ld={wish}"


def test_a_linker_that_is_not_here_is_not_replaced(machine: Machine) -> None:
    """It is said which one is missing, and what installs it."""
    machine.says("-Wl,--version", BFD)
    with pytest.raises(HostError, match="mold is not on this machine") as caught:
        machine.find("mold")
    assert "apt-get install mold" in caught.value.fix


def test_a_linker_that_the_compiler_does_not_know_is_refused(machine: Machine) -> None:
    """With what the compiler said of it, and before anything is compiled."""
    machine.linker("mold")
    machine.cases.append(f'"-fuse-ld=mold -Wl,--version") echo "{OLD_GCC}"; exit 1;;')
    with pytest.raises(HostError, match=r"g\+\+ 12\.2\.0 does not link with mold") as caught:
        machine.find("mold")
    assert caught.value.why == OLD_GCC


def test_a_linker_of_another_kind_in_its_place_is_refused(machine: Machine) -> None:
    """What links must be what was asked for, not what has its name."""
    machine.linker("lld")
    machine.says("-fuse-ld=lld -Wl,--version", BFD)
    with pytest.raises(HostError, match="does not link with lld") as caught:
        machine.find("lld")
    assert "something else" in caught.value.why


@pytest.mark.parametrize(("here", "taken"), [(("mold", "lld"), "mold"), (("lld",), "lld"), ((), "default")])
def test_auto_takes_the_first_that_the_compiler_links_with(machine: Machine, here: tuple[str, ...], taken: str) -> None:
    """Its own where there is no other."""
    machine.says("-Wl,--version", BFD)
    for kind in here:
        machine.says(f"-fuse-ld={kind} -Wl,--version", {"mold": MOLD, "lld": LLD}[kind])
    assert machine.find("auto").kind == taken


def test_a_linker_that_nobody_knows_is_a_mistake(machine: Machine) -> None:
    """With what was perhaps meant."""
    with pytest.raises(UsageError, match="there is no linker 'modl'") as caught:
        machine.find("modl")
    assert "mold" in caught.value.why


def test_this_machines_compiler_tells_its_linker() -> None:
    """As it calls it itself."""
    compiler = Compiler(cc=Path("cc"), cxx=Path("c++"), version="c++")
    said = subprocess.run(["c++", "-Wl,--version"], check=True, capture_output=True, text=True).stdout
    found = find("default", compiler, os.environ)
    assert found.version
    assert found.version in said
