"""What real builds that share nothing are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real import lacking, lay_out

if TYPE_CHECKING:
    from pathlib import Path


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


def test_what_a_machine_lacks_is_a_failure_where_all_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the test is skipped, which is green: nobody sees there that half of it was not done."""
    monkeypatch.delenv("MMSTACK_DEMAND_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no disorderfs"):
        lacking("no disorderfs")
    monkeypatch.setenv("MMSTACK_DEMAND_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="no disorderfs"):
        lacking("no disorderfs")
