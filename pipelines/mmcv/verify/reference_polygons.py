"""Areas of polygons, from their definitions, in PyTorch: autograd through them gives the gradients of overlaps."""

from __future__ import annotations

import torch
from torch import Tensor


def corners(box: Tensor) -> Tensor:
    """Corners of (cx, cy, w, h, angle), in the order in which a positive angle turns: from x towards y."""
    half = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], dtype=box.dtype, device=box.device)
    u, v = (half * box[2:4]).unbind(-1)
    cos, sin = box[4].cos(), box[4].sin()
    return torch.stack([box[0] + u * cos - v * sin, box[1] + u * sin + v * cos], dim=-1)


def area(polygon: Tensor) -> Tensor:
    """Shoelace formula; positive where the corners turn from x towards y, zero for less than a triangle."""
    x, y = polygon.unbind(-1)
    return (x * y.roll(-1) - y * x.roll(-1)).sum() / 2


def turn(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Twice the signed area of a triangle: positive where c lies left of the way from a to b."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def hull(points: Tensor) -> Tensor:
    """Convex hull with a positive area, by Andrew's monotone chain (1979)."""
    order = sorted(range(len(points)), key=lambda i: points[i].tolist())
    chains = []
    for way in (order, order[::-1]):
        chain: list[int] = []
        for i in way:
            while len(chain) > 1 and turn(points[chain[-2]], points[chain[-1]], points[i]) <= 0:
                chain.pop()
            chain.append(i)
        chains += chain[:-1]
    return points[chains]


def clip(polygon: Tensor, window: Tensor) -> Tensor:
    """Part of a polygon inside a convex window (Sutherland and Hodgman, 1974)."""
    window = window if area(window) > 0 else window.flip(0)
    for start, end in zip(window, window.roll(-1, 0), strict=True):
        kept = []
        for here, there in zip(polygon.roll(1, 0), polygon, strict=True):
            before, after = turn(start, end, here), turn(start, end, there)
            if (before < 0) != (after < 0):
                kept.append(here + (there - here) * before / (before - after))
            if after >= 0:
                kept.append(there)
        polygon = torch.stack(kept) if kept else polygon[:0]
    return polygon


def overlap(polygon: Tensor, other: Tensor) -> Tensor:
    """Area that two convex polygons share."""
    return area(clip(polygon, other)).abs()


def iou(polygon: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of two convex polygons."""
    shared = overlap(polygon, other)
    return shared / (area(polygon).abs() + area(other).abs() - shared)


def giou(polygon: Tensor, other: Tensor) -> Tensor:
    """Generalized intersection over union (Rezatofighi et al., 2019): less what the common hull holds besides."""
    shared, around = overlap(polygon, other), area(hull(torch.cat([polygon, other])))
    union = area(polygon).abs() + area(other).abs() - shared
    return shared / union - (around - union) / around


def rectangles(points: Tensor) -> list[Tensor]:
    """Rectangles around points with one side along an edge of their hull, smallest first: the first is the smallest.

    That one side of the smallest lies along an edge is due to Freeman and Shapira (1975). Turned by an angle in
    [0, π/2), the corners are (right, low), (left, low), (left, high) and (right, high).
    """
    found, outline = [], hull(points)
    for start, end in zip(outline, outline.roll(-1, 0), strict=True):
        angle = torch.atan2(end[1] - start[1], end[0] - start[0]) % (torch.pi / 2)
        axes = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
        (left, low), (right, high) = (points @ axes.T).amin(0).tolist(), (points @ axes.T).amax(0).tolist()
        found.append(points.new_tensor([[right, low], [left, low], [left, high], [right, high]]) @ axes)
    return sorted(found, key=lambda rectangle: float(area(rectangle).abs()))
