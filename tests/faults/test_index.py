"""A package index that drops, slows, truncates, lies, fails and leads in circles."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from mmstack.errors import NetworkError, PinError
from mmstack.events import ignore
from mmstack.model import FilePin
from mmstack.sources.download import Downloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mmstack.sources.index import Index
    from tests.faults.tally import Tally
    from tests.unit.conftest import Server

    Faults = tuple[str, ...]

SIZE = 40_000  # bytes of each file, and fewer than of each page
OTHERS = {f"/f/{'other' * 100}-{number}.tar.gz": f"{number:064x}" for number in range(40)}  # what a page lists besides
TIMEOUT, SLOW = 0.2, "sleep 2"  # in seconds
UNSIZED = "unsized 30000"  # that it came to an early end is seen by a digest alone, which no page has
PASSING = ("drop 0", "drop 1", "drop 20000", "drop 39999", UNSIZED, "500", "502", "503", "429", SLOW)
LYING = ("wrong", "no-range", "other-range")
FOR_GOOD = ("500", "404", "drop 100", "wrong", "to {itself}", "to {other}")


@pytest.mark.fault("a request to an index that drops, slows, cuts short, lies, fails or leads in circles")
@pytest.mark.parametrize("count", [pytest.param(200, id="smoke"), pytest.param(900, id="full", marks=pytest.mark.slow)])
def test_a_flaky_index(
    server: Server, make_index: Callable[..., Index], tmp_path: Path, tally: Tally, count: int
) -> None:
    """Each file is had whole by its page, or it is said why not; no other bytes ever lie where a file would."""
    dice, index = random.Random(count), make_index(f"{server.url}/simple", timeout=TIMEOUT)  # noqa: S311 - a test's dice
    downloads = Downloads(tmp_path / "downloads", sleep=lambda _seconds: None)
    refused: list[FilePin] = []
    for number, faults in enumerate(troubles(dice)):
        if sum(tally.ended.values()) >= count:
            break
        body = dice.randbytes(SIZE)
        pin = publish(server, f"p{number}", body, faults)
        how = fetch(index, downloads, pin)
        for path, what in zip(paths(pin), ("the page of a file", "a file"), strict=True):
            tally.count(f"for {what} that was {how}", sum(asked.startswith(path) for _, asked, _ in server.asked))
        page, file = met(server, pin, faults)
        # of a place that lies, it may be said; of one that fails in passing, the file must be had
        tally.check(how == "had whole" or may_refuse(page, file), f"{number}: {faults} ended as {how}")
        tally.check((how == "had whole") == downloads.has(pin), f"{number}: {how}")
        tally.check(how != "had whole" or downloads.path(pin).read_bytes() == body, f"{number}: other bytes")
        for path, wrong in zip(paths(pin), (page, file), strict=True):
            saved = how == "had whole" and wrong[-1:] == (SLOW,)  # by being asked once more
            tally.check(not saved or server.count(path) > len(wrong), f"{number}: {path} was waited for")
        refused += [pin] if how != "had whole" else []
    server.faults.clear()
    server.always.clear()
    well = make_index(f"{server.url}/simple")
    for pin in refused:
        tally.check(fetch(well, downloads, pin) == "had whole", f"{pin.filename}: not even once the index was well")


def troubles(dice: random.Random) -> Iterator[tuple[Faults, Faults]]:
    """Yield what is wrong with a page and with the file that it lists: each by itself, then at random without an end.

    What is there `always` goes wrong for good, the rest once each.
    """
    for fault in (*PASSING, *LYING, *(f"always {fault}" for fault in FOR_GOOD)):
        yield (fault,), ()
        yield (), (fault,)
    while True:
        page, file = (
            (*dice.choices(PASSING, k=dice.randint(0, 2)), *dice.choices(LYING, k=dice.random() < 0.25))
            for _ in range(2)
        )
        for_good = f"always {dice.choice(FOR_GOOD)}"
        yield {0: ((for_good,), file), 1: (page, (for_good,))}.get(dice.randrange(8), (page, file))


def paths(pin: FilePin) -> tuple[str, str]:
    """Return where the page that lists a file is, and where the file is."""
    return f"/simple/{pin.filename.partition('-')[0]}/", f"/f/{pin.filename}"


def publish(server: Server, project: str, body: bytes, faults: tuple[Faults, Faults]) -> FilePin:
    """Put a file and its page on offer, with what goes wrong with them."""
    pin = FilePin(filename=f"{project}-1.0.tar.gz", sha256=hashlib.sha256(body).hexdigest())
    place = paths(pin)[1]
    server.add(place, body)
    server.page(project, {**OTHERS, place: pin.sha256})
    for path, wrong in zip(paths(pin), faults, strict=True):
        for_good = [fault.removeprefix("always ") for fault in wrong if fault.startswith("always ")]
        server.faults[path] = [fault for fault in wrong if not fault.startswith("always ")]
        for fault in for_good:
            server.always[path] = fault.format(itself=f"{server.url}{path}", other=f"{server.url}{path}circle")
            server.always[f"{path}circle"] = f"to {server.url}{path}"
    return pin


def met(server: Server, pin: FilePin, faults: tuple[Faults, Faults]) -> tuple[Faults, Faults]:
    """Return what really went wrong with a page and with its file: who gave up before met no more."""
    page, file = (
        wrong[: len(wrong) - len(server.faults[path])] for path, wrong in zip(paths(pin), faults, strict=True)
    )
    return page, file


def may_refuse(page: Faults, file: Faults) -> bool:
    """Return whether these faults that were met excuse that a file was not had."""
    for_good = any(fault.startswith("always ") for fault in (*page, *file))
    lied = {"wrong", UNSIZED} & {*page} or {*LYING} & {*file}
    return for_good or bool(lied) or file.count(UNSIZED) > 1


def fetch(index: Index, downloads: Downloads, pin: FilePin) -> str:
    """Look a file up as a run does, and return how its download ended."""
    try:
        offers = index.locate(pin.filename.partition("-")[0], [pin])
        downloads.fetch(list(offers.values()), index, ignore)
    except NetworkError:
        return "refused as not to be had"
    except PinError:
        return "refused as another"
    return "had whole" if offers else "refused as not offered"
