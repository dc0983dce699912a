"""The rules of the house that no other tool checks."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
# programs of their own as well: in bundles, and around a command without a network
PROGRAMS = {ROOT / "mmstack" / name for name in ("standalone.py", "alone.py")}
ENGINE = sorted(path for path in ROOT.glob("mmstack/**/*.py") if path not in PROGRAMS)
PRINTS = {"console.py"}
STARTS_PROGRAMS = {"run.py"}
every_module = pytest.mark.parametrize("file", ENGINE, ids=lambda file: str(file.relative_to(ROOT)))


def calls(file: Path) -> Iterator[str]:
    """Yield what a module calls, as it is written."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def imports(file: Path) -> set[str]:
    """Return the top modules that a module imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_engine_is_looked_at() -> None:
    """The rules below hold of something."""
    assert {"run.py", "console.py", "resolve.py"} <= {file.name for file in ENGINE}
    assert "subprocess" in imports(ROOT / "mmstack" / "run.py")
    assert "json.dumps" in set(calls(ROOT / "mmstack" / "keys.py"))


def test_the_engine_names_no_layer() -> None:
    """A new layer is a new folder and touches nothing else."""
    named = re.compile(rb"torch|mmcv|mmaction", re.IGNORECASE)
    files = [path for path in (ROOT / "mmstack").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert [path for path in files if named.search(path.read_bytes())] == []


@every_module
def test_only_one_module_starts_programs(file: Path) -> None:
    """So that every command has a stated environment, and ends when we end."""
    starts = {"os.system", "os.popen", "os.fork", "os.execv", "os.execve", "os.posix_spawn", "pty.spawn"}
    assert file.name in STARTS_PROGRAMS or not {"subprocess", "multiprocessing", "pty"} & imports(file)
    assert not starts & set(calls(file))


@every_module
def test_only_one_module_prints(file: Path) -> None:
    """So that `--json` prints one document and nothing else."""
    named = set(calls(file))
    assert "print" not in named
    assert file.name in PRINTS or not {"sys.stdout.write", "sys.stderr.write"} & named
    assert file.name in PRINTS or "rich" not in imports(file)


@every_module
def test_nothing_in_the_engine_ends_the_process(file: Path) -> None:
    """Errors carry an exit code, tasks.py ends with it."""
    assert not {"sys.exit", "exit", "quit", "os._exit", "SystemExit", "os.abort"} & set(calls(file))


@pytest.mark.parametrize("name", ["resolve.py", "keys.py", "constraints.py", "model.py"])
def test_deciding_asks_nothing(name: str) -> None:
    """Planning is tested by tables because it looks at no clock, no environment and no network."""
    asked = {"os", "time", "datetime", "random", "socket", "platform", "httpx2", "tempfile", "shutil"}
    assert not asked & imports(ROOT / "mmstack" / name)
