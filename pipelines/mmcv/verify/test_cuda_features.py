"""Feature maps: ops that have a kernel for CUDA alone, held against their definitions; not run without a GPU.

Where numbers must not depend on rounding, such as which of two samples is
the larger, they are fractions that float16 holds exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import reference_features as reference
import torch
from checks import close, on_gpu, same, scattered, single_and_half
from mmcv import ops
from mmcv.ops.sync_bn import SyncBatchNormFunction
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = on_gpu
pytest_plugins = ["evidence"]


def focal(chance: Tensor, gamma: float) -> Tensor:
    """Focal loss (Lin et al., 2017) of what had the given chance."""
    return -((1 - chance) ** gamma) * chance.log()


@pytest.mark.kernels("sigmoid_focal_loss_forward", "sigmoid_focal_loss_backward")
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@single_and_half
def test_sigmoid_focal_loss(device: torch.device, dtype: torch.dtype, *, weighted: bool) -> None:
    """Independent classes, each row weighted by its class; without weights, a row may be of none of the classes."""
    weight = (torch.randint(4, 12, (7,)) / 8).to(device)
    target = torch.randint(7 if weighted else 8, (301,)).to(device)

    def actual(logits: Tensor, reduction: str = "none") -> Tensor:
        weights = scattered(weight.to(logits)) if weighted else None
        loss: Tensor = ops.sigmoid_focal_loss(logits, scattered(target), 2.5, 0.75, weights, reduction)
        return loss

    def expected(logits: Tensor) -> Tensor:
        hit = torch.nn.functional.one_hot(target, 8)[:, :7].bool()
        loss = torch.where(hit, 0.75, 0.25).double() * focal(torch.where(hit, logits, -logits).sigmoid(), 2.5)
        return loss * weight.double()[target][:, None] if weighted else loss

    logits = torch.randn(301, 7).to(dtype)
    same(actual, expected, [logits], dtype, device)
    losses = expected(logits.double().to(device))
    same(lambda x: actual(x, "sum"), lambda x: expected(x).sum(), [logits], dtype, device)
    close(actual(logits.to(device), "mean"), losses.sum() / 301)


@pytest.mark.kernels("softmax_focal_loss_forward", "softmax_focal_loss_backward")
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@single_and_half
def test_softmax_focal_loss(device: torch.device, dtype: torch.dtype, *, weighted: bool) -> None:
    """Exclusive classes. Upstream has gradients of sums and means alone, not of single losses."""
    weight, target = (torch.randint(4, 12, (7,)) / 8).to(device), torch.randint(7, (1030,)).to(device)

    def actual(logits: Tensor, reduction: str) -> Tensor:
        weights = scattered(weight.to(logits)) if weighted else None
        loss: Tensor = ops.softmax_focal_loss(logits, scattered(target), 2.5, 0.75, weights, reduction)
        return loss

    def expected(logits: Tensor) -> Tensor:
        chance = logits.softmax(1).gather(1, target[:, None])[:, 0]
        return 0.75 * focal(chance, 2.5) * (weight.double()[target] if weighted else 1)

    logits = torch.randn(1030, 7).to(dtype)
    same(lambda x: actual(x, "sum"), lambda x: expected(x).sum(), [logits], dtype, device)
    losses = expected(logits.double().to(device))
    close(actual(logits.to(device), "none"), losses)
    close(actual(logits.to(device), "mean"), losses.mean())


@pytest.mark.kernels("roi_pool_forward", "roi_pool_backward")
@pytest.mark.parametrize("scale", [1.0, 0.5])
@single_and_half
def test_roi_pool(device: torch.device, dtype: torch.dtype, scale: float) -> None:
    """Largest pixel of each bin (Girshick, 2015); bins of whole pixels, clipped to the image, zero where empty."""
    rois = torch.tensor([[0, 0, 1, 6, 5], [1, 2, 0, 12, 3], [1, 3, 3, 3, 3], [0, 30, 30, 35, 35], [1, -4, -6, 9, 40]])
    rows, columns = 4, 2

    def expected(image: Tensor) -> Tensor:
        pooled = []
        for n, *corners in rois.tolist():
            x1, y1, x2, y2 = corners[0] * scale, corners[1] * scale, (corners[2] + 1) * scale, (corners[3] + 1) * scale
            for i in range(rows):
                for j in range(columns):
                    top, bottom = (y1 + (y2 - y1) * i / rows) // 1, -(-(y1 + (y2 - y1) * (i + 1) / rows) // 1)
                    left, right = (x1 + (x2 - x1) * j / columns) // 1, -(-(x1 + (x2 - x1) * (j + 1) / columns) // 1)
                    y, x = slice(max(int(top), 0), max(int(bottom), 0)), slice(max(int(left), 0), max(int(right), 0))
                    window = image[n, :, y, x]
                    pooled.append(window.amax((1, 2)) if window.numel() else image[n, :, 0, 0] * 0)
        return torch.stack(pooled).reshape(len(rois), rows, columns, -1).permute(0, 3, 1, 2)

    image = (torch.randperm(2 * 3 * 17 * 19) - 900).reshape(2, 3, 17, 19).repeat(1, 5, 1, 1) / 16
    same(lambda x: ops.roi_pool(x, scattered(rois.to(x)), (rows, columns), scale), expected, [image], dtype, device)


@pytest.mark.kernels("border_align_forward", "border_align_backward")
@single_and_half
def test_border_align(device: torch.device, dtype: torch.dtype) -> None:
    """Largest of the samples along each side of a box (BorderDet, Qiu et al., 2020), each with channels of its own.

    Boxes lie within a pixel of the image: for samples beyond, whose gradient is zero, upstream adds that zero to a
    pixel that does not exist. Values rise or fall along each axis, so that the largest sample is the same in any type.
    """
    start = torch.randint(-8, 60, (2, 300, 2)) / 8
    boxes = torch.cat([start, start + torch.randint(8, 36, (2, 300, 2)) / 8], dim=-1).to(device)
    slopes = torch.randint(1, 3, (2, 12, 2)) * (torch.randint(2, (2, 12, 2)) * 2 - 1.0)
    image = slopes[..., :1, None] * torch.arange(13)[:, None] + slopes[..., 1:, None] * torch.arange(17)

    def expected(image: Tensor) -> Tensor:
        steps = torch.arange(5, dtype=torch.float64, device=device) / 4
        x1, y1, x2, y2 = (each[..., None] for each in boxes.double().unbind(-1))
        across, down = steps * (x2 - x1), steps * (y2 - y1)
        sides = [(y1 + 0 * across, x1 + across), (y1 + down, x1 + 0 * down)]
        sides += [(y2 + 0 * across, x2 - across), (y2 - down, x2 + 0 * down)]
        parts = image.reshape(2, 4, 3, 13, 17)
        pooled = [
            torch.stack([reference.sample_near(parts[n, k], y[n], x[n]).amax(-1) for n in range(2)])
            for k, (y, x) in enumerate(sides)
        ]
        return torch.stack(pooled, dim=-1)

    same(lambda x: ops.border_align(x, scattered(boxes.to(x)), 4), expected, [image], dtype, device)


@pytest.mark.kernels("masked_im2col_forward", "masked_col2im_forward")
@single_and_half
def test_masked_conv2d(device: torch.device, dtype: torch.dtype) -> None:
    """A convolution at the masked pixels, zero elsewhere; zero everywhere if the mask is empty."""
    image, mask = torch.randn(1, 5, 19, 23).to(dtype), torch.rand(1, 19, 23) > 0.6
    weight, bias = (torch.randn(4, 5, 3, 5) / 4).to(dtype), torch.randn(4).to(dtype)
    expected = torch.nn.functional.conv2d(image.double(), weight.double(), bias.double(), padding=(1, 2)) * mask
    given = image.to(device), mask.to(device, dtype), weight.to(device), bias.to(device)
    close(ops.masked_conv2d(*given, (1, 2)), expected)
    close(ops.masked_conv2d(scattered(given[0]), *given[1:], (1, 2)), expected)
    close(ops.masked_conv2d(given[0], given[1] * 0, *given[2:], (1, 2)), expected * 0)


CARAFES = [(5, 2, 2, 66, (5, 7)), (3, 1, 3, 5, (7, 4)), (1, 3, 1, 6, (3, 5))]


@pytest.mark.parametrize(("size", "groups", "scale", "channels", "shape"), CARAFES)
@pytest.mark.parametrize(
    "op",
    [
        pytest.param(ops.carafe, marks=pytest.mark.kernels("carafe_forward", "carafe_backward"), id="carafe"),
        pytest.param(
            ops.carafe_naive, marks=pytest.mark.kernels("carafe_naive_forward", "carafe_naive_backward"), id="naive"
        ),
    ],
)
@single_and_half
def test_carafe(
    device: torch.device,
    dtype: torch.dtype,
    op: Callable[..., Tensor],
    size: int,
    groups: int,
    scale: int,
    channels: int,
    shape: tuple[int, int],
) -> None:
    """Reassembled features, and the gradients of features and masks, by both kernels; more channels than a warp has."""
    features = torch.randn(2, channels, *shape)
    masks = torch.rand(2, size**2 * groups, shape[0] * scale, shape[1] * scale) / size
    same(
        lambda x, m: op(x, m, size, groups, scale),
        lambda x, m: reference.carafe(x, m, size, groups, scale),
        [features, masks],
        dtype,
        device,
    )


CORRELATIONS = [
    {"kernel": 1, "displacement": 3, "stride": 1, "padding": 0, "dilation": 1, "dilation_patch": 1},
    {"kernel": 3, "displacement": 1, "stride": 2, "padding": 2, "dilation": 1, "dilation_patch": 2},
    {"kernel": 3, "displacement": 2, "stride": 1, "padding": 1, "dilation": 2, "dilation_patch": 1},
]


@pytest.mark.kernels("correlation_forward", "correlation_backward")
@pytest.mark.parametrize("case", CORRELATIONS, ids=["points", "strided", "dilated"])
@single_and_half
def test_correlation(device: torch.device, dtype: torch.dtype, case: dict[str, int]) -> None:
    """Products of displaced images, and the gradients of both; more channels than a warp has."""
    layer = ops.Correlation(
        case["kernel"], case["displacement"], case["stride"], case["padding"], case["dilation"], case["dilation_patch"]
    )
    images = [torch.randn(2, 37, 9, 11) / 4, torch.randn(2, 37, 9, 11)]
    same(layer, lambda a, b: reference.correlation(a, b, **case), images, dtype, device)


@pytest.mark.kernels("deform_roi_pool_forward", "deform_roi_pool_backward")
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("scale", [1.0, 0.5])
@single_and_half
def test_deform_roi_pool_without_offsets(device: torch.device, dtype: torch.dtype, scale: float, ratio: int) -> None:
    """Without offsets it is RoIAlign, also over and beyond the borders."""
    rois = torch.tensor(
        [[0, 1.125, 2.25, 7.5, 6.125], [1, -2.5, -1.25, 4.375, 2.5], [1, 6.25, 5.125, 14, 11.25], [0, 40, 40, 44, 43]]
    )
    same(
        lambda x: ops.deform_roi_pool(x, scattered(rois.to(x)), None, (4, 2), scale, ratio),
        lambda x: reference.roi_align(x, rois.to(x), (4, 2), scale, ratio, "avg", aligned=True),
        [torch.randn(2, 70, 7, 9)],
        dtype,
        device,
    )


@pytest.mark.kernels("deform_roi_pool_forward", "deform_roi_pool_backward")
@pytest.mark.parametrize("scale", [1.0, 0.5])
@single_and_half
def test_deform_roi_pool(device: torch.device, dtype: torch.dtype, scale: float) -> None:
    """Bins moved by offsets, and the gradients of image and offsets.

    Samples lie within the image, where upstream's gradient of the offsets holds, and never on a pixel, where there is
    none.
    """
    rois = torch.tensor([[0, 3.5, 2.5, 11.5, 10.5], [1, 5.5, 7.5, 9.5, 15.5], [1, 2.5, 3.5, 10.5, 7.5]])
    rois = torch.cat([rois[:, :1], rois[:, 1:] / scale], dim=1)
    offset = (torch.randint(-16, 16, (3, 2, 2, 2)) * 2 + 1) / 32
    same(
        lambda x, o: ops.deform_roi_pool(x, scattered(rois.to(x)), o, (2, 2), scale, 2, 0.125),
        lambda x, o: reference.deform_roi_pool(x, rois.to(x), o, (2, 2), scale, 2, 0.125),
        [torch.randn(2, 50, 17, 19), offset],
        dtype,
        device,
    )


@pytest.mark.kernels("prroi_pool_forward", "prroi_pool_backward", "prroi_pool_coor_backward")
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_prroi_pool(device: torch.device, scale: float) -> None:
    """Means by integrals, and the gradients of image and rois: within, across and beyond the borders, of no size."""
    rois = torch.tensor(
        [
            [0, 1.1, 2.3, 7.5, 6.2],
            [1, -2.6, -1.3, 5.4, 2.7],
            [1, 6.2, 5.1, 14.3, 11.6],
            [0, 40.2, 40.3, 44.4, 43.6],
            [1, 4.5, 3.5, 4.5, 6.5],
            [0, 2.0, 1.0, 8.0, 7.0],
        ]
    )
    same(
        lambda x, r: ops.prroi_pool(x, r, (3, 2), scale),
        lambda x, r: reference.prroi_pool(x, r, (3, 2), scale),
        [torch.randn(2, 40, 9, 11), rois],
        torch.float32,
        device,
        1e-3,  # of the gradients by rois: sums over all channels, divided by the sides of bins below a pixel
    )


@pytest.mark.kernels("riroi_align_rotated_forward", "riroi_align_rotated_backward")
@pytest.mark.parametrize("clockwise", [True, False], ids=["clockwise", "anticlockwise"])
@pytest.mark.parametrize(("orientations", "ratio", "scale"), [(8, 0, 1.0), (4, 2, 0.5)])
@single_and_half
def test_riroi_align_rotated(
    device: torch.device, dtype: torch.dtype, orientations: int, ratio: int, scale: float, *, clockwise: bool
) -> None:
    """Turned bins of turned channels, for angles between the orientations.

    No sample lies near a pixel's width outside of the image, where its value drops to zero: rounded coordinates would.
    """
    steps = torch.tensor([0.25, -1.75, 2.5, -0.375, 1.625])
    places = [[0, 4.125, 3.25, 5.5, 2.75], [1, 1.5, 1.25, 6.5, 4.25], [1, 8.25, 4.0, 3.5, 7.25]]
    places += [[0, 45.0, 45.0, 3.0, 2.0], [1, 3.25, 4.5, 0.375, 0.25]]
    rois = torch.cat([torch.tensor(places), steps[:, None] * 2 * torch.pi / orientations], dim=1)
    same(
        lambda x: ops.riroi_align_rotated(x, rois.to(x), (3, 2), scale, ratio, orientations, clockwise),
        lambda x: reference.riroi_align_rotated(
            x, rois.to(dtype).to(x), (3, 2), scale, ratio, orientations, clockwise=clockwise
        ),
        [
            torch.randint(-40, 40, (2, 5 * orientations, 1, 1)) / 16
            + torch.randint(-4, 4, (2, 5 * orientations, 7, 9)) / 16
        ],
        dtype,
        device,
        0.1 if dtype is torch.float16 else None,  # rotated coordinates are not exact in float16
        refuses=True,
    )


@pytest.mark.kernels("tin_shift_forward", "tin_shift_backward")
@single_and_half
def test_tin_shift(device: torch.device, dtype: torch.dtype) -> None:
    """Each group of channels moves in time by its own shift (TIN, Shao et al., 2020); what comes from outside is zero.

    Upstream's gradient moves the same way once more, not back: it is what upstream gives, not the derivative.
    """
    shift = torch.tensor([[1, -2, 0], [7, -1, 2]], dtype=torch.int32, device=device)
    image = torch.randn(2, 5, 6, 77).to(device, dtype).requires_grad_()

    def moved(frames: Tensor) -> Tensor:
        result = torch.zeros_like(frames)
        for n, row in enumerate(shift.tolist()):
            for group, step in enumerate(row):
                for t in range(max(step, 0), min(5 + step, 5)):
                    result[n, t, group * 2 : group * 2 + 2] = frames[n, t - step, group * 2 : group * 2 + 2]
        return result

    actual = ops.tin_shift(image, shift)
    close(actual, moved(image.detach()), 0)
    close(ops.tin_shift(scattered(image.detach()), scattered(shift)), actual, 0)
    weights = torch.randn(2, 5, 77, 6).to(device, dtype).mT  # not contiguous
    close(torch.autograd.grad(actual, image, weights)[0], moved(weights), 0)


SYNC_BN = (
    "sync_bn_forward_mean",
    "sync_bn_forward_var",
    "sync_bn_forward_output",
    "sync_bn_backward_param",
    "sync_bn_backward_data",
)


@pytest.mark.kernels(*SYNC_BN)
@pytest.mark.parametrize("mode", ["default", "N"])
@single_and_half
def test_sync_bn(device: torch.device, dtype: torch.dtype, mode: str) -> None:
    """Batch normalization, its gradients and its running statistics, in a group of one."""
    before = torch.randn(3).to(device), torch.rand(3).to(device) + 0.5
    mean, variance = (each.double() for each in before)
    running = [torch.zeros(3, device=device) for _ in before]

    def actual(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        for each, start in zip(running, before, strict=True):
            each.copy_(start)
        result: Tensor = SyncBatchNormFunction.apply(
            image, *running, weight.float(), bias.float(), 0.1, 1e-5, None, 1, mode
        )
        return result

    same(
        actual,
        lambda x, w, b: torch.nn.functional.batch_norm(x, mean, variance, w, b, training=True),
        [torch.randn(5, 3, 17, 13) / 2 + 1, torch.rand(3) + 0.5, torch.randn(3)],
        dtype,
        device,
    )
    close(running[0], mean)
    close(running[1], variance)


@pytest.mark.kernels("sync_bn_forward_output")
def test_sync_bn_of_nothing(device: torch.device) -> None:
    """An empty batch gives an empty one and leaves the running statistics alone."""
    running = torch.randn(3), torch.rand(3) + 0.5
    given = [each.clone().to(device) for each in running]
    ones, image = torch.ones(3, device=device), torch.zeros(0, 3, 4, 5, device=device)
    result = SyncBatchNormFunction.apply(image, *given, ones, ones, 0.1, 1e-5, None, 1, "default")
    assert result.shape == (0, 3, 4, 5)
    for mean_or_variance, expected in zip(given, running, strict=True):
        close(mean_or_variance, expected, 0)


def test_no_kernel_takes_bfloat16(device: torch.device) -> None:
    """None of the kernels is compiled for bfloat16; an op says so."""
    image, rois = torch.zeros(1, 1, 4, 4, device=device), torch.zeros(1, 5, device=device)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"not implemented for 'BFloat16'"):
        ops.roi_pool(image.bfloat16(), rois.bfloat16(), 2)
