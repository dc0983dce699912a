"""Other families of models: three-dimensional networks, skeletons, attention, against definitions and symmetries."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from mmaction.apis import inference_skeleton, init_recognizer
from mmaction.models.utils import Graph
from mmaction.models.utils.gcn_utils import unit_gcn
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmaction.utils import register_all_modules
from plain_resnet import features
from torch import nn
from tsn_checkpoint import CONFIGURATIONS, tsn_weights

# float32 through some tens of layers with values of order one; batches of other sizes sum in another order.
assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)

COCO_LIMBS = "15-13 13-11 16-14 14-12 11-5 12-6 9-7 7-5 10-8 8-6 5-0 6-0 1-0 3-1 2-0 4-2"  # ankles to hips to the nose

# Backbones of each kind with the shape of one input, as small as their architectures allow.
BACKBONES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "X3D": ({"type": "X3D", "gamma_w": 1, "gamma_b": 2.25, "gamma_d": 2.2}, (3, 4, 64, 64)),
    "SlowFast": (
        {
            "type": "ResNet3dSlowFast",
            "resample_rate": 4,
            "speed_ratio": 4,
            "channel_ratio": 8,
            "slow_pathway": {"type": "resnet3d", "depth": 50, "pretrained": None, "lateral": True, "base_channels": 16},
            "fast_pathway": {
                "type": "resnet3d",
                "depth": 50,
                "pretrained": None,
                "lateral": False,
                "base_channels": 2,
                "conv1_kernel": (5, 7, 7),
            },
        },
        (3, 16, 64, 64),
    ),
    "TimeSformer": (
        {
            "type": "TimeSformer",
            "num_frames": 4,
            "img_size": 32,
            "patch_size": 16,
            "embed_dims": 48,
            "num_heads": 4,
            "num_transformer_layers": 2,
        },
        (3, 4, 32, 32),
    ),
    "Swin": (
        {
            "type": "SwinTransformer3D",
            "arch": {"embed_dims": 24, "depths": [2, 2], "num_heads": [3, 6]},
            "out_indices": (1,),
            "pretrained2d": False,
        },
        (3, 4, 64, 64),
    ),
    "ViT": (
        {"type": "VisionTransformer", "img_size": 32, "embed_dims": 48, "depth": 2, "num_heads": 4, "num_frames": 4},
        (3, 4, 32, 32),
    ),
    "UniFormer": (
        {"type": "UniFormer", "depth": [1, 1, 1, 1], "embed_dim": [16, 32, 48, 64], "head_dim": 16, "img_size": 64},
        (3, 4, 64, 64),
    ),
    "MViT": ({"type": "MViT", "arch": "tiny", "spatial_size": 64, "temporal_size": 4}, (3, 4, 64, 64)),
}


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the registries; on CUDA, compute in full precision."""
    register_all_modules(init_default_scope=True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def shaken(model: Any) -> Any:  # noqa: ANN401  # the layer carries no types
    """Give BatchNorm statistics and weights that are neither zero nor one, so that each of them matters."""
    ranges = {"running_mean": (-0.1, 0.1), "running_var": (0.5, 1.5), "weight": (0.5, 1.0), "bias": (-0.1, 0.1)}
    for module in model.modules():
        if hasattr(module, "running_var"):
            for name, (low, high) in ranges.items():
                nn.init.uniform_(getattr(module, name), low, high)
    model.eval()  # some of the models' own `train` return nothing
    return model


@torch.inference_mode()
def test_framewise_slowonly_equals_a_plain_resnet(device: torch.device) -> None:
    """Without temporal kernels, the 3D network is ResNet-50 on each frame, written without MMAction2."""
    settings = {"type": "ResNet3dSlowOnly", "depth": 50, "pretrained": None, "inflate": (0, 0, 0, 0)}
    network = MODELS.build(settings)
    network.eval()  # its `train` returns nothing
    network.to(device)
    prefix = "backbone."
    weights = {name.removeprefix(prefix): value for name, value in tsn_weights().items() if name.startswith(prefix)}
    network.load_state_dict(
        {name: value.unsqueeze(2) if value.dim() == 4 else value for name, value in weights.items()}
    )
    clip = torch.randn(1, 3, 3, 64, 64)
    found = network(clip.to(device)).cpu()
    expected = torch.stack([features(clip[:, :, frame], weights) for frame in range(3)], dim=2)
    assert_close(found, expected)


@torch.inference_mode()
def test_clips_are_averaged_as_probabilities(device: torch.device) -> None:
    """A 3D recognizer's scores are the mean of each clip's softmax, not the softmax of a mean."""
    backbone = {"type": "ResNet3d", "depth": 50, "pretrained": None, "base_channels": 8}
    head = {"type": "I3DHead", "num_classes": 7, "in_channels": 256, "init_std": 0.5, "average_clips": "prob"}
    model = MODELS.build({"type": "Recognizer3D", "backbone": backbone, "cls_head": head})
    model.init_weights()
    shaken(model).to(device)
    clips = torch.randn(1, 3, 3, 8, 64, 64) * torch.tensor([0.3, 1, 3]).reshape(3, 1, 1, 1, 1)
    clips = clips.to(device)
    sample = model(clips, [ActionDataSample()], mode="predict")[0]
    logits = torch.stack([model.cls_head(model.backbone(clip[None]))[0] for clip in clips[0]])
    expected = logits.softmax(dim=1).mean(dim=0)
    assert_close(sample.pred_score, expected)
    assert (logits.mean(dim=0).softmax(dim=0) - expected).abs().max() > 1e-3
    assert int(sample.pred_label) == expected.argmax()


@pytest.mark.parametrize("name", BACKBONES)
@torch.inference_mode()
def test_backbone_sees_each_sample_alone(name: str, device: torch.device) -> None:
    """Features are numbers, differ between inputs, and do not depend on what else is in the batch."""
    settings, shape = BACKBONES[name]
    model = MODELS.build(settings)
    model.init_weights()
    shaken(model).to(device)
    first, second = torch.randn(2, *shape, device=device)

    def run(batch: torch.Tensor) -> torch.Tensor:
        output = model(batch)
        while not isinstance(output, torch.Tensor):
            output = output[-1]
        return output

    together, alone = run(torch.stack([first, second])), run(first[None])
    assert together.isfinite().all()
    scale = together.abs().max()
    assert_close(together[:1] / scale, alone / scale)
    assert (together[0] - together[1]).abs().max() > 1e-2 * scale


def test_skeleton_graph() -> None:
    """COCO's skeleton splits into self, inward and outward links, and each joint's links weigh one in sum."""
    links = np.eye(17)
    for limb in COCO_LIMBS.split():
        one, other = map(int, limb.split("-"))
        links[one, other] = links[other, one] = 1
    parts = Graph(layout="coco", mode="stgcn_spatial").A
    assert parts.shape == (3, 17, 17)
    np.testing.assert_allclose(parts.sum(axis=0), links / links.sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(parts[0] > 0, np.eye(17) > 0)


@torch.inference_mode()
def test_graph_convolution_equals_its_definition(device: torch.device) -> None:
    """Each subset has its own weights; features flow along its links, written here as loops over joints."""
    links = torch.rand(3, 5, 5)
    layer = shaken(unit_gcn(4, 6, links, adaptive=None)).to(device)
    inputs = torch.randn(2, 4, 7, 5)
    found = layer(inputs.to(device)).cpu()
    layer.cpu()
    kernel, bias = layer.conv.weight.reshape(3, 6, 4), layer.conv.bias.reshape(3, 6)
    mixed = torch.zeros(2, 6, 7, 5)
    for part in range(3):
        for source in range(5):
            message = torch.einsum("oc,nct->not", kernel[part], inputs[..., source]) + bias[part][:, None]
            for target in range(5):
                mixed[..., target] += links[part, source, target] * message
    expected = layer.bn(mixed).relu()
    assert_close(found, expected)


@torch.inference_mode()
def test_skeleton_recognition(device: torch.device) -> None:
    """ST-GCN on NTU-60, from poses to scores: probabilities, the same ones when the two persons change places."""
    config = CONFIGURATIONS / "skeleton/stgcn/stgcn_8xb16-joint-u100-80e_ntu60-xsub-keypoint-2d.py"
    model = shaken(init_recognizer(str(config), device="cpu")).to(device)
    nn.init.normal_(model.cls_head.fc.weight, std=3)
    source = np.random.default_rng(5)
    walk = source.normal(size=(40, 2, 17, 2)).cumsum(axis=0) + source.uniform(100, 300, (1, 2, 17, 2))
    scores = []
    for order in ([0, 1], [1, 0], [0, 0]):
        poses = [{"keypoints": frame[order], "keypoint_scores": np.ones((2, 17))} for frame in walk]
        scores.append(inference_skeleton(model, poses, (480, 640)).pred_score.cpu())
    assert scores[0].shape == (60,)
    assert_close(scores[0].sum(), torch.tensor(1.0))
    assert_close(scores[0], scores[1])
    assert (scores[0] - scores[2]).abs().max() > 1e-3
