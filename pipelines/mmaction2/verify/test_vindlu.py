"""What of VindLU, a model of video and language, runs without the optional project that it needs, transformers."""

from __future__ import annotations

import re
from importlib.metadata import requires
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmaction
import numpy as np
import pytest
import torch
from mmaction.registry import MODELS
from mmaction.utils.dependency import WITH_MULTIMODAL
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

FOLDER = Path(mmaction.__file__).parent / "models" / "multimodal" / "vindlu"
EXTRA_TOKENS = 3


def module(name: str) -> ModuleType:
    """Load one module of the package by itself: the package as a whole imports transformers."""
    spec = spec_from_file_location(f"vindlu_{name}", FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def positions(count: int, half: int) -> NDArray[np.float64]:
    """Return `count` positions about 0 whose distances grow geometrically, up to `half`, as BEiT has it."""
    coefficients = [1.0] * (count // 2)
    coefficients[-1] -= half  # 1 + q + q^2 + ... = half
    (ratio,) = (root.real for root in np.roots(coefficients) if abs(root.imag) < 1e-9 and root.real > 0)
    right = np.cumsum(ratio ** np.arange(count // 2))
    return np.concatenate([-right[::-1], [0], right])


def cubic(points: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Return two cubic polynomials over the square of the points, one a head, in rows from top to bottom."""
    y, x = np.meshgrid(points / half, points / half, indexing="ij")
    heads = (1 + 2 * x - y + x * y**2 - 3 * x**3, y**3 + x**2 * y - 0.5 * x + x**3 * y**3)
    return np.stack([head.ravel() for head in heads], axis=1)


@pytest.mark.parametrize(("before", "after"), [(4, 5), (7, 10), (7, 14), (14, 16)])
def test_position_biases_are_interpolated(before: int, after: int) -> None:
    """Biases for pictures of `before` patches a side, a cubic polynomial of the position, become those for `after`.

    A bicubic spline through a cubic polynomial is that polynomial. The two axes differ, and further tokens stay.
    """
    half = after - 1
    further = torch.tensor([[7.0, -7.0], [8.0, -8.0], [9.0, -9.0]])
    table = torch.from_numpy(cubic(positions(2 * before - 1, half), half)).float()
    old = {
        "0.relative_position_bias_table": torch.cat([table, further]),
        "0.relative_position_index": torch.zeros(3),
    }
    new: dict[str, Any] = {"0.relative_position_bias_table": torch.zeros((2 * after - 1) ** 2 + EXTRA_TOKENS, 2)}
    result = module("utils").interpolate_pos_relative_bias_beit(old, new, (after, after))
    expected = torch.from_numpy(cubic(np.arange(-half, half + 1), half)).float()
    assert result.keys() == new.keys()
    torch.testing.assert_close(
        result["0.relative_position_bias_table"], torch.cat([expected, further]), rtol=0, atol=1e-3
    )


def test_attention_in_time_imports_what_is_required() -> None:
    """A module that used timm, which no requirement names, stands on MMCV, and starts as the identity."""
    attention = module("temporal_model").TemporalAttention(input_dim=64)
    video = torch.randn(2, 4, 5, 64)
    assert torch.equal(attention(video), video)
    torch.nn.init.ones_(attention.scale)
    assert not torch.equal(attention.eval()(video), video)


def test_extra_asks_for_transformers_that_fit() -> None:
    """The extra names the versions that VindLU runs with, not the newest, beside which it is a placeholder."""
    extras = [Requirement(line) for line in requires("mmaction2") or [] if "multimodal" in line]
    (needed,) = (extra for extra in extras if extra.name == "transformers")
    allowed = [
        version
        for version in ("4.27.4", "4.28.0", "4.35.2", "4.36.0", "4.56.0", "5.0.0")
        if version in needed.specifier
    ]
    assert allowed == ["4.28.0", "4.35.2"]


@pytest.mark.skipif(WITH_MULTIMODAL, reason="not run: transformers is there, and no model a placeholder")
@pytest.mark.parametrize("name", ["VindLUVQA", "VindLURetrievalMC", "VindLURetrieval"])
def test_placeholder_says_what_to_install(name: str) -> None:
    """Without fitting transformers each model has its name, and says which ones it needs."""
    says = rf"^{name} requires extra multi-modal dependencies, {re.escape('transformers>=4.28.0,<4.36')}, please"
    with pytest.raises(ImportError, match=says):
        MODELS.build({"type": name})
