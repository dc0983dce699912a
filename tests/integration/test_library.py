"""A layer that is a C library by itself: its own CMake project, packed by the recipe's own files."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mmstack.catalog import Catalog
from mmstack.lock import write_lock
from mmstack.locked import inputs_of
from mmstack.model import Lock
from tests.support import UPSTREAMS, VERIFY, pack, pinned_tools, sha256
from tests.toolkits import wheel

if TYPE_CHECKING:
    from mmstack.model import LockedRequirement
    from tests.support import Checkout

RECIPE = "pipelines/lib/recipe.toml"
STACK = """\
summary = "one library"
python = ["{python}"]
cuda = "cpu"

[[layers]]
name = "lib"
version = "1.0"
source = "sdist"
flags = {{ AREA = "ROUND" }}
"""


@pytest.fixture
def library(fresh: Checkout) -> Checkout:
    """A checkout with the layer, and a stack of it alone."""
    source = UPSTREAMS / "lib"
    shutil.copytree(source / "pipeline", fresh.root / "pipelines" / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    publish(fresh)
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    (fresh.root / "stacks" / "lib.toml").write_text(STACK.format(python=minor), encoding="utf-8")
    tools = pinned_tools()
    pins = {
        "run": (),
        "verify": tuple(tools[name] for name in VERIFY if name in tools),
        "build-lib": (tools["setuptools"], tool(fresh, "cmake"), tool(fresh, "ninja")),
    }
    catalog = Catalog(fresh.root)
    lock = Lock(sets=pins, inputs=inputs_of(catalog.stack("lib"), catalog))
    (fresh.root / "stacks" / "lib.lock").write_text(write_lock(lock), encoding="utf-8")
    fresh.stack = "lib"
    return fresh


def publish(checkout: Checkout) -> None:
    """Put the library's source on offer and pin it."""
    tree = checkout.root.parent / "trees" / "lib"
    shutil.copytree(UPSTREAMS / "lib" / "tree", tree)
    pack(tree, checkout.index / "minilib-1.0.tar.gz", "minilib-1.0")
    checkout.edit(RECIPE, ("{sha256}", sha256(checkout.index / "minilib-1.0.tar.gz")))


def tool(checkout: Checkout, name: str) -> LockedRequirement:
    """Put this machine's build tool on offer, as a package that leads to it."""
    tools = Path(sys.executable).parent
    program = shutil.which(name, path=f"{tools}:{checkout.environ()['PATH']}")
    assert program, f"{name} is in the dependency group `test`"
    return wheel(checkout.index, name, "1.0", {f"{name}-1.0.data/scripts/{name}": f'#!/bin/sh\nexec {program} "$@"\n'})


def contents(checkout: Checkout) -> tuple[str, set[str]]:
    """Return the name of the wheel, and those of its files."""
    (packed,) = (checkout.dist / "wheels").glob("*.whl")
    with zipfile.ZipFile(packed) as archive:
        return packed.name, set(archive.namelist())


def test_a_library_is_built_by_its_own_project_and_packed_by_the_recipe_s_files(library: Checkout) -> None:
    """The flag reaches CMake, what that installs is the wheel, and the suite loads it."""
    done = library.build()
    assert done.code == 0, done.text
    name, files = contents(library)
    assert name.startswith("minilib-1.0-py3-none-")
    assert {"minilib/lib/libarea.so", "minilib/include/area.h", "minilib/__init__.py"} <= files


def test_a_library_comes_out_the_same_again(library: Checkout) -> None:
    """Whenever the recipe's files were written: what is laid over a tree takes that tree's date."""
    assert library.build().code == 0
    before = library.wheels()
    shutil.rmtree(library.state)
    (library.root / "pipelines" / "lib" / "setup.py").touch()
    assert library.build().code == 0
    assert library.wheels() == before


def test_a_wheel_with_a_python_s_tag_is_refused(library: Checkout) -> None:
    """The recipe's files are what packs it; the gate sees when they say another thing."""
    library.edit("pipelines/lib/setup.py", ('"py3", "none",', '"py3", "abi3",'))
    done = library.build()
    assert done.code == 1
    assert "tag: py3-abi3-" in done.err
    assert "this layer is compiled for this machine and any Python" in done.err


def test_a_project_that_does_not_say_what_was_asked_is_refused(library: Checkout) -> None:
    """What configuring says is held against the flags here too."""
    library.edit(RECIPE, ("[build.cmake.definitions]", '[build.cmake.definitions]\nAREA = "SQUARE"'))
    done = library.build()
    assert done.code == 1
    assert "CMake was not told" in done.err
