"""Fourier transforms against the defining matrix.

float64 throughout: 48 terms of unit size, each rounded at 2.2e-16, stay far below 1e-11.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from plain_numerics import fourier_matrix

assert_close = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size", [16, 31, 48])
def test_transform_equals_its_definition(device: torch.device, size: int) -> None:
    """A power of two, a prime and a composite length."""
    signal = torch.randn(3, size, dtype=torch.complex128)
    expected = signal @ torch.from_numpy(fourier_matrix(size)).T
    assert_close(torch.fft.fft(signal.to(device)).cpu(), expected)


def test_real_transform_in_two_dimensions(device: torch.device) -> None:
    """The half spectrum is the left half of the full one, and its inverse gives the signal back."""
    signal = torch.randn(2, 12, 15, dtype=torch.float64)
    rows, columns = (torch.from_numpy(fourier_matrix(size)) for size in (12, 15))
    expected = (rows @ signal.to(torch.complex128) @ columns.T)[..., :8]
    found = torch.fft.rfft2(signal.to(device))
    assert_close(found.cpu(), expected)
    assert_close(torch.fft.irfft2(found, s=(12, 15)).cpu(), signal)
