"""CUDA toolkits in miniature, in every form that NVIDIA gives them out, and a checkout with stacks for them."""

from __future__ import annotations

import hashlib
import io
import json
import platform as machine
import shutil
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from mmstack.catalog import Catalog, lock_file
from mmstack.lock import read_lock, write_lock
from mmstack.locked import inputs_of
from mmstack.model import FilePin, LockedRequirement, Toolkit
from mmstack.toolchains.redist import PLATFORMS, address
from mmstack.toolchains.system import HEADERS, LIBRARIES
from tests.support import UPSTREAMS, sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.support import Checkout
    from tests.unit.conftest import Server

GPU = UPSTREAMS / "gpu"
MANIFEST = "redistrib_12.8.1.json"
LINK, PROGRAM = "link to ", "#!/bin/sh\n# "
WHEELS_ALONE = "13.99"  # a version that no machine has, so that nothing is found before the wheels
STACKS = {"gpu": "12.8", "gpu13": WHEELS_ALONE}
RELEASE = """\
gcc = "<99"
clang = "<99"
driver = ">=525"
architectures = ["8.0", "9.0"{more}]
"""
RELEASES = {
    "12.4": RELEASE.format(more=""),
    "12.8": RELEASE.format(more=', "12.0"')
    + f'\n[redist]\nmanifest = "{MANIFEST}"\nsha256 = "{{sha256}}"\ncomponents = ["cuda_nvcc", "cuda_cudart"]\n',
    WHEELS_ALONE: RELEASE.format(more=', "12.0"')
    + f'\n[wheels]\nrequires = ["nvidia-cuda-nvcc=={WHEELS_ALONE}", "nvidia-cuda-runtime=={WHEELS_ALONE}"]\n',
}
FOR_GPUS = """
[build.cuda]
local_version = "cu{cuda}base{base}"

[build.environment]
MINIEXT_LOCAL_VERSION = "{local_version}"

[verify]"""


def nvcc(version: str) -> str:
    """Return a compiler that says it is of that version."""
    return (GPU / "nvcc").read_text(encoding="utf-8").replace("{version}", version)


def program(path: Path, text: str = PROGRAM) -> Path:
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def files(folder: Path, names: Iterable[str], text: str = "") -> None:
    """Write plain files."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def headers(folder: Path, version: str, *, cccl: bool = False) -> None:
    """Write a toolkit's headers, as of CUDA 13 with the C++ libraries apart."""
    for name in HEADERS:
        apart = cccl and name.startswith(("cuda/", "cub/", "thrust/"))
        files(folder / "cccl" if apart else folder, [name])
    files(folder, ["cuda.h"], cuda_h(version))


def cuda_h(version: str) -> str:
    """Return what the header that names the version says."""
    major, minor = version.split(".")
    return f"/* a comment */\n#define CUDA_VERSION {int(major) * 1000 + int(minor) * 10}\n"


def nvidia(home: Path, version: str = "12.4", *, lib: str = "lib64", include: str = "include") -> Path:
    """Make a toolkit in NVIDIA's layout."""
    program(home / "bin" / "nvcc", nvcc(version))
    for name in ("cudafe++", "ptxas", "fatbinary", "nvlink"):
        program(home / "bin" / name)
    program(home / "nvvm" / "bin" / "cicc")
    files(home / "nvvm" / "libdevice", ["libdevice.10.bc"])
    headers(home / include, version, cccl=version.startswith("13"))
    files(home / lib, LIBRARIES)
    return home


def parts(version: str) -> dict[str, dict[str, str]]:
    """Return the files of the two components that a build in miniature needs; links say what they mean."""
    library = f"libcudart.so.{version.partition('.')[0]}"
    return {
        "cuda_nvcc": {
            "LICENSE": "NVIDIA's",
            "bin/nvcc": nvcc(version),
            "bin/ptxas": PROGRAM,
            "nvvm/bin/cicc": PROGRAM,
        },
        "cuda_cudart": {
            "LICENSE": "NVIDIA's",
            "include/cuda.h": cuda_h(version),
            "include/cuda_runtime.h": "",
            f"lib/{library}": "",
            "lib/libcudart.so": f"{LINK}{library}",
        },
    }


def archive(folder: Path, component: str, contents: Mapping[str, str], platform: str = "linux-x86_64") -> Path:
    """Pack files as NVIDIA does."""
    top = f"{component}-{platform}-12.8.93-archive"
    path = folder / f"{top}.tar.xz"
    with tarfile.open(path, "w:xz", preset=0) as tar:
        for name, text in contents.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.mtime = 1_700_000_000
            info.mode = 0o755 if text.startswith("#!") else 0o644
            if text.startswith(LINK):
                info.type, info.linkname, text = tarfile.SYMTYPE, text.removeprefix(LINK), ""  # noqa: PLW2901
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


class Mirror:
    """A folder in the layout of NVIDIA's server, and what is served of it."""

    def __init__(self, root: Path, components: Mapping[str, Mapping[str, str]], platform: str = "linux-x86_64") -> None:
        self.root = root
        self.listed: dict[str, Any] = {
            "release_date": "2025-03-04",
            "release_label": "12.8.1",
            "release_product": "cuda",
        }
        for name, contents in components.items():
            self.add(name, contents, platform)
        self.listed["cuda_nvcc"]["windows-x86_64"] = {"relative_path": "cuda_nvcc/windows-x86_64/x.zip"}

    def add(self, component: str, contents: Mapping[str, str], platform: str = "linux-x86_64") -> None:
        """Put a component on offer."""
        folder = self.root / component / platform
        folder.mkdir(parents=True, exist_ok=True)
        path = archive(folder, component, contents, platform)
        facts = self.listed.setdefault(
            component,
            {
                "name": "CUDA",
                "license": "CUDA Toolkit",
                "license_path": f"{component}/LICENSE.txt",
                "version": "12.8.93",
            },
        )
        body = path.read_bytes()
        facts[platform] = {
            "relative_path": path.relative_to(self.root).as_posix(),
            "sha256": hashlib.sha256(body).hexdigest(),
            "md5": hashlib.md5(body, usedforsecurity=False).hexdigest(),
            "size": str(len(body)),
        }

    def manifest(self, text: bytes | None = None) -> Path:
        """Write the manifest."""
        path = self.root / MANIFEST
        path.write_bytes(json.dumps(self.listed, indent=4).encode() if text is None else text)
        return path

    def toolkit(self, base: str = "https://h.example/redist/", wanted: str = "cuda_nvcc cuda_cudart") -> Toolkit:
        """Return the toolkit that a plan would make of it."""
        path = self.root / MANIFEST
        digest = hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()
        return Toolkit(
            kind="redist",
            version="12.8",
            origin="a mirror",
            identity="x",
            manifest=FilePin(filename=MANIFEST, sha256=digest),
            base=base,
            components=tuple(wanted.split()),
        )

    def serve(self, server: Server) -> str:
        """Put all of it on a server and return the address."""
        for path in self.root.rglob("*"):
            if path.is_file():
                server.add(f"/redist/{path.relative_to(self.root).as_posix()}", path.read_bytes())
        return address(f"{server.url}/redist")


def wheel(folder: Path, project: str, version: str, contents: Mapping[str, str]) -> LockedRequirement:
    """Put a wheel for any machine into a folder and return its pin; what begins as a program is one."""
    name = project.replace("-", "_")
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    texts = {
        **contents,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    texts[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*texts, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as packed:
        for each, text in texts.items():
            entry = zipfile.ZipInfo(each)
            entry.external_attr = (0o100755 if text.startswith("#!") else 0o100644) << 16
            packed.writestr(entry, text)
    return LockedRequirement(name=project, version=version, sha256=(sha256(path),))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder by HTTP and give the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_details: object) -> None:
        """Keep quiet."""


def for_gpus(checkout: Checkout, *, more: int = 0) -> Mirror:
    """Give a checkout stacks for CUDA, whose middle layer holds two kernels, and return a mirror of the archives.

    Args:
        checkout: one whose stack without a GPU may be built.
        more: how many more files a toolkit of archives or wheels has, so that it takes time to make.
    """
    headers_ = {f"include/more/{number}.h": str(number) for number in range(more)}
    mirror = _mirror(checkout, headers_)
    for version, text in RELEASES.items():
        files(checkout.root, [f"toolkits/{version}.toml"], text.replace("{sha256}", sha256(mirror.manifest())))
    checkout.edit("pipelines/ext/recipe.toml", ("\n[verify]", FOR_GPUS))
    with_kernels(checkout)
    cpu = (checkout.root / "stacks" / "mini.toml").read_text(encoding="utf-8")
    for name, version in STACKS.items():
        text = cpu.replace('cuda = "cpu"', f'cuda = "{version}"\narch = ["8.0", "9.0+PTX"]')
        files(checkout.root, [f"stacks/{name}.toml"], text)
    _lock(checkout, {"cubins": (_cuobjdump(checkout),), "toolkit": _wheels(checkout, headers_)})
    checkout.stack = "gpu"
    return mirror


def with_kernels(checkout: Checkout, change: Callable[[Path], object] = lambda _tree: None) -> None:
    """Put the middle layer with kernels on offer, changed."""

    def add(tree: Path) -> None:
        shutil.copytree(GPU / "src", tree / "src", dirs_exist_ok=True)
        shutil.copy(GPU / "setup.py", tree)
        project = tree / "pyproject.toml"
        project.write_text(project.read_text().replace('version = "2.0"', 'dynamic = ["version"]'))
        change(tree)

    checkout.publish("ext", add)


def _mirror(checkout: Checkout, more: Mapping[str, str]) -> Mirror:
    root = checkout.root.parent / "mirror"
    root.mkdir()
    components = parts("12.8")
    components["cuda_cudart"] |= more
    return Mirror(root, components, PLATFORMS[machine.machine()])


def _wheels(checkout: Checkout, more: Mapping[str, str]) -> tuple[LockedRequirement, ...]:
    projects = {"cuda_nvcc": "nvidia-cuda-nvcc", "cuda_cudart": "nvidia-cuda-runtime"}
    components = parts(WHEELS_ALONE)
    components["cuda_cudart"] |= more
    return tuple(
        wheel(
            checkout.index,
            projects[name],
            WHEELS_ALONE,
            {f"nvidia/cu13/{path}": text for path, text in contents.items() if not text.startswith(LINK)},
        )
        for name, contents in components.items()
    )


def _cuobjdump(checkout: Checkout) -> LockedRequirement:
    text = (GPU / "cuobjdump").read_text(encoding="utf-8")
    return wheel(checkout.index, "nvidia-cuda-cuobjdump", "13.5", {"nvidia/cu13/bin/cuobjdump": text})


def _lock(checkout: Checkout, sets: Mapping[str, tuple[LockedRequirement, ...]]) -> None:
    catalog = Catalog(checkout.root)
    lock = read_lock(checkout.root / "stacks" / "mini.lock")
    for name in STACKS:
        stack = catalog.stack(name)
        both = replace(lock, sets={**lock.sets, **sets}, inputs=inputs_of(stack, catalog))
        lock_file(stack).write_text(write_lock(both), encoding="utf-8")
