"""What data cannot say of libtorch: the layer torch knows how to read what CMake says of the same source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmstack.recipes import DataOnly, load_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmstack.recipes import BuildFacts

torch = load_recipe(Path(__file__).parents[1] / "torch")


class LibTorch(DataOnly):
    """The flags reach CMake by themselves; the answers are those that a build for Python gives."""

    def environment(self, facts: BuildFacts) -> Mapping[str, str]:
        """Return what CMake and the wheel take the version from: that of the tree is another."""
        return {"PYTORCH_BUILD_VERSION": facts.version}

    def expect(self, facts: BuildFacts) -> Mapping[str, str]:
        """Return what `at::show_config()` must say."""
        return torch.expect(facts)

    def check_configured(self, output: str, cache: Mapping[str, str], facts: BuildFacts) -> None:
        """Demand that every flag is what was asked."""
        torch.check_configured(output, cache, facts)


recipe = LibTorch()
