"""Packs what CMake installed."""

import os
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel


class Wheel(bdist_wheel):
    """Of no Python in particular."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return Python, ABI and platform."""
        return "py3", "none", super().get_tag()[2]


class Compiled(Distribution):
    """Of one kind of machine."""

    def has_ext_modules(self) -> bool:
        """Say so."""
        return True


prefix = Path(os.environ["PREFIX"])
prefix.joinpath("__init__.py").touch()
setup(
    name="minilib",
    version="1.0",
    packages=["minilib"],
    package_dir={"minilib": os.path.relpath(prefix)},
    package_data={"minilib": ["lib/*", "include/*"]},
    distclass=Compiled,
    cmdclass={"bdist_wheel": Wheel},
)
