"""Checkpoints as OpenMMLab's trainings write them, from a file and over HTTP."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint, save_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def network() -> nn.Module:
    """A network with parameters and buffers."""
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


@pytest.fixture
def source() -> nn.Module:
    """The network whose weights are saved."""
    return network()


@pytest.fixture
def checkpoint(tmp_path: Path, source: nn.Module) -> Path:
    """A training checkpoint: weights of a parallel wrapper, a history, NumPy scalars and arrays, an optimizer."""
    history = HistoryBuffer(np.array([0.5, 0.25]), np.array([1, 1]))
    content = {
        "meta": {"epoch": 2, "iter": np.int64(20), "best_score": np.float64(0.75), "dataset_meta": np.arange(3)},
        "state_dict": {f"module.{name}": value for name, value in source.state_dict().items()},
        "message_hub": {"log_scalars": {"train/loss": history}},
        "optimizer": torch.optim.Adam(source.parameters()).state_dict(),
    }
    torch.save(content, tmp_path / "training.pth")
    return tmp_path / "training.pth"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a server on this machine that serves the test's folder."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    """Compare parameters and buffers by their bits."""
    other = expected.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in found.state_dict().items())


def assert_complete(content: dict[str, Any]) -> None:
    """Everything beside the weights came back as well."""
    assert content["meta"]["best_score"] == 0.75
    assert content["meta"]["iter"] == 20
    assert content["meta"]["dataset_meta"].tolist() == [0, 1, 2]
    assert content["message_hub"]["log_scalars"]["train/loss"].mean() == 0.375


def test_training_checkpoint_loads_from_a_file(checkpoint: Path, source: nn.Module) -> None:
    """The prefix of the parallel wrapper goes, the weights arrive, the rest is returned."""
    loaded = network()
    assert_complete(load_checkpoint(loaded, str(checkpoint), map_location="cpu", strict=True))
    assert_same(loaded, source)


def test_training_checkpoint_loads_over_http(
    checkpoint: Path, address: str, source: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a model zoo serves it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    loaded = network()
    assert_complete(load_checkpoint(loaded, f"{address}/{checkpoint.name}", map_location="cpu", strict=True))
    assert_same(loaded, source)


def test_saved_checkpoint_loads_again(tmp_path: Path, source: nn.Module) -> None:
    """What MMEngine saves it loads."""
    save_checkpoint({"state_dict": source.state_dict(), "meta": {"score": np.float32(0.5)}}, str(tmp_path / "own.pth"))
    content = CheckpointLoader.load_checkpoint(str(tmp_path / "own.pth"))
    assert content["meta"]["score"] == np.float32(0.5)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in content["state_dict"].items())


def test_wrong_weights_are_refused(checkpoint: Path) -> None:
    """A checkpoint of another network does not load quietly."""
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_checkpoint(nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)), str(checkpoint), strict=True)
