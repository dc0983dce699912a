"""ResNet-50 and the TSN head in plain PyTorch functions, reading weights by MMAction2's names for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

    Weights = Mapping[str, torch.Tensor]

BLOCKS = (3, 4, 6, 3)
EPSILON = 1e-5


def convolve(x: torch.Tensor, weights: Weights, name: str, *, stride: int = 1) -> torch.Tensor:
    """Convolve and normalize with the running statistics."""
    kernel = weights[f"{name}.conv.weight"]
    x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    scale = weights[f"{name}.bn.weight"] / torch.sqrt(weights[f"{name}.bn.running_var"] + EPSILON)
    shift = weights[f"{name}.bn.bias"] - weights[f"{name}.bn.running_mean"] * scale
    return x * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)


def bottleneck(x: torch.Tensor, weights: Weights, name: str, *, stride: int) -> torch.Tensor:
    """1x1, 3x3 with the stride, 1x1, beside a shortcut."""
    y = functional.relu(convolve(x, weights, f"{name}.conv1"))
    y = functional.relu(convolve(y, weights, f"{name}.conv2", stride=stride))
    y = convolve(y, weights, f"{name}.conv3")
    if f"{name}.downsample.conv.weight" in weights:
        x = convolve(x, weights, f"{name}.downsample", stride=stride)
    return functional.relu(x + y)


def features(images: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Return the last feature map of normalized images."""
    x = functional.relu(convolve(images, weights, "conv1", stride=2))
    x = functional.max_pool2d(x, 3, stride=2, padding=1)
    for stage, blocks in enumerate(BLOCKS, start=1):
        for block in range(blocks):
            x = bottleneck(x, weights, f"layer{stage}.{block}", stride=2 if stage > 1 and block == 0 else 1)
    return x


def tsn_logits(images: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Average the pooled features of all images of a video and classify the average."""
    backbone = {name.removeprefix("backbone."): value for name, value in weights.items()}
    pooled = torch.cat([features(part, backbone).mean(dim=(2, 3)) for part in torch.split(images, 10)])
    return pooled.mean(dim=0) @ weights["cls_head.fc_cls.weight"].T + weights["cls_head.fc_cls.bias"]
