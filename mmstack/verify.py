"""Proves a layer: its suite runs in a fresh environment made of the wheels, and every check is accounted for."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from mmstack import standalone
from mmstack.envs import python_of
from mmstack.errors import CommandError, VerificationError
from mmstack.model import CheckResult, Verification
from mmstack.run import run, scrubbed
from mmstack.standalone import FACTS_VARIABLE, PASSED_THROUGH, SOME_TESTS_FAILED, isolation, pytest_words

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmstack.model import Plan


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
    isolated = isolation(str(suite.facts["python"]))
    started = time.monotonic()
    failure = None
    try:
        run(
            [python_of(env), *isolated, *pytest_words(suite.folder, results)],
            env=scrubbed(
                work / "home",
                {
                    "PATH": f"{env / 'bin'}:{variables.get('PATH', os.defpath)}",
                    FACTS_VARIABLE: str(facts),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # what stands beside the environment has no say
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
    except (OSError, ET.ParseError, ValueError) as error:
        why = f"{failure.what}\n{failure.why}" if failure else str(error)
        raise VerificationError(did_not_run, why=why, fix=f"read {log}") from failure or error
    result = Verification(layer=suite.layer, key=suite.key, checks=checks, seconds=seconds)
    if failure is not None and (failure.status != SOME_TESTS_FAILED or result.passed):
        why = f"{failure.what}\n{failure.why}"
        raise VerificationError(did_not_run, why=why, fix=f"read {log}") from failure
    return _judge(result, log)


def read_results(file: Path) -> tuple[CheckResult, ...]:
    """Read pytest's JUnit XML; what was skipped counts as not run."""
    return tuple(
        CheckResult(name=item["name"], outcome=item["outcome"], seconds=item["seconds"], detail=item["detail"])
        for item in standalone.read_results(file)
    )


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


def toolkit_facts(plan: Plan) -> dict[str, object] | None:
    """Return what is told of a plan's CUDA toolkit: version, kind, origin, and what was compiled for."""
    if plan.toolkit is None:
        return None
    return {
        "version": plan.toolkit.version,
        "kind": plan.toolkit.kind,
        "origin": plan.toolkit.origin,
        "identity": plan.toolkit.identity,
        "architectures": [str(item) for item in plan.architectures],
    }
