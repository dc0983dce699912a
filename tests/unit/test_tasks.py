from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Invoke = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def invoke(tmp_path: Path) -> Invoke:
    """Return a way to type a command in this repository, with a state of one's own."""

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MMSTACK_HOME": str(tmp_path / "state"), **variables}
        return subprocess.run(
            [sys.executable, "-m", "invoke", *words],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize("wanted", [True, False])
def test_what_is_imported_is_compiled_once(invoke: Invoke, tmp_path: Path, wanted: bool) -> None:  # noqa: FBT001 - pytest's way
    """Python keeps it for the next run, which starts sooner; but not where the user wants that it does not."""
    cache = tmp_path / "bytecode"
    invoke("plan", "--jobs", "banana", PYTHONPYCACHEPREFIX=str(cache), PYTHONDONTWRITEBYTECODE="" if wanted else "1")
    assert any(cache.rglob("session.*.pyc")) is wanted


WRONG = {
    "task": (["plann"], "there is no task 'plann'|did you mean 'plan'"),
    "second task": (["plan", "--jobs", "2", "docter"], "there is no task 'docter'|did you mean 'doctor'"),
    "option": (["build-stack", "--stak", "cpu"], "build-stack has no option '--stak'|did you mean '--stack'"),
    "option's end": (["plan", "--stack"], "--stack needs a value"),
    "argument": (["patches.edit"], "'patches.edit' did not receive required positional arguments: 'layer'"),
    "jobs": (["build-stack", "--jobs", "banana"], "--jobs: 'banana' is no number of jobs"),
    "stack": (["build-stack", "--stack", "nosuch"], "there is no stack 'nosuch'|known: "),
    "CUDA": (["plan", "--cuda", "99"], "'99' is no CUDA version"),
    "linker": (["plan", "--linker", "modl"], "there is no linker 'modl'|did you mean 'mold'"),
    "architecture": (["build-stack", "--arch", "banana"], "'banana' is no GPU architecture"),
    "source": (["plan", "--source", "x"], "--source: 'x' is not NAME=VALUE"),
    "flag": (["plan", "--flag", "x.Y=1"], "'x' is not in this stack"),
    "layer": (["patches.edit", "nosuch"], "there is no layer 'nosuch'"),
    "size": (["gc", "--max-size", "20"], "--max-size: '20' is no size"),
    "age": (["gc", "--older-than", "30"], "--older-than: '30' is no age"),
    "what no task takes": (["plan", "--", "--cuda", "13.0"], "no task takes what stands after `--`"),
    "twice": (["plan", "--arch", "9.0", "--arch", "12.0"], "--arch is given twice"),
    "word of Python": (["rebuild"], "'rebuild' did not receive required positional arguments: 'from'"),
    "cache": (["build-stack", "--dry-run", "--compiler-cache", "nosuch"], "there is no compiler cache 'nosuch'"),
    "machines": (["build-stack", "--dry-run", "--distribute", "nosuch"], "no way 'nosuch' to distribute"),
    "file of a suite": (["verify", "--video", "nosuch"], "--video: there is no file"),
    "kind of source": (["sources.compare", "mmcv", "sdist", "git"], "mmcv 2.2.0 is not pinned as git"),
    "case": (["bench", "--case", "gpu"], "--case: there is no case 'gpu'"),
    "mirror": (["doctor", "--torch", "source", "--mirror", "/nosuch"], "/nosuch"),
    "too new a Python": (["doctor", "--python", "3.19"], "stack 'cpu' is not for Python 3.19"),
    "Python": (["doctor", "--python", "snake"], "'snake' is neither a version of Python nor a path"),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG)
def test_a_wrong_command_ends_in_2_with_one_remedy(invoke: Invoke, tmp_path: Path, words: list[str], told: str) -> None:
    """What is wrong, what is known, what to do; nothing else, and nothing was begun."""
    done = invoke(*words)
    assert done.returncode == 2, done.stderr
    assert all(part in done.stderr for part in told.split("|")), done.stderr
    assert "Traceback" not in done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines() if line.split()[:1] == ["fix"]] == ["fix"]
    assert done.stdout == ""
    assert not (tmp_path / "state" / "work").exists()


def test_a_remedy_says_which_options_the_task_lacks(invoke: Invoke) -> None:
    """It is the engine's, which knows of no task."""
    words = ("--stack", "cu128", "--python", "3.19")
    assert "has not" not in invoke("plan", *words).stderr
    done = invoke("lock", "--stack", "debian12", "--trees", "--keep", PATH=str(Path(sys.executable).parent))
    assert done.returncode == 3, done.stderr
    assert "(`build-stack` has --source; `lock` has not)" in " ".join(done.stderr.split())


def test_a_dry_run_refuses_what_the_build_would_refuse(invoke: Invoke) -> None:
    """Also where only the plan shows it."""
    done = invoke("build-stack", "--dry-run", "--stop-after", "nosuch")
    assert (done.returncode, "there is no step 'nosuch'" in done.stderr) == (2, True)


@pytest.mark.parametrize("words", [["plan", "--stack", "nosuch"], ["plan", "--nosuch"]])
def test_json_is_one_document_even_where_the_command_is_wrong(invoke: Invoke, words: list[str]) -> None:
    """A program that reads it learns the kind of error and the exit code."""
    done = invoke(*words, "--json")
    error = json.loads(done.stdout)["error"]
    assert (error["slug"], error["code"], done.returncode) == ("usage", 2, 2)
    assert error["what"] in done.stderr
    assert error["fix"]


@pytest.mark.parametrize("unread", ["stderr", "stdout stderr", "stdout"])
def test_json_is_one_document_for_whoever_reads_it(tmp_path: Path, unread: str) -> None:
    """Even if nobody reads the words, and the status is the same; where nobody reads at all, nobody is bothered."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as broken, (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", "plan", "--stack", "nosuch", "--json"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MMSTACK_HOME": str(tmp_path / "state")},
            stdout=broken if "stdout" in unread else out,
            stderr=broken if "stderr" in unread else err,
            check=False,
        )
    said, words = ((tmp_path / name).read_text(encoding="utf-8") for name in ("out", "err"))
    assert done.returncode == 2
    assert "stdout" in unread or json.loads(said)["error"]["slug"] == "usage"
    assert "Traceback" not in words


def test_debug_shows_where_an_error_came_from(invoke: Invoke) -> None:
    """Besides the remedy, and with the same exit code."""
    done = invoke("plan", "--stack", "nosuch", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "fix" in done.stderr


def test_the_tasks_are_listed(invoke: Invoke) -> None:
    """Without loading the engine, or anything else that Invoke does not need."""
    done = invoke("--list", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert {"build-stack", "plan", "fetch", "verify", "doctor", "report", "lock", "patches.check"} <= set(
        done.stdout.split()
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "invoke" in loaded
    assert not loaded & {"mmstack", "rich", "packaging", "psutil", "jinja2", "httpx2", "uv", "markupsafe"}


@pytest.mark.parametrize("words", [["--help", "plan"], ["plan", "--help"], ["plan", "-h"]])
def test_a_task_explains_its_options(invoke: Invoke, words: list[str]) -> None:
    """Each has a help text."""
    done = invoke(*words)
    assert done.returncode == 0
    assert "GPU architectures: a list such as 9.0,12.0+PTX" in done.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["invoke plan --st"], "--stack"),
        (["invoke", "--help", "bui"], "build-stack"),
        (["invoke", "--list", "pat"], "patches.check"),
    ],
)
def test_a_shell_completes_words(invoke: Invoke, words: list[str], offered: str) -> None:
    """One that is not finished yet is no mistake."""
    done = invoke("--complete", "--", *words)
    assert (done.returncode, offered in done.stdout.split(), done.stderr) == (0, True, "")


def test_options_of_invoke_itself_may_stand_before_a_task(invoke: Invoke) -> None:
    """Their values are not taken for tasks."""
    done = invoke("--command-timeout", "5", "plan", "--jobs", "banana")
    assert "--jobs: 'banana' is no number of jobs" in done.stderr


def test_the_locks_fit(invoke: Invoke) -> None:
    """What the lint session asks."""
    done = invoke("lock", "--check")
    locks = sorted(path.name for path in ROOT.glob("stacks/*.lock"))
    assert (done.returncode, done.stdout) == (0, "".join(f"{name} fits\n" for name in locks))


def test_the_benchmark_is_a_task_too(invoke: Invoke, tmp_path: Path) -> None:
    """It measures the cases that are named, all where none is."""
    (tmp_path / "sitecustomize.py").write_text(
        "import benchmarks.builds as it\nit.main = lambda names: print(*names, '.')\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    assert invoke("bench", "--case", "cpu", "--case", "starts", PYTHONPATH=path).stdout == "cpu starts .\n"
    assert invoke("bench", PYTHONPATH=path).stdout == ".\n"


def test_a_state_that_cannot_be_written_is_told(invoke: Invoke, tmp_path: Path) -> None:
    """With the variable that says where it is."""
    (tmp_path / "file").touch()
    for wrong in (str(tmp_path / "file"), "~nobody-of-that-name/state", str(tmp_path / ("long" * 99))):
        done = invoke("gc", "--dry-run", MMSTACK_HOME=wrong)
        assert (done.returncode, "MMSTACK_HOME" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    (tmp_path / "gone").symlink_to("nowhere")  # as of a disk that is not mounted
    for wrong in ("file/state", "gone", "gone/state"):
        done = invoke("gc", MMSTACK_HOME=str(tmp_path / wrong))
        assert (done.returncode, "MMSTACK_HOME" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
        assert f"{tmp_path / wrong.partition('/')[0]} is no folder" in done.stderr


@pytest.mark.parametrize("words", [("--help", "nope"), ("--list", "nope"), ("nope",)])
def test_a_task_that_there_is_not_is_told(invoke: Invoke, words: tuple[str, ...]) -> None:
    """However it is asked for; what there is, is shown."""
    done = invoke(*words)
    assert (done.returncode, "there is no task 'nope'" in done.stderr) == (2, True)
    assert invoke("--help", "plan").returncode == 0
    assert invoke("--list", "patches").returncode == 0


def test_what_an_address_holds_is_not_repeated(invoke: Invoke) -> None:
    """Wherever it was typed."""
    address = "https://robot:s3cret@host.test/a"
    wrong = [
        ("plan", "--mirror", address, "--mirror", address),
        ("plan", "--mirror=", address),
        ("plan", f"--{address}"),
        ("plan", "--torch", address),
        ("plan", "--python", address),
        ("plan", "--source", f"mmcv=path:{address}"),
        ("plan", "--cuda", "13.0", "--toolkit", f"system:{address}"),
    ]
    for words in wrong:
        done = invoke(*words, "--json", GITHUB_ACTIONS="true")
        assert done.returncode == 2, done.stderr
        assert "s3cret" not in done.stdout + done.stderr
