"""A catalog in miniature, with the facts to plan by: nothing of it is ever built."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmstack.catalog import Catalog
from mmstack.keys import file_digest
from mmstack.lock import write_lock
from mmstack.locked import inputs_of
from mmstack.model import Compiler, FilePin, Host, Interpreter, Lock, LockedRequirement, Request
from mmstack.resolve import Findings, resolve, select

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmstack.model import Installed, LayerPlan, Linker, Plan, Toolkit

STACK = """\
summary = "three layers"
python = ["3.11", "3.12"]
cuda = "cpu"

[[layers]]
name = "base"
version = "1.0"
source = "wheel"

[[layers]]
name = "ext"
version = "2.0"
source = "sdist"
flags = { SPEED = "O1" }

[[layers]]
name = "top"
version = "3.0"
source = "sdist"

[expect.ext]
unit = "10"
"""
BASE = f"""\
summary = "what the others stand on"
project = "proj-base"
modules = ["base"]

[run]
requires = ["runtime>=1"]

[run.variants]
big = ["proj-base=={{version}}"]

[gates]
wheel = "platform"
top_level = ["base"]

[[releases]]
version = "1.0"
wheel = [
  {{ variant = "small", filename = "proj_base-1.0+small-cp311-cp311-linux_x86_64.whl", sha256 = "{"1" * 64}" }},
  {{ variant = "big", filename = "proj_base-1.0-cp311-cp311-linux_x86_64.whl", sha256 = "{"2" * 64}" }},
  {{ variant = "big", filename = "proj_base-1.0-cp312-cp312-linux_x86_64.whl", sha256 = "{"3" * 64}" }},
]
sdist = [{{ filename = "proj-base-1.0.tar.gz", sha256 = "{"4" * 64}" }}]
"""
EXT = f"""\
summary = "one compiled module"
project = "ext"
modules = ["ext"]
needs = ["base"]

[build]
against = ["base"]
compiles = true
memory_per_job_mib = 512
requires = ["backend"]

[build.environment]
MAX_JOBS = "{{jobs}}"

[verify]
requires = ["checker==1.0"]

[flags.SPEED]
default = "O2"
choices = ["O0", "O1", "O2"]
help = "how much the compiler optimises"

[gates]
wheel = "platform"
top_level = ["ext"]

[[releases]]
version = "2.0"
sdist = [{{ filename = "ext-2.0.tar.gz", sha256 = "{"5" * 64}" }}]
wheel = [{{ filename = "ext-2.0-py3-none-any.whl", sha256 = "{"6" * 64}" }}]

[[releases]]
version = "2.1"
sdist = [{{ filename = "ext-2.1.tar.gz", sha256 = "{"7" * 64}" }}]

[[conflicts]]
id = "old-compiler"
when = {{ base = ">=1", gcc = "<9" }}
why = "base wants a newer language"
fix = "install g++ 9"
"""
# besides sdist and wheel, for one release of `ext`
WAYS = f"""\
requires = ["runtime==1.5", "helper"]
cost = {{ seconds = 600, seconds_per_architecture = 60 }}

[releases.git]
url = "https://host.test/org/ext.git"
tag = "v2.0"
commit = "{"c" * 40}"
submodules = 2

[releases.archive]
filename = "ext-v2.0.tar.gz"
sha256 = "{"a1" * 32}"
urls = ["https://host.test/ext-v2.0.tar.gz"]

[releases.distro]
package = "libext"
version = "2.0-1"
codename = "wooden"
filename = "libext_2.0.orig.tar.xz"
sha256 = "{"a2" * 32}"
libraries = ["libdemo-dev"]
folders = ["usr/include/demo"]

[[releases.distro.parts]]
path = "third_party/part"
project = "part"
filename = "part-1.0.tar.gz"
sha256 = "{"a3" * 32}"
folder = "src/part"

[[releases.distro.parts]]
path = "third_party/other"
urls = ["https://host.test/other-1.0.tar.gz"]
filename = "other-1.0.tar.gz"
sha256 = "{"a4" * 32}"

[[releases]]
version = "2.1"
"""
TOP = f"""\
summary = "pure Python"
project = "top"
modules = ["top"]
needs = ["base", "ext"]

[build]
requires = ["backend"]

[gates]
wheel = "pure"
top_level = ["top"]

[[releases]]
version = "3.0"
sdist = [{{ filename = "top-3.0.tar.gz", sha256 = "{"8" * 64}" }}]
"""
PATCHES = {
    "always": ("==2.0", "{}"),
    "other-release": (">=2.1,<3", "{}"),
    "new-base": ("==2.0", '{ base = ">=2" }'),
    "new-python": ("==2.0", '{ python = ">=3.12" }'),
    "new-backend": ("==2.0", '{ backend = ">=80" }'),
}
PATCH = "--- a/ext.py\n+++ b/ext.py\n@@ -1 +1 @@\n-{name} = 1\n+{name} = 2\n"
PINS = {
    "run": ("runtime==1.5",),
    "run-big": ("cuda-like==12", "runtime==1.6"),
    "verify": ("checker==1.0", "runtime==1.5"),
    "build-ext": ("backend==82", "old-helper==1 ; python_version < '3.12'"),
    "build-top": ("backend==82",),
}
INTERPRETER = Interpreter(
    path=Path("python3.11"),
    version="3.11.7",
    tag="cp311",
    platform="linux_x86_64",
    markers={"python_version": "3.11", "python_full_version": "3.11.7"},
    tags=("cp311-cp311-linux_x86_64", "py3-none-any"),
)
NEWER = replace(
    INTERPRETER,
    path=Path("python3.12"),
    version="3.12.1",
    tag="cp312",
    markers={"python_version": "3.12", "python_full_version": "3.12.1"},
    tags=("cp312-cp312-linux_x86_64", "py3-none-any"),
)
HOST = Host(
    cores=4,
    memory=8 << 30,
    disk_free=1 << 40,
    pythons=(INTERPRETER,),
    compiler=Compiler(cc=Path("cc"), cxx=Path("c++"), version="c++ (Debian 12.2.0-14) 12.2.0 [x86_64-linux-gnu]"),
    gpus=(),
    uv="0.13.8",
)
SMALL = FilePin(filename="proj_base-1.0+small-cp311-cp311-linux_x86_64.whl", sha256="1" * 64, variant="small")
BIG = FilePin(filename="proj_base-1.0-cp311-cp311-linux_x86_64.whl", sha256="2" * 64, variant="big")


def pinned(line: str, digest: str = "a" * 64) -> LockedRequirement:
    """Return a locked requirement by its line."""
    release, _, marker = line.partition(" ; ")
    name, _, version = release.partition("==")
    return LockedRequirement(name=name, version=version, sha256=(digest,), marker=marker)


@dataclass(frozen=True, kw_only=True)
class Miniature:
    """A folder laid out like this repository."""

    root: Path
    texts: Mapping[str, str] = field(
        repr=False,
        default_factory=lambda: {
            "stacks/mini.toml": STACK,
            "pipelines/base/recipe.toml": BASE,
            "pipelines/ext/recipe.toml": EXT,
            "pipelines/ext/README.md": "# ext\n",
            "pipelines/ext/verify/test_ext.py": "def test_ext(): ...\n",
            "pipelines/top/recipe.toml": TOP,
        },
    )

    def write(self) -> Miniature:
        """Write all files; the lock fits them."""
        for name, text in self.texts.items():
            self.put(name, text)
        entries = ['project = "ext"\n']
        for number, (name, (versions, when)) in enumerate(PATCHES.items(), start=1):
            file = self.put(f"patches/ext/{number:04d}-{name}.patch", PATCH.format(name=name))
            entries.append(
                f'[[patch]]\nfile = "{file.name}"\nid = "ext-{name}"\nversions = "{versions}"\nwhen = {when}\n'
                f'reason = "r"\nupstream = "u"\nretire_when = "w"\nsha256 = "{file_digest(file)}"\n'
            )
        self.put("patches/ext/series.toml", "\n".join(entries))
        self.lock(PINS)
        return self

    def lock(self, pins: Mapping[str, tuple[str, ...]], **more: Any) -> None:  # noqa: ANN401 - a lock's own
        """Write the stack's lock."""
        catalog = self.catalog
        sets = {name: tuple(pinned(line) for line in lines) for name, lines in pins.items()}
        inputs = inputs_of(catalog.stack("mini"), catalog)
        self.put("stacks/mini.lock", write_lock(Lock(sets=sets, inputs=inputs, **more)))

    def pin_every_way(self) -> Miniature:
        """Let the middle layer's release be had from every kind of source."""
        self.edit("pipelines/ext/recipe.toml", '\n[[releases]]\nversion = "2.1"\n', WAYS)
        return self

    def put(self, name: str, text: str | bytes) -> Path:
        """Write one file."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text of a file, which must be there."""
        text = (self.root / name).read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {name}"
        self.put(name, text.replace(old, new, 1))

    @property
    def catalog(self) -> Catalog:
        """Return the catalog as the files are now."""
        return Catalog(self.root)

    def plan(
        self,
        request: Request | None = None,
        *,
        host: Host = HOST,
        interpreter: Interpreter = INTERPRETER,
        base: FilePin = SMALL,
        trees: Mapping[str, str] | None = None,
        toolkit: Toolkit | None = None,
        installed: Mapping[str, Installed] | None = None,
        linker: Linker | None = None,
    ) -> Plan:
        """Return what a request leads to, `base` being the wheel of the lowest layer that an index offers."""
        asked, catalog = request or Request(), self.catalog
        selection = select(asked, catalog).found(installed or {})
        chosen = {name: source.files[0] for name, source in selection.sources.items() if source.files}
        if "base" in chosen and selection.sources["base"].kind == "wheel":
            chosen["base"] = base
        findings = Findings(chosen=chosen, trees=trees or {}, toolkit=toolkit, installed=installed or {}, linker=linker)
        return resolve(asked, selection, host, interpreter, catalog, findings)

    def layer(self, name: str, request: Request | None = None, **facts: Any) -> LayerPlan:  # noqa: ANN401 - plan's own
        """Return one layer of a plan."""
        return self.plan(request, **facts).layer(name)


def as_toml(value: object) -> str:
    """Return a value as TOML writes it within a line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(name)} = {as_toml(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(each) for each in value) + "]"
    return json.dumps(value)


def document(values: Mapping[str, object]) -> str:
    """Return a TOML document."""
    return "".join(f"{json.dumps(name)} = {as_toml(each)}\n" for name, each in values.items())
