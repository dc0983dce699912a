from __future__ import annotations

import errno
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest
from filelock import FileLock

from mmstack.errors import DiskError, InterruptedRunError, MmstackError, NetworkError, PinError
from mmstack.events import DownloadProgress, Event, Notice, Waiting
from mmstack.model import FilePin, LockedRequirement
from mmstack.sources.download import Downloads
from mmstack.sources.places import RETRY_PAUSES, Offer
from mmstack.sources.web import MAX_REDIRECTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmstack.sources.index import Index
    from tests.unit.conftest import Server

    MakeIndex = Callable[..., Index]

BODY = os.urandom(300_000)
SHA = hashlib.sha256(BODY).hexdigest()
PIN = FilePin(filename="demo-1.0.tar.gz", sha256=SHA)
PATH = "/f/demo-1.0.tar.gz"


class Bench:
    """One server with one file, one index, one folder of downloads, and all that was said."""

    def __init__(self, server: Server, index: Index, root: Path, sleeps: list[float]) -> None:
        self.server = server
        self.index = index
        self.downloads = Downloads(root, sleep=sleeps.append)
        self.sleeps = sleeps
        self.said: list[Event] = []
        self.offer = Offer(pin=PIN, urls=(f"{server.secret_url()}{PATH}?key=t0ken",))
        server.add(PATH, BODY)

    def fetch(self, *offers: Offer) -> None:
        """Download, by default the one file."""
        self.downloads.fetch(offers or [self.offer], self.index, self.said.append)

    def fail(self, kind: type[MmstackError], *offers: Offer) -> MmstackError:
        """Download in vain; whatever is shown of it holds no secret."""
        with pytest.raises(kind) as caught:
            self.fetch(*offers)
        assert type(caught.value) is kind
        assert caught.value.fix
        assert "t0ken" not in str(caught.value)
        assert "t0ken" not in repr((caught.value, self.said, self.offer))
        return caught.value

    def files(self) -> list[str]:
        """Return the names of all files but locks."""
        found = (path.relative_to(self.downloads.root) for path in self.downloads.root.rglob("*") if path.is_file())
        return sorted(path.name for path in found if path.parts[0] != ".locks")

    @property
    def part(self) -> Path:
        """Return the file of an unfinished download."""
        path = self.downloads.path(PIN)
        return path.with_name(f"{path.name}.part")

    def leave(self, content: bytes) -> None:
        """Leave an unfinished download behind."""
        self.part.parent.mkdir(parents=True)
        self.part.write_bytes(content)


@pytest.fixture
def bench(server: Server, make_index: MakeIndex, tmp_path: Path, sleeps: list[float]) -> Bench:
    """Return a server, an index and an empty folder."""
    return Bench(server, make_index(), tmp_path / "downloads", sleeps)


def test_a_file_is_downloaded_once(bench: Bench) -> None:
    """It lies in the folder of its digest; the second run asks nobody."""
    bench.fetch()
    assert bench.downloads.has(PIN)
    assert bench.downloads.path(PIN).read_bytes() == BODY
    assert bench.files() == [PIN.filename]
    assert bench.said[-1] == DownloadProgress(filename=PIN.filename, done=len(BODY), total=len(BODY), finished=True)
    bench.fetch()
    assert bench.server.count(PATH) == 1


def test_a_file_on_a_bad_block_is_downloaded_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that keeps digests of its own gives an error instead of other bytes; the strict are told."""
    bench.fetch()

    def bad(*_given: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("mmstack.digests.Digests.of", bad)
    assert not bench.downloads.has(PIN)
    with pytest.raises(PinError, match="is not what was downloaded") as caught:
        Downloads(bench.downloads.root, strict=True).has(PIN)
    assert "nothing that can be read" in caught.value.why


def test_a_file_that_has_changed_is_downloaded_anew(bench: Bench) -> None:
    """Found before it is used, told once, and not mended by what is wrong itself."""
    bench.fetch()
    bench.downloads.path(PIN).write_bytes(BODY[:-1] + b"?" if BODY[-1:] != b"?" else BODY[:-1] + b"!")
    told: list[Event] = []
    bench.downloads = Downloads(bench.downloads.root, sleep=bench.sleeps.append, listener=told.append)
    assert not bench.downloads.has(PIN)
    bench.fetch()
    assert bench.downloads.has(PIN)
    assert bench.downloads.path(PIN).read_bytes() == BODY
    assert bench.server.count(PATH) == 2
    assert [type(event) for event in told] == [Notice]
    assert "demo-1.0.tar.gz is not what was downloaded" in str(told)
    assert SHA in str(told)


def test_the_strict_refuse_a_file_that_has_changed(bench: Bench) -> None:
    """With exit code 4, and what to do."""
    bench.fetch()
    bench.downloads.path(PIN).write_bytes(b"other")
    strict = Downloads(bench.downloads.root, strict=True)
    with pytest.raises(PinError, match="is not what was downloaded") as caught:
        strict.has(PIN)
    assert caught.value.code == 4
    assert str(bench.downloads.path(PIN)) in caught.value.fix


def test_many_files_come_at_the_same_time(bench: Bench) -> None:
    """Each of eight files is sent only when all eight are asked for."""
    bench.server.meeting = threading.Barrier(8, timeout=30)
    offers = []
    for number in range(8):
        body = bytes([number]) * 1000
        pin = FilePin(filename=f"f{number}", sha256=bench.server.add(f"/f/{number}", body))
        bench.server.faults[f"/f/{number}"] = ["meet"]
        offers.append(Offer(pin=pin, urls=(f"{bench.server.url}/f/{number}",)))
    bench.fetch(*offers, offers[0])
    assert all(bench.downloads.has(offer.pin) for offer in offers)
    assert all(bench.server.count(f"/f/{number}") == 1 for number in range(8))


@pytest.mark.parametrize("fault", ["drop 100000", "500", "503", "429", "408"])
def test_a_passing_failure_is_tried_again(bench: Bench, fault: str) -> None:
    """Dropped connections and servers in trouble get another chance after a pause."""
    bench.server.faults[PATH] = [fault, fault]
    bench.fetch()
    assert bench.downloads.path(PIN).read_bytes() == BODY
    assert bench.sleeps == list(RETRY_PAUSES[:2])


def test_a_silent_server_is_tried_again(bench: Bench, make_index: MakeIndex) -> None:
    """A timeout is a passing failure."""
    bench.index = make_index(timeout=0.1)
    bench.server.faults[PATH] = ["sleep 1"]
    bench.fetch()
    assert bench.sleeps == [RETRY_PAUSES[0]]


def test_only_the_rest_is_asked_for_again(bench: Bench) -> None:
    """After a drop in the middle every byte is sent once."""
    bench.server.faults[PATH] = ["drop 100000", "drop 50000"]
    bench.fetch()
    assert [asked for _, _, asked in bench.server.asked] == ["", "bytes=100000-", "bytes=150000-"]
    assert bench.server.sent == len(BODY)
    assert bench.server.headers[1]["If-Range"] == f'"{SHA[:8]}"'


def test_an_earlier_run_is_continued(bench: Bench) -> None:
    """What a killed run left behind is not fetched again."""
    bench.leave(BODY[:200_000])
    bench.fetch()
    assert bench.server.sent == 100_000
    assert bench.files() == [PIN.filename]


def test_a_complete_part_needs_no_request(bench: Bench) -> None:
    """Killed between the last byte and the rename: nothing is left to ask for."""
    bench.leave(BODY)
    bench.fetch()
    assert bench.server.asked == []
    assert bench.files() == [PIN.filename]


@pytest.mark.parametrize("rubbish", [b"x" * 1000, b"x" * 300_000, b"x" * 400_000])
def test_a_rotten_part_is_thrown_away(bench: Bench, rubbish: bytes) -> None:
    """Bytes of another file, as many, fewer or more, cost one more download and no more."""
    bench.leave(rubbish)
    if len(rubbish) >= len(BODY):
        bench.server.faults[PATH] = ["416"]
    bench.fetch()
    assert bench.downloads.path(PIN).read_bytes() == BODY


def test_a_server_without_ranges_starts_over(bench: Bench) -> None:
    """Where Range is ignored the file begins anew and is still right."""
    bench.server.faults[PATH] = ["drop 100000", "no-range"]
    bench.fetch()
    assert bench.downloads.path(PIN).read_bytes() == BODY
    assert bench.server.sent == len(BODY) + 100_000


@pytest.mark.parametrize("fault", ["other-range", "endless-range"])
def test_another_range_than_asked_for_is_no_continuation(bench: Bench, fault: str) -> None:
    """A server that cannot count is left; what came before stays."""
    bench.server.faults[PATH] = ["drop 100000", fault]
    assert "another part" in bench.fail(NetworkError).why
    assert bench.part.read_bytes() == BODY[:100_000]


def test_content_is_asked_for_as_it_is(bench: Bench) -> None:
    """The digest is that of the file, not of a compressed transfer of it."""
    bench.fetch()
    assert bench.server.headers[0]["Accept-Encoding"] == "identity"


def test_a_wrong_file_in_pieces_is_fetched_anew_only_once(bench: Bench) -> None:
    """Two full rounds show that the place is to blame, not an old piece."""
    bench.server.files[PATH] = bytes(len(BODY))
    bench.server.faults[PATH] = ["drop 1000", ""] * 5
    bench.fail(PinError)
    assert bench.server.count(PATH) == 4
    assert bench.files() == []


def test_a_file_that_changed_meanwhile_starts_over(bench: Bench) -> None:
    """If-Range keeps the halves of two files apart."""
    old = bytes(len(BODY))
    bench.server.files[PATH] = old
    bench.server.faults[PATH] = ["drop 100000"]
    bench.downloads = Downloads(bench.downloads.root, sleep=lambda _seconds: bench.server.files.update({PATH: BODY}))
    bench.fetch()
    assert bench.downloads.path(PIN).read_bytes() == BODY
    assert bench.server.sent == len(BODY) + 100_000


def test_patience_ends(bench: Bench) -> None:
    """A server that never recovers is left after a known number of attempts."""
    bench.server.always[PATH] = "500"
    error = bench.fail(NetworkError)
    assert f"{bench.server.url}{PATH}: it answered 500" in error.why
    assert bench.sleeps == list(RETRY_PAUSES)
    assert bench.files() == []


def test_a_truncated_file_is_resumed_then_given_up(bench: Bench) -> None:
    """What came is kept for the next run, under a name that nobody takes for the file."""
    bench.server.faults[PATH] = ["drop 1000", *["drop 10"] * 20]
    bench.fail(NetworkError)
    assert bench.files() == [f"{PIN.filename}.part"]
    assert bench.part.read_bytes() == BODY[: 1000 + 10 * len(RETRY_PAUSES)]
    bench.server.faults[PATH].clear()
    bench.fetch()
    assert bench.files() == [PIN.filename]


def test_progress_renews_patience(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad line that brings enough each time is not given up."""
    monkeypatch.setattr("mmstack.sources.download.LEAP", 20_000)
    bench.server.faults[PATH] = ["drop 20000"] * 12
    bench.fetch()
    assert bench.downloads.path(PIN).read_bytes() == BODY
    assert set(bench.sleeps) == {RETRY_PAUSES[0]}


@pytest.mark.parametrize("fault", ["wrong", "unsized 1000"])
def test_another_content_is_thrown_away(bench: Bench, fault: str) -> None:
    """The wrong file is an error that names both digests and the place, and leaves nothing."""
    bench.server.always[PATH] = fault
    error = bench.fail(PinError)
    assert SHA in error.why
    assert f"{bench.server.url}{PATH}" in error.why
    assert bench.files() == []


def test_an_early_end_that_cannot_be_seen_is_tried_again(bench: Bench) -> None:
    """A place that does not tell how long a file is may have cut it short in passing."""
    bench.server.faults[PATH] = ["unsized 1000"]
    bench.fetch()
    assert bench.downloads.path(PIN).read_bytes() == BODY
    assert bench.server.count(PATH) == 2


@pytest.mark.parametrize("fault", ["404", "wrong", "500", "drop 1000"])
def test_the_next_place_is_tried(bench: Bench, fault: str) -> None:
    """One bad place is no failure, but it is said."""
    bench.server.always[PATH] = fault
    bench.server.add("/good", BODY)
    bench.fetch(Offer(pin=PIN, urls=(*bench.offer.urls, f"{bench.server.url}/good")))
    assert bench.downloads.path(PIN).read_bytes() == BODY
    notices = [event for event in bench.said if isinstance(event, Notice)]
    assert [notice.level for notice in notices] == ["warning"]
    assert f"{bench.server.url}{PATH}" in notices[0].text
    assert "t0ken" not in repr(bench.said)


def test_a_missing_file_is_not_asked_for_twice(bench: Bench) -> None:
    """404 will not pass by waiting."""
    del bench.server.files[PATH]
    assert "404" in bench.fail(NetworkError).why
    assert bench.sleeps == []


def test_a_redirect_loop_ends(bench: Bench) -> None:
    """A place that sends us in circles is left after a known number of turns."""
    bench.server.always[PATH] = f"to {bench.server.url}{PATH}"
    assert str(MAX_REDIRECTS) in bench.fail(NetworkError).why
    assert bench.server.count(PATH) == MAX_REDIRECTS + 1


def test_a_redirect_is_followed(bench: Bench) -> None:
    """Content often lies elsewhere."""
    bench.server.add("/elsewhere", BODY)
    bench.server.always[PATH] = "to /elsewhere"
    bench.fetch()
    assert bench.downloads.has(PIN)


def test_a_redirect_into_the_users_files_is_refused(bench: Bench, tmp_path: Path) -> None:
    """A server cannot make us read a local file."""
    (tmp_path / "x").write_bytes(BODY)
    bench.server.always[PATH] = f"to {(tmp_path / 'x').as_uri()}"
    assert "from http to file" in bench.fail(NetworkError).why


def test_a_redirect_away_from_https_is_refused(bench: Bench) -> None:
    """Encrypted stays encrypted."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(302, headers={"Location": str(request.url.copy_with(scheme="http"))})

    bench.index.web._client._transport = httpx2.MockTransport(answer)  # noqa: SLF001 - a TLS server for one line
    offer = Offer(pin=PIN, urls=("https://user:t0ken@h.example/x",))
    assert "from https to http" in bench.fail(NetworkError, offer).why


def test_local_files_are_copied(bench: Bench, tmp_path: Path) -> None:
    """file:// addresses are places like others: checked, resumed and, if absent, named."""
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "x").write_bytes(BODY)
    bench.leave(BODY[:1000])
    bench.fetch(Offer(pin=PIN, urls=((tmp_path / "a b" / "x").as_uri(),)))
    assert bench.downloads.path(PIN).read_bytes() == BODY
    other = FilePin(filename="y", sha256="0" * 64)
    assert "x: " not in bench.fail(NetworkError, Offer(pin=other, urls=((tmp_path / "y").as_uri(),))).why
    bench.fail(PinError, Offer(pin=other, urls=((tmp_path / "a b" / "x").as_uri(),)))


def test_progress_is_told_but_not_too_often(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first bytes and the end are told; between them about ten times a second."""
    bench.server.add(PATH, BODY)
    bench.fetch()
    assert 1 <= len(bench.said) < 10
    assert all(isinstance(event, DownloadProgress) and event.total == len(BODY) for event in bench.said)
    monkeypatch.setattr("mmstack.sources.download.PROGRESS_SECONDS", 0.0)
    bench.downloads.path(PIN).unlink()
    bench.said.clear()
    bench.fetch()
    done = [event.done for event in bench.said if isinstance(event, DownloadProgress)]
    assert done == sorted(done)
    assert len(done) > 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_half_written(bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The error says so, and what was written is given back to the disk."""

    def full(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("mmstack.sources.download.os.fsync", full)
    assert os.strerror(number) in bench.fail(DiskError).why
    assert bench.files() == []


def test_a_folder_that_is_not_ours_to_write(bench: Bench) -> None:
    """The kernel refuses new folders there, to everybody."""
    bench.downloads = Downloads(Path("/sys/mmstack"), sleep=bench.sleeps.append)
    assert "/sys" in bench.fail(DiskError).why


def test_the_first_failure_ends_it(bench: Bench) -> None:
    """Nobody waits for a slow file once another has failed."""
    bench.server.add("/slow", b"x")
    bench.server.faults["/slow"] = ["sleep 30"]
    slow = Offer(pin=FilePin(filename="slow", sha256="1" * 64), urls=(f"{bench.server.url}/slow",))
    bench.server.always[PATH] = "404"
    began = time.monotonic()
    bench.fail(NetworkError, slow, bench.offer)
    assert time.monotonic() - began < 3


def test_another_run_is_waited_for(bench: Bench, wait_for: Callable[..., None]) -> None:
    """Who comes second says so, waits, and takes what the first has brought."""
    (bench.downloads.root / ".locks").mkdir(parents=True)
    lock = FileLock(bench.downloads.root / ".locks" / SHA)
    lock.acquire()
    thread = threading.Thread(target=bench.fetch)
    thread.start()
    wait_for(lambda: any(isinstance(event, Waiting) for event in bench.said))
    bench.downloads.path(PIN).parent.mkdir()
    bench.downloads.path(PIN).write_bytes(BODY)
    lock.release()
    thread.join()
    assert bench.server.asked == []
    assert isinstance(bench.said[-1], DownloadProgress)


def test_stopping_ends_a_wait_and_a_stalled_download(bench: Bench, wait_for: Callable[..., None]) -> None:
    """`stop`, from any thread, ends every fetch as interrupted, at once."""
    bench.server.faults[PATH] = ["sleep 30"]

    def stop() -> None:
        wait_for(lambda: bool(bench.server.asked))
        bench.downloads.stop()

    threading.Thread(target=stop, daemon=True).start()
    began = time.monotonic()
    bench.fail(InterruptedRunError)
    assert time.monotonic() - began < 3
    assert bench.files() in ([], [f"{PIN.filename}.part"])


SCRIPT = """
import sys
from pathlib import Path
from mmstack.events import ignore
from mmstack.model import FilePin
from mmstack.sources.download import Downloads
from mmstack.sources.index import Index
from mmstack.sources.places import Offer
from mmstack.sources.settings import IndexSettings
root, url, name, sha = sys.argv[1:]
index = Index(IndexSettings(
    index_urls=(), find_links=(), ca_bundle=None, trusted_hosts=(), proxy="", timeout=30.0, origins=()))
offer = Offer(pin=FilePin(filename=name, sha256=sha), urls=(url,))
try:
    Downloads(Path(root)).fetch([offer], index, ignore)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_is_continued(bench: Bench, wait_for: Callable[..., None], number: signal.Signals) -> None:
    """Killed in the middle, by -9 or Ctrl-C: no lock, no false file, and the next run takes the rest."""
    bench.server.faults[PATH] = ["drop 100000", "sleep 30"]
    arguments = [str(bench.downloads.root), f"{bench.server.url}{PATH}", PIN.filename, SHA]
    with subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments]) as process:
        wait_for(lambda: bench.server.count(PATH) == 2, 20)
        process.send_signal(number)
        assert process.wait(5) == (130 if number is signal.SIGINT else -signal.SIGKILL)
    assert bench.files() == [f"{PIN.filename}.part"]
    bench.fetch()
    assert bench.server.asked[-1][2] == "bytes=100000-"
    assert bench.files() == [PIN.filename]


def test_nothing_is_logged_with_secrets(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever turns logging on sees no password either."""
    caplog.set_level(logging.DEBUG)
    bench.offer = Offer(pin=PIN, urls=(f"{bench.server.secret_url()}{PATH}",))
    bench.server.faults[PATH] = ["drop 10", "500", "401"]
    bench.fail(NetworkError)
    assert caplog.records
    assert "t0ken" not in caplog.text


def test_the_best_downloaded_wheel_is_found(bench: Bench) -> None:
    """Without network: what is here, locked, and suits the interpreter best."""
    names = (
        "demo-1.0-py3-none-any.whl",
        "demo-1.0-cp311-cp311-linux_x86_64.whl",
        "demo-1.0-cp310-cp310-linux_x86_64.whl",
        "demo-1.0-cp311-cp311-linux_x86_64.whl.part",
    )
    pins = [FilePin(filename=name, sha256=hashlib.sha256(name.encode()).hexdigest()) for name in names]
    for pin in pins:
        path = bench.downloads.path(pin)
        path.parent.mkdir(parents=True)
        path.write_text(pin.filename)
    tags = ("cp311-cp311-linux_x86_64", "py3-none-any")
    pure, ours, older, part = (pin.sha256 for pin in pins)

    def found(*digests: str, version: str = "1.0") -> FilePin | None:
        return bench.downloads.find(LockedRequirement(name="Demo", version=version, sha256=digests), tags)

    assert found(pure, ours, older, part) == pins[1]
    assert found(pure, older) == pins[0]
    assert found(older, part, "e" * 64) is None
    bench.downloads.path(pins[1]).write_text("other bytes")
    assert found(pure, ours) == pins[0]
    assert found(pure, ours, version="2.0") is None
