"""Compiler caches: what was compiled once, anywhere on this machine or where the user's cache is, is not again.

They change how long a build takes and nothing else, so they are in no key.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, cast, get_args

from mmstack.errors import CommandError, HostError, InterruptedRunError, UsageError, did_you_mean
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

Kind = Literal["ccache", "sccache"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LANGUAGES = ("C", "CXX", "CUDA")
MAXIMUM = "20G"
# A user's cache on other machines; what has to do with this machine is ours to say.
REMOTE = ("CCACHE_REMOTE_", "CCACHE_SECONDARY_STORAGE", "CCACHE_RESHARE")
SERVER_REMOTE = ("SCCACHE_", "AWS_", "GOOGLE_APPLICATION_CREDENTIALS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
START_SECONDS = 20.0
IDLE_SECONDS = "600"


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A compiler cache: its program, and where on this machine it keeps what was compiled."""

    kind: Kind
    program: Path
    version: str
    folder: Path


def find(wish: str, *, state: Path, environ: Mapping[str, str], folders: Sequence[Path] = ()) -> Cache | None:
    """Return the cache that is wished for, `auto` the first that is here, None for `none` or where `auto` finds none.

    Args:
        wish: `none`, `auto`, `ccache` or `sccache`.
        state: the state folder.
        environ: the user's variables.
        folders: where to look before PATH.

    Raises:
        UsageError: there is no such cache.
        HostError: it is not on this machine, or does not work.
    """
    if wish not in {"none", "auto", *KINDS}:
        raise UsageError(f"there is no compiler cache '{wish}'", fix=did_you_mean(wish, ("none", "auto", *KINDS)))
    path = os.pathsep.join([*map(str, folders), environ.get("PATH", os.defpath)])
    for kind in KINDS if wish == "auto" else (wish,) if wish != "none" else ():
        if program := shutil.which(kind, path=path):
            return _probe(cast("Kind", kind), Path(program), state, environ)
    if wish in KINDS:
        raise HostError(
            f"{wish} is not on this machine", fix=f"install it, e.g. `apt-get install {wish}`, or take another cache"
        )
    return None


def variables(cache: Cache, base: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what makes CMake's compilers go through a cache, wherever `base` is this time.

    The user's own settings for a cache on other machines are among them: nobody may print these values.
    """
    launchers = {f"CMAKE_{language}_COMPILER_LAUNCHER": str(cache.program) for language in LANGUAGES}
    if cache.kind == "sccache":
        return launchers
    return {
        **{name: value for name, value in environ.items() if name.startswith(REMOTE)},
        **launchers,
        "CCACHE_DIR": str(cache.folder),
        "CCACHE_BASEDIR": str(base),
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_SLOPPINESS": "time_macros",
        "CCACHE_MAXSIZE": MAXIMUM,
    }


@contextmanager
def serving(
    cache: Cache, base: Path, environ: Mapping[str, str], lock: AbstractContextManager[object]
) -> Iterator[dict[str, str]]:
    """Yield the variables by which sccache's compilers find a server of their own; ccache needs none.

    The server is one of our commands, so that none outlives us however we end.

    Args:
        cache: the cache.
        base: what the paths of a build begin with.
        environ: the user's variables; those for a cache on other machines are the server's.
        lock: what keeps others away from the folder, which two servers at once would spoil.

    Raises:
        HostError: it does not start.
    """
    if cache.kind == "ccache":
        yield {}
        return
    # the system's own folder for such files: a socket's path may not be long
    with lock, TemporaryDirectory(prefix="sccache-") as folder:
        socket = Path(folder, "socket")
        ours = {"SCCACHE_SERVER_UDS": str(socket), "SCCACHE_DIR": str(cache.folder)}
        theirs = {name: value for name, value in environ.items() if name.upper().startswith(SERVER_REMOTE)}
        server = {**theirs, **ours, "SCCACHE_BASEDIRS": str(base), "SCCACHE_CACHE_SIZE": MAXIMUM}
        server |= {"SCCACHE_START_SERVER": "1", "SCCACHE_NO_DAEMON": "1", "SCCACHE_IDLE_TIMEOUT": IDLE_SECONDS}
        environment = scrubbed(Path(folder), server)
        failed: list[Exception] = []
        thread = threading.Thread(target=_serve, args=(cache, environment, failed), daemon=True)
        thread.start()
        try:
            _wait_for(socket, thread, failed)
            yield ours
        finally:
            with suppress(CommandError, InterruptedRunError):  # it has ended, or is about to, with all that we run
                run([cache.program, "--stop-server"], env=scrubbed(Path(folder), ours))
            thread.join()


def statistics(cache: Cache, environment: Mapping[str, str]) -> dict[str, int]:
    """Return a cache's `hits` and `misses` until now; `environment` is what the compilers of the build have.

    Raises:
        CommandError: it does not say; of sccache only while it is serving.
    """
    if cache.kind == "sccache":
        output = run([cache.program, "--show-stats", "--stats-format=json"], env=environment).output
        found = json.loads(output)["stats"]
        return {name: sum(found[f"cache_{name}"]["counts"].values()) for name in ("hits", "misses")}
    lines = [line.split("\t") for line in run([cache.program, "--print-stats"], env=environment).output.splitlines()]
    counts = {name: int(count) for name, count in lines}
    return {"hits": counts["direct_cache_hit"] + counts["preprocessed_cache_hit"], "misses": counts["cache_miss"]}


def _probe(kind: Kind, program: Path, state: Path, environ: Mapping[str, str]) -> Cache:
    try:
        first = run([program, "--version"], env=environ).output.partition("\n")[0]
    except CommandError as error:
        raise HostError(f"{program} does not work", why=error.why or error.what, fix=f"install {kind} again") from error
    return Cache(kind=kind, program=program, version=first.rpartition(" ")[2], folder=state / "compiler-cache" / kind)


def _serve(cache: Cache, environment: Mapping[str, str], failed: list[Exception]) -> None:
    try:
        run([cache.program], env=environment)
    except (CommandError, HostError, InterruptedRunError) as error:
        failed.append(error)


def _wait_for(socket: Path, thread: threading.Thread, failed: Sequence[Exception]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not socket.exists():
        if not thread.is_alive() or time.monotonic() > deadline:
            why = "\n".join(map(str, failed)) or f"it made no socket within {START_SECONDS:.0f} s"
            raise HostError("sccache does not start", why=why, fix="correct its settings, or take another cache")
        time.sleep(0.02)
