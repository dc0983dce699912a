"""What has changed on the disk since it was checked is found before it is used."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from mmstack.errors import PinError
from mmstack.events import ignore
from mmstack.model import FilePin, Paths
from mmstack.workshop import Workshop
from tests.support import forget

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Checkout


def flip(file: Path) -> None:
    """Change one bit in the middle of a file, and give it its old date back."""
    status, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_flipped_bit_in_the_store_is_found_and_built_anew(built: Checkout) -> None:
    """By a run that has nothing else to do; it is said, ends well and in the same bits."""
    wanted = built.wheels()
    assert built.build().code == 0
    (wheel,) = built.state.glob("artifacts/*/miniext-*.whl")
    flip(wheel)
    done = built.build()
    assert done.code == 0, done.text
    assert "is not what its record says, and does not count: miniext-2.0" in done.text
    assert "> build ext" in done.out
    assert "> build base" not in done.out
    assert built.wheels() == wanted
    assert "is not what" not in built.build().text


def test_a_flipped_bit_in_a_download_is_found_and_fetched_anew(built: Checkout) -> None:
    """Before anything is unpacked."""
    wanted = built.wheels()
    (sdist,) = built.state.glob("downloads/*/miniext-*.tar.gz")
    flip(sdist)
    forget(built, "build ext")
    done = built.build()
    assert done.code == 0, done.text
    assert "miniext-2.0.tar.gz is not what was downloaded, and does not count" in done.text
    assert built.wheels() == wanted


def test_a_tool_that_decays_is_found_before_it_is_installed(built: Checkout) -> None:
    """Wheels that build and verify are read too, though nothing of them looks changed."""
    (wheel,) = built.state.glob("downloads/*/setuptools-*.whl")
    flip(wheel)
    forget(built, "build base")
    done = built.build()
    assert done.code == 0, done.text
    assert f"{wheel.name} is not what was downloaded" in done.text


@pytest.mark.parametrize("pattern", ["artifacts/*/miniext-*.whl", "downloads/*/miniext-*.tar.gz"])
def test_the_strict_use_nothing_that_has_changed(built: Checkout, pattern: str) -> None:
    """Neither from the store nor from the downloads: exit code 4."""
    (file,) = built.state.glob(pattern)
    flip(file)
    paths = Paths(root=built.root, state=built.state, dist=built.root / "dist")
    shop = Workshop(paths=paths, listener=ignore, environ={}, strict=True)
    layer = next(item for item in built.manifest()["layers"] if item["name"] == "ext")
    look = (
        partial(shop.store.find, layer["key"]) if "artifacts" in pattern else partial(shop.downloads.has, _pin(layer))
    )
    with pytest.raises(PinError) as caught:
        look()
    assert caught.value.code == 4


def _pin(layer: dict[str, dict[str, list[dict[str, str]]]]) -> FilePin:
    (file,) = layer["source"]["files"]
    return FilePin(filename=file["filename"], sha256=file["sha256"])
