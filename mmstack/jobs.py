"""How many compilers of a layer run at once, by cores and memory. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmstack.graph import has_project
from mmstack.model import Jobs

if TYPE_CHECKING:
    from mmstack.model import Host, LayerPlan

MEMORY_KEPT_FREE = 1 << 30


def choose(host: Host, layer: LayerPlan, wished: int) -> Jobs:
    """Return a layer's jobs: `wished` if that is not 0, and else what cores and memory allow.

    A project of ours has few units for nvcc. What is left of cores goes to several architectures of one unit at once,
    and what is left of memory to units that need less of it.
    """
    free, each = host.memory - MEMORY_KEPT_FREE, memory_per_job(layer)
    slots = wished or max(1, min(host.cores, free // each))
    units = gpu_units(layer)
    if not units:
        return Jobs(total=slots)
    threads = max(1, min(slots // units, len(layer.facts.architectures)))
    nvcc = min(units, slots)
    beside = (free - nvcc * threads * each) // layer.recipe.memory_per_job
    return Jobs(total=wished or max(nvcc, min(host.cores, nvcc + beside)), nvcc=nvcc, threads=threads)


def room_beside(host: Host, layer: LayerPlan) -> int:
    """Return the bytes of memory that are left while a layer is compiled."""
    jobs, heavy = layer.jobs, memory_per_job(layer)
    if not jobs.nvcc:
        return host.memory - MEMORY_KEPT_FREE - jobs.total * heavy
    light = layer.recipe.memory_per_job * (jobs.total - jobs.nvcc)
    return host.memory - MEMORY_KEPT_FREE - jobs.nvcc * jobs.threads * heavy - light


def memory_per_job(layer: LayerPlan) -> int:
    """Return the bytes that the hungriest compiler of a layer takes."""
    return layer.recipe.cuda.memory_per_job if layer.for_gpus and layer.recipe.cuda else layer.recipe.memory_per_job


def gpu_units(layer: LayerPlan) -> int:
    """Return into how many units a project of ours puts what nvcc compiles, 0 where that is not known."""
    ours = layer.for_gpus and has_project(layer)
    return layer.recipe.cuda.units if ours and layer.recipe.cuda else 0
