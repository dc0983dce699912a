"""What data cannot say: how the flag reaches CMake, and that CMake's answer is the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mmstack.errors import GateError
from mmstack.recipes import DataOnly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmstack.recipes import BuildFacts


class Ext(DataOnly):
    """Compiles without debug information: that names the folder it was compiled in."""

    def environment(self, facts: BuildFacts) -> Mapping[str, str]:
        """Return the variables."""
        return {"MINI_FAST": facts.flags["FAST"], "CFLAGS": "-g0", "CXXFLAGS": "-g0"}

    def check_configured(self, output: str, cache: Mapping[str, str], facts: BuildFacts) -> None:  # noqa: ARG002 - the protocol's
        """Demand what was asked."""
        found = re.findall(r"^-- MINI_FAST: (\w+)$", output, re.MULTILINE)
        if found != [facts.flags["FAST"]]:
            raise GateError(f"FAST is {found}, asked was {facts.flags['FAST']}", fix="set it to what can be had")


recipe = Ext()
