"""Packs what CMake installed as a wheel: a folder that any Python of this kind of machine finds by importing it."""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel

WHERE = '''"""Where libtorch is: cmake -DCMAKE_PREFIX_PATH="$(python -c 'import libtorch; print(libtorch.prefix)')"."""

from pathlib import Path

prefix = Path(__file__).resolve().parent
'''


class Wheel(bdist_wheel):
    """A wheel whose tag names the machine alone: nothing in it belongs to a Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return Python, ABI and platform."""
        return "py3", "none", super().get_tag()[2]


class Compiled(Distribution):
    """A distribution that is for one kind of machine, though none of its modules is an extension."""

    def has_ext_modules(self) -> bool:
        """Say so."""
        return True


prefix = Path(os.environ["LIBTORCH_PREFIX"])
prefix.joinpath("__init__.py").write_text(WHERE, encoding="utf-8")
setup(
    name="libtorch",
    version=os.environ["PYTORCH_BUILD_VERSION"],
    description="PyTorch for C++: headers, libraries and CMake's files for them",
    packages=["libtorch"],
    package_dir={"libtorch": os.path.relpath(prefix)},
    package_data={
        "libtorch": sorted(path.relative_to(prefix).as_posix() for path in prefix.rglob("*") if path.is_file())
    },
    distclass=Compiled,
    cmdclass={"bdist_wheel": Wheel},
)
