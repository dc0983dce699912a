"""The fault tests: miniature checkouts, and a tally for each test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.tally import FOLDER, Tally
from tests.integration.conftest import built, fresh, golden
from tests.integration.test_faults import namespace
from tests.unit.conftest import make_index, server, sleeps

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["built", "fresh", "golden", "make_index", "namespace", "server", "sleeps", "tally"]


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Count a test's faults, write them down where the session asks for it, and demand that none ended badly."""
    marker = request.node.get_closest_marker("fault")
    found = Tally(fault=marker.args[0], test=request.node.name)
    yield found
    if folder := os.environ.get(FOLDER):
        found.write(Path(folder))
    assert found.failures == []
    assert found.ended
