"""Point clouds: ops that have a kernel for CUDA alone, held against their definitions; not run without a GPU.

Distances that decide between neighbours are of points on a grid where
float16 is to decide alike: it holds them exactly.
"""

from __future__ import annotations

import math

import pytest
import reference_points as reference
import torch
from checks import close, floats, on_gpu, same, scattered, single_and_half
from mmcv import ops
from torch import Tensor

pytestmark = on_gpu
pytest_plugins = ["evidence"]


def cloud(*shape: int, dtype: torch.dtype) -> Tensor:
    """Points with coordinates in [0, 2); for float16, multiples of 1/8."""
    points = torch.rand(*shape, 3) * 2
    return points if dtype is torch.float32 else ((points * 8).floor() / 8).half()


def squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """Squared distance from each point to each other one."""
    return (points.double()[..., :, None, :] - others.double()[..., None, :, :]).square().sum(-1)


def nearest(points: Tensor, others: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Squared distances to, and indices of, the nearest other points, nearest first, and the first of those alike."""
    distances, indices = squared_distances(points, others).sort(stable=True, dim=-1)
    return distances[..., :count], indices[..., :count]


@pytest.mark.kernels("three_nn_forward")
@single_and_half
def test_three_nn(device: torch.device, dtype: torch.dtype) -> None:
    """The nearest three with their distances."""
    points, others = cloud(2, 700, dtype=dtype), cloud(2, 90, dtype=dtype)
    distances, indices = nearest(points, others, 3)
    actual, places = ops.three_nn(points.to(device), others.to(device))
    close(actual, distances.sqrt())
    close(places, indices, 0)
    close(ops.three_nn(scattered(points.to(device)), scattered(others.to(device)))[1], indices, 0)


@pytest.mark.kernels("knn_forward")
def test_knn(device: torch.device) -> None:
    """The nearest five, in either layout, and of a cloud in itself."""
    points, others = torch.randn(2, 530, 3), torch.randn(2, 90, 3)
    _, indices = nearest(points, others, 5)
    close(ops.knn(5, others.to(device), points.to(device)), indices.transpose(1, 2), 0)
    turned = others.transpose(1, 2).to(device), points.transpose(1, 2).to(device)
    close(ops.knn(5, *turned, True), indices.transpose(1, 2), 0)  # noqa: FBT003  # as the op has it
    close(ops.knn(3, others.to(device)), nearest(others, others, 3)[1].transpose(1, 2), 0)


@pytest.mark.kernels("three_interpolate_forward", "three_interpolate_backward")
@single_and_half
def test_three_interpolate(device: torch.device, dtype: torch.dtype) -> None:
    """Weighted sums of three features, and their gradient."""
    indices = torch.randint(40, (2, 700, 3), dtype=torch.int32).to(device)
    weights = (torch.randint(1, 16, (2, 700, 3)) / 16).to(device)
    same(
        lambda features: ops.three_interpolate(features, indices, weights.to(features)),
        lambda features: torch.stack(
            [(features[n][:, indices[n].long()] * weights[n].double()).sum(-1) for n in range(2)]
        ),
        [torch.randn(2, 5, 40)],
        dtype,
        device,
        refuses=True,
    )


@pytest.mark.kernels("gather_points_forward", "gather_points_backward", "group_points_forward", "group_points_backward")
@single_and_half
def test_gathering(device: torch.device, dtype: torch.dtype) -> None:
    """Features of points, one by one and in groups, and their gradients."""
    one = torch.randint(130, (2, 600), dtype=torch.int32).to(device)
    groups = torch.randint(130, (2, 121, 5), dtype=torch.int32).to(device)
    for op, places in ((ops.gather_points, one), (ops.grouping_operation, groups)):
        same(
            lambda features: op(features, places),  # noqa: B023
            lambda features: torch.stack([features[n][:, places[n].long()] for n in range(2)]),  # noqa: B023
            [torch.randn(2, 5, 130)],
            dtype,
            device,
            refuses=op is ops.gather_points,
        )


BATCHES, CENTRES = (90, 41, 130), (300, 77, 150)


def stacked(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """The sizes of the clouds in a stack, cut out of a matrix."""
    return scattered(torch.tensor(counts, dtype=torch.int32, device=device))


@pytest.mark.kernels("stack_group_points_forward", "stack_group_points_backward")
@single_and_half
def test_gathering_of_stacked_clouds(device: torch.device, dtype: torch.dtype) -> None:
    """Groups of features where clouds of different sizes are stacked: indices count within each cloud."""
    places = torch.cat([torch.randint(n, (m, 4)) for n, m in zip(BATCHES, CENTRES, strict=True)]).int().to(device)
    starts = torch.tensor([0, 90, 131]).repeat_interleave(torch.tensor(CENTRES)).to(device)
    same(
        lambda features: ops.grouping_operation(features, places, stacked(BATCHES, device), stacked(CENTRES, device)),
        lambda features: features[places + starts[:, None]].transpose(1, 2),
        [torch.randn(sum(BATCHES), 3)],
        dtype,
        device,
    )


def within(distances: Tensor, least: float, most: float, count: int) -> Tensor:
    """The first `count` points in the shell around a centre or at it, the first again to fill up; empty if none."""
    found = torch.nonzero((distances == 0) | ((distances >= least**2) & (distances < most**2)))[:, 0][:count]
    return torch.cat([found, found[:1].expand(count - len(found))]) if len(found) else found


@pytest.mark.kernels("ball_query_forward")
@single_and_half
def test_ball_query(device: torch.device, dtype: torch.dtype) -> None:
    """The first points within the shell about each centre, zeros where there is none."""
    points, centres = cloud(2, 80, dtype=dtype), cloud(2, 530, dtype=dtype)
    distances, expected = squared_distances(centres, points), torch.zeros(2, 530, 6)
    for n in range(2):
        for i in range(530):
            found = within(distances[n, i], 0.2, 0.51, 6)
            expected[n, i, : len(found)] = found
    assert 0 < int((expected.sum(-1) == 0).sum()) < 530
    close(ops.ball_query(0.2, 0.51, 6, points.to(device), centres.to(device)), expected, 0)


@pytest.mark.kernels("stack_ball_query_forward")
@single_and_half
def test_ball_query_of_stacked_clouds(device: torch.device, dtype: torch.dtype) -> None:
    """The same within each of the clouds of a stack, for balls; -1 where there is none."""
    points, centres = cloud(sum(BATCHES), dtype=dtype), cloud(sum(CENTRES), dtype=dtype)
    expected = torch.zeros(len(centres), 6)
    clouds = [torch.split(each, [*n]) for each, n in ((points, BATCHES), (centres, CENTRES), (expected, CENTRES))]
    for some, middle, rows in zip(*clouds, strict=True):
        for distances, row in zip(squared_distances(middle, some), rows, strict=True):
            found = within(distances, 0, 0.51, 6)
            row[: max(len(found), 1)] = found if len(found) else -1
    assert 0 < int((expected[:, 0] < 0).sum()) < len(expected)
    counts = stacked(BATCHES, device), stacked(CENTRES, device)
    close(ops.ball_query(0, 0.51, 6, points.to(device), centres.to(device), *counts), expected, 0)


def farthest_first(distances: Tensor, count: int) -> list[int]:
    """From the first point on, always the one furthest from all taken."""
    taken, left = [0], distances[0].clone()
    while len(taken) < count:
        taken.append(int(left.argmax()))
        left = torch.minimum(left, distances[taken[-1]])
    return taken


@pytest.mark.kernels("furthest_point_sampling_forward")
@pytest.mark.parametrize("size", [60, 1500])
def test_furthest_point_sample(device: torch.device, size: int) -> None:
    """Points spread over the cloud, also one that is larger than a block of threads."""
    points = torch.rand(2, size, 3)
    expected = [farthest_first(each, 40) for each in squared_distances(points, points)]
    assert ops.furthest_point_sample(points.to(device), 40).tolist() == expected


@pytest.mark.kernels("furthest_point_sampling_with_dist_forward")
@pytest.mark.parametrize("size", [60, 1100])
def test_furthest_point_sample_with_dist(device: torch.device, size: int) -> None:
    """The same by given distances, whatever they are."""
    distances = torch.rand(2, size, size)
    expected = [farthest_first(each, 40) for each in distances]
    assert ops.furthest_point_sample_with_dist(distances.to(device), 40).tolist() == expected


@pytest.mark.kernels("chamfer_distance_forward", "chamfer_distance_backward")
@pytest.mark.parametrize("sizes", [(103, 90), (600, 1100), (4, 1)], ids=str)
def test_chamfer_distance(device: torch.device, sizes: tuple[int, int]) -> None:
    """Squared distance to the nearest point of the other set, either way; sizes that no unrolling divides."""
    clouds = torch.randn(2, sizes[0], 2), torch.randn(2, sizes[1], 2)
    actual = ops.chamfer_distance(*(each.to(device) for each in clouds))
    for i in range(2):
        close(actual[2 + i], nearest(clouds[i], clouds[1 - i], 1)[1][..., 0], 0)
        same(
            lambda *points: ops.chamfer_distance(*points)[i],  # noqa: B023
            lambda *points: squared_distances(points[i], points[1 - i]).amin(-1),  # noqa: B023
            clouds,
            torch.float32,
            device,
        )


@pytest.mark.kernels("assign_score_withk_forward", "assign_score_withk_backward")
@single_and_half
def test_assign_score_withk(device: torch.device, dtype: torch.dtype) -> None:
    """Position-adaptive convolution (PAConv, Xu et al., 2021), and the gradients of scores, points and centres.

    Differences of neighbours from their centre, the first of them, weighted by the scores of the kernels.
    """
    places = torch.randint(40, (2, 30, 5)).to(device)

    def expected(scores: Tensor, points: Tensor, centres: Tensor) -> Tensor:
        apart = torch.stack([points[n][places[n]] - centres[n][places[n, :, :1]] for n in range(2)])
        return torch.einsum("bnkmo,bnkm->bonk", apart, scores)

    inputs = [torch.rand(2, 30, 5, 3), torch.randn(2, 40, 3, 7), torch.randn(2, 40, 3, 7)]
    same(lambda s, p, c: ops.assign_score_withk(s, p, c, places), expected, inputs, dtype, device)


@pytest.mark.kernels("dynamic_point_to_voxel_forward", "dynamic_point_to_voxel_backward")
@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@floats
def test_dynamic_scatter(device: torch.device, dtype: torch.dtype, reduce: str) -> None:
    """Features of the points in each voxel, voxels in order of their coordinates; those outside (-1) drop out."""
    cells = torch.randint(-1, 6, (1500, 3), dtype=torch.int32)
    cells = torch.where((cells < 0).any(1, keepdim=True), torch.full_like(cells, -1), cells)
    members: dict[tuple[int, ...], list[int]] = {}
    for i, cell in enumerate(cells.tolist()):
        members.setdefault(tuple(cell), []).append(i)
    voxels = sorted(cell for cell in members if cell[0] >= 0)
    features = torch.randn(1500, 5)

    def pooled(points: Tensor) -> Tensor:
        return {"sum": points.sum(0), "mean": points.mean(0), "max": points.amax(0)}[reduce]

    same(
        lambda x: ops.dynamic_scatter(x, cells.to(device), reduce)[0],
        lambda x: torch.stack([pooled(x[members[cell]]) for cell in voxels]),
        [features],
        dtype,
        device,
    )
    close(ops.dynamic_scatter(features.to(device, dtype), cells.to(device), reduce)[1], torch.tensor(voxels), 0)


@pytest.mark.kernels("dynamic_point_to_voxel_forward")
def test_dynamic_scatter_of_nothing(device: torch.device) -> None:
    """No points give no voxels."""
    cells = torch.zeros(0, 3, dtype=torch.int32, device=device)
    features, voxels = ops.dynamic_scatter(torch.zeros(0, 5, device=device), cells, "mean")
    assert (features.shape, voxels.shape) == ((0, 5), (0, 3))


def scene(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two clouds of points in and around turned boxes; for float16, boxes along the axes with faces between points."""
    if dtype is torch.float32:
        boxes = torch.cat([torch.rand(2, 6, 3) * 6, torch.rand(2, 6, 3) * 5 + 1, torch.rand(2, 6, 1) * 6 - 3], dim=-1)
        return boxes, torch.rand(2, 600, 3) * 9 - 1
    sizes = torch.randint(4, 24, (2, 6, 3)) / 4 + 0.125
    boxes = torch.cat([torch.randint(48, (2, 6, 3)) / 8, sizes, torch.zeros(2, 6, 1)], dim=-1)
    return boxes.to(dtype), (torch.randint(-8, 64, (2, 600, 3)) / 8).to(dtype)


def inside(boxes: Tensor, points: Tensor) -> Tensor:
    """Whether each point lies in each box, (batch, points, boxes)."""
    found = [
        [[reference.inside_box(point, box) for box in some] for point in cloud]
        for some, cloud in zip(boxes.double().numpy(), points.double().numpy(), strict=True)
    ]
    return torch.tensor(found)


@pytest.mark.kernels("points_in_boxes_all_forward", "points_in_boxes_part_forward")
@single_and_half
def test_points_in_boxes(device: torch.device, dtype: torch.dtype) -> None:
    """All boxes of each point, and the first one."""
    boxes, points = scene(dtype)
    expected = inside(boxes, points)
    assert expected.any(-1).any()
    assert not expected.any(-1).all()
    close(ops.points_in_boxes_all(points.to(device), boxes.to(device)), expected, 0)
    close(ops.points_in_boxes_all(scattered(points.to(device)), scattered(boxes.to(device))), expected, 0)
    first = torch.where(expected.any(-1), expected.int().argmax(-1), -1)
    close(ops.points_in_boxes_part(points.to(device), boxes.to(device)), first, 0)


@pytest.mark.kernels("points_in_boxes_all_forward")
def test_points_on_the_faces_of_a_box(device: torch.device) -> None:
    """Sides are outside, bottom and top inside; the box stands on its z and turns from x towards y."""
    box = [1.0, 2.0, 3.0, 4.0, 2.0, 8.0]
    boxes = torch.tensor([[[*box, 0.0], [*box, math.pi / 6]]], device=device)
    turned = [1 + 1.9 * math.cos(math.pi / 6), 2 + 1.9 * math.sin(math.pi / 6), 4.0]
    points = [[3.0, 2, 4], [-1, 2, 4], [1, 3, 4], [1, 1, 4], [1, 2, 3], [1, 2, 11], [1, 2, 2.9], [1, 2, 11.1], turned]
    points.append([turned[0], 4 - turned[1], 4.0])
    actual = ops.points_in_boxes_all(torch.tensor([points], device=device), boxes)[0]
    assert actual[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 1, 1]
    assert actual[8:, 1].tolist() == [1, 0]


@pytest.mark.kernels("roipoint_pool3d_forward")
@single_and_half
def test_roipoint_pool3d(device: torch.device, dtype: torch.dtype) -> None:
    """The first points in each box with their features, over again where there are too few; empty boxes are named."""
    boxes, points = scene(dtype)
    boxes[1, 2, :3] = 50
    features = torch.randn(2, 600, 5).to(dtype)
    expected, empty = torch.zeros(2, 6, 40, 8), torch.zeros(2, 6)
    found = inside(boxes, points)
    for n in range(2):
        for k in range(6):
            places = torch.nonzero(found[n, :, k])[:, 0][:40]
            empty[n, k] = not len(places)
            if len(places):
                places = places.repeat(40)[:40]
                expected[n, k] = torch.cat([points[n, places], features[n, places]], dim=1)
    counts = found.sum(1)
    assert bool((counts > 40).any())
    assert bool(((counts > 0) & (counts < 40)).any())
    layer = ops.RoIPointPool3d(40)
    for arrange in (torch.Tensor.contiguous, scattered):
        pooled, flags = layer(*(arrange(each.to(device)) for each in (points, features, boxes)))
        close(pooled, expected, 0)
        close(flags, empty, 0)


@pytest.mark.kernels("roiaware_pool3d_forward", "roiaware_pool3d_backward")
@pytest.mark.parametrize("mode", ["max", "avg"])
@single_and_half
def test_roiaware_pool3d(device: torch.device, dtype: torch.dtype, mode: str) -> None:
    """Features of the points in each cell of each box, of the first five at most, and their gradient; zero if empty."""
    boxes, points = (each[0] for each in scene(torch.float32))
    shape, members = (3, 4, 2), []
    for box in boxes.double().numpy():
        cells: dict[tuple[int, ...], list[int]] = {}
        for i, point in enumerate(points.double().numpy()):
            if reference.inside_box(point, box):
                dx, dy, dz = point - box[:3]
                cos, sin = math.cos(box[6]), math.sin(box[6])
                local = dx * cos + dy * sin + box[3] / 2, dy * cos - dx * sin + box[4] / 2, dz
                cell = tuple(int(local[a] / box[3 + a] * shape[a]) for a in range(3))
                cells.setdefault(cell, []).append(i)
        members.append(cells)
    assert max(len(some) for cells in members for some in cells.values()) > 5
    assert any(len(cells) < 24 for cells in members)

    def expected(features: Tensor) -> Tensor:
        pooled = features.new_zeros(len(boxes), *shape, 3)
        for n, cells in enumerate(members):
            for (x, y, z), some in cells.items():
                taken = features[some[:5]]
                pooled[n, x, y, z] = taken.amax(0) if mode == "max" else taken.mean(0)
        return pooled

    given = scattered(boxes.to(device)), scattered(points.to(device))
    layer = ops.RoIAwarePool3d(shape, 6, mode)  # upstream keeps the count in the first of its six places
    features = torch.stack([torch.randperm(600) - 300 for _ in range(3)], dim=1) / 64
    same(lambda x: layer(*given, x), expected, [features], dtype, device)
