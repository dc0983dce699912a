"""Point clouds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference_points as reference
import torch
from checks import close, on_cpu, on_gpu, scattered
from mmcv import ops
from torch import Tensor

pytest_plugins = ["evidence"]

SIZE, BOUNDS = (0.5, 0.25, 1.0), (-1.0, 0.0, -2.0, 2.0, 1.5, 2.0)


def boxes_and_points() -> tuple[Tensor, Tensor]:
    """Two clouds of points in and around turned boxes."""
    boxes = torch.cat([torch.rand(2, 6, 3) * 6, torch.rand(2, 6, 3) * 5 + 1, torch.rand(2, 6, 1) * 6 - 3], dim=-1)
    return boxes, torch.rand(2, 300, 3) * 9 - 1


def inside(boxes: Tensor, points: Tensor) -> Tensor:
    """Whether each point lies in each box, (batch, points, boxes)."""
    found = [
        [[reference.inside_box(point, box) for box in some] for point in cloud]
        for some, cloud in zip(boxes.double().numpy(), points.double().numpy(), strict=True)
    ]
    return torch.tensor(found).int()


@pytest.mark.kernels("points_in_boxes_cpu_forward")
@on_cpu
def test_points_in_boxes_cpu(device: torch.device) -> None:
    """Which points lie in which boxes."""
    boxes, points = boxes_and_points()
    expected = inside(boxes, points)
    assert (expected.sum(1) > 0).float().mean() > 0.8
    actual = ops.points_in_boxes_cpu(points.to(device), boxes.to(device))
    assert torch.equal(actual, expected)
    assert torch.equal(ops.points_in_boxes_cpu(scattered(points), scattered(boxes)), expected)


@pytest.mark.kernels("points_in_boxes_cpu_forward")
@on_cpu
def test_points_on_the_faces_of_a_box(device: torch.device) -> None:
    """Sides are outside, bottom and top inside; the box stands on its z and turns from x towards y."""
    box = torch.tensor(
        [[[1.0, 2.0, 3.0, 4.0, 2.0, 8.0, 0.0], [1.0, 2.0, 3.0, 4.0, 2.0, 8.0, math.pi / 6]]], device=device
    )
    turned = [1 + 1.9 * math.cos(math.pi / 6), 2 + 1.9 * math.sin(math.pi / 6), 4.0]
    points = [[3.0, 2, 4], [-1, 2, 4], [1, 3, 4], [1, 1, 4], [1, 2, 3], [1, 2, 11], [1, 2, 2.9], [1, 2, 11.1], turned]
    actual = ops.points_in_boxes_cpu(torch.tensor([points], device=device), box)[0]
    assert actual[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 1]
    assert actual[-1].tolist() == [1, 1]
    mirrored = torch.tensor([[[turned[0], 4 - turned[1], 4.0]]], device=device)
    assert ops.points_in_boxes_cpu(mirrored, box)[0, 0].tolist()[1] == 0


def cloud(count: int) -> Tensor:
    """Points in, around and exactly on the bounds of the grid, with one more feature; eighths, so exact in any type."""
    places = torch.stack(
        [torch.randint(-12, 20, (count,)), torch.randint(-2, 14, (count,)), torch.randint(-18, 18, (count,))]
    )
    return torch.cat([places.T / 8, torch.arange(count)[:, None] / 4], dim=1)


# On CUDA there is no kernel for float16.
voxel_types = pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.float64),
        ("cpu", torch.float32),
        ("cpu", torch.float16),
        ("cuda", torch.float64),
        ("cuda", torch.float32),
    ],
    indirect=["device"],
    ids=lambda value: str(value).removeprefix("torch."),
)


def whole(cells: Tensor) -> Tensor:
    """Give each point without a cell -1 three times: upstream's kernel for CUDA stops at the first that is out."""
    return torch.where((cells < 0).any(1, keepdim=True), -1, cells)


@pytest.mark.kernels("dynamic_voxelize_forward")
@voxel_types
def test_dynamic_voxelization(device: torch.device, dtype: torch.dtype) -> None:
    """The cell of each point, its lower bound included and its upper one not; on CUDA -1 may stand once for no cell."""
    points = cloud(400)
    expected = torch.tensor([reference.voxel_of(point, SIZE, BOUNDS) for point in points.double().numpy()]).int()
    assert 0 < int((expected[:, 0] < 0).sum()) < 400
    for arranged in (points, scattered(points)):
        actual = ops.voxelization(arranged.to(device, dtype), SIZE, BOUNDS, -1, -1)
        assert torch.equal(whole(actual).cpu(), expected)


@pytest.mark.kernels("dynamic_voxelize_forward", "hard_voxelize_forward")
def test_grid_of_an_uneven_range(device: torch.device) -> None:
    """A range that is no multiple of the cell has the nearest whole number of cells, be it more or fewer."""
    size, bounds = (0.375, 0.5, 1.0), (0.0, 0.0, 0.0, 1.25, 1.375, 4.0)
    points = torch.tensor([[x, y, 1.5] for x in (0.9, 1.1, 1.2) for y in (0.9, 1.05, 1.45, 1.55)])
    expected = [reference.voxel_of(point, size, bounds) for point in points.double().numpy()]
    assert expected[1][1] == 2
    assert [cell[2] for cell in expected[::4]] == [2, 2, -1]
    actual = whole(ops.voxelization(points.to(device), size, bounds, -1, -1))
    assert [tuple(cell) for cell in actual.tolist()] == expected
    _, cells, _ = ops.voxelization(points.to(device), size, bounds, 9, 99)
    assert {tuple(cell) for cell in cells.tolist()} == {cell for cell in expected if cell[0] >= 0}


@pytest.mark.kernels("hard_voxelize_forward")
@pytest.mark.parametrize(("max_points", "max_voxels"), [(3, 500), (2, 40), (35, 20)])
@voxel_types
def test_hard_voxelization(device: torch.device, dtype: torch.dtype, max_points: int, max_voxels: int) -> None:
    """The first cells met, each with its first points, their number, and zeros for the rest; on CUDA no float64."""
    points = cloud(400)
    if device.type == "cuda" and dtype is torch.float64:
        with pytest.raises(RuntimeError, match="expected scalar type Float but found Double"):
            ops.voxelization(points.to(device, dtype), SIZE, BOUNDS, max_points, max_voxels)
        return
    expected = reference.voxelize(points.double().numpy(), SIZE, BOUNDS, max_points, max_voxels)
    given = scattered(points.to(device, dtype))
    voxels, cells, counts = ops.voxelization(given, SIZE, BOUNDS, max_points, max_voxels)
    assert [tuple(cell) for cell in cells.tolist()] == list(expected)
    assert counts.tolist() == [len(each) for each in expected.values()]
    filled = np.zeros((len(expected), max_points, 4))
    for i, each in enumerate(expected.values()):
        filled[i, : len(each)] = each
    close(voxels, torch.from_numpy(filled), 0)


@pytest.mark.kernels("hard_voxelize_forward")
@on_gpu
def test_hard_voxelization_in_any_order(device: torch.device) -> None:
    """Where no order is asked for, all cells are there, each with as many of its points as it takes, and zeros."""
    points = cloud(400)
    expected = reference.voxelize(points.double().numpy(), SIZE, BOUNDS, len(points), 500)
    voxels, cells, counts = ops.voxelization(points.to(device), SIZE, BOUNDS, 3, 500, False)  # noqa: FBT003  # no names
    assert sorted(tuple(cell) for cell in cells.tolist()) == sorted(expected)
    for voxel, cell, count in zip(voxels.tolist(), cells.tolist(), counts.tolist(), strict=True):
        there, taken = {tuple(point) for point in expected[tuple(cell)]}, {tuple(point) for point in voxel[:count]}
        assert count == len(taken) == min(3, len(there))
        assert taken <= there
        assert not any(map(any, voxel[count:]))


@pytest.mark.kernels("hard_voxelize_forward")
def test_voxelization_module(device: torch.device) -> None:
    """The module limits the number of cells by its mode."""
    points = cloud(200).to(device)
    layer = ops.Voxelization(list(SIZE), list(BOUNDS), 2, (10, 30))
    assert len(layer.train()(points)[0]) == 10
    assert len(layer.eval()(points)[0]) == 30


@pytest.mark.kernels("dynamic_voxelize_forward", "hard_voxelize_forward")
@on_cpu
def test_voxelization_of_nothing(device: torch.device) -> None:
    """Nothing in, nothing out."""
    points = cloud(0).to(device)
    assert ops.voxelization(points, SIZE, BOUNDS, -1, -1).shape == (0, 3)
    assert [len(each) for each in ops.voxelization(points, SIZE, BOUNDS, 2, 10)] == [0, 0, 0]
