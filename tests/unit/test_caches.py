from __future__ import annotations

import os
import shutil
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest

from mmstack import hermetic
from mmstack.errors import HermeticError, HostError, UsageError
from mmstack.run import run
from mmstack.toolchains.caches import Cache, Counts, Kind, choose, find, serving, statistics, variables
from tests.support import no_namespaces

needs_namespaces = pytest.mark.skipif(bool(no_namespaces()), reason=no_namespaces() or "none")
SAYS = {"ccache": "ccache version 4.7.5\nFeatures: file-storage", "sccache": "sccache 0.16.0"}


class Machine:
    """A PATH with caches that say who they are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"

    def add(self, name: str, text: str = "", *, folder: str = "bin") -> Path:
        """Put a cache there, by what it says or as a script."""
        file = self.root / folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text or f"#!/bin/sh\necho '{SAYS[name]}'\n", encoding="utf-8")
        file.chmod(0o755)
        return file

    def find(self, kind: Kind) -> Cache:
        """Look for a cache; the pinned sccache is what the test put there."""
        environ = {"PATH": f"{self.root / 'bin'}{os.pathsep}/bin-of-nothing"}
        return find(kind, state=self.state, environ=environ, sccache=lambda: self.root / "pinned" / "sccache")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine of no known caches but those that a test adds."""
    return Machine(tmp_path)


@pytest.mark.parametrize(("kind", "version", "folder"), [("ccache", "4.7.5", "bin"), ("sccache", "0.16.0", "pinned")])
def test_the_cache_that_is_wished_for_is_taken(machine: Machine, kind: Kind, version: str, folder: str) -> None:
    """With its version, and a folder of its own in the state."""
    program = machine.add(kind, folder=folder)
    found = machine.find(kind)
    assert (found.kind, found.program, found.version) == (kind, program, version)
    assert found.folder == machine.state / "compiler-cache" / kind


def test_the_pinned_sccache_goes_before_that_of_the_machine(machine: Machine) -> None:
    """Debian's is four years older and knows neither nvcc nor other folders."""
    machine.add("sccache")
    pinned = machine.add("sccache", folder="pinned")
    assert machine.find("sccache").program == pinned


def test_auto_is_ccache_where_that_is_installed_and_else_the_pinned_sccache(machine: Machine) -> None:
    """So it means a cache everywhere; none is what it says."""
    environ = {"PATH": str(machine.root / "bin")}
    assert choose("auto", environ) == "sccache"
    machine.add("ccache")
    assert choose("auto", environ) == "ccache"
    assert choose("sccache", environ) == "sccache"
    assert choose("none", environ) is None


def test_a_ccache_that_is_not_here_is_told(machine: Machine) -> None:
    """What to install is said, and what needs no installation; nothing is taken instead."""
    with pytest.raises(HostError, match="ccache is not on this machine") as caught:
        machine.find("ccache")
    assert "apt-get install ccache" in caught.value.fix
    assert "--compiler-cache sccache" in caught.value.fix


def test_a_cache_that_does_not_work_is_told(machine: Machine) -> None:
    """With what it said."""
    machine.add("ccache", "#!/bin/sh\necho 'libhiredis.so: cannot open'; exit 127\n")
    with pytest.raises(HostError, match="does not work") as caught:
        machine.find("ccache")
    assert "libhiredis" in caught.value.why


def test_an_unknown_cache_is_told() -> None:
    """With the nearest that is known."""
    with pytest.raises(UsageError, match="no compiler cache 'cache'") as caught:
        choose("cache", {})
    assert "did you mean 'ccache'" in caught.value.fix


def test_the_users_remote_storage_is_kept_and_the_rest_is_ours(machine: Machine) -> None:
    """A user's cache on other machines serves, its secret in no variable; no setting moves what is on this one."""
    machine.add("ccache")
    cache = machine.find("ccache")
    environ = {
        "CCACHE_REMOTE_STORAGE": "redis://:secret@cache",
        "CCACHE_RESHARE": "1",
        "CCACHE_DIR": "/elsewhere",
        "CCACHE_RECACHE": "1",
        "OTHER": "1",
    }
    found = variables(cache, machine.root)
    with serving(cache, machine.root, environ, nullcontext()) as told:
        file = Path(told["CCACHE_CONFIGPATH"])
        assert file.read_text(encoding="utf-8") == "remote_storage = redis://:secret@cache\nreshare = true\n"
    assert not file.exists()
    assert "secret" not in f"{found} {told}"
    assert found["CCACHE_DIR"] == str(cache.folder)
    assert found["CCACHE_BASEDIR"] == str(machine.root)
    launchers = {found[f"CMAKE_{language}_COMPILER_LAUNCHER"] for language in ("C", "CXX", "CUDA")}
    assert launchers == {str(cache.program)}
    assert found["CMAKE_DISABLE_PRECOMPILE_HEADERS"] == "ON"
    assert "secret" not in repr(cache)


@pytest.mark.parametrize(
    ("value", "known"),
    [
        ("redis://:s3c/ret@host:6379", False),
        ("redis://:s3c#ret@host", False),
        ("redis://host:s3cret", False),
        ("file:/var/cache|read-only redis://:s3c/ret@host", False),
        ("redis://:s3c%2Fret@host:6379 file:/var/cache|umask=002", True),
    ],
)
def test_an_address_that_ccache_would_repeat_is_refused(machine: Machine, value: str, known: bool) -> None:  # noqa: FBT001 - a table
    """With the password in it; so it is not shown here either."""
    machine.add("ccache")
    cache = machine.find("ccache")
    with (
        nullcontext() if known else pytest.raises(UsageError, match="CCACHE_REMOTE_STORAGE") as caught,
        serving(cache, machine.root, {"CCACHE_REMOTE_STORAGE": value}, nullcontext()) as told,
    ):
        assert Path(told["CCACHE_CONFIGPATH"]).read_text(encoding="utf-8") == f"remote_storage = {value}\n"
    assert caught is None or "s3c" not in f"{caught.value} {caught.value.why} {caught.value.fix}"


def compile_at(root: Path, cache: Cache, environment: dict[str, str]) -> bytes:
    """Compile the same source in another folder, and return the object."""
    root.mkdir()
    (root / "a.c").write_text(f"int a(void) {{ return {os.getpid()}; }}\n", encoding="utf-8")
    run([cache.program, "gcc", "-c", root / "a.c", "-o", root / "a.o"], env=environment, cwd=root)
    return (root / "a.o").read_bytes()


@pytest.mark.skipif(shutil.which("ccache") is None, reason="ccache is not on this machine")
def test_ccache_compiles_nothing_twice(tmp_path: Path) -> None:
    """Not even in another folder of another key; and it says how often that was so."""
    cache = find("ccache", state=tmp_path / "state", environ=os.environ, sccache=Path)
    objects = []
    for name in ("one", "two"):
        environment = {"PATH": os.environ["PATH"], **variables(cache, tmp_path / name)}
        objects.append(compile_at(tmp_path / name, cache, environment))
    assert objects[0] == objects[1]
    assert statistics(cache, environment) == Counts(hits=1, misses=1)


@pytest.mark.skipif(shutil.which("sccache") is None, reason="sccache is not on this machine")
@pytest.mark.parametrize("step", ["", pytest.param("build ext", marks=needs_namespaces)])
def test_sccache_compiles_nothing_twice_and_leaves_no_server(tmp_path: Path, step: str) -> None:
    """Its server is ours alone, and is gone when the build is over; both may be without a network."""
    program = Path(shutil.which("sccache") or "")
    cache = find("sccache", state=tmp_path / "state", environ=os.environ, sccache=lambda: program)
    objects = []
    with hermetic.inside(step), serving(cache, tmp_path / "one", os.environ, nullcontext()) as extra:
        environment = {"PATH": os.environ["PATH"], **variables(cache, tmp_path), **extra}
        objects.append(compile_at(tmp_path / "one", cache, environment))
        shutil.rmtree(tmp_path / "one")
        objects.append(compile_at(tmp_path / "one", cache, environment))
        assert statistics(cache, environment) == Counts(hits=1, misses=1)
    assert objects[0] == objects[1]
    assert not Path(extra["SCCACHE_SERVER_UDS"]).parent.exists()
    assert not [each for each in psutil.Process().children(recursive=True) if each.name() == "sccache"]


SERVER = """\
#!/bin/sh
case "$*" in
  --version) echo sccache 0.16.0 ;;
  --stop-server) kill "$(cat "$SCCACHE_SERVER_UDS")" ;;
  *) echo "$SCCACHE_BUCKET $SCCACHE_REDIS_ENDPOINT $SCCACHE_IDLE_TIMEOUT" > "{seen}"
    echo $$ > "$SCCACHE_SERVER_UDS"
    exec sleep 60 ;;
esac
"""


def test_a_server_is_held_by_one_at_a_time_and_ends_with_its_build(machine: Machine) -> None:
    """Two at once would spoil the folder; one outlives neither an end nor an error. The user's storage is its own.

    Nor does it end before its build (0 is never), however long a compiler runs that does not ask it: the next that does
    would start one of its own, which nobody ends, without the user's storage.
    """
    seen, lock = machine.root / "seen", threading.Lock()
    machine.add("sccache", SERVER.format(seen=seen), folder="pinned")
    cache = machine.find("sccache")

    def build() -> None:
        with serving(cache, machine.root, {"SCCACHE_BUCKET": "ours"}, lock) as extra:
            assert lock.locked()
            assert Path(extra["SCCACHE_SERVER_UDS"]).exists()
            raise KeyError

    with pytest.raises(KeyError):
        build()
    assert not lock.locked()
    assert seen.read_text(encoding="utf-8") == "ours  0\n"
    assert not [each for each in psutil.Process().children(recursive=True) if each.name() == "sleep"]


@needs_namespaces
def test_a_server_of_a_build_without_a_network_has_none_either(machine: Machine) -> None:
    """It compiles what the build wants compiled; what it tried to reach fails the step when it has ended."""
    asks = f"{sys.executable} -c 'import socket; socket.create_connection((\"192.0.2.1\", 80))'"
    machine.add("sccache", SERVER.format(seen=machine.root / "seen").replace("*) ", f"*) {asks}; "), folder="pinned")
    cache = machine.find("sccache")

    def build(step: str) -> None:
        with hermetic.inside(step), serving(cache, machine.root, {}, nullcontext()):
            pass

    with pytest.raises(HermeticError, match="step 'build ext' tried to reach the network"):
        build("build ext")


def test_a_server_that_does_not_start_is_told(machine: Machine) -> None:
    """With what it said, and at once."""
    machine.add(
        "sccache",
        '#!/bin/sh\n[ "$1" = --version ] && echo sccache 0.16.0 && exit\necho no bucket; exit 2\n',
        folder="pinned",
    )
    cache = machine.find("sccache")
    with (
        pytest.raises(HostError, match="sccache does not start") as caught,
        serving(cache, machine.root, {}, nullcontext()),
    ):
        pytest.fail("there is no server")
    assert "no bucket" in caught.value.why


def test_a_server_that_does_not_start_keeps_the_users_secrets(machine: Machine) -> None:
    """What it says of its settings is told without their values, passwords in addresses among them."""
    says = "redis://:s3cret@cache failed, tried s3cret and t0ken"
    script = f'#!/bin/sh\n[ "$1" = --version ] && echo sccache 0.16.0 && exit\necho {says!r}; exit 2\n'
    machine.add("sccache", script, folder="pinned")
    cache = machine.find("sccache")
    environ = {"SCCACHE_REDIS": "redis://:s3cret@cache", "SCCACHE_REDIS_PASSWORD": "t0ken"}
    with (
        pytest.raises(HostError, match="sccache does not start") as caught,
        serving(cache, machine.root, environ, nullcontext()),
    ):
        pytest.fail("there is no server")
    assert caught.value.why == "$SCCACHE_REDIS failed, tried $SCCACHE_REDIS and $SCCACHE_REDIS_PASSWORD"


CCACHE_SAYS = (
    "direct_cache_hit\t2\npreprocessed_cache_hit\t3\ncache_miss\t1\nunsupported_compiler_option\t4\n"
    "remote_storage_error\t1\nremote_storage_timeout\t5\ncalled_for_link\t9\n"
)
SCCACHE_SAYS = (
    '{"stats":{"cache_hits":{"counts":{"CUDA":2,"C/C++":3}},"cache_misses":{"counts":{"C/C++":1}},'
    '"cache_errors":{"counts":{"C/C++":1}},"cache_timeouts":2,"cache_read_errors":1,"cache_write_errors":2,'
    '"requests_not_cacheable":4}}'
)


@pytest.mark.parametrize(("kind", "says"), [("ccache", CCACHE_SAYS), ("sccache", SCCACHE_SAYS)])
def test_what_a_cache_could_not_do_is_counted_too(machine: Machine, kind: Kind, says: str) -> None:
    """What it cannot hold, and its own failures, of a remote storage that is gone for example."""
    (machine.root / "says").write_text(says, encoding="utf-8")
    script = f'#!/bin/sh\n[ "$1" = --version ] && echo {kind} 1 && exit\ncat "{machine.root}/says"\n'
    for folder in ("bin", "pinned"):
        machine.add(kind, script, folder=folder)
    found = statistics(machine.find(kind), {"PATH": os.defpath})
    assert found == Counts(hits=5, misses=1, uncacheable=4, errors=6)
    assert found.since(Counts(hits=4, errors=6)) == Counts(hits=1, misses=1, uncacheable=4)


def test_ccache_needs_no_server(machine: Machine) -> None:
    """Nothing is started, nobody waits."""
    machine.add("ccache")
    cache = machine.find("ccache")
    lock = threading.Lock()
    with lock, serving(cache, machine.root, {}, lock) as extra:
        assert extra == {}
