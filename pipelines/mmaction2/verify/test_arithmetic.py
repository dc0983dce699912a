"""What comes out otherwise, or not at all, under a NumPy or SciPy newer than MMAction2, against references."""

from __future__ import annotations

import colorsys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import cv2
import mmengine
import numpy as np
import pytest
import torch
from mmaction.datasets.transforms import ColorJitter, DecompressPose, PyAVDecodeMotionVector, UniformSampleFrames
from mmaction.evaluation import MultiSportsMetric
from mmaction.evaluation.functional.multisports_utils import iou3dt_voc

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HUES = (-0.5, -0.31, -0.1, -0.003, 0.003, 0.1, 0.31, 0.41, 0.5)
FRAMES = 20  # of the video of the tubes


def wheel(offset: int) -> NDArray[np.uint8]:
    """Draw OpenCV's 180 hues, `offset` of them further round, by eight saturations at two brightnesses, in RGB."""
    rows = [
        [colorsys.hsv_to_rgb((hue + offset) % 180 / 180, saturation / 10, value) for hue in range(180)]
        for saturation in range(3, 11)
        for value in (0.7, 1.0)
    ]
    return np.rint(np.array(rows) * 255).astype(np.uint8)


def recoloured(
    picture: NDArray[np.uint8],
    order: NDArray[np.int64],
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> NDArray[np.float64]:
    """Do what ColorJitter does, in its order, in float64, with hues as Python's integers."""
    image = picture.astype(np.float64)
    for step in order:
        grey = image @ (0.2989, 0.587, 0.114)
        if step == 0:
            image *= brightness
        elif step == 1:
            image = contrast * image + (1 - contrast) * grey.mean()
        elif step == 2:
            image = saturation * image + (1 - saturation) * grey[..., None]
        else:
            hsv = cv2.cvtColor(np.clip(image, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
            turned = [(value + int(hue * 255)) % 180 for value in hsv[..., 0].ravel().tolist()]
            hsv[..., 0] = np.array(turned, np.uint8).reshape(hsv.shape[:2])
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float64)
    return np.clip(image, 0, 255)


@pytest.mark.parametrize("hue", HUES)
def test_hues_turn_round(hue: float) -> None:
    """Every hue turns by the same angle, in both directions, past the first one and past 256.

    Python's own `colorsys` says what colour comes out; OpenCV rounds saturations and values to whole numbers.
    """
    jitter = ColorJitter(brightness=0, contrast=0, saturation=0, hue=(hue, hue))
    (turned,) = jitter.transform({"imgs": [wheel(0)]})["imgs"]
    assert turned.dtype == np.uint8
    assert np.abs(turned.astype(int) - wheel(int(hue * 255))).max() <= 3


@pytest.mark.parametrize("hue", HUES)
def test_colours_jitter_in_any_order(hue: float) -> None:
    """Brightness, contrast, saturation and hue together, in orders of chance, equal a reference in float64.

    Float32 rounds down to another whole number now and then, which a hue makes more of: one pixel in ten may differ.
    """
    picture = np.random.default_rng(5).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    orders = set()
    for factor in np.linspace(0.6, 1.4, 30).tolist():
        jitter = ColorJitter((factor, factor), (2 - factor, 2 - factor), (factor, factor), (hue, hue))
        result = jitter.transform({"imgs": [picture, picture]})["imgs"]
        expected = recoloured(picture, jitter.fn_idx, factor, 2 - factor, factor, hue)
        assert np.array_equal(result[0], result[1])
        assert (np.abs(result[0] - expected).max(axis=-1) > 1).mean() < 0.1
        orders.add(tuple(jitter.fn_idx))
    assert len(orders) > 5


def test_colours_jitter_at_random() -> None:
    """With the ranges of upstream's configurations no draw fails, and every draw is another picture."""
    picture = wheel(0)
    results = [ColorJitter().transform({"imgs": [picture]})["imgs"][0] for _ in range(60)]
    assert len({result.tobytes() for result in results}) == 60


@pytest.mark.parametrize("test_mode", [True, False])
@pytest.mark.parametrize("frames", [100, 1000, 5000])
def test_long_poses_are_sampled_evenly(frames: int, test_mode: bool) -> None:  # noqa: FBT001  # a parameter of the check
    """Of a compressed pose's frames, one comes from each of 48 equal parts, however long it is."""
    compressed = {"total_frames": frames, "frame_inds": np.arange(frames), "keypoint": np.ones((frames, 17, 3))}
    pose = DecompressPose().transform(compressed)
    assert pose["keypoint"].shape == (1, frames, 17, 2)
    chosen = UniformSampleFrames(clip_len=48, test_mode=test_mode).transform(pose)["frame_inds"].tolist()
    parts = [range(part * frames // 48, (part + 1) * frames // 48) for part in range(48)]
    assert [index in part for index, part in zip(chosen, parts, strict=True)] == [True] * 48


class Vectors(list[tuple[int, ...]]):
    """The motion vectors of a frame, as PyAV has them."""

    def to_ndarray(self) -> NDArray[np.void]:
        """Return them in FFmpeg's types."""
        kinds = [("w", "u1"), ("h", "u1"), ("src_x", "i2"), ("src_y", "i2"), ("dst_x", "i2"), ("dst_y", "i2")]
        return np.array(self, dtype=kinds)


@pytest.mark.parametrize("motion", [(5, -3), (127, -128), (200, 17), (-150, -20)])
def test_motion_of_any_length(motion: tuple[int, int]) -> None:
    """A block that moved by many pixels has its motion, all else has none."""
    block = (16, 16, 208 - motion[0], 24 - motion[1], 208, 24)
    frame = SimpleNamespace(height=64, width=400, key_frame=False, side_data={"MOTION_VECTORS": Vectors([block])})
    container = SimpleNamespace(
        streams=SimpleNamespace(video=[SimpleNamespace(codec_context=SimpleNamespace())]),
        demux=lambda _stream: [SimpleNamespace(decode=lambda: [frame])],
    )
    result = PyAVDecodeMotionVector().transform({"video_reader": container, "frame_inds": np.array([0])})
    expected = np.zeros((1, 64, 400, 2))
    expected[0, 16:32, 200:216] = motion
    assert np.array_equal(result["motion_vectors"], expected)


def tube(first: int, last: int, box: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Return a tube, `box` in each frame from the first to the last, as MultiSports writes it."""
    return np.array([(frame, *box) for frame in range(first, last + 1)], np.float32)


@pytest.mark.parametrize(
    ("frames", "temporal"),
    [((6, 15), 4 / 14), ((1, 10), 1), ((3, 7), 4 / 9), ((-4, 1), 0), ((10, 12), 0), ((11, 20), None)],
)
def test_overlap_of_tubes(frames: tuple[int, int], temporal: float | None) -> None:
    """A tube through frames 1 to 10 against others, whose boxes share a third with its own; None: they never meet.

    Frames are points in time to MultiSports: from the first to the tenth there are nine.
    """
    left, right = tube(1, 10, (0, 0, 10, 10)), tube(*frames, (5, 0, 15, 10))
    meet = temporal is not None
    for one, other in ((left, right), (right, left)):
        assert iou3dt_voc(one, other) == pytest.approx((temporal or 0) / 3)
        assert iou3dt_voc(one, other, spatialonly=True) == pytest.approx(1 / 3 if meet else 0)
        assert iou3dt_voc(one, other, temporalonly=True) == pytest.approx(temporal or 0)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """One video of 256 x 128 with one tube of each of two classes, in a file as MultiSports writes it."""
    tubes = {0: [tube(1, FRAMES, (0, 0, 64, 64))], 1: [tube(1, FRAMES, (128, 32, 192, 96))]}
    content = {
        "labels": ["jump", "turn"],
        "gttubes": {"video": tubes},
        "test_videos": [["video"]],
        "nframes": {"video": FRAMES},
        "resolution": {"video": (128, 256)},
    }
    mmengine.dump(content, tmp_path / "annotations.pkl")
    return tmp_path / "annotations.pkl"


def test_tubes_are_evaluated(annotations: Path) -> None:
    """The first class is found in all frames, the second in 16 of 20, each with the very boxes.

    Frames: precision is 1 and recall 1 and 16/20, so that the mean is 90. Tubes: the second overlaps its own by
    15 / 19, which counts up to a threshold of 0.75: six of the ten from 0.5 on, and seven of the nine from 0.1 on.
    """
    metric = MultiSportsMetric(str(annotations), verbose=False)
    for frame in range(1, FRAMES + 1):
        seen = slice(None) if frame <= 16 else slice(1)
        boxes = torch.tensor([[0, 0, 0.25, 0.5], [0.5, 0.25, 0.75, 0.75]])[seen]
        scores = torch.tensor([[0.9, 0.1], [0.2, 0.8]])[seen]
        found = {"bboxes": boxes, "scores": scores}
        metric.process([], [{"video_id": "video.mp4", "timestamp": frame, "pred_instances": found}])
    assert metric.compute_metrics(metric.results) == pytest.approx(
        {
            "frameAP": 90,
            "v_map@0.2": 100,
            "v_map@0.5": 100,
            "v_map_0.05:0.45": 100,
            "v_map_0.10:0.90": (100 + 700 / 9) / 2,
            "v_map_0.50:0.95": (100 + 600 / 10) / 2,
        },
        abs=1e-4,
    )
