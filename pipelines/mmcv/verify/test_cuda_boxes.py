"""Boxes and polygons: ops that have a kernel for CUDA alone, held against their definitions; not run without a GPU."""

from __future__ import annotations

import math
from typing import Any

import mmcv._ext
import pytest
import reference_boxes
import reference_polygons as reference
import torch
from checks import close, on_gpu, same, scattered, single_and_half
from mmcv import ops
from torch import Tensor

pytestmark = on_gpu
pytest_plugins = ["evidence"]


def point_sets(count: int) -> Tensor:
    """Sets of nine points each, as (count, 18)."""
    centre, spread = torch.rand(count, 1, 2) * 6 + 3, torch.rand(count, 1, 2) * 3 + 1
    return (centre + torch.randn(count, 9, 2) * spread).reshape(count, 18)


def quadrilaterals(count: int) -> Tensor:
    """Corners of turned rectangles, as (count, 8)."""
    boxes = torch.cat([torch.rand(count, 2) * 8 + 2, torch.rand(count, 2) * 5 + 1, torch.rand(count, 1) * 6], dim=1)
    return torch.stack([reference.corners(box) for box in boxes]).reshape(count, 8)


@pytest.mark.kernels("convex_iou")
@single_and_half
def test_convex_iou(device: torch.device, dtype: torch.dtype) -> None:
    """The hull of each set of nine points with each quadrilateral; more sets than threads in a block."""
    sets, quads = point_sets(301).to(dtype), quadrilaterals(3).to(dtype)
    hulls = [reference.hull(each).numpy() for each in sets.double().reshape(-1, 9, 2)]
    windows = quads.double().reshape(-1, 4, 2).numpy()
    expected = torch.tensor(reference_boxes.pairwise(hulls, windows, reference_boxes.polygon_iou))
    assert 0 < int((expected == 0).sum()) < expected.numel() / 2
    close(ops.convex_iou(sets.to(device), quads.to(device)), expected)
    close(ops.convex_iou(scattered(sets.to(device)), scattered(quads.to(device))), expected)


@pytest.mark.kernels("convex_giou")
@single_and_half
def test_convex_giou(device: torch.device, dtype: torch.dtype) -> None:
    """The hull of each set with its own quadrilateral, and the gradient of each of its points."""
    sets, quads = point_sets(270).to(dtype), quadrilaterals(270).to(dtype)
    exact = sets.double().requires_grad_()
    expected = torch.stack(
        [
            reference.giou(reference.hull(points.reshape(9, 2)), quad.reshape(4, 2))
            for points, quad in zip(exact, quads.double(), strict=True)
        ]
    )
    (slopes,) = torch.autograd.grad(expected.sum(), exact)
    assert bool((expected < 0).any())
    assert bool((slopes.reshape(-1, 9, 2) == 0).any())
    for arrange in (torch.Tensor.contiguous, scattered):
        actual, gradient = ops.convex_giou(arrange(sets.to(device)), arrange(quads.to(device)))
        close(actual, expected)
        close(gradient, slopes)


@pytest.mark.kernels("min_area_polygons")
@single_and_half
def test_min_area_polygons(device: torch.device, dtype: torch.dtype) -> None:
    """The smallest rectangle around each set of nine points, corner by corner, where no other is as small."""
    sets = point_sets(700).to(dtype)
    found = [reference.rectangles(each)[:2] for each in sets.double().reshape(-1, 9, 2)]
    ratios = torch.tensor([float(reference.area(second) / reference.area(first)) for first, second in found])
    clear = ratios > 1.002
    assert int(clear.sum()) > 512
    expected = torch.stack([first for first, _ in found])[clear].reshape(-1, 8)
    for given in (sets[clear].to(device), scattered(sets[clear].to(device))):
        close(ops.min_area_polygons(given), expected, 1e-3 if dtype is torch.float32 else None)


@pytest.mark.kernels("points_in_polygons_forward")
def test_points_in_polygons(device: torch.device) -> None:
    """Which points lie in which quadrilaterals."""
    points, quads = torch.rand(200, 2) * 10, quadrilaterals(7)
    expected = torch.tensor(
        [
            [
                all(bool(reference.turn(a, b, point) > 0) for a, b in zip(quad, quad.roll(-1, 0), strict=True))
                for quad in quads.double().reshape(-1, 4, 2)
            ]
            for point in points.double()
        ]
    )
    assert expected.any(0).all()
    close(ops.points_in_polygons(points.to(device), quads.to(device)), expected.float(), 0)
    close(ops.points_in_polygons(scattered(points.to(device)), scattered(quads.to(device))), expected.float(), 0)


@pytest.mark.kernels("diff_iou_rotated_sort_vertices_forward")
def test_sort_vertices(device: torch.device) -> None:
    """Valid vertices by their angle from 0 to 2π, the first again at the end, filled up with an invalid one.

    Fewer than three make no polygon, and all are filled up. Of 24 vertices the last 16 are those that fill up.
    """
    vertices, mask = torch.randn(2, 300, 24, 2), torch.zeros(2, 300, 24, dtype=torch.bool)
    expected = torch.zeros(2, 300, 9)
    for n in range(2):
        for i in range(300):
            mask[n, i, torch.randperm(24)[: i % 9]] = True
            angles = torch.atan2(vertices[n, i, :, 1].double(), vertices[n, i, :, 0].double()) % (2 * math.pi)
            order = sorted(torch.nonzero(mask[n, i])[:, 0].tolist(), key=angles.tolist().__getitem__)
            order = [*order, order[0]] if len(order) > 2 else []
            spare = 8 + int(mask[n, i, 8:].int().argmin())
            expected[n, i] = torch.tensor(order + [spare] * (9 - len(order)))
    valid = mask.sum(-1).int()
    sort: Any = mmcv._ext.diff_iou_rotated_sort_vertices_forward  # noqa: SLF001  # no function of mmcv.ops is just this
    close(sort(vertices.to(device), mask.to(device), valid.to(device)), expected, 0)


def overlapping(size: int) -> tuple[Tensor, Tensor]:
    """Two sets of turned boxes (2, 40, size), partners near each other: most overlap, some lie within, some apart."""
    places = torch.rand(2, 40, 2) * 8
    boxes = []
    for _ in range(2):
        parts = [places + torch.randn(2, 40, 2), torch.rand(2, 40, size - 3) * 4 + 1, torch.rand(2, 40, 1) * 6 - 3]
        boxes.append(torch.cat(parts, dim=-1))
    return boxes[0], boxes[1]


@pytest.mark.kernels("diff_iou_rotated_sort_vertices_forward")
def test_diff_iou_rotated_2d(device: torch.device) -> None:
    """Overlap of partners, and its gradient by both."""

    def expected(boxes: Tensor, others: Tensor) -> Tensor:
        pairs = zip(boxes.flatten(0, 1), others.flatten(0, 1), strict=True)
        return torch.stack([reference.iou(reference.corners(a), reference.corners(b)) for a, b in pairs]).reshape(2, 40)

    same(ops.diff_iou_rotated_2d, expected, overlapping(5), torch.float32, device, 1e-3)


@pytest.mark.kernels("diff_iou_rotated_sort_vertices_forward")
def test_diff_iou_rotated_3d(device: torch.device) -> None:
    """Overlap of partners with heights, centred at their z, and its gradient by both."""

    def volume_iou(box: Tensor, other: Tensor) -> Tensor:
        flat, beside = reference.corners(box[[0, 1, 3, 4, 6]]), reference.corners(other[[0, 1, 3, 4, 6]])
        top, bottom = box[2] + box[5] / 2, box[2] - box[5] / 2
        height = torch.minimum(top, other[2] + other[5] / 2) - torch.maximum(bottom, other[2] - other[5] / 2)
        shared = reference.overlap(flat, beside) * height.clamp(min=0)
        return shared / (box[3:6].prod() + other[3:6].prod() - shared)

    def expected(boxes: Tensor, others: Tensor) -> Tensor:
        pairs = zip(boxes.flatten(0, 1), others.flatten(0, 1), strict=True)
        return torch.stack([volume_iou(a, b) for a, b in pairs]).reshape(2, 40)

    same(ops.diff_iou_rotated_3d, expected, overlapping(7), torch.float32, device, 1e-3)


def boxes_3d(count: int) -> Tensor:
    """Boxes (x, y, z, sizes, yaw), z in their middle, that often overlap."""
    return torch.cat([torch.rand(count, 3) * 9, torch.rand(count, 3) * 5 + 1, torch.rand(count, 1) * 6 - 3], dim=1)


def seen_from_above(boxes: Tensor, others: Tensor) -> Tensor:
    """Area that every pair of boxes shares, seen from above."""
    flat, beside = (
        [reference_boxes.corners(box) for box in each[:, [0, 1, 3, 4, 6]].double().numpy()] for each in (boxes, others)
    )

    def shared(a: reference_boxes.Array, b: reference_boxes.Array) -> float:
        left = reference_boxes.clip(a, b)
        return abs(reference_boxes.signed_area(left)) if len(left) else 0.0

    return torch.tensor(reference_boxes.pairwise(flat, beside, shared))


@pytest.mark.kernels("iou3d_boxes_overlap_bev_forward")
def test_boxes_overlap_bev(device: torch.device) -> None:
    """Shared areas and volumes; upstream counts a corner up to 0.01 outside as inside, for areas up to 36."""
    boxes, others = boxes_3d(37), boxes_3d(43)
    areas = seen_from_above(boxes, others)
    assert 0 < int((areas == 0).sum()) < areas.numel()
    close(ops.boxes_overlap_bev(boxes.to(device), others.to(device)), areas, 0.05)
    close(ops.boxes_overlap_bev(scattered(boxes.to(device)), scattered(others.to(device))), areas, 0.05)
    (z, h), (w, k) = (each.double()[:, [2, 5]].T for each in (boxes, others))
    top, bottom = torch.minimum((z + h / 2)[:, None], w + k / 2), torch.maximum((z - h / 2)[:, None], w - k / 2)
    shared = areas * (top - bottom).clamp(min=0)
    volumes, beside = boxes[:, 3:6].double().prod(1)[:, None], others[:, 3:6].double().prod(1)
    close(ops.boxes_iou3d(boxes.to(device), others.to(device)), shared / (volumes + beside - shared), 0.01)


def widest_gap(overlaps: Tensor) -> float:
    """A threshold as far as can be from all overlaps, so that rounding decides about no box."""
    values = overlaps[(overlaps > 0.1) & (overlaps < 0.5)].sort().values
    widest = int(values.diff().argmax())
    return float(values[widest : widest + 2].mean())


@pytest.mark.kernels("iou3d_nms3d_forward", "iou3d_nms3d_normal_forward")
def test_nms3d(device: torch.device) -> None:
    """Greedy suppression by the overlap from above, with and without the yaw; boxes for three blocks of 64."""
    boxes, scores = boxes_3d(150), (torch.randperm(150) + 1) / 150
    for suppress, seen in (
        (ops.nms3d, boxes),
        (ops.nms3d_normal, torch.cat([boxes[:, :6], torch.zeros(150, 1)], dim=1)),
    ):
        shared, sizes = seen_from_above(seen, seen), boxes[:, 3:5].double().prod(1)
        overlaps = shared / (sizes[:, None] + sizes - shared)
        threshold = widest_gap(overlaps)
        groups = reference_boxes.suppress(overlaps.numpy(), scores.numpy(), threshold.__lt__)
        kept = [group[0] for group in groups]
        assert 1 < len(kept) < 150
        assert suppress(boxes.to(device), scores.to(device), threshold).tolist() == kept
        assert suppress(scattered(boxes.to(device)), scattered(scores.to(device)), threshold).tolist() == kept
