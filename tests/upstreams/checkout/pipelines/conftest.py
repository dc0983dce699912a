"""What the suites in miniature share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    """What the stack promises."""
    return dict(json.loads(Path(os.environ["MMSTACK_FACTS"]).read_text(encoding="utf-8")))
