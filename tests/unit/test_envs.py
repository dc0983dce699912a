"""Environments: what is installed to build with, and what of it goes into a build."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from mmstack.envs import Environments, Wheel, python_of, site_packages
from mmstack.keys import file_digest
from tests.miniature import INTERPRETER

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
