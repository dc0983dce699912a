"""A bundle, made through the front door and proved where this checkout is not."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Checkout


def test_a_built_stack_is_proved_elsewhere(built: Checkout, tmp_path: Path) -> None:
    """With a Python and the archive alone: no variable, no package index and no file of the checkout."""
    done = built.invoke("verify", "--stack", "mini", "--bundle", "mini.tar.gz", "--json")
    assert done.code == 0, done.text
    made = json.loads(done.out)["bundle"]
    assert (made["file"], made["outside"]) == ("mini.tar.gz", [])
    elsewhere = tmp_path / "elsewhere"
    with tarfile.open(built.root / "mini.tar.gz") as archive:
        archive.extractall(elsewhere)  # noqa: S202 - just made
    built.root.rename(tmp_path / "gone")
    proved = subprocess.run(
        [sys.executable, "verify.py"],
        cwd=elsewhere / "mini-bundle",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert proved.returncode == 0, proved.stdout + proved.stderr
    results = json.loads((elsewhere / "mini-bundle" / "results.json").read_text(encoding="utf-8"))
    assert [(item["layer"], item["counts"]) for item in results["layers"]] == [
        ("base", {"passed": 1, "failed": 0, "not run": 0}),
        ("ext", {"passed": 2, "failed": 0, "not run": 1}),
        ("top", {"passed": 2, "failed": 0, "not run": 0}),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--bundle-without", "base"], "--bundle-without goes with --bundle"),
        (["--bundle", "mini.tar.gz", "--video", "film.mp4"], "--video: no suite runs here"),
        (["--bundle", "mini.zip"], "a bundle is a .tar.gz"),
        (["--bundle", "mini.tar.gz", "--bundle-without", "ext"], "it was built here"),
        (["--bundle", "mini.tar.gz", "--stack", "other"], "stack 'other' is not built here"),
    ],
)
def test_options_that_make_no_bundle_end_in_2(golden: Checkout, words: list[str], told: str) -> None:
    """And leave no file."""
    done = golden.invoke("verify", *words)
    assert (done.code, told in done.err) == (2, True), done.text
    assert list(golden.root.glob("*.tar.gz")) == []
