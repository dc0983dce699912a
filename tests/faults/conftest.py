"""The fault tests: miniature checkouts, and a tally for each test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.tally import FOLDER, Tally
from tests.integration.conftest import built, fresh, golden
from tests.integration.test_faults import namespace
from tests.integration.test_library import tool
from tests.integration.test_sources import compile_by_cmake
from tests.support import pinned_tools
from tests.unit.conftest import make_index, server, sleeps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import Checkout

__all__ = ["built", "fresh", "golden", "make_index", "namespace", "project", "server", "sleeps", "tally"]


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


@pytest.fixture
def project(built: Checkout) -> Checkout:
    """A checkout whose middle layer CMake configures and compiles, with the tools of this machine; it is built."""
    compile_by_cmake(built, (pinned_tools()["setuptools"], tool(built, "cmake"), tool(built, "ninja")))
    done = built.build()
    assert done.code == 0, done.text
    return built
