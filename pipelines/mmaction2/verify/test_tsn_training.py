"""A small TSN trained on videos that the suite draws: it learns, and resumes where it was cut off.

It runs on the device that MMEngine itself picks: the GPU where one is visible.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from mmaction.utils import register_all_modules
from mmengine.hooks import Hook
from mmengine.runner import Runner
from moving_patterns import one_bright_channel, write_video

if TYPE_CHECKING:
    from pathlib import Path

PIPELINE = [
    {"type": "DecordInit"},
    {"type": "SampleFrames", "clip_len": 1, "num_clips": 2, "test_mode": True},
    {"type": "DecordDecode"},
    {"type": "Resize", "scale": (32, 32), "keep_ratio": False},
    {"type": "FormatShape", "input_format": "NCHW"},
    {"type": "PackActionInputs"},
]
MODEL = {
    "type": "Recognizer2D",
    "backbone": {
        "type": "ResNet",
        "depth": 18,
        "num_stages": 1,
        "strides": (1,),
        "dilations": (1,),
        "out_indices": (0,),
    },
    # No dropout: a Runner does not save the state of the random generators, so that a resumed training draws others.
    "cls_head": {"type": "TSNHead", "num_classes": 3, "in_channels": 64, "dropout_ratio": 0, "average_clips": "prob"},
    "data_preprocessor": {
        "type": "ActionDataPreprocessor",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "format_shape": "NCHW",
    },
}


class PowerCutError(Exception):
    """Ends a training in the middle."""


class PowerCut(Hook):  # type: ignore[misc]  # the layer carries no types
    """Ends the training before its third epoch, when two have been saved."""

    def before_train_epoch(self, runner: Runner) -> None:
        """Raise after two epochs."""
        if runner.epoch == 2:
            raise PowerCutError


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Six videos, two of each class, and the list that names them with their classes."""
    lines = []
    for index in range(6):
        # decord 0.6 refuses rows that FFmpeg pads, as those of 48 pixels
        frames = one_bright_channel(index % 3, width=64, height=48, frames=6)
        write_video(tmp_path / f"{index}.mp4", frames)
        lines.append(f"{index}.mp4 {index % 3}\n")
    (tmp_path / "list.txt").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def loader(videos: Path, *, shuffle: bool) -> dict[str, Any]:
    """Return the settings of a loader of the videos."""
    data = {"type": "VideoDataset", "ann_file": str(videos / "list.txt"), "data_prefix": {"video": str(videos)}}
    return {
        "batch_size": 3,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": shuffle},
        "dataset": data | {"pipeline": PIPELINE},
    }


def runner(videos: Path, folder: str, *, name: str, **options: Any) -> Runner:  # noqa: ANN401  # Runner's own options
    """Return a Runner that trains for four epochs, validates after each, and saves each and the best."""
    register_all_modules(init_default_scope=True)
    settings: dict[str, Any] = {
        "train_cfg": {"by_epoch": True, "max_epochs": 4},
        "train_dataloader": loader(videos, shuffle=True),
        "val_cfg": {},
        "val_dataloader": loader(videos, shuffle=False),
        "val_evaluator": {"type": "AccMetric"},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9}},
        "param_scheduler": {"type": "MultiStepLR", "milestones": [2, 3], "gamma": 0.5},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1, "save_best": "auto"}},
        "randomness": {"seed": 3, "deterministic": True},
        "default_scope": "mmaction",
    }
    return Runner(MODEL, str(videos / folder), experiment_name=name, log_level="ERROR", **settings | options)


@pytest.fixture
def _reproducible(monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401  # a generator fixture
    """Let PyTorch be deterministic for one training, and as it was afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(mode=False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.usefixtures("_reproducible")
def test_resumed_training_equals_training_at_one_go(videos: Path) -> None:
    """Two epochs, a cut, and two more end in the same bits as four; all six videos are then known."""
    straight = runner(videos, "whole", name="tsn whole")
    whole = straight.train()
    assert straight.message_hub.get_scalar("val/acc/top1").current() == 1

    with pytest.raises(PowerCutError):
        runner(videos, "parts", name="tsn first", custom_hooks=[PowerCut()]).train()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(videos / "parts/epoch_2.pth", weights_only=True)
    second = runner(videos, "parts", name="tsn second", resume=True)
    resumed = second.train()
    assert second.iter == 8
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.state_dict().items())
