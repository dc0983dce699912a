"""References in plain NumPy: loops and definitions, nothing that PyTorch computes with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def convolve(
    image: Array, kernel: Array, bias: Array, *, stride: int, padding: int, dilation: int, groups: int
) -> Array:
    """Correlate `image` (N, C, H, W) with `kernel` (O, C / groups, K, L), window by window."""
    padded = np.pad(image, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    outputs, inputs, height, width = kernel.shape
    reach_y, reach_x = (height - 1) * dilation + 1, (width - 1) * dilation + 1
    rows = (padded.shape[2] - reach_y) // stride + 1
    columns = (padded.shape[3] - reach_x) // stride + 1
    result = np.empty((len(image), outputs, rows, columns))
    for output in range(outputs):
        first = output // (outputs // groups) * inputs
        channels = padded[:, first : first + inputs]
        for row, column in np.ndindex(rows, columns):
            top, left = row * stride, column * stride
            window = channels[:, :, top : top + reach_y : dilation, left : left + reach_x : dilation]
            result[:, output, row, column] = (window * kernel[output]).sum(axis=(1, 2, 3)) + bias[output]
    return result


def sample_bilinear(image: Array, grid: Array) -> Array:
    """Sample `image` (N, C, H, W) at `grid` (N, P, Q, 2), corners at -1 and 1, zeros outside."""
    batch, channels, height, width = image.shape
    result = np.zeros((batch, channels, *grid.shape[1:3]))
    for item, row, column in np.ndindex(*grid.shape[:3]):
        x = (grid[item, row, column, 0] + 1) / 2 * (width - 1)
        y = (grid[item, row, column, 1] + 1) / 2 * (height - 1)
        left, top = int(np.floor(x)), int(np.floor(y))
        for at_y, at_x in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            if 0 <= at_y < height and 0 <= at_x < width:
                weight = (1 - abs(y - at_y)) * (1 - abs(x - at_x))
                result[item, :, row, column] += weight * image[item, :, at_y, at_x]
    return result


def fourier_matrix(size: int) -> NDArray[np.complex128]:
    """The discrete Fourier transform as a matrix, from its definition."""
    index = np.arange(size)
    matrix: NDArray[np.complex128] = np.exp(-2j * np.pi * np.outer(index, index) / size)
    return matrix
