"""What data cannot say: that CMake was told the flag."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmstack.errors import GateError
from mmstack.recipes import DataOnly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmstack.recipes import BuildFacts


class Lib(DataOnly):
    """A library by itself."""

    def check_configured(self, output: str, cache: Mapping[str, str], facts: BuildFacts) -> None:
        """Demand the flag's value, in what was said as in what CMake remembers."""
        wanted = facts.flags["AREA"]
        if f"-- AREA: {wanted}" not in output.splitlines() or cache["AREA"] != wanted:
            raise GateError("CMake was not told", fix="tell it")


recipe = Lib()
