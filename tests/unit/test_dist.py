"""The results of a stack: what a stopped install leaves never passes for a whole one."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from mmstack import dist
from mmstack.dist import BILL, Dist
from mmstack.envs import Environments
from mmstack.errors import DiskError
from mmstack.keys import file_digest
from mmstack.model import Artifact
from mmstack.uses import STANDS_ON
from tests.miniature import PINS, Miniature

if TYPE_CHECKING:
    from pathlib import Path

    from mmstack.model import Plan


class Bare(Environments):
    """Makes environments that hold nothing but a file where their Python is to be, or is stopped before."""

    stopped = False

    def make(self, env: Path, *_given: object, **_more: object) -> None:
        """Make one."""
        if self.stopped:
            raise KeyboardInterrupt
        (env / "bin").mkdir(parents=True)
        (env / "bin" / "python").touch()


@dataclass(kw_only=True)
class Bench:
    """A miniature checkout whose wheels are made, to be installed."""

    root: Path
    environments: Bare = field(init=False)

    def __post_init__(self) -> None:
        self.environments = Bare(self.root / "cache", self.root / "home")

    @property
    def dist(self) -> Dist:
        """Return its results."""
        return Dist(self.root / "dist" / "mini")

    def artifacts(self, plan: Plan) -> list[Artifact]:
        """Return a plan's wheels."""
        made = []
        for layer in plan.made:
            wheel = self.root / f"{layer.name}-1-py3-none-any.whl"
            wheel.write_text(layer.name, encoding="utf-8")
            facts: dict[str, Any] = {"sha256": file_digest(wheel), "size": wheel.stat().st_size}
            made.append(Artifact(layer=layer.name, key=layer.key, path=wheel, **facts))
        return made

    def install(self, plan: Plan, bill: str) -> None:
        """Install a plan."""
        log = self.root / "log"
        self.dist.install(plan, self.artifacts(plan), [], self.environments, bill=bill, log=log)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench on which nothing is looked for in an environment that holds nothing."""
    monkeypatch.setattr(dist, "_check_requirements", lambda *_given: None)
    monkeypatch.setattr(dist, "_import_all", lambda *_given: None)
    return Bench(root=tmp_path)


def test_a_stopped_install_leaves_no_other_plan_installed(bench: Bench) -> None:
    """The wheels of both plans are the same; bill and requirements are the second's already, the environment is not."""
    mini = Miniature(root=bench.root / "checkout").write()
    first = mini.plan()
    mini.lock({**PINS, "run": (*PINS["run"], "extra==9")})
    second = mini.plan()
    assert [layer.key for layer in first.layers] == [layer.key for layer in second.layers]
    bench.install(first, "first")
    assert bench.dist.holds(first, bench.artifacts(first))
    bench.environments.stopped = True
    with pytest.raises(KeyboardInterrupt):
        bench.install(second, "second")
    assert (bench.dist.root / BILL).read_text(encoding="utf-8") == "second"
    assert not bench.dist.holds(first, bench.artifacts(first))
    assert not bench.dist.holds(second, bench.artifacts(second))
    bench.environments.stopped = False
    bench.install(first, "first")
    assert bench.dist.holds(first, bench.artifacts(first))
    assert "extra" not in (bench.dist.root / "requirements" / "run.txt").read_text(encoding="utf-8")


def test_wheels_that_were_moved_to_another_disk_are_left_there(bench: Bench) -> None:
    """The link to them is ours to replace, not what it leads to."""
    plan = Miniature(root=bench.root / "checkout").write().plan()
    bench.install(plan, "bill")
    moved = bench.dist.wheels.rename(bench.root / "moved")
    bench.dist.wheels.symlink_to(moved)
    bench.install(plan, "bill")
    assert bench.dist.holds(plan, bench.artifacts(plan))
    assert not bench.dist.wheels.is_symlink()
    assert list(moved.iterdir())


def test_what_an_earlier_install_left_is_removed_before_anything_is_touched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that root ran in the environment leaves bytecode there that only root removes."""
    plan = Miniature(root=bench.root / "checkout").write().plan()
    bench.install(plan, "bill")
    (bench.dist.root / "env.old").mkdir()

    def refuse(folder: Path, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr("mmstack.dist.shutil.rmtree", refuse)
        with pytest.raises(DiskError, match=r"env\.old"):
            bench.install(plan, "another bill")
    assert bench.dist.holds(plan, bench.artifacts(plan))
    assert (bench.dist.root / BILL).read_text(encoding="utf-8") == "bill"


def test_an_environment_says_what_it_stands_on(bench: Bench) -> None:
    """So that nothing of it is swept away when a later run has left another manifest."""
    plan = Miniature(root=bench.root / "checkout").write().plan()
    bench.install(plan, "{}")
    names = set(json.loads((bench.dist.env / STANDS_ON).read_text(encoding="utf-8"))["names"])
    assert {f"artifacts/{layer.key}" for layer in plan.layers} < names
    assert {f"downloads/{digest}" for item in plan.run_requires for digest in item.sha256} < names
    (bench.dist.root / "env.old" / "lib").mkdir(parents=True)  # as one that was killed at the very end leaves it
    bench.dist.clear()
    assert not (bench.dist.root / "env.old").exists()
    assert bench.dist.holds(plan, bench.artifacts(plan))


def test_another_python_of_the_same_minor_version_is_another_environment(bench: Bench) -> None:
    """A plan's key does not tell them apart."""
    plan = Miniature(root=bench.root / "checkout").write().plan()
    bench.install(plan, "{}")
    assert bench.dist.holds(plan, bench.artifacts(plan))
    newer = replace(plan, interpreter=replace(plan.interpreter, version=f"{plan.interpreter.version}9"))
    assert newer.key == plan.key
    assert not bench.dist.holds(newer, bench.artifacts(plan))
