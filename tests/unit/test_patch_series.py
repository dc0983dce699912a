from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from unidiff.patch import PatchSet

from mmstack._compat import tomllib

PATCHES = Path(__file__).resolve().parents[2] / "patches"
FOLDERS = sorted(file.parent for file in PATCHES.glob("*/series.toml"))
REQUIRED = {"file", "id", "versions", "reason", "upstream", "retire_when", "sha256"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One `[[patch]]` of a series, beside the text of its file."""

    folder: Path
    data: dict[str, Any]

    @property
    def file(self) -> Path:
        """Return where the patch lies."""
        return self.folder / str(self.data["file"])

    @property
    def text(self) -> str:
        """Return the whole patch, header included."""
        return self.file.read_text(encoding="utf-8")


def series(folder: Path) -> dict[str, Any]:
    """Return what a folder's series.toml says."""
    found: dict[str, Any] = tomllib.loads((folder / "series.toml").read_text(encoding="utf-8"))
    return found


ENTRIES = [Entry(folder=folder, data=data) for folder in FOLDERS for data in series(folder)["patch"]]
every_patch = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.data["id"])
every_series = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def test_the_three_projects_have_a_series() -> None:
    """An empty patches/ would make every other test here pass."""
    assert {folder.name for folder in FOLDERS} >= {"mmcv", "mmengine", "mmaction2"}


@every_series
def test_a_series_is_named_after_its_folder(folder: Path) -> None:
    """A series says of which project it is, and holds nothing else but patches."""
    data = series(folder)
    assert set(data) == {"project", "patch"}
    assert data["project"] == folder.name


@every_series
def test_a_series_lists_every_patch_of_its_folder_in_their_order(folder: Path) -> None:
    """No patch lies there without being applied, and their numbers are the order."""
    assert [data["file"] for data in series(folder)["patch"]] == sorted(file.name for file in folder.glob("*.patch"))


def test_ids_are_unique_in_the_repository() -> None:
    """An id alone names one patch."""
    assert [name for name, count in Counter(entry.data["id"] for entry in ENTRIES).items() if count > 1] == []


@every_patch
def test_an_entry_says_all_that_it_must_and_nothing_else(entry: Entry) -> None:
    """Every key is known, every text is filled, names have their form."""
    assert REQUIRED <= set(entry.data) <= REQUIRED | {"when", "sources"}
    assert all(entry.data[key].strip() for key in REQUIRED)
    assert re.fullmatch(r"\d{4}-[a-z0-9.]+(-[a-z0-9.]+)*\.patch", entry.data["file"])
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9.]+)+", entry.data["id"])
    assert entry.data["upstream"].startswith("https://github.com/")


@every_patch
def test_ranges_parse_and_are_bounded(entry: Entry) -> None:
    """A patch is for releases that were tried, never for any release to come."""
    operators = {specifier.operator for specifier in SpecifierSet(entry.data["versions"])}
    assert operators & {"==", "<=", "<"}
    for name, specifier in entry.data.get("when", {}).items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert len(SpecifierSet(specifier)) > 0


@every_patch
def test_a_patch_is_what_its_digest_says(entry: Entry) -> None:
    """An edit of a patch without its series is noticed."""
    assert hashlib.sha256(entry.file.read_bytes()).hexdigest() == entry.data["sha256"]


@every_patch
def test_a_patch_explains_itself_before_it_begins(entry: Entry) -> None:
    """Subject, reason and upstream link stand above the diff, and the link is the one of the series."""
    header, _, _ = entry.text.partition("\ndiff --git ")
    subject, blank, *body = header.splitlines()
    assert re.fullmatch(r"Subject: \S.*", subject)
    assert not blank
    assert body[0].strip()
    assert body[-2:] == [f"Upstream: {entry.data['upstream']}", "---"]


@every_patch
def test_a_patch_is_a_git_diff_that_changes_something(entry: Entry) -> None:
    """Paths carry a/ and b/ (or /dev/null), and each file gains or loses lines."""
    files = PatchSet(entry.text)
    assert len(files) == entry.text.count("\ndiff --git a/") > 0
    for file in files:
        assert file.source_file.startswith("a/") or file.is_added_file
        assert file.target_file.startswith("b/") or file.is_removed_file
        assert file.added + file.removed > 0
