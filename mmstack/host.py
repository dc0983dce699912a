"""Facts about this machine: what it runs on, what it can build with, which Pythons it has."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.markers import default_environment
from packaging.tags import compatible_tags, cpython_tags, platform_tags
from packaging.version import InvalidVersion, Version

from mmstack.errors import CommandError, DiskError, HostError, MmstackError, UsageError
from mmstack.model import Compiler, CudaSupport, Gpu, Host, Installed, Interpreter
from mmstack.run import run
from mmstack.shapes import load, maybe, misfit, table_of
from mmstack.sources.places import expanded
from mmstack.standalone import GPU_CHOICE, GPU_QUERY
from mmstack.toolchains.architectures import parse_architecture
from mmstack.toolchains.compilers import find_compilers, probe, twin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

COMPILER_PAIRS = (("cc", "c++"), ("gcc", "g++"), ("clang", "clang++"))
GPU_ANSWER = re.compile(r"(?P<name>.+), *(?P<capability>\d+\.\d), *(?P<driver>\d+(?:\.\d+)+) *", re.ASCII)
GROUPS_OF_THIS_PROCESS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
LONGEST_REASON = 200
TOP = Path("/")
PROBE = """
import json, platform, sys, sysconfig
version = sys.implementation.version
kind = version.releaselevel[0] + str(version.serial) if version.releaselevel != "final" else ""
print(json.dumps({
    "executable": sys.executable,
    "version": platform.python_version(),
    "implementation": sys.implementation.name,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "debug": bool(sysconfig.get_config_var("Py_DEBUG")) or hasattr(sys, "gettotalrefcount"),
    "platform": sysconfig.get_platform(),
    "include": sysconfig.get_path("include"),
    "markers": {
        "implementation_name": sys.implementation.name,
        "implementation_version": "{0.major}.{0.minor}.{0.micro}".format(version) + kind,
        "platform_python_implementation": platform.python_implementation(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
    },
}))
"""
PROBE_ID = zlib.crc32(PROBE.encode())
VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}(?:\.\S*)?")


def _path(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _version(value: object) -> bool:
    with suppress(InvalidVersion):
        return isinstance(value, str) and VERSION.fullmatch(value) is not None and bool(Version(value))
    return False


FACTS = {
    "executable": _path,
    "version": _version,
    "implementation": str,
    "free_threaded": bool,
    "debug": bool,
    "include": _path,
    "platform": str,
    "markers": table_of(str),
}
HELD = {
    "version": _version,
    "digest": str,
    "folders": [_path],
    "cuda": maybe(lambda value: value == "" or _version(value)),
    "architectures": [str],
}


def look(
    uv: Path,
    *,
    state: Path,
    cache: Path,
    minors: Sequence[str] = (),
    wanted: Sequence[str] = (),
    one_python: bool = False,
    all_compilers: bool = False,
) -> Host:
    """Return the facts about this machine.

    What it lacks is no error here but a note, by the name of the fact: `gpu`, `compiler`, `uv`, `python X.Y`.

    Args:
        uv: the uv program.
        state: the state folder, whose disk counts.
        cache: a JSON file that remembers what each Python said of itself.
        minors: the versions of Python to look for, `X.Y`, best first.
        wanted: Pythons that must be there, as `find_python` takes them.
        one_python: whether the first of these versions that is here is enough.
        all_compilers: whether to look for more compilers than the one that CC, CXX and PATH name.

    Raises:
        HostError: a wanted Python is not there or cannot be used.
        UsageError: a wanted Python is neither a version nor a path.
        DiskError: the cache cannot be written.
    """
    with ThreadPoolExecutor(max_workers=3) as pool:
        gpus, compiler, version = pool.submit(find_gpus), pool.submit(find_compiler), pool.submit(_uv_version, uv)
        pythons = [find_python(request, uv=uv, cache=cache) for request in wanted]
        found, missing = _search(minors, uv=uv, cache=cache, one=one_python)
    notes = {"gpu": gpus.result()[1], "compiler": compiler.result()[1], "uv": version.result()[1], **missing}
    return Host(
        cores=cores(),
        memory=memory(),
        disk_free=disk_free(state),
        pythons=tuple({python.path: python for python in [*pythons, *found]}.values()),
        compiler=compiler.result()[0],
        gpus=gpus.result()[0],
        compilers=find_compilers(os.environ) if all_compilers else (),
        compiler_named=bool(os.environ.get("CC") or os.environ.get("CXX")),
        uv=version.result()[0],
        gpu_choice=tuple(f"{name}={os.environ[name]}" for name in GPU_CHOICE if name in os.environ),
        glibc=glibc(),
        notes={name: note for name, note in notes.items() if note},
    )


def glibc() -> str:
    """Return the version of the C library, nothing where it is another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, OSError, ValueError):  # others do not know what is asked, or of no such question
        return ""
    return version if name == "glibc" else ""


def _search(minors: Sequence[str], *, uv: Path, cache: Path, one: bool) -> tuple[list[Interpreter], dict[str, str]]:
    found: list[Interpreter] = []
    missing = {}
    for minor in minors:
        if found and one:
            break
        try:
            found.append(find_python(minor, uv=uv, cache=cache))
        except DiskError:
            raise
        except HostError as error:
            missing[f"python {minor}"] = error.why or error.what
    return found, missing


def _uv_version(uv: Path) -> tuple[str, str]:
    try:
        output = run([uv, "--version"], env=os.environ).output
    except (HostError, CommandError, OSError) as error:
        return "", _brief(error)
    return output.removeprefix("uv ").partition(" ")[0], ""


def cores(process: Path = GROUPS_OF_THIS_PROCESS, groups: Path = GROUPS) -> int:
    """Return how many processors we may keep busy: affinity and the quota of control groups both count."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [usable]
    for folder in _group_folders(process, groups):
        v1 = f"{_text(folder / 'cpu.cfs_quota_us')} {_text(folder / 'cpu.cfs_period_us')}"
        quota = re.fullmatch(r"(\d+) (\d+)", _text(folder / "cpu.max") or v1)
        if quota is not None:
            shares.append(max(1, int(quota[1]) // int(quota[2])))
    return min(shares)


def memory(process: Path = GROUPS_OF_THIS_PROCESS, groups: Path = GROUPS) -> int:
    """Return the bytes of memory that we may use: the machine's, or less by a limit of control groups."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _group_folders(process, groups):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        if limit.isdecimal():
            limits.append(int(limit))
    return min(limits)


def _group_folders(process: Path, groups: Path) -> Iterator[Path]:
    """Yield the folders of our control groups, of version 2 and 1, and those of the groups around them."""
    for line in _text(process).splitlines():
        _number, controllers, name = line.split(":", 2)
        for controller in controllers.split(","):
            top = groups / controller
            folder = top / name.strip("/")
            yield from (place for place in (folder, *folder.parents) if place.is_relative_to(top))


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return ""


def disk_free(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is on or will be made on."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def find_compiler() -> tuple[Compiler | None, str]:
    """Return the C and C++ compilers, and why there are none.

    `CC` and `CXX` are taken at their word: one that does not work is not replaced by another, and one alone brings the
    other of its pair. Both are of one version, since a key names that of the C++ compiler alone.
    """
    c, cxx = os.environ.get("CC", ""), os.environ.get("CXX", "")
    for variable, name in (("CC", c), ("CXX", cxx)):
        if name and _program(name) is None:
            return None, f"{variable}={name}: not the name of one program on this machine"
    if not c and not cxx:
        why = ""
        for pair in COMPILER_PAIRS:
            if all(map(shutil.which, pair)):
                compiler, trouble = _compiler_of(*pair)
                if compiler:
                    return compiler, ""
                why = why or trouble
        return None, why or f"none of {', '.join(cxx for _c, cxx in COMPILER_PAIRS)} is on PATH"
    other = twin(shlex.split(c or cxx)[0])  # of one word, or it had been told of above
    if not (c and cxx) and _program(other) is None:
        unset = "CXX" if c else "CC"
        return None, f"{c or cxx} is half a pair: {other or 'what goes with it'} is not here, and {unset} not set"
    return _compiler_of(c or other, cxx or other)


def _compiler_of(c: str, cxx: str) -> tuple[Compiler | None, str]:
    """Return a C and a C++ compiler that are there, or why they are no pair."""
    cc, plus_plus = (path for path in map(_program, (c, cxx)) if path)
    try:
        return probe(cc, plus_plus, os.environ), ""
    except (HostError, CommandError, OSError) as error:
        return None, _brief(error)


def _program(text: str) -> Path | None:
    """Return the one program that a variable names."""
    try:
        words = shlex.split(text)
    except ValueError:  # a quotation without an end
        return None
    found = shutil.which(words[0]) if len(words) == 1 else None
    return Path(found).absolute() if found else None


def find_gpus() -> tuple[tuple[Gpu, ...], str]:
    """Return the visible GPUs, and why there are none where the driver's own program does not work."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), ""
    try:
        lines = run([program, *GPU_QUERY], env=os.environ).output.strip().splitlines()
    except (HostError, CommandError, OSError) as error:
        return (), _brief(error)
    rows = [match for line in lines if (match := GPU_ANSWER.fullmatch(line))]
    if not rows or len(rows) < len(lines):
        return (), f"{program} said: {' '.join(lines) or 'nothing'}"
    return tuple(Gpu(**row.groupdict()) for row in rows), ""


def find_python(request: str, *, uv: Path, cache: Path) -> Interpreter:
    """Return the Python that was asked for: `3.11`, `3.11.7` or the path of an interpreter.

    A version is looked for where uv looks (its own Pythons, PATH) and among pyenv's.

    Raises:
        HostError: it is not on this machine, or not one that layers can be built for.
        UsageError: the request is neither a version nor a path.
        DiskError: the cache cannot be written.
    """
    if "/" in request:
        return describe(expanded(request, "--python").absolute(), cache=cache)
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", request):
        raise UsageError(
            f"'{request}' is neither a version of Python nor a path",
            fix="say `--python 3.11` or `--python /path/to/python`",
        )
    reasons = []
    installed = _installed(uv, request, cache)
    for version, path in installed:
        if version == request or version.startswith(f"{request}."):
            try:
                return describe(path, cache=cache)
            except DiskError:
                raise
            except HostError as error:
                reasons.append(f"{error.what} ({error.why})")
    others = sorted({version for version, _path in _installed(uv, "", cache)}, key=Version)
    there = "; ".join(dict.fromkeys(reasons)) or f"there are {', '.join(others) or 'no others'}"
    raise HostError(
        f"Python {request} is not on this machine, or cannot be built for",
        why=there,
        fix=f"`uv python install {request}`, or your distribution's package with its headers",
    )


def _installed(uv: Path, request: str, cache: Path) -> list[tuple[str, Path]]:
    """Return versions and paths of the Pythons that uv and pyenv have, the preferred first."""
    environment = {**os.environ, "PATH": _path_with_pyenv(request)}
    words: list[str | Path] = [uv, "python", "list", "--only-installed", "--no-python-downloads"]
    words += ["--output-format", "json", *([request] if request else [])]
    try:
        output = _cached(words, environment, cache) or run([*words, "--no-cache"], env=environment, cwd=TOP).output
    except CommandError as error:
        raise HostError(
            "uv does not list the Pythons of this machine",
            why=error.why,
            fix="correct what uv names: its own settings count",
        ) from error
    listing = next((line for line in output.splitlines() if line.startswith("[")), "[]")
    paths: dict[Path, tuple[str, Path]] = {}
    for entry in _listed(listing):
        path = Path(entry["path"])
        paths.setdefault(path.resolve(), (entry["version"], path))
    return list(paths.values())


def _cached(words: Sequence[str | Path], environment: Mapping[str, str], cache: Path) -> str:
    """Return what uv lists with a cache of its own beside ours, nothing where it has difficulties with that.

    Without one it runs each Python every time. On a disk that is full it passes over those that are not in it.
    """
    folder = cache.with_suffix("")
    with suppress(CommandError, DiskError):
        output = run([*words, "--cache-dir", folder], env=environment, cwd=TOP).output
        said = (line for line in output.splitlines() if not line.startswith("["))
        return "" if any(f"/{folder.name}/" in line for line in said) else output
    return ""


def _listed(listing: str) -> list[dict[str, str]]:
    try:
        found: list[dict[str, str]] = json.loads(listing)
    except (ValueError, RecursionError):
        return []
    # a Python that uv could install has no path
    return [entry for entry in found if not misfit(entry, {"path": _path, "version": _version})]


def _path_with_pyenv(request: str) -> str:
    """Return PATH with pyenv's Pythons where its shims are: a shim runs only what is activated."""
    try:
        root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
        versions = sorted((root / "versions").glob(f"{request or '3'}*/bin"), key=_numbers, reverse=True)
    except (OSError, RuntimeError):  # a folder that is another user's, or a user without a home
        return os.environ.get("PATH", os.defpath)
    folders: list[str] = []
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        folders += map(str, versions) if Path(folder) == root / "shims" else [folder]
    return os.pathsep.join(dict.fromkeys([*folders, *map(str, versions)]))


def _numbers(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.parent.name)]


def describe(path: Path, *, cache: Path) -> Interpreter:
    """Return what an interpreter says of itself, from the cache where the file is still the same.

    Raises:
        HostError: it does not run, or is not one that layers can be built for.
        DiskError: the cache cannot be written.
    """
    facts = _facts(path, cache)
    reason = _unusable(facts)
    if reason is not None:
        raise HostError(f"{path} cannot be used", why=reason[0], fix=reason[1])
    major, minor = (int(number) for number in facts["version"].split(".")[:2])
    abi = f"cp{major}{minor}"
    platforms = list(platform_tags())
    tags = [
        *cpython_tags((major, minor), [abi], platforms),
        *compatible_tags((major, minor), abi, platforms),
    ]
    return Interpreter(
        path=Path(facts["executable"]),
        version=facts["version"],
        tag=abi,
        platform=re.sub(r"[.-]", "_", facts["platform"]),
        markers={**{name: str(value) for name, value in default_environment().items()}, **facts["markers"]},
        tags=tuple(map(str, tags)),
    )


def find_installed(python: Path, script: Path) -> Installed:
    """Return what a Python holds of a layer, by the layer's own script.

    Raises:
        HostError: it does not hold the layer, or not whole.
    """
    try:
        answer = run([python, "-E", script], env=os.environ, cwd=script.parent).output.splitlines()[-1]
        facts = json.loads(answer)
        if where := misfit(facts, HELD):
            raise ValueError(f"{where} is not what it must be")  # noqa: TRY301 - as what is no JSON at all
        support = None
        if facts["cuda"]:
            words = tuple(parse_architecture(word) for word in facts["architectures"])
            support = CudaSupport(version=facts["cuda"], architectures=words)
        folders = tuple(Path(folder) for folder in facts["folders"])
        return Installed(version=facts["version"], digest=facts["digest"], folders=folders, support=support)
    except (CommandError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        said = error.why.splitlines() if isinstance(error, CommandError) else []
        raise HostError(
            f"{python} does not hold this layer",
            why=said[-1] if said else f"{script.name} did not answer as it should",
            fix="name the Python that has it with `--python PATH`",
        ) from error


def _unusable(facts: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return why layers cannot be built for an interpreter, and what to do."""
    minor = ".".join(facts["version"].split(".")[:2])
    another = f"`uv python install {minor}` gives one that can"
    if facts["implementation"] != "cpython":
        return f"it is {facts['implementation']}, the layers are built for CPython", another
    if facts["free_threaded"]:
        return "it is a free-threaded build, whose ABI the layers do not support", another
    if facts["debug"]:
        return "it is a debug build, whose ABI no release of the layers has", another
    if not os.path.isfile(f"{facts['include']}/Python.h"):  # noqa: PTH113 - false for a name that no file can have
        headers = f"`apt-get install python{minor}-dev` or `dnf install python{minor}-devel`"
        return "its headers are missing: there is no Python.h", f"{another}; or install them: {headers}"
    return None


def _facts(path: Path, cache: Path) -> dict[str, Any]:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise HostError(
            f"{path} is no Python", why=str(error), fix="give the path of a python program, or install that one again"
        ) from error
    stamp = [PROBE_ID, str(path.resolve()), status.st_mtime_ns, status.st_size]
    known = _remembered(cache)
    entry = known.get(str(path))
    if isinstance(entry, dict) and entry.get("stamp") == stamp and not misfit(entry.get("facts"), FACTS):
        return dict(entry["facts"])
    facts = _probe(path)
    if Path(facts["executable"]).resolve() == path.resolve():  # a shim runs now this Python, now that
        _remember(cache, {**known, str(path): {"stamp": stamp, "facts": facts}})
    return facts


def _probe(path: Path) -> dict[str, Any]:
    try:
        lines = run([path, "-I", "-c", PROBE], env=os.environ).output.splitlines()
        facts = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
        if where := misfit(facts, FACTS):
            raise ValueError(f"{where} is not what it must be")  # noqa: TRY301 - as what is no JSON at all
        return dict(facts)
    except (HostError, CommandError, OSError, RecursionError, StopIteration, ValueError) as error:
        raise HostError(
            f"{path} is no working Python",
            why=_brief(error) or "it did not answer as a Python does",
            fix="give the path of a python program, or install that one again",
        ) from error


def _brief(error: Exception) -> str:
    """Return an error in one line of a fair length."""
    cause = f"{error.what}: {error.why}" if isinstance(error, MmstackError) and error.why else str(error)
    return cause.partition("\n")[0][:LONGEST_REASON]


def _remembered(cache: Path) -> dict[str, Any]:
    try:
        known = load(cache)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(cache: Path, known: Mapping[str, Any]) -> None:
    fresh = cache.with_name(f".new-{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.write_text(json.dumps(known), encoding="utf-8")
            fresh.replace(cache)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(
            f"{cache} cannot be written", why=str(error), fix="set MMSTACK_HOME to a folder of yours"
        ) from error
