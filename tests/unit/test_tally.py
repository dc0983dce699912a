from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.tally import BEGIN, END, PAGE, Tally, put, tables
from tests.fuzz.cases import PAGE as HOSTILE
from tests.fuzz.cases import table

if TYPE_CHECKING:
    from pathlib import Path


def tally(folder: Path, test: str, *failures: str, **ended: int) -> None:
    """Write down what a test counted."""
    found = Tally(fault="killed", test=test)
    for how, times in ended.items():
        found.count(how, times)
    found.check(good=True, text="held")
    for text in failures:
        found.check(good=False, text=text)
    found.write(folder)


def test_counts_of_one_fault_are_added_up(tmp_path: Path) -> None:
    """Failures are shown as well."""
    tally(tmp_path, "test[a]", ended=3)
    tally(tmp_path, "test[b]", "other bits", ended=2, late=1)
    assert "| killed | 6 | 5 ended, 1 late | 3 | 1 |" in tables(tmp_path, "nox").splitlines()


def test_a_page_gets_new_counts_and_keeps_the_rest(tmp_path: Path) -> None:
    """As often as it is written."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}old\n{END}\nafter\n")
    tally(tmp_path, "test", ended=1)
    for _ in range(2):
        put(tables(tmp_path, "uv run nox -s faults"), page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}Run on ")
    assert text.endswith(f"| killed | 1 | 1 ended | 1 | 0 |\n{END}\nafter\n")
    assert "old" not in text
    assert "uv run nox -s faults" in text


@pytest.mark.parametrize("page", [PAGE, HOSTILE])
def test_the_real_pages_can_be_written(page: Path) -> None:
    """They have the place for the counts."""
    assert page.read_text(encoding="utf-8").count(BEGIN) == 1
    assert page.read_text(encoding="utf-8").count(END) == 1


def test_cases_of_hostile_input_are_a_table() -> None:
    """By parser, with how many there were in all."""
    lines = table({"seconds": 9.6, "parsers": {"locks": 2, "ELF files": 40}}, "nox", "2026-11-29").splitlines()
    assert lines[1] == "42 cases in 10 seconds, each of which ended well."
    assert lines[-2:] == ["| ELF files | 40 |", "| locks | 2 |"]
