"""Ops that mmcv builds from PyTorch's own on the CPU, and with kernels of its own on CUDA."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import pytest
import reference_features as reference
import torch
from checks import close, on_cpu, on_gpu, same, single_and_half
from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["evidence"]

# Slopes, gains and filters are float32 in the kernels, whatever the type of the image.
FLOAT32_SETTINGS = 1e-6


def test_point_sample(device: torch.device) -> None:
    """Samples at relative points, in rows or in a grid; corners are pixel corners, or pixel centres where aligned."""
    image, points = torch.randn(2, 3, 5, 7), torch.rand(2, 11, 2) * 1.4 - 0.2
    for aligned in (False, True):
        places = points.double() * torch.tensor([6.0, 4.0] if aligned else [7.0, 5.0]) - (0 if aligned else 0.5)
        expected = torch.stack(
            [reference.sample(image[n].double(), places[n, :, 1], places[n, :, 0]) for n in range(2)]
        )
        close(ops.point_sample(image.to(device), points.to(device), align_corners=aligned), expected)
        grid = points[:, :10].reshape(2, 5, 2, 2).to(device)
        close(ops.point_sample(image.to(device), grid, align_corners=aligned), expected[..., :10].reshape(2, 3, 5, 2))


def test_rel_roi_point_to_rel_img_point(device: torch.device) -> None:
    """Points relative to a roi become relative to the image, given by its size or by itself."""
    rois = torch.tensor([[0, 1.0, 2.0, 5.0, 8.0], [1, 0.0, 4.0, 8.0, 6.0]], device=device)
    points = torch.tensor([[[0.5, 0.25], [1.0, 0.0]], [[0.0, 1.0], [0.25, 0.5]]], device=device)
    expected = torch.tensor([[[3.0, 3.5], [5.0, 2.0]], [[0.0, 6.0], [2.0, 5.0]]]) / torch.tensor([16.0, 10.0]) * 0.5
    close(ops.rel_roi_point_to_rel_img_point(rois, points, (10, 16), 0.5), expected)
    close(ops.rel_roi_point_to_rel_img_point(rois[:, 1:], points, (10, 16), 0.5), expected)
    image = torch.zeros(2, 3, 10, 16, device=device)
    close(ops.rel_roi_point_to_rel_img_point(rois, points, image, 0.5), expected)


def test_simple_roi_align(device: torch.device) -> None:
    """One sample in the middle of each bin, the image zero outside; rois sorted by image, as the op wants them."""
    image = torch.randn(2, 3, 6, 7)
    rois = torch.tensor([[0, 1.0, 0.5, 9.0, 8.0], [0, -2.0, 3.0, 5.0, 20.0], [1, 2.0, 2.0, 6.0, 7.0]])
    expected = []
    for roi in rois.double():
        dy = torch.tensor([1 / 6, 3 / 6, 5 / 6], dtype=torch.float64) * (roi[4] - roi[2]) + roi[2]
        dx = torch.tensor([1 / 4, 3 / 4], dtype=torch.float64) * (roi[3] - roi[1]) + roi[1]
        grid = torch.meshgrid(dy * 0.5 - 0.5, dx * 0.5 - 0.5, indexing="ij")
        expected.append(reference.sample(image[int(roi[0])].double(), *grid))
    layer = ops.SimpleRoIAlign((3, 2), 0.5)
    close(layer(image.to(device), rois.to(device)), torch.stack(expected))


@pytest.mark.kernels("ms_deform_attn_forward", "ms_deform_attn_backward")
def test_multi_scale_deformable_attention(device: torch.device) -> None:
    """Result and gradients over three levels; half of the places lie outside of their images."""
    shapes, (heads, size, queries, points) = [(5, 4), (3, 3), (1, 2)], (2, 4, 6, 3)
    keys = sum(h * w for h, w in shapes)
    value = torch.randn(2, keys, heads, size)
    places = torch.rand(2, queries, heads, len(shapes), points, 2) * 1.6 - 0.3
    weights = torch.rand(2, queries, heads, len(shapes) * points).softmax(-1).reshape(2, queries, heads, 3, points)
    levels = torch.tensor(shapes, device=device)
    starts = torch.tensor([0, 20, 29], device=device)

    def attend(*tensors: Tensor) -> Tensor:
        result: Tensor
        if device.type == "cpu":
            result = multi_scale_deformable_attn_pytorch(tensors[0], levels, *tensors[1:])
        else:
            result = MultiScaleDeformableAttnFunction.apply(tensors[0], levels, starts, *tensors[1:], 2)
        return result

    def expected(*tensors: Tensor) -> Tensor:
        return reference.deformable_attention(tensors[0], shapes, *tensors[1:])

    same(attend, expected, [value, places, weights], torch.float64, device, refuses=device.type == "cuda")


@pytest.mark.kernels("ms_deform_attn_forward", "ms_deform_attn_backward")
@on_gpu
@pytest.mark.parametrize("size", [1, 16, 30, 64, 71, 1028])
@single_and_half
def test_multi_scale_deformable_attention_on_a_gpu(device: torch.device, dtype: torch.dtype, size: int) -> None:
    """Heads of each size that has kernels of its own: powers of two, others, above a warp, above a block.

    Three images, one at a time; places are exact in float16 and lie between pixels.
    """
    shapes, (heads, queries, points) = [(4, 2), (8, 4), (1, 2)], (2, 5, 3)
    levels = torch.tensor(shapes, device=device)
    starts = torch.tensor([0, 8, 40], device=device)
    places = (torch.randint(-12, 76, (3, queries, heads, len(shapes), points, 2)) * 2 + 1) / 128
    weights = torch.rand(3, queries, heads, len(shapes), points)
    same(
        lambda value, where, weight: MultiScaleDeformableAttnFunction.apply(value, levels, starts, where, weight, 1),
        lambda value, where, weight: reference.deformable_attention(value, shapes, where, weight),
        [torch.randn(3, 42, heads, size) / size**0.25, places, weights],
        dtype,
        device,
        refuses=True,
    )


@pytest.mark.kernels("upfirdn2d")
@pytest.mark.parametrize("flip", [False, True], ids=["convolution", "correlation"])
@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize(
    ("up", "down", "padding", "size"),
    [
        ((1, 1), (1, 1), (0, 0, 0, 0), (3, 3)),
        ((2, 3), (3, 2), (2, 1, 3, 0), (4, 3)),
        ((3, 1), (1, 2), (-1, 2, 1, -2), (2, 3)),
    ],
)
def test_upfirdn2d(
    device: torch.device,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    size: tuple[int, int],
    dimensions: int,
    *,
    flip: bool,
) -> None:
    """Up, pad or crop, filter, down, each its own in either direction, with filters of one and two dimensions."""
    taps = torch.randn(size[:dimensions], device=device)
    kernel = taps.flip(tuple(range(dimensions))) if flip else taps
    same(
        lambda image: ops.upfirdn2d(image, taps, up, down, list(padding), flip, 1.5),
        lambda image: reference.upfirdn2d(image, kernel, up, down, padding, 1.5),
        [torch.randn(2, 3, 6, 5)],
        torch.float64,
        device,
        FLOAT32_SETTINGS,
    )


@pytest.mark.kernels("upfirdn2d")
@on_gpu
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (4, 1), (1, 4)], ids=str)
@pytest.mark.parametrize("size", [(3,), (8,), (15,), (24,), (2, 2), (5, 4), (8, 7), (16, 9), (24, 24)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["planes", "pixels"])
@single_and_half
def test_upfirdn2d_on_a_gpu(
    device: torch.device, dtype: torch.dtype, layout: torch.memory_format, size: tuple[int, ...], up: int, down: int
) -> None:
    """Each size of filter, rate and layout of the image that has a kernel of its own; more pixels than a tile has."""
    taps = (torch.randn(size) * math.sqrt(up ** len(size) / math.prod(size))).to(device)
    same(
        lambda image: ops.upfirdn2d(image.contiguous(memory_format=layout), taps, up, down, [12, 11, 12, 13]),
        lambda image: reference.upfirdn2d(image, taps, (up, up), (down, down), (12, 11, 12, 13), 1),
        [torch.randn(1, 2, 11, 70)],
        dtype,
        device,
    )


@pytest.mark.kernels("upfirdn2d")
def test_filter2d_and_upsample2d(device: torch.device) -> None:
    """The wrappers keep the size, or multiply it, and the brightness."""
    image, taps = torch.randn(1, 2, 5, 6, dtype=torch.float64, device=device), torch.tensor([1.0, 3, 3, 1]) / 8
    close(
        ops.filter2d(image, taps.to(device)),
        reference.upfirdn2d(image, taps.to(device), (1, 1), (1, 1), (2, 1, 2, 1), 1),
        FLOAT32_SETTINGS,
    )
    close(
        ops.upsample2d(image, taps.to(device)),
        reference.upfirdn2d(image, taps.to(device), (2, 2), (1, 1), (2, 1, 2, 1), 4),
        FLOAT32_SETTINGS,
    )


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "linear": (lambda x: x, 1.0),
    "relu": (lambda x: x.clamp(min=0), math.sqrt(2)),
    "lrelu": (lambda x: torch.where(x < 0, 0.2 * x, x), math.sqrt(2)),
    "tanh": (lambda x: 1 - 2 / ((2 * x).exp() + 1), 1.0),
    "sigmoid": (lambda x: 1 / (1 + (-x).exp()), 1.0),
    "elu": (lambda x: torch.where(x < 0, x.exp() - 1, x), 1.0),
    "selu": (lambda x: 1.0507009873554805 * torch.where(x < 0, 1.6732632423543772 * (x.exp() - 1), x), 1.0),
    "softplus": (lambda x: (1 + x.exp()).log(), 1.0),
    "swish": (lambda x: x / (1 + (-x).exp()), math.sqrt(2)),
}


@pytest.mark.kernels("bias_act")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bias_act(device: torch.device, name: str) -> None:
    """Each activation after a bias, with its own gain, and with a given gain and limit."""
    function, gain = ACTIVATIONS[name]
    image, bias = torch.randn(3, 4, 5), torch.randn(4)
    same(
        lambda x, b: ops.bias_act(x, b, act=name),
        lambda x, b: function(x + b[:, None]) * gain,
        [image, bias],
        torch.float64,
        device,
        FLOAT32_SETTINGS,
    )

    def limited(image: Tensor, bias: Tensor) -> Tensor:
        wide = function(image + bias[:, None, None]) * 1.5
        cut = wide.clamp(-0.7, 0.7)
        # Upstream's kernel for "linear" alone lets gradients through the limit.
        return wide + (cut - wide).detach() if name == "linear" and device.type == "cuda" else cut

    same(
        lambda x, b: ops.bias_act(x, b, dim=0, act=name, gain=1.5, clamp=0.7),
        limited,
        [image, torch.randn(3)],
        torch.float64,
        device,
        FLOAT32_SETTINGS,
    )


def image_and_bias(*shape: int) -> list[Tensor]:
    """Numbers that float16 holds exactly, and whose sums are never 0, where some activations have no gradient."""
    return [torch.randint(-64, 64, shape) / 16, (torch.randint(-64, 64, shape[1:2]) * 2 + 1) / 32]


@pytest.mark.kernels("bias_act")
@on_gpu
@pytest.mark.parametrize("name", ACTIVATIONS)
@single_and_half
def test_bias_act_on_a_gpu(device: torch.device, dtype: torch.dtype, name: str) -> None:
    """More numbers than a block takes, in either layout of an image."""
    function, gain = ACTIVATIONS[name]
    for layout in (torch.contiguous_format, torch.channels_last):
        same(
            lambda x, b: ops.bias_act(x.contiguous(memory_format=layout), b, act=name),  # noqa: B023
            lambda x, b: function(x + b[:, None, None]) * gain,
            image_and_bias(3, 7, 13, 5),
            dtype,
            device,
        )


@pytest.mark.kernels("bias_act")
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "elu", "selu", "softplus", "swish"])
def test_bias_act_twice_differentiated(device: torch.device, name: str) -> None:
    """The gradient of a gradient, for those activations that have one.

    Of an image that upstream's kernel has to copy into another layout first it has none, so the copy is made here.
    """
    function, gain = ACTIVATIONS[name]
    inputs = [torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)]
    weights, others = torch.randn(3, 4, 5).double().to(device), torch.randn(3, 4, 5).double().to(device)

    def slope(op: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def differentiated(image: Tensor, bias: Tensor) -> Tensor:
            (gradient,) = torch.autograd.grad(op(image, bias), image, weights, create_graph=True)
            return gradient * others

        return differentiated

    same(
        slope(lambda x, b: ops.bias_act(x.contiguous(), b, act=name)),
        slope(lambda x, b: function(x + b[:, None]) * gain),
        inputs,
        torch.float64,
        device,
        FLOAT32_SETTINGS,
    )


@pytest.mark.kernels("fused_bias_leakyrelu")
def test_fused_bias_leakyrelu(device: torch.device) -> None:
    """A bias per channel, a slope below zero, a scale."""
    same(
        lambda x, b: ops.fused_bias_leakyrelu(x, b, 0.3, 1.25),
        lambda x, b: torch.where((y := x + b[:, None, None]) < 0, 0.3 * y, y) * 1.25,
        [torch.randn(2, 3, 4, 5), torch.randn(3)],
        torch.float64,
        device,
        FLOAT32_SETTINGS,
    )


@pytest.mark.kernels("fused_bias_leakyrelu")
@on_gpu
@pytest.mark.parametrize("shape", [(5, 11, 7, 9), (300, 7), (0, 3, 4, 5)], ids=str)
@single_and_half
def test_fused_bias_leakyrelu_on_a_gpu(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """More numbers than a block takes, rows without pixels, and nothing."""
    per_channel = (-1, *[1] * (len(shape) - 2))
    same(
        lambda x, b: ops.fused_bias_leakyrelu(x, b, 0.3, 1.25),
        lambda x, b: torch.where((y := x + b.reshape(per_channel)) < 0, 0.3 * y, y) * 1.25,
        image_and_bias(*shape),
        dtype,
        device,
    )


@pytest.mark.kernels("filtered_lrelu")
def test_filtered_lrelu(device: torch.device) -> None:
    """Bias, up, slope with gain and limit, down."""
    up, down = torch.randn(4), torch.randn(3)

    def expected(image: Tensor, bias: Tensor) -> Tensor:
        wide = reference.upfirdn2d(image + bias[:, None, None], up.to(device), (2, 2), (1, 1), (2, 1, 3, 0), 4)
        bent = (torch.where(wide < 0, 0.3 * wide, wide) * 1.2).clamp(-3, 3)
        return reference.upfirdn2d(bent, down.to(device), (1, 1), (2, 2), (0, 0, 0, 0), 1)

    settings = {"up": 2, "down": 2, "padding": [2, 1, 3, 0], "gain": 1.2, "slope": 0.3, "clamp": 3}
    same(
        lambda image, bias: ops.filtered_lrelu(image, up.to(device), down.to(device), bias, **settings),
        expected,
        [torch.randn(2, 3, 6, 7), torch.randn(3)],
        torch.float32,
        device,
    )


LRELUS = [
    (2, 2, (12,), (12,)),
    (4, 2, (23,), (12,)),
    (2, 4, (8,), (15,)),
    (2, 2, (7,), (6, 5)),
    (2, 2, (5, 6), (8,)),
    (2, 1, (12,), (1, 1)),
    (1, 2, (1, 1), (11,)),
    (1, 1, (1, 1), (1, 1)),
]


def filtered_lrelu(image: Tensor, bias: Tensor, up: int, down: int, rise: Tensor, fall: Tensor) -> Tensor:
    """What `filtered_lrelu` is by definition, with slope 0.3, gain 1.2, limit 1 and the padding (9, 10, 11, 8)."""
    wide = reference.upfirdn2d(image + bias[:, None, None], rise, (up, up), (1, 1), (9, 10, 11, 8), up**2)
    bent = (torch.where(wide < 0, 0.3 * wide, wide) * 1.2).clamp(-1, 1)
    return reference.upfirdn2d(bent, fall, (1, 1), (down, down), (0, 0, 0, 0), 1)


@pytest.mark.kernels("filtered_lrelu")
@on_gpu
@pytest.mark.parametrize(("up", "down", "rise", "fall"), LRELUS, ids=str)
@single_and_half
def test_filtered_lrelu_on_a_gpu(
    device: torch.device, dtype: torch.dtype, up: int, down: int, rise: tuple[int, ...], fall: tuple[int, ...]
) -> None:
    """Rates and filters of one and two dimensions, each with a kernel of its own; more pixels than a tile has."""
    filters = [(torch.rand(size) / math.prod(size) ** (1 / len(size)) * 2).to(device) for size in (rise, fall)]
    settings = {"up": up, "down": down, "padding": [9, 10, 11, 8], "gain": 1.2, "slope": 0.3, "clamp": 1}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*no optimized CUDA kernel")
        same(
            lambda image, bias: ops.filtered_lrelu(image, *filters, bias, **settings),
            lambda image, bias: filtered_lrelu(image, bias, up, down, *filters),
            [torch.randn(1, 2, 27, 33), torch.randn(2)],
            dtype,
            device,
        )


@pytest.mark.kernels("filtered_lrelu_act_")
@on_gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_filtered_lrelu_without_a_kernel(device: torch.device, dtype: torch.dtype) -> None:
    """A type or a rate that has no kernel goes by parts, with a warning."""
    up = 2 if dtype is torch.float64 else 3
    filters = [(torch.rand(5) * 0.4).to(device), (torch.rand(4) * 0.5).to(device)]
    settings = {"up": up, "down": 2, "padding": [9, 10, 11, 8], "gain": 1.2, "slope": 0.3, "clamp": 1}
    with pytest.warns(RuntimeWarning, match="no optimized CUDA kernel"):
        same(
            lambda image, bias: ops.filtered_lrelu(image, *filters, bias, **settings),
            lambda image, bias: filtered_lrelu(image, bias, up, 2, *filters),
            [torch.randn(2, 3, 17, 19), torch.randn(3)],
            dtype,
            device,
            FLOAT32_SETTINGS if dtype is torch.float64 else None,
        )


@pytest.mark.parametrize(("mode", "dim", "flip"), [("bottom", 2, 0), ("right", 3, 0), ("top", 2, 1), ("left", 3, 1)])
def test_corner_pool(device: torch.device, mode: str, dim: int, flip: int) -> None:
    """Each pixel becomes the largest one on its way to the border."""
    image = torch.randn(2, 3, 4, 5)
    actual = ops.CornerPool(mode)(image.to(device))
    for i in range(image.shape[dim]):
        reach = image.narrow(dim, i, image.shape[dim] - i) if flip else image.narrow(dim, 0, i + 1)
        close(actual.select(dim, i), reach.amax(dim))


@on_cpu
def test_kernels_missing_on_the_cpu_say_so(device: torch.device) -> None:
    """An op without a CPU kernel refuses by name instead of returning what it was given to fill."""
    image, rois = torch.zeros(1, 1, 4, 4, device=device), torch.zeros(1, 5, device=device)
    with pytest.raises(RuntimeError, match=r"roi_pool_forward_impl: implementation for device cpu not found"):
        ops.roi_pool(image, rois, 2)
    logits, target = torch.zeros(2, 3, device=device), torch.zeros(2, dtype=torch.long, device=device)
    with pytest.raises(RuntimeError, match=r"sigmoid_focal_loss_forward_impl: implementation for device cpu not found"):
        ops.sigmoid_focal_loss(logits, target)
