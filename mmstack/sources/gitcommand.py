"""The git command: what it may do, what it is told, and how long it is waited for."""

from __future__ import annotations

import os
import re
import time
from functools import cached_property
from typing import TYPE_CHECKING

from mmstack.errors import CommandError, HostError
from mmstack.run import interrupted, run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SLOWEST_BYTES = 1000
OLDEST = (2, 31)  # the first that takes its configuration from the environment, where no other user sees it
SHOWN_LINES = 4
REMOTE = "upstream"
# Checking objects refuses trees with `.git` in them, links in place of .gitmodules and the like. These three are
# blemishes of histories that tools of long ago wrote, and no danger.
BLEMISHES = ("zeroPaddedFilemode", "badTimezone", "missingSpaceBeforeDate")
CONFIG = {
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.hooksPath": os.devnull,
    "fetch.fsckObjects": "true",
    **{f"fetch.fsck.{name}": "ignore" for name in BLEMISHES},
    "fetch.unpackLimit": "1",  # packs are written whole or not at all, and synchronised with the disk
    "gc.auto": "0",
    "maintenance.auto": "false",
    "protocol.version": "2",
    "safe.directory": "*",  # the cache may be a volume that belongs to another user
    "submodule.recurse": "false",
}
ISOLATED = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_NO_REPLACE_OBJECTS": "1"}
UNATTENDED = {"GIT_ASKPASS": "", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_TERMINAL_PROMPT": "0"}
# What a user has told git of a network, and what that may need in turn.
NETWORK_VARIABLES = (
    *(name for word in ("http", "https", "all", "no") for name in (f"{word}_proxy", f"{word}_proxy".upper())),
    *("GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSL_CERT", "GIT_SSL_KEY", "GIT_SSL_NO_VERIFY", "GIT_PROXY_SSL_CAINFO"),
    *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"),
    *("GIT_SSH", "GIT_SSH_COMMAND", "SSH_AUTH_SOCK", "USER", "LOGNAME"),
)


class RemoteError(Exception):
    """A server did not give what it should; never leaves the sources.

    Attributes:
        reason: why, without credentials.
        passing: whether it may help to try again.
    """

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.passing = passing


class Git:
    """Git, told everything by its environment.

    Talking to a server, it reads the user's own configuration besides ours, since it is there that a company says
    which proxy, which certificates, which credentials and which `insteadOf` to use; the variables for these get
    through too, `SSL_CERT_FILE` among them. What that says of hooks, templates or filters has no effect. Everything
    else runs with no configuration but ours. Nobody is asked for a password, and none is written down.

    Args:
        home: a private HOME.
        environ: the user's variables.
        patience: how many seconds a server may say nothing.
    """

    def __init__(self, home: Path, environ: Mapping[str, str], patience: float) -> None:
        self.home = home
        self.environ = environ
        self.patience = patience

    def local(self, repository: Path, *words: str) -> str:
        """Return what git says of a repository here.

        Raises:
            HostError: there is no git, or one of long ago.
            CommandError: it failed.
        """
        argv = [self._program, f"--git-dir={repository}", *words]
        return run(argv, env=scrubbed(self.home, {**ISOLATED, **_configured(CONFIG)})).output

    def remote(
        self,
        repository: Path,
        address: str,
        *words: str,
        on_line: Callable[[str], None],
        halted: Callable[[], bool],
    ) -> str:
        """Return what git says, talking to a server, whom it knows as `REMOTE`.

        Raises:
            HostError: there is no git, or one of long ago.
            RemoteError: the server said nothing for too long, or not what it should.
            InterruptedRunError: `halted` says that it is over.
        """
        heard, silent = time.monotonic(), False

        def hear(line: str) -> None:
            nonlocal heard
            heard = time.monotonic()
            on_line(line)

        def doomed() -> bool:
            nonlocal silent
            silent = time.monotonic() - heard > self.patience
            return silent or halted()

        argv = [self._program, f"--git-dir={repository}", *words]
        try:
            return run(argv, env=self._networked(address), on_line=hear, doomed=doomed).output
        except CommandError as error:
            if halted():
                raise interrupted() from None
            if silent:
                raise RemoteError(f"it said nothing for {self.patience:g} s") from None
            raise RemoteError(said(error), passing=True) from None

    def sound(self, repository: Path) -> bool:
        """Return whether git finds nothing wrong with what is there; it reads all of it."""
        try:
            self.local(repository, "fsck", "--no-dangling", "--no-progress")
        except CommandError:
            return False
        return True

    def whole(self, repository: Path, what: str) -> bool:
        """Return whether all that the tree of a commit consists of is there; `--all` for all commits fetched."""
        if not repository.is_dir():
            return False
        try:
            self.local(repository, "rev-list", "--objects", "--no-walk", "--quiet", what)
        except CommandError:
            return False
        return True

    def _networked(self, address: str) -> dict[str, str]:
        extra = {name: self.environ[name] for name in NETWORK_VARIABLES if name in self.environ}
        if "SSL_CERT_FILE" in self.environ:
            extra.setdefault("GIT_SSL_CAINFO", self.environ["SSL_CERT_FILE"])
        config = {
            f"remote.{REMOTE}.url": address,  # not on the command line, which everybody on the machine can read
            "http.lowSpeedLimit": str(SLOWEST_BYTES),
            "http.lowSpeedTime": str(int(2 * self.patience) + 1),  # for one who trickles; silence ends earlier
        }
        protocols = "http:https:ssh:git" + (":file" if address.startswith("file:") else "")
        more = {**UNATTENDED, "GIT_ALLOW_PROTOCOL": protocols, **_configured({**CONFIG, **config})}
        return scrubbed(self.home, {**extra, **more})

    @cached_property
    def _program(self) -> str:
        fix = "install it: `apt-get install git`, `dnf install git`, or your distribution's package of it"
        try:
            output = run(["git", "version"], env=scrubbed(self.home)).output
        except HostError as error:
            raise HostError(error.what, why="a source of kind git needs it", fix=fix) from error
        found = re.search(r"(\d+)\.(\d+)", output)
        if found is None or (int(found[1]), int(found[2])) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise HostError(f"this git is too old: {output}", why=f"{oldest} or later is needed", fix=fix)
        return "git"


def said(error: CommandError) -> str:
    """Return the last that git said besides its progress, without credentials."""
    lines = [line.strip() for line in error.why.splitlines() if line.strip() and "%" not in line]
    telling = [line for line in lines if not line.endswith("done.")] or [str(error.what)]
    return re.sub(r"//[^/\s]*@", "//***@", "; ".join(telling[-SHOWN_LINES:]))


def _configured(config: Mapping[str, str]) -> dict[str, str]:
    """Return a configuration as the variables by which git takes it: it outdoes that of any file."""
    variables = {"GIT_CONFIG_COUNT": str(len(config))}
    for number, (key, value) in enumerate(config.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables
