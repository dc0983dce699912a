"""A team's compiler cache: two machines, each a network namespace of its own, and a Redis between them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.real import lay_out

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NETWORK = "10.231.77"
PASSWORD = "not-to-be-seen"  # noqa: S105 - of a server that lives as long as the test
ENDPOINT = f"redis://{NETWORK}.1:6379"
WORDS = ("build-stack", "--stack", "cpu", "--offline", "--stop-after", "gate", "--compiler-cache")
# of this run alone: one that was killed leaves its own behind
SERVER, *MACHINES = (f"mmstack-{os.getpid()}-{name}" for name in ("redis", "one", "two"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
    *(
        pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not on this machine")
        for name in ("ip", "redis-server")
    ),
]


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis that two machines reach, and neither of them anything else."""
    spaces = (SERVER, *MACHINES)
    try:
        for name in spaces:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", SERVER, "link", "add", "bridge", "type", "bridge")
        ip("-n", SERVER, "addr", "add", f"{NETWORK}.1/24", "dev", "bridge")
        ip("-n", SERVER, "link", "set", "bridge", "up")
        for number, name in enumerate(MACHINES, start=2):
            ip("-n", SERVER, "link", "add", f"to{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", SERVER, "link", "set", f"to{number}", "master", "bridge", "up")
            ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        words = ["--bind", f"{NETWORK}.1", "--requirepass", PASSWORD, "--save", "", "--dir", str(tmp_path)]
        with subprocess.Popen(["ip", "netns", "exec", SERVER, "redis-server", *words]) as process:
            time.sleep(1)
            yield process
            process.kill()
    finally:
        for name in spaces:
            subprocess.run(["ip", "netns", "del", name], check=False)


def build(machine: str, folder: Path, cache: str, remote: dict[str, str]) -> dict[str, Any]:
    """Build on a machine whose state holds downloads alone; return what is said of the cache."""
    root, state = lay_out(folder), folder / "state"
    words = ["ip", "netns", "exec", machine, sys.executable, "-m", "invoke", *WORDS, cache]
    environment = {**os.environ, **remote, "MMSTACK_HOME": str(state)}
    done = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    manifest = (root / "dist" / "cpu" / "manifest.json").read_text(encoding="utf-8")
    logs = "".join(file.read_text(encoding="utf-8") for file in (state / "logs").iterdir())
    assert PASSWORD not in output + manifest + logs
    return next(used for used in json.loads(manifest)["compiler_caches"] if used["step"] == "build mmcv")


@pytest.mark.parametrize(
    ("cache", "remote"),
    [
        ("sccache", {"SCCACHE_REDIS_ENDPOINT": ENDPOINT, "SCCACHE_REDIS_PASSWORD": PASSWORD}),
        ("ccache", {"CCACHE_REMOTE_STORAGE": f"redis://{PASSWORD}@{NETWORK}.1:6379"}),
    ],
)
def test_the_second_machine_compiles_nothing_that_the_first_has(
    cache: str, remote: dict[str, str], redis: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """More than 95 of 100 compilations come from the Redis."""
    first = build(MACHINES[0], tmp_path / "one", cache, remote)
    # sccache has nothing for another path: options that name it are in its keys
    elsewhere = tmp_path / ("one" if cache == "sccache" else "two")
    shutil.rmtree(tmp_path / "one")
    second = build(MACHINES[1], elsewhere, cache, remote)
    print(cache, first, second)  # noqa: T201 - the figures of the how-to
    assert first["misses"] > first["hits"]
    assert second["hits"] > 0.95 * (second["hits"] + second["misses"])
    assert not first["errors"] + second["errors"]
    assert redis.poll() is None
