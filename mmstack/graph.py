"""The graph of a plan: which steps there are, and which wait for which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmstack.model import Step, StepKind

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mmstack.model import LayerPlan, Stack


def steps(stack: Stack, layers: Sequence[LayerPlan], install_key: str) -> tuple[Step, ...]:
    """Return the graph: each layer's chain on those of the layers it needs, then install, then verify upwards."""
    graph = [Step(kind=StepKind.FETCH, layer="", needs=(), key=install_key, title="fetch requirements")]
    made = {layer.name for layer in layers if layer.installed is None}
    for layer in layers:
        graph += _chain(layer, made)
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
    below = str(StepKind.INSTALL)
    for layer in layers:
        step = Step(
            kind=StepKind.VERIFY, layer=layer.name, needs=(below,), key=layer.verify_key, title=f"verify {layer.name}"
        )
        graph.append(step)
        below = step.id
    return tuple(graph)


def _chain(layer: LayerPlan, made: Collection[str]) -> list[Step]:
    if layer.installed:
        return []
    kinds = [StepKind.FETCH, StepKind.SOURCE, StepKind.ENV, StepKind.BUILD, StepKind.GATE]
    if layer.source.kind == "wheel":
        kinds = [StepKind.FETCH, StepKind.ENV, StepKind.GATE]
    needs: tuple[str, ...] = ()
    chain: list[Step] = []
    for kind in kinds:
        if kind is StepKind.ENV and layer.source.kind != "wheel":
            needs = (*needs, *(f"{StepKind.GATE} {name}" for name in layer.recipe.against if name in made))
        step = Step(kind=kind, layer=layer.name, needs=needs, key=layer.key, title=f"{kind} {layer.name}")
        chain.append(step)
        needs = (step.id,)
    return chain
