"""A regression small enough to train in milliseconds, for the suite's loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from pathlib import Path


class Points(Dataset[dict[str, Any]]):
    """Forty points of a noisy plane, the same ones each time."""

    # A checkpoint keeps the data set's description: an array, as many projects have it.
    metainfo = {"classes": ("plane",), "palette": np.array([[1, 2, 3]])}  # noqa: RUF012  # mmengine's own shape

    def __init__(self) -> None:
        source = np.random.default_rng(3)
        self.inputs = source.normal(size=(40, 3)).astype(np.float32)
        noise = source.normal(size=40).astype(np.float32)
        self.targets = self.inputs @ np.array([1, -2, 3], dtype=np.float32) + noise / 10

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": torch.from_numpy(self.inputs[index]), "targets": torch.tensor(self.targets[index])}


class Plane(BaseModel):  # type: ignore[misc]  # the layer carries no types
    """A linear model with mmengine's training interface; it reports a NumPy scalar among its results."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.linear = nn.Linear(3, 1)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor, mode: str = "tensor") -> Any:  # noqa: ANN401
        """Return the loss in training, the predictions otherwise."""
        found = self.linear(inputs).squeeze(-1)
        return {"loss": (found - targets).square().mean()} if mode == "loss" else found


class PowerCutError(Exception):
    """Ends a training in the middle."""


class PowerCut(Hook):  # type: ignore[misc]  # the layer carries no types
    """Ends the training before an epoch, when the one before it has been saved."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def before_train_epoch(self, runner: Runner) -> None:
        """Raise at the chosen epoch."""
        if runner.epoch == self.epoch:
            raise PowerCutError


def runner(folder: Path, *, name: str, epochs: int, **options: Any) -> Runner:  # noqa: ANN401  # Runner's own options
    """Return a Runner that trains the plane: momentum, a falling learning rate, shuffled batches.

    Runs need names of their own because mmengine keeps one message hub per name.
    """
    settings: dict[str, Any] = {
        "train_cfg": {"by_epoch": True, "max_epochs": epochs},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9}},
        "param_scheduler": {"type": "MultiStepLR", "milestones": [2, 3], "gamma": 0.5},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        "randomness": {"seed": 11},
        "train_dataloader": {
            "batch_size": 8,
            "num_workers": 0,
            "collate_fn": {"type": "default_collate"},
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "dataset": Points(),
        },
    }
    return Runner(Plane(), str(folder), experiment_name=name, log_level="ERROR", **settings | options)
