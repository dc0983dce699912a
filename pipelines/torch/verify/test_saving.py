"""What is saved comes back, bit for bit, and nothing else is run on the way."""

from __future__ import annotations

import pickle
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
import torch
from packaging.version import Version
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path


def trained(device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network after one step of an optimizer that keeps a state."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.randn(5, 3, 6, 6).to(device)).square().sum().backward()
    optimizer.step()
    return network, optimizer


def same(one: Any, other: Any) -> bool:  # noqa: ANN401
    """Compare nested containers, tensors by their bits."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_model_and_optimizer_come_back(device: torch.device, tmp_path: Path) -> None:
    """State dictionaries survive the file, by the safe loader that is the default."""
    network, optimizer = trained(device)
    saved = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(saved, tmp_path / "state.pth")
    assert same(saved, torch.load(tmp_path / "state.pth"))


def test_another_device_can_be_asked_for(device: torch.device, tmp_path: Path) -> None:
    """A checkpoint of any device loads on the CPU, with the same bits."""
    network, _ = trained(device)
    torch.save(network.state_dict(), tmp_path / "state.pth")
    loaded = torch.load(tmp_path / "state.pth", map_location="cpu")
    assert same({name: tensor.cpu() for name, tensor in network.state_dict().items()}, loaded)


def test_default_loader_refuses_foreign_objects(tmp_path: Path) -> None:
    """`weights_only` is the default: layers above that save more than tensors must say so when they load."""
    if Version(torch.__version__) < Version("2.6"):
        pytest.skip("not run: the default since PyTorch 2.6")
    torch.save({"ratio": Fraction(1, 3)}, tmp_path / "object.pth")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(tmp_path / "object.pth")
    assert torch.load(tmp_path / "object.pth", weights_only=False) == {"ratio": Fraction(1, 3)}


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    """Half a checkpoint is an error, never half a model."""
    torch.save(torch.randn(1000), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(RuntimeError, match="PytorchStreamReader"):
        torch.load(tmp_path / "half.pth")
