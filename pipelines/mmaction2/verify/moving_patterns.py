"""Videos that the suite draws itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Frame = NDArray[np.uint8]


def waves_and_disc(*, width: int, height: int, frames: int) -> Iterator[Frame]:
    """Draw coloured waves that wander, each channel at its own pace, and a disc that circles over them."""
    y, x = np.mgrid[:height, :width]
    for time in range(frames):
        phases = (x / 23 + time / 5, y / 17 - time / 7, (x + y) / 31 + time / 9)
        frame = np.stack([127 + 100 * np.sin(phase) for phase in phases], axis=-1).astype(np.uint8)
        center = (round(width / 2 + width / 3 * np.cos(time / 10)), round(height / 2 + height / 3 * np.sin(time / 10)))
        cv2.circle(frame, center, height // 9, (40, 200, 90), thickness=-1)
        yield frame


def one_bright_channel(channel: int, *, width: int, height: int, frames: int) -> Iterator[Frame]:
    """Draw noise, the same one for each channel, with one channel brighter than the others."""
    source = np.random.default_rng(channel)
    for _ in range(frames):
        frame = source.integers(0, 120, (height, width, 3), dtype=np.uint8)
        frame[..., channel] += 120
        yield frame


def write_video(path: Path, frames: Iterator[Frame]) -> Path:
    """Encode BGR frames as MPEG-4, 25 a second; raises where OpenCV cannot.

    Raises:
        RuntimeError: OpenCV has no encoder for it.
    """
    first = next(frames)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, first.shape[1::-1])
    if not writer.isOpened():
        raise RuntimeError("OpenCV cannot encode MPEG-4")
    writer.write(first)
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path
