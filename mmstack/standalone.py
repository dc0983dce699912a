"""Proves a built stack on this machine, from the folder that this file lies in: `python verify.py`.

A bundle holds it under that name, beside the wheels and the suites. It stands alone: the standard library is all that
it needs, no network and no installer; and any Python since 3.8 can read it, so that the wrong one is told which is the
right one. In mmstack's repository it is `mmstack/standalone.py`, from which `mmstack/verify.py` takes what both do.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    Record = dict[str, Any]

HERE = Path(__file__).resolve().parent
EXIT_FAILED, EXIT_USAGE, EXIT_HOST, EXIT_PIN, EXIT_INTERRUPTED = 1, 2, 3, 4, 130
SCHEMA = 1
DESCRIPTION, SUITES, WHEELS, INSTALLED = "bundle.json", "suites", "wheels", "installed.py"
FACTS_VARIABLE = "MMSTACK_FACTS"
GPU_CHOICE = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
PASSED_THROUGH = ("CUDA_HOME", *GPU_CHOICE, "LD_LIBRARY_PATH", "CC", "CXX")
KEPT_VARIABLES = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")
GPU_QUERY = ("--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")
GPU_FIELDS = ("name", "capability", "driver")
SUITE_OPTIONS = ("checkpoint", "video")
OUTCOMES = ("passed", "failed", "not run")
SOME_TESTS_FAILED = 1
LONGEST_NAME = 255
TAIL_LINES = 30
NAMED_FAILURES = 20
GRACE_SECONDS = 5.0
PROGRAMS = ".bin"  # no package's name
SCHEMES = {"purelib": ".", "platlib": ".", "scripts": PROGRAMS}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
ELSEWHERE = "name another by --json and --junit"
ANEW = "unpack the archive anew; if that does not help, copy it anew"
THE_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class BundleError(Exception):
    """What ends a run: what happened, what to do, and the status to end with."""

    def __init__(self, code: int, what: str, fix: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.fix = fix


class Held(NamedTuple):
    """What this Python holds of a layer that the bundle has no wheel of; `cuda` is empty where it is without."""

    version: str
    cuda: str


def isolation(version: str) -> list[str]:
    """Return the option, new in Python 3.11, by which nothing is imported from the current folder."""
    major, minor, *_ = version.split(".")
    return ["-P"] if (int(major), int(minor)) >= (3, 11) else []


def pytest_words(suite: Path, results: Path) -> list[str]:
    """Return how a layer's suite, the folder `<root>/<layer>/verify`, is run by a Python."""
    root = suite.parents[1]
    words = ["-m", "pytest", "-p", "no:cacheprovider", "-q", f"--rootdir={root}", f"--confcutdir={root}"]
    return [*words, f"--junit-xml={results}", str(suite)]


def read_results(file: Path) -> list[Record]:
    """Read pytest's JUnit XML: each check's name, outcome, seconds, detail, and the properties that it recorded.

    What was skipped counts as not run.
    """
    cases = ET.parse(file).getroot().iter("testcase")  # noqa: S314 - pytest wrote it a moment ago
    return [_check(case) for case in cases]


def _check(case: ET.Element) -> Record:
    outcome, detail = "passed", ""
    if (skipped := case.find("skipped")) is not None:
        outcome, detail = "not run", skipped.get("message", "").removeprefix("not run: ")
    for tag in ("error", "failure"):
        if (found := case.find(tag)) is not None:
            outcome, detail = "failed", f"{found.get('message', '')}\n{found.text or ''}".strip()
    return {
        "name": f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name', '')}",
        "outcome": outcome,
        "seconds": float(case.get("time", "0")),
        "detail": detail,
        "properties": {item.get("name", ""): item.get("value", "") for item in case.iter("property")},
    }


def suite_facts(
    *,
    stack: str,
    layer: str,
    cuda: str,
    python: str,
    layers: Mapping[str, str],
    expect: Mapping[str, str],
    toolkit: Mapping[str, object] | None,
    options: Mapping[str, str],
) -> dict[str, object]:
    """Return what a layer's suite is told; `layers` are their versions, `toolkit` what they were compiled with."""
    return {
        "stack": stack,
        "layer": layer,
        "version": layers[layer],
        "cuda": cuda,
        "toolkit": toolkit,
        "python": python,
        "layers": dict(layers),
        "expect": dict(expect),
        "options": {"checkpoint": "", "video": "", **options},
    }


def read_bundle(root: Path) -> Record:
    """Return what a bundle says of itself."""
    file = root / DESCRIPTION
    try:
        bundle: Record = json.loads(file.read_text(encoding="utf-8"))
        schema = bundle["schema"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(EXIT_PIN, f"{file} cannot be read: {error}", ANEW) from error
    if schema != SCHEMA:
        raise BundleError(EXIT_PIN, f"{file} has schema {schema!r}, this verify.py knows {SCHEMA}", ANEW)
    return bundle


def check_files(bundle: Record, root: Path) -> None:
    """Refuse a bundle in which a file is not the one that it means."""
    try:
        wheels = {f"{WHEELS}/{wheel['filename']}": wheel["sha256"] for wheel in bundle["wheels"]}
        named = {**bundle["suites"], **wheels}
    except (KeyError, TypeError) as error:
        raise BundleError(EXIT_PIN, f"{DESCRIPTION} is none: {error}", ANEW) from error
    for name, wanted in named.items():
        if (
            not name.isprintable()
            or ".." in name.split("/")
            or name.startswith("/")
            or len(name.encode()) > LONGEST_NAME
        ):
            raise BundleError(EXIT_PIN, f"{DESCRIPTION} names {name!r}, which is no file of a bundle", ANEW)
        file = root / name
        found = file_digest(file) if file.is_file() else "nothing"
        if found != wanted:
            raise BundleError(EXIT_PIN, f"{name} is damaged: it must have sha256 {wanted}, here is {found}", ANEW)


def bytes_digest(body: bytes) -> str:
    """Return the hex sha256 of some bytes."""
    return hashlib.sha256(body).hexdigest()


def file_digest(file: Path) -> str:
    """Return the hex sha256 of a file's contents."""
    hasher = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def python_here() -> Record:
    """Return the version of this Python, and the ABI and platform of the wheels that it takes."""
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}" if sys.implementation.name == "cpython" else "another"
    tag += "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    tag += "d" if sysconfig.get_config_var("Py_DEBUG") else ""
    place = re.sub(r"[.-]", "_", sysconfig.get_platform())
    return {"version": platform.python_version(), "tag": tag, "platform": place}


def python_name(version: str) -> str:
    """Return `python3.11` for `3.11.7`."""
    return "python" + ".".join(version.split(".")[:2])


def check_python(bundle: Record) -> None:
    """Refuse a Python that the wheels are not for, and name the right one: where it is, or that it is wanting."""
    wanted, here = bundle["interpreter"], python_here()
    if (here["tag"], here["platform"]) == (wanted["tag"], wanted["platform"]):
        return
    name = python_name(wanted["version"])
    found = shutil.which(name)
    raise BundleError(
        EXIT_USAGE if found else EXIT_HOST,
        f"this Python is {here['version']} ({here['tag']}, {here['platform']}), "
        f"the bundle is for {wanted['tag']}, {wanted['platform']}",
        f"run `{found or name} verify.py`"
        + ("" if found else f"; install CPython {name[6:]} first, it is not on PATH"),
    )


def ask(words: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it said."""
    return subprocess.run(  # noqa: S603 - our own words, no shell reads them
        words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


def find_held(bundle: Record, root: Path, work: Path) -> dict[str, Held]:
    """Return what this Python holds of the layers that the bundle has no wheel of.

    Another version than the stack's may do; code compiled for one CUDA major version does not run on another's.
    """
    found: dict[str, Held] = {}
    compiled = bundle["toolkit"]["version"].split(".")[0] if bundle["toolkit"] else ""
    for layer in bundle["layers"]:
        if layer["wheel"]:
            continue
        name, wanted = layer["name"], f"{layer['project']} {layer['version']}"
        wanted += f" or near it, built for CUDA {compiled}" if compiled else " or near it"
        remedy = f"install {wanted}, run the Python that holds it, or ask for a bundle with its wheel"
        script = root / SUITES / name / INSTALLED
        done = ask([sys.executable, *isolation(platform.python_version()), str(script)], work)
        try:
            facts = json.loads(done.stdout.splitlines()[-1])
            found[name] = Held(str(facts["version"]), str(facts["cuda"]))
        except (IndexError, KeyError, TypeError, ValueError) as error:
            why = (done.stderr.strip().splitlines() or ["it did not answer"])[-1]
            raise BundleError(EXIT_HOST, f"{sys.executable} does not hold {name}: {why}", remedy) from error
        if compiled and found[name].cuda.split(".")[0] != compiled:
            cuda = f"for CUDA {found[name].cuda}" if found[name].cuda else "without CUDA"
            what = f"{name} {found[name].version}, as it is installed, was built {cuda}; the bundle's layers"
            raise BundleError(EXIT_HOST, f"{what} were compiled for CUDA {bundle['toolkit']['version']}", remedy)
    return found


def unpack(wheel: Path, site: Path) -> None:
    """Unpack a wheel's modules and metadata into a folder, and its programs into one of their own in it.

    Its headers and data files stay behind: suites import.
    """
    try:
        _unpack(wheel, site)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BundleError(EXIT_PIN, f"{wheel.name} is no sound wheel: {error}", ANEW) from error


def _unpack(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name, mode = entry.filename, entry.external_attr >> 16
            if {"", ".", ".."} & set(name.rstrip("/").split("/")) or "\\" in name or stat.S_ISLNK(mode):
                raise BundleError(EXIT_PIN, f"{wheel.name} holds {name!r}, which no honest wheel does", "do not use it")
            top, _, rest = name.partition("/")
            if top.endswith(".data"):
                scheme, _, rest = rest.partition("/")
                name = f"{SCHEMES[scheme]}/{rest}" if rest and scheme in SCHEMES else ""
            if not name or entry.is_dir():
                continue
            target = site / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            if mode & stat.S_IXUSR or name.startswith(f"{PROGRAMS}/"):  # what a package or a suite starts
                target.chmod(0o755)


def check_room(wheels: Iterable[Path], work: Path) -> None:
    """Refuse to begin what cannot end for want of room."""
    needed = 0
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            needed += sum(entry.file_size for entry in archive.infolist())
    free = shutil.disk_usage(work).free
    if needed > free:
        what = f"{work.parent} has {free / 1e9:.1f} GB free, the unpacked stack needs {needed / 1e9:.1f} GB"
        raise BundleError(EXIT_HOST, what, "set TMPDIR to a folder on a larger disk")


def beside(root: Path) -> list[str]:
    """Return the folders that this Python imports from besides the standard library and the bundle."""
    own = [root, *map(Path, (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")))]
    own += [folder / "lib-dynload" for folder in own[1:]]
    known = {folder.resolve() for folder in own}
    return [path for path in sys.path if path and Path(path).is_dir() and Path(path).resolve() not in known]


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def run_logged(words: Sequence[str], cwd: Path, env: Mapping[str, str], log: Path) -> int:
    """Run a command to its end, what it prints going to a file; interrupted, end it and all that it started."""
    with log.open("wb") as sink:
        process = subprocess.Popen(  # noqa: S603 - as above
            words,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                _signal_group(process, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_SECONDS)
            _signal_group(process, signal.SIGKILL)  # also what it has left behind
            process.wait()


class Prover:
    """Runs the suites of a bundle, whose layers are unpacked one by one into one folder.

    A suite so sees what its own environment would hold: the requirements and the layers up to its own.
    """

    def __init__(
        self, bundle: Record, root: Path, work: Path, held: Mapping[str, Held], options: Mapping[str, str]
    ) -> None:
        self.bundle = bundle
        self.root = root
        self.work = work
        self.site = work / "site"
        self.held = held
        self.options = options
        self.versions = {
            layer["name"]: held[layer["name"]].version if layer["name"] in held else layer["version"]
            for layer in bundle["layers"]
        }
        for folder in (self.site, work / "home", work / "results"):
            folder.mkdir()

    def prove(self, wanted: Sequence[str]) -> Iterator[Record]:
        """Yield what each suite finds, bottom-up; layers above the last one wanted are not unpacked."""
        layers = self.bundle["layers"]
        names = [layer["name"] for layer in layers]
        layers = layers[: 1 + max(names.index(name) for name in wanted)]
        used = [layer["name"] for layer in layers]
        wheels = [wheel for wheel in self.bundle["wheels"] if wheel["set"] != "layer" or wheel["layer"] in used]
        check_room([self.root / WHEELS / wheel["filename"] for wheel in wheels], self.work)
        self._unpack(wheel for wheel in wheels if wheel["set"] != "layer")
        for layer in layers:
            self._unpack(wheel for wheel in wheels if wheel["set"] == "layer" and wheel["layer"] == layer["name"])
            if layer["name"] in wanted:
                yield self._run(layer)

    def _unpack(self, wheels: Iterable[Record]) -> None:
        for wheel in wheels:
            unpack(self.root / WHEELS / wheel["filename"], self.site)

    def _run(self, layer: Record) -> Record:
        name = layer["name"]
        facts, log = self.work / "facts.json", self.work / "results" / f"{name}.log"
        facts.write_text(json.dumps(self._facts(layer)), encoding="utf-8")
        results = log.with_suffix(".xml")
        # without `site`, this Python's own packages cannot stand in for what a whole bundle should hold
        words = [sys.executable, *isolation(platform.python_version()), *([] if self.held else ["-S"])]
        words += pytest_words(self.root / SUITES / name / "verify", results)
        started = time.monotonic()
        status = run_logged(words, self.work / "home", self._environment(facts), log)
        seconds = round(time.monotonic() - started, 3)
        try:
            checks, problem = read_results(results), ""
        except (OSError, ET.ParseError, ValueError) as error:
            checks, problem = [], str(error)
        counts = {outcome: sum(check["outcome"] == outcome for check in checks) for outcome in OUTCOMES}
        if problem or status not in (0, SOME_TESTS_FAILED) or (status and not counts["failed"]):
            outcome, tail = "did not run", log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
            problem = "\n".join([f"pytest ended with status {status}", *tail])
        else:
            outcome = "failed" if counts["failed"] or not counts["passed"] else "passed"
        return {
            "layer": name,
            "version": self.versions[name],
            "outcome": outcome,
            "seconds": seconds,
            "counts": counts,
            "detail": problem,
            "checks": checks,
        }

    def _facts(self, layer: Record) -> dict[str, object]:
        held = self.held.get(layer["name"])
        return suite_facts(
            stack=self.bundle["stack"]["name"],
            layer=layer["name"],
            cuda=(held.cuda or "cpu") if held else layer["cuda"],
            python=platform.python_version(),
            layers=self.versions,
            expect=layer["expect"],
            toolkit=self.bundle["toolkit"],
            options=self.options,
        )

    def _environment(self, facts: Path) -> dict[str, str]:
        kept = {name: os.environ[name] for name in (*KEPT_VARIABLES, *PASSED_THROUGH) if name in os.environ}
        folders = [str(self.site), *(beside(self.root) if self.held else [])]
        return {
            **kept,
            "PATH": os.pathsep.join([str(self.site / PROGRAMS), os.environ.get("PATH", os.defpath)]),
            "HOME": str(self.work / "home"),
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONPATH": os.pathsep.join(folders),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # whatever else this Python holds has no say
            FACTS_VARIABLE: str(facts),
        }


def machine() -> Record:
    """Return what a result is a result of: GPUs with driver, Python, system."""
    gpus, note = [], "there is no nvidia-smi"
    if program := shutil.which("nvidia-smi"):
        try:
            done = ask([program, *GPU_QUERY], HERE)
        except OSError as error:
            said, told = "", str(error)
        else:
            said, told = done.stdout, done.stderr or done.stdout
        rows = [[field.strip() for field in line.split(",")] for line in said.strip().splitlines()]
        gpus = [dict(zip(GPU_FIELDS, row, strict=True)) for row in rows if len(row) == len(GPU_FIELDS)]
        note = "" if gpus else told.strip()
    return {"gpus": gpus, "gpus_note": note, "python": python_here(), "system": platform.platform()}


def table(layers: Sequence[Record]) -> str:
    """Return the results in rows, then why checks did not run, then what failed."""
    width = max(len("layer"), *(len(f"{layer['layer']} {layer['version']}") for layer in layers))
    lines = ["", f"{'layer':{width}}  passed  failed  not run     time"]
    for layer in layers:
        passed, failed, skipped = (layer["counts"][outcome] for outcome in OUTCOMES)
        shown = f"{layer['layer']} {layer['version']}"
        row = f"{shown:{width}}  {passed:6}  {failed:6}  {skipped:7}  {layer['seconds']:5.1f} s"
        lines.append(row if layer["outcome"] != "did not run" else f"{row}  did not run")
    for layer in layers:
        reasons = Counter(check["detail"] for check in layer["checks"] if check["outcome"] == "not run")
        lines += [f"{layer['layer']}: {count} not run: {reason}" for reason, count in reasons.most_common()]
    for layer in layers:
        failed = [check for check in layer["checks"] if check["outcome"] == "failed"]
        for check in failed[:NAMED_FAILURES]:
            lines.append(f"{layer['layer']}: failed: {check['name']}: {(check['detail'] or '-').splitlines()[0]}")
        if len(failed) > NAMED_FAILURES:
            lines.append(f"{layer['layer']}: and {len(failed) - NAMED_FAILURES} more, in the results")
        if layer["outcome"] == "did not run":
            lines.append(f"{layer['layer']}: did not run:\n{layer['detail']}")
    return "\n".join([*lines, ""])


def options(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; argparse itself ends a wrong one with 2."""
    parser = argparse.ArgumentParser(prog="verify.py", description="Prove the stack in this bundle on this machine.")
    parser.add_argument("--layer", action="append", default=[], help="prove this layer alone; again for each")
    parser.add_argument("--checkpoint", default="", help="a released checkpoint for the suites that can use one")
    parser.add_argument("--video", default="", help="a video for the suites that can use one")
    parser.add_argument("--json", type=Path, default=Path("results.json"), help="the results (default: %(default)s)")
    parser.add_argument("--junit", type=Path, help="put each suite's JUnit XML and output into this folder")
    parser.add_argument("--keep", action="store_true", help="leave the unpacked stack where it is, and say where")
    return parser.parse_args(words)


def _check_options(given: argparse.Namespace, bundle: Record) -> list[str]:
    """Return the layers to prove, where all that was given can be used."""
    names = [layer["name"] for layer in bundle["layers"]]
    for name in given.layer:
        if name not in names:
            raise BundleError(EXIT_USAGE, f"--layer {name}: there is no such layer", f"known: {', '.join(names)}")
    for file in (getattr(given, name) for name in SUITE_OPTIONS):
        if file and not Path(file).is_file():
            raise BundleError(EXIT_USAGE, f"there is no file {file}", "correct the path")
    _demand_writable(given.json.absolute().parent)
    if given.json.is_dir() or (given.json.exists() and not os.access(given.json, os.W_OK)):
        raise BundleError(EXIT_USAGE, f"{given.json} is no file that may be written", ELSEWHERE)
    if given.junit:
        _demand_writable(given.junit.absolute())
    return [name for name in names if name in given.layer or not given.layer]


def _demand_writable(folder: Path) -> None:
    """Refuse a folder that is none, may not be written, or cannot be made."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise BundleError(EXIT_USAGE, f"{there} is no folder that may be written", ELSEWHERE)


@contextmanager
def _workplace(stack: str, *, keep: bool) -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix=f"{stack}-verify-")).resolve()
    try:
        yield work
    finally:
        _ignore_the_end()  # what is left is quick, and half of it would leave gigabytes behind
        if keep:
            say(f"kept: {work}, whose site/ is for PYTHONPATH")
        else:
            shutil.rmtree(work, ignore_errors=True)


def _ignore_the_end() -> None:
    for number in THE_END:
        signal.signal(number, signal.SIG_IGN)


def say(text: str) -> None:
    """Tell the user, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def prove(given: argparse.Namespace, root: Path) -> int:
    """Check the bundle and this Python, run the suites, write and show the results; return the exit status."""
    bundle = read_bundle(root)
    check_python(bundle)
    wanted = _check_options(given, bundle)
    check_files(bundle, root)
    stack, here = bundle["stack"]["name"], machine()
    say(f"stack '{stack}': {len(bundle['wheels'])} wheels, all of them whole")
    gpus = [f"{gpu['name']} ({gpu['capability']}), driver {gpu['driver']}" for gpu in here["gpus"]]
    say(f"GPUs: {', '.join(gpus) or 'none: ' + here['gpus_note']}")
    files = {name: str(Path(value).resolve()) for name in SUITE_OPTIONS if (value := getattr(given, name))}
    results: list[Record] = []
    with _workplace(stack, keep=given.keep) as work:
        held = find_held(bundle, root, work)
        for layer in bundle["layers"]:
            if own := held.get(layer["name"]):
                say(f"{layer['name']}: this Python's own, {own.version}; the stack was built with {layer['version']}")
        for result in Prover(bundle, root, work, held, files).prove(wanted):
            say(f"{result['layer']}: {result['outcome']} in {result['seconds']:.1f} s")
            results.append(result)
        say(table(results))
        if given.junit:
            shutil.copytree(work / "results", given.junit, dirs_exist_ok=True)
    verified = all(result["outcome"] == "passed" for result in results)
    document = {
        "schema": SCHEMA,
        "verdict": "verified" if verified else "failed",
        "stack": bundle["stack"],
        "toolkit": bundle["toolkit"],
        "bundle": {
            "sha256": file_digest(root / DESCRIPTION),
            "interpreter": bundle["interpreter"],
            "layers": {layer["name"]: layer["version"] for layer in bundle["layers"]},
        },
        "machine": here,
        "installed": {name: own._asdict() for name, own in held.items()},
        "layers": results,
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    say(f"{document['verdict']}; the results are in {given.json}")
    return 0 if verified else EXIT_FAILED


def _interrupt(_number: int, _frame: object) -> None:
    _ignore_the_end()
    raise KeyboardInterrupt


def main() -> int:
    """Run from the command line and return the exit status."""
    for number in THE_END:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks
            signal.signal(number, _interrupt)
    try:
        return prove(options(sys.argv[1:]), HERE)
    except BundleError as error:
        sys.stderr.write(f"error: {error.what}\n  fix: {error.fix}\n")
        return error.code
    except OSError as error:
        fix = "set TMPDIR to a folder on a larger disk" if error.errno in NO_ROOM else "make it readable and writable"
        sys.stderr.write(f"error: {error}\n  fix: {fix}\n")
        return EXIT_HOST
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
