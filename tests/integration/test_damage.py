"""What has changed on the disk since it was checked is found before it is used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

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
def test_locked_and_offline_nothing_that_has_changed_is_made_anew(built: Checkout, pattern: str) -> None:
    """Neither from the store nor from the downloads."""
    (file,) = built.state.glob(pattern)
    flip(file)
    if "downloads" in pattern:
        forget(built, "build ext")
    done = built.build("--locked", "--offline")
    assert done.code == 4, done.text
    assert file.name in done.err
    assert built.build("--locked").code == 0
