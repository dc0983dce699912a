"""What the second of two builds has otherwise, before hours of compiling say whether it mattered."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmstack.run import KEPT_VARIABLES
from tests.integration.test_reproduce import surroundings

if TYPE_CHECKING:
    import pytest


def test_what_builds_inherit_is_varied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable but those of certificates, which are for downloads; PATH by a folder in front that is empty."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    varied = surroundings(tmp_path)
    assert {name for name in KEPT_VARIABLES if varied.get(name) == os.environ.get(name)} <= {
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    }
    folder, _, path = varied["PATH"].partition(os.pathsep)
    assert path == os.environ["PATH"]
    assert [*Path(folder).iterdir(), *Path(varied["TMPDIR"]).iterdir()] == []
