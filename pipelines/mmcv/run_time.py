"""Times ops of two builds of mmcv in turn: `python run_time.py FIRST SECOND`, two wheels.

The Python needs torch, mmengine and what mmcv requires, and MMAction2 for one of the calls; nothing of this project. On
a GPU where torch sees one, with ops besides that have kernels there alone, else on the CPU.

Each round starts a Python for each build, and one more for a second copy of the first. What is shown is the median over
rounds of each build's quickest call, in milliseconds, with the least and the most; the median of the rounds' ratios,
the second over the first; and its noise: between what that median lies in 95 of 100 cases where as many ratios are
drawn from those of the first and its copy. JSON on standard output.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

ROUNDS, CALLS, SECONDS = 9, 30, 3.0
DRAWINGS = 2000
SIDES = ("first", "again", "second")
TSN = "recognition/tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x8-100e_kinetics400-rgb.py"


def cases() -> dict[str, Callable[[], object]]:
    """Return the calls to time, by name, on inputs that are the same in each process."""
    import torch  # noqa: PLC0415 - the worker alone needs it
    from mmcv import ops  # noqa: PLC0415 - the same

    torch.manual_seed(0)
    cuda = torch.cuda.is_available()
    device, scale = torch.device("cuda" if cuda else "cpu"), 4 if cuda else 1
    corners = torch.rand(2000 * scale, 2) * 900
    boxes = torch.cat([corners, corners + torch.rand(len(corners), 2) * 90], 1).to(device)
    scores = torch.rand(len(boxes)).to(device)
    turned = torch.cat([boxes[:600, :2], boxes[:600, 2:] - boxes[:600, :2], scores[:600, None] * 3], 1)
    image = torch.randn(2, 64 * scale, 100, 152).to(device)
    rois = torch.cat([torch.zeros(512, 1).to(device), boxes[:512]], 1)
    offset, weight = torch.randn(2, 18, 100, 152).to(device), torch.randn(64, 64 * scale, 3, 3).to(device)
    found: dict[str, Callable[[], object]] = {
        "nms": lambda: ops.nms(boxes, scores, 0.5),
        "box_iou_rotated": lambda: ops.box_iou_rotated(turned, turned),
        "roi_align": lambda: ops.roi_align(image, rois, 7, 0.125, 2),
        "deform_conv2d": lambda: ops.deform_conv2d(image, offset, weight, 1, 1),
    }
    if cuda:
        shapes = torch.tensor([[100, 152], [50, 76], [25, 38]], device=device)
        starts = torch.tensor([0, 15200, 19000], device=device)
        value = torch.randn(2, 19950, 8, 32, device=device)
        places = torch.rand(2, 19950, 8, 3, 4, 2, device=device)
        weights = torch.softmax(torch.randn(2, 19950, 8, 12, device=device), -1).view(2, 19950, 8, 3, 4)
        attend = ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply
        found["ms_deform_attn"] = lambda: attend(value, shapes, starts, places, weights, 64)
        logits, labels = torch.randn(200000, 80, device=device), torch.randint(80, (200000,), device=device)
        found["sigmoid_focal_loss"] = lambda: ops.sigmoid_focal_loss(logits, labels, 2.0, 0.25, None, "none")
    if importlib.util.find_spec("mmaction"):
        found["TSN inference"] = recognizer(device)
    else:
        print("TSN inference is not timed: there is no mmaction", file=sys.stderr)  # noqa: T201 - for whoever runs it
    return found


def recognizer(device: torch.device) -> Callable[[], object]:
    """Return what MMAction2's TSN makes of three frames; its weights are random."""
    import mmaction  # noqa: PLC0415 - as above
    import torch  # noqa: PLC0415 - as above
    from mmaction.apis import init_recognizer  # noqa: PLC0415 - as above
    from mmengine import Config  # noqa: PLC0415 - as above

    config = Config.fromfile(Path(mmaction.__file__).parent / ".mim" / "configs" / TSN)
    config.model.backbone.pretrained = None  # it names a download
    model = init_recognizer(config, device=device)
    frames = torch.randn(1, 3, 3, 224, 224).to(device)
    return torch.no_grad()(lambda: model(frames, mode="tensor"))


def measure() -> dict[str, float]:
    """Return the milliseconds of each case's quickest call."""
    import torch  # noqa: PLC0415 - as above

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    results = {}
    for name, call in cases().items():
        seconds: list[float] = []
        while len(seconds) < CALLS and sum(seconds) < SECONDS:
            wait()
            start = time.perf_counter()
            call()
            wait()
            seconds.append(time.perf_counter() - start)
        results[name] = min(seconds) * 1000
    return results


def timed(folder: Path) -> dict[str, float]:
    """Return what a Python of its own measures of the mmcv in a folder."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, __file__, "--measure"]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, check=True, stdout=subprocess.PIPE)  # noqa: S603 - ourselves
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    """Return of each call what the rounds of all sides say."""
    found = {}
    for name in rounds["first"][0]:
        first, again, second = ([each[name] for each in rounds[side]] for side in SIDES)
        found[name] = {
            "first_ms": round(statistics.median(first), 4),
            "first_range": _range(first, 4),
            "second_ms": round(statistics.median(second), 4),
            "second_range": _range(second, 4),
            "ratio": round(statistics.median(y / x for x, y in zip(first, second, strict=True)), 3),
            "noise": noise([y / x for x, y in zip(first, again, strict=True)]),
        }
    return found


def noise(ratios: Sequence[float]) -> tuple[float, float]:
    """Return between what the median of as many ratios of two equal builds lies in 95 of 100 cases.

    Which of the two came first is nothing of theirs, so each ratio counts the other way round as well.
    """
    both, dice = [*ratios, *(1 / each for each in ratios)], random.Random(1)  # noqa: S311 - no secret
    medians = sorted(statistics.median(dice.choices(both, k=len(ratios))) for _ in range(DRAWINGS))
    return _range(medians[DRAWINGS // 40 : -(DRAWINGS // 40)], 3)


def _range(values: Sequence[float], digits: int) -> tuple[float, float]:
    return round(min(values), digits), round(max(values), digits)


def main(first: str, second: str) -> None:
    """Time both, and the first twice, in turn, and print what was found."""
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        for side, wheel in zip(SIDES, (first, first, second), strict=True):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(Path(scratch, side))
        for turn in range(ROUNDS):
            for number in range(len(SIDES)):  # each comes first in its turn
                side = SIDES[(turn + number) % len(SIDES)]
                rounds[side].append(timed(Path(scratch, side)))
    print(json.dumps(table(rounds), indent=2))  # noqa: T201 - what this program is for


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        print(json.dumps(measure()))  # noqa: T201 - as above
    else:
        main(*sys.argv[1:])
