"""How many compilers run at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mmstack import jobs
from mmstack.model import CMakeProject, CudaBuild, Jobs
from mmstack.toolchains.architectures import parse_architecture
from tests.miniature import HOST, Miniature

if TYPE_CHECKING:
    from pathlib import Path

    from mmstack.model import Host, LayerPlan

GIB = 1 << 30


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> LayerPlan:
    """A layer of which each compiler takes half a gibibyte."""
    return Miniature(root=tmp_path_factory.mktemp("jobs")).write().plan().layer("ext")


def for_gpus(layer: LayerPlan, architectures: int, *, units: int = 4) -> LayerPlan:
    """Return it with so many files for nvcc, each of two gibibytes for each of so many architectures."""
    words = [parse_architecture(f"{number}.0") for number in range(7, 7 + architectures)]
    cuda = CudaBuild(memory_per_job=2 * GIB, local_version="", units=units)
    recipe = replace(layer.recipe, cuda=cuda, cmake=CMakeProject(when={}, file="CMakeLists.txt"))
    return replace(layer, recipe=recipe, facts=replace(layer.facts, cuda="13.0", architectures=tuple(words)))


def machine(cores: int, gibibytes: int) -> Host:
    """Return a machine."""
    return replace(HOST, cores=cores, memory=gibibytes * GIB)


@pytest.mark.parametrize(
    ("cores", "gibibytes", "architectures", "found"),
    [
        (2, 24, 1, Jobs(total=2, nvcc=2)),
        (16, 5, 1, Jobs(total=2, nvcc=2)),
        (1, 64, 4, Jobs(total=1, nvcc=1)),
        (16, 2, 4, Jobs(total=1, nvcc=1)),
        (16, 11, 1, Jobs(total=8, nvcc=4)),
        (16, 64, 1, Jobs(total=16, nvcc=4)),
        (16, 64, 2, Jobs(total=16, nvcc=4, threads=2)),
        (32, 65, 8, Jobs(total=4, nvcc=4, threads=8)),
    ],
    ids=["cores", "memory", "one core", "too little", "C++ beside", "ample", "both architectures", "threads"],
)
def test_memory_and_cores_go_to_nvcc_first_and_then_to_lighter_units(
    plain: LayerPlan, cores: int, gibibytes: int, architectures: int, found: Jobs
) -> None:
    """Two gibibytes for each nvcc and each of its threads, half a gibibyte for each other, one kept free."""
    host, layer = machine(cores, gibibytes), for_gpus(plain, architectures)
    assert jobs.choose(host, layer, 0) == found
    assert jobs.room_beside(host, replace(layer, jobs=found)) >= 0 or found.total == 1


def test_what_the_user_wishes_is_what_is_compiled_at_once(plain: LayerPlan) -> None:
    """With `--jobs`, whatever memory there is."""
    assert jobs.choose(machine(2, 2), for_gpus(plain, 2), 9) == Jobs(total=9, nvcc=4, threads=2)
    assert jobs.choose(machine(2, 2), plain, 9) == Jobs(total=9)


def test_where_nobody_says_how_many_units_there_are_all_are_as_heavy_as_nvcc(plain: LayerPlan) -> None:
    """Upstream's own build has one for each file."""
    layer = for_gpus(plain, 2, units=0)
    assert jobs.choose(machine(16, 11), layer, 0) == Jobs(total=5)
    assert jobs.room_beside(machine(16, 11), replace(layer, jobs=Jobs(total=5))) == 0


def test_a_recipe_says_how_many_units_nvcc_gets(mini: Miniature) -> None:
    """A number that is not below 0."""
    cuda = '[build.cuda]\nlocal_version = ""\nunits = 5\n\n[build.environment]'
    mini.edit("pipelines/ext/recipe.toml", "[build.environment]", cuda)
    found = mini.catalog.recipe("ext").cuda
    assert found is not None
    assert found.units == 5


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    """A checkout of one's own."""
    return Miniature(root=tmp_path).write()
