"""Overlap and suppression of boxes, from their definitions, in NumPy and float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def iou(box: Array, other: Array, *, offset: int = 0, mode: str = "iou") -> float:
    """Intersection over union of two (x1, y1, x2, y2), or over the first box ("iof").

    With offset 1 the corners are pixels inside the box, so that a side is one longer than the difference of its ends.
    """
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]) + offset
    overlap = float(np.prod(np.maximum(sides, 0)))
    first, second = (float(np.prod(each[2:] - each[:2] + offset)) for each in (box, other))
    return overlap / (first + second - overlap if mode == "iou" else first)


def corners(box: Array, *, clockwise: bool = True) -> Array:
    """Corners of (cx, cy, w, h, angle): in an image, where y points down, a positive angle turns clockwise."""
    cx, cy, width, height, angle = box
    angle = angle if clockwise else -angle
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    square = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    turned: Array = square * [width, height] @ turn + [cx, cy]
    return turned


def signed_area(polygon: Array) -> float:
    """Shoelace formula; positive where the corners turn from x towards y."""
    x, y = polygon.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def clip(polygon: Array, window: Array) -> Array:
    """Part of a polygon inside a convex window (Sutherland and Hodgman, 1974)."""
    window = window if signed_area(window) > 0 else window[::-1]
    for start, end in zip(window, np.roll(window, -1, axis=0), strict=True):
        edge = end - start
        sides = [float(edge[0] * (p[1] - start[1]) - edge[1] * (p[0] - start[0])) for p in polygon]
        kept = []
        for i in range(len(polygon)):
            here, there = sides[i - 1], sides[i]
            if (here < 0) != (there < 0):
                kept.append(polygon[i - 1] + (polygon[i] - polygon[i - 1]) * here / (here - there))
            if there >= 0:
                kept.append(polygon[i])
        polygon = np.array(kept).reshape(-1, 2)
    return polygon


def polygon_iou(polygon: Array, other: Array, *, mode: str = "iou") -> float:
    """Intersection over union of two convex polygons, or over the first ("iof"); 0 where one has no area."""
    first, second = abs(signed_area(polygon)), abs(signed_area(other))
    if not first or not second:
        return 0.0
    clipped = clip(polygon, other)
    overlap = abs(signed_area(clipped)) if len(clipped) else 0.0
    return overlap / (first + second - overlap if mode == "iou" else first)


def pairwise(first: Iterable[Any], second: Iterable[Any], overlap: Callable[[Any, Any], float]) -> Array:
    """Matrix of the overlap of every pair."""
    others = list(second)
    return np.array([[overlap(a, b) for b in others] for a in first])


def suppress(overlaps: Array, scores: Array, suppresses: Callable[[float], bool]) -> list[list[int]]:
    """Greedy suppression: the best box left takes all those that overlap it too much; groups, best box first."""
    left = [int(i) for i in np.argsort(-scores, kind="stable")]
    groups = []
    while left:
        best, *others = left
        taken = [i for i in others if suppresses(overlaps[best, i])]
        groups.append([best, *taken])
        left = [i for i in others if i not in taken]
    return groups


def soft_suppress(
    overlaps: Array, scores: Array, decay: Callable[[float], float], minimum: float
) -> list[tuple[int, float]]:
    """Soft-NMS (Bodla et al., 2017): the best box left lowers the other scores; those below the minimum drop out."""
    left = {i: float(score) for i, score in enumerate(scores)}
    kept = []
    while left:
        best = max(left, key=left.__getitem__)
        kept.append((best, left.pop(best)))
        lowered = {i: score * decay(overlaps[best, i]) for i, score in left.items()}
        left = {i: score for i, score in lowered.items() if score >= minimum}
    return kept
