"""The TSN ResNet-50 Kinetics-400 configuration of the wheel, and weights for it from a fixed seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmaction
import numpy as np
import torch
from mmaction.apis import init_recognizer
from mmengine import Config
from mmengine.logging import HistoryBuffer
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

CONFIGURATIONS = Path(mmaction.__file__).parent / ".mim/configs"
TSN = CONFIGURATIONS / "recognition/tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x8-100e_kinetics400-rgb.py"


def tsn_config(*, segments: int) -> Config:
    """Return the configuration with as many segments per video as asked for; its own test setting is 25."""
    config = Config.fromfile(TSN)
    config.model.backbone.pretrained = None  # it names a download
    (sampling,) = (step for step in config.test_pipeline if step.type == "SampleFrames")
    sampling.num_clips = segments
    return config


def fill(parameters: Iterable[tuple[str, torch.Tensor]], source: torch.Generator) -> None:
    """Draw weights that keep activations of order one through fifty layers, and logits of order one at their end."""
    for name, value in parameters:
        if value.dim() > 2:
            value.normal_(std=(2 / value[0].numel()) ** 0.5, generator=source)
        elif name.endswith("fc_cls.weight"):
            value.normal_(std=0.006, generator=source)
        elif name.endswith("conv3.bn.weight"):
            value.uniform_(0.2, 0.4, generator=source)
        else:
            value.uniform_(0.5, 1.0, generator=source) if name.endswith("weight") else value.normal_(
                std=0.1, generator=source
            )


def tsn_weights() -> dict[str, torch.Tensor]:
    """Return weights from a fixed seed, with BatchNorm statistics as a pass over noise leaves them."""
    source = torch.Generator().manual_seed(2026)
    model = init_recognizer(tsn_config(segments=1), device="cpu").train()
    with torch.no_grad():
        fill(model.named_parameters(), source)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        model.backbone(torch.randn(4, 3, 128, 128, generator=source) + 0.3)
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


def save_checkpoint(path: Path) -> Path:
    """Save the weights as a training of OpenMMLab does: with history, NumPy values and an optimizer beside them."""
    content: dict[str, Any] = {
        "meta": {"epoch": 100, "iter": np.int64(93900), "best_acc": np.float64(0.7412), "dataset_meta": {}},
        "state_dict": tsn_weights(),
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer(np.array([5.9, 1.2]), np.array([1, 1]))}},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
    }
    torch.save(content, path)
    return path
