"""A checkout in miniature: three layers, a stack, a patch and a folder that serves as package index."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmstack.catalog import Catalog
from mmstack.lock import read_lock, write_lock
from mmstack.locked import inputs_of
from mmstack.model import Lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mmstack.model import LockedRequirement

ROOT = Path(__file__).resolve().parents[1]
UPSTREAMS = Path(__file__).resolve().parent / "upstreams"
RELEASES = {"base": ("minibase", "1.0"), "ext": ("miniext", "2.0"), "top": ("minitop", "3.0")}
MOMENT = 1_700_000_000
RUN, BUILD = ("packaging",), ("setuptools",)
VERIFY = ("pytest", "pluggy", "iniconfig", "pygments", "exceptiongroup", "tomli", "typing-extensions")


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Return all that it said."""
        return self.out + self.err


@dataclass(kw_only=True)
class Checkout:
    """A folder laid out like this repository, driven through its front door."""

    root: Path
    stack: str = "mini"
    env: dict[str, str] = field(default_factory=dict)

    @property
    def index(self) -> Path:
        """Return the folder that holds every file on offer."""
        return self.root.parent / "index"

    @property
    def state(self) -> Path:
        """Return where the engine keeps what it made."""
        return self.root / ".mmstack"

    @property
    def dist(self) -> Path:
        """Return the stack's results."""
        return self.root / "dist" / self.stack

    def environ(self, **changes: str) -> dict[str, str]:
        """Return the variables of a user who has no settings but this index."""
        home = self.root.parent / "home"
        home.mkdir(exist_ok=True)
        return {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "UV_NO_CONFIG": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "UV_FIND_LINKS": str(self.index),
            "NO_PROXY": "127.0.0.1",
            **self.env,
            **changes,
        }

    def start(self, *words: str, before: Iterable[str] = (), **changes: str) -> subprocess.Popen[str]:
        """Start a task, both of its streams in one pipe; `before` is a command that runs it."""
        return subprocess.Popen(
            [*before, sys.executable, "-m", "invoke", *words],
            cwd=self.root,
            env=self.environ(**changes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def invoke(self, *words: str, before: Iterable[str] = (), **changes: str) -> Done:
        """Run a task to its end."""
        done = subprocess.run(
            [*before, sys.executable, "-m", "invoke", *words],
            cwd=self.root,
            env=self.environ(**changes),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    def build(self, *words: str, before: Iterable[str] = (), **changes: str) -> Done:
        """Run the main job."""
        return self.invoke("build-stack", "--stack", self.stack, *words, before=before, **changes)

    def plan(self, *words: str) -> dict[str, bool]:
        """Return each step and whether its result is there, by `plan --json`."""
        done = self.invoke("plan", "--stack", self.stack, "--json", *words)
        assert done.code == 0, done.text
        return {step["id"]: step["cached"] for step in json.loads(done.out)["steps"]}

    def manifest(self) -> dict[str, Any]:
        """Return what the last run wrote of itself."""
        return dict(json.loads((self.dist / "manifest.json").read_text(encoding="utf-8")))

    def wheels(self) -> dict[str, str]:
        """Return the digests of the wheels in dist by their names."""
        return {path.name: sha256(path) for path in sorted((self.dist / "wheels").iterdir())}

    def edit(self, file: str, *changes: tuple[str, str]) -> None:
        """Replace texts of a file, each of which must be there."""
        path = self.root / file
        text = path.read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text, f"{old!r} is not in {file}"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")

    def repatch(self, *changes: tuple[str, str]) -> None:
        """Change the patch, and its digest in the series."""
        self.edit("patches/miniext/0001-first-value.patch", *changes)
        patch = self.root / "patches" / "miniext" / "0001-first-value.patch"
        series = self.root / "patches" / "miniext" / "series.toml"
        text = series.read_text(encoding="utf-8")
        series.write_text(re.sub(r"[0-9a-f]{64}", sha256(patch), text), encoding="utf-8")

    def publish(self, layer: str, change: Callable[[Path], object] = lambda _tree: None) -> Path:
        """Pack a layer's upstream, changed, put it on offer and pin it."""
        tree = self.tree(layer)
        change(tree)
        project, version = RELEASES[layer]
        sdist = self.index / f"{project}-{version}.tar.gz"
        pack(tree, sdist, f"{project}-{version}")
        self.pin(layer, sdist)
        return sdist

    def tree(self, layer: str) -> Path:
        """Return a copy of a layer's upstream, to be changed."""
        tree = self.root.parent / "trees" / layer
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(UPSTREAMS / layer, tree, ignore=shutil.ignore_patterns("__pycache__"))
        return tree

    def pin(self, layer: str, sdist: Path) -> None:
        """Write a file's digest into a layer's recipe."""
        recipe = self.root / "pipelines" / layer / "recipe.toml"
        text = recipe.read_text(encoding="utf-8")
        recipe.write_text(re.sub(r'sha256 = "[^"]*"', f'sha256 = "{sha256(sdist)}"', text), encoding="utf-8")

    def copy(self, parent: Path, *, built: bool = True) -> Checkout:
        """Return the same elsewhere, with or without what it has built; its state is not used by the other one."""
        left_out = ("uv-cache", "uses") if built else (".mmstack", "dist")
        ignore = shutil.ignore_patterns(*left_out)
        shutil.copytree(self.root, parent / self.root.name, symlinks=True, ignore=ignore)
        shutil.copytree(self.index, parent / self.index.name)
        return replace(self, root=parent / self.root.name, env=dict(self.env))


def lay_out(parent: Path, tools: Mapping[str, LockedRequirement], wheels: Iterable[Path]) -> Checkout:
    """Return a new checkout in a folder, nothing of it built yet."""
    checkout = Checkout(root=parent / "checkout")
    shutil.copytree(UPSTREAMS / "checkout", checkout.root, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout.root / "mmstack").symlink_to(ROOT / "mmstack")
    shutil.copy(ROOT / "tasks.py", checkout.root)
    shutil.copy(ROOT / "pipelines" / "pytest.ini", checkout.root / "pipelines")
    checkout.index.mkdir()
    for wheel in wheels:
        shutil.copy(wheel, checkout.index)
    checkout.edit("stacks/mini.toml", ("{python}", f"{sys.version_info.major}.{sys.version_info.minor}"))
    for layer in RELEASES:
        checkout.publish(layer)
    patch = checkout.root / "patches" / "miniext" / "0001-first-value.patch"
    checkout.edit("patches/miniext/series.toml", ("{sha256}", sha256(patch)))
    write_mini_lock(checkout, tools)
    return checkout


def forget(checkout: Checkout, step: str) -> None:
    """Remove the result of a step, so that the next build does it again."""
    kind, _, layer = step.partition(" ")
    plan = checkout.manifest()
    keys = {item["name"]: item for item in plan["layers"]}
    if kind == "fetch":
        shutil.rmtree(checkout.state / "downloads")
    if kind in {"install", "fetch"}:
        shutil.rmtree(checkout.dist / "env")
    if kind == "verify":
        (checkout.state / "verified" / f"{keys[layer]['verify_key']}.json").unlink()
    elif layer:
        shutil.rmtree(checkout.state / "artifacts" / keys[layer]["key"])


def write_mini_lock(checkout: Checkout, tools: Mapping[str, LockedRequirement]) -> None:
    """Write the stack's lock: what the recipes ask for at the versions of the real stack."""
    sets = {f"build-{layer}": tuple(tools[name] for name in BUILD) for layer in RELEASES}
    sets |= {
        "run": tuple(tools[name] for name in RUN),
        "verify": tuple(tools[name] for name in VERIFY if name in tools),
    }
    catalog = Catalog(checkout.root)
    lock = Lock(sets=sets, inputs=inputs_of(catalog.stack("mini"), catalog))
    (checkout.root / "stacks" / "mini.lock").write_text(write_lock(lock), encoding="utf-8")


def pinned_tools() -> dict[str, LockedRequirement]:
    """Return the build and test tools as the repository's own lock pins them."""
    sets = read_lock(ROOT / "stacks" / "cpu.lock").sets
    return {item.name: item for items in sets.values() for item in items if item.name in {*RUN, *BUILD, *VERIFY}}


def pack(tree: Path, sdist: Path, top: str) -> None:
    """Pack a tree as an sdist whose bytes depend on nothing but its contents."""
    name, _, version = top.rpartition("-")
    (tree / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    members = [(f"{top}/{path.relative_to(tree).as_posix()}", path) for path in sorted(tree.rglob("*"))]
    write_tar(sdist, [_file(name, path.read_bytes()) for name, path in members if path.is_file()])


def _file(name: str, body: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(body), MOMENT
    return member, body


def write_tar(file: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Write any archive, honest or not."""
    with gzip.GzipFile(file, "wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for member, body in members:
            archive.addfile(member, io.BytesIO(body))


def sha256(path: Path) -> str:
    """Return a file's digest."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def times(*folders: Path) -> dict[str, int]:
    """Return when each file below some folders was last changed."""
    return {str(path): path.lstat().st_mtime_ns for folder in folders for path in sorted(folder.rglob("*"))}


def no_namespaces() -> str:
    """Return why no command can be cut off from the network here, nothing if one can."""
    if shutil.which("unshare") is None:
        return "not on this machine: unshare"
    tried = subprocess.run(
        ["unshare", "--map-root-user", "--net", "--uts", "true"], capture_output=True, text=True, check=False
    )
    return f"no network namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def refused(done: Done, code: int, *texts: str) -> None:
    """Demand an exit code, an error that says this, with a remedy and without a traceback."""
    told(done, code)
    for text in (*texts, "  fix  "):
        assert text in done.err, done.err
    assert "is built and verified" not in done.out


def told(done: Done, code: int, *texts: str) -> None:
    """Demand an exit code, and that this was said, without a traceback."""
    assert done.code == code, done.text
    for text in texts:
        assert text in done.text, done.text
    assert "\nTraceback" not in f"\n{done.text}"


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
