"""How the tests of this suite compare results and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mmcv._ext
import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Results are of order 1 to 10, sums of at most a few hundred products. The references are in float64, so what is left
# is the kernel's own rounding: of its sums and, most in float16, of the coordinates that it samples at.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 6e-2}

on_gpu = pytest.mark.parametrize("device", ["cuda"], indirect=True)
on_cpu = pytest.mark.parametrize("device", ["cpu"], indirect=True)
floats = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
floats_and_half = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float64", "float32", "float16"])
single_and_half = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])

# How far each comparison of the running check was off at most; evidence.py reads and empties it.
errors: list[float] = []


def close(actual: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    """Fail unless a kernel's result equals the reference's within the rounding of the kernel's own type.

    Results without rounding, such as indices, are compared with a tolerance of 0.
    """
    allowed = TOLERANCE[actual.dtype] if tolerance is None else tolerance
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    torch.testing.assert_close(actual, expected, rtol=allowed, atol=allowed)
    errors.append(float((actual - expected).abs().max()) if actual.numel() else 0.0)


def scattered(tensor: Tensor) -> Tensor:
    """The same numbers, lying in memory in another order: the first dimension is the densest one.

    So a matrix is a transposed one, and channels lie nearer than pixels; a vector is cut out of a matrix.
    """
    order = tuple(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order) if order[1:] else torch.stack([tensor, tensor], 1)[:, 0]


def same(
    op: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    device: torch.device,
    tolerance: float | None = None,
    *,
    refuses: bool = False,
) -> None:
    """Fail unless an op and its reference agree in their results and in the gradients of all inputs.

    The reference sees the same numbers as the op, rounded to the op's type, but calculates in float64. The op sees them
    twice: contiguous, and with maps and matrices scattered, which some ops refuse rather than read what is not there.
    """
    given = [each.to(device, dtype).requires_grad_() for each in inputs]
    exact = [each.detach().double().requires_grad_() for each in given]
    actual, expected = op(*given), reference(*exact)
    weights = torch.rand_like(expected) + 0.5
    if weights.dim() > 1:  # a gradient may lie in memory in any order
        weights = weights.mT.contiguous().mT
    slopes = torch.autograd.grad(expected, exact, weights)

    def compare(actual: Tensor, leaves: Sequence[Tensor]) -> None:
        assert actual.dtype == dtype
        close(actual, expected, tolerance)
        gradients = torch.autograd.grad(actual, leaves, weights.to(actual))
        for gradient, slope in zip(gradients, slopes, strict=True):
            close(gradient, slope, tolerance)

    compare(actual, given)
    leaves = [scattered(each.detach()) if each.dim() > 1 else each.detach() for each in given]
    for each in leaves:
        each.requires_grad_()
    if refuses:
        with pytest.raises((RuntimeError, AssertionError)) as refusal:
            op(*leaves)
        assert refusal.type is AssertionError or "contiguous" in str(refusal.value)
    else:
        compare(op(*leaves), leaves)


def checks_assertions() -> bool:
    """Say whether the kernels for the CPU were compiled with their assertions, as the wrong one of pixel_group shows.

    Those for CUDA are: they check indices by them.
    """
    return b"height == mask.size(0) == embedding" in Path(mmcv._ext.__file__).read_bytes()  # noqa: SLF001  # under test
