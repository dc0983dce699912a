"""Through the front door: a build that takes nothing but what the stack's lock holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support import told

if TYPE_CHECKING:
    from tests.support import Checkout

LOCKED = ("--stack", "mini", "--locked")


def test_what_the_lock_holds_is_planned_fetched_built_and_verified(built: Checkout) -> None:
    """With the same keys as without `--locked`: what is there is not built again."""
    for task in ("plan", "fetch", "build-stack", "verify"):
        done = built.invoke(task, *LOCKED)
        assert done.code == 0, done.text
    assert "nothing to do" in built.build("--locked").text


def test_options_that_ask_for_something_else_end_in_2(fresh: Checkout) -> None:
    """Before anything is fetched."""
    tree = fresh.tree("top")
    told(fresh.build("--locked", "--source", f"top=path:{tree}"), 2, "holds top from 'sdist', not from 'path'")
    told(fresh.build("--locked", "--flag", "ext.SPEED=O2"), 2, "ext.SPEED is O2, locked as O1")
    assert not (fresh.state / "downloads").exists()


def test_what_changed_since_the_lock_was_written_ends_in_4(built: Checkout) -> None:
    """Each task names it; written down by `lock --keep` it is what the lock holds."""
    built.repatch(("first value", "very first value"))
    for task in ("plan", "fetch", "build-stack", "verify"):
        told(built.invoke(task, *LOCKED), 4, "mini.lock is out of date", "miniext/0001-first-value.patch changed")
    told(built.invoke("lock", "--check"), 4, "miniext/0001-first-value.patch changed", "`invoke lock --keep`")
    told(built.invoke("lock", "--keep"), 0, "mini.lock fits")
    told(built.invoke("lock", "--check"), 0, "mini.lock fits")
    # what stands in dist was built with the patch as it was
    told(built.invoke("verify", *LOCKED), 4, "not what mini.lock holds", "ext: patch miniext-first-value")


def test_what_was_built_of_something_else_is_not_verified_as_locked(built: Checkout) -> None:
    """`verify --locked` looks at what the manifest tells; without it, the wheels are all that counts."""
    file = built.dist / "manifest.json"
    manifest = built.manifest()
    manifest["layers"][1]["flags"]["SPEED"] = "O0"
    file.write_text(json.dumps(manifest), encoding="utf-8")
    told(built.invoke("verify", *LOCKED, "--json"), 4, '"slug": "locked"', "ext: flag SPEED=O0")
