"""Miniature checkouts, made once per test session and copied for each test."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from mmstack.events import ignore
from mmstack.host import describe
from mmstack.lock import applicable
from mmstack.model import Paths
from mmstack.sources.download import Downloads
from mmstack.workshop import Workshop
from tests.support import ROOT, Checkout, lay_out, pinned_tools

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mmstack.model import LockedRequirement


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose stack is built and verified; never changed, only copied."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "miniature"
    with FileLock(f"{shared}.lock"):
        golden = Checkout(root=shared / "golden" / "checkout")
        if not (golden.dist / "manifest.json").exists():
            shared.mkdir()
            tools = pinned_tools()
            golden = lay_out(golden.root.parent, tools, wheels_of(tools.values(), shared))
            done = golden.build()
            assert done.code == 0, done.text
    return golden


def wheels_of(tools: Iterable[LockedRequirement], shared: Path) -> Sequence[Path]:
    """Return tools' wheels: from the real checkout's downloads, else from the package index."""
    interpreter = describe(Path(sys.executable), cache=shared / "pythons.json")
    wanted = applicable(tools, interpreter.markers)
    real = Downloads(ROOT / ".mmstack" / "downloads")
    here = all(real.find(item, interpreter.tags) for item in wanted)
    paths = Paths(root=ROOT, state=ROOT / ".mmstack" if here else shared / "state", dist=shared)
    shop = Workshop(paths=paths, listener=ignore, environ=os.environ)
    if not here:
        shop.download("", (), wanted, interpreter.tags)
        shop.index.close()
    return [wheel.path for wheel in shop.wheels(wanted, interpreter)]


@pytest.fixture
def built(golden: Checkout, tmp_path: Path) -> Checkout:
    """A checkout of one's own whose stack is built and verified."""
    return golden.copy(tmp_path)


@pytest.fixture
def fresh(golden: Checkout, tmp_path: Path) -> Checkout:
    """A checkout of one's own in which nothing is built yet."""
    return golden.copy(tmp_path, built=False)
