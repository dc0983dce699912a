"""From a request to a verified stack: plans, and carries the plan out."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmstack.catalog import Catalog
from mmstack.dist import Dist
from mmstack.errors import MmstackError, UsageError, VerificationError, did_you_mean
from mmstack.events import LayerVerified, Notice, PlanReady, RunEnded
from mmstack.host import cores, describe, find_installed
from mmstack.keys import key
from mmstack.locked import TOOLKIT
from mmstack.model import StepKind
from mmstack.resolve import (
    INDEX_KINDS,
    INSTALLED,
    Findings,
    applicable_sets,
    candidates,
    choose_compiler,
    compiled_for_gpus,
    resolve,
    select,
)
from mmstack.run import interrupted
from mmstack.schedule import run_steps
from mmstack.sources.provide import folder_digest
from mmstack.standalone import suite_facts
from mmstack.store import disk_errors
from mmstack.toolchains import linkers
from mmstack.toolchains.choice import choose
from mmstack.uses import of_plan, of_result
from mmstack.verify import Suite

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from mmstack.model import (
        Artifact,
        FilePin,
        Host,
        Installed,
        Interpreter,
        LayerPlan,
        Linker,
        Plan,
        Request,
        Source,
        Step,
        Toolkit,
        Verification,
    )
    from mmstack.resolve import Selection
    from mmstack.workshop import Workshop


@dataclass(frozen=True)
class Engine:
    """Plans and builds in one checkout."""

    workshop: Workshop

    @cached_property
    def catalog(self) -> Catalog:
        """Return the repository's stacks, recipes and patches."""
        return Catalog(self.workshop.paths.root)

    def plan(self, request: Request, host: Host, interpreter: Interpreter) -> Plan:
        """Return what a request leads to on this machine; looks up what planning needs."""
        selection = select(request, self.catalog)
        installed = self.installed(selection, interpreter)
        selection = selection.found(installed)
        toolkit, notes = self.toolkit(request, selection, interpreter)
        for note in notes:
            self.workshop.listener(Notice(text=f"not taken: {note}"))
        linker = self._linker(request, host, toolkit)
        findings = Findings(
            chosen={
                name: self._choose(source, interpreter) for name, source in selection.sources.items() if source.files
            },
            trees={name: folder_digest(name, source.path) for name, source in selection.sources.items() if source.path},
            toolkit=toolkit,
            installed=installed,
            linker=linker,
        )
        plan = resolve(request, selection, host, interpreter, self.catalog, findings)
        for layer in plan.layers:
            if layer.source.kind == "wheel" and layer.chosen and layer.chosen.variant != layer.source.files[0].variant:
                self._say_what_it_costs(plan, layer, layer.chosen)
        return plan

    def _linker(self, request: Request, host: Host, toolkit: Toolkit | None) -> Linker | None:
        """Return what the plan's compiler links with, where there is one."""
        compiler = choose_compiler(host, self.catalog, toolkit)
        return linkers.find(request.linker or linkers.OWN, compiler, self.workshop.environ) if compiler else None

    def _choose(self, source: Source, interpreter: Interpreter) -> FilePin:
        """Return the file that a layer is made of: of an index source, one that an index offers."""
        found = candidates(source, interpreter)
        return self.workshop.choose(source, found) if source.kind in INDEX_KINDS else found[0]

    def installed(self, selection: Selection, interpreter: Interpreter) -> dict[str, Installed]:
        """Return the layers that are taken as an existing Python holds them."""
        return {
            name: find_installed(interpreter.path, self.catalog.recipe(name).folder / INSTALLED)
            for name, source in selection.sources.items()
            if source.kind == "installed"
        }

    def toolkit(
        self, request: Request, selection: Selection, interpreter: Interpreter
    ) -> tuple[Toolkit | None, tuple[str, ...]]:
        """Return the CUDA toolkit, where a layer is compiled with one, and in words what was passed over."""
        if not compiled_for_gpus(selection, self.catalog):
            return None, ()
        locked = applicable_sets(self.catalog.lock(selection.stack), interpreter)
        return choose(
            request.toolkit,
            self.catalog.toolkit(selection.stack.cuda),
            locked.get(TOOLKIT, ()),
            self.workshop.environ,
            index_only=request.index_only,
        )

    def _say_what_it_costs(self, plan: Plan, layer: LayerPlan, chosen: FilePin) -> None:
        """Tell how much a build takes to download that is not the preferred one."""
        shop = self.workshop
        lock = applicable_sets(self.catalog.lock(plan.stack), plan.interpreter)
        wanted = lock.get(f"run-{chosen.variant}", ())
        offers = shop.offers_for(layer.source.project, [chosen], wanted, plan.interpreter.tags)
        if offers:
            size = sum(shop.index.size_of(offer) or 0 for offer in offers)
            preferred = layer.source.files[0].variant
            pinned = any(pin.variant == preferred for pin in candidates(layer.source, plan.interpreter))
            whose = "no package index of yours offers the" if pinned else "there is no"
            shop.listener(
                Notice(
                    level="warning",
                    text=f"{layer.name}: {whose} '{preferred}' build for this Python; "
                    f"the '{chosen.variant}' build is taken: {len(offers)} files, {size / 1e9:.1f} GB to download",
                )
            )

    def cached(self, plan: Plan) -> frozenset[str]:
        """Return the ids of the steps whose results are already there."""
        store, installed = self.workshop.store, self._installed(plan)
        done = set()
        for step in plan.steps:
            if step.kind is StepKind.VERIFY:
                found = store.find_verification(step.key) is not None
            elif step.kind is StepKind.INSTALL:
                found = installed
            else:
                found = bool(step.layer) and store.find(step.key) is not None
            if found:
                done.add(step.id)
        last = {step.id for step in plan.steps if step.kind in {StepKind.INSTALL, StepKind.VERIFY}}
        return frozenset(done | {str(StepKind.FETCH)} if last <= done else done)

    def build(self, plan: Plan, *, stop_after: str = "") -> tuple[Verification, ...]:
        """Carry a plan out and return what its verification found.

        Raises:
            MmstackError: of whatever kind the first failing step ended with.
        """
        with self._claimed(of_plan(plan, self.workshop.tools)):
            return self._build(plan, stop_after)

    @contextmanager
    def _claimed(self, things: Iterable[str]) -> Iterator[None]:
        """Use things of the state, and let sweeps from other checkouts know where our results lie."""
        uses = self.workshop.uses
        with uses.claim(things), uses.claim([str(self.workshop.paths.dist)]):
            yield

    def _build(self, plan: Plan, stop_after: str) -> tuple[Verification, ...]:
        started, cpu = time.monotonic(), _cpu_seconds()
        cached = self._done(plan, stop_after)
        if len(cached) < len(plan.steps):  # something will be made of what is here
            self.workshop.digests.doubt()
            cached = self._done(plan, stop_after)
        steps = until(plan.steps, stop_after, cached)
        self.workshop.listener(PlanReady(plan=plan, cached=cached))
        for artifact in self._artifacts(plan):  # a run killed in the gate may have left its tree
            self.workshop.clear(plan.layer(artifact.layer))
        if self._installed(plan):  # and one killed while it installed, the environment that was there before
            self._dist(plan).clear()
        error: MmstackError | None = None
        failed: tuple[Verification, ...] = ()
        try:
            with disk_errors(self.workshop.paths.state):
                run_steps(
                    steps,
                    cached,
                    lambda step: self.workshop.execute(plan, step),
                    self.workshop.listener,
                    roomy=plan.roomy,
                    stop=self.workshop.stop,
                )
        except MmstackError as problem:
            error = problem
            if isinstance(problem, VerificationError) and problem.verification:
                failed = (problem.verification,)
            raise
        except KeyboardInterrupt:
            error = interrupted()
            raise error from None
        except BaseException as problem:
            error = MmstackError("ended unexpectedly", why=repr(problem), fix="run it again with `--debug`")
            raise
        finally:
            passed = self._verifications(plan)
            self.workshop.listener(
                RunEnded(
                    plan=plan,
                    artifacts=self._artifacts(plan),
                    verifications=passed + failed,
                    seconds=time.monotonic() - started,
                    error=error,
                    installed=self._installed(plan),
                    cpu_seconds=_cpu_seconds() - cpu,
                    cores=cores(),
                )
            )
        return passed

    def verify_again(self, dist: Dist, manifest: Mapping[str, Any]) -> tuple[Verification, ...]:
        """Prove the wheels that stand in a stack's folder, whoever built them, bottom-up in fresh environments.

        Raises:
            UsageError: the stack's last build did not come so far.
            PinError: a wheel is not the one that the manifest names.
            VerificationError: a layer does not do what its suite demands.
        """
        with self._claimed(("uv-cache", *of_result(manifest))):
            return self._verify_again(dist, manifest)

    def _verify_again(self, dist: Dist, manifest: Mapping[str, Any]) -> tuple[Verification, ...]:
        made = dist.made_layers(manifest)
        shop = self.workshop
        shop.digests.doubt()
        interpreter = describe(Path(manifest["interpreter"]["path"]), cache=shop.paths.state / "pythons.json")
        requirements = dist.requirements()
        shop.download("", (), requirements, interpreter.tags)
        wheels = dist.checked_wheels(manifest["artifacts"])
        beside = [Path(folder) for layer in manifest["layers"] for folder in layer["source"]["folders"]]
        versions = {item["name"]: item["version"] for item in manifest["layers"]}
        results: list[Verification] = []
        for count, layer in enumerate(manifest["layers"], start=1):
            suite = Suite(
                layer=layer["name"],
                key=key("again", {"layer": layer["key"], "at": time.time_ns()}),
                folder=self.catalog.recipe(layer["name"]).folder / "verify",
                facts=suite_facts(
                    stack=manifest["stack"]["name"],
                    layer=layer["name"],
                    cuda=layer["cuda"],
                    python=interpreter.version,
                    layers=versions,
                    expect=layer["expect"],
                    toolkit=manifest["toolkit"],
                    options=shop.options,
                ),
            )
            log = dist.root / "logs" / f"verify-{layer['name']}.log"
            below = sum(item["name"] in made for item in manifest["layers"][:count])
            result = shop.prove(suite, wheels[:below], requirements, interpreter, log=log, beside=beside)
            shop.listener(LayerVerified(verification=result))
            results.append(result)
        return tuple(results)

    def _done(self, plan: Plan, stop_after: str) -> frozenset[str]:
        """Return the ids of the steps that need not be done; who only fetches wants all files, used up or not."""
        cached = self.cached(plan)
        if stop_after != StepKind.FETCH:
            return cached
        return cached - {step.id for step in plan.steps if step.kind is StepKind.FETCH}

    def _installed(self, plan: Plan) -> bool:
        return self._dist(plan).holds(plan, self._artifacts(plan))

    def _dist(self, plan: Plan) -> Dist:
        return Dist(self.workshop.paths.dist / plan.stack.name)

    def _artifacts(self, plan: Plan) -> tuple[Artifact, ...]:
        return tuple(found for layer in plan.made if (found := self.workshop.store.find(layer.key)))

    def _verifications(self, plan: Plan) -> tuple[Verification, ...]:
        store = self.workshop.store
        return tuple(found for layer in plan.layers if (found := store.find_verification(layer.verify_key)))


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the commands that it has waited for."""
    return sum(os.times()[:4])


def until(steps: Sequence[Step], stop_after: str, cached: Collection[str] = ()) -> tuple[Step, ...]:
    """Return the steps of that kind and all that they wait for; of `configure`, those that wait for no compiler."""
    if not stop_after:
        return tuple(steps)
    kinds = [str(kind) for kind in StepKind]
    if stop_after not in kinds:
        raise UsageError(
            f"--stop-after: there is no step '{stop_after}'",
            why=did_you_mean(stop_after, kinds),
            fix="choose one of these",
        )
    by_id = {step.id: step for step in steps}
    wanted = [step.id for step in steps if step.kind == stop_after]
    if not wanted:
        raise UsageError(
            f"--stop-after: no layer of this plan has a step '{stop_after}'",
            why=did_you_mean(stop_after, {str(step.kind) for step in steps}),
            fix="choose one of these",
        )
    needed = {name: _with_needs(name, by_id) for name in wanted}
    if stop_after == StepKind.CONFIGURE:
        compiled = {step.id for step in steps if step.kind is StepKind.BUILD and step.heavy} - set(cached)
        before = {name: ids & compiled for name, ids in needed.items()}
        if all(before.values()):
            raise UsageError(
                "--stop-after: nothing of this plan is configured before something is compiled",
                why="; ".join(f"'{name}' waits for '{', '.join(sorted(ids))}'" for name, ids in before.items()),
                fix="`--stop-after build`, or take from wheels what is waited for: `--source LAYER=wheel`",
            )
        needed = {name: ids for name, ids in needed.items() if not before[name]}
    kept = set().union(*needed.values())
    return tuple(step for step in steps if step.id in kept)


def _with_needs(name: str, by_id: Mapping[str, Step]) -> set[str]:
    """Return a step's id and those of all that it waits for."""
    found, waiting = set[str](), [name]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += by_id[name].needs
    return found
