from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.scale import known, read, simulate

if TYPE_CHECKING:
    from pathlib import Path

# two sources made by one program, compiled, and linked; one of them takes long
DOT = """\
digraph ninja {
"0" [label="lib.so"]
"1" [label="CXX_SHARED_LIBRARY_LINKER__lib", shape=ellipse]
"1" -> "0"
"2" -> "1" [arrowhead=none]
"3" -> "1" [arrowhead=none]
"2" [label="a.cpp.o"]
"4" -> "2" [label=" CXX_COMPILER__lib"]
"3" [label="b.cpp.o"]
"5" -> "3" [label=" CXX_COMPILER__lib"]
"4" [label="a.cpp"]
"6" [label="CUSTOM_COMMAND", shape=ellipse]
"6" -> "4"
"6" -> "5"
"5" [label="b.cpp"]
}
"""
SECONDS = {"a.cpp": 1.0, "b.cpp": 1.0, "a.cpp.o": 10.0, "b.cpp.o": 40.0, "lib.so": 2.0}


def test_work_and_critical_path_come_from_the_graph() -> None:
    """A program that makes two files is run once; the path goes through the longest."""
    graph = read(DOT, SECONDS)
    assert sum(graph.seconds.values()) == pytest.approx(1 + 10 + 40 + 2)
    assert max(graph.critical().values()) == pytest.approx(1 + 40 + 2)


def test_seconds_are_a_recipe_s_or_those_that_a_build_left(tmp_path: Path) -> None:
    """A recipe knows them by pattern, a build by file."""
    (tmp_path / "weights.json").write_text(json.dumps({"*.cpp.o": 7.0}), encoding="utf-8")
    left = tmp_path / "lib.json"
    left.write_text(json.dumps(SECONDS), encoding="utf-8")
    assert sum(read(DOT, known(left)).seconds.values()) == pytest.approx(53)
    assert read(DOT, known(tmp_path)).seconds["3"] == 7.0


@pytest.mark.parametrize(("cores", "seconds"), [(1, 53), (2, 43), (100, 43)])
def test_more_cores_help_as_far_as_the_critical_path(cores: int, seconds: float) -> None:
    """One core does all the work; any number waits for the longest path."""
    assert simulate(read(DOT, SECONDS), cores) == pytest.approx(seconds)
