"""Proves a layer: its suite runs in a fresh environment made of the wheels, and every check is accounted for."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from mmstack.envs import python_of
from mmstack.errors import CommandError, VerificationError
from mmstack.model import CheckResult, Verification
from mmstack.run import run, scrubbed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmstack.model import Stack

FACTS_VARIABLE = "MMSTACK_FACTS"
PASSED_THROUGH = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "CC", "CXX")
SOME_TESTS_FAILED = 1


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A layer's suite and what it is told: versions, what the stack expects, options of the user."""

    layer: str
    key: str
    folder: Path
    facts: Mapping[str, object]


def run_suite(suite: Suite, env: Path, work: Path, log: Path, variables: Mapping[str, str]) -> Verification:
    """Run a suite in an environment.

    Raises:
        VerificationError: a check failed, or the suite itself did not run.
    """
    work.mkdir(parents=True, exist_ok=True)
    facts, results = work / "facts.json", work / "results.xml"
    facts.write_text(json.dumps(suite.facts), encoding="utf-8")
    results.unlink(missing_ok=True)
    root = suite.folder.parents[1]
    words: list[str | Path] = [python_of(env), *_isolation(suite.facts), "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    started = time.monotonic()
    failure = None
    try:
        run(
            [*words, f"--rootdir={root}", f"--confcutdir={root}", f"--junit-xml={results}", suite.folder],
            env=scrubbed(
                work / "home",
                {
                    "PATH": f"{env / 'bin'}:{variables['PATH']}",
                    FACTS_VARIABLE: str(facts),
                    "PYTHONDONTWRITEBYTECODE": "1",
                }
                | {name: variables[name] for name in PASSED_THROUGH if name in variables},
            ),
            cwd=work,
            log=log,
        )
    except CommandError as error:
        failure = error
    seconds = time.monotonic() - started
    did_not_run = f"the suite of {suite.layer} did not run"
    try:
        checks = read_results(results)
    except (OSError, ET.ParseError) as error:
        why = f"{failure.what}\n{failure.why}" if failure else str(error)
        raise VerificationError(did_not_run, why=why, fix=f"read {log}") from failure or error
    result = Verification(layer=suite.layer, key=suite.key, checks=checks, seconds=seconds)
    if failure is not None and (failure.status != SOME_TESTS_FAILED or result.passed):
        why = f"{failure.what}\n{failure.why}"
        raise VerificationError(did_not_run, why=why, fix=f"read {log}") from failure
    return _judge(result, log)


def read_results(file: Path) -> tuple[CheckResult, ...]:
    """Read pytest's JUnit XML; what was skipped counts as not run."""
    cases = ET.parse(file).getroot().iter("testcase")  # noqa: S314 - pytest wrote it a moment ago
    return tuple(_check(case) for case in cases)


def _check(case: ET.Element) -> CheckResult:
    name = f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name', '')}"
    seconds = float(case.get("time", "0"))
    for tag in ("failure", "error"):
        if (found := case.find(tag)) is not None:
            detail = f"{found.get('message', '')}\n{found.text or ''}".strip()
            return CheckResult(name=name, outcome="failed", seconds=seconds, detail=detail)
    if (skipped := case.find("skipped")) is not None:
        reason = skipped.get("message", "").removeprefix("not run: ")
        return CheckResult(name=name, outcome="not run", seconds=seconds, detail=reason)
    return CheckResult(name=name, outcome="passed", seconds=seconds)


def _judge(result: Verification, log: Path) -> Verification:
    if result.passed:
        return result
    failed = [check for check in result.checks if check.outcome == "failed"]
    lines = [f"{check.name}: {check.detail.splitlines()[0] if check.detail else ''}" for check in failed[:10]]
    raise VerificationError(
        f"{result.layer} failed {len(failed)} of {len(result.checks)} checks"
        if failed
        else f"the suite of {result.layer} ran no check",
        why="\n".join(lines),
        fix=f"read {log}",
        verification=result,
    )


def _isolation(facts: Mapping[str, object]) -> list[str]:
    """Return the option, new in Python 3.11, by which nothing is imported from the current folder."""
    major, minor, *_ = str(facts["python"]).split(".")
    return ["-P"] if (int(major), int(minor)) >= (3, 11) else []


def suite_facts(
    stack: Stack, layer: str, versions: Mapping[str, str], python: str, options: Mapping[str, str]
) -> dict[str, object]:
    """Return what a layer's suite is told."""
    return {
        "stack": stack.name,
        "layer": layer,
        "version": versions[layer],
        "cuda": stack.cuda,
        "python": python,
        "layers": dict(versions),
        "expect": dict(stack.expect.get(layer, {})),
        "options": {"checkpoint": "", "video": "", **options},
    }
