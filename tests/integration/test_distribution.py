from __future__ import annotations

import json
import os
import shlex
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import Lab, laboratory, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "there is a lab"),
]

COUNT = 8
SOURCE = (
    "#include <algorithm>\n#include <iostream>\n#include <map>\n#include <string>\n"
    "namespace {{ std::map<std::string, int> seen; }}\n"
    "int f{number}(const std::string& s) {{ std::cout << __FILE__; return ++seen[s] + {number}; }}\n"
)
# what `build-stack` does with the module, on one machine of the lab: prints what came of it as JSON
BUILD = """
import json, os, resource, subprocess, sys
from pathlib import Path
from mmstack.model import Compiler
from mmstack.toolchains.distribution import compiling, find, spread
place = Path(sys.argv[1])
network = find("icecc", os.environ)
compiler = Compiler(cc=Path("/usr/bin/gcc"), cxx=Path("/usr/bin/g++"), version="")
variables = compiling(network, compiler, place / "icecc", {})
before = resource.getrusage(resource.RUSAGE_CHILDREN)
done = subprocess.run(["ninja", "-j", str(1 + network.slots), "-f", "remote.ninja"], cwd=place,
    env={**os.environ, **variables}, capture_output=True, text=True)
after = resource.getrusage(resource.RUSAGE_CHILDREN)
went = spread(place / "icecc")
print(json.dumps({"status": done.returncode, "output": done.stdout,
    "machines": network.machines, "slots": network.slots,
    "given": dict(went.given), "here": went.here, "again": went.again, "said": str(went),
    "seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three machines."""
    with laboratory() as machines:
        yield machines


def commands(place: Path) -> list[tuple[str, str]]:
    """Return folder and command of each compilation: made up, or of a configured project that a variable names.

    `MMSTACK_LAB_COMMANDS` is its compile_commands.json, `MMSTACK_LAB_FILES` the words that files end with.
    """
    if given := os.environ.get("MMSTACK_LAB_COMMANDS"):
        endings = tuple(os.environ["MMSTACK_LAB_FILES"].split())
        known = [each for each in json.loads(Path(given).read_bytes()) if each["file"].endswith(endings)]
        return [(each["directory"], each["command"]) for each in known]
    for number in range(COUNT):
        (place / f"{number}.cpp").write_text(SOURCE.format(number=number), encoding="utf-8")
    return [(str(place), f"/usr/bin/g++ -O2 -o {n}.o -c {place / f'{n}.cpp'}") for n in range(COUNT)]


def write_ninja(place: Path) -> list[str]:
    """Write the same compilations twice, for here and for the network, and return their names."""
    rules: dict[str, list[str]] = {"local": [], "remote": []}
    names = []
    for number, (folder, command) in enumerate(commands(place)):
        words = shlex.split(command)
        at = words.index("-o") + 1
        names.append(f"{number}-{Path(words[at]).name}")
        for kind, lines in rules.items():
            words[at] = str(place / kind / names[-1])
            launcher = "icecc " if kind == "remote" else ""
            line = f"cd {folder} && {launcher}{shlex.join(words)}".replace("$", "$$")
            lines += [f"rule r{number}", f"  command = {line}", f"build {kind}/{names[-1]}: r{number}"]
    for kind, lines in rules.items():
        (place / kind).mkdir()
        (place / f"{kind}.ninja").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return names


def test_two_machines_compile_and_make_the_same_bits(lab: Lab, tmp_path: Path) -> None:
    """Both are used beside our own, and the CPU time of our own is less than without them."""
    names = write_ninja(tmp_path)
    workers = ("worker1", "worker2")
    before = {name: lab.seconds(name) for name in workers}
    result = json.loads(lab.python(BUILD, tmp_path, cwd=tmp_path))
    assert result["status"] == 0, result["output"]
    theirs = {name: lab.seconds(name) - before[name] for name in workers}
    started = os.times()
    subprocess.run(["ninja", "-j", "2", "-f", "local.ninja"], cwd=tmp_path, check=True, capture_output=True)
    ended = os.times()
    alone = ended.children_user + ended.children_system - started.children_user - started.children_system
    figures = f"{result['said']}; CPU s: client {result['seconds']:.1f}, {theirs}, without icecc {alone:.1f}"
    print(figures)  # noqa: T201 - shown by `nox -s distribute`
    assert (result["machines"], result["slots"]) == (2, 2)
    assert all((tmp_path / "local" / name).read_bytes() == (tmp_path / "remote" / name).read_bytes() for name in names)
    assert set(result["given"]) == {"10.213.0.2", "10.213.0.3"}
    assert sum(result["given"].values()) + result["here"] == len(names)
    assert set(lab.served()) >= set(workers)
    assert result["seconds"] < alone


def test_a_machine_that_drops_out_costs_time_and_nothing_else(tmp_path: Path) -> None:
    """What it had comes back and is compiled here; the build ends well, and says so."""
    names = write_ninja(tmp_path)
    with laboratory() as lab:

        def drop() -> None:
            while "cc1plus" not in [each.name() for each in lab.daemons["worker2"].children(recursive=True)]:
                time.sleep(0.01)
            lab.kill("worker2")

        thread = threading.Thread(target=drop, daemon=True)
        thread.start()
        result = json.loads(lab.python(BUILD, tmp_path, cwd=tmp_path))
        assert not thread.is_alive()
        print(result["said"])  # noqa: T201 - the same
    assert result["status"] == 0, result["output"]
    assert result["again"] >= 1
    assert all((tmp_path / "remote" / name).exists() for name in names)
