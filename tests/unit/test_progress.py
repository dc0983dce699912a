from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstack.builders.progress import Estimate, recipe_weights, recorded, weight
from mmstack.errors import CatalogError
from mmstack.model import Step, StepKind

if TYPE_CHECKING:
    from pathlib import Path

    from mmstack.events import BuildProgress

STEP = Step(kind=StepKind.BUILD, layer="ext", needs=(), key="", title="build ext")
SMALL = "Building CXX object ext.dir/small.cpp.o"
LARGE = "Building CXX object ext.dir/large.cpp.o"
SECONDS = {SMALL: 10.0, LARGE: 90.0}
LOG = """\
# ninja log v7
0\t500\t1795193015450245390\text.dir/small.cpp.o\tfba3043ae7886a35
10\t40010\t1795193015450245390\text.dir/large.cpp.o\t5a3043ae7886a35f
0\t1500\t1795193015450245390\text.dir/small.cpp.o\tfba3043ae7886a35
40010\t70010\t1795193015450245390\text.so\t6a3043ae7886a35f
torn line\t7
"""


@dataclass
class Clock:
    """Seconds that a test sets."""

    now: float = 100.0

    def __call__(self) -> float:
        """Return them."""
        return self.now


def read(estimate: Estimate, line: str) -> BuildProgress:
    """Return what a line says that is one of progress."""
    event = estimate.read(line, STEP)
    assert event is not None
    return event


def test_the_share_is_that_of_the_work_not_of_the_number() -> None:
    """Half of the files may be a tenth of the time."""
    clock = Clock()
    estimate = Estimate([SMALL, LARGE], SECONDS.__getitem__, clock)
    clock.now += 20.0
    event = read(estimate, f"[1/2] {SMALL}")
    assert (event.done, event.total, event.share) == (1, 2, 0.1)
    assert event.remaining == pytest.approx(180.0)
    clock.now += 180.0
    event = read(estimate, f"[2/2] {LARGE}")
    assert (event.share, event.remaining) == (1.0, 0.0)


@pytest.mark.parametrize(("passed", "weight_done", "known"), [(29, 1, False), (31, 1, True), (1, 2, True)])
def test_the_first_seconds_tell_nothing(passed: float, weight_done: int, *, known: bool) -> None:
    """An estimate is made after half a minute, or after a fiftieth of the work."""
    clock = Clock()
    estimate = Estimate(["first", "rest"], {"first": weight_done, "rest": 100 - weight_done}.__getitem__, clock)
    clock.now += passed
    assert (read(estimate, "[1/2] first").remaining is not None) is known


def test_other_lines_are_no_progress() -> None:
    """What compilers say between the edges is left alone, and an edge that was not foreseen weighs nothing."""
    estimate = Estimate([SMALL, LARGE], SECONDS.__getitem__)
    assert estimate.read("a.cpp:1: warning: [1/2] is odd", STEP) is None
    assert estimate.read(f"[1/{'9' * 5000}] more than Python makes a number of", STEP) is None
    assert read(estimate, "[1/3] Re-running CMake...").share == 0.0


def test_what_need_not_be_done_after_all_counts_in_the_end() -> None:
    """Ninja leaves out what turns out to be up to date; at the end, all is done."""
    estimate = Estimate([SMALL, LARGE], SECONDS.__getitem__)
    assert read(estimate, f"[1/1] {SMALL}").share == 1.0


def test_with_nothing_to_do_there_is_nothing_to_tell() -> None:
    """No division by nothing."""
    estimate = Estimate([], SECONDS.__getitem__)
    assert read(estimate, "[1/2] something else").share == 0.0


@given(
    st.lists(st.tuples(st.text(alphabet="abc", min_size=1, max_size=2), st.floats(0.01, 1e4)), min_size=1), st.data()
)
def test_the_share_grows_and_ends_at_one(edges: list[tuple[str, float]], data: st.DataObject) -> None:
    """In whatever order the edges end, of whatever weight, twice of one name among them."""
    clock, weights = Clock(), dict(edges)
    names = [name for name, _seconds in edges]
    estimate = Estimate(names, weights.__getitem__, clock)
    shares = []
    for number, name in enumerate(data.draw(st.permutations(names)), start=1):
        clock.now += data.draw(st.floats(0.0, 1e4))
        event = read(estimate, f"[{number}/{len(names)}] {name}")
        shares.append(event.share)
        assert event.remaining is None or event.remaining >= 0.0
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(0.0 <= share <= 1.0 for share in shares)


@given(st.lists(st.floats(0.5, 50.0), min_size=2, max_size=40))
def test_with_true_weights_the_estimate_is_right_from_the_start(seconds: list[float]) -> None:
    """Where every file takes what it is reckoned to take, what is said at any time is what it takes."""
    clock, weights = Clock(), {str(number): each for number, each in enumerate(seconds)}
    estimate = Estimate(weights, weights.__getitem__, clock)
    end = clock.now + sum(seconds)
    for number, (name, each) in enumerate(weights.items(), start=1):
        clock.now += each
        event = read(estimate, f"[{number}/{len(seconds)}] {name}")
        assert event.remaining is None or event.remaining == pytest.approx(end - clock.now, abs=1e-6)


@pytest.mark.parametrize(
    ("edge", "seconds"),
    [
        ("Building CUDA object ext.dir/a.cu.o", 60.0),
        ("Building CXX object ext.dir/a.cpp.o", 6.0),
        ("Building CXX object ext.dir/a.cc.o", 6.0),
        ("Building C object ext.dir/a.c.o", 1.0),
        ("Building CXX object ext.dir/cmake_pch.hxx.gch", 6.0),
        ("Linking CXX shared module ext.so", 5.0),
        ("Generating table.h", 0.3),
        ("Building CXX object known.dir/a.cpp.o", 33.0),
        ("Building CXX object known.dir/measured.cpp.o", 44.0),
    ],
)
def test_a_weight_is_the_best_that_is_known(edge: str, seconds: float) -> None:
    """Measured before the recipe's pattern, and that before the kind."""
    measured = {"known.dir/measured.cpp.o": 44.0}
    assert weight(edge, measured, {"known.dir/*": 33.0, "known.dir/a*": 1.0}) == seconds


def test_a_recipes_pattern_goes_before_the_kind_of_that_name() -> None:
    """A recipe may say that all its C++ files are large."""
    assert weight(SMALL, {}, {"*.o": 20.0}) == 20.0


def test_ninjas_log_says_how_long_each_file_took(tmp_path: Path) -> None:
    """The last time counts, and a line that was torn by a power cut is passed over."""
    (tmp_path / ".ninja_log").write_text(LOG, encoding="utf-8")
    assert recorded(tmp_path / ".ninja_log") == {
        "ext.dir/small.cpp.o": 1.5,
        "ext.dir/large.cpp.o": 40.0,
        "ext.so": 30.0,
    }


def test_a_recipes_weights_are_those_of_its_file(tmp_path: Path) -> None:
    """The first pattern that matches counts."""
    (tmp_path / "weights.json").write_text('{"a.dir/large.cpp.o": 90.0, "a.dir/*.o": 10.0}', encoding="utf-8")
    patterns = recipe_weights(tmp_path)
    found = [weight(f"Building CXX object {name}", {}, patterns) for name in ("a.dir/large.cpp.o", "a.dir/small.cpp.o")]
    assert found == [90.0, 10.0]


def test_a_recipe_without_weights_is_none_the_worse(tmp_path: Path) -> None:
    """The kinds remain."""
    assert recipe_weights(tmp_path) == {}


@pytest.mark.parametrize("text", ["[1]", "{", '{"*.o": "long"}', '{"*.o": 0}', '{"*.o": NaN}', '{"*.o": -3}', "\udcff"])
def test_weights_that_are_none_are_told(tmp_path: Path, text: str) -> None:
    """The file is named."""
    (tmp_path / "weights.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CatalogError, match=r"weights\.json"):
        recipe_weights(tmp_path)
