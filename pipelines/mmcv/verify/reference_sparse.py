"""Sparse convolutions, as dense ones in any number of dimensions, in plain PyTorch.

Dense maps are (batch, *space, channels), weights (*kernel, channels, outputs), as upstream has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


def windows(
    dense: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: int = 1
) -> Tensor:
    """What the kernel sees at each place, zero beyond the borders, as (batch, *space, channels, *kernel)."""
    seen = torch.nn.functional.pad(dense, [0, 0, *(p for side in reversed(padding) for p in (side, side))])
    for i, (size, step) in enumerate(zip(kernel, stride, strict=True)):
        seen = seen.unfold(1 + i, (size - 1) * dilation + 1, step)[..., ::dilation]
    return seen


def convolution(
    dense: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: int = 1
) -> Tensor:
    """Cross-correlation, as convolutional networks have it."""
    kernel = weight.shape[:-2]
    seen, space = windows(dense, kernel, stride, padding, dilation), len(kernel)
    dims = [*range(space + 2, 2 * space + 2), space + 1], [*range(space), space]
    result: Tensor = torch.tensordot(seen, weight, dims=dims)
    return result


def transposed(dense: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The adjoint of the convolution in space: each place spreads the kernel around stride times itself."""
    kernel = weight.shape[:-2]
    space = [(n - 1) * step + 1 for n, step in zip(dense.shape[1:-1], stride, strict=True)]
    spread = dense.new_zeros(len(dense), *space, dense.shape[-1])
    apart = (slice(None), *(slice(None, None, step) for step in stride))
    spread[apart] = dense
    around = [size - 1 - p for size, p in zip(kernel, padding, strict=True)]
    return convolution(spread, weight.flip(tuple(range(len(kernel)))), [1] * len(kernel), around)


def max_pool(dense: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The largest feature that the kernel sees, or zero if all are below, as upstream starts from zero."""
    seen = windows(dense, kernel, stride, padding)
    return seen.flatten(-len(kernel)).amax(-1).clamp(min=0)


def dense_of(features: Tensor, sites: Tensor, shape: Sequence[int]) -> Tensor:
    """The dense map (batch, *space, channels) of features at sites (batch, *place), zero elsewhere."""
    dense = features.new_zeros(*shape, features.shape[1])
    dense[tuple(sites.long().T)] = features
    return dense
