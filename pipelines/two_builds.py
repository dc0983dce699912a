"""Hold two builds of mmcv's ops against each other: `python two_builds.py WHEEL WHEEL`, by the Python of a built stack.

Both must export the same names, say the same of their compilation, and give the same bits for the same inputs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any


def record(into: Path) -> None:
    """Write what the mmcv on the path exports and computes."""
    import torch  # noqa: PLC0415 - only the stack's Python has it
    from mmcv import _ext, ops  # noqa: PLC0415

    torch.manual_seed(5)
    torch.set_num_threads(1)
    corner, size = torch.rand(200, 2) * 60, torch.rand(200, 2) * 20 + 1
    boxes, scores = torch.cat([corner, corner + size], 1), torch.rand(200)
    rotated = torch.cat([corner, size, torch.rand(200, 1) * 3], 1)
    image, offset = torch.randn(2, 8, 20, 20), torch.randn(2, 18, 20, 20)
    mask, weight = torch.rand(2, 9, 20, 20), torch.randn(8, 8, 3, 3)
    rois = torch.cat([torch.arange(200).unsqueeze(1) % 2, boxes / 4], 1)
    turned = torch.cat([torch.arange(200).unsqueeze(1) % 2, rotated / 4], 1)
    points = torch.rand(500, 4) * 10
    results: dict[str, Any] = {
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
        "said": [ops.get_compiler_version(), ops.get_compiling_cuda_version()],
        "names": sorted(name for name in dir(_ext) if not name.startswith("_")),
    }
    torch.save(results, into)


def differences(first: Any, second: Any) -> bool:  # noqa: ANN401 - results of any op
    """Return whether two results differ in a bit."""
    if isinstance(first, (list, tuple)):
        return len(first) != len(second) or any(map(differences, first, second))
    same = first.equal(second) if hasattr(first, "equal") else (first == second)
    return not bool(same if isinstance(same, bool) else same.all())


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
    first, second = found
    bad = [name for name in first if differences(first[name], second[name])]
    print(f"{len(first['names'])} names, {len(first) - 2} ops; not the same: {', '.join(bad) or 'none'}")  # noqa: T201
    sys.exit(bool(bad))


if __name__ == "__main__":
    if sys.argv[1] == "--record":
        sys.path.insert(0, sys.argv[2])
        record(Path(sys.argv[2], "results.pt"))
    else:
        main(sys.argv[1:])
