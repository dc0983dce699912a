"""What is made of the times of two builds' calls."""

from __future__ import annotations

import importlib.util
import json
import random
import statistics
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run_time() -> Any:  # noqa: ANN401 - a program, no module of ours
    """The program."""
    spec = importlib.util.spec_from_file_location("run_time", ROOT / "pipelines" / "mmcv" / "run_time.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_ratio_is_taken_round_by_round(run_time: Any) -> None:  # noqa: ANN401 - as above
    """For what slows all of a round is no noise of the ratio."""
    rounds = {"first": (1.0, 2.0, 4.0), "again": (1.0, 2.0, 4.0), "second": (3.0, 1.5, 9.0)}
    found = run_time.table({side: [{"nms": each} for each in times] for side, times in rounds.items()})
    assert found == {
        "nms": {
            "first_ms": 2.0,
            "first_range": (1.0, 4.0),
            "second_ms": 3.0,
            "second_range": (1.5, 9.0),
            "ratio": 2.25,
            "noise": (1.0, 1.0),
        }
    }


@pytest.mark.parametrize(("factor", "seen"), [(1.0, 0.12), (1.3, 0.9)])
def test_a_slower_build_is_told_from_an_equal_one(run_time: Any, factor: float, seen: float) -> None:  # noqa: ANN401
    """Where calls differ by a tenth from round to round: of 200 comparisons few are wrong."""
    dice, outside = random.Random(2), 0  # noqa: S311 - a test's dice
    for _ in range(200):
        first, again, second = ([dice.gauss(1, 0.1) for _ in range(run_time.ROUNDS)] for _ in range(3))
        low, high = run_time.noise([y / x for x, y in zip(first, again, strict=True)])
        ratio = statistics.median(factor * y / x for x, y in zip(first, second, strict=True))
        outside += not low <= ratio <= high
    share = outside / 200
    assert share <= seen if factor == 1 else share >= seen


def test_two_wheels_are_enough(
    run_time: Any,  # noqa: ANN401 - as above
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is unpacked, the first one twice; all are timed as often, and none always first."""
    for name, text in (("one", "5"), ("two", "10")):
        with zipfile.ZipFile(tmp_path / f"{name}.whl", "w") as wheel:
            wheel.writestr("mmcv/speed", text)
    seen: list[str] = []

    def timed(folder: Path) -> dict[str, float]:
        seen.append(folder.name)
        return {"nms": float((folder / "mmcv" / "speed").read_text(encoding="utf-8"))}

    monkeypatch.setattr(run_time, "timed", timed)
    run_time.main(str(tmp_path / "one.whl"), str(tmp_path / "two.whl"))
    found = json.loads(capsys.readouterr().out)["nms"]
    assert (found["first_ms"], found["second_ms"], found["ratio"], found["noise"]) == (5.0, 10.0, 2.0, [1.0, 1.0])
    assert [seen.count(side) for side in run_time.SIDES] == [run_time.ROUNDS] * 3
    assert set(seen[::3]) == set(run_time.SIDES)
