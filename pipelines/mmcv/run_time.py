"""Times ops of two builds of mmcv in turn: `python run_time.py FIRST SECOND`, folders that each hold a package `mmcv`.

Each round starts a Python for each build; what is shown is the median over rounds of each build's quickest call, in
milliseconds, and the second over the first. On a GPU where torch sees one, else on the CPU. JSON on standard output.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

ROUNDS, CALLS, SECONDS = 7, 30, 3.0
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
    found["TSN inference"] = recognizer(device)
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


def main(first: str, second: str) -> None:
    """Time both, in turn, and print what was found."""
    rounds: dict[str, list[dict[str, float]]] = {first: [], second: []}
    for _ in range(ROUNDS):
        for folder, found in rounds.items():
            path = os.pathsep.join([str(Path(folder).resolve()), os.environ.get("PYTHONPATH", "")])
            words = [sys.executable, __file__, "--measure"]
            done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, check=True, stdout=subprocess.PIPE)  # noqa: S603 - ourselves
            found.append(json.loads(done.stdout.splitlines()[-1]))
    table = {}
    for name in rounds[first][0]:
        a, b = (statistics.median(each[name] for each in rounds[folder]) for folder in (first, second))
        table[name] = {"first_ms": round(a, 4), "second_ms": round(b, 4), "ratio": round(b / a, 3)}
    print(json.dumps(table, indent=2))  # noqa: T201 - what this program is for


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        print(json.dumps(measure()))  # noqa: T201 - as above
    else:
        main(*sys.argv[1:])
