from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from mmstack import run as run_module
from mmstack.errors import CommandError, DiskError, HostError, InterruptedRunError
from mmstack.run import TAIL_LINES, Completed, run, scrubbed, stop_all

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture(autouse=True)
def _not_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a run that nobody has stopped yet."""
    monkeypatch.setattr(run_module, "_stopping", threading.Event())


def python(code: str, **options: object) -> Completed:
    """Run Python code as a command."""
    return run([sys.executable, "-c", code], **{"env": ENV, **options})  # type: ignore[arg-type]


def test_output_goes_to_the_caller_the_log_and_the_listener(tmp_path: Path) -> None:
    """Both streams, line by line; the log says which command it was, and keeps what was there."""
    log, lines = tmp_path / "deep" / "log", list[str]()
    code = "import sys; print('one', flush=True); print('two', file=sys.stderr)"
    for _ in range(2):
        assert python(code, log=log, on_line=lines.append) == Completed(output="one\ntwo")
    assert lines == ["one", "two"] * 2
    assert log.read_text(encoding="utf-8") == f"$ {sys.executable} -c {code}\none\ntwo\n" * 2


def test_lines_come_while_the_command_runs(tmp_path: Path) -> None:
    """Progress is of use only then: the command waits for what the listener does."""
    flag = tmp_path / "flag"
    code = (
        "import pathlib, sys, time\nprint('ready', flush=True)\nend = time.monotonic() + 10\n"
        "while not pathlib.Path(sys.argv[1]).exists():\n    assert time.monotonic() < end\n    time.sleep(0.01)\n"
    )
    done = run([sys.executable, "-c", code, flag], env=ENV, on_line=lambda _line: flag.touch())
    assert done.output == "ready"


def test_a_log_holds_all_that_was_said_until_now(tmp_path: Path) -> None:
    """A user may read along."""
    log, seen = tmp_path / "log", list[str]()
    python("print('one')", log=log, on_line=lambda _line: seen.append(log.read_text(encoding="utf-8")))
    assert seen[0].endswith("one\n")


def test_a_status_is_an_error_with_the_last_lines(tmp_path: Path) -> None:
    """Command, status, log, and the end of what it said."""
    log = tmp_path / "log"
    with pytest.raises(CommandError) as caught:
        python(f"for n in range({TAIL_LINES + 5}): print(n)\nraise SystemExit(7)", log=log)
    error = caught.value
    assert (error.status, error.log, error.argv[0]) == (7, log, sys.executable)
    assert "ended with status 7" in error.what
    assert error.why.splitlines() == [str(n) for n in range(5, TAIL_LINES + 5)]


def test_a_signal_is_told_by_its_name() -> None:
    """A crash is not a status."""
    with pytest.raises(CommandError, match="ended with signal SIGSEGV") as caught:
        python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert caught.value.status == -signal.SIGSEGV


def test_a_full_disk_is_told_as_such_whoever_met_it() -> None:
    """A program says it only in words, and ends with any status."""
    with pytest.raises(DiskError, match="the disk is full") as caught:
        python("print('cc1plus: No space left on device'); raise SystemExit(1)")
    assert "cc1plus: No space left on device" in caught.value.why
    assert python("print('No space left on device')").output


def test_a_program_that_is_not_there_is_the_machine_s_lack() -> None:
    """What to install is named."""
    with pytest.raises(HostError, match="nosuchprogram is not on this machine") as caught:
        run(["nosuchprogram", "--version"], env=ENV)
    assert caught.value.fix == "install nosuchprogram"


def test_a_file_that_is_no_program_is_the_machine_s_lack(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="may not be run"):
        run([tmp_path / "file"], env=ENV)


def test_a_program_that_the_system_cannot_read_is_the_machine_s_lack(tmp_path: Path) -> None:
    """Shells run a script without a first line that names its interpreter; nobody else does."""
    script = tmp_path / "script"
    script.write_text("exit 0\n")
    script.chmod(0o755)
    with pytest.raises(HostError, match="does not start"):
        run([script], env=ENV)


def test_words_are_words(tmp_path: Path) -> None:
    """No shell reads them."""
    words: list[str | Path] = ["$HOME", "a b", "*", ";", "'", tmp_path]
    done = run([sys.executable, "-c", "import sys; print(sys.argv[1:])", *words], env=ENV)
    assert done.output == str([str(word) for word in words])


def test_a_command_runs_where_it_is_told(tmp_path: Path) -> None:
    """Its folder is given, not inherited."""
    assert python("import os; print(os.getcwd())", cwd=tmp_path).output == str(tmp_path.resolve())


def test_nobody_answers_a_question() -> None:
    """Standard input is at its end: a command that asks fails at once instead of waiting."""
    code = (
        "import os, sys\nfrom mmstack.run import run\n"
        "print(run([sys.executable, '-c', 'import sys; print(repr(sys.stdin.read()))'], env=os.environ).output)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=b"yes\n", capture_output=True, check=True)
    assert done.stdout == b"''\n"


def test_what_is_no_text_does_not_end_the_run(tmp_path: Path) -> None:
    """Whatever a compiler prints."""
    code = "import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n' + 'ä'.encode() + b'\\r\\nend')"
    done = python(code, log=tmp_path / "log")
    assert done.output == "\ufffd\ufffd\nä\nend"
    assert (tmp_path / "log").read_text(encoding="utf-8").endswith("\ufffd\ufffd\nä\nend")


def test_output_is_read_as_utf8_whatever_the_locale_is() -> None:
    """A user's locale changes no log."""
    code = (
        "import sys\nfrom mmstack.run import run\n"
        "child = [sys.executable, '-c', r'import sys; sys.stdout.buffer.write(bytes([0xc3, 0xa4]))']\n"
        "print(ascii(run(child, env={}).output))"
    )
    env = {**ENV, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert run([sys.executable, "-c", code], env=env, cwd=ROOT).output == "'\\xe4'"


def test_a_build_sees_only_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret, no setting of the user's; a private HOME, one language, one time zone."""
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("CFLAGS", "-O9")
    monkeypatch.setenv("SSL_CERT_FILE", "/certificates")
    env = scrubbed(tmp_path, {"CC": "gcc", "LANG": "C"})
    assert set(env) <= {"PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR", "HOME", "LANG", "LC_ALL", "TZ", "CC"}
    assert (env["HOME"], env["CC"], env["LANG"], env["TZ"]) == (str(tmp_path), "gcc", "C", "UTC")
    assert env["SSL_CERT_FILE"] == "/certificates"
    seen = python("import os; print(dict(os.environ))", env=env).output
    assert "s3cret" not in seen
    assert "-O9" not in seen


FAMILY = """
import subprocess, sys, time
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", deaf])
print(child.pid, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Return whether a process still does something."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_stopping_takes_the_children_along(monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., None]) -> None:
    """A compiler that a build started ends with it, even one that does not listen, and nothing new begins."""
    monkeypatch.setattr(run_module, "GRACE_SECONDS", 0.2)
    pids: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            python(FAMILY, on_line=lambda line: pids.append(int(line)))
        except InterruptedRunError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: bool(pids), 10)
    stop_all()
    thread.join(10)
    assert len(errors) == 1
    wait_for(lambda: not alive(pids[0]))
    with pytest.raises(InterruptedRunError) as caught:
        python("print('never')")
    assert "run the same command again" in caught.value.fix


def test_a_command_that_starts_while_all_are_stopped_is_stopped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the start there is a moment."""

    class Late(threading.Event):
        """Not set at the first look, set from then on."""

        looks = 0

        def is_set(self) -> bool:
            """Count the looks."""
            self.looks += 1
            return self.looks > 1

    monkeypatch.setattr(run_module, "_stopping", Late())
    started = time.monotonic()
    with pytest.raises(InterruptedRunError):
        python("import time; time.sleep(60)")
    assert time.monotonic() - started < 30


def test_a_listener_that_fails_does_not_leave_the_command_running() -> None:
    """Its group is gone when the error arrives."""
    pids: list[int] = []

    def listen(line: str) -> None:
        pids.append(int(line))
        raise ValueError(line)

    with pytest.raises(ValueError, match=r"\d+"):
        python("import os, time; print(os.getpid(), flush=True); time.sleep(60)", on_line=listen)
    assert not alive(pids[0])


HOLDER = """
import os, sys
from mmstack.run import run
run([sys.executable, "-c", sys.argv[1]], env=os.environ, on_line=lambda line: print(line, flush=True))
"""
CHILD = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
# as ninja starts its compilers
OWN_GROUP = f"import os, time\nif os.fork() == 0:\n    os.setpgid(0, 0)\n    {CHILD}\ntime.sleep(60)"


@pytest.mark.parametrize("code", [CHILD, OWN_GROUP], ids=["the command", "a child in a group of its own"])
def test_what_a_killed_run_had_started_ends_with_it(code: str, wait_for: Callable[..., None]) -> None:
    """A compiler that nobody waits for would write into the tree of the next run."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.kill()
    wait_for(lambda: not alive(pid))


@pytest.mark.parametrize("how", ["its listener fails", "it is killed", "it is doomed", "all are stopped"])
def test_a_command_s_children_end_with_it(
    how: str, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., None]
) -> None:
    """Also those in groups of their own that heed no signal but one: they would write into the tree of the next run."""
    monkeypatch.setattr(run_module, "GRACE_SECONDS", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    pids: list[int] = []

    def listen(line: str) -> None:
        pids.append(int(line))
        if how == "its listener fails":
            raise ValueError(line)
        if how == "it is killed":
            os.kill(os.getsid(pids[0]), signal.SIGKILL)
        if how == "all are stopped":
            threading.Thread(target=stop_all).start()

    doomed = (lambda: bool(pids)) if how == "it is doomed" else None
    with pytest.raises((ValueError, CommandError, InterruptedRunError)):
        python(
            OWN_GROUP.replace("import os, time; print", f"import os, time; {deaf}print"), on_line=listen, doomed=doomed
        )
    wait_for(lambda: not alive(pids[0]))


def test_what_leaves_its_session_does_not_hold_up_the_run(
    monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., None]
) -> None:
    """A daemon that a build or a suite forgot holds its output open, for ever."""
    monkeypatch.setattr(run_module, "GRACE_SECONDS", 0.2)
    pids: list[int] = []
    started = time.monotonic()
    daemon = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {CHILD!r}], start_new_session=True)"
    python(daemon, on_line=lambda line: pids.append(int(line)))
    assert time.monotonic() - started < 30
    wait_for(lambda: not alive(pids[0]))


def test_a_doomed_command_is_killed() -> None:
    """Whoever waits may lose patience; the command's children end with it."""
    asked: list[float] = []

    def doomed() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 2

    with pytest.raises(CommandError) as caught:
        python("import subprocess; subprocess.run(['sleep', '60'])", doomed=doomed)
    assert caught.value.status == -signal.SIGKILL
    assert len(asked) == 3
    assert python("print('well')", doomed=lambda: False).output == "well"
