"""Ops that have a kernel for CUDA alone, held against their definitions; not run without a GPU."""

from __future__ import annotations

import reference_boxes
import reference_features as reference
import torch
from checks import close, on_gpu, same
from mmcv import ops
from torch import Tensor

pytestmark = on_gpu


def test_sigmoid_focal_loss(device: torch.device) -> None:
    """Focal loss (Lin et al., 2017) of independent classes, weighted by the class of each row."""
    target, weight = torch.tensor([0, 2, 3, 1, 4], device=device), (torch.rand(4, device=device) + 0.5)

    def expected(logits: Tensor) -> Tensor:
        hit = torch.nn.functional.one_hot(target, 5)[:, :4].bool()
        chance = torch.where(hit, logits.sigmoid(), (-logits).sigmoid())
        alpha = torch.where(hit, 0.3, 0.7).double()
        loss = -alpha * (1 - chance) ** 2.5 * chance.log()
        return (loss * weight.double()[target.clamp(max=3)][:, None])[target < 4].sum() / 5

    rows = target < 4

    def actual(logits: Tensor) -> Tensor:
        loss: Tensor = ops.sigmoid_focal_loss(logits[rows], target[rows], 2.5, 0.3, weight, "sum")
        return loss / 5

    same(actual, expected, [torch.randn(5, 4)], torch.float32, device)


def test_softmax_focal_loss(device: torch.device) -> None:
    """Focal loss of exclusive classes: the mean over the rows."""
    target, weight = torch.tensor([0, 2, 3, 1, 2], device=device), (torch.rand(4, device=device) + 0.5)

    def expected(logits: Tensor) -> Tensor:
        chance = logits.softmax(1)[torch.arange(5), target]
        return (-0.3 * (1 - chance) ** 2.5 * chance.log() * weight.double()[target]).mean()

    same(
        lambda logits: ops.softmax_focal_loss(logits, target, 2.5, 0.3, weight, "mean"),
        expected,
        [torch.randn(5, 4)],
        torch.float32,
        device,
    )


def test_roi_pool(device: torch.device) -> None:
    """Largest pixel of each bin (Girshick, 2015); bins of whole pixels, clipped to the image, zero where empty."""
    rois = torch.tensor([[0, 0, 1, 6, 5], [1, 2, 0, 12, 3], [1, 3, 3, 3, 3], [0, 20, 20, 25, 25]])

    def expected(image: Tensor) -> Tensor:
        pooled = []
        for n, x1, y1, x2, y2 in rois.tolist():
            for i in range(3):
                for j in range(2):
                    top, bottom = y1 + (y2 + 1 - y1) * i // 3, y1 - (y2 + 1 - y1) * (i + 1) // -3
                    left, right = x1 + (x2 + 1 - x1) * j // 2, x1 - (x2 + 1 - x1) * (j + 1) // -2
                    window = image[n, :, top:bottom, left:right]
                    pooled.append(window.amax((1, 2)) if window.numel() else image[n, :, 0, 0] * 0)
        return torch.stack(pooled).reshape(4, 3, 2, 3).permute(0, 3, 1, 2)

    same(
        lambda image: ops.roi_pool(image, rois.to(image), (3, 2)),
        expected,
        [torch.randn(2, 3, 7, 9)],
        torch.float32,
        device,
    )


def test_border_align(device: torch.device) -> None:
    """Largest of the samples along each side of a box (BorderDet, Qiu et al., 2020), each with channels of its own."""
    start = torch.rand(2, 20, 2) * 5 - 1
    boxes = torch.cat([start, start + torch.rand(2, 20, 2) * 4 + 0.5], dim=-1).to(device)

    def expected(image: Tensor) -> Tensor:
        steps = torch.arange(4, dtype=torch.float64, device=device) / 3
        x1, y1, x2, y2 = (each[..., None] for each in boxes.double().unbind(-1))
        across, down = steps * (x2 - x1), steps * (y2 - y1)
        sides = [(y1 + 0 * across, x1 + across), (y1 + down, x1 + 0 * down)]
        sides += [(y2 + 0 * across, x2 - across), (y2 - down, x2 + 0 * down)]
        parts = image.reshape(2, 4, 3, 4, 5)
        pooled = [
            torch.stack([reference.sample_near(parts[n, k], y[n], x[n]).amax(-1) for n in range(2)])
            for k, (y, x) in enumerate(sides)
        ]
        return torch.stack(pooled, dim=-1)

    same(lambda image: ops.border_align(image, boxes, 3), expected, [torch.randn(2, 12, 4, 5)], torch.float32, device)


def test_masked_conv2d(device: torch.device) -> None:
    """A convolution at the masked pixels, zero elsewhere."""
    image, mask = torch.randn(1, 3, 6, 7, device=device), torch.rand(1, 6, 7, device=device) > 0.6
    weight, bias = torch.randn(4, 3, 3, 3, device=device), torch.randn(4, device=device)
    expected = torch.nn.functional.conv2d(image.double(), weight.double(), bias.double(), padding=1) * mask
    close(ops.masked_conv2d(image, mask.float(), weight, bias, 1), expected)


def test_points_in_polygons(device: torch.device) -> None:
    """Which points lie in which quadrilaterals."""
    points = torch.rand(200, 2) * 10
    boxes = torch.cat([torch.rand(7, 2) * 8 + 1, torch.rand(7, 2) * 4 + 1, torch.rand(7, 1) * 6], dim=1)
    polygons = [reference_boxes.corners(box) for box in boxes.double().numpy()]
    expected = torch.tensor(
        [
            [
                all(
                    reference_boxes.signed_area(torch.stack([a, b, point]).numpy()) > 0
                    for a, b in zip(polygon, polygon.roll(-1, 0), strict=True)
                )
                for polygon in map(torch.from_numpy, polygons)
            ]
            for point in points.double()
        ]
    )
    assert expected.any(0).all()
    quads = torch.tensor([polygon.reshape(-1).tolist() for polygon in polygons], device=device)
    close(ops.points_in_polygons(points.to(device), quads), expected.float())


def nearest(points: Tensor, others: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances to, and indices of, the nearest other points, nearest first."""
    return torch.cdist(points.double(), others.double()).topk(count, largest=False)


def test_neighbours(device: torch.device) -> None:
    """The nearest three with their distances, and the nearest five."""
    points, others = torch.randn(2, 50, 3), torch.randn(2, 40, 3)
    distances, indices = nearest(points, others, 5)
    actual, places = ops.three_nn(points.to(device), others.to(device))
    close(actual, distances[..., :3])
    assert torch.equal(places.cpu().long(), indices[..., :3])
    places = ops.knn(5, others.to(device), points.to(device))
    assert torch.equal(places.cpu().long(), indices.transpose(1, 2))


def test_three_interpolate(device: torch.device) -> None:
    """Weighted sums of three features, and their gradient."""
    indices = torch.randint(40, (2, 50, 3), dtype=torch.int32, device=device)
    weights = torch.rand(2, 50, 3, device=device)
    same(
        lambda features: ops.three_interpolate(features, indices, weights),
        lambda features: torch.stack(
            [(features[n][:, indices[n].long()] * weights[n].double()).sum(-1) for n in range(2)]
        ),
        [torch.randn(2, 4, 40)],
        torch.float32,
        device,
    )


def test_gathering(device: torch.device) -> None:
    """Features of points, one by one and in groups, and their gradients."""
    one = torch.randint(40, (2, 50), dtype=torch.int32, device=device)
    same(
        lambda features: ops.gather_points(features, one),
        lambda features: torch.stack([features[n][:, one[n].long()] for n in range(2)]),
        [torch.randn(2, 4, 40)],
        torch.float32,
        device,
    )
    groups = torch.randint(40, (2, 30, 5), dtype=torch.int32, device=device)
    same(
        lambda features: ops.grouping_operation(features, groups),
        lambda features: torch.stack([features[n][:, groups[n].long()] for n in range(2)]),
        [torch.randn(2, 4, 40)],
        torch.float32,
        device,
    )


def test_ball_query(device: torch.device) -> None:
    """The first points within the shell about each centre, the first of them repeated to fill up."""
    points, centres = torch.rand(2, 80, 3), torch.rand(2, 20, 3)
    distances = torch.cdist(centres.double(), points.double())
    expected = torch.zeros(2, 20, 6, dtype=torch.int32)
    for n in range(2):
        for i in range(20):
            found = torch.nonzero((distances[n, i] >= 0.1) & (distances[n, i] < 0.4))[:, 0][:6].int()
            if len(found):
                expected[n, i] = found[0]
                expected[n, i, : len(found)] = found
    assert torch.equal(ops.ball_query(0.1, 0.4, 6, points.to(device), centres.to(device)).cpu(), expected)


def test_furthest_point_sample(device: torch.device) -> None:
    """From the first point on, always the one furthest from all taken."""
    points = torch.rand(2, 60, 3)
    apart = torch.cdist(points.double(), points.double())
    expected = []
    for n in range(2):
        taken = [0]
        while len(taken) < 15:
            taken.append(int(apart[n][taken].amin(0).argmax()))
        expected.append(taken)
    assert ops.furthest_point_sample(points.to(device), 15).tolist() == expected


def test_chamfer_distance(device: torch.device) -> None:
    """Squared distance to the nearest point of the other set, either way; sizes that no unrolling divides."""
    first, second = torch.randn(2, 103, 2), torch.randn(2, 90, 2)
    actual = ops.chamfer_distance(first.to(device), second.to(device))
    for (distances, indices), wanted in zip(
        [nearest(first, second, 1), nearest(second, first, 1)], [actual[::2], actual[1::2]], strict=True
    ):
        close(wanted[0], distances[..., 0] ** 2)
        assert torch.equal(wanted[1].cpu().long(), indices[..., 0])
