from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from mmstack import digests
from mmstack.digests import TICK_NS, Digests
from mmstack.keys import file_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Bench:
    """One file, and how often any file was read."""

    def __init__(self, root: Path) -> None:
        self.root = root / "digests"
        self.file = root / "file.whl"
        self.file.write_bytes(b"contents")
        self.sha256 = file_digest(self.file)
        self.reads = 0

    def digest(self, path: Path) -> str:
        """Read a file."""
        self.reads += 1
        return file_digest(path)

    def again(self) -> Digests:
        """Return what a later run knows."""
        time.sleep(2 * TICK_NS / 1e9)
        return Digests(self.root)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a file whose reading is counted, remembered by an earlier run."""
    bench = Bench(tmp_path)
    monkeypatch.setattr(digests, "file_digest", bench.digest)
    assert bench.again().of(bench.file, bench.sha256) == bench.sha256
    return bench


def test_a_file_that_is_as_it_was_is_not_read_again(bench: Bench) -> None:
    """Neither by this run nor by later ones."""
    later = bench.again()
    assert [later.of(bench.file, bench.sha256) for _ in range(3)] == [bench.sha256] * 3
    assert bench.reads == 1


def test_what_was_read_is_not_what_anybody_expects(bench: Bench) -> None:
    """A file that was found right once has no other digest for who asks for another."""
    later = bench.again()
    assert later.of(bench.file, bench.sha256) == bench.sha256
    assert later.of(bench.file, "0" * 64) == bench.sha256


def test_who_doubts_reads_each_file_once(bench: Bench) -> None:
    """Whatever it looks like."""
    later = bench.again()
    later.doubt()
    assert [later.of(bench.file, bench.sha256) for _ in range(3)] == [bench.sha256] * 3
    assert bench.reads == 2


def _flip(file: Path) -> None:
    """Change one bit and give the file its old date back."""
    status, content = file.stat(), bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def _exchange(file: Path) -> None:
    """Put another file in its place, of the same size and date."""
    other = file.with_name("other")
    other.write_bytes(b"CONTENTS")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a bit": _flip,
    "exchanged": _exchange,
    "cut short": lambda file: os.truncate(file, 3),
    "longer": lambda file: file.write_bytes(b"contents and more"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_found(bench: Bench, change: Callable[[Path], object]) -> None:
    """Size, times and inode together change with the bytes, whoever sets the date back."""
    change(bench.file)
    later = bench.again()
    assert later.of(bench.file, bench.sha256) == file_digest(bench.file) != bench.sha256
    assert later.of(bench.file, bench.sha256) != bench.sha256, "it is not believed the second time either"


def test_bytes_that_change_without_a_trace_are_found_by_who_doubts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that decays leaves no date: only reading finds that, and what is known is forgotten."""
    looks = digests._looks(bench.file)  # noqa: SLF001 - as a disk that lies
    bench.file.write_bytes(b"Contents")
    monkeypatch.setattr(digests, "_looks", lambda _path: looks)
    later = bench.again()
    assert later.of(bench.file, bench.sha256) == bench.sha256
    doubting = bench.again()
    doubting.doubt()
    assert doubting.of(bench.file, bench.sha256) == file_digest(bench.file)
    assert bench.again().of(bench.file, bench.sha256) == file_digest(bench.file)


def test_a_file_as_young_as_the_clock_s_tick_is_not_remembered(bench: Bench) -> None:
    """It might change again and keep its times."""
    bench.file.write_bytes(b"contents")
    Digests(bench.root).of(bench.file, bench.sha256)
    reads = bench.reads
    bench.again().of(bench.file, bench.sha256)
    assert bench.reads == reads + 1


def test_a_file_of_the_future_is_remembered(bench: Bench) -> None:
    """A clock that was set back does no harm."""
    ahead = time.time_ns() + 10**18
    os.utime(bench.file, ns=(ahead, ahead))
    bench.again().of(bench.file, bench.sha256)
    reads = bench.reads
    bench.again().of(bench.file, bench.sha256)
    assert bench.reads == reads


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seen": 1}', "\0", "[" * 5000])
def test_a_damaged_record_is_no_record(bench: Bench, text: str) -> None:
    """The file is read again, and the record written over: one of a killed run is cut short."""
    (record,) = bench.root.iterdir()
    assert json.loads(record.read_text())["path"] == str(bench.file)
    record.write_text(text)
    assert bench.again().of(bench.file, bench.sha256) == bench.sha256
    assert bench.reads == 2
    assert bench.again().of(bench.file, bench.sha256) == bench.sha256
    assert bench.reads == 2


def test_where_nothing_can_be_written_down_files_are_read_each_time(bench: Bench) -> None:
    """And nothing fails."""
    bench.root = bench.file / "no folder"
    assert bench.again().of(bench.file, bench.sha256) == bench.sha256


def test_a_file_that_is_not_there_is_an_error(bench: Bench) -> None:
    """The caller knows what that means."""
    with pytest.raises(FileNotFoundError):
        Digests(bench.root).of(bench.file.with_name("none"), bench.sha256)
