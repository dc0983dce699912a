"""Convolution and bilinear sampling against loops in NumPy.

float64: at most 6 * 3 * 3 = 54 products per output, each rounded at 2.2e-16, so 1e-12 is generous.
float32: the same sums at 6e-8 stay below 1e-5; TF32, which errs by 1e-3, is switched off.
"""

from __future__ import annotations

import pytest
import torch
from plain_numerics import convolve, sample_bilinear
from torch.nn import functional

GEOMETRIES = [
    {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    {"stride": 2, "padding": 1, "dilation": 1, "groups": 1},
    {"stride": 1, "padding": 2, "dilation": 2, "groups": 1},
    {"stride": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"stride": 1, "padding": 1, "dilation": 1, "groups": 6},
]


@pytest.mark.parametrize("precision", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "-".join(f"{name}{value}" for name, value in g.items()))
def test_convolution(
    device: torch.device, geometry: dict[str, int], precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stride, padding, dilation and groups, with bias, on a picture that is no square."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    image = torch.randn(2, 6, 11, 14, dtype=precision)
    kernel, bias = torch.randn(12, 6 // geometry["groups"], 3, 3, dtype=precision), torch.randn(12, dtype=precision)
    found = functional.conv2d(image.to(device), kernel.to(device), bias.to(device), **geometry)
    expected = convolve(image.double().numpy(), kernel.double().numpy(), bias.double().numpy(), **geometry)
    bound = 1e-12 if precision is torch.float64 else 1e-5
    torch.testing.assert_close(found.cpu().double(), torch.from_numpy(expected), rtol=bound, atol=bound)


def test_transposed_convolution_is_the_adjoint(device: torch.device) -> None:
    """<conv(x), y> = <x, conv^T(y)> for all x and y."""
    kernel = torch.randn(4, 3, 3, 3, dtype=torch.float64).to(device)
    image = torch.randn(1, 3, 9, 9, dtype=torch.float64).to(device)
    other = torch.randn(1, 4, 5, 5, dtype=torch.float64).to(device)
    there = (functional.conv2d(image, kernel, stride=2, padding=1) * other).sum()
    back = (image * functional.conv_transpose2d(other, kernel, stride=2, padding=1)).sum()
    torch.testing.assert_close(there, back, rtol=1e-12, atol=1e-12)


def test_bilinear_sampling(device: torch.device) -> None:
    """Points inside, on the border and outside of the picture."""
    image = torch.randn(2, 3, 6, 9, dtype=torch.float64)
    grid = torch.rand(2, 5, 7, 2, dtype=torch.float64) * 2.6 - 1.3
    grid[:, 0, 0], grid[:, 0, 1] = -1.0, 1.0
    found = functional.grid_sample(image.to(device), grid.to(device), align_corners=True)
    expected = torch.from_numpy(sample_bilinear(image.numpy(), grid.numpy()))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-12, atol=1e-12)
