"""What data cannot say: how the flag becomes a compiler option."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmstack.recipes import DataOnly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmstack.recipes import BuildFacts


class Ext(DataOnly):
    """Compiles without debug information: that names the folder it was compiled in."""

    def environment(self, facts: BuildFacts) -> Mapping[str, str]:
        """Return the compiler's options."""
        return {"CFLAGS": f"-g0 -{facts.flags['SPEED']}", "CXXFLAGS": f"-g0 -{facts.flags['SPEED']}"}


recipe = Ext()
