"""Linear algebra against NumPy in float64, and against what defines each decomposition.

Matrices are 24 by 24 and well conditioned (condition below 1e3), so that backward-stable algorithms agree
to about 1e3 * 24 * 2.2e-16 = 5e-12; 1e-10 leaves room for other orders of summation.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

SIZE = 24
TOLERANCE = 1e-10


@pytest.fixture
def square(device: torch.device) -> torch.Tensor:
    """A batch of three general matrices, their diagonals strengthened."""
    noise = torch.randn(3, SIZE, SIZE, dtype=torch.float64)
    return (noise + SIZE * torch.eye(SIZE, dtype=torch.float64)).to(device)


@pytest.fixture
def positive(square: torch.Tensor) -> torch.Tensor:
    """A batch of symmetric positive definite matrices."""
    return square @ square.mT / SIZE


def assert_close(found: torch.Tensor, expected: torch.Tensor | np.ndarray) -> None:
    """Compare on the CPU, within the tolerance of this file."""
    torch.testing.assert_close(found.cpu(), torch.as_tensor(expected).cpu(), rtol=TOLERANCE, atol=TOLERANCE)


def identity(like: torch.Tensor) -> torch.Tensor:
    """A batch of identities that broadcasts against `like`."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand_as(like)


def test_matrix_product(square: torch.Tensor) -> None:
    """Batched products equal NumPy's."""
    assert_close(square @ square.mT, square.cpu().numpy() @ square.mT.cpu().numpy())


def test_device_product_equals_the_cpu_product(device: torch.device) -> None:
    """A float32 product on the device equals float64 on the CPU.

    Sums of 256 products of unit normals have size 16; 256 * 6e-8 * 16 = 2.5e-4 bounds the rounding. TF32, off by
    default for products, errs by 1e-2.
    """
    left, right = torch.randn(2, 256, 256)
    found = (left.to(device) @ right.to(device)).cpu()
    torch.testing.assert_close(found.double(), left.double() @ right.double(), rtol=0, atol=2.5e-4)


def test_solve(square: torch.Tensor) -> None:
    """The solution equals NumPy's and satisfies the equations."""
    right = torch.randn(3, SIZE, 5, dtype=torch.float64).to(square.device)
    found = torch.linalg.solve(square, right)
    assert_close(found, np.linalg.solve(square.cpu().numpy(), right.cpu().numpy()))
    assert_close(square @ found, right)


def test_inverse_and_determinant(square: torch.Tensor) -> None:
    """The inverse undoes the matrix; sign and logarithm of the determinant equal NumPy's."""
    assert_close(square @ torch.linalg.inv(square), identity(square))
    sign, logarithm = torch.linalg.slogdet(square)
    expected = np.linalg.slogdet(square.cpu().numpy())
    assert_close(sign, expected[0])
    assert_close(logarithm, expected[1])


def test_singular_values(square: torch.Tensor) -> None:
    """The values equal NumPy's; the factors are orthogonal and compose to the matrix."""
    left, values, right = torch.linalg.svd(square)
    assert_close(values, np.linalg.svd(square.cpu().numpy(), compute_uv=False))
    assert_close(left @ torch.diag_embed(values) @ right, square)
    assert_close(left.mT @ left, identity(square))
    assert_close(right @ right.mT, identity(square))


def test_qr(square: torch.Tensor) -> None:
    """The factors compose to the matrix; the triangle equals NumPy's up to the signs of its rows."""
    orthogonal, triangle = torch.linalg.qr(square)
    assert_close(orthogonal @ triangle, square)
    assert_close(orthogonal.mT @ orthogonal, identity(square))
    assert_close(triangle, triangle.triu())
    assert_close(triangle.abs(), np.abs(np.linalg.qr(square.cpu().numpy()).R))


def test_symmetric_eigenvalues(positive: torch.Tensor) -> None:
    """The values equal NumPy's in ascending order; each vector is one of the matrix."""
    values, vectors = torch.linalg.eigh(positive)
    assert_close(values, np.linalg.eigh(positive.cpu().numpy()).eigenvalues)
    assert_close(positive @ vectors, vectors * values.unsqueeze(-2))
    assert_close(vectors.mT @ vectors, identity(positive))


def test_cholesky(positive: torch.Tensor) -> None:
    """The factor is unique: it equals NumPy's and squares to the matrix."""
    found = torch.linalg.cholesky(positive)
    assert_close(found, np.linalg.cholesky(positive.cpu().numpy()))
    assert_close(found @ found.mT, positive)


def test_cholesky_refuses_an_indefinite_matrix(positive: torch.Tensor) -> None:
    """What has no factor is an error, not a result."""
    with pytest.raises(RuntimeError, match="not positive-definite"):
        torch.linalg.cholesky(-positive)


def test_least_squares(square: torch.Tensor) -> None:
    """The residual of a tall system is orthogonal to its columns."""
    tall, right = square[..., :7], torch.randn(3, SIZE, 2, dtype=torch.float64).to(square.device)
    found = torch.linalg.lstsq(tall, right).solution
    assert_close(tall.mT @ (tall @ found - right), torch.zeros(3, 7, 2, dtype=torch.float64))
