"""Bundles: one archive that proves a built stack on a machine with nothing but a Python, and no network."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from mmstack import standalone
from mmstack.catalog import SHARED
from mmstack.errors import PinError, UsageError, did_you_mean
from mmstack.events import Notice
from mmstack.host import describe
from mmstack.keys import file_digest
from mmstack.model import EARLIEST, LockedRequirement
from mmstack.sources.archive import DAMAGE, FREE_BYTES
from mmstack.standalone import DESCRIPTION, INSTALLED, SUITES, WHEELS
from mmstack.store import disk_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from mmstack.dist import Dist
    from mmstack.envs import Wheel
    from mmstack.model import Interpreter
    from mmstack.workshop import Workshop

SUFFIX = ".tar.gz"
STORED = 0  # wheels are compressed already
README = """This folder proves the stack '{name}' on this machine. It needs {python}
({tag}, {platform}) and no network:

    {python} verify.py            prove every layer, bottom-up
    {python} verify.py --help     say what else it can do

{outside}It changes nothing on this machine: the wheels are unpacked into a temporary
folder (TMPDIR moves it), which is removed at the end. The results are written to
results.json. Exit codes: 0 verified, 1 a check failed, 2 wrong usage, 3 this
machine lacks something, 4 a file of this folder is damaged, 130 interrupted.
"""
OUTSIDE = """That Python must hold {projects} already: there is no wheel of it here.

"""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A wheel of a bundle: its set is `layer`, `run` or `verify`; `layer` is the one that it is of, if it is of one."""

    wheel: Wheel
    set: str
    layer: str = ""

    def entry(self) -> dict[str, object]:
        """Return it as the bundle's description has it."""
        name = self.wheel.path.name
        return {"filename": name, "sha256": self.wheel.sha256, "set": self.set, "layer": self.layer}


@dataclass(frozen=True, kw_only=True)
class Bundler:
    """Makes the bundle of a built stack; `without` are layers whose wheels are left out of it."""

    workshop: Workshop
    dist: Dist
    manifest: Mapping[str, Any]
    without: Sequence[str] = ()

    def make(self, file: Path) -> dict[str, object]:
        """Write the archive and return what it holds, the same bytes for the same stack.

        Raises:
            UsageError: the stack is not built, or cannot be bundled so.
            PinError: a wheel is not the one that the manifest names.
            NetworkError: a requirement is not here and cannot be had.
            DiskError: the archive cannot be written.
        """
        if not file.name.endswith(SUFFIX):
            raise UsageError(f"--bundle {file}: a bundle is a {SUFFIX}", fix=f"name it so: `--bundle NAME{SUFFIX}`")
        made = self.dist.made_layers(self.manifest)
        self._check_left_out()
        if self.manifest["verdict"] != "verified":
            text = f"the stack's last build ended as '{self.manifest['verdict']}': the bundle proves nothing yet"
            self.workshop.listener(Notice(level="warning", text=text))
        layers = [
            Packed(wheel=wheel, set="layer", layer=name)
            for name, wheel in zip(made, self.dist.checked_wheels(self.manifest["artifacts"]), strict=True)
            if name not in self.without
        ]
        wheels = [*layers, *self._requirements(layers)]
        suites = dict(self._suites())
        description = self._description(wheels, suites)
        size = sum(item.wheel.path.stat().st_size for item in wheels)
        self.workshop.listener(Notice(text=f"packing {len(wheels)} wheels, {size / 1e9:.2f} GB, into {file}"))
        with disk_errors(file.absolute().parent):
            self._write(file, description, wheels, suites)
        return {
            "file": str(file),
            "sha256": file_digest(file),
            "size": file.stat().st_size,
            "wheels": len(wheels),
            "command": f"{standalone.python_name(self.manifest['interpreter']['version'])} verify.py",
            "outside": self._outside(),
        }

    def _check_left_out(self) -> None:
        kinds = {layer["name"]: layer["source"]["kind"] for layer in self.manifest["layers"]}
        for name in self.without:
            if name not in kinds:
                why = did_you_mean(name, kinds)
                raise UsageError(f"--bundle-without: there is no layer '{name}'", why=why, fix="correct the name")
            if kinds[name] == "installed":
                raise UsageError(
                    f"--bundle-without {name}: it has no wheel", fix="leave the option out: no bundle holds this layer"
                )
            if kinds[name] != "wheel" or not (self._pipelines / name / INSTALLED).exists():
                raise UsageError(
                    f"--bundle-without {name}: nothing else can stand in for it",
                    why="it was built here"
                    if kinds[name] != "wheel"
                    else f"its recipe has no {INSTALLED}, which says what a Python holds",
                    fix="leave the option out",
                )

    @property
    def _pipelines(self) -> Path:
        return self.workshop.paths.root / "pipelines"

    def _outside(self) -> list[str]:
        """Return the layers that the other machine's Python must hold."""
        layers = self.manifest["layers"]
        return [
            item["name"] for item in layers if item["source"]["kind"] == "installed" or item["name"] in self.without
        ]

    def _requirements(self, layers: Sequence[Packed]) -> list[Packed]:
        """Return the wheels that run and verify the layers, but for those that only a layer left out requires."""
        shop = self.workshop
        interpreter = describe(Path(self.manifest["interpreter"]["path"]), cache=shop.paths.state / "pythons.json")
        # what stands beside a wheel that is taken as it is: its own requirements, besides those of all layers
        own: dict[str, str] = {
            canonicalize_name(item["name"]): layer["name"]
            for layer in self.manifest["layers"]
            if layer["source"]["kind"] == "wheel"
            for item in layer["build_requires"]
        }
        listed = self.manifest["requirements"]
        dropped = {name for name, layer in own.items() if layer in self.without}
        kept = [item for item in listed if canonicalize_name(item["name"]) not in dropped]
        packed = [*layers, *self._fetch(kept, own, interpreter)]
        while True:
            wanted = dropped & _required([item.wheel.path for item in packed], interpreter)
            if not wanted:
                return packed[len(layers) :]
            again = [item for item in listed if canonicalize_name(item["name"]) in wanted]
            packed += self._fetch(again, {}, interpreter)
            dropped -= wanted

    def _fetch(
        self, listed: Sequence[Mapping[str, Any]], own: Mapping[str, str], interpreter: Interpreter
    ) -> list[Packed]:
        required = [
            LockedRequirement(name=item["name"], version=item["version"], sha256=tuple(item["sha256"]))
            for item in listed
        ]
        self.workshop.download("", (), required, interpreter.tags)
        wheels = self.workshop.wheels(required, interpreter)
        for wheel in wheels:
            if file_digest(wheel.path) != wheel.sha256:
                raise PinError(f"{wheel.path} has changed since it was downloaded", fix="remove it and try again")
        return [
            Packed(wheel=wheel, set=item["set"], layer=own.get(canonicalize_name(item["name"]), ""))
            for item, wheel in zip(listed, wheels, strict=True)
        ]

    def _suites(self) -> Iterator[tuple[str, bytes]]:
        """Yield the suites' files by their names in the bundle."""
        root, outside = self._pipelines, self._outside()
        files = [root / name for name in SHARED]
        for layer in self.manifest["layers"]:
            folder = root / layer["name"]
            files += sorted((folder / "verify").rglob("*"))
            files += [folder / INSTALLED] if layer["name"] in outside else []
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{SUITES}/{file.relative_to(root).as_posix()}", file.read_bytes()

    def _description(self, wheels: Sequence[Packed], suites: Mapping[str, bytes]) -> dict[str, Any]:
        manifest, outside = self.manifest, self._outside()
        interpreter = manifest["interpreter"]
        return {
            "schema": standalone.SCHEMA,
            "generator": manifest["generator"],
            "stack": manifest["stack"],
            "key": manifest["key"],
            "interpreter": {name: interpreter[name] for name in ("version", "tag", "platform")},
            "toolkit": manifest["toolkit"],
            "layers": [
                {
                    **{name: layer[name] for name in ("name", "project", "version", "cuda", "key")},
                    # what a stack expects of its own wheel says nothing of another build
                    "expect": {} if layer["name"] in outside else layer["expect"],
                    "wheel": layer["name"] not in outside,
                }
                for layer in manifest["layers"]
            ],
            "wheels": [item.entry() for item in wheels],
            "suites": {name: standalone.bytes_digest(body) for name, body in suites.items()},
        }

    def _readme(self) -> bytes:
        interpreter, outside = self.manifest["interpreter"], self._outside()
        projects = [layer["project"] for layer in self.manifest["layers"] if layer["name"] in outside]
        text = README.format(
            name=self.manifest["stack"]["name"],
            python=standalone.python_name(interpreter["version"]),
            tag=interpreter["tag"],
            platform=interpreter["platform"],
            outside=OUTSIDE.format(projects=", ".join(projects)) if projects else "",
        )
        return text.encode()

    def _write(
        self, file: Path, description: Mapping[str, Any], wheels: Sequence[Packed], suites: Mapping[str, bytes]
    ) -> None:
        """Write the archive whole or not at all; what says what is missing comes first."""
        texts = {
            "verify.py": Path(standalone.__file__).read_bytes(),
            DESCRIPTION: (json.dumps(description, indent=2) + "\n").encode(),
            "README.txt": self._readme(),
            **suites,
        }
        top = f"{self.manifest['stack']['name']}-bundle"
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with (
                part.open("wb") as raw,
                gzip.GzipFile("", "wb", STORED, raw, mtime=0) as stream,
                tarfile.open(fileobj=stream, mode="w") as archive,
            ):
                for name, body in texts.items():
                    archive.addfile(_member(f"{top}/{name}", len(body)), io.BytesIO(body))
                for item in sorted(wheels, key=lambda item: item.wheel.path.name):
                    path = item.wheel.path
                    with path.open("rb") as source:
                        archive.addfile(_member(f"{top}/{WHEELS}/{path.name}", path.stat().st_size), source)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Return a file of an archive: owner, mode and time are the same on every machine."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, EARLIEST, 0o644
    return member


def _required(wheels: Collection[Path], interpreter: Interpreter) -> set[str]:
    """Return the names of all that some wheels require and that is not among them."""
    wanted: set[str] = set()
    for wheel in wheels:
        wanted |= _requires(wheel, {**interpreter.markers, "extra": ""})
    return wanted - {parse_wheel_filename(wheel.name)[0] for wheel in wheels}


def _requires(wheel: Path, markers: Mapping[str, str]) -> set[str]:
    """Return the names of what a wheel requires of an interpreter with these markers.

    Raises:
        PinError: it does not say.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            entry = next(each for each in archive.infolist() if each.filename.endswith(".dist-info/METADATA"))
            if entry.file_size > FREE_BYTES:
                raise zipfile.BadZipFile("its METADATA is too large")
            lines = message_from_bytes(archive.read(entry)).get_all("Requires-Dist", [])
        required = [Requirement(str(line)) for line in lines]
        return {
            canonicalize_name(item.name) for item in required if not item.marker or item.marker.evaluate(dict(markers))
        }
    except (*DAMAGE, OSError, UndefinedEnvironmentName, StopIteration, RuntimeError) as error:
        raise PinError(
            f"{wheel.name} does not say what it requires",
            why=str(error),
            fix=f"remove {wheel} and run the same command again",
        ) from error
