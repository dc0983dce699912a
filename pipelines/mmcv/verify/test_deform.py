"""Deformable convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import reference_features as reference
import torch
from checks import close, floats_and_half, on_cpu, same
from mmcv import ops
from torch import Tensor

pytest_plugins = ["evidence"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Shape of a convolution; every pair is (vertical, horizontal)."""

    batch: int = 2
    channels: int = 4
    outputs: int = 6
    image: tuple[int, int] = (6, 7)
    kernel: tuple[int, int] = (3, 2)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    deform_groups: int = 1

    def settings(self) -> dict[str, Any]:
        """What a convolution is told besides its tensors."""
        names = ("stride", "padding", "dilation", "groups", "deform_groups")
        return {name: getattr(self, name) for name in names}

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Image, offset, mask, weight and bias; samples lie inside, across and beyond the borders, never on a pixel.

        Between pixels the bilinear sample has a gradient; sixteenths are exact in float16.
        """
        rows, columns = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(self.image, self.padding, self.dilation, self.kernel, self.stride, strict=True)
        )
        taps = self.deform_groups * self.kernel[0] * self.kernel[1]
        shape = self.batch, 2 * taps, rows, columns
        offset = torch.randint(-3, 3, shape) + torch.randint(1, 16, shape) / 16
        mask = torch.rand(self.batch, taps, rows, columns) * 0.9 + 0.1
        image = torch.randn(self.batch, self.channels, *self.image)
        weight = torch.randn(self.outputs, self.channels // self.groups, *self.kernel) / 2
        return image, offset, mask, weight, torch.randn(self.outputs)


CASES = {
    "plain": Case(),
    "strided": Case(stride=(2, 3), padding=(1, 2), image=(7, 9)),
    "dilated": Case(dilation=(2, 1), padding=(2, 0)),
    "all": Case(stride=(1, 2), padding=(3, 1), dilation=(1, 3), groups=2, deform_groups=2, image=(5, 8)),
    "deform-groups": Case(deform_groups=4, kernel=(1, 3), batch=3),
    "groups": Case(groups=2, kernel=(2, 2), batch=1, padding=(1, 0)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture
def _matrices(device: torch.device, dtype: torch.dtype) -> None:
    """These ops unfold, then multiply matrices; PyTorch before 2.1 does not do that with halves on the CPU."""
    one = torch.ones(1, 1, dtype=dtype, device=device)
    try:
        one.mm(one)
    except RuntimeError:
        if (device.type, dtype) != ("cpu", torch.float16):
            raise
        pytest.skip(f"not run: this PyTorch multiplies no matrices of {dtype} on {device.type}")


@pytest.mark.kernels("deform_conv_forward", "deform_conv_backward_input", "deform_conv_backward_parameters")
@pytest.mark.usefixtures("_matrices")
@cases
@floats_and_half
def test_deform_conv2d(device: torch.device, dtype: torch.dtype, case: Case) -> None:
    """Result and gradients of image, offset and weight."""
    image, offset, _, weight, _ = case.tensors()
    same(
        lambda *tensors: ops.deform_conv2d(*tensors, *case.settings().values()),
        lambda x, o, w: reference.deform_conv2d(x, o, None, w, **case.settings()),
        [image, offset, weight],
        dtype,
        device,
        refuses=True,
    )


@pytest.mark.kernels("modulated_deform_conv_forward", "modulated_deform_conv_backward")
@pytest.mark.usefixtures("_matrices")
@cases
@floats_and_half
def test_modulated_deform_conv2d(device: torch.device, dtype: torch.dtype, case: Case) -> None:
    """Result and gradients of image, offset, mask, weight and bias."""
    same(
        lambda *tensors: ops.modulated_deform_conv2d(*tensors, *case.settings().values()),
        lambda *tensors: reference.deform_conv2d(*tensors, **case.settings()),
        case.tensors(),
        dtype,
        device,
    )


@pytest.mark.kernels("modulated_deform_conv_forward", "modulated_deform_conv_backward")
def test_modulated_deform_conv2d_without_bias(device: torch.device) -> None:
    """No bias is a bias of zero."""
    case = CASES["strided"]
    same(
        lambda *tensors: ops.modulated_deform_conv2d(*tensors, None, *case.settings().values()),
        lambda *tensors: reference.deform_conv2d(*tensors, **case.settings()),
        case.tensors()[:4],
        torch.float64,
        device,
    )


@pytest.mark.kernels("deform_conv_forward", "deform_conv_backward_input", "deform_conv_backward_parameters")
@pytest.mark.parametrize("step", [1, 2, 4])
def test_deform_conv2d_by_parts_of_the_batch(device: torch.device, step: int) -> None:
    """How many images are unfolded at once changes nothing."""
    case = Case(batch=4, deform_groups=2, groups=2, padding=(1, 1))
    image, offset, _, weight, _ = case.tensors()
    same(
        lambda *tensors: ops.deform_conv2d(*tensors, *case.settings().values(), False, step),  # noqa: FBT003
        lambda x, o, w: reference.deform_conv2d(x, o, None, w, **case.settings()),
        [image, offset, weight],
        torch.float64,
        device,
        refuses=True,
    )


@pytest.mark.kernels("deform_conv_forward", "modulated_deform_conv_forward")
def test_whole_offsets_and_borders(device: torch.device) -> None:
    """Offsets of whole pixels read just those pixels; a sample a whole pixel outside reads nothing."""
    case = Case(padding=(1, 1), deform_groups=2)
    image, offset, mask, weight, bias = (each.double().to(device) for each in case.tensors())
    offset = offset.floor()
    expected = reference.deform_conv2d(image, offset, mask, weight, bias, **case.settings())
    close(ops.modulated_deform_conv2d(image, offset, mask, weight, bias, *case.settings().values()), expected)
    expected = reference.deform_conv2d(image, offset, None, weight, **case.settings())
    close(ops.deform_conv2d(image, offset, weight, *case.settings().values()), expected)


@pytest.mark.kernels("deform_conv_backward_input", "deform_conv_backward_parameters", "modulated_deform_conv_backward")
@on_cpu
def test_gradcheck(device: torch.device) -> None:
    """Gradients are those of the op itself, by finite differences."""
    case = Case(image=(4, 4), batch=1, outputs=2, groups=2, deform_groups=2, padding=(1, 0))
    tensors = [each.double().to(device).requires_grad_() for each in case.tensors()]
    settings = case.settings().values()
    assert torch.autograd.gradcheck(lambda *given: ops.modulated_deform_conv2d(*given, *settings), tensors)
    plain = [tensors[i] for i in (0, 1, 3)]
    assert torch.autograd.gradcheck(lambda *given: ops.deform_conv2d(*given, *settings), plain)


@pytest.mark.kernels("deform_conv_forward", "modulated_deform_conv_forward")
def test_packs_start_as_convolutions(device: torch.device) -> None:
    """A new pack has no offsets and, where modulated, masks of one half: it is a convolution, or half of one."""
    image = torch.randn(2, 4, 7, 6, device=device)

    def convolved(weight: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(image.double(), weight.double(), stride=2, padding=1, groups=2)

    plain = ops.DeformConv2dPack(4, 6, 3, stride=2, padding=1, groups=2).to(device)
    close(plain(image), convolved(plain.weight))
    pack = ops.ModulatedDeformConv2dPack(4, 6, 3, stride=2, padding=1, groups=2, bias=False).to(device)
    close(pack(image), convolved(pack.weight) / 2)


@pytest.mark.kernels("deform_conv_forward")
def test_image_smaller_than_the_kernel(device: torch.device) -> None:
    """The module pads an image below the kernel's size and cuts the result back."""
    conv = ops.DeformConv2d(2, 3, 3, padding=1).to(device)
    image, offset = torch.randn(1, 2, 2, 5, device=device), torch.rand(1, 18, 2, 5, device=device)
    wide, shift = (torch.nn.functional.pad(each, (0, 0, 0, 1)).double() for each in (image, offset))
    expected = reference.deform_conv2d(wide, shift, None, conv.weight.double(), padding=(1, 1))
    close(conv(image, offset), expected[:, :, :2])
