"""Hold two builds of mmcv's ops against each other: `python two_builds.py WHEEL WHEEL`, by the Python of a built stack.

Both must export the same names, say the same of their compilation, and give the same bits for the same inputs. Two
builds for CUDA are imported as those for the CPU are: for that the stack's Python needs its torch for CUDA, and no GPU.
What they compute on a GPU needs one; where torch sees none, it is said that this was not compared. The names are those
of every build, whichever kernels are in it: these are compared, without a GPU, by `benchmarks/machine_code.py`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

NO_CUDA = "not available"  # which CUDA it was compiled with, as a build for the CPU says


def record(into: Path) -> None:
    """Write what the mmcv on the path exports, and computes on the CPU and on a GPU that torch sees."""
    import torch  # noqa: PLC0415 - only the stack's Python has it
    from mmcv import _ext, ops  # noqa: PLC0415

    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "said": [ops.get_compiler_version(), ops.get_compiling_cuda_version()],
        "names": sorted(name for name in dir(_ext) if not name.startswith("_")),
    }
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        results |= {f"{name} on {device}": found for name, found in computed(device).items()}
    torch.save(results, into)


def computed(device: str) -> dict[str, Any]:
    """Return what ops give on a device, for inputs that are the same on each."""
    import torch  # noqa: PLC0415 - as above
    from mmcv import ops  # noqa: PLC0415

    torch.manual_seed(5)
    corner, size = torch.rand(200, 2) * 60, torch.rand(200, 2) * 20 + 1
    boxes, scores = torch.cat([corner, corner + size], 1), torch.rand(200)
    rotated = torch.cat([corner, size, torch.rand(200, 1) * 3], 1)
    image, offset = torch.randn(2, 8, 20, 20), torch.randn(2, 18, 20, 20)
    mask, weight = torch.rand(2, 9, 20, 20), torch.randn(8, 8, 3, 3)
    rois = torch.cat([torch.arange(200).unsqueeze(1) % 2, boxes / 4], 1)
    turned = torch.cat([torch.arange(200).unsqueeze(1) % 2, rotated / 4], 1)
    points, logits, labels = torch.rand(500, 4) * 10, torch.randn(200, 8), torch.randint(8, (200,))
    inputs = (boxes, scores, rotated, image, offset, mask, weight, rois, turned, points, logits, labels)
    boxes, scores, rotated, image, offset, mask, weight, rois, turned, points, logits, labels = (
        each.to(device) for each in inputs
    )
    results = {
        "nms": ops.nms(boxes, scores, 0.4),
        "soft_nms": ops.soft_nms(boxes, scores, 0.4),
        "nms_match": ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.4),
        "nms_rotated": ops.nms_rotated(rotated, scores, 0.4),
        "box_iou_rotated": ops.box_iou_rotated(rotated, rotated),
        "bbox_overlaps": ops.bbox_overlaps(boxes, boxes),
        "roi_align": ops.roi_align(image, rois, (5, 5)),
        "roi_align_rotated": ops.roi_align_rotated(image, turned, (5, 5), 1.0),
        "deform_conv2d": ops.deform_conv2d(image, offset, weight, 1, 1),
        "modulated_deform_conv2d": ops.modulated_deform_conv2d(image, offset, mask, weight, None, 1, 1),
        "voxelization": ops.Voxelization([1, 1, 1], [0, 0, 0, 10, 10, 10], 5, 50)(points),
    }
    if device == "cuda":  # which alone has kernels for it
        results["sigmoid_focal_loss"] = ops.sigmoid_focal_loss(logits, labels, 2.0, 0.25, None, "none")
    return results


def differences(first: Any, second: Any) -> bool:  # noqa: ANN401 - results of any op
    """Return whether two results differ in a bit."""
    if isinstance(first, (list, tuple)):
        return len(first) != len(second) or any(map(differences, first, second))
    same = first.equal(second) if hasattr(first, "equal") else (first == second)
    return not bool(same if isinstance(same, bool) else same.all())


def report(first: dict[str, Any], second: dict[str, Any]) -> tuple[str, bool]:
    """Return in words how what two builds gave compares, and whether it is the same."""
    bad = [name for name in first if differences(first[name], second[name])]
    results = [name for name in first if " on " in name]
    text = f"{len(first['names'])} names, {len(results)} results; not the same: {', '.join(bad) or 'none'}"
    if first["said"][1] != NO_CUDA and not any(name.endswith(" on cuda") for name in results):
        text += "; results on a GPU: not compared, for torch sees none"
    return text, not bad


def main(wheels: list[str]) -> None:
    """Record each build in a process of its own, and compare."""
    import torch  # noqa: PLC0415

    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, wheel in enumerate(wheels):
            folder = Path(scratch, str(number))
            zipfile.ZipFile(wheel).extractall(folder)
            subprocess.run([sys.executable, __file__, "--record", folder], check=True, cwd=folder)  # noqa: S603 - ours
            found.append(torch.load(folder / "results.pt", weights_only=False))
    text, same = report(*found)
    print(text)  # noqa: T201
    sys.exit(not same)


if __name__ == "__main__":
    if sys.argv[1] == "--record":
        sys.path.insert(0, sys.argv[2])
        record(Path(sys.argv[2], "results.pt"))
    else:
        main(sys.argv[1:])
