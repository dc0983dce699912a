"""The results of a stack: `dist/<stack>/` with its wheels, its requirements and an environment ready to activate."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmstack.envs import Wheel, python_of, unmet
from mmstack.errors import CommandError, PinError, UsageError, VerificationError
from mmstack.keys import file_digest
from mmstack.lock import parse_requirements
from mmstack.report import STAMP, layer_facts, write_atomically
from mmstack.run import run, scrubbed
from mmstack.shapes import load
from mmstack.store import disk_errors, write_json
from mmstack.uses import STANDS_ON, of_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mmstack.envs import Environments
    from mmstack.model import Artifact, LockedRequirement, Plan

BILL = "sbom.cdx.json"
REQUIREMENTS = ("run", "verify")


@dataclass(frozen=True)
class Dist:
    """One stack's results."""

    root: Path

    @property
    def env(self) -> Path:
        """Return the environment to activate."""
        return self.root / "env"

    @property
    def wheels(self) -> Path:
        """Return the folder of the layers' wheels."""
        return self.root / "wheels"

    @property
    def _again(self) -> str:
        return f"`invoke build-stack --stack {self.root.name}` with its other options"

    def holds(self, plan: Plan, artifacts: Sequence[Artifact]) -> bool:
        """Return whether exactly this plan is installed."""
        try:
            stamp = load(self.env / STAMP)
        except (OSError, ValueError):
            return False
        return (
            stamp == _stamp(plan)
            and python_of(self.env).exists()
            and (self.root / BILL).exists()
            and len(artifacts) == len(plan.made)
            and all(_same_size(self.wheels / item.filename, item) for item in artifacts)
        )

    def install(
        self,
        plan: Plan,
        artifacts: Sequence[Artifact],
        requirements: Sequence[Wheel],
        environments: Environments,
        *,
        bill: str,
        log: Path,
    ) -> None:
        """Replace the wheels, their bill of materials, the requirements and the environment by those of a plan.

        Raises:
            VerificationError: the new environment lacks a requirement, or does not import every layer.
        """
        fresh, old = self.root / "env.new", self.root / "env.old"
        for leftover in (fresh, old):  # before anything is touched: it may be another user's
            if leftover.exists():
                with disk_errors(leftover):
                    shutil.rmtree(leftover)
        log.unlink(missing_ok=True)
        (self.env / STAMP).unlink(missing_ok=True)  # from here on nothing is whole until all of it is
        self._put_wheels(artifacts)
        write_atomically(self.root / BILL, bill)
        self._put_requirements(plan)
        layers = [Wheel(path=item.path, sha256=item.sha256) for item in artifacts]
        environments.make(
            fresh, plan.interpreter, [*requirements, *layers], log=log, link_mode="copy", beside=plan.beside
        )
        _check_requirements(plan, fresh)
        _import_all(plan, fresh, log)
        write_json(fresh / STANDS_ON, {"names": sorted(set(_stands_on(plan)))})
        write_json(fresh / STAMP, _stamp(plan))
        if self.env.exists():
            self.env.replace(old)
        fresh.replace(self.env)
        shutil.rmtree(old, ignore_errors=True)

    def clear(self) -> None:
        """Remove what a killed run left of the environment that it replaced."""
        shutil.rmtree(self.root / "env.old", ignore_errors=True)

    def requirements(self) -> tuple[LockedRequirement, ...]:
        """Return what runs and verifies the stack, as it was installed.

        Raises:
            UsageError: it was not.
        """
        files = [self.root / "requirements" / f"{name}.txt" for name in REQUIREMENTS]
        if missing := [file for file in files if not file.exists()]:
            raise UsageError(f"there is no {missing[0]}", why="the stack is not installed", fix=f"run {self._again}")
        return tuple(item for file in files for item in parse_requirements(file.read_text(encoding="utf-8")))

    def made_layers(self, manifest: Mapping[str, Any]) -> list[str]:
        """Return the layers that there is a wheel of, bottom-up, in the order of the manifest's artifacts.

        Raises:
            UsageError: the stack's last build did not come so far.
        """
        made = [layer["name"] for layer in manifest["layers"] if layer["source"]["kind"] != "installed"]
        if len(manifest["artifacts"]) < len(made):
            raise UsageError(
                f"{self.root} holds no whole stack",
                why="its last build did not end",
                fix=f"run {self._again}: it carries on",
            )
        return made

    def checked_wheels(self, artifacts: Sequence[Mapping[str, Any]]) -> list[Wheel]:
        """Return the layers' wheels, each the one that the manifest names.

        Raises:
            PinError: one is missing or another.
        """
        wheels = [Wheel(path=self.wheels / item["filename"], sha256=item["sha256"]) for item in artifacts]
        for wheel in wheels:
            found = file_digest(wheel.path) if wheel.path.exists() else "nothing"
            if found != wheel.sha256:
                raise PinError(
                    f"{wheel.path} is not the wheel that was built",
                    why=f"the manifest says {wheel.sha256}, here is {found}",
                    fix=f"let a build that runs end; where none does, remove this wheel and run {self._again}, "
                    "which puts the right one back",
                )
        return wheels

    def _put_wheels(self, artifacts: Sequence[Artifact]) -> None:
        fresh = self.root / "wheels.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for item in artifacts:
            shutil.copyfile(item.path, fresh / item.filename)
        if self.wheels.is_symlink():
            self.wheels.unlink()
        shutil.rmtree(self.wheels, ignore_errors=True)
        fresh.replace(self.wheels)

    def _put_requirements(self, plan: Plan) -> None:
        folder = self.root / "requirements"
        folder.mkdir(exist_ok=True)
        for name, items in zip(REQUIREMENTS, (plan.run_requires, plan.verify_requires), strict=True):
            (folder / f"{name}.txt").write_text("".join(f"{item.line()}\n" for item in items), encoding="utf-8")


def _stands_on(plan: Plan) -> Iterator[str]:
    """Yield what of the state an environment stands on, whatever a later run of another plan writes beside it."""
    requirements = [{"sha256": item.sha256} for item in (*plan.run_requires, *plan.verify_requires)]
    return of_result({"layers": [layer_facts(layer) for layer in plan.layers], "requirements": requirements})


def _stamp(plan: Plan) -> dict[str, str]:
    """Return what an environment is of: a plan's key does not tell one Python from another of its minor version."""
    return {"key": plan.key, "python": plan.interpreter.version}


def _same_size(path: Path, artifact: Artifact) -> bool:
    return path.exists() and path.stat().st_size == artifact.size


def _check_requirements(plan: Plan, env: Path) -> None:
    if problems := unmet(env, plan.interpreter, plan.beside):
        raise VerificationError(
            "the installed environment does not meet what its distributions require",
            why="\n".join(problems),
            fix="correct the requirements of the layer's recipe, then `invoke lock`",
        )


def _import_all(plan: Plan, env: Path, log: Path) -> None:
    modules = [module for layer in plan.layers for module in layer.recipe.modules]
    home = env / "home"
    home.mkdir()
    try:
        run(
            [python_of(env), "-I", "-c", f"import {', '.join(modules)}"],
            env=scrubbed(home, {"PYTHONDONTWRITEBYTECODE": "1"}),
            cwd=home,
            log=log,
        )
    except CommandError as error:
        raise VerificationError(
            "the installed environment does not import every layer", why=error.why, fix=f"read {log}"
        ) from error
    finally:
        shutil.rmtree(home, ignore_errors=True)
