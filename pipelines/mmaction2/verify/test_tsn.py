"""TSN ResNet-50 on Kinetics-400, end to end, against an independent pipeline with the same weights.

The configuration's own test setting, 25 segments with ten crops each, costs 250 passes through ResNet-50: half a
minute on one core, and it is needed four times. What the pipeline makes of a video is therefore compared at that full
setting, bit for bit; the network runs on 3 segments, set through the configuration's own `num_clips`, so 30 crops.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import decord
import numpy as np
import pytest
import torch
from mmaction.apis import inference_recognizer, init_recognizer
from mmaction.registry import TRANSFORMS
from mmengine.dataset import Compose
from moving_patterns import waves_and_disc, write_video
from plain_pipeline import all_crops, normalize, read_frames, resize_short_side, ten_crops
from plain_resnet import tsn_logits
from tsn_checkpoint import save_checkpoint, tsn_config

if TYPE_CHECKING:
    from conftest import Facts

SEGMENTS, FULL_SEGMENTS = 3, 25
# An odd number of frames: no middle of a segment falls on a whole number, where rounding could go either way.
FRAMES = 71
# Fifty layers of float32, summed in another order, were measured to differ by 2.4e-6 where logits deviate by 2, and the
# mildest mistake below by 7e-2. On CUDA, TF32 off, cuDNN may choose transformed convolutions, which round more.
TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}

CHECKPOINT_SHA256 = "2692d16c"
VIDEO_SHA256 = "071e60535eaf0aed475ddac06269ee0cdfc4740158f22d9ccd2c3b93b42aa344"
ARM_WRESTLING = 6  # its line in Kinetics-400's alphabetical list of labels, counted from 0


class Answer(NamedTuple):
    """What a recognizer says of a video."""

    logits: torch.Tensor
    scores: torch.Tensor
    label: int


def recognize(checkpoint: Path, video: Path, device: torch.device, *, segments: int) -> Answer:
    """Do what a user does: make a recognizer from configuration and checkpoint, and show it the video."""
    model = init_recognizer(tsn_config(segments=segments), str(checkpoint), device=device)
    logits = []
    model.cls_head.register_forward_hook(lambda _module, _inputs, output: logits.append(output.cpu()))
    result = inference_recognizer(model, str(video))
    return Answer(torch.cat(logits)[0], result.pred_score.cpu(), int(result.pred_label))


@pytest.fixture(autouse=True)
def _exact_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take cuDNN's reproducible algorithms, in full precision."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that the pipeline has to shrink, whose sides have no common scale."""
    frames = waves_and_disc(width=352, height=288, frames=FRAMES)
    return write_video(tmp_path_factory.mktemp("video") / "patterns.mp4", frames)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training checkpoint with weights from a fixed seed."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tsn.pth")


@pytest.fixture(scope="module")
def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's weights, read by PyTorch alone."""
    loaded: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=False)["state_dict"]
    return loaded


@pytest.fixture(scope="module")
def expected(video: Path, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of the independent pipeline, on the CPU."""
    with torch.inference_mode():
        return tsn_logits(torch.from_numpy(normalize(all_crops(video, SEGMENTS))), weights)


def test_decoders_agree(video: Path) -> None:
    """Decord and OpenCV see the same frames, up to how their two FFmpegs round colours.

    A level of mean difference is the bound; the next frame differs by ten, swapped channels by fifty.
    """
    ours = np.stack(read_frames(video)).astype(int)
    theirs = decord.VideoReader(str(video)).get_batch(range(FRAMES)).asnumpy()
    assert ours.shape == theirs.shape == (FRAMES, 288, 352, 3)
    assert np.abs(ours - theirs).mean() <= 1
    assert np.abs(ours[1:] - theirs[:-1]).mean() > 5


def test_pipeline_makes_the_same_crops(video: Path) -> None:
    """At the full test setting, all 250 crops equal those of the independent pipeline, bit for bit, in its order."""
    steps = tsn_config(segments=FULL_SEGMENTS).test_pipeline
    data = {"filename": str(video), "label": -1, "start_index": 0, "modality": "RGB"}
    found = Compose([TRANSFORMS.build(step) for step in steps])(data)["inputs"].numpy()
    assert found.shape == (10 * FULL_SEGMENTS, 3, 224, 224)
    np.testing.assert_array_equal(found, all_crops(video, FULL_SEGMENTS))


def test_full_test_setting_is_the_configuration_s_own() -> None:
    """The setting compared above is the one that the configuration ships with."""
    shipped = tsn_config(segments=FULL_SEGMENTS)
    assert shipped.test_pipeline == shipped.test_dataloader.dataset.pipeline


def test_recognition_equals_the_plain_pipeline(
    checkpoint: Path, video: Path, expected: torch.Tensor, device: torch.device
) -> None:
    """Logits, scores and label are those of sampling, cropping and ResNet-50 written without MMAction2."""
    answer = recognize(checkpoint, video, device, segments=SEGMENTS)
    bound = TOLERANCE[device.type]
    torch.testing.assert_close(answer.logits, expected, rtol=0, atol=bound)
    torch.testing.assert_close(answer.scores, (expected - expected.logsumexp(dim=0)).exp(), rtol=0, atol=bound)
    assert answer.label == expected.argmax()


def test_two_runs_give_the_same_bits(checkpoint: Path, video: Path, device: torch.device) -> None:
    """From loading to scores, nothing depends on chance."""
    first, second = (recognize(checkpoint, video, device, segments=1) for _ in range(2))
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.scores, second.scores)


def test_small_mistakes_are_seen(video: Path, weights: dict[str, torch.Tensor]) -> None:
    """Swapped channels, a neighbouring frame or a crop off by one move the logits far beyond the tolerance."""
    frames = [resize_short_side(frame, 256) for frame in read_frames(video)[10:12]]
    crop = ten_crops(frames[:1], 224)[:1]
    mistakes = (crop[:, ::-1], ten_crops(frames[1:], 224)[:1], np.roll(crop, 1, axis=-1))
    images = torch.from_numpy(np.concatenate([normalize(each) for each in (crop, *mistakes)]))
    with torch.inference_mode():
        right, *wrong = (tsn_logits(image[None], weights) for image in images)
    assert right.std() > 0.5
    assert all((right - logits).abs().max() > 100 * TOLERANCE["cpu"] for logits in wrong)


def test_official_checkpoint_sees_arm_wrestling(facts: Facts, device: torch.device) -> None:
    """The published weights, at the full test setting, name what the project's demonstration video shows."""
    checkpoint, video = facts.options.get("checkpoint", ""), facts.options.get("video", "")
    if not (checkpoint and video):
        pytest.skip("not run: needs the official checkpoint and demonstration video (--checkpoint, --video)")
    assert hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest().startswith(CHECKPOINT_SHA256)
    assert hashlib.sha256(Path(video).read_bytes()).hexdigest() == VIDEO_SHA256
    answer = recognize(Path(checkpoint), Path(video), device, segments=FULL_SEGMENTS)
    assert answer.label == ARM_WRESTLING
    assert answer.scores[ARM_WRESTLING] > 0.99
