"""Bills of materials: what a wheel is made of, in a form that others read (CycloneDX 1.6), and inside it (PEP 770).

A wheel's own bill says nothing that its content key does not cover, so that the same key gives the same bits: no time
of a run, no path, nothing of the machine but its compilers.
"""

from __future__ import annotations

import json
import re
import uuid
import zipfile
from dataclasses import dataclass
from datetime import datetime, timezone
from email import message_from_bytes
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mmstack.errors import NoBillError, PinError, UsageError
from mmstack.gates import planned_version
from mmstack.keys import ENGINE
from mmstack.report import is_link
from mmstack.sources.archive import DAMAGE
from mmstack.sources.places import redact
from mmstack.toolchains.compilers import family_and_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType, Pedigree
    from cyclonedx.model.license import License
    from packageurl import PackageURL

    from mmstack.model import (
        Artifact,
        Compiler,
        DistroPackage,
        FilePin,
        Interpreter,
        LayerPlan,
        LockedRequirement,
        Patch,
        Plan,
        Toolkit,
    )
    from mmstack.sources.git import Submodule

PLACE = "sboms/mmstack.cdx.json"  # within .dist-info, see https://peps.python.org/pep-0770/
PREFIX = "mmstack:"
SPACE = uuid.UUID("6f5d9a53-6f0c-5d0e-9b52-3a0a4ac5d1c7")
GITHUB = re.compile(r"/(?P<owner>[^/]+)/(?P<name>[^/]+?)(\.git)?/?")
LONGEST_BILL = 16 << 20  # a hundred times what is honest; in memory the worst takes 25 times as much
# All else counts as being in the wheel: who looks for what is vulnerable passes over what is excluded.
TOOLS = frozenset({"build", "compiler", "linker", "maker", "toolkit", "toolkit-part"})


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What a layer's wheel is made of.

    Attributes:
        compiler: what it is compiled with, if it is.
        toolkit: the CUDA toolkit that it is compiled with, and `archives` what that is made of, if it is of archives.
        against: the layers that it is built against.
        submodules: what its commit names besides itself.
        moment: the date of its source, in seconds since the epoch.
    """

    layer: LayerPlan
    interpreter: Interpreter
    compiler: Compiler | None
    toolkit: Toolkit | None
    against: tuple[LayerPlan, ...]
    moment: int
    submodules: tuple[Submodule, ...] = ()
    archives: tuple[FilePin, ...] = ()


def ingredients(
    plan: Plan,
    layer: LayerPlan,
    *,
    moment: int,
    submodules: Iterable[Submodule] = (),
    archives: Iterable[FilePin] = (),
) -> Ingredients:
    """Return what goes into a layer of a plan that is built here."""
    return Ingredients(
        layer=layer,
        interpreter=plan.interpreter,
        compiler=plan.compiler if layer.recipe.compiles else None,
        toolkit=plan.toolkit if layer.for_gpus else None,
        against=tuple(item for item in plan.layers if item.name in layer.recipe.against),
        moment=moment,
        submodules=tuple(submodules),
        archives=tuple(archives),
    )


def of_wheel(made_of: Ingredients, metadata: bytes) -> str:
    """Return the bill of a wheel that is built here; licences are what its own METADATA says."""
    from cyclonedx.model.component import ComponentType  # noqa: PLC0415 - half a second that few runs need

    layer = made_of.layer
    main = _component(
        layer.name,
        layer.source.project,
        "layer",
        version=planned_version(layer.version, layer.chosen, layer.local_version),
        description=layer.recipe.summary,
        purl=_purl("pypi", layer.source.project, layer.version),
        licenses=_licences(metadata),
        pedigree=_pedigree(layer),
        properties=_facts(made_of),
    )
    tool = _component("mmstack", "mmstack", "maker", kind=ComponentType.APPLICATION)
    bom = _bom(main, made_of.moment, layer.key, tool)
    parts = list(_parts(made_of))
    bom.components.update(parts)
    bom.register_dependency(main, parts)
    return _text(bom)


def of_stack(plan: Plan, artifacts: Sequence[Artifact]) -> str:
    """Return the bill of a whole stack: its layers, wheels by digest, what each is made of, and what they require."""
    from cyclonedx.model.bom import Bom  # noqa: PLC0415 - see of_wheel
    from cyclonedx.model.component import ComponentType  # noqa: PLC0415 - the same

    name = f"stack/{plan.stack.name}"
    main = _component(
        name,
        plan.stack.name,
        "stack",
        version=plan.key,
        kind=ComponentType.APPLICATION,
        description=plan.stack.summary,
        properties={
            "cuda": [plan.stack.cuda],
            "python": [plan.interpreter.tag],
            "platform": [plan.interpreter.platform],
        },
    )
    tool = _component("mmstack", "mmstack", "maker", kind=ComponentType.APPLICATION)
    wheels = {layer.name: _found(layer) for layer in plan.layers if layer.installed}
    insides: dict[str, list[Component]] = {}
    moment = 0
    for artifact in artifacts:
        layer = plan.layer(artifact.layer)
        if layer.source.kind == "wheel":
            wheels[layer.name] = _taken(layer, artifact)
            continue
        own: Bom = Bom.from_json(read(artifact.path))  # type: ignore[attr-defined] # a decorator gives it
        assert own.metadata.component is not None  # noqa: S101 - we wrote it
        wheels[layer.name] = own.metadata.component
        wheels[layer.name].hashes.update(_sha256(artifact.sha256))
        insides[layer.name] = list(own.components)
        moment = max(moment, int(own.metadata.timestamp.timestamp()))
    bom = _bom(main, moment, plan.key + "".join(item.sha256 for item in artifacts), tool)
    required = [_requirement("run", item, "requirement") for item in plan.run_requires]
    bom.components.update([*wheels.values(), *required, *(item for items in insides.values() for item in items)])
    bom.register_dependency(main, [*wheels.values(), *required])
    for wheel_name, wheel in wheels.items():
        needs = [wheels[need] for need in plan.layer(wheel_name).recipe.needs if need in wheels]
        bom.register_dependency(wheel, [*insides.get(wheel_name, []), *needs])
    return _text(bom)


def read(wheel: Path) -> dict[str, Any]:
    """Return the bill that a wheel holds.

    Raises:
        UsageError: there is no such file.
        NoBillError: it holds no bill of ours.
        PinError: it is no wheel, or is damaged.
    """
    damaged = PinError(f"{wheel.name} is no wheel, or is damaged", fix="get it anew from where it came from")
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(f".dist-info/{PLACE}")]
            if not names:
                if not any(name.endswith(".dist-info/WHEEL") for name in archive.namelist()):
                    raise damaged
                raise NoBillError(
                    f"{wheel.name} does not say what it is made of",
                    why=f"it holds no {PLACE}: it was not built by mmstack, or by one that wrote none yet",
                    fix="ask whoever built it",
                )
            if archive.getinfo(names[0]).file_size > LONGEST_BILL:
                raise damaged
            document = json.loads(archive.read(names[0]))
    except OSError as error:
        raise UsageError(f"{wheel} cannot be read", why=str(error), fix="name a wheel file") from error
    except (*DAMAGE, RuntimeError, ValueError) as error:
        raise damaged from error
    if not isinstance(document, dict):
        raise damaged
    return document


def _facts(made_of: Ingredients) -> dict[str, list[str]]:
    """Return what is known of a build and has no place of its own in the format."""
    layer = made_of.layer
    return {
        "layer": [layer.name],
        "key": [layer.key],
        "engine": [str(ENGINE)],
        "recipe": [layer.recipe.digest],
        "source": [layer.source.kind],
        "cuda": [layer.facts.cuda],  # and not the stack's, which no key of pure Python covers
        "python": [made_of.interpreter.tag],
        "platform": [made_of.interpreter.platform],
        "architecture": [str(item) for item in layer.facts.architectures],
        **{f"flag:{name}": [value] for name, value in layer.flags.items()},
        **{f"variable:{name}": [value] for name, value in layer.environment.items()},
    }


def _pedigree(layer: LayerPlan) -> Pedigree:
    """Return where a layer's code comes from, and what is changed of it."""
    from cyclonedx.model import XsUri  # noqa: PLC0415 - see of_wheel
    from cyclonedx.model.component import Commit, Diff, PatchClassification, Pedigree  # noqa: PLC0415 - the same
    from cyclonedx.model.component import Patch as Change  # noqa: PLC0415 - the same
    from cyclonedx.model.issue import IssueClassification, IssueType  # noqa: PLC0415 - the same

    git = layer.source.git
    return Pedigree(
        ancestors=[_source(layer)],
        commits=[Commit(uid=git.commit, url=XsUri(redact(git.url)))] if git else [],
        patches=[
            Change(
                type=PatchClassification.UNOFFICIAL,
                diff=Diff(url=XsUri(_path(patch))),
                resolves=[
                    IssueType(
                        type=IssueClassification.DEFECT,
                        id=patch.id,
                        description=patch.reason,
                        references=[XsUri(patch.upstream)] if is_link(patch.upstream) else [],
                    )
                ],
            )
            for patch in layer.patches
        ],
    )


def _source(layer: LayerPlan) -> Component:
    source, version = layer.source, layer.version
    ref = f"{layer.name}/source"
    facts: dict[str, list[str]] = {"source": [source.kind]}
    if source.git:
        facts |= {"tag": [source.git.tag], "commit": [source.git.commit]}
        purl = _git_purl(source.git.url, source.git.commit, source.project, version)
        return _component(
            ref, source.project, "source", version=version, purl=purl, vcs=[source.git.url], properties=facts
        )
    if layer.chosen is None:  # a folder of the user's own, which has no address elsewhere
        facts["tree"] = [layer.folder]
        return _component(ref, source.project, "source", version=version, properties=facts)
    file = layer.chosen
    name = source.project
    if source.distro:
        name, version = source.distro.package, source.distro.version
        facts["distribution"] = [source.distro.codename]
    facts["file"] = [file.filename]
    generic = {"checksum": f"sha256:{file.sha256}", **({"download_url": redact(source.urls[0])} if source.urls else {})}
    indexed = source.kind == "sdist"
    purl = (
        _purl("pypi", name, version, file_name=file.filename) if indexed else _purl("generic", name, version, **generic)
    )
    return _component(
        ref,
        name,
        "source",
        version=version,
        purl=purl,
        sha256=[file.sha256],
        downloads=source.urls,
        properties=facts,
    )


def _parts(made_of: Ingredients) -> Iterator[Component]:
    """Yield what a wheel is made of and with, its source apart."""
    layer = made_of.layer
    name = layer.name
    for module in made_of.submodules:
        yield _component(
            f"{name}/submodule/{module.path}",
            module.name,
            "submodule",
            version=module.commit,
            purl=_git_purl(module.url, module.commit, module.name, module.commit),
            vcs=[module.url],
            properties={"path": [module.path], "commit": [module.commit]},
        )
    for part in layer.source.distro.parts if layer.source.distro else ():
        yield _component(
            f"{name}/part/{part.path}",
            part.project or part.file.filename,
            "part",
            sha256=[part.file.sha256],
            downloads=part.urls,
            properties={"path": [part.path], "file": [part.file.filename]},
        )
    yield from (_package(name, package) for package in layer.packages)
    yield from (_patch(name, patch) for patch in layer.patches)
    yield from (_requirement(f"{name}/build", item, "build") for item in layer.build_requires)
    for below in made_of.against:
        yield _against(name, below)
    yield from _tools(made_of)


def _tools(made_of: Ingredients) -> Iterator[Component]:
    from cyclonedx.model.component import ComponentType  # noqa: PLC0415 - see of_wheel

    name, program = made_of.layer.name, ComponentType.APPLICATION
    if made_of.compiler:
        said = made_of.compiler.version
        family, version = family_and_version(said) or (said, "")
        yield _component(f"{name}/compiler", family, "compiler", version=version, kind=program, description=said)
        linker = made_of.compiler.linker
        if linker and linker.version:
            yield _component(f"{name}/linker", linker.kind, "linker", kind=program, description=linker.version)
    if toolkit := made_of.toolkit:
        facts: dict[str, list[str]] = {"kind": [toolkit.kind], "identity": [toolkit.identity]}
        ref = f"{name}/toolkit"
        yield _component(ref, "cuda-toolkit", "toolkit", version=toolkit.version, kind=program, properties=facts)
        yield from (_requirement(ref, item, "toolkit-part") for item in toolkit.requirements)
        files = (*((toolkit.manifest,) if toolkit.manifest else ()), *made_of.archives)
        for file in files:
            yield _component(
                f"{ref}/{file.filename}", file.filename, "toolkit-part", kind=ComponentType.FILE, sha256=[file.sha256]
            )


def _against(name: str, below: LayerPlan) -> Component:
    """Return a layer that a wheel is built against: known by its file if it was taken as one, else by its key."""
    taken = below.chosen if below.source.kind == "wheel" else None
    return _component(
        f"{name}/against/{below.name}",
        below.source.project,
        "against",
        version=planned_version(below.version, below.chosen, below.local_version),
        purl=_purl("pypi", below.source.project, below.version),
        sha256=[taken.sha256] if taken else [],
        properties={
            "layer": [below.name],
            "key": [below.key],
            "source": [below.source.kind],
            **({"file": [taken.filename]} if taken else {}),
            **_installed(below),
        },
    )


def _installed(layer: LayerPlan) -> dict[str, list[str]]:
    return {"tree": [layer.installed.digest]} if layer.installed else {}


def _found(layer: LayerPlan) -> Component:
    """Return a layer that the Python holds which the stack was built for."""
    return _component(
        layer.name,
        layer.source.project,
        "layer",
        version=layer.version,
        description=layer.recipe.summary,
        purl=_purl("pypi", layer.source.project, layer.version),
        properties={"layer": [layer.name], "key": [layer.key], "source": ["installed"], **_installed(layer)},
    )


def _taken(layer: LayerPlan, artifact: Artifact) -> Component:
    """Return a wheel that is taken as it was released."""
    with zipfile.ZipFile(artifact.path) as archive:
        metadata = next((name for name in archive.namelist() if name.endswith(".dist-info/METADATA")), "")
        licences = _licences(archive.read(metadata)) if metadata else []
    return _component(
        layer.name,
        layer.source.project,
        "layer",
        version=planned_version(layer.version, layer.chosen),
        description=layer.recipe.summary,
        purl=_purl("pypi", layer.source.project, layer.version, file_name=artifact.filename),
        licenses=licences,
        sha256=[artifact.sha256],
        properties={"layer": [layer.name], "key": [layer.key], "source": ["wheel"], "cuda": [layer.cuda]},
    )


def _patch(name: str, patch: Patch) -> Component:
    from cyclonedx.model.component import ComponentType  # noqa: PLC0415 - see of_wheel

    return _component(
        f"{name}/patch/{patch.id}",
        _path(patch),
        "patch",
        kind=ComponentType.FILE,
        sha256=[patch.sha256],
        description=patch.reason,
        issues=[patch.upstream] if is_link(patch.upstream) else [],
        properties={"id": [patch.id], "upstream": [patch.upstream]},
    )


def _package(name: str, package: DistroPackage) -> Component:
    return _component(
        f"{name}/package/{package.name}/{package.architecture}",
        package.name,
        "package",
        version=package.version,
        sha256=[package.sha256],
        properties={"architecture": [package.architecture]},
    )


def _requirement(place: str, item: LockedRequirement, role: str) -> Component:
    """Return a distribution of a package index; where several files may serve it, their digests are no hash of it."""
    known = len(item.sha256) == 1
    return _component(
        f"{place}/{item.name}",
        item.name,
        role,
        version=item.version,
        purl=_purl("pypi", item.name, item.version),
        sha256=item.sha256 if known else [],
        properties=None if known else {"one-of": [f"sha256:{digest}" for digest in item.sha256]},
    )


def _component(
    ref: str,
    name: str,
    role: str,
    *,
    sha256: Sequence[str] = (),
    vcs: Sequence[str] = (),
    downloads: Sequence[str] = (),
    issues: Sequence[str] = (),
    properties: Mapping[str, Sequence[str]] | None = None,
    kind: ComponentType | None = None,
    version: str = "",
    **more: Any,  # noqa: ANN401 - the library's own
) -> Component:
    """Return a component; its role says whether it is there when the wheel is used, or only when it is made."""
    from cyclonedx.model import ExternalReference, ExternalReferenceType, Property, XsUri  # noqa: PLC0415 - see of_wheel
    from cyclonedx.model.component import Component, ComponentScope, ComponentType  # noqa: PLC0415 - the same

    links = [
        (ExternalReferenceType.VCS, map(redact, vcs)),
        (ExternalReferenceType.DISTRIBUTION, map(redact, downloads)),
        (ExternalReferenceType.ISSUE_TRACKER, issues),
    ]
    facts = {"role": [role], **(properties or {})}
    return Component(
        bom_ref=ref,
        name=name,
        type=kind or ComponentType.LIBRARY,
        version=version or None,
        scope=ComponentScope.EXCLUDED if role in TOOLS else ComponentScope.REQUIRED,
        hashes=[hash_ for digest in sha256 for hash_ in _sha256(digest)],
        external_references=[ExternalReference(type=type_, url=XsUri(url)) for type_, urls in links for url in urls],
        properties=[
            Property(name=f"{PREFIX}{fact}", value=value) for fact, values in facts.items() for value in values
        ],
        **more,
    )


def _sha256(digest: str) -> list[Any]:
    from cyclonedx.model import HashAlgorithm, HashType  # noqa: PLC0415 - see of_wheel

    return [HashType(alg=HashAlgorithm.SHA_256, content=digest)]


def _purl(kind: str, name: str, version: str, **qualifiers: str) -> PackageURL:
    from packageurl import PackageURL  # noqa: PLC0415 - see of_wheel

    return PackageURL(type=kind, name=name, version=version, qualifiers=qualifiers)


def _git_purl(url: str, commit: str, name: str, version: str) -> PackageURL:
    from packageurl import PackageURL  # noqa: PLC0415 - see of_wheel

    url = redact(url)
    parts = urlsplit(url)
    if parts.hostname == "github.com" and (found := GITHUB.fullmatch(parts.path)):
        return PackageURL(type="github", namespace=found["owner"], name=found["name"], version=commit)
    return PackageURL(type="generic", name=name, version=version, qualifiers={"vcs_url": f"git+{url}@{commit}"})


def _licences(metadata: bytes) -> list[License]:
    """Return the licences that a distribution's METADATA names: an SPDX expression, or whatever it calls them."""
    from cyclonedx.contrib.license.factories import LicenseFactory  # noqa: PLC0415 - see of_wheel

    read_, make = message_from_bytes(metadata), LicenseFactory()
    if expression := read_.get("License-Expression"):
        return [make.make_from_string(str(expression))]
    text = str(read_.get("License") or "").strip()
    if text and "\n" not in text and text != "UNKNOWN":
        return [make.make_with_name(text)] if " " in text else [make.make_from_string(text)]
    classifiers = [str(line) for line in read_.get_all("Classifier", [])]
    return [make.make_with_name(line.rpartition(" :: ")[2]) for line in classifiers if line.startswith("License ::")]


def _path(patch: Patch) -> str:
    return f"patches/{patch.file.parent.name}/{patch.file.name}"


def _bom(main: Component, moment: int, identity: str, tool: Component) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData  # noqa: PLC0415 - see of_wheel
    from cyclonedx.model.tool import ToolRepository  # noqa: PLC0415 - the same

    return Bom(
        serial_number=uuid.uuid5(SPACE, identity),
        metadata=BomMetaData(
            component=main,
            tools=ToolRepository(components=[tool]),
            timestamp=datetime.fromtimestamp(moment, tz=timezone.utc),
        ),
    )


def _text(bom: Bom) -> str:
    from cyclonedx.output.json import JsonV1Dot6  # noqa: PLC0415 - see of_wheel

    return f"{JsonV1Dot6(bom).output_as_string(indent=2)}\n"
