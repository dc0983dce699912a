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
from mmstack.sources.places import Offer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mmstack.sources.index import Index
    from tests.faults.tally import Tally
    from tests.unit.conftest import Server

SIZE = 40_000
PASSING = ("drop 0", "drop 1", "drop 20000", "drop 39999", "unsized 30000", "500", "502", "503", "429", "sleep 0.05")
LYING = ("wrong", "no-range", "other-range")
FOR_GOOD = ("500", "404", "drop 100", "wrong", "to {itself}", "to {other}")


@pytest.mark.fault("a request to an index that drops, slows, cuts short, lies, fails or leads in circles")
@pytest.mark.parametrize("count", [pytest.param(20, id="smoke"), pytest.param(600, id="full", marks=pytest.mark.slow)])
def test_a_flaky_index(
    server: Server, make_index: Callable[..., Index], tmp_path: Path, tally: Tally, count: int
) -> None:
    """Each file is had whole, or it is said why not; no other bytes ever lie where a file would."""
    dice, index = random.Random(count), make_index()  # noqa: S311 - a test's dice
    downloads = Downloads(tmp_path / "downloads", sleep=lambda _seconds: None)
    number = 0
    while sum(tally.ended.values()) < count:
        number += 1
        body = dice.randbytes(SIZE)
        path = f"/f/{number}.tar.gz"
        pin = FilePin(filename=f"{number}.tar.gz", sha256=hashlib.sha256(body).hexdigest())
        server.add(path, body)
        for_good = dice.random() < 0.25
        if for_good:
            fault = dice.choice(FOR_GOOD).format(itself=f"{server.url}{path}", other=f"{server.url}/f/circle")
            server.always[path] = fault
            server.always["/f/circle"] = f"to {server.url}{path}"
        else:
            server.faults[path] = dice.choices(PASSING, k=dice.randint(0, 2)) + dice.choices(
                LYING, k=dice.randint(0, 1)
            )
        asked, faults = len(server.asked), list(server.faults[path])
        how = fetch(downloads, Offer(pin=pin, urls=(f"{server.url}{path}",)), index)
        tally.count(f"for a file that was {how}", len(server.asked) - asked)
        # of a place that lies, it may be said; of one that fails in passing, the file must be had
        may_refuse = for_good or set(LYING) & set(faults)
        tally.check(how == "had whole" or may_refuse, f"{number}: {faults} ended as {how}")
        tally.check((how == "had whole") == downloads.has(pin), f"{number}: {how}")
        tally.check(how != "had whole" or downloads.path(pin).read_bytes() == body, f"{number}: other bytes")
        server.faults[path].clear()
        server.always.clear()
        again = fetch(downloads, Offer(pin=pin, urls=(f"{server.url}{path}",)), index)
        tally.check(again == "had whole", f"{number}: once the index was well, {again}")


def fetch(downloads: Downloads, offer: Offer, index: Index) -> str:
    """Return how a download ended."""
    try:
        downloads.fetch([offer], index, ignore)
    except NetworkError:
        return "refused as not to be had"
    except PinError:
        return "refused as another"
    return "had whole"
