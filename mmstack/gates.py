"""What a wheel must be before it may enter the store, and proof that its build touched nothing else."""

from __future__ import annotations

import base64
import csv
import errno
import hashlib
import os
import re
import shutil
import stat
import struct
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.parser import BytesParser
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from packaging.errors import ExceptionGroup
from packaging.metadata import Metadata
from packaging.tags import InvalidTag, TooManyTagsError, parse_tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from mmstack.elf import (
    Loader,
    Module,
    defined_symbols,
    most_likely,
    read_module,
    run_folders,
    system_folders,
    undefined_symbols,
)
from mmstack.errors import CommandError, DiskError, GateError, HostError
from mmstack.model import EARLIEST
from mmstack.run import run
from mmstack.sources.archive import DAMAGE, FREE_BYTES, MAX_BYTES, MAX_MEMBERS, MAX_RATIO
from mmstack.toolchains import cubins
from mmstack.words import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from packaging.tags import Tag

    from mmstack.model import Architecture, FilePin, GateRules, GpuCode, Interpreter

CACHED_CODE = re.compile(r"\.pyc(\.\d+)?$")
MODULE_NAME = re.compile(r"\.so(\.\d+)*$")
PURE_TAGS = frozenset({"py3-none-any", "py2-none-any"})
# not the driver's, which are every GPU machine's own
TOOLKIT_LIBRARY = re.compile(
    r"lib(cublas|cudart|cudnn|cudss|cufft|cufile|cupti|curand|cusolver|cusparse|nccl|npp|nvJitLink|nvToolsExt|nvblas|"
    r"nvfatbin|nvjpeg|nvrtc|nvshmem|nvtx)"
)
DRIVER_STUBS = frozenset({"libcuda.so", "libnvidia-ml.so"})
DRIVER_LIBRARIES = frozenset({"libcuda.so.1", "libnvidia-ml.so.1"})
DRIVER_SYMBOL = re.compile(r"cu[A-Z]|nvml[A-Z]")  # what these export; the runtime's own names begin with `cuda`
ROOT_SCHEMES = frozenset({"purelib", "platlib"})
INFO_FILES = ("METADATA", "WHEEL", "RECORD")
INFO_ENDS = tuple(f".dist-info/{name}" for name in INFO_FILES)
IMPOSSIBLE_NAMES = frozenset({None, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR})
MOST_TAGS = 1000
SHOWN = 8
CHUNK = 1 << 20

FIXES: Mapping[str, str] = {
    "tag": "see in the build's log whether its compiled part was left out, and which Python ran it",
    "metadata": "compare the version and the requirements that the recipe plans with those of the source",
    "record": "remove what the build puts beside its packages, or name it in the recipe's gates",
    "extensions": "see in the build's log why they were not compiled; `doctor` says what this machine lacks",
    "rpath": "build without run paths, or name the ones that belong there in the recipe's gates",
    "symbols": "build it again, against the layers below that this plan names",
    "gpu-code": "see in the build's log which architectures the compiler was given, and for which sources",
}


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a wheel, read to its end."""

    name: str
    size: int
    digest: str
    symlink: bool


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What was planned for a wheel.

    Attributes:
        rules: what its layer demands.
        project: its distribution.
        version: the exact version that it must carry, see `planned_version`.
        interpreter: the Python that it is for.
        site: the site-packages of its build environment.
        beside: folders that installed layers are imported from.
        below: what the layers that it is built against have at the top of these: their libraries, and what
            those load by run paths of their own, are there once they are imported.
        architectures: what its GPU code must be for, none where it is to hold none.
        cuobjdump: the program that reads GPU code.
        waived: gates that it may fail.
    """

    rules: GateRules
    project: str
    version: str
    interpreter: Interpreter
    site: Path | None = None
    beside: tuple[Path, ...] = ()
    below: tuple[str, ...] = ()
    architectures: tuple[Architecture, ...] = ()
    cuobjdump: Path | None = None
    waived: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What an examination found: the gates that the wheel passed, and its GPU code."""

    gates: tuple[str, ...]
    gpu_code: tuple[GpuCode, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A wheel that was read: `modules` holds None where a file only has a compiled module's name."""

    filename: str
    members: tuple[Member, ...]
    info: str
    texts: Mapping[str, bytes]
    modules: Mapping[str, Module | None]
    unpacked: Path
    gpu_code: Mapping[str, cubins.GpuContents] = field(default_factory=dict)

    @property
    def compiled(self) -> dict[str, Module]:
        """Return the modules that are ELF files, by their names in the wheel."""
        return {name: module for name, module in self.modules.items() if module is not None}


def planned_version(version: str, chosen: FilePin | None, local: str = "") -> str:
    """Return the version that a layer's wheel must carry: a wheel pin's own, local part included."""
    if chosen is not None and chosen.filename.endswith(".whl"):
        return str(parse_wheel_filename(chosen.filename)[1])
    return f"{version}+{local}" if local else version


def check_wheel(wheel: Path, expected: Expected, *, scratch: Path | None = None) -> Passed:
    """Return what a wheel passed; gates without anything to look at are left out.

    Its compiled modules are unpacked for reading in `scratch`, or where the system keeps such files.

    Raises:
        GateError: it is not what it must be; every reason is listed.
        DiskError: it cannot be read, or there is no room to unpack it.
        HostError: the interpreter that should load its modules cannot be read.
    """
    try:
        with TemporaryDirectory(prefix="gate-", dir=scratch) as folder:
            contents = _with_gpu_code(_read(wheel, Path(folder).resolve()), expected)
            gates = {name: gate for name, gate in GATES.items() if _has_to_do(name, contents, expected)}
            problems = {name: list(gate(contents, expected)) for name, gate in gates.items()}
    except OSError as error:
        raise DiskError(f"{wheel.name} cannot be examined", why=str(error), fix="make room, then run again") from error
    problems = {name: found for name, found in problems.items() if not (found and name in expected.waived)}
    failed = {name: found for name, found in problems.items() if found}
    if failed:
        raise GateError(
            f"{wheel.name} may not enter the store: {', '.join(failed)} failed",
            why="\n".join(f"{name}: {problem}" for name, found in failed.items() for problem in found),
            fix="; ".join(FIXES[name] for name in failed),
        )
    return Passed(
        gates=tuple(problems),
        gpu_code=tuple(line for name, code in contents.gpu_code.items() for line in cubins.summary(code, name)),
    )


def naming(wheel: Path, folder: Path) -> str:
    """Return which files of a wheel hold the name of a folder, that of its build, which everybody has elsewhere.

    Compilers know it without the links that led there. What a file holds compressed is not looked into.
    """
    texts = {os.fsencode(folder), os.fsencode(folder.resolve())}
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if any(_holds(archive, name, text) for text in texts)]
    return listed(names[:SHOWN], len(names))


def _holds(archive: zipfile.ZipFile, name: str, text: bytes) -> bool:
    seen = b""
    with archive.open(name) as stream:
        while chunk := stream.read(CHUNK):
            seen = seen[-len(text) :] + chunk
            if text in seen:
                return True
    return False


def _has_to_do(gate: str, wheel: Contents, expected: Expected) -> bool:
    if gate == "gpu-code":
        return bool(expected.architectures)
    return bool(wheel.compiled) or gate not in NEED_MODULES


def _with_gpu_code(wheel: Contents, expected: Expected) -> Contents:
    if expected.cuobjdump is None:
        return wheel
    patterns = expected.rules.gpu_modules or expected.rules.extensions
    names = [name for name in wheel.compiled if any(_is_named(name, each) for each in patterns)]
    code = {name: cubins.read_code(expected.cuobjdump, wheel.unpacked / name, wheel.unpacked) for name in names}
    return replace(wheel, gpu_code=code)


def _is_named(name: str, pattern: str) -> bool:
    return PurePosixPath(f"/{name}").match(f"/{pattern}")


def _read(wheel: Path, unpacked: Path) -> Contents:
    try:
        with zipfile.ZipFile(wheel) as archive:
            if not all(archive.namelist()):
                raise zipfile.BadZipFile("a file in it has no name")
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _demand_modest(wheel, entries)
            members = tuple(_read_member(archive, entry, unpacked) for entry in entries)
            names = {member.name for member in members}
            info = _info_folder(names)
            texts = {name: archive.read(f"{info}/{name}") for name in INFO_FILES if f"{info}/{name}" in names}
    except (*DAMAGE, struct.error, RuntimeError, OverflowError) as error:
        raise GateError(f"{wheel.name} is no wheel", why=str(error), fix="build it again") from error
    except OSError as error:
        if error.errno not in IMPOSSIBLE_NAMES:
            raise
        raise GateError(f"{wheel.name} is no wheel", why=f"a name in it: {error}", fix="build it again") from error
    modules = {entry.filename: read_module(unpacked / entry.filename) for entry in entries if _is_module(entry)}
    return Contents(filename=wheel.name, members=members, info=info, texts=texts, modules=modules, unpacked=unpacked)


def _demand_modest(wheel: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse what unpacks to more than an honest wheel of its size; no member gives more than it says."""
    limit = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * wheel.stat().st_size))
    whole = sum(entry.file_size for entry in entries)
    texts = max((entry.file_size for entry in entries if entry.filename.endswith(INFO_ENDS)), default=0)
    if whole > limit or texts > FREE_BYTES or len(entries) > MAX_MEMBERS:
        why = f"{len(entries)} members of {whole} bytes in {wheel.stat().st_size} bytes"
        raise GateError(f"{wheel.name} is no wheel", why=why, fix="do not unpack it; build it again")


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, unpacked: Path) -> Member:
    digest, size = hashlib.sha256(), 0
    target = unpacked / entry.filename if _is_module(entry) else Path(os.devnull)
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as stream, target.open("wb") as sink:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            size += sink.write(chunk)
    text = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    return Member(name=entry.filename, size=size, digest=text, symlink=_is_symlink(entry))


def _is_module(entry: zipfile.ZipInfo) -> bool:
    name = entry.filename
    return MODULE_NAME.search(name) is not None and _is_safe(name) and not _is_symlink(entry)


def _is_symlink(entry: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(entry.external_attr >> 16)


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        bool(path.parts)
        and not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in name
        and path.as_posix() == name
    )


def _info_folder(names: Iterable[str]) -> str:
    """Return the wheel's dist-info folder, or nothing where there is not exactly one."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    folders = sorted(top for top in tops if top.endswith(".dist-info"))
    return folders[0] if len(folders) == 1 else ""


def _check_tag(wheel: Contents, expected: Expected) -> Iterator[str]:
    try:
        tags = parse_wheel_filename(wheel.filename)[3]
    except InvalidWheelFilename as error:
        yield str(error)
        return
    inside = _inner_tags(wheel.texts.get("WHEEL", b""))
    if inside != tags:
        yield f"the file name says {_spelled(tags)}, the WHEEL file inside says {_spelled(inside)}"
    if expected.rules.wheel == "pure":
        if not {"py3-none-any"} <= {str(tag) for tag in tags} <= PURE_TAGS:
            yield f"{_spelled(tags)}, wanted py3-none-any: this layer is pure Python"
        return
    interpreter = expected.interpreter
    native, who = f"{interpreter.tag}-{interpreter.tag}", "one Python"
    if expected.rules.wheel == "library":
        native, who = "py3-none", "this machine and any Python"
    if not all(_is_native(tag, interpreter, native) for tag in tags):
        yield f"{_spelled(tags)}, wanted {native}-{interpreter.platform} or an equal: this layer is compiled for {who}"


def _inner_tags(text: bytes) -> frozenset[Tag]:
    lines = BytesParser().parsebytes(text).get_all("Tag", [])
    with suppress(InvalidTag, TooManyTagsError):
        return frozenset(tag for line in lines for tag in parse_tag(str(line), limit=MOST_TAGS))
    return frozenset()


def _is_native(tag: Tag, interpreter: Interpreter, native: str) -> bool:
    return str(tag) == f"{native}-{tag.platform}" and tag.platform != "any" and str(tag) in interpreter.tags


def _spelled(tags: Iterable[Tag]) -> str:
    return ", ".join(sorted(map(str, tags))) or "nothing"


def _check_metadata(wheel: Contents, expected: Expected) -> Iterator[str]:
    try:
        name, version, _build, _tags = parse_wheel_filename(wheel.filename)
        metadata = Metadata.from_email(wheel.texts.get("METADATA", b""))
    except InvalidWheelFilename:
        return  # the tag gate names it
    except ExceptionGroup as group:
        yield from (f"METADATA: {error}" for error in group.exceptions)
        return
    planned = (canonicalize_name(expected.project), Version(expected.version))
    found = {
        "the file name": (name, version),
        "METADATA": (canonicalize_name(metadata.name), metadata.version),
        "the dist-info folder": _split_info(wheel.info),
    }
    for where, (its_name, its_version) in found.items():
        if (its_name, its_version) != planned:
            yield f"{where} says {its_name} {its_version}, planned is {planned[0]} {planned[1]}"
    declared = {canonicalize_name(requirement.name) for requirement in metadata.requires_dist or ()}
    for wanted in expected.rules.requires:
        if canonicalize_name(wanted) not in declared:
            yield f"it does not say that it requires {wanted}"


def _split_info(folder: str) -> tuple[str, object]:
    name, _dash, version = folder.removesuffix(".dist-info").rpartition("-")
    with suppress(ValueError):
        return canonicalize_name(name), Version(version)
    return name, version


def _check_record(wheel: Contents, expected: Expected) -> Iterator[str]:
    yield from _misplaced(wheel, expected)
    if not wheel.info or "RECORD" not in wheel.texts:
        yield "it has not exactly one dist-info folder with a RECORD"
        return
    try:
        rows = list(csv.reader(wheel.texts["RECORD"].decode("utf-8").splitlines(), strict=True))
        listed = {name: (digest, size) for name, digest, size in rows}
    except (ValueError, csv.Error) as error:
        yield f"RECORD cannot be read: {error}"
        return
    yield from _repeated("RECORD", (row[0] for row in rows))
    record = f"{wheel.info}/RECORD"
    actual = {
        member.name: ("", "") if member.name == record else (f"sha256={member.digest}", str(member.size))
        for member in wheel.members
    }
    yield from _some("RECORD does not list", sorted(actual.keys() - listed.keys()))
    yield from _some("RECORD lists, but the wheel has not", sorted(listed.keys() - actual.keys()))
    both = sorted(actual.keys() & listed.keys())
    yield from _some("not what RECORD says", [name for name in both if actual[name] != listed[name]])


def _misplaced(wheel: Contents, expected: Expected) -> Iterator[str]:
    names = [member.name for member in wheel.members]
    yield from _repeated("the wheel", names)
    yield from _some("unsafe names", [name for name in names if not _is_safe(name)])
    yield from _some("symbolic links", [member.name for member in wheel.members if member.symlink])
    allowed = {*expected.rules.top_level, wheel.info}
    strays = {name for name in names if _is_safe(name) and _top_level(name) not in allowed}
    yield from _some("outside the wheel's packages", sorted(strays))


def _top_level(name: str) -> str:
    """Return where in site-packages a member will stand; nothing for one that goes elsewhere."""
    first, *rest = PurePosixPath(name).parts
    if not first.endswith(".data"):
        return first
    return rest[1] if len(rest) > 1 and rest[0] in ROOT_SCHEMES else ""


def _repeated(where: str, names: Iterable[str]) -> Iterator[str]:
    yield from _some(f"more than once in {where}", sorted(name for name, count in Counter(names).items() if count > 1))


def _some(what: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"{what}: {listed(names[:SHOWN], len(names))}"


def _check_extensions(wheel: Contents, expected: Expected) -> Iterator[str]:
    if expected.rules.wheel == "pure":
        yield from _some("compiled modules in a wheel for any machine", sorted(wheel.modules))
        return
    if wheel.compiled:
        machine = _interpreter_module(expected.interpreter).machine
        yield from (
            f"{name} is for {module.machine}, this Python runs {machine}"
            for name, module in wheel.compiled.items()
            if module.machine != machine
        )
    yield from _some(
        "no ELF shared objects", [name for name, module in wheel.modules.items() if not _is_shared(module)]
    )
    for pattern in expected.rules.extensions:
        if not any(_is_named(name, pattern) for name in wheel.modules):
            yield f"no compiled module is named {pattern}"


def _is_shared(module: Module | None) -> bool:
    return module is not None and module.shared


def _check_rpath(wheel: Contents, expected: Expected) -> Iterator[str]:
    for name, module in wheel.compiled.items():
        strays = [
            entry or "(the current folder)"
            for entry in module.run_paths
            if not any(fnmatchcase(entry, pattern) for pattern in expected.rules.rpath)
        ]
        yield from _some(f"run paths of {name}", strays)
        yield from _some(f"paths among the libraries that {name} needs", [lib for lib in module.needed if "/" in lib])
        yield from _some(f"{name} needs a driver's stub", [lib for lib in module.needed if lib in DRIVER_STUBS])


def _check_symbols(wheel: Contents, expected: Expected) -> Iterator[str]:
    interpreter = _interpreter_module(expected.interpreter)
    loader = Loader(
        machine=interpreter.machine,
        known=_known_libraries(wheel, expected),
        folders=system_folders(),
        unpacked=wheel.unpacked,
        site=expected.site,
    )
    own = [interpreter.path, *_found(loader.scope(interpreter))]
    native = {name: module for name, module in wheel.compiled.items() if module.machine == interpreter.machine}
    scopes = {name: loader.scope(module) for name, module in native.items()}
    undefined = {name: undefined_symbols(module) for name, module in native.items()}
    wanted = frozenset[str]().union(*undefined.values())
    carried = [module.path for module in native.values()]
    paths = dict.fromkeys([*own, *carried, *(path for scope in scopes.values() for path in _found(scope))])
    exports = {path: defined_symbols(path, wanted) for path in paths}
    for name, module in native.items():
        absent = {library for library in module.needed if scopes[name][library] is None}
        driver = absent & DRIVER_LIBRARIES  # a machine that only builds has no driver
        lost = sorted(absent - driver)
        yield from _some(f"{name} needs libraries that are nowhere", lost)
        local = [lib for lib in module.needed if TOOLKIT_LIBRARY.match(lib) and _is_system(scopes[name][lib], loader)]
        yield from _some(f"{name} needs libraries of this machine's CUDA toolkit", local)
        reach = [*_found(scopes[name]), *own]
        missing = undefined[name].difference(*(exports[path] for path in reach))
        missing -= {symbol for symbol in missing if driver and DRIVER_SYMBOL.match(symbol)}
        # a library may leave out what those that load it bring along
        around = [
            [native[other].path, *libraries]
            for other, scope in scopes.items()
            if module.path in (libraries := _found(scope))
        ]
        if missing and not lost and all(missing.difference(*(exports[path] for path in each)) for each in around):
            yield f"{name} lacks {_explain(sorted(missing), reach, loader)}"


def _check_gpu_code(wheel: Contents, expected: Expected) -> Iterator[str]:
    own = expected.rules.gpu_modules
    yield from _some("there is no", [each for each in own if not any(_is_named(name, each) for name in wheel.gpu_code)])
    check = cubins.check_targets if own else cubins.check_code
    for name, code in wheel.gpu_code.items():
        yield from (f"{name}: {problem}" for problem in check(code, expected.architectures))


def _interpreter_module(interpreter: Interpreter) -> Module:
    module = read_module(interpreter.path.resolve())
    if module is None:
        raise HostError(
            f"{interpreter.path} is no ELF program",
            why="compiled modules are checked against the program that will load them",
            fix="give the path of the interpreter itself, on Linux",
        )
    return module


def _is_system(library: Module | None, loader: Loader) -> bool:
    return library is not None and library.path.parent in loader.folders


def _known_libraries(wheel: Contents, expected: Expected) -> dict[str, Path]:
    bundled = {name: module for module in wheel.compiled.values() for name in (module.path.name, module.soname) if name}
    known = {name: module.path for name, module in bundled.items()}
    for module in _loaded_below(expected):
        for name in (module.path.name, module.soname or module.path.name):
            known.setdefault(name, module.path)
    return known


def _loaded_below(expected: Expected) -> Iterator[Module]:
    """Yield the libraries of the layers below, and those that they load from elsewhere."""
    sites = [*([expected.site] if expected.site else []), *expected.beside]
    waiting = [path for site in sites for name in expected.below for path in sorted((site / name).rglob("*.so*"))]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop(0)
        if path in seen or (module := read_module(path)) is None:
            continue
        seen.add(path)
        yield module
        waiting += [
            found for folder in run_folders(module) for name in module.needed if (found := folder / name).exists()
        ]


def _found(scope: Mapping[str, Module | None]) -> list[Path]:
    return [library.path for library in scope.values() if library is not None]


def _explain(missing: Sequence[str], reach: Sequence[Path], loader: Loader) -> str:
    names = missing[:SHOWN]
    others = [path for path in dict.fromkeys(loader.known.values()) if path not in reach and loader.module(path)]
    owners = {name: path.name for path in others for name in defined_symbols(path, names)}
    homes = [*reach, *(path for path in others if not path.is_relative_to(loader.unpacked))]
    parts = []
    for name, text in zip(names, _demangled(names), strict=True):
        likely = most_likely(name, homes)
        if name in owners:
            parts.append(f"{text} ({owners[name]} has it, but is not among the libraries that it needs)")
        else:
            parts.append(f"{text} ({likely.name} has names most like it)" if likely is not None else text)
    return listed(parts, len(missing))


def _demangled(names: Sequence[str]) -> list[str]:
    program = shutil.which("c++filt")
    if program is not None:
        with suppress(HostError, CommandError):
            readable = run([program, *names], env={}).output.splitlines()
            return [name if name == text else f"{name} = {text}" for name, text in zip(names, readable, strict=True)]
    return list(names)


GATES: Mapping[str, Callable[[Contents, Expected], Iterator[str]]] = {
    "tag": _check_tag,
    "metadata": _check_metadata,
    "record": _check_record,
    "extensions": _check_extensions,
    "rpath": _check_rpath,
    "symbols": _check_symbols,
    "gpu-code": _check_gpu_code,
}
NEED_MODULES = frozenset({"rpath", "symbols"})


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The files of some folders: size and time of change of each."""

    files: Mapping[str, tuple[int, int]]


def snapshot(*folders: Path) -> Snapshot:
    """Return what is in the folders now, Python's own caches apart: importing writes those."""
    found = {}
    for folder in folders:
        for parent, _folders, names in os.walk(folder):
            caches = parent.endswith("__pycache__")
            for name in names:
                # one that is being written, or that a killed Python left, has a number behind it
                if not (caches and CACHED_CODE.search(name)):
                    path = f"{parent}/{name}"  # a Path of each would take longer than all else
                    status = os.lstat(path)
                    found[path] = (status.st_size, status.st_mtime_ns)
    return Snapshot(files=found)


def check_as_installed(found: Snapshot) -> None:
    """Prove that nothing was written into an environment since it was made: all of it is of one date.

    Raises:
        GateError: files are new or changed.
    """
    later = [path for path, (_size, changed) in found.files.items() if changed != EARLIEST * 10**9]
    _demand_nothing({"written": sorted(later)})


def check_unchanged(before: Snapshot, after: Snapshot) -> None:
    """Prove that a build wrote nothing but its wheel.

    Raises:
        GateError: files are new, changed or gone.
    """
    kinds = {
        "new": sorted(after.files.keys() - before.files.keys()),
        "gone": sorted(before.files.keys() - after.files.keys()),
        "changed": sorted(path for path, facts in after.files.items() if before.files.get(path, facts) != facts),
    }
    _demand_nothing(kinds)


def _demand_nothing(kinds: Mapping[str, Sequence[str]]) -> None:
    lines = [line for kind, paths in kinds.items() for line in _some(kind, paths)]
    if lines:
        raise GateError(
            "the build wrote outside its wheel",
            why="\n".join(lines),
            fix="patch the layer's build so that it writes into its own tree only",
        )
