from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mmstack.errors import VerificationError
from mmstack.model import CheckResult, Verification
from mmstack.standalone import PASSED_THROUGH, suite_facts
from mmstack.verify import Suite, read_results, run_suite
from tests.support import ROOT

if TYPE_CHECKING:
    from pathlib import Path

RESULTS = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="5">
<testcase classname="ext.verify.test_ops" name="test_good[1-a]" time="0.25" />
<testcase classname="ext.verify.test_ops.TestClass" name="test_bad" time="1.0">
  <failure message="assert 1 == 2">def test_bad():\nE assert 1 == 2</failure></testcase>
<testcase classname="ext.verify.test_ops" name="test_setup" time="0"><error message="no fixture" /></testcase>
<testcase classname="ext.verify.test_ops" name="test_gpu" time="0">
  <skipped type="pytest.skip" message="no GPU">test_ops.py:3: no GPU</skipped></testcase>
<testcase classname="" name="ext.verify.test_module" time="0"><skipped message="no video" /></testcase>
</testsuite></testsuites>
"""
VARIABLES = {"PATH": "/usr/bin:/bin", "MY_TOKEN": "s3cret", "CC": "some-cc"}


def test_every_check_has_an_outcome(tmp_path: Path) -> None:
    """What was skipped did not run; what broke before it began has failed."""
    (tmp_path / "results.xml").write_text(RESULTS, encoding="utf-8")
    assert read_results(tmp_path / "results.xml") == (
        CheckResult(name="test_ops::test_good[1-a]", outcome="passed", seconds=0.25),
        CheckResult(
            name="TestClass::test_bad",
            outcome="failed",
            seconds=1.0,
            detail="assert 1 == 2\ndef test_bad():\nE assert 1 == 2",
        ),
        CheckResult(name="test_ops::test_setup", outcome="failed", seconds=0.0, detail="no fixture"),
        CheckResult(name="test_ops::test_gpu", outcome="not run", seconds=0.0, detail="no GPU"),
        CheckResult(name="::ext.verify.test_module", outcome="not run", seconds=0.0, detail="no video"),
    )


class Bench:
    """An environment that is this test's own Python, and a suite to run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work, self.log = folder / "work", folder / "log"
        self.suite = folder / "pipelines" / "ext" / "verify"
        self.suite.mkdir(parents=True)
        (folder / "pipelines" / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=append\n", encoding="utf-8")
        self.python(f'exec {sys.executable} "$@"')

    def python(self, script: str) -> None:
        """Make the environment's interpreter a script."""
        program = self.folder / "env" / "bin" / "python"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)

    def run(self, code: str = "", **facts: str) -> Verification:
        """Run a suite of one file."""
        (self.suite / "test_ext.py").write_text(code, encoding="utf-8")
        suite = Suite(layer="ext", key="k", folder=self.suite, facts={"python": "3.11.7", **facts})
        return run_suite(suite, self.folder / "env", self.work, self.log, VARIABLES)

    def failure(self, code: str = "") -> VerificationError:
        """Return the error that a suite ends with."""
        with pytest.raises(VerificationError) as caught:
            self.run(code)
        assert caught.value.fix == f"read {self.log}"
        return caught.value


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return an environment and a suite."""
    return Bench(tmp_path)


def test_what_stands_beside_the_environment_has_no_say(bench: Bench) -> None:
    """A plugin of the user's own Python, which `--torch installed` imports from, would leave out a check that fails."""
    (bench.folder / "beside" / "quiet-1.dist-info").mkdir(parents=True)
    (bench.folder / "beside" / "quiet-1.dist-info" / "METADATA").write_text("Name: quiet\nVersion: 1\n", "utf-8")
    (bench.folder / "beside" / "quiet-1.dist-info" / "entry_points.txt").write_text(
        "[pytest11]\nquiet = quiet\n", "utf-8"
    )
    (bench.folder / "beside" / "quiet.py").write_text(
        "def pytest_collection_modifyitems(items): del items[1:]\n", "utf-8"
    )
    bench.python(f'export PYTHONPATH={bench.folder / "beside"}; exec {sys.executable} "$@"')
    with pytest.raises(VerificationError):
        bench.run("def test_one(): pass\ndef test_two(): assert 0\n")


TORCH = """
from types import SimpleNamespace as It
def broken(*_given): raise RuntimeError("CUDA error: the device is busy")
cuda = It(is_available=lambda: True, manual_seed=broken, synchronize=broken)
default_generator = It(manual_seed=lambda _seed: None)
device, initial_seed = str, lambda: 1
"""


def test_a_gpu_that_never_worked_has_failed(bench: Bench) -> None:
    """Only after a check has failed may what it left behind be why others do not run."""
    shutil.copy(ROOT / "pipelines" / "conftest.py", bench.suite.parents[1])
    (bench.folder / "beside").mkdir()
    (bench.folder / "beside" / "torch.py").write_text(TORCH, encoding="utf-8")
    bench.python(f'export PYTHONPATH={bench.folder / "beside"}; exec {sys.executable} "$@"')
    found = bench.failure("def test_one(device): pass\n").verification
    assert found is not None
    assert {check.name: check.outcome for check in found.checks} == {
        "test_ext::test_one[cpu]": "passed",
        "test_ext::test_one[cuda]": "failed",
    }
    found = bench.failure("def test_first(): assert 0\ndef test_one(device): pass\n").verification
    assert found is not None
    (skipped,) = (check for check in found.checks if check.outcome == "not run")
    assert skipped.detail == "an earlier check has left the GPU in error: CUDA error: the device is busy"


def test_a_suite_that_passes_is_a_result(bench: Bench) -> None:
    """Passed and skipped checks are counted apart; the log holds what pytest said."""
    code = "import pytest\ndef test_one(): pass\ndef test_two(): pytest.skip('no GPU')\n"
    result = bench.run(code)
    assert (result.layer, result.key, result.passed) == ("ext", "k", True)
    assert [(check.name, check.outcome) for check in result.checks] == [
        ("test_ext::test_one", "passed"),
        ("test_ext::test_two", "not run"),
    ]
    assert "1 passed, 1 skipped" in bench.log.read_text(encoding="utf-8")


def test_a_check_that_fails_is_named_with_its_reason(bench: Bench) -> None:
    """And what the others found is not lost."""
    error = bench.failure("def test_one(): pass\ndef test_two(): assert 1 == 2, 'numbers'\n")
    assert error.what == "ext failed 1 of 2 checks"
    assert error.why == "test_ext::test_two: AssertionError: numbers"
    assert error.verification is not None
    assert [check.outcome for check in error.verification.checks] == ["passed", "failed"]


@pytest.mark.parametrize(
    "code",
    [
        "import pytest\ndef test_one(): pytest.skip('no GPU')\n",
        "import pytest\npytest.skip('x', allow_module_level=True)\n",
    ],
)
def test_a_suite_that_only_skips_has_proved_nothing(bench: Bench, code: str) -> None:
    """Not run is never passed."""
    assert bench.failure(code).what in {"the suite of ext ran no check", "the suite of ext did not run"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", "no tests ran"),
        ("import nosuchmodule", "nosuchmodule"),
        ("def test_one(:", "SyntaxError"),
        ("import os\ndef test_one(): os.abort()\n", "signal SIGABRT"),
        ("import os\ndef test_one(): os._exit(1)\n", "status 1"),
        ("import os\ndef test_one(): os._exit(0)\n", "results.xml"),
        ("import pytest\ndef test_one(): pytest.exit('enough')\n", "enough"),
    ],
    ids=["empty", "import", "syntax", "crash", "exit 1", "exit 0", "pytest.exit"],
)
def test_a_suite_that_breaks_off_did_not_run(bench: Bench, code: str, words: str) -> None:
    """Whatever ended it, with whatever status: it is neither passed nor a failed check."""
    error = bench.failure(code)
    assert error.what == "the suite of ext did not run"
    assert words in error.why
    assert error.verification is None


def test_results_cut_short_are_no_results(bench: Bench) -> None:
    """A full disk while pytest writes them, say."""
    bench.python('for word; do case $word in --junit-xml=*) echo "<testsuites>" > "${word#--junit-xml=}";; esac; done')
    assert bench.failure().what == "the suite of ext did not run"


def test_results_of_an_earlier_run_are_not_taken(bench: Bench) -> None:
    """A suite that breaks off does not pass by what another has left."""
    bench.run("def test_one(): pass\n")
    bench.python("exit 0")
    assert bench.failure().what == "the suite of ext did not run"


def test_a_status_that_the_results_do_not_explain_is_no_success(bench: Bench) -> None:
    """Every check passed, and yet pytest ended in failure."""
    good = bench.work / "good.xml"
    bench.run("def test_one(): pass\n")
    (bench.work / "results.xml").rename(good)
    bench.python(f'for word; do case $word in --junit-xml=*) cp {good} "${{word#--junit-xml=}}";; esac; done; exit 1')
    assert bench.failure().what == "the suite of ext did not run"


def test_a_suite_is_told_facts_and_sees_no_secret(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment is stated; compilers are named to it, plugins and options of the user's are not."""
    for name in ("PYTEST_ADDOPTS", "PYTHONPATH"):
        monkeypatch.setenv(name, "--nosuchoption")
    code = (
        "import json, os, pathlib\n"
        "def test_one():\n"
        "    facts = json.loads(pathlib.Path(os.environ['MMSTACK_FACTS']).read_text())\n"
        "    assert facts['color'] == 'red'\n"
        "    assert 'MY_TOKEN' not in os.environ\n"
        "    assert os.environ['CC'] == 'some-cc'\n"
        "    assert os.environ['PATH'].split(':')[0].endswith('env/bin')\n"
        "    assert 's3cret' not in str(os.environ)\n"
    )
    assert bench.run(code, color="red").passed
    assert "MY_TOKEN" not in PASSED_THROUGH


def test_a_suite_runs_where_there_is_no_path(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own programs are on it then."""
    monkeypatch.delitem(VARIABLES, "PATH")
    assert bench.run("def test_one():\n    import os\n    assert '/bin' in os.environ['PATH'].split(':')").passed


@pytest.mark.parametrize(("python", "expected"), [("3.10.2", False), ("3.11.0", True), ("3.13.0rc1", True)])
def test_nothing_is_imported_from_where_a_suite_runs(bench: Bench, python: str, expected: bool) -> None:  # noqa: FBT001 - a table
    """The option for that is new in Python 3.11."""
    bench.python(f'echo "$@" > {bench.folder}/words; exit 3')
    with pytest.raises(VerificationError):
        bench.run(python=python)
    assert ("-P" in (bench.folder / "words").read_text(encoding="utf-8").split()) is expected


def test_a_suite_s_facts_are_its_layer_s() -> None:
    """Its own version, what the stack expects of it, and options with their defaults."""
    facts = suite_facts(
        stack="mini",
        layer="ext",
        cuda="13.0",
        python="3.11.7",
        layers={"base": "1.0", "ext": "2.0"},
        expect={"unit": "10"},
        toolkit={"version": "13.0"},
        options={"video": "film.mp4"},
    )
    assert facts == {
        "stack": "mini",
        "layer": "ext",
        "version": "2.0",
        "cuda": "13.0",
        "toolkit": {"version": "13.0"},
        "python": "3.11.7",
        "layers": {"base": "1.0", "ext": "2.0"},
        "expect": {"unit": "10"},
        "options": {"checkpoint": "", "video": "film.mp4"},
    }
    assert json.loads(json.dumps(facts)) == facts


NETWORK = """
import errno, socket
import pytest

def test_elsewhere():
    with socket.socket() as one:
        with pytest.raises(ConnectionRefusedError, match="without network"):
            one.connect(("192.0.2.1", 80))
        assert one.connect_ex(("192.0.2.1", 80)) == errno.ECONNREFUSED
    with pytest.raises(socket.gaierror, match="without network"):
        socket.create_connection(("host.test", 80))

def test_here():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
"""


def test_a_suite_reaches_this_machine_alone(tmp_path: Path) -> None:
    """By what all suites share."""
    for name in ("conftest.py", "pytest.ini"):
        shutil.copy(ROOT / "pipelines" / name, tmp_path)
    (tmp_path / "test_network.py").write_text(NETWORK, encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pytest.ini"]
    done = subprocess.run(words, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout
