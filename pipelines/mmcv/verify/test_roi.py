"""Regions of interest: pooling by sampling."""

from __future__ import annotations

import pytest
import reference_features as reference
import torch
from checks import close, floats, floats_and_half, on_cpu, on_gpu, same, scattered
from mmcv import ops
from torch import Tensor

pytest_plugins = ["evidence"]

# Both images, a roi within, one over each pair of borders, one beyond, one below a pixel, one of no size, and two with
# samples on the very limits of sampling. Eighths are exact in float16, so that all types sample at the same places.
ROIS = torch.tensor(
    [
        [0, 1.125, 2.25, 7.5, 6.125],
        [1, -2.5, -1.25, 3.375, 2.5],
        [1, 6.25, 5.125, 14.5, 11.25],
        [0, 20.0, 20.0, 24.0, 23.0],
        [1, 3.25, 4.5, 3.625, 4.75],
        [0, 4.5, 3.5, 4.5, 3.5],
        [0, -0.5, -0.5, 8.5, 6.5],
        [0, -1.0, -1.0, 1.0, 2.0],
        [1, 8.0, 5.0, 10.0, 8.0],
    ]
)
ROTATED = torch.tensor(
    [
        [0, 4.125, 3.25, 5.5, 2.75, 0.5],
        [1, 1.5, 1.25, 6.5, 4.25, -2.25],
        [1, 8.5, 6.25, 3.5, 7.25, 1.125],
        [0, 25.0, 25.0, 3.0, 2.0, 0.25],
        [1, 3.25, 4.5, 0.375, 0.25, 3.0],
        [0, 4.5, 3.5, 9.0, 7.0, 0.0],
        [1, 0.0, 0.5, 2.0, 3.0, 0.0],
        [0, 9.0, 6.5, 2.0, 3.0, 0.0],
    ]
)


def features(*shape: int) -> Tensor:
    """A feature map with values of either sign, exact in float16."""
    return torch.randint(-40, 40, shape) / 16 + torch.rand(shape).mul(1024).round() / 65536


@pytest.mark.kernels("roi_align_forward", "roi_align_backward")
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
@pytest.mark.parametrize("size", [(3, 2), (1, 4)])
@floats_and_half
def test_roi_align_average(
    device: torch.device,
    dtype: torch.dtype,
    size: tuple[int, int],
    ratio: int,
    scale: float,
    *,
    aligned: bool,
) -> None:
    """Means and their gradients, over rois of every kind."""
    arguments = (size, scale, ratio, "avg")
    same(
        lambda image: ops.roi_align(image, scattered(ROIS.to(image)), *arguments, aligned),
        lambda image: reference.roi_align(image, ROIS.to(image), *arguments, aligned=aligned),
        [features(2, 3, 7, 9)],
        dtype,
        device,
    )


@pytest.mark.kernels("roi_align_forward", "roi_align_backward")
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
@floats
def test_roi_align_max(device: torch.device, dtype: torch.dtype, ratio: int, *, aligned: bool) -> None:
    """Largest samples, whose gradients go where they came from.

    Rois with samples at different places only: among equal samples the gradient may go to any.
    """
    rois = ROIS[[0, 1, 2, 6]] if ratio else ROIS[[0, 6]]
    arguments = ((3, 2), 1.0, ratio, "max")
    same(
        lambda image: ops.roi_align(image, scattered(rois.to(image)), *arguments, aligned),
        lambda image: reference.roi_align(image, rois.to(image), *arguments, aligned=aligned),
        [features(2, 3, 7, 9) + 5],
        dtype,
        device,
    )


@pytest.mark.kernels("roi_align_rotated_forward", "roi_align_rotated_backward")
@pytest.mark.parametrize("clockwise", [True, False], ids=["clockwise", "anticlockwise"])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
@pytest.mark.parametrize(("ratio", "scale"), [(0, 1.0), (2, 0.5), (3, 1.0)])
@floats_and_half
def test_roi_align_rotated(
    device: torch.device,
    dtype: torch.dtype,
    ratio: int,
    scale: float,
    *,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Means over turned bins and their gradients, in both senses of rotation."""
    arguments = ((3, 2), scale, ratio)
    same(
        lambda image: ops.roi_align_rotated(image, scattered(ROTATED.to(image)), *arguments, aligned, clockwise),
        lambda image: reference.roi_align_rotated(
            image, ROTATED.to(image), *arguments, aligned=aligned, clockwise=clockwise
        ),
        [features(2, 3, 7, 9)],
        dtype,
        device,
        # Rotated coordinates are not exact in float16; up to four pixels of slope 5 hang on each.
        0.2 if dtype is torch.float16 else None,
    )


def rotated_in_float32(device: torch.device) -> None:
    """Hold one call against its reference."""
    same(
        lambda image: ops.roi_align_rotated(image, ROTATED.to(image), (3, 2), 0.5, 2),
        lambda image: reference.roi_align_rotated(
            image, ROTATED.to(image), (3, 2), 0.5, 2, aligned=True, clockwise=False
        ),
        [features(2, 3, 7, 9)],
        torch.float32,
        device,
    )


@on_gpu
def test_roi_align_rotated_on_a_stream_of_its_own(device: torch.device) -> None:
    """Its kernels run there: on the default one, which is busy, they would not be done when the results are read."""
    torch.cuda.synchronize()
    torch.cuda._sleep(100_000_000)  # type: ignore[no-untyped-call]  # noqa: SLF001  # clock cycles; it has no public name
    with torch.cuda.stream(torch.cuda.Stream()):
        rotated_in_float32(device)


@on_gpu
def test_roi_align_rotated_on_the_gpu_of_its_tensors(device: torch.device) -> None:
    """Which need not be the current one; all operators find it in the same place."""
    if torch.cuda.device_count() == 1:
        pytest.skip("not run: there is one GPU")
    with torch.cuda.device(device):
        rotated_in_float32(torch.device("cuda", 1))


BEZIERS = torch.tensor(
    [
        [0, 1, 1.5, 3.25, 0.5, 5.5, 2.25, 8, 1.25, 8.25, 5.5, 6, 6.5, 3, 4.75, 0.5, 5.25],
        [1, -2, -1, 2, 1, 4, -1.5, 6, 2, 10.5, 8, 7, 9, 3.5, 5, -1, 7.5],
        [1, 3, 3, 3.125, 3, 3.25, 3, 3.375, 3, 3.375, 3.25, 3.25, 3.25, 3.125, 3.25, 3, 3.25],
        [0, -0.5, -0.5, 0.5, -0.25, 1.5, 0.25, 2.5, 0.5, 2.5, 2.5, 1.5, 2, 0.5, 2, -0.5, 1.5],
        [1, 9.5, 7.5, 8.5, 7.25, 7.5, 6.75, 6.5, 6.5, 6.5, 5, 7.5, 5, 8.5, 5, 9.5, 5.5],
    ]
)


@pytest.mark.kernels("bezier_align_forward", "bezier_align_backward")
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
@pytest.mark.parametrize(("ratio", "scale"), [(0, 1.0), (2, 0.5), (3, 1.0)])
@floats_and_half
def test_bezier_align(device: torch.device, dtype: torch.dtype, ratio: int, scale: float, *, aligned: bool) -> None:
    """Means over bins between two curves and their gradients."""
    arguments = ((3, 4), scale, ratio)
    same(
        lambda image: ops.bezier_align(image, scattered(BEZIERS.to(image)), *arguments, aligned),
        lambda image: reference.bezier_align(image, BEZIERS.to(image), *arguments, aligned=aligned),
        [features(2, 3, 7, 9)],
        dtype,
        device,
        # As for rotated coordinates.
        0.2 if dtype is torch.float16 else None,
    )


@pytest.mark.kernels("rotated_feature_align_forward", "rotated_feature_align_backward")
@pytest.mark.parametrize("points", [1, 5])
@pytest.mark.parametrize("scale", [1.0, 0.125])
@floats
def test_rotated_feature_align(device: torch.device, dtype: torch.dtype, scale: float, points: int) -> None:
    """Each pixel plus the samples at its own box, for boxes inside, across and beyond the borders."""
    centre = torch.rand(2, 5, 7, 2) * torch.tensor([9.0, 11.0]) - 2
    boxes = torch.cat([centre, torch.rand(2, 5, 7, 2) * 6, torch.rand(2, 5, 7, 1) * 6 - 3], dim=-1)
    boxes = torch.cat([boxes[..., :4] / scale, boxes[..., 4:]], dim=-1).to(dtype)
    boxes[0, 0, 0, :2], boxes[0, 0, 1, :2] = torch.tensor([-1.0, -1.0]) / scale, torch.tensor([5.0, 7.0]) / scale
    same(
        lambda image: ops.rotated_feature_align(image, scattered(boxes.to(image)), scale, points),
        lambda image: reference.rotated_feature_align(image, boxes.to(image), scale, points),
        [features(2, 3, 5, 7)],
        dtype,
        device,
        # The kernel takes the sine and cosine in float32 whatever the type.
        1e-4,
    )


@pytest.mark.kernels(
    "roi_align_backward", "roi_align_rotated_backward", "bezier_align_backward", "rotated_feature_align_backward"
)
@on_cpu
def test_gradcheck(device: torch.device) -> None:
    """Gradients are those of the op itself, by finite differences."""
    image = features(2, 2, 4, 5).to(device).double().requires_grad_()
    boxes = torch.rand(2, 4, 5, 5, dtype=torch.float64, device=device) * 4
    for op in (
        lambda x: ops.roi_align(x, ROIS[:3].to(x), (2, 2), 0.5, 2, "avg", True),  # noqa: FBT003
        lambda x: ops.roi_align(x, ROIS[:3].to(x), (2, 2), 0.5, 2, "max", True),  # noqa: FBT003
        lambda x: ops.roi_align_rotated(x, ROTATED[:3].to(x), (2, 2), 0.5, 2, True, False),  # noqa: FBT003
        lambda x: ops.bezier_align(x, BEZIERS[:2].to(x), (2, 2), 0.5, 2, True),  # noqa: FBT003
        lambda x: ops.rotated_feature_align(x, boxes, 1.0, 5),
    ):
        assert torch.autograd.gradcheck(op, [image])


@pytest.mark.kernels("roi_align_forward", "roi_align_rotated_forward")
def test_modules_pass_their_settings_on(device: torch.device) -> None:
    """The modules give what the functions give."""
    image = features(2, 3, 7, 9).to(device)
    rois, turned = ROIS.to(device), ROTATED.to(device)
    close(
        ops.RoIAlign((3, 2), 0.5, 2, "max", False)(image, rois[:3]),  # noqa: FBT003
        reference.roi_align(image.double(), rois[:3].double(), (3, 2), 0.5, 2, "max", aligned=False),
    )
    close(
        ops.RoIAlignRotated((3, 2), 0.5, 2, True, True)(image, turned),  # noqa: FBT003
        reference.roi_align_rotated(image.double(), turned.double(), (3, 2), 0.5, 2, aligned=True, clockwise=True),
    )


@pytest.mark.kernels("roi_align_forward", "roi_align_rotated_forward", "bezier_align_forward")
@on_cpu
def test_no_rois(device: torch.device) -> None:
    """No rois give no rows."""
    image = features(2, 3, 7, 9).to(device)
    assert ops.roi_align(image, ROIS[:0].to(device), (3, 2)).shape == (0, 3, 3, 2)
    assert ops.roi_align_rotated(image, ROTATED[:0].to(device), (3, 2), 1.0).shape == (0, 3, 3, 2)
    assert ops.bezier_align(image, BEZIERS[:0].to(device), (3, 2)).shape == (0, 3, 3, 2)
