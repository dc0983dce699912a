"""Sparse convolutions and pooling, which have kernels for CUDA alone, held against dense ones; not run without a GPU.

Which kernels move the features depends on how many sites and channels
there are: 5 and 6 channels take the general ones, 16 and 32 those for whole vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mmcv._ext
import pytest
import reference_sparse as reference
import torch
from checks import close, on_gpu, same, scattered, single_and_half
from mmcv.ops import sparse_functional, sparse_ops
from torch import Tensor

pytestmark = on_gpu
pytest_plugins = ["evidence"]

CONVOLUTION = ("indice_conv_forward", "indice_conv_backward")
channels = pytest.mark.parametrize("channels", [(5, 6), (16, 32)], ids=str)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Shape of a sparse convolution."""

    space: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: int = 1

    def sites(self) -> Tensor:
        """A third of all places in a batch of two, in any order, as (batch, *place)."""
        places: Tensor = torch.cartesian_prod(*(torch.arange(n) for n in (2, *self.space)))
        return places[torch.randperm(len(places))[: len(places) // 3]].int()

    def weight(self, channels: tuple[int, int]) -> Tensor:
        """Filters that keep the size of the features."""
        weight = torch.randn(*self.kernel, *channels)
        return 2 * weight / math.sqrt(weight[..., 0].numel())

    def pairs(self, sites: Tensor, *, grid: Tensor | None = None, **options: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Sites of the output, pairs of sites for each place of the kernel, and their numbers."""
        settings = list(self.kernel), list(self.stride), list(self.padding), [self.dilation] * len(self.space)
        result: tuple[Tensor, Tensor, Tensor] = sparse_ops.get_indice_pairs(
            sites, 2, list(self.space), *settings, grid=grid, **options
        )
        return result

    def output(self, *, transposed: bool = False) -> tuple[int, ...]:
        """Shape of the output: batch and space."""
        empty = torch.zeros(2, *self.space, 1), torch.zeros(*self.kernel, 1, 1)
        if transposed:
            return tuple(reference.transposed(*empty, self.stride, self.padding).shape[:-1])
        return tuple(reference.convolution(*empty, self.stride, self.padding, self.dilation).shape[:-1])

    def reached(self, sites: Tensor, *, transposed: bool = False) -> Tensor:
        """Which places of the output the kernel reaches from the sites, as (batch, *space, 1)."""
        ones = torch.ones(len(sites), 1, device=sites.device)
        dense, kernel = reference.dense_of(ones, sites, (2, *self.space)), ones.new_ones(*self.kernel, 1, 1)
        if transposed:
            return reference.transposed(dense, kernel, self.stride, self.padding) > 0
        return reference.convolution(dense, kernel, self.stride, self.padding, self.dilation) > 0


def marked(sites: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Which places of an output are among the sites, as (batch, *space, 1)."""
    return reference.dense_of(torch.ones(len(sites), 1, device=sites.device), sites, shape) > 0


FLAT = Case(space=(19, 23), kernel=(3, 2), stride=(2, 1), padding=(1, 0))
SOLID = Case(space=(7, 9, 8), kernel=(3, 3, 2), stride=(1, 2, 2), padding=(1, 0, 1))
CASES = [
    pytest.param(FLAT, marks=pytest.mark.kernels("get_indice_pairs_2d_forward"), id="2d"),
    pytest.param(
        Case(space=(19, 23), kernel=(3, 3), stride=(1, 1), padding=(2, 1), dilation=2),
        marks=pytest.mark.kernels("get_indice_pairs_2d_forward"),
        id="2d-dilated",
    ),
    pytest.param(SOLID, marks=pytest.mark.kernels("get_indice_pairs_3d_forward"), id="3d"),
    pytest.param(
        Case(space=(5, 4, 5, 4), kernel=(2, 3, 2, 3), stride=(1, 2, 1, 1), padding=(0, 1, 1, 0)),
        marks=pytest.mark.kernels("get_indice_pairs_4d_forward"),
        id="4d",
    ),
]


@pytest.mark.kernels(*CONVOLUTION)
@pytest.mark.parametrize("case", CASES)
@channels
@single_and_half
def test_sparse_convolution(device: torch.device, dtype: torch.dtype, case: Case, channels: tuple[int, int]) -> None:
    """Result at every site that the kernel reaches, and the gradients of features and filters."""
    sites = case.sites().to(device)
    found, pairs, numbers = case.pairs(sites)
    close(marked(found, case.output()), case.reached(sites), 0)

    def expected(features: Tensor, weight: Tensor) -> Tensor:
        dense = reference.dense_of(features, sites, (2, *case.space))
        return reference.convolution(dense, weight, case.stride, case.padding, case.dilation)[tuple(found.long().T)]

    same(
        lambda features, weight: sparse_functional.indice_conv(features, weight, pairs, numbers, len(found)),
        expected,
        [torch.randn(len(sites), channels[0]), case.weight(channels)],
        dtype,
        device,
    )


@pytest.mark.kernels("get_indice_pairs_3d_forward", *CONVOLUTION)
@channels
@single_and_half
def test_submanifold_convolution(device: torch.device, dtype: torch.dtype, channels: tuple[int, int]) -> None:
    """The output has the sites of the input (Graham et al., 2018)."""
    case = Case(space=(7, 9, 8), kernel=(3, 1, 5), stride=(1, 1, 1), padding=(1, 0, 2))
    sites = case.sites().to(device)
    found, pairs, numbers = case.pairs(sites, subm=True)
    close(found, sites, 0)

    def expected(features: Tensor, weight: Tensor) -> Tensor:
        dense = reference.dense_of(features, sites, (2, *case.space))
        return reference.convolution(dense, weight, case.stride, case.padding)[tuple(sites.long().T)]

    same(
        lambda features, weight: sparse_functional.indice_subm_conv(features, weight, pairs, numbers, len(sites)),
        expected,
        [torch.randn(len(sites), channels[0]), case.weight(channels)],
        dtype,
        device,
    )


TRANSPOSED = [
    pytest.param(FLAT, marks=pytest.mark.kernels("get_indice_pairs_2d_forward"), id="2d"),
    pytest.param(SOLID, marks=pytest.mark.kernels("get_indice_pairs_3d_forward"), id="3d"),
]


@pytest.mark.kernels(*CONVOLUTION)
@pytest.mark.parametrize("case", TRANSPOSED)
@single_and_half
def test_transposed_convolution(device: torch.device, dtype: torch.dtype, case: Case) -> None:
    """Each site spreads the kernel over a larger output."""
    sites = case.sites().to(device)
    found, pairs, numbers = case.pairs(sites, transpose=True)
    assert marked(found, case.output(transposed=True))[case.reached(sites, transposed=True)].all()

    def expected(features: Tensor, weight: Tensor) -> Tensor:
        dense = reference.dense_of(features, sites, (2, *case.space))
        return reference.transposed(dense, weight, case.stride, case.padding)[tuple(found.long().T)]

    same(
        lambda features, weight: sparse_functional.indice_conv(features, weight, pairs, numbers, len(found)),
        expected,
        [torch.randn(len(sites), 16), case.weight((16, 8))],
        dtype,
        device,
    )


@pytest.mark.kernels("get_indice_pairs_3d_forward", *CONVOLUTION)
@single_and_half
def test_inverse_convolution(device: torch.device, dtype: torch.dtype) -> None:
    """From the sites of an output back to those of its input, by the same pairs."""
    case, sites = SOLID, SOLID.sites().to(device)
    found, pairs, numbers = case.pairs(sites)

    def expected(features: Tensor, weight: Tensor) -> Tensor:
        dense = reference.dense_of(features, found, case.output())
        spread = reference.transposed(dense, weight, case.stride, case.padding)
        wide = torch.nn.functional.pad(spread, [0, 0] + [0, 2] * 3)  # where the last steps of the kernel end
        return wide[tuple(sites.long().T)]

    same(
        lambda features, weight: sparse_functional.indice_inverse_conv(features, weight, pairs, numbers, len(sites)),
        expected,
        [torch.randn(len(found), 16), case.weight((16, 8))],
        dtype,
        device,
    )


@pytest.mark.kernels("get_indice_pairs_3d_forward", "fused_indice_conv_forward")
@single_and_half
def test_fused_convolution(device: torch.device, dtype: torch.dtype) -> None:
    """A convolution with a bias at its sites. Upstream's own function for it knows float16 alone."""
    case, sites = SOLID, SOLID.sites().to(device)
    found, pairs, numbers = case.pairs(sites)
    features, weight, bias = torch.randn(len(sites), 16), case.weight((16, 8)), torch.randn(8)
    given = [each.to(device, dtype) for each in (features, weight, bias)]
    dense = reference.dense_of(given[0].double(), sites, (2, *case.space))
    expected = reference.convolution(dense, given[1].double(), case.stride, case.padding) + given[2].double()
    expected = expected[tuple(found.long().T)]
    extension: Any = mmcv._ext  # noqa: SLF001  # the thing under test
    fused = sparse_ops.fused_indice_conv if dtype is torch.float16 else extension.fused_indice_conv_forward
    close(fused(*given, pairs, numbers, len(found), 0, 0), expected)
    if dtype is torch.float16:
        close(fused(*map(scattered, given[:2]), given[2], pairs, numbers, len(found), 0, 0), expected)


POOLED = [
    pytest.param(FLAT, marks=pytest.mark.kernels("get_indice_pairs_2d_forward"), id="2d"),
    pytest.param(SOLID, marks=pytest.mark.kernels("get_indice_pairs_3d_forward"), id="3d"),
]


@pytest.mark.kernels("indice_maxpool_forward", "indice_maxpool_backward")
@pytest.mark.parametrize("case", POOLED)
@pytest.mark.parametrize("channels", [5, 16, 64])
@single_and_half
def test_max_pooling(device: torch.device, dtype: torch.dtype, case: Case, channels: int) -> None:
    """The largest feature at every site that the kernel reaches, no less than zero, and its gradient."""
    sites = case.sites().to(device)
    found, pairs, numbers = case.pairs(sites)
    assert marked(found, case.output())[case.reached(sites)].all()
    distinct = torch.stack([torch.randperm(len(sites)) - len(sites) // 3 for _ in range(channels)], dim=1)

    def expected(features: Tensor) -> Tensor:
        dense = reference.dense_of(features, sites, (2, *case.space))
        return reference.max_pool(dense, case.kernel, case.stride, case.padding)[tuple(found.long().T)]

    same(
        lambda features: sparse_functional.indice_maxpool(features, pairs, numbers, len(found)),
        expected,
        [distinct / 64 + 1 / 128],
        dtype,
        device,
    )


GRIDS = [
    pytest.param(
        FLAT, marks=pytest.mark.kernels("get_indice_pairs_2d_forward", "get_indice_pairs_2d_backward"), id="2d"
    ),
    pytest.param(
        SOLID, marks=pytest.mark.kernels("get_indice_pairs_3d_forward", "get_indice_pairs_3d_backward"), id="3d"
    ),
]


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.parametrize("subm", [False, True], ids=["sparse", "submanifold"])
def test_pairs_with_a_grid(device: torch.device, case: Case, *, subm: bool) -> None:
    """A grid to work on, made once, changes nothing and is left as it was found; pairs come in any order."""
    sites = case.sites().to(device)
    volume = torch.zeros(2, *case.space).numel() if subm else torch.zeros(case.output()).numel()
    grid = torch.full((volume,), -1, dtype=torch.int32, device=device)
    found, pairs, numbers = case.pairs(sites, subm=subm)
    again, others, counts = case.pairs(sites, subm=subm, grid=grid)
    close(again, found, 0)
    close(counts, numbers, 0)
    close(grid, torch.full_like(grid, -1), 0)
    for some, same_pairs, number in zip(pairs, others, numbers.tolist(), strict=True):
        assert sorted(some[:, :number].T.tolist()) == sorted(same_pairs[:, :number].T.tolist())
