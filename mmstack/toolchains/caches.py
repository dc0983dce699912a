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
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import urlsplit

from mmstack.errors import CommandError, HermeticError, HostError, InterruptedRunError, UsageError, did_you_mean
from mmstack.model import LockedRequirement
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

Kind = Literal["ccache", "sccache"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# sccache runs the parts of nvcc itself, and fails where they are told to keep process ids out of names
LANGUAGES: Mapping[Kind, tuple[str, ...]] = {"ccache": ("C", "CXX", "CUDA"), "sccache": ("C", "CXX")}
# its program for x86_64 and aarch64; no part of a stack, so in no lock
SCCACHE = LockedRequirement(
    name="sccache",
    version="0.16.0",
    sha256=(
        "0bc1d09991eec9f266f495920e669715906cf610a759d2685156e69f9fcde995",
        "c0c14429fa782987f36ea19dc643da204b4f318c3e4fd4c2222a1be78ff6680c",
    ),
)
MAXIMUM = "20G"
# A user's cache on other machines; what has to do with this machine is ours to say.
REMOTE = ("CCACHE_REMOTE_", "CCACHE_SECONDARY_STORAGE", "CCACHE_RESHARE")
SERVER_REMOTE = ("SCCACHE_", "AWS_", "GOOGLE_APPLICATION_CREDENTIALS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
# of these, what says where it is
PLACES: Mapping[Kind, tuple[str, ...]] = {
    "ccache": ("CCACHE_REMOTE_STORAGE", "CCACHE_SECONDARY_STORAGE"),
    "sccache": tuple(
        f"SCCACHE_{name}"
        for name in (
            "AZURE",
            "BUCKET",
            "COS",
            "ENDPOINT",
            "GCS",
            "GHA",
            "MEMCACHED",
            "OSS",
            "REDIS",
            "SCHEDULER",
            "WEBDAV",
        )
    ),
}
CCACHE_UNCACHEABLE = (
    "bad_compiler_arguments",
    "could_not_use_modules",
    "could_not_use_precompiled_header",
    "multiple_source_files",
    "unsupported_code_directive",
    "unsupported_compiler_option",
    "unsupported_source_language",
)
CCACHE_ERRORS = ("internal_error", "missing_cache_file", "remote_storage_error", "remote_storage_timeout")
NO = ("0", "disable", "false", "no")
START_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A compiler cache: its program, and where on this machine it keeps what was compiled."""

    kind: Kind
    program: Path
    version: str
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How a cache served: compilations that it had, that it had not, that it cannot hold, and its own failures."""

    hits: int = 0
    misses: int = 0
    uncacheable: int = 0
    errors: int = 0

    def since(self, before: Counts) -> Counts:
        """Return what was counted after `before`."""
        return Counts(**{name: count - vars(before)[name] for name, count in vars(self).items()})


def choose(wish: str, environ: Mapping[str, str]) -> Kind | None:
    """Return which cache a wish means here; `auto` is this machine's ccache, or else the pinned sccache.

    Raises:
        UsageError: there is no such cache.
    """
    if wish not in {"none", "auto", *KINDS}:
        raise UsageError(f"there is no compiler cache '{wish}'", fix=did_you_mean(wish, ("none", "auto", *KINDS)))
    if wish == "auto":
        return "ccache" if shutil.which("ccache", path=environ.get("PATH", os.defpath)) else "sccache"
    return next((kind for kind in KINDS if kind == wish), None)


def remote(kind: Kind, environ: Mapping[str, str]) -> list[str]:
    """Return which variables name a cache on other machines."""
    return sorted(name for name in environ if name.startswith(PLACES[kind]))


def find(kind: Kind, *, state: Path, environ: Mapping[str, str], sccache: Callable[[], Path]) -> Cache:
    """Return a cache: ccache as this machine has it, sccache always the pinned one.

    Args:
        kind: which.
        state: the state folder.
        environ: the user's variables.
        sccache: makes the pinned program and says where it is.

    Raises:
        HostError: it is not on this machine, or does not work.
    """
    if kind == "sccache":
        return _probe(kind, sccache(), state, environ)
    program = shutil.which(kind, path=environ.get("PATH", os.defpath))
    if program is None:
        raise HostError(
            "ccache is not on this machine",
            why="no package index has it",
            fix="`apt-get install ccache` or `dnf install ccache`; or `--compiler-cache sccache`, which is downloaded",
        )
    return _probe(kind, Path(program), state, environ)


def variables(cache: Cache, base: Path) -> dict[str, str]:
    """Return what makes CMake's compilers go through a cache, wherever `base` is this time.

    Headers are not precompiled: gcc's are never the same twice, and nothing compiled with them is found again.
    """
    launchers = {f"CMAKE_{language}_COMPILER_LAUNCHER": str(cache.program) for language in LANGUAGES[cache.kind]}
    launchers["CMAKE_DISABLE_PRECOMPILE_HEADERS"] = "ON"
    if cache.kind == "sccache":
        return launchers
    return {
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
    """Yield the variables by which compilers find a cache on other machines: a server of sccache's, a file of ccache's.

    So no program of the build is told how to get at it. The server is one of our commands, so that none outlives us
    however we end.

    Args:
        cache: the cache.
        base: what the paths of a build begin with.
        environ: the user's variables.
        lock: what keeps others away from the folder, which two servers at once would spoil.

    Raises:
        HostError: it does not start.
        UsageError: an address of the user's cannot be read.
        HermeticError: it tried to reach the network from which the build is cut off.
    """
    if cache.kind == "ccache":
        settings = _settings(environ)
        with TemporaryDirectory(prefix="ccache-") as folder:
            file = Path(folder, "ccache.conf")
            file.write_text(settings, encoding="utf-8")
            yield {"CCACHE_CONFIGPATH": str(file)} if settings else {}
        return
    # the system's own folder for such files: a socket's path may not be long
    with lock, TemporaryDirectory(prefix="sccache-") as folder:
        socket = Path(folder, "socket")
        ours = {"SCCACHE_SERVER_UDS": str(socket), "SCCACHE_DIR": str(cache.folder)}
        theirs = {name: value for name, value in environ.items() if name.upper().startswith(SERVER_REMOTE)}
        server = {**theirs, **ours, "SCCACHE_BASEDIRS": str(base), "SCCACHE_CACHE_SIZE": MAXIMUM}
        # never idle: while nvcc runs nobody asks it, and the next compiler would start one of its own without `theirs`
        server |= {"SCCACHE_START_SERVER": "1", "SCCACHE_NO_DAEMON": "1", "SCCACHE_IDLE_TIMEOUT": "0"}
        environment = scrubbed(Path(folder), server)
        failed: list[Exception] = []
        # it compiles in the place of the build's own compilers, so what they may not, it may not
        thread = threading.Thread(target=copy_context().run, args=(_serve, cache, environment, failed), daemon=True)
        thread.start()
        try:
            _wait_for(socket, thread, failed, theirs)
            yield ours
        finally:
            with suppress(CommandError, InterruptedRunError):  # it has ended, or is about to, with all that we run
                run([cache.program, "--stop-server"], env=scrubbed(Path(folder), ours))
            thread.join()
        for error in failed:
            if isinstance(error, HermeticError):  # what it compiled for the build tried to
                raise error


def _settings(environ: Mapping[str, str]) -> str:
    """Return the user's settings for a ccache on other machines as ccache reads them from a file."""
    theirs = {name: " ".join(value.split()) for name, value in environ.items() if name.startswith(REMOTE)}
    for name, value in theirs.items():
        if name not in PLACES["ccache"]:
            theirs[name] = str(value.lower() not in NO).lower()
        elif not all(_is_address(word.partition("|")[0]) for word in value.split()):
            raise UsageError(
                f"{name} holds an address that cannot be read",
                why="ccache would repeat it in an error, and with it what may be a password",
                fix="write a `/`, `@`, `:` or `#` of a password as `%2F`, `%40`, `%3A` or `%23`",
            )
    return "".join(f"{name.removeprefix('CCACHE_').lower()} = {value}\n" for name, value in sorted(theirs.items()))


def statistics(cache: Cache, environment: Mapping[str, str]) -> Counts:
    """Return what a cache has counted until now; `environment` is what the compilers of the build have.

    Raises:
        CommandError: it does not say; of sccache only while it is serving.
    """
    if cache.kind == "sccache":
        output = run([cache.program, "--show-stats", "--stats-format=json"], env=environment).output
        found = json.loads(output)["stats"]
        by_language = {name: sum(found[f"cache_{name}"]["counts"].values()) for name in ("hits", "misses", "errors")}
        own = sum(found[name] for name in ("cache_timeouts", "cache_read_errors", "cache_write_errors"))
        return Counts(
            hits=by_language["hits"],
            misses=by_language["misses"],
            uncacheable=found["requests_not_cacheable"],
            errors=by_language["errors"] + own,
        )
    lines = [line.split("\t") for line in run([cache.program, "--print-stats"], env=environment).output.splitlines()]
    counts = {name: int(count) for name, count in lines}
    return Counts(
        hits=counts["direct_cache_hit"] + counts["preprocessed_cache_hit"],
        misses=counts["cache_miss"],
        uncacheable=sum(counts.get(name, 0) for name in CCACHE_UNCACHEABLE),
        errors=sum(counts.get(name, 0) for name in CCACHE_ERRORS),
    )


def _probe(kind: Kind, program: Path, state: Path, environ: Mapping[str, str]) -> Cache:
    try:
        first = run([program, "--version"], env=environ).output.partition("\n")[0]
    except CommandError as error:
        raise HostError(f"{program} does not work", why=error.why or error.what, fix=f"install {kind} again") from error
    return Cache(kind=kind, program=program, version=first.rpartition(" ")[2], folder=state / "compiler-cache" / kind)


def _serve(cache: Cache, environment: Mapping[str, str], failed: list[Exception]) -> None:
    try:
        run([cache.program], env=environment)
    except (CommandError, HermeticError, HostError, InterruptedRunError) as error:
        failed.append(error)


def _wait_for(socket: Path, thread: threading.Thread, failed: Sequence[Exception], theirs: Mapping[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not socket.exists():
        if not thread.is_alive() or time.monotonic() > deadline:
            said = "\n".join(getattr(each, "why", "") or str(each) for each in failed)
            why = _without(theirs, said) or f"it made no socket within {START_SECONDS:.0f} s"
            fix = "see that its storage on other machines can be reached, correct its settings, or take another cache"
            raise HostError("sccache does not start", why=why, fix=fix)
        time.sleep(0.02)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return "@" not in text or "@" in parts.netloc


def _without(settings: Mapping[str, str], text: str) -> str:
    """Return a text without the values of the user's settings, any of which may hold a secret."""
    for name, value in settings.items():
        parts = urlsplit(value) if "://" in value else None
        for secret in (value, parts.password if parts else None):
            text = text.replace(secret, f"${name}") if secret else text
    return text
