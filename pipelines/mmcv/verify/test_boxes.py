"""Overlap and suppression of boxes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import reference_boxes as reference
import torch
from checks import close, floats, on_cpu, scattered
from mmcv import ops
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

pytest_plugins = ["evidence"]


def random_boxes(count: int) -> Tensor:
    """Boxes (x1, y1, x2, y2) that often overlap."""
    start = torch.rand(count, 2) * torch.tensor([12.0, 9.0])
    return torch.cat([start, start + torch.rand(count, 2) * 8 + 1], dim=1)


def random_rotated(count: int) -> Tensor:
    """Boxes (cx, cy, w, h, angle) that often overlap."""
    return torch.cat([torch.rand(count, 2) * 9, torch.rand(count, 2) * 7 + 1, torch.rand(count, 1) * 6 - 3], dim=1)


def random_scores(count: int) -> Tensor:
    """Scores in (0, 1], no two alike."""
    return (torch.randperm(count) + 1) / count


def self_overlaps(boxes: Tensor, offset: int = 0) -> NDArray[np.float64]:
    """Overlap of every pair within a set."""
    arrays = boxes.double().numpy()
    return reference.pairwise(arrays, arrays, lambda a, b: reference.iou(a, b, offset=offset))


def rotated_overlaps(
    first: Tensor, second: Tensor, mode: str = "iou", *, clockwise: bool = True
) -> NDArray[np.float64]:
    """Overlap of every pair of rotated boxes."""
    some, others = (
        [reference.corners(box, clockwise=clockwise) for box in boxes.double().numpy()] for boxes in (first, second)
    )
    return reference.pairwise(some, others, lambda a, b: reference.polygon_iou(a, b, mode=mode))


def to_quadri(boxes: Tensor) -> Tensor:
    """The corners of rotated boxes, listed from any of them and in either direction."""
    polygons = [reference.corners(box) for box in boxes.double().numpy()]
    turned = [np.roll(p[:: (-1) ** i], i % 4, axis=0) for i, p in enumerate(polygons)]
    return torch.tensor(np.array(turned)).reshape(-1, 8).float()


@pytest.mark.kernels("bbox_overlaps")
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["iou", "iof"])
@floats
def test_bbox_overlaps(device: torch.device, dtype: torch.dtype, mode: str, offset: int) -> None:
    """Every pair of two sets of different sizes, and each box with its partner."""
    first, second = random_boxes(13).to(dtype), random_boxes(17).to(dtype)
    expected = torch.tensor(
        reference.pairwise(
            first.double().numpy(), second.double().numpy(), lambda a, b: reference.iou(a, b, offset=offset, mode=mode)
        )
    )
    assert 0 < int((expected == 0).sum()) < expected.numel()
    first, second = first.to(device), second.to(device)
    tolerance = 1e-5 if device.type == "cuda" else None  # sides are float32 there, whatever the type
    close(ops.bbox_overlaps(first, second, mode, offset=offset), expected, tolerance)
    aligned = ops.bbox_overlaps(first, second[:13], mode, aligned=True, offset=offset)
    close(aligned, expected.diagonal(), tolerance)


def test_bbox_overlaps_of_nothing(device: torch.device) -> None:
    """An empty set gives an empty matrix of the right shape."""
    boxes = random_boxes(3).to(device)
    assert ops.bbox_overlaps(boxes[:0], boxes).shape == (0, 3)
    assert ops.bbox_overlaps(boxes, boxes[:0]).shape == (3, 0)


@pytest.mark.kernels("box_iou_rotated")
@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_box_iou_rotated(device: torch.device, mode: str, *, clockwise: bool) -> None:
    """Every pair of rotated boxes, and each box with its partner, in both senses of rotation."""
    first, second = random_rotated(19), random_rotated(23)
    expected = torch.tensor(rotated_overlaps(first, second, mode, clockwise=clockwise))
    assert 0 < int((expected == 0).sum()) < expected.numel()
    first, second = first.to(device), second.to(device)
    close(ops.box_iou_rotated(first, second, mode, clockwise=clockwise), expected)
    close(ops.box_iou_rotated(first, second[:19], mode, aligned=True, clockwise=clockwise), expected.diagonal())


@pytest.mark.kernels("box_iou_rotated")
def test_box_iou_rotated_of_known_shapes(device: torch.device) -> None:
    """Itself, an inner box, a star of two squares, boxes that only touch or are apart, and one without area."""
    square = [0.0, 0.0, 2.0, 2.0, 0.0]
    others = [
        square,
        [0.0, 0.0, 1.0, 1.0, 0.3],
        [0.0, 0.0, 2.0, 2.0, math.pi / 4],
        [2.0, 0.0, 2.0, 2.0, 0.0],
        [5.0, 5.0, 2.0, 2.0, 0.1],
        [0.0, 0.0, 0.0, 2.0, 0.0],
    ]
    actual = ops.box_iou_rotated(torch.tensor([square], device=device), torch.tensor(others, device=device))
    close(actual, torch.tensor([[1, 1 / 4, math.sqrt(1 / 2), 0, 0, 0]]))


@pytest.mark.kernels("box_iou_rotated")
def test_installation(device: torch.device) -> None:
    """What the official check of an installation calculates, with its values compared."""
    first = torch.tensor([[1.0, 1.0, 3.0, 4.0, 0.5], [2.0, 2.0, 3.0, 4.0, 0.6], [7.0, 7.0, 8.0, 8.0, 0.4]])
    second = torch.tensor([[0.0, 2.0, 2.0, 5.0, 0.3], [2.0, 1.0, 3.0, 3.0, 0.5], [5.0, 5.0, 6.0, 7.0, 0.4]])
    actual = ops.box_iou_rotated(first.to(device), second.to(device))
    close(actual, torch.tensor(rotated_overlaps(first, second)))


@pytest.mark.kernels("box_iou_quadri")
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_box_iou_quadri(device: torch.device, mode: str) -> None:
    """Every pair of rectangles given by corners, and each with its partner.

    Rectangles, because upstream's test for a corner inside the other shape holds for them alone.
    """
    first, second = to_quadri(random_rotated(19)), to_quadri(random_rotated(23))
    some, others = (boxes.double().numpy().reshape(-1, 4, 2) for boxes in (first, second))
    expected = torch.tensor(reference.pairwise(some, others, lambda a, b: reference.polygon_iou(a, b, mode=mode)))
    first, second = first.to(device), second.to(device)
    close(ops.box_iou_quadri(first, second, mode), expected)
    close(ops.box_iou_quadri(first, second[:19], mode, aligned=True), expected.diagonal())


@pytest.mark.kernels("box_iou_quadri")
def test_box_iou_quadri_of_other_shapes(device: torch.device) -> None:
    """A trapezium, a kite and a parallelogram: each with itself, with a frame around it, and with one far away."""
    shapes = torch.tensor(
        [[0, 0, 4, 0, 3, 2, 1, 2], [0, 0, 2, 1, 5, 5, 1, 2], [0, 0, 3, 0, 4, 2, 1, 2]],
        dtype=torch.float32,
        device=device,
    )
    frame = torch.tensor([[-8, -8, 8, -8, 8, 8, -8, 8]], dtype=torch.float32, device=device)
    areas = torch.tensor([6.0, 5.0, 6.0])
    close(ops.box_iou_quadri(shapes, shapes, aligned=True), torch.ones(3))
    close(ops.box_iou_quadri(shapes, frame)[:, 0], areas / 256)
    close(ops.box_iou_quadri(shapes, frame, "iof")[:, 0], torch.ones(3))
    close(ops.box_iou_quadri(shapes, shapes + 30), torch.zeros(3, 3))


@pytest.mark.kernels("nms")
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6])
def test_nms(device: torch.device, threshold: float, offset: int) -> None:
    """Kept boxes are those of greedy suppression, best first, with their scores."""
    boxes, scores = random_boxes(60), random_scores(60)
    overlaps = self_overlaps(boxes, offset)
    kept = [group[0] for group in reference.suppress(overlaps, scores.numpy(), lambda overlap: overlap > threshold)]
    assert 1 < len(kept) < 60
    dets, indices = ops.nms(boxes.to(device), scores.to(device), threshold, offset=offset)
    assert indices.tolist() == kept
    close(dets, torch.cat([boxes, scores[:, None]], dim=1)[kept])


@pytest.mark.kernels("nms")
def test_nms_by_score_and_number(device: torch.device) -> None:
    """Boxes below the least score take no part; no more than the wanted number is kept; NumPy in, NumPy out."""
    boxes, scores = random_boxes(40), random_scores(40)
    overlaps = self_overlaps(boxes)
    groups = reference.suppress(overlaps, scores.numpy(), lambda overlap: overlap > 0.2)
    expected = [group[0] for group in groups if scores[group[0]] > 0.5]
    arguments = {"iou_threshold": 0.2, "score_threshold": 0.5}
    _, indices = ops.nms(boxes.to(device), scores.to(device), **arguments)
    assert indices.tolist() == expected
    _, indices = ops.nms(boxes.to(device), scores.to(device), max_num=3, **arguments)
    assert indices.tolist() == expected[:3]
    dets, array = ops.nms(boxes.numpy(), scores.numpy(), **arguments)
    assert isinstance(dets, np.ndarray)
    assert array.tolist() == expected


@pytest.mark.kernels("nms")
def test_nms_keeps_boxes_at_the_threshold(device: torch.device) -> None:
    """A box that overlaps by exactly the threshold stays; nothing in, nothing out."""
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 2.0, 1.5]], device=device)
    scores = torch.tensor([0.9, 0.8, 0.7], device=device)
    assert ops.nms(boxes, scores, 0.5)[1].tolist() == [0, 1]
    assert ops.nms(boxes - torch.tensor([0.0, 0.0, 1.0, 1.0], device=device), scores, 0.5, offset=1)[1].tolist() == [
        0,
        1,
    ]
    assert ops.nms(boxes[:0], scores[:0], 0.5)[1].tolist() == []


@pytest.mark.kernels("softnms")
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(device: torch.device, method: str, offset: int) -> None:
    """Which boxes are left, in which order, and with which lowered scores, for each way to lower them."""
    boxes, scores = random_boxes(50), random_scores(50)
    overlaps = self_overlaps(boxes, offset)
    decay = {
        "naive": lambda overlap: 0.0 if overlap >= 0.3 else 1.0,
        "linear": lambda overlap: 1 - overlap if overlap >= 0.3 else 1.0,
        "gaussian": lambda overlap: math.exp(-(overlap**2) / 0.4),
    }[method]
    expected = reference.soft_suppress(overlaps, scores.double().numpy(), decay, 0.1)
    assert 1 < len(expected) < 50
    dets, indices = ops.soft_nms(
        boxes.to(device), scores.to(device), 0.3, sigma=0.4, min_score=0.1, method=method, offset=offset
    )
    assert indices.tolist() == [i for i, _ in expected]
    close(dets[:, :4], boxes[indices.cpu()])
    close(dets[:, 4], torch.tensor([score for _, score in expected]))


@pytest.mark.kernels("softnms")
def test_soft_nms_at_the_limits(device: torch.device) -> None:
    """An overlap of exactly the threshold suppresses; a score of exactly the least one stays; nothing gives nothing."""
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0], [8.0, 0.0, 9.0, 1.0]], device=device)
    scores = torch.tensor([0.9, 0.8, 0.25], device=device)
    dets, indices = ops.soft_nms(boxes, scores, 0.5, min_score=0.25, method="naive")
    assert indices.tolist() == [0, 2]
    close(dets[:, 4], torch.tensor([0.9, 0.25]))
    assert ops.soft_nms(boxes[:0], scores[:0])[1].tolist() == []


@pytest.mark.kernels("nms_match")
def test_nms_match(device: torch.device) -> None:
    """Each kept box with those that it suppressed, best first, an overlap of exactly the threshold included."""
    boxes, scores = random_boxes(50), random_scores(50)
    overlaps = self_overlaps(boxes)
    expected = reference.suppress(overlaps, scores.numpy(), lambda overlap: overlap >= 0.25)
    dets = torch.cat([boxes, scores[:, None]], dim=1).to(device)
    assert [group.tolist() for group in ops.nms_match(dets, 0.25)] == expected
    limit = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.9], [0.0, 0.0, 2.0, 1.0, 0.8]], device=device)
    assert [group.tolist() for group in ops.nms_match(limit, 0.5)] == [[0, 1]]
    assert ops.nms_match(dets[:0], 0.5) == []


@pytest.mark.kernels("nms_rotated")
@pytest.mark.parametrize("threshold", [0.1, 0.5])
@floats
def test_nms_rotated(device: torch.device, dtype: torch.dtype, threshold: float) -> None:
    """Kept rotated boxes, best first, in both senses of rotation; nothing gives nothing."""
    boxes, scores = random_rotated(40).to(dtype), random_scores(40).to(dtype)
    for clockwise in (True, False):
        overlaps = rotated_overlaps(boxes, boxes, clockwise=clockwise)
        kept = [group[0] for group in reference.suppress(overlaps, scores.numpy(), lambda overlap: overlap > threshold)]
        assert 1 < len(kept) < 40
        dets, indices = ops.nms_rotated(boxes.to(device), scores.to(device), threshold, clockwise=clockwise)
        assert indices.tolist() == kept
        close(dets, torch.cat([boxes, scores[:, None]], dim=1)[kept])
    labels = torch.arange(40, device=device)  # with them boxes lie otherwise in memory; no kernel compares them
    assert ops.nms_rotated(boxes.to(device), scores.to(device), threshold, labels, clockwise=False)[1].tolist() == kept
    assert ops.nms_rotated(boxes[:0].to(device), scores[:0].to(device), threshold)[0].shape == (0, 5)


@pytest.mark.kernels("nms_quadri")
@pytest.mark.parametrize("threshold", [0.1, 0.5])
@floats
def test_nms_quadri(device: torch.device, dtype: torch.dtype, threshold: float) -> None:
    """Kept rectangles given by corners, best first; nothing gives nothing."""
    boxes, scores = to_quadri(random_rotated(40)).to(dtype), random_scores(40).to(dtype)
    polygons = boxes.double().numpy().reshape(-1, 4, 2)
    overlaps = reference.pairwise(polygons, polygons, reference.polygon_iou)
    kept = [group[0] for group in reference.suppress(overlaps, scores.numpy(), lambda overlap: overlap > threshold)]
    assert 1 < len(kept) < 40
    dets, indices = ops.nms_quadri(boxes.to(device), scores.to(device), threshold)
    assert indices.tolist() == kept
    close(dets, torch.cat([boxes, scores[:, None]], dim=1)[kept])
    labels = torch.arange(40, device=device)  # as for rotated boxes
    assert ops.nms_quadri(boxes.to(device), scores.to(device), threshold, labels)[1].tolist() == kept
    assert ops.nms_quadri(boxes[:0].to(device), scores[:0].to(device), threshold)[0].shape == (0, 8)


@pytest.mark.kernels("nms_rotated", "nms_quadri")
@on_cpu
def test_polygon_nms_at_the_threshold(device: torch.device) -> None:
    """On the CPU, other than on CUDA, an overlap of exactly the threshold suppresses."""
    boxes = torch.tensor([[1.0, 1.0, 2.0, 2.0, 0.0], [1.0, 0.5, 2.0, 1.0, 0.0]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert ops.nms_rotated(boxes, scores, 0.5)[1].tolist() == [0]
    assert ops.nms_rotated(boxes, scores, 0.51)[1].tolist() == [0, 1]
    quads = torch.tensor([[0.0, 0, 2, 0, 2, 2, 0, 2], [0, 0, 2, 0, 2, 1, 0, 1]], device=device)
    assert ops.nms_quadri(quads, scores, 0.5)[1].tolist() == [0]
    assert ops.nms_quadri(quads, scores, 0.51)[1].tolist() == [0, 1]


@pytest.mark.kernels("nms")
@pytest.mark.parametrize("split", [10000, 8])
def test_batched_nms(device: torch.device, split: int) -> None:
    """Boxes suppress others of their own class alone, unless told otherwise, also where classes go one by one."""
    boxes, scores, classes = random_boxes(40), random_scores(40), torch.randint(3, (40,))
    overlaps = self_overlaps(boxes)
    for agnostic in (False, True):
        apart = (classes[:, None] != classes).numpy() & (not agnostic)
        groups = reference.suppress(np.where(apart, 0, overlaps), scores.numpy(), lambda overlap: overlap > 0.4)
        kept = [group[0] for group in groups]
        config = {"type": "nms", "iou_threshold": 0.4, "split_thr": 10000 if agnostic else split}
        dets, indices = ops.batched_nms(
            boxes.to(device), scores.to(device), classes.to(device), config, class_agnostic=agnostic
        )
        assert indices.tolist() == kept
        close(dets, torch.cat([boxes, scores[:, None]], dim=1)[kept])


@pytest.mark.kernels("bbox_overlaps", "box_iou_rotated", "box_iou_quadri")
@pytest.mark.kernels("nms", "softnms", "nms_match", "nms_rotated", "nms_quadri")
def test_boxes_that_lie_otherwise(device: torch.device) -> None:
    """Transposed boxes, and scores cut out of a matrix, give what contiguous ones give."""
    boxes, rotated, scores = random_boxes(40), random_rotated(40), random_scores(40)
    quads, dets = to_quadri(rotated), torch.cat([boxes, scores[:, None]], dim=1)
    ops_and_inputs: list[tuple[Callable[..., Tensor], list[Tensor]]] = [
        (ops.bbox_overlaps, [boxes, boxes[:30]]),
        (ops.box_iou_rotated, [rotated, rotated[:30]]),
        (ops.box_iou_quadri, [quads, quads[:30]]),
        (lambda *given: ops.nms(*given, 0.3)[1], [boxes, scores]),
        (lambda *given: ops.soft_nms(*given)[0], [boxes, scores]),
        (lambda given: torch.cat(ops.nms_match(given, 0.25)), [dets]),
        (lambda *given: ops.nms_rotated(*given, 0.3)[1], [rotated, scores]),
        (lambda *given: ops.nms_quadri(*given, 0.3)[1], [quads, scores]),
    ]
    for op, inputs in ops_and_inputs:
        given = [each.to(device) for each in inputs]
        close(op(*map(scattered, given)), op(*given), 1e-6)
