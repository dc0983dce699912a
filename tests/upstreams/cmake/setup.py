"""Packs what CMake compiles, as large projects do it: told by variables, and by a word of its own to only configure."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import minibase
from setuptools import Distribution, setup

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
ONLY = "--cmake-only"


def configure() -> None:
    """Hand CMake every variable of a flag."""
    told = {name: value for name, value in os.environ.items() if name.startswith("MINI_")}
    told |= {"CMAKE_INSTALL_PREFIX": str(HERE / "miniext"), "UNIT": str(minibase.UNIT)}
    told |= {"INCLUDE": sysconfig.get_path("include"), "SUFFIX": sysconfig.get_config_var("EXT_SUFFIX")}
    BUILD.mkdir(exist_ok=True)
    subprocess.run(
        ["cmake", "-G", "Ninja", *(f"-D{name}={value}" for name, value in sorted(told.items())), str(HERE)],
        cwd=BUILD,
        check=True,
    )


class Compiled(Distribution):
    """Something that was compiled, though setuptools compiled nothing."""

    def has_ext_modules(self) -> bool:
        """Return that there is a module."""
        return True


if ONLY in sys.argv:
    configure()
    sys.exit()
if "bdist_wheel" in sys.argv:
    if not (BUILD / "build.ninja").exists():
        configure()
    subprocess.run(["cmake", "--build", str(BUILD), "--target", "install"], check=True)
setup(distclass=Compiled, package_data={"miniext": ["_ext*"]})
