"""The TSN test pipeline once more, from its paper and in NumPy: nothing here comes from MMAction2 or MMCV.

Frames are read by OpenCV, not by decord. Interpolation itself is `cv2.resize`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)


def read_frames(path: Path) -> list[Pixels]:
    """Decode the whole video, one frame after the other, as RGB."""
    capture = cv2.VideoCapture(str(path))
    frames: list[Pixels] = []
    while (answer := capture.read())[0]:
        frames.append(np.ascontiguousarray(answer[1][..., ::-1]))
    return frames


def middle_frames(total: int, segments: int) -> list[int]:
    """Return the middle frame of each of `segments` equal parts, in whole numbers."""
    return [(2 * segment + 1) * total // (2 * segments) for segment in range(segments)]


def resize_short_side(frame: Pixels, size: int) -> Pixels:
    """Scale the shorter side to `size`, the longer one along with it, to the nearest whole pixel."""
    height, width = frame.shape[:2]
    scale = size / min(height, width)
    target = (int(width * scale + 0.5), int(height * scale + 0.5))
    resized: Pixels = cv2.resize(frame, target, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return resized


def ten_crops(frames: list[Pixels], size: int) -> Pixels:
    """Crop four corners and the centre of all frames, each followed by its mirror image: (10 * frames, 3, size, size).

    As in TSN's own code, corners lie on a grid of quarters of the slack, rounded down.
    """
    height, width = frames[0].shape[:2]
    right, down = (width - size) // 4, (height - size) // 4
    crops = []
    for x, y in ((0, 0), (4 * right, 0), (0, 4 * down), (4 * right, 4 * down), (2 * right, 2 * down)):
        cut = [frame[y : y + size, x : x + size] for frame in frames]
        crops += [*cut, *(piece[:, ::-1] for piece in cut)]
    stacked: Pixels = np.stack(crops).transpose(0, 3, 1, 2)
    return stacked


def all_crops(path: Path, segments: int) -> Pixels:
    """Return all crops that TSN looks at when it is tested."""
    frames = read_frames(path)
    chosen = [resize_short_side(frames[index], 256) for index in middle_frames(len(frames), segments)]
    return ten_crops(chosen, 224)


def normalize(crops: Pixels) -> NDArray[np.float32]:
    """Bring pixels to the mean 0 and the deviation 1 of ImageNet's channels."""
    mean, deviation = (np.array(values).reshape(3, 1, 1) for values in (MEAN, DEVIATION))
    normalized: NDArray[np.float32] = ((crops - mean) / deviation).astype(np.float32)
    return normalized
