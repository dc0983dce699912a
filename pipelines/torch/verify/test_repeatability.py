"""Two runs give the same bits; the number of threads and of loader processes changes no result."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

IN_THREADS = """
import sys
import torch

count, file = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(count)
assert torch.get_num_threads() == count
torch.manual_seed(3)
long, matrix = torch.randn(1_000_000, dtype=torch.float64), torch.randn(256, 256, dtype=torch.float64)
image, kernel = torch.randn(4, 8, 32, 32, dtype=torch.float64), torch.randn(8, 8, 3, 3, dtype=torch.float64)
convolved = torch.nn.functional.conv2d(image, kernel)
torch.save([long.sum(), matrix @ matrix, torch.linalg.svdvals(matrix), convolved], file)
"""


def train(device: torch.device) -> list[torch.Tensor]:
    """Train a small convolutional network with dropout from a fixed seed; return its parameters."""
    torch.manual_seed(7)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(512, 10)
    ).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(5):
        images, labels = torch.randn(16, 3, 8, 8).to(device), torch.randint(10, (16,)).to(device)
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]  # annotated in part
        optimizer.step()
    return [parameter.detach().cpu() for parameter in network.parameters()]


def test_two_runs_give_the_same_bits(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training twice from one seed ends in identical parameters."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    assert all(torch.equal(one, other) for one, other in zip(train(device), train(device), strict=True))


def test_another_seed_gives_other_numbers() -> None:
    """The generator listens to its seed, and gives the sequence again for the same one."""
    draws = [torch.rand(8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 1)]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_threads_agree(tmp_path: Path) -> None:
    """One thread and four give the same sums up to their order; each in a process, as a pool of threads keeps its size.

    float64 with sums of up to 1e6 unit normals: 2.2e-16 * 1e3 (their root) per rounding, well within 1e-9.
    """
    results = []
    for count in ("1", "4"):
        file = tmp_path / count
        subprocess.run([sys.executable, "-c", IN_THREADS, count, str(file)], check=True)  # noqa: S603  # this Python
        results.append(torch.load(file))
    for single, several in zip(*results, strict=True):
        torch.testing.assert_close(single, several, rtol=1e-9, atol=1e-9)


def test_loader_processes_agree() -> None:
    """Batches that travel through the shared memory of two worker processes arrive unchanged and in order."""
    data = TensorDataset(torch.randn(20, 3, 4), torch.arange(20))
    alone = list(DataLoader(data, batch_size=6))
    helped = list(DataLoader(data, batch_size=6, num_workers=2))
    for (values, labels), (other_values, other_labels) in zip(alone, helped, strict=True):
        assert torch.equal(values, other_values)
        assert torch.equal(labels, other_labels)
