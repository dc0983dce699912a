"""Environments: what is installed to build with, and what of it goes into a build."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mmstack import envs
from mmstack.envs import Environments, Wheel, python_of, site_packages
from mmstack.errors import GateError
from mmstack.events import Notice
from mmstack.gates import check_as_installed, snapshot
from mmstack.keys import file_digest
from tests.miniature import INTERPRETER

if TYPE_CHECKING:
    from mmstack.envs import LinkMode
    from mmstack.events import Event

HERE = replace(INTERPRETER, path=Path(sys.executable), version=platform.python_version())
HEADERS = ("one/once.h", "two/once.h")
FILES = {
    **dict.fromkeys(HEADERS, "#pragma once\nstruct Once;\n"),
    "headers-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: headers\nVersion: 1\n",
    "headers-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}


def wheel_of_headers(folder: Path) -> Wheel:
    """Write a wheel that holds two headers which are alike."""
    path = folder / "headers-1-py3-none-any.whl"
    record = "".join(f"{name},,\n" for name in (*FILES, "headers-1.dist-info/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**FILES, "headers-1.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return Wheel(path=path, sha256=file_digest(path))


def test_when_headers_were_installed_is_not_compiled_into_anything(tmp_path: Path) -> None:
    """Of two alike gcc leaves out the second where both are of the same second, which depends on how long uv took."""
    environments = Environments(tmp_path / "cache", tmp_path / "home")
    wheel, env = wheel_of_headers(tmp_path), tmp_path / "env"
    environments.make(tmp_path / "before", HERE, [wheel])
    os.utime(site_packages(tmp_path / "before", HERE) / HEADERS[0], (9, 9))  # uv links the same file into the next one
    environments.make(env, HERE, [wheel])
    source = "".join(f'#include "{name}"\n' for name in HEADERS)
    words = ["g++", "-E", "-x", "c++", "-I", str(site_packages(env, HERE)), "-"]
    done = subprocess.run(words, input=source, capture_output=True, text=True, check=True)
    assert done.stdout.count("struct Once") == 1


def wheel_of_code(folder: Path) -> Wheel:
    """Write a wheel of one module, with a RECORD that says what it is."""
    path, name, body = folder / "code-1-py3-none-any.whl", "code.py", b"VALUE = 1\n"
    digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
    files = {
        name: body,
        "code-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: code\nVersion: 1\n",
        "code-1.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    wrong = "code-1.dist-info/METADATA,sha256=AAAA,9"  # as some wheels' RECORD is; it is the wheel that counts
    rows = [f"{name},sha256={digest},{len(body)}", wrong, *(f"{each},," for each in list(files)[2:])]
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in {**files, "code-1.dist-info/RECORD": "\n".join(rows).encode()}.items():
            archive.writestr(each, text)
    return Wheel(path=path, sha256=file_digest(path))


@pytest.mark.parametrize("link_mode", ["hardlink", "copy"])
def test_what_a_build_wrote_into_its_environment_is_in_no_later_one(tmp_path: Path, link_mode: LinkMode) -> None:
    """It wrote into uv's cache, too, of which the file is a second name."""
    told: list[Event] = []
    environments, wheel = Environments(tmp_path / "cache", tmp_path / "home", told.append), wheel_of_code(tmp_path)
    environments.make(tmp_path / "one", HERE, [wheel])
    with (site_packages(tmp_path / "one", HERE) / "code.py").open("w", encoding="utf-8") as module:
        module.write("VALUE = 2\n")
    assert told == []
    for name in ("two", "three"):
        environments.make(tmp_path / name, HERE, [wheel], link_mode=link_mode)
        assert (site_packages(tmp_path / name, HERE) / "code.py").read_text(encoding="utf-8") == "VALUE = 1\n"
    (notice,) = told
    assert isinstance(notice, Notice)
    assert notice.text == "unpacked anew, for something wrote into what is installed of it: code"


@pytest.mark.parametrize("unseen", [True, False])
def test_what_is_written_while_an_environment_is_made_is_in_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, unseen: bool
) -> None:
    """By a build in another one, which shares its files: what nobody has looked at is not dated as if somebody had."""
    environments, wheel = Environments(tmp_path / "cache", tmp_path / "home"), wheel_of_code(tmp_path)
    sites = {name: site_packages(tmp_path / name, HERE) for name in ("one", "two", "three")}
    environments.make(tmp_path / "one", HERE, [wheel])
    if unseen:
        os.utime(sites["one"] / "code.py", (9, 9))
    judge = envs._not_as_in_their_wheels  # noqa: SLF001 - between it and the dates is the moment that counts

    def while_written_to(*looked: Any) -> list[str]:  # noqa: ANN401 - its own
        found = list(judge(*looked))
        with (sites["one"] / "code.py").open("w", encoding="utf-8") as module:
            module.write("VALUE = 2\n")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(envs, "_not_as_in_their_wheels", while_written_to)
        environments.make(tmp_path / "two", HERE, [wheel])
    with pytest.raises(GateError, match="wrote outside its wheel"):
        check_as_installed(snapshot(sites["two"]))
    environments.make(tmp_path / "three", HERE, [wheel])
    assert (sites["three"] / "code.py").read_text(encoding="utf-8") == "VALUE = 1\n"
    check_as_installed(snapshot(sites["three"]))


def test_what_was_written_into_an_environment_before_is_no_part_of_it(tmp_path: Path) -> None:
    """By a run that was stopped, or while it was configured: new or changed, the next step does not begin on it."""
    environments, site = Environments(tmp_path / "cache", tmp_path / "home"), site_packages(tmp_path / "env", HERE)
    environments.make(tmp_path / "env", HERE, [wheel_of_code(tmp_path)], beside=[tmp_path])
    check_as_installed(snapshot(site))
    (site / "__pycache__").mkdir()
    (site / "__pycache__" / "code.cpython-311.pyc").touch()  # Python's own
    check_as_installed(snapshot(site))
    for file in (site / "code.py", site / "new.pth"):
        file.write_text("x = 1\n", encoding="utf-8")
        with pytest.raises(GateError, match="wrote outside its wheel") as caught:
            check_as_installed(snapshot(site))
        assert caught.value.why == f"written: {file}"
        file.unlink()


def test_an_environment_whose_python_is_gone_is_made_anew(tmp_path: Path) -> None:
    """It may have been removed by uv, or by the system."""
    environments, env = Environments(tmp_path / "cache", tmp_path / "home"), tmp_path / "env"
    environments.make(env, HERE, [])
    python_of(env).unlink()
    python_of(env).symlink_to(tmp_path / "gone")
    environments.make(env, HERE, [])
    assert python_of(env).exists()


def test_a_folder_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    """For uv that is where the next one begins."""
    folder = tmp_path / "Smith, J" / "ä b"
    folder.mkdir(parents=True)
    Environments(folder / "cache", folder / "home").make(folder / "env", HERE, [wheel_of_headers(folder)])
    assert (site_packages(folder / "env", HERE) / HEADERS[0]).exists()
