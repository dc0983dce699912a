"""Ops that rearrange or group the pixels of a map."""

from __future__ import annotations

import numpy as np
import pytest
import reference_features as reference
import reference_points
import torch
from checks import checks_assertions, close, floats_and_half, on_cpu, same, scattered
from mmcv import ops

pytest_plugins = ["evidence"]


@pytest.mark.kernels("psamask_forward", "psamask_backward")
@pytest.mark.parametrize("size", [(3, 5), (7, 3), (4, 2)], ids=str)
@pytest.mark.parametrize("kind", ["collect", "distribute"])
def test_psa_mask(device: torch.device, kind: str, size: tuple[int, int]) -> None:
    """Values land at, and gradients come from, the pixel pair that each mask channel stands for."""
    same(
        ops.PSAMask(kind, size),
        lambda mask: reference.psa_mask(mask, kind, size),
        [torch.randn(2, size[0] * size[1], 4, 3)],
        torch.float32,
        device,
    )


@pytest.mark.kernels("psamask_backward", "active_rotated_filter_backward")
@on_cpu
def test_gradcheck(device: torch.device) -> None:
    """Gradients are those of the op itself, by finite differences."""
    for kind in ("collect", "distribute"):
        mask = torch.randn(1, 6, 3, 2, dtype=torch.float64, device=device, requires_grad=True)
        assert torch.autograd.gradcheck(ops.PSAMask(kind, (3, 2)), [mask])
    filters = torch.randn(2, 1, 2, 1, 3, dtype=torch.float64, device=device, requires_grad=True)
    indices = torch.stack([torch.randperm(6) for _ in range(4)], dim=1).reshape(2, 1, 3, 4).int() + 1
    assert torch.autograd.gradcheck(lambda x: ops.active_rotated_filter(x, indices), [filters])


@pytest.mark.kernels("active_rotated_filter_forward", "active_rotated_filter_backward")
@pytest.mark.parametrize(("orientations", "kernel", "rotations"), [(8, (3, 3), 8), (2, (1, 3), 4), (1, (3, 2), 3)])
@floats_and_half
def test_active_rotated_filter(
    device: torch.device, dtype: torch.dtype, orientations: int, kernel: tuple[int, int], rotations: int
) -> None:
    """Each rotation is its permutation of the filter, for several filters and input planes."""
    entries = orientations * kernel[0] * kernel[1]
    orders = torch.stack([torch.randperm(entries) for _ in range(rotations)], dim=1) + 1
    indices = orders.reshape(orientations, *kernel, rotations).int().to(device)
    same(
        lambda filters: ops.active_rotated_filter(filters, scattered(indices)),
        lambda filters: reference.active_rotated_filter(filters, indices),
        [torch.randn(3, 2, orientations, *kernel)],
        dtype,
        device,
    )


@pytest.fixture
def _without_assertions() -> None:
    """Fail where upstream's wrong assertion in pixel_group would end the whole run."""
    if checks_assertions():
        pytest.fail("the kernels are compiled with assertions: CFLAGS without -DNDEBUG?")


@pytest.mark.kernels("pixel_group")
@pytest.mark.usefixtures("_without_assertions")
@pytest.mark.parametrize("case", range(4))
def test_pixel_group(case: int) -> None:
    """Kernels grow over near pixels of the mask alone; mean score, size and pixels of each region."""
    rng = np.random.default_rng(case)
    kernels = np.zeros((9, 13), dtype=np.int32)
    kernels[1:4, 1:3], kernels[5:7, 8:11], kernels[0, 9:12] = 1, 2, 3
    contour = ((kernels > 0) & (rng.random(kernels.shape) < 0.8)).astype(np.uint8)
    score = rng.random(kernels.shape, dtype=np.float32)
    mask = rng.random(kernels.shape) < 0.85
    centres = rng.random((4, 3), dtype=np.float32)
    embedding = centres[rng.integers(4, size=kernels.shape)] * 0.3 + rng.random((9, 13, 3), dtype=np.float32)
    arguments = (score, mask, embedding, kernels, contour, 4, 0.75)
    expected = reference_points.pixel_group(*arguments)
    assert int((kernels > 0).sum()) < sum(int(group[1]) for group in expected) < int((mask | (kernels > 0)).sum())
    actual = ops.pixel_group(*arguments)
    assert [group[1:] for group in actual] == [group[1:] for group in expected]
    close(torch.tensor([group[0] for group in actual]), torch.tensor([group[0] for group in expected]))
    tensors = [scattered(torch.from_numpy(each)) for each in arguments[:5]]
    assert ops.pixel_group(*tensors, *arguments[5:]) == actual


@pytest.mark.kernels("pixel_group")
@pytest.mark.usefixtures("_without_assertions")
def test_pixel_group_leaves_pixels_at_the_threshold() -> None:
    """A pixel joins below the distance, not at it."""
    kernels = np.array([[0, 1, 0]], dtype=np.int32)
    embedding = np.array([[[0.5], [0.0], [0.4375]]], dtype=np.float32)
    ones = np.ones((1, 3), dtype=np.float32)
    groups = ops.pixel_group(ones, ones > 0, embedding, kernels, (kernels > 0).astype(np.uint8), 2, 0.5)
    assert groups == [[0, 0], [1, 2, 1, 0, 2, 0]]


@pytest.mark.kernels("contour_expand")
@pytest.mark.parametrize("minimum", [0, 4])
@pytest.mark.parametrize("masks", [2, 3])
def test_contour_expand(masks: int, minimum: int) -> None:
    """Labels grow from the kernels over the mask, in turn; small kernels are left out.

    All masks above the smallest are alike here, because upstream reads the largest one whichever is due.
    """
    rng = np.random.default_rng(3)
    seeds = np.zeros((11, 14), dtype=np.int32)
    seeds[1:3, 1:4], seeds[7:9, 2:4], seeds[3:6, 9:12], seeds[9, 11:13] = 1, 2, 3, 4
    largest = ((rng.random(seeds.shape) < 0.75) | (seeds > 0)).astype(np.uint8)
    stack = np.stack([largest] * (masks - 1) + [(seeds > 0).astype(np.uint8)])
    expected = reference_points.contour_expand(stack, seeds, minimum)
    assert {0, 1, 2, 3} <= set(np.unique(expected))
    assert (4 in expected) == (minimum == 0)
    assert ops.contour_expand(stack, seeds, minimum, 4) == expected.tolist()
    tensors = [scattered(torch.from_numpy(each)) for each in (stack, seeds)]
    assert ops.contour_expand(*tensors, minimum, 4) == expected.tolist()
