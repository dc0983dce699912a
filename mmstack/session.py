"""What the tasks do, one method each: wires engine, console and report together."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mmstack import doctor, doctor_cuda, host, locked, locking
from mmstack.catalog import lock_file
from mmstack.dist import Dist
from mmstack.doctor import Needs
from mmstack.engine import Engine, until
from mmstack.envs import uv_path
from mmstack.errors import CatalogError, DiskError, MmstackError, NetworkError, UsageError, did_you_mean
from mmstack.events import Notice, RunEnded
from mmstack.jobs import memory_per_job
from mmstack.lock import tree_name, write_lock
from mmstack.provenance import builder
from mmstack.report import (
    MANIFEST_NAME,
    Report,
    alone,
    compiler_record,
    read_manifest,
    read_manifest_file,
    verification_facts,
    write,
    write_atomically,
)
from mmstack.resolve import BUILT_KINDS, INDEX_KINDS, choose_python, compiled_for_gpus, demand_python, select
from mmstack.sources import trees
from mmstack.sources.mirrors import read_mirror
from mmstack.sources.places import redact
from mmstack.toolchains.system import every
from mmstack.verify import toolkit_facts
from mmstack.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmstack.console import Console
    from mmstack.events import Event
    from mmstack.model import Host, Interpreter, Lock, Paths, Plan, Request, Stack, Toolkit
    from mmstack.options import Options
    from mmstack.report import Manifest
    from mmstack.resolve import Selection

MEMORY_TO_INSTALL = 1 << 30
DISK_FOR_A_STACK = 8 << 30
DISK_FOR_A_CUDA_STACK = 25 << 30  # NVIDIA's libraries: 3.3 GB to download, 6 GB unpacked, and again in dist/
T = TypeVar("T")


@dataclass
class Session:
    """One task's run."""

    paths: Paths
    console: Console
    offline: bool = False
    locked: bool = False
    layer_options: tuple[str, ...] = ()

    @cached_property
    def engine(self) -> Engine:
        """Return the engine, telling the console."""
        return self._engine({})

    def build(self, options: Options, *, stop_after: str, dry_run: bool) -> None:
        """Build and verify a stack."""
        self.engine.workshop.check_hermetic()
        network, _tools = self.engine.workshop.network, self.engine.workshop.tools  # wishes that cannot be are refused
        plan = self._plan(options)
        if dry_run:
            self.show(replace(plan, steps=until(plan.steps, stop_after, self.engine.cached(plan))))
            return
        report = Report(
            dist=self.paths.dist,
            reproduce=f"uv run invoke build-stack {' '.join(options.words())}".strip(),
            options=options.kept(),
            builder=lambda: builder(self.paths.root, os.environ),
            tell=self.console,
        )

        def listen(event: Event) -> None:
            try:
                report(event)
            except DiskError as problem:
                if not (isinstance(event, RunEnded) and event.error):
                    raise
                # what went wrong first counts
                self.console(Notice(text=f"{problem.what}: {problem.why}", level="warning"))
            self.console(event)

        self.engine.workshop.listener = listen
        if network:
            listen(Notice(text=f"{network.machines} other machines compile {network.slots} files at once"))
        self.engine.build(plan, stop_after=stop_after)
        self.console.document(report.manifest)

    def plan(self, options: Options) -> None:
        """Show what a build would do."""
        self.show(self._plan(options))

    def show(self, plan: Plan) -> None:
        """Show a plan, each step with its key and whether its result is there."""
        cached = self.engine.cached(plan)
        self.console.plan(plan, cached)
        steps = [(step.id, step.key[:16], "cached" if step.id in cached else "to do") for step in plan.steps]
        self.console.table(("step", "key", "state"), steps)
        self.console.document(
            {
                "stack": plan.stack.name,
                "key": plan.key,
                "python": plan.interpreter.version,
                "jobs": plan.jobs,
                "compiler": compiler_record(plan),
                "toolkit": toolkit_facts(plan),
                "layers": {
                    layer.name: {
                        "version": layer.version,
                        "source": layer.source.kind,
                        "file": layer.chosen and layer.chosen.filename,
                        "git": layer.source.git and {**vars(layer.source.git), "url": redact(layer.source.git.url)},
                        "packages": len(layer.packages),
                        "patches": [patch.id for patch in layer.patches],
                        "flags": dict(layer.flags),
                        "seconds": layer.seconds,
                        "jobs": layer.jobs.total,
                        "memory_per_job": memory_per_job(layer),
                    }
                    for layer in plan.layers
                },
                "steps": [
                    {"id": step.id, "needs": list(step.needs), "key": step.key, "cached": step.id in cached}
                    for step in plan.steps
                ],
                "warnings": list(plan.warnings),
            }
        )

    def fetch(self, options: Options) -> None:
        """Download all that a build needs."""
        plan = self._plan(options)
        self.engine.build(plan, stop_after="fetch")
        self.console.document({"fetched": {"stack": plan.stack.name, "key": plan.key}})

    def verify(self, name: str, suite_options: dict[str, str]) -> None:
        """Verify what stands in `dist/<stack>/`, layer by layer, in fresh environments."""
        for option, file in suite_options.items():
            if not os.path.isfile(file):  # noqa: PTH113 - false for a name that no file can have
                raise UsageError(f"--{option}: there is no file {file}", fix="correct the path")
        dist = Dist(self.paths.dist / self._built(name))
        manifest = self._manifest(dist)
        results = self._engine(suite_options).verify_again(dist, manifest)
        self.console.document({"verifications": [verification_facts(found, reused=False) for found in results]})

    def bundle(self, name: str, file: str, without: Sequence[str], suite_options: dict[str, str]) -> None:
        """Make one archive that proves what stands in `dist/<stack>/` on another machine.

        Raises:
            UsageError: the options do not go together, or the stack is not built.
        """
        if not file:
            raise UsageError("--bundle-without goes with --bundle", fix="name the archive: `--bundle NAME.tar.gz`")
        if suite_options:
            named = ", ".join(f"--{option}" for option in suite_options)
            raise UsageError(f"{named}: no suite runs here", fix="give it to `verify.py` on the other machine")
        from mmstack.bundle import Bundler  # noqa: PLC0415 - what few tasks need would make all others start later

        dist = Dist(self.paths.dist / self._built(name))
        manifest = self._manifest(dist)
        bundler = Bundler(workshop=self.engine.workshop, dist=dist, manifest=manifest, without=without)
        made = bundler.make(Path(file))
        self.console.text(f"made {file}: unpack it on the other machine, and run `{made['command']}` there")
        self.console.document({"bundle": made})

    def doctor(self, options: Options) -> bool:
        """Show what this machine has and lacks; return whether a build can begin."""
        request = options.request()
        self._take_mirror(options.mirror)
        selection = select(request, self.engine.catalog)
        stack = selection.stack
        facts, system = self._look(stack, request), doctor.family(platform.system(), _os_release())
        indexed = [source for source in selection.sources.values() if source.kind in INDEX_KINDS]
        pinned = min(indexed, key=lambda source: len(source.files), default=None)
        findings = doctor.examine(
            facts,
            self._needs(request, selection, facts),
            state=self.paths.state,
            reach=(lambda: self.engine.workshop.reach_index(pinned)) if pinned else None,
            sources={
                name: partial(self.engine.workshop.sources.examine, source)
                for name, source in selection.sources.items()
                if source.git or source.distro
            },
            git=Path(found) if (found := shutil.which("git")) else None,
            cut_off=self.engine.workshop.cut_off_once,
            system=system,
        )
        if stack.cuda != "cpu":
            findings = doctor_cuda.examine(findings, facts, self._look_for_cuda(request, selection, facts), system)
        else:
            findings = (*findings, doctor.verdict(stack.name, findings, lambda: self._plan(options)))
        self.console.findings(findings)
        self.console.document({"findings": [vars(finding) for finding in findings]})
        return all(finding.verdict != "missing" for finding in findings)

    def explain(self, file: str) -> None:
        """Tell what a wheel says of itself, and how this checkout makes it again."""
        from mmstack.explain import explain  # noqa: PLC0415 - see bundle

        said, lines = explain(Path(file), self.engine.catalog)
        for line in lines:
            self.console.text(line)
        self.console.document(said)

    def rebuild(self, file: str, options: Options) -> None:
        """Make the wheels of a manifest again, apart from all that was built here, and compare them with it.

        Raises:
            RebuildError: one came out differently.
        """
        from mmstack import rebuild  # noqa: PLC0415 - see bundle

        path = Path(file) / MANIFEST_NAME if os.path.isdir(file) else Path(file)  # noqa: PTH112 - as above
        manifest = read_manifest_file(path, "name the manifest.json of a build, of this version of mmstack")
        asked = rebuild.options(manifest, options)
        place, shop = rebuild.place(manifest), self.engine.workshop
        # of all rebuilds of one manifest, one at a time may change its folder, and none may be swept
        with shop.store.lock(place.replace("/", "-")), shop.uses.claim([place]):
            self._rebuild(path, manifest, asked)

    def _rebuild(self, path: Path, manifest: Manifest, asked: Options) -> None:
        from mmstack import rebuild  # noqa: PLC0415 - see bundle

        paths = rebuild.apart(self.paths, manifest)
        other = replace(self, paths=paths)
        shop = other.engine.workshop
        shop.pinned = rebuild.pinned(manifest)
        request = other._request(asked)  # noqa: SLF001 - it is one of us, here and below
        with rebuild.of_this_checkout(manifest):
            selection = select(request, other.engine.catalog)
            demand_python(selection.stack, manifest["interpreter"]["version"])
        facts = other._look(selection.stack, request, one_python=True)  # noqa: SLF001
        python = choose_python(selection.stack, facts)
        with rebuild.of_this_checkout(manifest):
            plan = other.engine.plan(request, facts, python)
        rebuild.check(plan, manifest)
        other.engine.build(plan, stop_after="gate")
        made = {layer.name: shop.artifact(layer) for layer in plan.made}
        compared = rebuild.compare(manifest, made, path.parent / "wheels")
        for item in compared:
            self.console.text(f"{item['filename']}: {'the same' if item['same'] else 'differs'}, {item['rebuilt']}")
        rebuild.demand_same(compared, paths.state)
        self.console.document({"rebuilt": compared})

    def report(self, name: str) -> None:
        """Write a stack's page again from its manifest, and say where it is."""
        folder = self.paths.dist / self._built(name)
        with alone(folder):
            manifest = read_manifest(folder)
            write(folder, manifest)
        self.console.summary(manifest)
        self.console.document(manifest)

    def gc(self, max_size: str, older_than: str, *, dry_run: bool, verbose: bool) -> None:
        """Sweep the state: what is of no use any more, and what is over the limits that the user set."""
        from mmstack import sweep  # noqa: PLC0415 - see bundle

        limits = sweep.Limits(
            max_size=sweep.read_size(max_size) if max_size else None,
            older_than=sweep.read_age(older_than) if older_than else None,
        )
        swept = sweep.sweep(self.paths, self.engine.workshop.uses, limits, dry_run=dry_run)
        for line in swept.lines(dry_run=dry_run, verbose=verbose):
            self.console.text(line)
        self.console.document({"dry_run": dry_run, **swept.document()})

    def check_locks(self, name: str, *, alone: bool = True) -> None:
        """See whether locks hold what their stacks are made of now.

        Raises:
            UsageError: with it goes an option that writes locks.
            LockedError: a lock does not.
        """
        if not alone:
            raise UsageError(
                "--check writes nothing: it goes with none of `--keep`, `--upgrade` and `--trees`",
                fix="leave it or them out",
            )
        catalog = self.engine.catalog
        stacks = [catalog.stack(name)] if name else list(catalog.stacks.values())
        locked.check(stacks, catalog)
        for stack in stacks:
            self.console.text(f"{lock_file(stack).name} fits")
        self.console.document({"locks": [{"stack": stack.name, "changes": []} for stack in stacks]})

    def lock(self, name: str, *, with_trees: bool, keep: bool = False, upgrade: str = "", mirror: str = "") -> None:
        """Write down what stacks are made of, and show which versions that changes.

        Their requirements are resolved anew: all, those of the layer to upgrade, or with `keep` none.
        With trees, the sources that are no file of a package index are fetched, and the lock gets their digests.
        """
        if keep and upgrade:
            raise UsageError("`--keep` keeps all versions, `--upgrade` does not", fix="leave one of them out")
        self._take_mirror(mirror)
        catalog = self.engine.catalog
        stacks = [catalog.stack(name)] if name else list(catalog.stacks.values())
        told = []
        for stack in locking.with_layer(stacks, catalog.recipe(upgrade).name) if upgrade else stacks:
            before = self._old_lock(stack, needed=keep or bool(upgrade))
            if keep:
                lock = locking.kept(stack, catalog)
            else:
                lock = self._resolver().lock(stack, catalog, before if upgrade else None, upgrade)
            lock = self._with_trees(stack, lock, before, fetch=with_trees)
            write_atomically(lock_file(stack), write_lock(lock))
            changed = locking.changes(before, lock) if before else ()
            self.console.text(f"{lock_file(stack).name} fits")
            if changed:
                rows = [(each.set, each.name, each.before or "-", each.after or "-") for each in changed]
                self.console.table(("set", "distribution", "before", "after"), rows)
            told.append({"stack": stack.name, "changes": [vars(each) for each in changed]})
        self.console.document({"locks": told})

    def _old_lock(self, stack: Stack, *, needed: bool) -> Lock | None:
        """Return a stack's lock until now; one that cannot be read is made anew, which is said."""
        file = lock_file(stack)
        if not needed and not file.exists():
            return None
        try:
            return self.engine.catalog.lock(stack)
        except CatalogError as error:
            if needed:
                raise
            self.console(Notice(text=f"made anew without a look at what it was: {error.what}", level="warning"))
            return None

    def _resolver(self) -> locking.Resolver:
        from mmstack.sources.settings import load_settings  # noqa: PLC0415 - see bundle

        return locking.Resolver(
            settings=load_settings(os.environ, self.paths.root),
            work=self.paths.state / "lock",
            packages=self.engine.workshop.sources.archive.resolve,
            environ=os.environ,
        )

    def _with_trees(self, stack: Stack, lock: Lock, before: Lock | None, *, fetch: bool) -> Lock:
        """Return a lock with the digests of source trees: those that it had, or of all that are fetched now."""
        from mmstack import patchwork  # noqa: PLC0415 - see bundle

        catalog, sources = self.engine.catalog, self.engine.workshop.sources
        taken = {
            tree_name(layer.name, layer.source, layer.version): patchwork.release(
                catalog.recipe(layer.name), layer.version, layer.source
            )
            for layer in stack.layers
            if layer.source in {"git", "archive", "distro"}
        }
        if not fetch:
            known = before.trees if before else {}
            return replace(lock, trees={name: known[name] for name in taken if name in known})
        digests = {}
        for title, release in taken.items():
            sources.fetch(release)
            with self.engine.workshop.scratch("digests") as folder:
                digests[title] = sources.digests(release, folder / "tree")
        return replace(lock, trees=digests)

    def compare_sources(self, layer: str, kinds: tuple[str, str], version: str, mirror: str) -> None:
        """Show file by file how two ways to the same release of a layer differ."""
        from mmstack import patchwork  # noqa: PLC0415 - see bundle

        workshop, recipe = self.engine.workshop, self.engine.catalog.recipe(layer)
        self._take_mirror(mirror)
        version = version or next(iter(recipe.releases), "")
        releases = [patchwork.release(recipe, version, kind) for kind in kinds]
        with workshop.scratch("compare") as work:
            laid_out = [
                patchwork.lay_out(workshop, release, work / f"{number}-{release.source.kind}")
                for number, release in enumerate(releases)
            ]
            found = trees.difference(*laid_out)
        same = f"{layer} {version} is the same from {' and '.join(kinds)}"
        self.console.text("\n".join(trees.lines(found, kinds)) or same)
        self.console.document({"layer": layer, "version": version, "kinds": kinds, **vars(found)})

    def check_patches(self, *, strict: bool) -> None:
        """Prove every series against the pinned sources.

        Raises:
            NetworkError: one could not be had from the network, and `strict` forbids that.
        """
        from mmstack import patchwork  # noqa: PLC0415 - see bundle

        for proof in patchwork.prove_all(self.engine.workshop, self.engine.catalog):
            what = f"{proof.release.name} {proof.release.version} ({proof.release.source.kind})"
            said = f"not proved: {proof.trouble.what}" if proof.trouble else f"{len(proof.patches)} patches apply"
            self.console.text(f"{what}: {said}")
            if strict and isinstance(proof.trouble, NetworkError):
                raise proof.trouble

    def edit_patches(self, layer: str, version: str, kind: str) -> None:
        """Lay out a layer's patched tree for editing."""
        from mmstack import patchwork  # noqa: PLC0415 - see bundle

        recipe = self.engine.catalog.recipe(layer)
        version = version or next(iter(recipe.releases), "")
        tree = patchwork.edit(self.engine.workshop, self.engine.catalog, recipe, version, kind)
        self.console.text(f"edit {tree}\nthen `invoke patches.save {layer} NAME --reason WHY`")

    def save_patch(self, layer: str, name: str, reason: str) -> None:
        """Make a patch of what was edited."""
        from mmstack import patchwork  # noqa: PLC0415 - see bundle

        recipe = self.engine.catalog.recipe(layer)
        file = patchwork.save(self.engine.workshop, self.engine.catalog, recipe, name, reason)
        self.console.text(f"wrote {file}; complete its entry in {file.with_name('series.toml')}")

    def _engine(self, suite_options: dict[str, str]) -> Engine:
        return Engine(
            Workshop(
                paths=self.paths,
                listener=self.console,
                environ=os.environ,
                offline=self.offline,
                strict=self.offline and self.locked,
                options=suite_options,
                layer_options=self.layer_options,
            )
        )

    def _manifest(self, dist: Dist) -> Manifest:
        """Return what was built in a stack's folder, which must be what its lock holds where the user wants that."""
        manifest = read_manifest(dist.root)
        if self.locked:
            catalog = self.engine.catalog
            locked.check([catalog.stack(manifest["stack"]["name"])], catalog)
            locked.check_manifest(manifest, catalog)
        return manifest

    def _request(self, options: Options) -> Request:
        """Return what the user asks for, and fetch from where they say."""
        if odd := sorted(set(str(self.paths.root)) & set("[]$")):
            raise UsageError(
                f"the suites cannot run in {self.paths.root}",
                why=f"pytest takes {' and '.join(odd)} in a path for something else",
                fix="move or clone this checkout to a folder without",
            )
        self._take_mirror(options.mirror)
        return options.request()

    def _plan(self, options: Options) -> Plan:
        request = self._request(options)
        selection = select(request, self.engine.catalog)
        stack = selection.stack
        if self.locked:
            locked.check([stack], self.engine.catalog)
            locked.check_request(request, selection, self.engine.catalog)
        facts = self._look(stack, request, one_python=True)
        plan = self.engine.plan(request, facts, choose_python(stack, facts))
        if self.locked:
            locked.check_plan(plan)
        return plan

    def _take_mirror(self, text: str) -> None:
        if text:
            self.engine.workshop.mirror = read_mirror(text)

    def _look(self, stack: Stack, request: Request, *, one_python: bool = False) -> Host:
        demand_python(stack, request.python)
        return host.look(
            uv_path(),
            state=self.paths.state,
            cache=self.paths.state / "pythons.json",
            minors=() if request.python else stack.python,
            wanted=(request.python,) if request.python else (),
            one_python=one_python,
            all_compilers=stack.cuda != "cpu",
        )

    def _needs(self, request: Request, selection: Selection, facts: Host) -> Needs:
        """Return what a stack asks of a machine."""
        built = [name for name, source in selection.sources.items() if source.kind in BUILT_KINDS]
        recipes = [recipe for name in built if (recipe := self.engine.catalog.recipe(name)).compiles]
        for_gpus = compiled_for_gpus(selection, self.engine.catalog)
        there = any(source.kind == "installed" for source in selection.sources.values())  # and NVIDIA's libraries too
        return Needs(
            pythons=(facts.pythons[0].minor,) if request.python else selection.stack.python,
            compiles=bool(recipes),
            disk=DISK_FOR_A_STACK if there or selection.stack.cuda == "cpu" else DISK_FOR_A_CUDA_STACK,
            memory_per_job=max(
                (
                    recipe.cuda.memory_per_job if recipe.cuda and recipe.name in for_gpus else recipe.memory_per_job
                    for recipe in recipes
                ),
                default=MEMORY_TO_INSTALL,
            ),
        )

    def _look_for_cuda(self, request: Request, selection: Selection, facts: Host) -> doctor_cuda.Looked:
        """Return what a plan would find for a CUDA stack, and what would end it."""

        def interpreter() -> Interpreter:
            return choose_python(selection.stack, facts)

        def toolkit() -> Toolkit | None:
            taken, _notes = self.engine.toolkit(request, selection, interpreter())
            if taken:
                self.engine.catalog.toolkit(taken.version)
            return taken

        return doctor_cuda.Looked(
            request=request,
            selection=selection,
            catalog=self.engine.catalog,
            interpreter=_attempt(interpreter),
            toolkits=every(os.environ),
            toolkit=_attempt(toolkit),
            installed=_attempt(lambda: self.engine.installed(selection, interpreter())) if request.python else {},
        )

    def _built(self, name: str) -> str:
        known = sorted(path.parent.name for path in self.paths.dist.glob("*/manifest.json"))
        if name and name not in known:
            raise UsageError(f"stack '{name}' is not built here", why=did_you_mean(name, known), fix="build it first")
        if not name and len(known) != 1:
            raise UsageError(
                f"{len(known)} stacks are built here" if known else "no stack is built here yet",
                why=f"built: {', '.join(known) or 'none'}",
                fix="name one with `--stack NAME`" if known else "run `invoke build-stack`",
            )
        return name or known[0]


def _attempt(call: Callable[[], T]) -> T | MmstackError:
    """Return what was asked for, or the error that says why it cannot be had; a wrong option stays an error."""
    try:
        return call()
    except UsageError:
        raise
    except MmstackError as error:
        return error


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
