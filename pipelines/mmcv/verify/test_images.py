"""Images: what NumPy 2 calculates otherwise than NumPy 1 did."""

from __future__ import annotations

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

backends = pytest.mark.parametrize("backend", ["cv2", "pillow"])


@backends
@pytest.mark.parametrize("factor", [-0.5, -0.3, -0.001, 0.0, 0.2, 0.5])
def test_adjust_hue(backend: str, factor: float) -> None:
    """Hues turn by whole 255ths of the factor, either way and past zero; saturation and value stay."""
    image = np.random.default_rng(7).integers(256, size=(23, 17, 3), dtype=np.uint8)
    if backend == "cv2":
        parts = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    else:
        parts = np.array(Image.fromarray(np.ascontiguousarray(image[..., ::-1])).convert("HSV"))
    turned = parts[..., 0].astype(int) + int(factor * 255)
    assert factor in {-0.001, 0.0} or not ((turned >= 0) & (turned < 256)).all()
    parts[..., 0] = turned % 256
    if backend == "cv2":
        expected = cv2.cvtColor(parts, cv2.COLOR_HSV2BGR_FULL)
    else:
        bands = [Image.fromarray(np.ascontiguousarray(parts[..., i])) for i in range(3)]
        expected = np.array(Image.merge("HSV", bands).convert("RGB"))[..., ::-1]
    actual = mmcv.adjust_hue(image, factor, backend)
    assert actual.dtype == np.uint8
    np.testing.assert_array_equal(actual, expected)


@backends
def test_adjust_hue_of_red(backend: str) -> None:
    """A third of a turn takes red to green, and to blue the other way."""
    red = np.array([[[0, 0, 200]]], dtype=np.uint8)  # blue, green, red
    for factor, channel in ((1 / 3, 1), (-1 / 3, 0)):
        turned = mmcv.adjust_hue(red, factor, backend)[0, 0]
        assert turned[channel] == 200
        assert np.delete(turned, channel).max() < 8
