"""Whatever ends a build, the same command carries on and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import RELEASES, forget

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.support import Checkout

CHAIN = ("fetch", "source", "env", "build", "gate")
STEPS = [
    "fetch",
    *(f"{kind} {layer}" for layer in RELEASES for kind in CHAIN),
    "install",
    *(f"verify {layer}" for layer in RELEASES),
]
TITLES = {"fetch": "fetch requirements", "install": "install dist/mini/env"}
UNDONE = ("*.new", ".new-*", "*.tmp", "*.old", "wheelhouse*", ".tree*")


def test_every_step_is_known(golden: Checkout) -> None:
    """The steps that are killed below are all there are."""
    assert sorted(golden.plan()) == sorted(STEPS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_in_130_and_leaves_no_process(built: Checkout, tmp_path: Path, number: signal.Signals) -> None:
    """Asked to stop in the middle of a compilation, it stops everything, says how to go on, and can."""
    forget(built, "build ext")
    process = compiling(built, tmp_path)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert "interrupted" in out
    assert "run the same command again" in out
    assert "Traceback" not in out
    assert orphans(built) == []
    built.env = {}
    assert built.build().code == 0


def test_a_signal_ends_waiting_for_another_run(built: Checkout, tmp_path: Path) -> None:
    """A run that waits for another one can be stopped too."""
    forget(built, "build ext")
    first = compiling(built, tmp_path)
    second = built.start("build-stack", "--stack", "mini")
    read_until(second, "waiting: ")
    second.send_signal(signal.SIGINT)
    out, _ = second.communicate(timeout=10)
    assert second.returncode == 130, out
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)


def test_killed_in_a_compilation_no_compiler_lives_on(built: Checkout, tmp_path: Path) -> None:
    """After `kill -9`, nothing writes to a tree in which the next run builds."""
    forget(built, "build ext")
    process = compiling(built, tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 5
    while orphans(built) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert orphans(built) == []


def test_a_killed_compiler_fails_its_step_alone(built: Checkout, tmp_path: Path) -> None:
    """Where only the compiler is killed, the step is named; nothing else is lost."""
    wanted = built.wheels()
    forget(built, "build ext")
    built.env = {"CC": compiler(tmp_path, "gcc", 'if mkdir "$0.once" 2>/dev/null; then kill -9 $$; fi')}
    built.env["CXX"] = compiler(tmp_path, "g++", "")
    done = built.build()
    assert done.code == 1, done.text
    assert "build ext (failed after" in done.out
    assert "ext 2.0 did not build" in done.err
    assert "Traceback" not in done.text
    done = built.build()
    assert done.code == 0, done.text
    assert built.wheels() == wanted


def test_two_builds_at_once_share_the_work(fresh: Checkout) -> None:
    """Both end well, one waits for the other and says so, and each step's work is done once."""
    runs = [fresh.start("build-stack", "--stack", "mini") for _ in range(2)]
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert any("waiting: " in text for text in said)
    logs = {log.name.partition("-")[0]: log.read_text() for log in (fresh.state / "logs").iterdir()}
    for layer in RELEASES:
        assert logs[layer].count(" build --wheel ") == 1
        assert logs[layer].count(" venv ") == 1
        assert sum(f"stored {RELEASES[layer][0]}-" in text for text in said) == 1
        assert sum("passed, 0 failed" in line for text in said for line in text.splitlines() if f"✓ {layer}: " in line)
    assert sum("✓ install dist/mini/env" in text and "4 wheels" in text for text in said) == 1
    assert rubbish(fresh) == []


def read_until(process: subprocess.Popen[str], text: str) -> bool:
    """Read what a run says until a line begins so."""
    assert process.stdout is not None
    return any(line.startswith(text) for line in process.stdout)


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def compiler(folder: Path, name: str, before: str) -> str:
    """Return a compiler that does something before it compiles, but says that it is the usual one."""
    program = folder / f"my-{name}"
    program.write_text(f'#!/bin/sh\ncase "$*" in *" -c "*) {before or ":"} ;; esac\nexec {name} "$@"\n')
    program.chmod(0o755)
    return str(program)


def compiling(checkout: Checkout, folder: Path) -> subprocess.Popen[str]:
    """Start a build and return it once it compiles, for a minute."""
    hint = folder / "compiling"
    checkout.env = {name: compiler(folder, program, f'touch "{hint}"; sleep 60') for name, program in COMPILERS.items()}
    process = checkout.start("build-stack", "--stack", "mini")
    wait_for(hint)
    return process


COMPILERS = {"CC": "gcc", "CXX": "g++"}


def rubbish(checkout: Checkout) -> list[str]:
    """Return what an interrupted run left and no later one removed."""
    left = [path for folder in (checkout.state, checkout.dist) for name in UNDONE for path in folder.rglob(name)]
    outside = [path for path in left if not {"uv-cache", "site-packages"} & set(path.parts)]
    return [str(path) for path in [*outside, *(checkout.state / "work").glob("*")]]


def orphans(checkout: Checkout) -> list[str]:
    """Return the programs that still run for a checkout."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join([*process.cmdline(), process.environ().get("HOME", "")])
        except psutil.Error:
            continue
        if str(checkout.root) in words and process.pid != os.getpid():
            found.append(words)
    return found
