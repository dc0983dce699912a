"""The graph of a plan: which steps there are, and which wait for which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmstack import constraints
from mmstack.model import Step, StepKind

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mmstack.model import LayerPlan, Stack


RARE = frozenset({"git", "archive", "distro"})


def steps(stack: Stack, layers: Sequence[LayerPlan], install_key: str) -> tuple[Step, ...]:
    """Return the graph: each layer's chain on those of the layers it needs; on all, install; verify upwards.

    A suite waits for its layer's gate and for the suites below, and not for what is above. The last one waits for the
    installation too: a stack that does not even import is told as that.
    """
    # the rest is gigabytes, and of no use without what no package index has
    first = tuple(f"{StepKind.FETCH} {layer.name}" for layer in layers if layer.source.kind in RARE)
    graph = [Step(kind=StepKind.FETCH, layer="", needs=first, key=install_key, title="fetch requirements")]
    made = {layer.name for layer in layers if layer.installed is None}
    for layer in layers:
        graph += _chain(layer, made, () if layer.source.kind in RARE else first)
    built = tuple(step.id for step in graph if step.kind is StepKind.GATE)
    graph.append(
        Step(
            kind=StepKind.INSTALL,
            layer="",
            needs=(str(StepKind.FETCH), *built),
            key=install_key,
            title=f"install dist/{stack.name}/env",
        )
    )
    below = str(StepKind.FETCH)
    for layer in layers:
        gate = (f"{StepKind.GATE} {layer.name}",) if layer.name in made else ()
        last = (str(StepKind.INSTALL),) if layer is layers[-1] else ()
        step = Step(
            kind=StepKind.VERIFY,
            layer=layer.name,
            needs=(below, *gate, *last),
            key=layer.verify_key,
            title=f"verify {layer.name}",
            heavy=True,
        )
        graph.append(step)
        below = step.id
    return tuple(graph)


def has_project(layer: LayerPlan) -> bool:
    """Return whether CMake configures, and ninja compiles, what the layer's wheel is made of."""
    project = layer.recipe.cmake
    return (
        project is not None
        and project.when.items() <= layer.flags.items()
        and constraints.holds({layer.name: project.versions}, {layer.name: layer.version})
    )


def _chain(layer: LayerPlan, made: Collection[str], first: tuple[str, ...]) -> list[Step]:
    if layer.installed:
        return []
    kinds = [StepKind.FETCH, StepKind.SOURCE, StepKind.ENV, StepKind.BUILD, StepKind.GATE]
    if has_project(layer):
        kinds.insert(kinds.index(StepKind.BUILD), StepKind.CONFIGURE)
    if layer.source.kind == "wheel":
        kinds = [StepKind.FETCH, StepKind.ENV, StepKind.GATE]
    needs = first
    chain: list[Step] = []
    for kind in kinds:
        if kind is StepKind.ENV and layer.source.kind != "wheel":
            needs = (*needs, *(f"{StepKind.GATE} {name}" for name in layer.recipe.against if name in made))
        step = Step(
            kind=kind,
            layer=layer.name,
            needs=needs,
            key=layer.key,
            title=f"{kind} {layer.name}",
            heavy=kind is StepKind.BUILD and layer.recipe.compiles,
        )
        chain.append(step)
        needs = (step.id,)
    return chain
