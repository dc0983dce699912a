"""Point clouds and pixel grouping, from their definitions, in NumPy."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

ROW_FIRST = ((0, -1), (0, 1), (-1, 0), (1, 0))
COLUMN_FIRST = ((-1, 0), (1, 0), (0, -1), (0, 1))


def inside_box(point: Array, box: Array) -> bool:
    """Whether a point lies in (x, y, z of the bottom's centre, sizes, yaw): open in the plane, closed upwards."""
    dx, dy, dz = point - box[:3]
    yaw = box[6]
    along, across = dx * math.cos(yaw) + dy * math.sin(yaw), dy * math.cos(yaw) - dx * math.sin(yaw)
    return bool(abs(along) < box[3] / 2 and abs(across) < box[4] / 2 and 0 <= dz <= box[5])


def voxel_of(point: Array, size: Sequence[float], bounds: Sequence[float]) -> tuple[int, int, int]:
    """Cell (z, y, x) of a point in a grid of round(extent / size) cells from the lower bound; -1 everywhere outside."""
    cells = [math.floor((point[i] - bounds[i]) / size[i]) for i in range(3)]
    counts = [round((bounds[3 + i] - bounds[i]) / size[i]) for i in range(3)]
    if any(not 0 <= cell < count for cell, count in zip(cells, counts, strict=True)):
        return -1, -1, -1
    return cells[2], cells[1], cells[0]


def voxelize(
    points: Array, size: Sequence[float], bounds: Sequence[float], max_points: int, max_voxels: int
) -> dict[tuple[int, int, int], list[Array]]:
    """The first `max_voxels` cells that the points meet, in order, each with the first `max_points` points in it."""
    voxels: dict[tuple[int, int, int], list[Array]] = {}
    for point in points:
        cell = voxel_of(point, size, bounds)
        if cell[0] >= 0 and (cell in voxels or len(voxels) < max_voxels):
            voxels.setdefault(cell, [])
            if len(voxels[cell]) < max_points:
                voxels[cell].append(point)
    return voxels


def neighbours(
    pixel: tuple[int, int], shape: tuple[int, ...], order: tuple[tuple[int, int], ...]
) -> Iterator[tuple[int, int]]:
    """The pixels left, right, above and below that lie in the image.

    Their order decides who gets a pixel that two regions reach at once; the two algorithms' authors chose differently.
    """
    for dy, dx in order:
        y, x = pixel[0] + dy, pixel[1] + dx
        if 0 <= y < shape[0] and 0 <= x < shape[1]:
            yield y, x


def pixel_group(
    score: Array, mask: Array, embedding: Array, kernels: Array, contour: Array, regions: int, threshold: float
) -> list[list[float]]:
    """Pixel aggregation (PAN, Wang et al., 2019).

    Kernels grow from their contours, breadth first, over masked pixels whose embedding is nearer than the threshold to
    the kernel's mean. Each region: mean score, number of pixels, and x, y of each pixel in reading order.
    """
    labels = kernels.copy()
    means = {k: embedding[kernels == k].mean(0) for k in range(1, regions)}
    queue = deque(zip(*np.nonzero((kernels > 0) & (contour > 0)), strict=True))
    while queue:
        pixel = queue.popleft()
        label = labels[pixel]
        for near in neighbours(pixel, labels.shape, ROW_FIRST):
            if mask[near] and not labels[near] and np.linalg.norm(embedding[near] - means[label]) < threshold:
                labels[near] = label
                queue.append(near)
    groups: list[list[float]] = [[0.0, 0.0]]
    for k in range(1, regions):
        places = np.argwhere(labels == k)
        groups.append([float(score[labels == k].mean()), float(len(places)), *places[:, ::-1].reshape(-1).tolist()])
    return groups


def contour_expand(masks: Array, seeds: Array, minimum: int) -> Array:
    """Progressive scale expansion (PSENet, Wang et al., 2019).

    Labels of at least `minimum` pixels grow, breadth first, through each mask from the smallest to the largest. A pixel
    from which nothing could grow in one mask is where the next one starts.
    """
    sizes = {k: int((seeds == k).sum()) for k in np.unique(seeds)}
    labels = np.where(np.vectorize(lambda k: sizes[k] >= minimum)(seeds), seeds, 0)
    queue = deque(zip(*np.nonzero(labels), strict=True))
    for mask in masks[-2::-1]:
        edge: deque[tuple[int, int]] = deque()
        while queue:
            pixel = queue.popleft()
            grown = [n for n in neighbours(pixel, labels.shape, COLUMN_FIRST) if mask[n] and not labels[n]]
            for near in grown:
                labels[near] = labels[pixel]
            queue.extend(grown)
            if not grown:
                edge.append(pixel)
        queue = edge
    return labels
