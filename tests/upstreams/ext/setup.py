"""Compiles one module against the layer below, and prints all it is told, as careless projects do."""

import os

import minibase
from setuptools import Extension, setup

print(dict(os.environ))  # noqa: T201 - what careless projects do

setup(
    ext_modules=[
        Extension(
            "miniext._ext",
            ["src/module.c", "src/total.c", "src/scale.cpp"],
            define_macros=[("UNIT", str(minibase.UNIT))],
        )
    ]
)
