"""Through the front door: a build that takes nothing but what the stack's lock holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support import Checkout, Done

LOCKED = ("--stack", "mini", "--locked")


def refused(done: Done, code: int, *texts: str) -> None:
    """Demand an exit code, and that this was said, without a traceback."""
    assert done.code == code, done.text
    for text in texts:
        assert text in done.text, done.text
    assert "Traceback" not in done.text


def test_what_the_lock_holds_is_planned_fetched_built_and_verified(built: Checkout) -> None:
    """With the same keys as without `--locked`: what is there is not built again."""
    for task in ("plan", "fetch", "build-stack", "verify"):
        done = built.invoke(task, *LOCKED)
        assert done.code == 0, done.text
    assert "nothing to do" in built.build("--locked").text


def test_options_that_ask_for_something_else_end_in_2(fresh: Checkout) -> None:
    """Before anything is fetched."""
    tree = fresh.tree("top")
    refused(fresh.build("--locked", "--source", f"top=path:{tree}"), 2, "holds top from 'sdist', not from 'path'")
    refused(fresh.build("--locked", "--flag", "ext.SPEED=O2"), 2, "ext.SPEED is O2, locked as O1")
    assert not (fresh.state / "downloads").exists()


def test_what_changed_since_the_lock_was_written_ends_in_4(built: Checkout) -> None:
    """Each task names it; written down by `lock --keep` it is what the lock holds."""
    built.repatch(("first value", "very first value"))
    for task in ("plan", "fetch", "build-stack", "verify"):
        refused(built.invoke(task, *LOCKED), 4, "mini.lock is out of date", "miniext/0001-first-value.patch changed")
    refused(built.invoke("lock", "--check"), 4, "miniext/0001-first-value.patch changed", "`invoke lock --keep`")
    refused(built.invoke("lock", "--keep"), 0, "mini.lock fits")
    refused(built.invoke("lock", "--check"), 0, "mini.lock fits")
    # what stands in dist was built with the patch as it was
    refused(built.invoke("verify", *LOCKED), 4, "not what mini.lock holds", "ext: patch miniext-first-value")


def test_what_was_built_of_something_else_is_not_verified_as_locked(built: Checkout) -> None:
    """`verify --locked` looks at what the manifest tells; without it, the wheels are all that counts."""
    file = built.dist / "manifest.json"
    told = built.manifest()
    told["layers"][1]["flags"]["SPEED"] = "O0"
    file.write_text(json.dumps(told), encoding="utf-8")
    refused(built.invoke("verify", *LOCKED, "--json"), 4, '"slug": "locked"', "ext: flag SPEED=O0")
