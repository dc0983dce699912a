from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.markers import default_environment
from packaging.tags import sys_tags

from mmstack.envs import uv_path
from mmstack.errors import DiskError, HostError, UsageError
from mmstack.host import (
    cores,
    describe,
    disk_free,
    find_compiler,
    find_gpus,
    find_installed,
    find_python,
    glibc,
    look,
    memory,
)
from mmstack.sweep import ASIDE

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD = {
    "version": "3.11.7",
    "implementation": "cpython",
    "free_threaded": False,
    "debug": False,
    "platform": "linux-x86_64",
    "markers": {"python_version": "3.11", "python_full_version": "3.11.7", "implementation_name": "cpython"},
}


class Machine:
    """A machine whose programs are scripts of our own: only they are on PATH."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        self.cache = root / "state" / "pythons.json"
        self.uv = self.program("uv", "")
        self.installed: list[tuple[str, Path]] = []
        self.install()

    def program(self, name: str, script: str) -> Path:
        """Write a shell script onto PATH, or elsewhere by a path."""
        path = self.bin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def python(self, name: str = "python", **facts: Any) -> Path:  # noqa: ANN401 - whatever a Python may say
        """Write an interpreter that says these facts of itself and counts how often it was asked."""
        include = self.root / "include"
        include.mkdir(exist_ok=True)
        (include / "Python.h").touch()
        path = self.bin / name
        answer = {**GOOD, "executable": str(path), "include": str(include), **facts}
        return self.program(name, f"echo asked >> {self.root}/asked\necho noise\necho '{json.dumps(answer)}'")

    def asked(self) -> int:
        """Return how often interpreters were asked."""
        log = self.root / "asked"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def install(self, *pythons: tuple[str, Path]) -> None:
        """Let uv know these Pythons."""
        self.installed += pythons
        listing = json.dumps([{"version": version, "path": str(path)} for version, path in self.installed])
        known = f'[ "$1" = python ] && echo "warning: a broken shim" && echo \'{listing}\' && exit'
        self.program("uv", f'[ "$1" = --version ] && echo "uv 0.13.8 (target)" && exit\n{known}')

    def find(self, request: str) -> Any:  # noqa: ANN401 - an Interpreter, whose parts the tests read
        """Look for a Python."""
        return find_python(request, uv=self.uv, cache=self.cache)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a machine with uv and nothing else."""
    for name in ("CC", "CXX", "PYENV_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Machine(tmp_path)


def test_look_gathers_all_facts(machine: Machine) -> None:
    """One call tells what a plan needs to know, and why what is wanting is wanting."""
    machine.install(("3.11.7", machine.python()))
    machine.program("cc", "echo x")
    machine.program("c++", "echo 'c++ (Debian 12.2.0-14) 12.2.0'")
    machine.program("nvidia-smi", "echo broken driver; exit 9")
    host = look(machine.uv, state=machine.root / "state", cache=machine.cache, minors=("3.11", "3.12"))
    assert [python.version for python in host.pythons] == ["3.11.7"]
    assert host.compiler is not None
    assert (host.uv, host.gpus, host.cores >= 1, host.disk_free > 0, host.memory > 0) == (
        "0.13.8",
        (),
        True,
        True,
        True,
    )
    assert host.notes["python 3.12"] == "there are 3.11.7"
    assert "broken driver" in host.notes["gpu"]
    assert set(host.notes) == {"python 3.12", "gpu"}


def test_one_python_is_enough_where_that_was_asked(machine: Machine) -> None:
    """The first of the versions that is here ends the search."""
    machine.install(("3.12.1", machine.python("newer", version="3.12.1")), ("3.11.7", machine.python()))
    for one, versions in ((True, ["3.12.1"]), (False, ["3.12.1", "3.11.7"])):
        host = look(
            machine.uv, state=machine.root, cache=machine.cache, minors=("3.13", "3.12", "3.11"), one_python=one
        )
        assert [python.version for python in host.pythons] == versions
        assert "python 3.13" in host.notes


def test_a_bare_machine_is_described_without_an_error(machine: Machine) -> None:
    """Nothing there is a fact like others."""
    machine.uv.unlink()
    host = look(machine.uv, state=machine.root, cache=machine.cache, minors=("3.11",))
    assert (host.uv, host.pythons, host.compiler, host.gpus) == ("", (), None, ())
    assert {"uv", "compiler", "python 3.11"} == set(host.notes)


def test_what_was_wanted_must_be_there(machine: Machine) -> None:
    """A Python that the user asked for by name is not replaced by another."""
    machine.install(("3.11.7", machine.python()))
    with pytest.raises(HostError, match=r"Python 3\.13 is not on this machine"):
        look(machine.uv, state=machine.root, cache=machine.cache, minors=("3.11",), wanted=("3.13",))
    host = look(machine.uv, state=machine.root, cache=machine.cache, minors=("3.11",), wanted=("3.11", "3.11.7"))
    assert len(host.pythons) == 1


@pytest.mark.parametrize("trouble", [PermissionError(13, "Permission denied"), RuntimeError("no home")])
def test_a_pyenv_that_cannot_be_looked_at_is_none(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """Of another user, or of one without a home; other Pythons are found all the same."""

    def fail(*_args: object) -> Path:
        raise trouble

    machine.install(("3.11.7", machine.python("python3.11")))
    before = machine.find("3.11")
    monkeypatch.setattr(Path, "home", fail)
    assert machine.find("3.11") == before


@pytest.mark.parametrize("request_", ["3.11", "3.11.7"])
def test_a_version_is_found_where_uv_looks(machine: Machine, request_: str) -> None:
    """A minor or a full version; what uv warns of is skipped."""
    machine.install(
        ("3.10.2", machine.python("python3.10", version="3.10.2")), ("3.11.7", machine.python("python3.11"))
    )
    assert machine.find(request_).path == machine.bin / "python3.11"


def test_a_path_in_nobody_s_home_is_the_user_s_mistake(machine: Machine) -> None:
    """A tilde is read as the shell reads it, but where there is no such user it says so."""
    with pytest.raises(UsageError, match="--python: '~nosuchuser/python' is no path"):
        machine.find("~nosuchuser/python")


def test_a_state_that_cannot_be_written_is_not_taken_for_a_missing_python(machine: Machine) -> None:
    """The user shall mend the folder, not install what is there."""
    machine.install(("3.11.7", machine.python()))
    machine.cache.parent.touch()
    with pytest.raises(DiskError, match="cannot be written"):
        look(machine.uv, state=machine.root, cache=machine.cache, minors=("3.11",))


def test_a_version_is_not_a_prefix_of_another(machine: Machine) -> None:
    """3.1 is not 3.11, and 3.11.7 is not 3.11.70."""
    machine.install(("3.11.70", machine.python()))
    for request in ("3.1", "3.11.7"):
        with pytest.raises(HostError):
            machine.find(request)


def test_a_python_that_is_not_there_is_told_with_what_is(machine: Machine) -> None:
    """The error names the others, in order, and says how to get the one that was asked for."""
    machine.install(("3.12.1", machine.python("a")), ("3.9.1", machine.python("b")))
    with pytest.raises(HostError) as caught:
        machine.find("3.11")
    assert caught.value.why == "there are 3.9.1, 3.12.1"
    assert "uv python install 3.11" in caught.value.fix


def test_a_uv_that_lists_nothing_is_not_taken_for_a_machine_without_pythons(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own settings may be wrong, and it says which."""
    monkeypatch.setenv("UV_CONFIG_FILE", "/nowhere/uv.toml")
    with pytest.raises(HostError, match="uv does not list") as caught:
        find_python("3.11", uv=uv_path(), cache=machine.cache)
    assert "/nowhere/uv.toml" in caught.value.why


def test_uv_asks_each_python_once(machine: Machine) -> None:
    """It has a cache of its own beside ours, or it runs all of them at each start."""
    machine.install(("3.11.7", machine.python()))
    words = f'echo "$*" >> {machine.root}/words\n'
    machine.uv.write_text(machine.uv.read_text().replace("\n", f"\n{words}", 1))
    assert machine.find("3.11").version == "3.11.7"
    (said,) = (machine.root / "words").read_text().splitlines()
    assert f"--cache-dir {machine.cache.parent}/pythons" in said


@pytest.mark.parametrize(
    "trouble", ["echo 'cause: /s/pythons/.tmp1: full'; echo '[]'; exit", "echo broken >&2; exit 2"]
)
def test_where_uv_has_difficulties_with_its_cache_it_does_without(machine: Machine, trouble: str) -> None:
    """On a full disk it passes over each Python that it cannot write down; on one that cannot be written it ends."""
    machine.install(("3.11.7", machine.python()))
    script = machine.uv.read_text()
    cached = f'case "$*" in *--cache-dir*) {trouble};; esac'
    machine.uv.write_text(script.replace("\n", f"\n{cached}\n", 1))
    assert machine.find("3.11").version == "3.11.7"


def test_no_uv_is_told(machine: Machine) -> None:
    """Versions cannot be looked for without it."""
    machine.uv.unlink()
    with pytest.raises(HostError, match="uv is not on this machine"):
        machine.find("3.11")


def test_pyenv_s_pythons_stand_where_its_shims_do(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim runs what is activated and no more; uv gets the interpreters themselves, the newest first."""
    root = machine.root / "pyenv"
    for version in ("3.11.9", "3.11.10", "3.12.1"):
        (root / "versions" / version / "bin").mkdir(parents=True)
    monkeypatch.setenv("PYENV_ROOT", str(root))
    monkeypatch.setenv("PATH", f"/first:{root}/shims:/last")
    machine.program("uv", f'echo "$PATH" >> {machine.root}/paths; echo "[]"')
    with pytest.raises(HostError):
        machine.find("3.11")
    first, second, other = (f"{root}/versions/{version}/bin" for version in ("3.11.10", "3.11.9", "3.12.1"))
    monkeypatch.setenv("PATH", "/first")
    with pytest.raises(HostError):
        machine.find("3.12")
    assert (machine.root / "paths").read_text().splitlines() == [
        f"/first:{first}:{second}:/last",
        f"/first:{other}:{first}:{second}:/last",
        f"/first:{other}",
        f"/first:{other}:{first}:{second}",
    ]


@pytest.mark.parametrize("request_", ["banana", "3", "", "3.x", "cpython-3.11", "3.11; rm"])
def test_a_request_is_a_version_or_a_path(machine: Machine, request_: str) -> None:
    """Anything else is wrong usage, and uv is not asked."""
    with pytest.raises(UsageError, match="neither a version of Python nor a path"):
        machine.find(request_)


def test_an_interpreter_may_be_named_by_its_path(machine: Machine) -> None:
    """The many who have one already need no search."""
    path = machine.python("elsewhere/python")
    assert machine.find(str(path)).path == path


@pytest.mark.parametrize("script", ["exit 3", "echo '{broken'", "echo nothing of use", "kill -9 $$"])
def test_a_program_that_is_no_python_is_refused(machine: Machine, script: str) -> None:
    """Whatever it answers, the error names it."""
    path = machine.program("odd/python", script)
    with pytest.raises(HostError, match="is no working Python") as caught:
        machine.find(str(path))
    assert caught.value.why


def test_a_path_that_is_no_program_is_refused(machine: Machine) -> None:
    """Neither nothing nor a folder nor a plain file is a Python."""
    plain = machine.root / "plain"
    plain.touch()
    for path in (machine.root / "none", machine.root, plain):
        with pytest.raises(HostError, match=r"is no (working )?Python"):
            machine.find(str(path))


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"implementation": "pypy"}, "it is pypy"),
        ({"free_threaded": True}, "free-threaded"),
        ({"debug": True}, "debug build"),
        ({"include": "/nowhere"}, r"no Python\.h"),
        ({"include": "/" + "x" * 300}, r"no Python\.h"),  # a name that no file can have
    ],
)
def test_pythons_that_cannot_be_built_for_are_refused_with_a_reason(
    machine: Machine, facts: dict[str, Any], reason: str
) -> None:
    """By path the error is theirs; by version it says why the one that is there does not do."""
    path = machine.python(**facts)
    with pytest.raises(HostError, match="cannot be used") as caught:
        machine.find(str(path))
    assert caught.value.fix
    machine.install(("3.11.7", path))
    with pytest.raises(HostError, match=reason):
        machine.find("3.11")


HELD = {"version": "2.1", "cuda": "12.8", "architectures": ["9.0+PTX"], "digest": "1" * 64, "folders": ["/site"]}


@pytest.mark.parametrize("without", ["", None])
def test_what_a_python_holds_is_what_the_layer_s_script_says(machine: Machine, without: str | None) -> None:
    """Its release, its files, and what GPUs it has code for, if any."""
    python, script = machine.bin / "holder", machine.root / "installed.py"
    machine.program(python.name, f"echo noise; echo '{json.dumps(HELD)}'")
    found = find_installed(python, script)
    assert (found.version, found.folders) == ("2.1", (Path("/site"),))
    assert found.support
    assert (found.support.version, *map(str, found.support.architectures)) == ("12.8", "9.0+PTX")
    machine.program(python.name, f"echo '{json.dumps({**HELD, 'cuda': without})}'")
    assert find_installed(python, script).support is None


@pytest.mark.parametrize(
    "facts",
    [
        {"version": 2},
        {"version": "two"},
        {"digest": None},
        {"folders": "/site"},
        {"folders": [1]},
        {"cuda": 12.8},
        {"cuda": "twelve"},
        {"architectures": "9.0"},
        {"architectures": ["hopper"]},
    ],
)
def test_what_a_python_says_of_a_layer_in_another_way_is_refused(machine: Machine, facts: dict[str, Any]) -> None:
    """The plan would be made by it."""
    python = machine.program("holder", f"echo '{json.dumps({**HELD, **facts})}'")
    with pytest.raises(HostError, match="does not hold this layer") as caught:
        find_installed(python, machine.root / "installed.py")
    assert caught.value.fix


def test_an_unusable_python_does_not_hide_a_usable_one(machine: Machine) -> None:
    """The distribution's own, without headers, often stands first."""
    poor = machine.python("poor", include="/nowhere")
    machine.install(("3.11.2", poor), ("3.11.7", machine.python("rich")))
    assert machine.find("3.11").path == machine.bin / "rich"


def test_headers_that_were_installed_since_are_seen(machine: Machine) -> None:
    """The cache remembers what the program said, not what its folders hold."""
    include = machine.root / "later"
    path = machine.python(include=str(include))
    with pytest.raises(HostError):
        machine.find(str(path))
    include.mkdir()
    (include / "Python.h").touch()
    assert machine.find(str(path)).version == "3.11.7"
    assert machine.asked() == 1


def test_facts_are_asked_once_for_each_state_of_a_program(machine: Machine) -> None:
    """A run that has nothing to do starts no Python; a changed one is asked again."""
    path = machine.python()
    assert machine.find(str(path)) == machine.find(str(path))
    assert machine.asked() == 1
    machine.python(version="3.11.8")
    os.utime(path, ns=(1, 1))
    assert machine.find(str(path)).version == "3.11.8"
    assert machine.asked() == 2


def test_a_shim_is_asked_each_time(machine: Machine) -> None:
    """The same file runs now this Python, now that."""
    real = machine.python("real")
    shim = machine.program("shim", f'exec {real} "$@"')
    for _ in range(2):
        assert machine.find(str(shim)).path == real
    assert machine.asked() == 2


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.one_of(st.binary(max_size=20), st.sampled_from([b"[1]", b"{}", b'{"a": 1}', b"null"])))
def test_a_damaged_cache_is_forgotten(machine: Machine, junk: bytes) -> None:
    """It is only a cache."""
    path = machine.python()
    machine.cache.parent.mkdir(exist_ok=True)
    machine.cache.write_bytes(junk)
    assert machine.find(str(path)).version == "3.11.7"
    assert str(path) in json.loads(machine.cache.read_text())


def test_a_cache_that_cannot_be_written_is_told(machine: Machine) -> None:
    """A state folder that is not ours ends the run with its name."""
    machine.cache.parent.write_text("a file where the folder should be")
    with pytest.raises(DiskError, match=r"pythons\.json cannot be written"):
        machine.find(str(machine.python()))


def test_a_cache_that_was_not_written_to_its_end_leaves_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder in which something strange lies `invoke gc` removes nothing ever again."""

    def full(file: Path, *_words: str, **_more: str) -> None:
        file.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    path = machine.python()
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DiskError, match=r"pythons\.json cannot be written"):
        machine.find(str(path))
    assert list(machine.cache.parent.iterdir()) == []


def test_what_a_kill_leaves_of_the_cache_is_known_for_ours(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing removes it then but a sweep."""
    kept: list[str] = []
    monkeypatch.setattr(Path, "replace", lambda file, _target: kept.append(file.name))
    machine.find(str(machine.python()))
    assert kept == [f".new-pythons.json.{os.getpid()}"]
    assert kept[0].startswith(ASIDE)


def test_a_real_interpreter_is_described_as_it_describes_itself(machine: Machine) -> None:
    """Version, ABI, markers and the order of its tags, all as the running Python has them."""
    (machine.root / "Python.h").touch()
    include = f's#"include": "[^"]*"#"include": "{machine.root}"#'
    path = machine.program("python", f"'{sys.executable}' \"$@\" | /usr/bin/env PATH=/usr/bin:/bin sed '{include}'")
    interpreter = describe(path, cache=machine.cache)
    assert interpreter.path == Path(sys.executable)
    assert interpreter.tags == tuple(map(str, sys_tags()))
    assert interpreter.markers == {**default_environment(), "python_full_version": interpreter.version}
    assert (interpreter.tag, interpreter.platform) == next((tag.abi, tag.platform) for tag in _plain_tags())
    assert interpreter.minor == f"{sys.version_info.major}.{sys.version_info.minor}"


def _plain_tags() -> Iterator[Any]:
    return (tag for tag in sys_tags() if not tag.platform.startswith(("many", "musl")))


@pytest.mark.parametrize("pair", [("cc", "c++"), ("gcc", "g++"), ("clang", "clang++")])
def test_compilers_are_found_by_their_usual_names(machine: Machine, pair: tuple[str, str]) -> None:
    """A pair counts where both are there; the version is what the C++ compiler says."""
    machine.program("cc", "")
    for name in pair:
        machine.program(name, f'[ "$1" = -dumpmachine ] && echo x86_64-linux || printf "{name} 12.2.0\\nmore\\n"')
    compiler, reason = find_compiler()
    assert compiler is not None
    assert (compiler.cc, compiler.cxx) == (machine.bin / pair[0], machine.bin / pair[1])
    assert (compiler.version, reason) == (f"{pair[1]} 12.2.0 [x86_64-linux]", "")


def test_no_compiler_is_a_fact_with_a_reason(machine: Machine) -> None:
    """A C compiler without its C++ part is not enough."""
    machine.program("gcc", "")
    assert find_compiler() == (None, "none of c++, g++, clang++ is on PATH")


def test_a_compiler_may_be_named_from_here(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that one, whatever PATH has, and wherever a build runs."""
    for name in ("gcc", "g++"):
        machine.program(name, "echo other")
    pair = machine.program("mine/gcc", "echo mine"), machine.program("mine/g++", "echo mine")
    monkeypatch.chdir(pair[0].parent)
    monkeypatch.setenv("CC", "./gcc")
    monkeypatch.setenv("CXX", "./g++")
    compiler, _reason = find_compiler()
    assert compiler is not None
    assert (compiler.cc, compiler.cxx, compiler.version) == (*pair, "mine [mine]")


def test_the_compilers_that_the_user_names_are_taken(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """`CC` and `CXX` come before what is on PATH."""
    for name in ("cc", "c++"):
        machine.program(name, f"echo {name}")
    pair = machine.program("mine/c", "echo mine"), machine.program("mine/cxx", "echo mine")
    for variable, path in zip(("CC", "CXX"), pair, strict=True):
        monkeypatch.setenv(variable, str(path))
    compiler, _reason = find_compiler()
    assert compiler is not None
    assert (compiler.cc, compiler.cxx, compiler.version) == (*pair, "mine [mine]")


@pytest.mark.parametrize(
    ("variable", "value", "other"),
    [("CXX", "g++-12", "gcc-12"), ("CC", "clang", "clang++"), ("CXX", "x86_64-linux-gnu-c++", "x86_64-linux-gnu-cc")],
)
def test_one_compiler_alone_brings_the_other_of_its_pair(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, other: str
) -> None:
    """Not what PATH has under the usual name, which may be of another version."""
    for name in ("cc", "c++", value):
        machine.program(name, f"echo {name}")
    monkeypatch.setenv(variable, value)
    assert find_compiler() == (None, f"{value} is half a pair: {other} is not here, and {_other(variable)} not set")
    machine.program(other, "echo x")
    compiler, _reason = find_compiler()
    assert compiler is not None
    assert {compiler.cc.name, compiler.cxx.name} == {value, other}


def _other(variable: str) -> str:
    return {"CC": "CXX", "CXX": "CC"}[variable]


def test_a_name_that_tells_of_no_pair_needs_both(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is guessed."""
    for name in ("cc", "c++", "mine"):
        machine.program(name, f"echo {name}")
    monkeypatch.setenv("CXX", "mine")
    assert find_compiler() == (None, "mine is half a pair: what goes with it is not here, and CC not set")


def test_another_pair_is_taken_where_the_first_is_none(machine: Machine) -> None:
    """A distribution's alternatives may set each name by itself."""
    machine.program("cc", "echo 'cc (Ubuntu 13.3.0-6ubuntu2) 13.3.0'")
    machine.program("c++", "echo 'Ubuntu clang version 18.1.3'")
    for name in ("gcc", "g++"):
        machine.program(name, f"echo '{name} (Ubuntu 13.3.0-6ubuntu2) 13.3.0'")
    compiler, _reason = find_compiler()
    assert compiler is not None
    assert compiler.cxx.name == "g++"


def test_a_pair_is_of_one_version(machine: Machine) -> None:
    """The key of what they compile names the C++ compiler alone."""
    machine.program("cc", "echo 'cc (Ubuntu 13.3.0-6ubuntu2) 13.3.0'")
    machine.program("c++", "echo 'c++ (Ubuntu 12.4.0-2ubuntu1) 12.4.0'")
    compiler, reason = find_compiler()
    assert compiler is None
    assert reason.startswith("CC and CXX must name a pair of one version: ")


@pytest.mark.parametrize("value", ["nosuch", "ccache c++", "/nowhere/c++"])
def test_a_named_compiler_that_is_not_there_is_not_replaced(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """No fall-back that was not asked for."""
    for name in ("cc", "c++"):
        machine.program(name, "")
    monkeypatch.setenv("CXX", value)
    assert find_compiler() == (None, f"CXX={value}: not the name of one program on this machine")


def test_a_compiler_that_does_not_work_is_none(machine: Machine) -> None:
    """It was run, not believed."""
    machine.program("cc", "")
    machine.program("c++", "echo cc1plus is missing; exit 1")
    compiler, reason = find_compiler()
    assert compiler is None
    assert "ended with status 1: cc1plus is missing" in reason


def test_gpus_are_what_the_driver_lists(machine: Machine) -> None:
    """Name, capability and driver of each."""
    machine.program("nvidia-smi", 'echo "NVIDIA H200, 9.0, 570.86.15"\necho "NVIDIA L4, 8.9, 570.86.15"')
    gpus, reason = find_gpus()
    assert [(gpu.name, gpu.capability, gpu.driver) for gpu in gpus] == [
        ("NVIDIA H200", "9.0", "570.86.15"),
        ("NVIDIA L4", "8.9", "570.86.15"),
    ]
    assert reason == ""


def test_no_driver_is_no_gpu_and_no_reason(machine: Machine) -> None:
    """Most machines have none."""
    assert machine.bin.exists()
    assert find_gpus() == ((), "")


@pytest.mark.parametrize(
    "script",
    ["exit 9", "echo No devices were found", "true", "kill -11 $$", "echo 'Field \"compute_cap\" is not valid'"],
)
def test_a_broken_driver_is_no_gpu_with_a_reason(machine: Machine, script: str) -> None:
    """Never a crash, never silence."""
    machine.program("nvidia-smi", script)
    gpus, reason = find_gpus()
    assert gpus == ()
    assert "nvidia-smi" in reason


def group(root: Path, lines: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Write control groups, and return the process's list of its groups and their root."""
    for name, text in files.items():
        path = root / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (root / "process").write_text(lines)
    return root / "process", root / "groups"


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "100000 100000"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/gone\n", {"cpu.max": "50000 100000"}, 1),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "100000", "cpu/x/cpu.cfs_period_us": "100000"}, 1),
        ("4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, None),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "99999900000 100000"}, None),
        ("", {}, None),
    ],
)
def test_cores_obey_quotas_of_both_versions(
    tmp_path: Path, lines: str, files: dict[str, str], expected: int | None
) -> None:
    """The tightest of our own group and of those around it holds; without a quota affinity alone does."""
    assert cores(*group(tmp_path, lines, files)) == (expected or len(os.sched_getaffinity(0)))


def test_cores_obey_affinity() -> None:
    """A process that is bound to one core has one."""
    bound = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code = f"{bound}; from mmstack.host import cores; print(cores())"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/a\n", {"a/memory.max": "4096", "memory.max": "8192"}, 4096),
        ("0::/a\n", {"a/memory.max": "max", "memory.max": "8192"}, 8192),
        ("9:memory:/d\n", {"memory/d/memory.limit_in_bytes": "2048"}, 2048),
        ("9:memory:/d\n", {"memory/d/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("", {}, None),
    ],
)
def test_memory_obeys_limits_of_both_versions(
    tmp_path: Path, lines: str, files: dict[str, str], expected: int | None
) -> None:
    """A container's limit is what a build can use."""
    assert memory(*group(tmp_path, lines, files)) == (expected or psutil.virtual_memory().total)


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ("glibc 2.36", "2.36"),
        ("NPTL 2.36", ""),
        (None, ""),
        (ValueError("unrecognized configuration name"), ""),  # as on macOS
        (OSError(errno.EINVAL, "Invalid argument"), ""),  # as with musl
        (AttributeError("confstr"), ""),
    ],
)
def test_another_c_library_has_no_version_of_glibc(
    monkeypatch: pytest.MonkeyPatch, answer: str | Exception | None, version: str
) -> None:
    """However it says that it is another."""

    def confstr(_name: str) -> str | None:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(os, "confstr", confstr)
    assert glibc() == version


def test_disk_counts_where_the_folder_will_be(tmp_path: Path) -> None:
    """A state folder that is not there yet has the room of the disk that it will be on."""
    assert disk_free(tmp_path / "not" / "yet") > 0
