"""What is said of two builds of mmcv's ops."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from tests.support import ROOT

report = runpy.run_path(str(ROOT / "pipelines" / "two_builds.py"))["report"]
CPU = {"said": ["GCC 12.2", "not available"], "names": ["nms", "softnms"], "nms on cpu": [[1.0, 2.0], [0, 1]]}
CUDA = {**CPU, "said": ["GCC 12.2", "13.0"]}


def test_builds_for_the_cpu_are_the_same_without_a_gpu() -> None:
    """Of which nothing is said."""
    assert report(CPU, CPU) == ("2 names, 1 results; not the same: none", True)


def test_builds_for_cuda_are_not_compared_in_silence_where_there_is_no_gpu() -> None:
    """It is no failure, but said."""
    assert report(CUDA, CUDA) == (
        "2 names, 1 results; not the same: none; results on a GPU: not compared, for torch sees none",
        True,
    )


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        ({"names": ["nms"]}, "names"),
        ({"said": ["GCC 12.2", "not available"]}, "said"),
        ({"nms on cpu": [[1.0, 2.0], [0, 2]]}, "nms on cpu"),
        ({"nms on cuda": [[1.0, 2.5], [0, 1]]}, "nms on cuda"),
    ],
)
def test_what_is_not_the_same_is_named(change: dict[str, Any], bad: str) -> None:
    """A name that one does not export, a build for something else, a bit of a result on either device."""
    whole = {**CUDA, "nms on cuda": [[1.0, 2.0], [0, 1]]}
    assert report(whole, {**whole, **change}) == (f"2 names, 2 results; not the same: {bad}", False)
