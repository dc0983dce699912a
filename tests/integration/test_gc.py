"""`invoke gc` makes room and takes nothing from under anybody."""

from __future__ import annotations

import json
import shutil
import signal
from typing import TYPE_CHECKING

from tests.integration.test_interruption import compiling
from tests.support import forget

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Checkout


def test_a_result_outlives_a_sweep_of_everything_else(built: Checkout) -> None:
    """It needs nothing built or fetched afterwards, and proves itself again without an index."""
    assert built.build().code == 0
    done = built.invoke("gc", "--max-size", "0B", "--json")
    assert done.code == 0, done.text
    swept = json.loads(done.out)
    assert swept["after"] < swept["before"]
    assert {item["why"] for item in swept["kept"]} == {"dist/mini stands on it"}
    assert all(built.plan().values())
    shutil.rmtree(built.index)
    done = built.invoke("verify")
    assert done.code == 0, done.text


def test_what_was_swept_is_made_again(built: Checkout) -> None:
    """Once nothing stands on it any more, all of it goes, and comes back in the same bits."""
    wanted = built.wheels()
    shutil.rmtree(built.dist)
    done = built.invoke("gc", "--older-than", "0m", "--max-size", "0B")
    assert done.code == 0, done.text
    assert "removed artifact artifacts/" in done.out
    assert list((built.state / "artifacts").iterdir()) == []
    done = built.build()
    assert done.code == 0, done.text
    assert built.wheels() == wanted


def test_a_build_that_runs_loses_nothing(built: Checkout, tmp_path: Path) -> None:
    """A sweep beside it says that it is running, and it ends as it would have."""
    wanted = built.wheels()
    forget(built, "build ext")
    shutil.rmtree(built.dist)
    process = compiling(built, tmp_path)
    done = built.invoke("gc", "--max-size", "0B", "--verbose")
    assert done.code == 0, done.text
    assert "a build that runs uses it" in done.out
    assert "removed artifact" not in done.out
    assert "removed work folder" not in done.out
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    built.env = {}
    done = built.build()
    assert done.code == 0, done.text
    assert built.wheels() == wanted
