"""Whatever is done to a build's processes, the next run ends in the same bits."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from mmstack.builders.cmake import CONFIGURED
from tests.integration.test_interruption import COMPILERS, STEPS, TITLES, compiler, orphans, read_until, rubbish
from tests.support import RELEASES, forget

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

    from tests.faults.tally import Tally
    from tests.support import Checkout

    Fault = Callable[[Checkout, subprocess.Popen[str], Tally, random.Random], str]

KILLED = "`kill -9` of a build, or of a child of it, at a random moment"
HALF = ", half configured"
PATIENCE = 600  # seconds; also where a machine does much else
LONGEST = 3.0  # seconds after a build's first step


def chains(count: int, number: int) -> pytest.MarkDecorator:
    """Run a test so often, with the session `faults` alone: what is left to chance must hold up no other work."""
    slow = [pytest.param(count, seed, id=f"chain{seed}", marks=pytest.mark.slow) for seed in range(1, number + 1)]
    return pytest.mark.parametrize(("count", "seed"), slow)


@pytest.mark.fault(KILLED)
@chains(25, 8)
def test_killed_at_random_moments(built: Checkout, tally: Tally, count: int, seed: int) -> None:
    """The run itself, all of its process group, or any one process that it started."""
    chain(built, tally, count, random.Random(seed), kill_something)  # noqa: S311 - a test's dice


@pytest.mark.fault(KILLED)
@chains(25, 1)
def test_killed_at_random_moments_where_cmake_compiles(project: Checkout, tally: Tally, count: int, seed: int) -> None:
    """The same from the moment on when CMake begins to configure; some of them leave that half done."""
    chain(project, tally, count, random.Random(seed), kill_and_look, "> configure ext")  # noqa: S311 - as above
    tally.check(any(HALF in how for how in tally.ended), f"none while it configured: {tally.ended}")


@pytest.mark.fault("SIGINT, SIGTERM or SIGHUP at a random moment")
@chains(10, 3)
def test_signalled_at_random_moments(built: Checkout, tally: Tally, count: int, seed: int) -> None:
    """Each ends in 130, or in 0 if it came too late, without a traceback and with no process left."""
    chain(built, tally, count, random.Random(seed), ask_to_stop)  # noqa: S311 - as above
    tally.check(tally.ended["stopped with 130"] > count / 2, f"few listened to a signal: {tally.ended}")


@pytest.mark.fault("`kill -9` as a step begins")
@pytest.mark.parametrize(
    "steps",
    [pytest.param(("build ext",), id="smoke")]
    + [pytest.param(STEPS[part::4], id=f"full{part}", marks=pytest.mark.slow) for part in range(4)],
)
def test_killed_at_every_step(built: Checkout, tally: Tally, steps: Sequence[str]) -> None:
    """The next run ends as if nothing had happened."""
    kill_at_each(built, tally, steps)


@pytest.mark.fault("`kill -9` as a step begins")
@pytest.mark.slow
def test_killed_at_every_step_where_cmake_compiles(project: Checkout, tally: Tally) -> None:
    """The same for each step of the layer that is configured first."""
    steps = [step for step in project.plan() if step.endswith(" ext")]
    tally.check("configure ext" in steps, f"nothing is configured: {steps}")
    kill_at_each(project, tally, steps)


def kill_at_each(checkout: Checkout, tally: Tally, steps: Sequence[str]) -> None:
    """Kill a build from nothing as each of these steps begins, then let it end."""
    wanted = checkout.wheels()
    for step in steps:
        reset(checkout)
        shutil.rmtree(checkout.state / "downloads", ignore_errors=True)
        killed = kill_at(checkout, step)
        tally.count("killed" if killed else "over before")
        tally.check(killed, f"{step} was not killed")
        leave_alone(checkout, tally, wanted, f"after {step}")


def kill_at(checkout: Checkout, step: str) -> bool:
    """Kill a run when it begins a step; return whether it died of that."""
    process = checkout.start("build-stack", "--stack", "mini")
    began = read_until(process, f"> {TITLES.get(step, step)}\n")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return began and process.returncode == -signal.SIGKILL


@pytest.mark.fault("suspended (SIGSTOP) and continued (SIGCONT), with all that it started")
@pytest.mark.parametrize("count", [pytest.param(20, id="full", marks=pytest.mark.slow)])
def test_suspended(built: Checkout, tally: Tally, count: int) -> None:
    """A build takes longer for that, and nothing else."""
    dice, wanted = random.Random(count), built.wheels()  # noqa: S311 - as above
    while sum(tally.ended.values()) < count:
        reset(built)
        process = built.start("build-stack", "--stack", "mini")
        while process.poll() is None and sum(tally.ended.values()) < count:
            time.sleep(dice.uniform(0.1, 1.0))
            if suspend(process.pid, dice.uniform(0.1, 0.5)):
                tally.count("went on")
        out, _ = process.communicate(timeout=PATIENCE)
        tally.check(process.returncode == 0, out)
        tally.check(built.wheels() == wanted, "other bits after being suspended")


@pytest.mark.fault("builds at once in one checkout")
@pytest.mark.parametrize("count", [pytest.param(3, id="smoke"), pytest.param(8, id="full", marks=pytest.mark.slow)])
def test_builds_at_once(built: Checkout, tally: Tally, count: int) -> None:
    """All end well, and each layer was built once."""
    wanted = built.wheels()
    reset(built)
    shutil.rmtree(built.state / "logs")
    runs = [built.start("build-stack", "--stack", "mini") for _ in range(count)]
    for run in runs:
        out, _ = run.communicate(timeout=PATIENCE)
        tally.count("ended well" if run.returncode == 0 else "failed")
        tally.check(run.returncode == 0, out)
    tally.check(built.wheels() == wanted, "other bits")
    logs = {log.name.partition("-")[0]: log.read_text() for log in (built.state / "logs").iterdir()}
    for layer in RELEASES:
        tally.check(logs[layer].count(" build --wheel ") == 1, f"{layer} was built more than once")


@pytest.mark.fault("a compiler that may have less memory than it needs (RLIMIT_AS)")
@pytest.mark.parametrize(
    "limits",
    [pytest.param((20,), id="smoke"), pytest.param((1, 5, 10, 20), id="full", marks=pytest.mark.slow)],
)
def test_too_little_memory(built: Checkout, tally: Tally, limits: tuple[int, ...]) -> None:
    """The command is named, and with enough memory the build carries on."""
    wanted = built.wheels()
    forget(built, "build ext")
    for limit in limits:
        starved = f"ulimit -v {limit * 1024}"
        built.env = {name: compiler(built.root.parent, program, starved) for name, program in COMPILERS.items()}
        done = built.build()
        tally.count("named" if done.code == 1 else "ended otherwise")
        tally.check(done.code == 1, done.text)
        tally.check("ext 2.0 did not build" in done.err and "Traceback" not in done.text, done.text)
    built.env = {}
    done = built.build()  # the folder of the starved compiler's build may stay: it may have a key of its own
    tally.check(done.code == 0, done.text)
    tally.check(built.wheels() == wanted, "other bits")


def chain(checkout: Checkout, tally: Tally, count: int, dice: random.Random, fault: Fault, begun: str = "> ") -> None:
    """Make faults in a build from nothing, one after the other, then let it end; one that ended before begins anew.

    Most are made some time after it has `begun` to do something.
    """
    wanted = checkout.wheels()
    reset(checkout)
    while sum(tally.ended.values()) < count:
        process = checkout.start("build-stack", "--stack", "mini")
        if dice.random() < 0.8:  # else any time, also before it began to work
            read_until(process, begun)
        time.sleep(dice.uniform(0.0, LONGEST))
        if how := fault(checkout, process, tally, dice):
            tally.count(how)
        if process.returncode == 0:  # before it, or in spite of it
            tally.check(checkout.wheels() == wanted, f"one that ended all the same: other bits ({how})")
            reset(checkout)
        tally.check(how or process.returncode == 0, f"ended by itself with {process.returncode}")
    leave_alone(checkout, tally, wanted, f"after {count} faults")


def kill_something(checkout: Checkout, process: subprocess.Popen[str], tally: Tally, dice: random.Random) -> str:
    """Kill a build, its process group, or one of its processes; return nothing where it was over."""
    whom = dice.choice(("the run", "its group", "a child", "a child"))
    if process.poll() is not None:
        process.communicate()
        return ""
    if whom == "a child" and kill_child(process.pid, dice):
        out, _ = process.communicate(timeout=PATIENCE)
        # 3 where a compiler was killed that was only asked whether it works
        tally.check("Traceback" not in out and process.returncode in {0, 1, 3}, f"{process.returncode}: {out}")
        return "a child killed"
    if whom == "its group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()
    end = time.monotonic() + PATIENCE
    while orphans(checkout) and time.monotonic() < end:  # they are ended by one of their own, in its time
        time.sleep(0.1)
    tally.check(not orphans(checkout), f"left: {orphans(checkout)}")
    return "the run killed" if process.returncode == -signal.SIGKILL else ""


def kill_and_look(checkout: Checkout, process: subprocess.Popen[str], tally: Tally, dice: random.Random) -> str:
    """Kill something, and tell whether CMake's folder is left half made."""
    how = kill_something(checkout, process, tally, dice)
    half = any(not (folder / CONFIGURED).exists() for folder in checkout.state.glob("work/ext-*/tree/build"))
    return f"{how}{HALF}" if how and half else how


def kill_child(pid: int, dice: random.Random) -> bool:
    """Kill one of the processes that a run started; return whether any was still there."""
    children = psutil.Process(pid).children(recursive=True)
    for child in dice.sample(children, len(children)):
        with suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE:
                child.kill()
                return True
    return False


def ask_to_stop(checkout: Checkout, process: subprocess.Popen[str], tally: Tally, dice: random.Random) -> str:
    """Send a run a signal that asks it to stop; return nothing where it was over."""
    process.send_signal(dice.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))
    out, _ = process.communicate(timeout=PATIENCE)
    early = process.returncode < 0  # before it listened to signals
    tally.check(process.returncode in {0, 130} or early, f"{process.returncode}: {out}")
    tally.check("Traceback" not in out or early, out)
    tally.check(not orphans(checkout), f"left: {orphans(checkout)}")
    return {0: "", 130: "stopped with 130"}.get(process.returncode, "stopped while it was starting")


def leave_alone(checkout: Checkout, tally: Tally, wanted: dict[str, str], when: str) -> None:
    """Let a build end, and hold it against one that nobody disturbed."""
    process = checkout.start("build-stack", "--stack", "mini")
    out, _ = process.communicate(timeout=PATIENCE)
    tally.check(process.returncode == 0, f"{when}: {out}")
    tally.check(process.returncode == 0 and checkout.wheels() == wanted, f"{when}: other bits")
    tally.check(not rubbish(checkout), f"{when}: {rubbish(checkout)}")


def reset(checkout: Checkout) -> None:
    """Remove all that was made; what was fetched and unpacked stays."""
    for name in ("artifacts", "verified", "work"):
        shutil.rmtree(checkout.state / name, ignore_errors=True)
    shutil.rmtree(checkout.dist, ignore_errors=True)


def suspend(pid: int, seconds: float) -> bool:
    """Stop a process and all below it for a while; return whether it was there."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        family[0].suspend()
    except psutil.NoSuchProcess:
        return False
    for member in family[1:]:
        with suppress(psutil.Error):
            member.suspend()
    time.sleep(seconds)
    for member in reversed(family):
        with suppress(psutil.Error):
            member.resume()
    return True
