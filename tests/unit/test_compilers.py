from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstack.errors import ConstraintError, HostError
from mmstack.model import Compiler, CudaRelease
from mmstack.toolchains.compilers import choose, family_and_version, find_compilers, probe

RELEASE = CudaRelease(
    version="12.6",
    gcc="<14",
    clang="<19",
    driver=">=525.60.13",
    architectures=(),
    wheels=(),
    manifest=None,
    components=(),
    file=Path("toolkits/12.6.toml"),
)


def compiler(says: str) -> Compiler:
    """Return a compiler that says this of itself."""
    return Compiler(cc=Path("cc"), cxx=Path(says.partition(" ")[0]), version=f"{says} [x86_64-linux-gnu]")


GCC11, GCC12 = compiler("g++-11 (Debian 11.3.0-12) 11.3.0"), compiler("g++ (Debian 12.2.0-14) 12.2.0")
GCC13, GCC14 = compiler("g++-13 (Ubuntu 13.3.0-6ubuntu2) 13.3.0"), compiler("g++-14 (Debian 14.2.0-19) 14.2.0")
CLANG18, CLANG19 = compiler("Debian clang version 18.1.8"), compiler("Debian clang version 19.1.7 (3)")
STRANGE = compiler("some compiler of its own kind")


class Machine:
    """Folders of PATH with compilers that are scripts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path: list[str] = []

    def add(self, name: str, says: str, *, folder: str = "bin") -> Path:
        """Put a program into a folder of PATH."""
        place = self.root / folder
        place.mkdir(exist_ok=True)
        if str(place) not in self.path:
            self.path.append(str(place))
        path = place / name
        path.write_text(f'#!/bin/sh\n[ "$1" = -dumpmachine ] && echo x86_64-linux-gnu && exit\n{says}\n')
        path.chmod(0o755)
        return path

    def pair(self, version: str, *, family: str = "g++", folder: str = "bin") -> Path:
        """Put a C++ compiler and its C twin into a folder of PATH."""
        suffix = f"-{version.partition('.')[0]}"
        self.add({"g++": "gcc", "clang++": "clang"}[family] + suffix, "echo C", folder=folder)
        says = "g++ (X 1.0)" if family == "g++" else "clang version"
        return self.add(family + suffix, f"echo '{says} {version}'; echo more", folder=folder)

    def find(self) -> tuple[Compiler, ...]:
        """Look for compilers."""
        return find_compilers({"PATH": os.pathsep.join(self.path)})


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine without compilers."""
    return Machine(tmp_path)


def test_all_compilers_are_found_newest_first(machine: Machine) -> None:
    """Of every family and version, with the C compiler that belongs to each, described as the host's own is."""
    paths = [machine.pair("9.5.0"), machine.pair("12.2.0"), machine.pair("14.0.6", family="clang++")]
    found = machine.find()
    assert [item.cxx for item in found] == [paths[2], paths[1], paths[0]]
    assert [item.cc.name for item in found] == ["clang-14", "gcc-12", "gcc-9"]
    assert found[1].version == "g++ (X 1.0) 12.2.0 [x86_64-linux-gnu]"


def test_g_comes_before_clang_of_the_same_version(machine: Machine) -> None:
    """Where versions do not decide, the family does."""
    clang, gcc = machine.pair("14.0.0", family="clang++"), machine.pair("14.0.0")
    assert [item.cxx for item in machine.find()] == [gcc, clang]


def test_a_compiler_under_two_names_counts_once(machine: Machine) -> None:
    """`g++` is mostly a link to `g++-12`."""
    machine.pair("12.2.0")
    (machine.root / "bin" / "g++").symlink_to("g++-12")
    (machine.root / "bin" / "gcc").symlink_to("gcc-12")
    assert len(machine.find()) == 1


def test_by_what_name_gcc_is_called_is_no_matter(machine: Machine) -> None:
    """It says so first, and what it compiles is the same; clang says nothing of it."""
    cc = machine.add("gcc", "echo 'gcc (X 1.0) 12.2.0'")
    says = {name: machine.add(name, 'echo "$(basename "$0") (X 1.0) 12.2.0"') for name in ("g++", "c++", "g++-12")}
    assert {probe(cc, cxx, os.environ).version for cxx in says.values()} == {"g++ (X 1.0) 12.2.0 [x86_64-linux-gnu]"}
    clang = machine.add("clang++", "echo 'X clang version 14.0.0 (tag)'")
    assert probe(clang, clang, os.environ).version == "X clang version 14.0.0 (tag) [x86_64-linux-gnu]"


def test_two_compilers_behind_one_cache_count_twice(machine: Machine) -> None:
    """A program such as ccache stands for whatever it is called by."""
    cache = machine.add("cache", 'case "$0" in *clang*) echo clang version 15.0.1;; *) echo g++ 12.2.0;; esac')
    for name in ("g++", "gcc", "clang++", "clang"):
        (machine.root / "bin" / name).symlink_to(cache)
    assert [item.cxx.name for item in machine.find()] == ["clang++", "g++"]


def test_the_first_of_path_hides_those_behind_it(machine: Machine) -> None:
    """The same name means what the shell would run."""
    first = machine.pair("12.3.0")
    machine.pair("12.2.0", folder="later")
    assert [item.cxx for item in machine.find()] == [first]


def test_what_does_not_work_is_left_out(machine: Machine) -> None:
    """Broken, without its C twin, not executable, of no known kind, of another name: none of them is a compiler."""
    good = machine.pair("11.4.0")
    machine.pair("12.2.0").write_text("#!/bin/sh\necho cc1plus is missing\nexit 1\n")
    machine.add("g++-13", "echo g++ 13.1.0")
    machine.pair("14.1.0").chmod(0o644)
    machine.add("gcc-15", "echo C")
    machine.add("g++-15", "echo who knows")
    machine.add("x86_64-conda-g++-10", "echo g++ 10.1.0")
    machine.path.append(str(machine.root / "gone"))
    assert [item.cxx for item in machine.find()] == [good]


def test_a_machine_without_compilers_has_none(machine: Machine) -> None:
    """That is a fact, not an error."""
    assert machine.find() == ()


def test_the_newest_that_nvcc_accepts_is_chosen() -> None:
    """Not the default, not the newest of all, and g++ rather than a clang++ of a higher number."""
    here = (CLANG19, CLANG18, GCC14, GCC13, GCC12)
    assert choose(RELEASE, here, GCC12, explicit=False) == GCC13


def test_clang_serves_where_no_g_does() -> None:
    """It is asked last, and only within its own bounds."""
    assert choose(RELEASE, (CLANG19, CLANG18, GCC14), GCC14, explicit=False) == CLANG18


def test_the_default_serves_where_no_others_were_looked_for() -> None:
    """Its paths are the user's own, so it also comes before its equal."""
    assert choose(RELEASE, (), GCC12, explicit=False) == GCC12
    twin = compiler("g++-12 (Debian 12.2.0-14) 12.2.0")
    assert choose(RELEASE, (twin,), GCC12, explicit=False) == GCC12


@pytest.mark.parametrize("accepted", [GCC11, CLANG18, STRANGE])
def test_a_named_compiler_is_taken_at_its_word(accepted: Compiler) -> None:
    """A newer one does not replace it; one that we do not know is nvcc's own to judge."""
    assert choose(RELEASE, (GCC13,), accepted, explicit=True) == accepted


@pytest.mark.parametrize(("named", "title"), [(GCC14, r"g\+\+ 14\.2\.0"), (CLANG19, r"clang\+\+ 19\.1\.7")])
def test_a_named_compiler_out_of_bounds_is_refused(named: Compiler, title: str) -> None:
    """It is not replaced either: the error gives the bound and the commands."""
    with pytest.raises(ConstraintError, match=rf"^{title} is too new for CUDA 12\.6's nvcc") as caught:
        choose(RELEASE, (GCC13,), named, explicit=True)
    assert "g++ <14" in caught.value.why
    assert "`apt-get install g++-13`, then `CC=gcc-13 CXX=g++-13`" in caught.value.fix
    assert "leave CC and CXX unset" in caught.value.fix


@pytest.mark.parametrize(("bounds", "remedy"), [(">=12,<14", "g++-13`"), (">=12", "g++`")])
def test_a_named_compiler_may_be_too_old(bounds: str, remedy: str) -> None:
    """Bounds have two sides."""
    with pytest.raises(ConstraintError, match=r"g\+\+ 11\.3\.0 is too old") as caught:
        choose(replace(RELEASE, gcc=bounds), (GCC13,), GCC11, explicit=True)
    assert f"apt-get install {remedy}" in caught.value.fix


def test_a_named_compiler_that_does_not_work_is_not_replaced() -> None:
    """No fall-back that was not asked for."""
    with pytest.raises(HostError, match="CC and CXX name no working compilers"):
        choose(RELEASE, (GCC13,), None, explicit=True)


@pytest.mark.parametrize(
    ("here", "said"),
    [((), "here is none"), ((CLANG19, GCC14), r"here is clang\+\+ 19\.1\.7, g\+\+ 14\.2\.0"), ((STRANGE,), "own kind")],
)
def test_no_accepted_compiler_is_an_error_that_says_what_to_install(here: tuple[Compiler, ...], said: str) -> None:
    """What nvcc accepts, what is here, and the command."""
    with pytest.raises(HostError, match=said) as caught:
        choose(RELEASE, here, None, explicit=False)
    assert "apt-get install g++-13" in caught.value.fix
    assert "g++ <14 and clang++ <19" in caught.value.why


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g++ (Debian 12.2.0-14+deb12u1) 12.2.0 [x86_64-linux-gnu]", ("gcc", "12.2.0")),
        ("c++ (GCC) 8.5.0 20210514 (Red Hat 8.5.0-22)", ("gcc", "8.5.0")),
        ("x86_64-conda-linux-gnu-c++ (crosstool-NG 1.25.0.95) 11.4.0", ("gcc", "11.4.0")),
        ("Debian clang version 14.0.6", ("clang", "14.0.6")),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)", ("clang", "15.0.0")),
        ("some compiler of its own kind", None),
        ("", None),
    ],
)
def test_a_compiler_is_known_by_what_it_says(text: str, expected: tuple[str, str] | None) -> None:
    """The distribution's notes in brackets are not its version."""
    assert family_and_version(text) == expected


@given(st.text(max_size=60))
def test_anything_may_be_said(text: str) -> None:
    """What no compiler says is no error."""
    found = family_and_version(text)
    assert found is None or found[0] in {"gcc", "clang"}
