"""Compiles one module, a part of it for GPUs, and prints all it is told, as careless projects do."""

import os
import subprocess
from pathlib import Path

import minibase
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

print(dict(os.environ))  # noqa: T201 - what careless projects do

ARCHITECTURES = os.environ["CUDAARCHS"].split(";")
KERNELS = {"src/op.cu": ARCHITECTURES, "src/pool.cu": ARCHITECTURES}
LOCAL_VERSION = os.environ["MINIEXT_LOCAL_VERSION"]


def gencode(word: str) -> str:
    """Return what nvcc calls an architecture of CMake's."""
    number, kind = word.split("-")
    return f"-gencode=arch=compute_{number},code={'sm' if kind == 'real' else 'compute'}_{number}"


class Build(build_ext):
    """Lets nvcc compile its part first."""

    def build_extension(self, ext: Extension) -> None:
        """Compile the kernels, then all else."""
        for source, architectures in KERNELS.items():
            compiled = Path(self.build_temp, source).with_suffix(".o")
            compiled.parent.mkdir(parents=True, exist_ok=True)
            words = [os.environ["CUDACXX"], *map(gencode, architectures), "-c", source, "-o", str(compiled)]
            subprocess.run(words, check=True)
            ext.extra_objects.append(str(compiled))
        super().build_extension(ext)


setup(
    version=f"2.0+{LOCAL_VERSION}",
    cmdclass={"build_ext": Build},
    ext_modules=[
        Extension(
            "miniext._ext",
            ["src/module.c", "src/total.c", "src/scale.cpp"],
            define_macros=[("UNIT", str(minibase.UNIT))],
            library_dirs=[os.path.join(os.environ["CUDA_HOME"], "lib64")],  # noqa: PTH118 - as such projects write it
            libraries=["cudart"],
        )
    ],
)
