"""Ops that sample or rearrange feature maps, from their definitions, in plain PyTorch.

All sampling rests on one statement: a bilinear sample is the sum of all pixels, each weighted by a hat function of its
distance. Autograd through it gives the gradients that the kernels are held against.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hat(position: Tensor, size: int) -> Tensor:
    """Weight of each of `size` pixels in a linear sample at a position: 1 at the pixel, 0 from one pixel away."""
    pixels = torch.arange(size, dtype=position.dtype, device=position.device)
    return (1 - (position[..., None] - pixels).abs()).clamp(min=0)


def sample(feature: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear samples of (C, H, W) at points, as (C, ...); the image is zero outside."""
    channels, height, width = feature.shape
    flat = torch.einsum("chw,ph,pw->cp", feature, hat(y.reshape(-1), height), hat(x.reshape(-1), width))
    return flat.reshape(channels, *y.shape)


def sample_near(feature: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The samples of the RoI ops: the border reaches one pixel further, on the closed [-1, H] x [-1, W]; else zero."""
    _, height, width = feature.shape
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    return sample(feature, y.clamp(0, height - 1), x.clamp(0, width - 1)) * inside


def ticks(extent: Tensor, bins: int, ratio: int) -> tuple[Tensor, int]:
    """Centres of the cells that a side is cut into, and how many there are per bin: `ratio`, or one per pixel begun."""
    grid = ratio or math.ceil(float(extent) / bins)
    cells = bins * grid
    return (torch.arange(cells, dtype=extent.dtype, device=extent.device) + 0.5) * extent / max(cells, 1), grid


def pool(samples: Tensor, size: tuple[int, int], mode: str = "avg") -> Tensor:
    """One value per bin from the samples (C, rows, columns) of all bins; zero for a bin without samples."""
    channels = samples.shape[0]
    if not samples.numel():
        return samples.new_zeros(channels, *size)
    cells = samples.reshape(channels, size[0], -1, size[1], samples.shape[2] // size[1])
    return cells.mean((2, 4)) if mode == "avg" else cells.amax((2, 4))


def roi_align(
    features: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, mode: str, *, aligned: bool
) -> Tensor:
    """RoIAlign (He et al., 2017): the mean or the largest of regularly spaced samples of each bin.

    Rois are (image, x1, y1, x2, y2). Aligned means that pixel centres lie at half coordinates (Detectron2); otherwise
    they lie at whole ones and a roi is at least one pixel wide.
    """
    pooled = []
    for roi in rois:
        start = roi[1:3] * scale - (0.5 if aligned else 0)
        extent = (roi[3:5] - roi[1:3]) * scale
        extent = extent if aligned else extent.clamp(min=1)
        (dy, _), (dx, _) = ticks(extent[1], size[0], ratio), ticks(extent[0], size[1], ratio)
        y, x = torch.meshgrid(start[1] + dy, start[0] + dx, indexing="ij")
        pooled.append(pool(sample_near(features[int(roi[0])], y, x), size, mode))
    return torch.stack(pooled)


def roi_align_rotated(
    features: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    *,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    """RoIAlign of (image, cx, cy, w, h, angle): the grid of samples is turned about the centre of the roi.

    In an image, where y points down, a positive angle turns anticlockwise unless `clockwise`.
    """
    pooled = []
    for roi in rois:
        cx, cy = roi[1:3] * scale - (0.5 if aligned else 0)
        extent = roi[3:5] * scale
        extent = extent if aligned else extent.clamp(min=1)
        angle = -roi[5] if clockwise else roi[5]
        (dy, _), (dx, _) = ticks(extent[1], size[0], ratio), ticks(extent[0], size[1], ratio)
        v, u = torch.meshgrid(dy - extent[1] / 2, dx - extent[0] / 2, indexing="ij")
        x, y = cx + u * angle.cos() + v * angle.sin(), cy - u * angle.sin() + v * angle.cos()
        pooled.append(pool(sample_near(features[int(roi[0])], y, x), size))
    return torch.stack(pooled)


def deform_roi_pool(
    features: Tensor, rois: Tensor, offset: Tensor, size: tuple[int, int], scale: float, ratio: int, gamma: float
) -> Tensor:
    """Deformable RoI pooling (Dai et al., 2017): RoIAlign with every bin moved by its own offset.

    Offsets are (roi, (x, y), rows, columns), in gamma times the extent of the roi.
    """
    pooled = []
    for roi, shift in zip(rois, offset, strict=True):
        start, extent = roi[1:3] * scale - 0.5, (roi[3:5] - roi[1:3]) * scale
        (dy, rows), (dx, columns) = ticks(extent[1], size[0], ratio), ticks(extent[0], size[1], ratio)
        move = (shift * gamma * extent[:, None, None]).repeat_interleave(rows, 1).repeat_interleave(columns, 2)
        y, x = torch.meshgrid(start[1] + dy, start[0] + dx, indexing="ij")
        pooled.append(pool(sample_near(features[int(roi[0])], y + move[1], x + move[0]), size))
    return torch.stack(pooled)


def hat_integral(start: Tensor, end: Tensor, size: int) -> Tensor:
    """How much of each of `size` pixels, spread linearly as in bilinear sampling, lies between two positions."""
    pixels = torch.arange(size, dtype=start.dtype, device=start.device)
    reach = [(each[..., None] - pixels).clamp(-1, 1) for each in (start, end)]
    below, above = (r - r * r.abs() / 2 for r in reach)
    return above - below


def prroi_pool(features: Tensor, rois: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """Precise RoI pooling (Jiang et al., 2018): the mean of the bilinear image over each bin, by its integral."""
    pooled = []
    _, channels, height, width = features.shape
    for roi in rois:
        extent = (roi[3:5] - roi[1:3]) * scale
        if extent.min() <= 0:
            pooled.append(features.new_zeros(channels, *size))
            continue
        edges = [
            roi[1 + i] * scale + torch.arange(bins + 1, device=roi.device) * extent[i] / bins
            for i, bins in ((0, size[1]), (1, size[0]))
        ]
        across, down = (
            hat_integral(edge[:-1], edge[1:], n) * (len(edge) - 1) / extent[i]
            for i, (edge, n) in enumerate(zip(edges, (width, height), strict=True))
        )
        pooled.append(torch.einsum("chw,ih,jw->cij", features[int(roi[0])], down, across))
    return torch.stack(pooled)


def riroi_align_rotated(
    features: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    orientations: int,
    *,
    clockwise: bool,
) -> Tensor:
    """Rotation-invariant RoIAlign (ReDet, Han et al., 2021): the channels of the orientations turn with the roi.

    With the angle in steps of the orientations being a whole number s and a fraction f, orientation o is sampled from
    (1 - f) of the one s before it and f of the one after that, as in its authors' code.
    """
    pooled = []
    for roi in rois:
        steps = float(roi[5]) * orientations / (2 * math.pi)
        whole = math.floor(steps)
        image = features[int(roi[0])].reshape(-1, orientations, *features.shape[2:])
        turned = (1 - steps + whole) * image.roll(whole, 1) + (steps - whole) * image.roll(whole - 1, 1)
        alone = torch.cat([roi.new_zeros(1), roi[1:]])[None]
        pooled.append(
            roi_align_rotated(turned.flatten(0, 1)[None], alone, size, scale, ratio, aligned=False, clockwise=clockwise)
        )
    return torch.cat(pooled)


def bezier(points: Tensor, t: float) -> Tensor:
    """Point of a Bézier curve by de Casteljau's construction."""
    while len(points) > 1:
        points = points[:-1] * (1 - t) + points[1:] * t
    return points[0]


def bezier_align(
    features: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, *, aligned: bool
) -> Tensor:
    """BezierAlign (ABCNet, Liu et al., 2020): bins laid between two cubic Bézier curves.

    Rois are (image, four points of the upper curve from left to right, four of the lower one from right to left). Bin
    (i, j) of (h, w) has its centre at j/w along both curves and i/h of the way from the upper to the lower one; its
    size is the larger extent of the two curves divided by the number of bins.
    """
    pooled = []
    for roi in rois:
        points = roi[1:].reshape(8, 2) * scale
        upper, lower = points[:4], points[4:].flip(0)
        extent = torch.maximum((upper[0] - upper[3]).abs(), (lower[0] - lower[3]).abs())
        extent = extent if aligned else extent.clamp(min=1)
        width, height = extent[0] / size[1], extent[1] / size[0]
        (dy, _), (dx, _) = ticks(height, 1, ratio), ticks(width, 1, ratio)
        rows = []
        for i in range(size[0]):
            for j in range(size[1]):
                ends = bezier(upper, j / size[1]), bezier(lower, j / size[1])
                x, y = torch.lerp(*ends, i / size[0]) - (0.5 if aligned else 0)
                grid = torch.meshgrid(y - height / 2 + dy, x - width / 2 + dx, indexing="ij")
                rows.append(pool(sample_near(features[int(roi[0])], *grid), (1, 1)).reshape(-1))
        pooled.append(torch.stack(rows, dim=1).reshape(-1, *size))
    return torch.stack(pooled)


def rotated_feature_align(features: Tensor, boxes: Tensor, scale: float, points: int) -> Tensor:
    """Feature refinement of R3Det (Yang et al., 2021): each pixel gains the samples at its box's centre and corners.

    Boxes are (N, H, W, 5) of (cy, cx, w, h, angle): upstream stores the row first.
    """
    cy, cx, width, height = (boxes[..., :4] * scale).unbind(-1)
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    result = features
    for a, b in [(0, 0), (1, 1), (-1, 1), (-1, -1), (1, -1)][:points]:
        u, v = a * width / 2, b * height / 2
        y, x = cy + u * sin + v * cos, cx + u * cos - v * sin
        result = result + torch.stack([sample_near(*each) for each in zip(features, y, x, strict=True)])
    return result


def deform_conv2d(
    image: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Deformable convolution (Dai et al., 2017; with a mask, Zhu et al., 2019).

    Each tap of each output pixel reads the zero-padded image at its regular place plus its own offset (y, x), times its
    own mask value; each of `deform_groups` slices of the channels has its own offsets and masks.
    """
    batch, channels, _, _ = image.shape
    outputs, _, kernel_h, kernel_w = weight.shape
    taps, (rows, columns) = kernel_h * kernel_w, offset.shape[-2:]
    index = [torch.arange(n, dtype=image.dtype, device=image.device) for n in (kernel_h, kernel_w, rows, columns)]
    y = (index[0] * dilation[0])[:, None, None, None] + (index[2] * stride[0])[:, None] - padding[0]
    x = (index[1] * dilation[1])[:, None, None] + index[3] * stride[1] - padding[1]
    shape = kernel_h, kernel_w, rows, columns
    place = torch.stack([y.expand(shape), x.expand(shape)]).reshape(2, taps, rows, columns)
    shift = offset.reshape(batch, deform_groups, taps, 2, rows, columns)
    slices = image.reshape(batch, deform_groups, -1, *image.shape[2:])
    taken = torch.stack(
        [
            torch.stack(
                [
                    sample(slices[n, g], place[0] + shift[n, g, :, 0], place[1] + shift[n, g, :, 1])
                    for g in range(deform_groups)
                ]
            )
            for n in range(batch)
        ]
    )
    if mask is not None:
        taken = taken * mask.reshape(batch, deform_groups, 1, taps, rows, columns)
    taken = taken.reshape(batch, groups, channels // groups, taps, rows, columns)
    filters = weight.reshape(groups, outputs // groups, channels // groups, taps)
    result = torch.einsum("ngckyx,gock->ngoyx", taken, filters).reshape(batch, outputs, rows, columns)
    return result if bias is None else result + bias[:, None, None]


def psa_mask(mask: Tensor, kind: str, size: tuple[int, int]) -> Tensor:
    """Point-wise spatial attention (PSANet, Zhao et al., 2018): over-complete maps to full ones.

    Channel (i, j) of a pixel's mask is the weight between that pixel and the one (i, j) - half further. "collect" keeps
    the weight at the pixel, in the channel of the other one; "distribute" the other way round.
    """
    batch, _, height, width = mask.shape
    result = mask.new_zeros(batch, height, width, height, width)
    half = [(n - 1) // 2 for n in size]
    for y, x in torch.cartesian_prod(torch.arange(height), torch.arange(width)).tolist():
        for i, j in torch.cartesian_prod(torch.arange(size[0]), torch.arange(size[1])).tolist():
            there = y + i - half[0], x + j - half[1]
            if 0 <= there[0] < height and 0 <= there[1] < width:
                where = (*there, y, x) if kind == "collect" else (y, x, *there)
                result[:, where[0], where[1], where[2], where[3]] = mask[:, i * size[1] + j, y, x]
    return result.reshape(batch, height * width, height, width)


def active_rotated_filter(filters: Tensor, indices: Tensor) -> Tensor:
    """Oriented filters (ORN, Zhou et al., 2017): each of the filter's rotations is a permutation of its entries.

    Entry e of a filter (orientation, row, column) stands at indices[e, r] - 1 in rotation r; the output's channels run
    over (filter, rotation) and (input plane, orientation).
    """
    outputs, planes, orientations, height, width = filters.shape
    rotations = indices.shape[-1]
    entries = filters.reshape(outputs, planes, -1)
    order = indices.reshape(-1, rotations).long() - 1
    turned = [torch.empty_like(entries).index_copy(2, order[:, r], entries) for r in range(rotations)]
    return torch.stack(turned, dim=1).reshape(outputs * rotations, planes * orientations, height, width)


def deformable_attention(value: Tensor, shapes: list[tuple[int, int]], places: Tensor, weights: Tensor) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, Zhu et al., 2021).

    Each query and head sums weighted samples over levels and points; places are (x, y) in [0, 1] of the level's extent,
    whose pixel centres lie at half coordinates.
    """
    batch, _, heads, size = value.shape
    start = 0
    result = value.new_zeros(batch, places.shape[1], heads, size)
    for level, (height, width) in enumerate(shapes):
        pixels = value[:, start : start + height * width]
        start += height * width
        images = pixels.permute(0, 2, 3, 1).reshape(batch, heads, size, height, width)
        for n in range(batch):
            for head in range(heads):
                x, y = places[n, :, head, level].unbind(-1)
                taken = sample(images[n, head], y * height - 0.5, x * width - 0.5)
                result[n, :, head] += (taken * weights[n, :, head, level]).sum(-1).T
    return result.flatten(2)


def upfirdn2d(
    image: Tensor,
    taps: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    gain: float,
) -> Tensor:
    """Zero-insertion, padding (negative crops), convolution, decimation (as in StyleGAN3); pairs are (x, y)."""
    batch, channels, height, width = image.shape
    spread = image.new_zeros(batch, channels, height * up[1], width * up[0])
    spread[:, :, :: up[1], :: up[0]] = image
    left, right, top, bottom = padding
    rows, columns = torch.arange(-top, height * up[1] + bottom), torch.arange(-left, width * up[0] + right)
    inside = ((rows >= 0) & (rows < spread.shape[2]))[:, None] & (columns >= 0) & (columns < spread.shape[3])
    rows, columns = rows.clamp(0, spread.shape[2] - 1), columns.clamp(0, spread.shape[3] - 1)
    padded = spread[:, :, rows][:, :, :, columns] * inside.to(image)
    kernel = (taps if taps.ndim == 2 else torch.outer(taps, taps)).to(image) * gain
    windows = padded.unfold(2, kernel.shape[0], 1).unfold(3, kernel.shape[1], 1)
    return torch.einsum("nchwij,ij->nchw", windows, kernel.flip(0, 1))[:, :, :: down[1], :: down[0]]


def carafe(features: Tensor, masks: Tensor, size: int, groups: int, scale: int) -> Tensor:
    """CARAFE (Wang et al., 2019): each pixel of a larger image is its source's neighbourhood, weighted by its own mask.

    Channels of the masks are (group, row, column of the neighbourhood).
    """
    batch, channels, height, width = features.shape
    near = torch.nn.functional.unfold(features, size, padding=size // 2)
    near = near.reshape(batch, groups, channels // groups, size**2, height, width)
    near = near.repeat_interleave(scale, 4).repeat_interleave(scale, 5)
    weights = masks.reshape(batch, groups, 1, size**2, height * scale, width * scale)
    return (near * weights).sum(3).flatten(1, 2)


def correlation(
    image: Tensor,
    other: Tensor,
    *,
    kernel: int,
    displacement: int,
    stride: int,
    padding: int,
    dilation: int,
    dilation_patch: int,
) -> Tensor:
    """Correlation of FlowNet (Dosovitskiy et al., 2015): products of two images, the second one displaced.

    Summed over the channels and a square kernel, for each displacement (row, column) up to the largest.
    """
    ones = image.new_ones(1, 1, kernel, kernel)
    moves = [dilation_patch * i for i in range(-displacement, displacement + 1)]
    sums = [
        torch.nn.functional.conv2d(
            (image * torch.nn.functional.pad(other, (-dx, dx, -dy, dy))).sum(1, keepdim=True),
            ones,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        for dy in moves
        for dx in moves
    ]
    return torch.stack(sums, dim=1).reshape(len(image), len(moves), len(moves), *sums[0].shape[2:])
