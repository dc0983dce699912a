"""What real builds that share nothing are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.real import lay_out

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_copy_has_what_is_downloaded_wherever_the_state_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the tasks have it: below MMSTACK_HOME."""
    (tmp_path / "state" / "downloads").mkdir(parents=True)
    (tmp_path / "state" / "downloads" / "file").write_text("fetched", encoding="utf-8")
    (tmp_path / "state" / "artifacts").mkdir()
    monkeypatch.setenv("MMSTACK_HOME", str(tmp_path / "state"))
    root = lay_out(tmp_path / "copy")
    assert (root / "tasks.py").exists()
    assert [str(path.relative_to(root.parent / "state")) for path in (root.parent / "state").rglob("*")] == [
        "downloads",
        "downloads/file",
    ]
