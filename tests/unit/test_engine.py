"""What a run does of its plan, and what it finds done."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from mmstack import gates
from mmstack.builders.cmake import CONFIGURED
from mmstack.engine import Engine
from mmstack.events import Notice, StepEnded
from mmstack.model import Paths
from mmstack.workshop import Workshop
from tests.miniature import Miniature

if TYPE_CHECKING:
    from pathlib import Path

    from mmstack.events import Event
    from mmstack.model import Plan, Step

FETCHES = {"fetch", "fetch base", "fetch ext", "fetch top"}


@dataclass(kw_only=True)
class Shop(Workshop):
    """One that fetches nothing, but knows what it was asked to."""

    asked: set[str] = field(default_factory=set)

    def fetch(self, plan: Plan, step: Step) -> str:
        """Take note of it."""
        assert step in plan.steps
        self.asked.add(step.id)
        return "0 files"


def test_fetch_fetches_what_is_built_already(tmp_path: Path) -> None:
    """What a sweep took is wanted again by whoever carries the downloads elsewhere; nothing else is done anew."""
    plan = Miniature(root=tmp_path).write().plan()
    ended: list[tuple[str, str]] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepEnded):
            ended.append((event.step.id, event.outcome))

    paths = Paths(root=tmp_path, state=tmp_path / "state", dist=tmp_path / "dist")
    shop = Shop(paths=paths, listener=listen, environ={})
    for layer in plan.made:
        wheel = tmp_path / f"{layer.name}-1-py3-none-any.whl"
        wheel.write_text(layer.name)
        shop.store.put(wheel, layer=layer.name, key=layer.key, seconds=1.0, gates=(), reproducible=True)
    Engine(shop).build(plan, stop_after="fetch")
    assert shop.asked == FETCHES
    assert sorted(ended) == sorted((name, "done") for name in FETCHES)
    shop.asked.clear()
    Engine(shop).build(plan, stop_after="gate")
    assert shop.asked == set()


@pytest.mark.parametrize("apart", ["", "one.cpp\ntwo.cpp"])
@pytest.mark.parametrize("named", ["", "state", "disk"])
def test_what_may_come_out_otherwise_elsewhere_is_marked_as_not_reproducible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: str, named: str
) -> None:
    """Its compiler failed, here and today; or a file says where it was built, by a link or without, which is told."""
    monkeypatch.setattr(gates, "check_wheel", lambda *_args, **_more: gates.Passed(gates=("tag",)))
    plan = Miniature(root=tmp_path).write().plan()
    layer = plan.layer("ext")
    paths = Paths(root=tmp_path, state=tmp_path / "state", dist=tmp_path / "dist")
    (tmp_path / "disk").mkdir()
    paths.state.symlink_to(tmp_path / "disk")
    told: list[Event] = []
    shop = Workshop(paths=paths, listener=told.append, environ={})
    place = shop.place(layer)
    for folder in (place.out, place.built):
        folder.mkdir(parents=True)
    where = str(place.tree).replace("/state/", f"/{named}/") if named else "/elsewhere"
    with zipfile.ZipFile(place.out / "ext-2.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("ext/__init__.py", "")
        wheel.writestr("ext/_c.so", "x" * (gates.CHUNK - 5) + where)  # over the edge of what is read at once
    (place.built / CONFIGURED).write_text(apart)
    shop.gate(plan, next(step for step in plan.steps if step.id == "gate ext"))
    assert shop.artifact(layer).reproducible == (not apart and not named)
    warnings = [event.text for event in told if isinstance(event, Notice) and event.level == "warning"]
    text = "ext: these name the folder of the build, so the wheel is marked as not reproducible: ext/_c.so"
    assert warnings == ([text] if named else [])
