"""Builds that share one state: of one key in turn, of different keys beside each other, by any clock."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

from tests.integration.test_interruption import COMPILERS, compiler, compiling
from tests.support import forget

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Checkout

YEAR = 365 * 86400
MEETING = """
case "$*" in *-O0*) own=0 other=2 ;; *) own=2 other=0 ;; esac
touch "{folder}/here-$own"
for second in $(seq 600); do [ -e "{folder}/here-$other" ] && break; sleep 0.1; done
[ -e "{folder}/here-$other" ]
"""


def test_builds_of_different_keys_run_beside_each_other(built: Checkout, tmp_path: Path) -> None:
    """Each compiles only while the other does; both end well, and what is described is what is installed."""
    meeting = f"{MEETING.format(folder=tmp_path).strip()} || exit 9"
    built.env = {name: compiler(tmp_path, program, meeting) for name, program in COMPILERS.items()}
    runs = [built.start("build-stack", "--stack", "mini", "--flag", f"ext.SPEED={speed}") for speed in ("O0", "O2")]
    said = [run.communicate(timeout=200)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    manifest, stamp = built.manifest(), json.loads((built.dist / "env" / "mmstack.json").read_text(encoding="utf-8"))
    assert manifest["key"] == stamp["key"]
    assert {item["sha256"] for item in manifest["artifacts"]} == set(built.wheels().values())


def test_verified_is_said_of_what_is_installed_alone(built: Checkout) -> None:
    """Another build has taken its place; its wheels and what its suites found are in the store."""
    assert built.build("--flag", "ext.SPEED=O2").code == 0
    done = built.build("--stop-after", "gate", "--json")
    assert done.code == 0, done.text
    assert json.loads(done.out)["verdict"] == "not verified"
    assert "is built and verified" not in done.err


def test_a_build_of_another_key_does_not_wait_for_one_that_hangs(built: Checkout, tmp_path: Path) -> None:
    """Nor does a suspended run hold up more than its own key."""
    forget(built, "build ext")
    hanging = compiling(built, tmp_path)
    os.killpg(hanging.pid, signal.SIGSTOP)
    built.env = {}
    done = built.build("--flag", "ext.SPEED=O2", "--stop-after", "gate")
    assert done.code == 0, done.text
    os.killpg(hanging.pid, signal.SIGCONT)
    hanging.send_signal(signal.SIGINT)
    hanging.communicate(timeout=60)


def test_a_clock_that_was_set_back_does_no_harm(built: Checkout) -> None:
    """All that is here is dated a year ahead: nothing of it is done again for that, and what is new ends the same."""
    wanted = built.wheels()
    ahead = time.time() + YEAR
    for folder in (built.state, built.dist):
        for path in folder.rglob("*"):
            os.utime(path, (ahead, ahead), follow_symlinks=False)
    done = built.build()
    assert done.code == 0, done.text
    assert "> " not in done.out
    forget(built, "build ext")
    done = built.build()
    assert done.code == 0, done.text
    assert built.wheels() == wanted


def test_what_a_stopped_build_left_half_written_is_not_used(built: Checkout, tmp_path: Path) -> None:
    """A copy that was cut short is newer than its source, and bytecode is valid by its first bytes."""
    wanted = built.wheels()
    forget(built, "build ext")
    process = compiling(built, tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (work,) = built.state.glob("work/ext-*")
    copies = list(work.glob("tree/build/lib.*/miniext/__init__.py"))
    bytecode = list(work.glob("env/lib/python*/site-packages/setuptools/__pycache__/*.pyc"))
    assert copies
    assert bytecode
    for file in (*copies, *bytecode):
        os.truncate(file, 20)
    built.env = {}
    done = built.build()
    assert done.code == 0, done.text
    assert built.wheels() == wanted
