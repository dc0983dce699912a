"""Gradients against finite differences in float64.

Steps of 1e-6 err by 1e-12 in the formula and 2.2e-16 / 1e-6 = 2.2e-10 in rounding, times values below a hundred;
gradcheck's own tolerance of 1e-3 would let through a gradient that is a thousandth wrong.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.autograd import Function
from torch.autograd.gradcheck import GradcheckError
from torch.nn import functional

gradcheck = partial(torch.autograd.gradcheck, atol=1e-6, rtol=1e-6)
gradgradcheck = partial(torch.autograd.gradgradcheck, atol=1e-6, rtol=1e-6)


class ScaledCube(Function):
    """x ** 3, with a gradient that is `factor` times the right one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:  # noqa: ANN401
        """Keep what the gradient needs."""
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x**3

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        """Apply the chain rule, times the factor."""
        (x,) = ctx.saved_tensors
        return gradients[0] * 3 * x**2 * ctx.factor, None


def cube(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Apply the function."""
    result: torch.Tensor = ScaledCube.apply(x, factor)  # type: ignore[no-untyped-call]  # annotated in part
    return result


def leaf(device: torch.device, *shape: int) -> torch.Tensor:
    """A float64 tensor of unit normals that wants a gradient."""
    return torch.randn(*shape, dtype=torch.float64).to(device).requires_grad_()


def test_convolution_gradient(device: torch.device) -> None:
    """For picture, kernel and bias, with every kind of geometry at once."""
    inputs = (leaf(device, 2, 4, 7, 6), leaf(device, 6, 2, 3, 3), leaf(device, 6))
    assert gradcheck(lambda x, w, b: functional.conv2d(x, w, b, stride=2, padding=2, dilation=2, groups=2), inputs)


def test_bilinear_sampling_gradient(device: torch.device) -> None:
    """For picture and positions, away from the grid lines where the derivative jumps."""
    cells = torch.tensor([[0.3, 1.6], [2.4, 3.7], [1.45, 2.2]], dtype=torch.float64)
    grid = (cells / 2 - 1).reshape(1, 1, 3, 2).to(device).requires_grad_()
    image = leaf(device, 1, 2, 5, 5)
    assert gradcheck(lambda x, g: functional.grid_sample(x, g, align_corners=True), (image, grid))


def test_batch_norm_gradient(device: torch.device) -> None:
    """In training mode, through the statistics of the batch."""
    inputs = (leaf(device, 4, 3, 2, 2), leaf(device, 3), leaf(device, 3))
    assert gradcheck(lambda x, w, b: functional.batch_norm(x, None, None, w, b, training=True), inputs)


def test_attention_gradient(device: torch.device) -> None:
    """Softmax of products, the heart of a transformer."""
    if not hasattr(functional, "scaled_dot_product_attention"):
        pytest.skip("not run: PyTorch has it from 2.0 on")
    inputs = (leaf(device, 2, 3, 4), leaf(device, 2, 5, 4), leaf(device, 2, 5, 4))
    assert gradcheck(functional.scaled_dot_product_attention, inputs)


def test_cross_entropy_gradient(device: torch.device) -> None:
    """The loss of every classifier above."""
    target = torch.tensor([0, 2, 1, 2], device=device)
    assert gradcheck(lambda x: functional.cross_entropy(x, target, label_smoothing=0.1), (leaf(device, 4, 3),))


def test_linear_algebra_gradient(device: torch.device) -> None:
    """Through a solver and a determinant."""
    matrix = leaf(device, 4, 4)
    shift = 6 * torch.eye(4, dtype=torch.float64, device=device)
    assert gradcheck(lambda a, b: torch.linalg.solve(a + shift, b), (matrix, leaf(device, 4, 2)))
    assert gradcheck(lambda a: torch.linalg.slogdet(a + shift)[1], (matrix,))


def test_custom_function_gradient(device: torch.device) -> None:
    """A function with a backward written in Python, once and twice differentiated."""
    inputs = (leaf(device, 3, 4),)
    assert gradcheck(lambda x: cube(x, 1.0), inputs)
    assert gradgradcheck(lambda x: cube(x, 1.0), inputs)


def test_a_wrong_gradient_is_found(device: torch.device) -> None:
    """A backward that is off by a ten-thousandth does not pass: these checks can fail."""
    with pytest.raises(GradcheckError):
        gradcheck(lambda x: cube(x, 1.0001), (leaf(device, 3, 4),))
