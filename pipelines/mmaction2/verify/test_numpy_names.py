"""The places that used names which NumPy 2 dropped, each with a result worked out by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from mmaction.datasets.transforms import MMCompact, PoseCompact
from mmaction.evaluation import RetrievalRecall
from mmaction.evaluation.functional import average_recall_at_avg_proposals
from mmaction.evaluation.functional.ava_evaluation.metrics import compute_average_precision
from mmaction.utils import frame_extract
from moving_patterns import waves_and_disc, write_video

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def keypoints() -> np.ndarray:
    """One person, two frames, three joints; a joint at the origin is one that was not seen."""
    return np.array([[[[20.0, 40.0], [60.0, 80.0], [0.0, 0.0]], [[30.0, 50.0], [40.0, 120.0], [50.0, 60.0]]]])


def test_pose_compact(keypoints: np.ndarray) -> None:
    """The box of the joints, x in 20 to 60 and y in 40 to 120, grows by a quarter about its centre."""
    result = PoseCompact(padding=0.25).transform({"img_shape": (200, 100), "keypoint": keypoints})
    assert result["img_shape"] == (100, 50)
    assert result["keypoint"][0, 0].tolist() == [[5, 10], [45, 50], [0, 0]]
    assert result["crop_quadruple"] == pytest.approx((0.15, 0.15, 0.5, 0.5))


def test_pose_compact_leaves_small_poses(keypoints: np.ndarray) -> None:
    """Where no joint was seen there is no box, and nothing changes."""
    result = PoseCompact().transform({"img_shape": (200, 100), "keypoint": np.zeros_like(keypoints)})
    assert result["img_shape"] == (200, 100)


def test_images_are_cropped_with_the_pose(keypoints: np.ndarray) -> None:
    """MMCompact cuts the pictures along the same box."""
    picture = np.arange(200 * 100 * 3, dtype=np.uint32).reshape(200, 100, 3)
    data = {"img_shape": (200, 100), "keypoint": keypoints, "imgs": [picture, picture]}
    result = MMCompact(padding=0.25, hw_ratio=None).transform(data)
    assert result["img_shape"] == (100, 50)
    assert np.array_equal(result["imgs"][1], picture[30:130, 15:65])


def test_area_under_the_recall_curve() -> None:
    """One video, one true segment, two proposals: only the second one fits.

    With at most p of 100 percent of two proposals, the fitting one is among them when p reaches 100: the recall is 0
    up to 1.98 proposals per video and 1 at 2, so that the trapezoid under it is 0.02 / 2 wide of 2: 0.5 percent.
    """
    truth = {"video": np.array([[0.0, 10.0]])}
    proposals = {"video": np.array([[50.0, 60.0, 0.9], [0.0, 10.0, 0.8]])}
    recall, average, per_video, area = average_recall_at_avg_proposals(truth, proposals, 2)
    assert recall.shape == (10, 100)
    assert average[-2:].tolist() == [0, 1]
    assert per_video[-1] == 2
    assert area == pytest.approx(0.5)


def test_retrieval_recall() -> None:
    """The right text is first for one of three videos and among the first two for two."""
    scores = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.1], [0.9, 0.8, 0.1]])
    found = RetrievalRecall.calculate(scores, [np.array([label]) for label in range(3)], (1, 2), target_indices=True)
    assert [float(value) for value in found] == pytest.approx([100 / 3, 200 / 3])


def test_average_precision_without_truth() -> None:
    """A class without a true instance has no precision; one that is found at once has the best."""
    assert math.isnan(compute_average_precision(None, None))
    assert compute_average_precision(np.array([1.0, 0.5]), np.array([1.0, 1.0])) == 1


def test_frames_are_extracted(tmp_path: Path) -> None:
    """Every frame is written, its shorter side as asked for, the longer one along with it."""
    video = write_video(tmp_path / "short.mp4", waves_and_disc(width=96, height=64, frames=5))
    paths, frames = frame_extract(str(video), short_side=32, out_dir=str(tmp_path))
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 5
    assert [path.rpartition("/")[2] for path in paths] == [f"img_{number:06d}.jpg" for number in range(1, 6)]
    assert all((tmp_path / "short" / path.rpartition("/")[2]).stat().st_size for path in paths)
