from __future__ import annotations

import ast
import errno
import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from mmstack import errors, run, standalone
from mmstack.bundle import Bundler
from mmstack.dist import Dist
from mmstack.errors import DiskError, MmstackError, NetworkError, PinError, UsageError
from mmstack.events import Notice
from mmstack.host import describe
from mmstack.model import Paths
from mmstack.standalone import BundleError
from mmstack.workshop import Workshop
from tests.support import flip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmstack.events import Event

PYTEST = ("pytest", "pluggy", "iniconfig", "pygments", "packaging", "exceptiongroup", "tomli", "typing_extensions")
FACTS = "import json, os, pathlib\nFACTS = json.loads(pathlib.Path(os.environ['MMSTACK_FACTS']).read_text())\n"
INSTALLED = "import json, base\nprint(json.dumps({'version': base.version, 'cuda': base.cuda}))\n"
SUITES = {
    "pytest.ini": "[pytest]\naddopts = --import-mode=append\n",
    "conftest.py": "",
    "base/installed.py": INSTALLED,
    "base/verify/test_base.py": FACTS + "import base, pytest\n"
    "def test_version(): assert base.version == FACTS['version'] == FACTS['layers']['base']\n"
    "def test_cuda(): assert (base.cuda or 'cpu') == FACTS['cuda']\n"
    "def test_gpu(): pytest.skip('not run: no GPU')\n",
    "top/verify/test_top.py": "def test_sum(record_property):\n"
    "    import top\n"
    "    record_property('dtype', 'float32')\n"
    "    assert top.three == 3\n",
}
RED = {"color": "red"}
LAYERS = {
    "base": {"base/__init__.py": "version, cuda = '1.0', '13.0'\n"},
    "top": {"top/__init__.py": "import base, common, helper\nthree = 3\n"},
}


def wheel(name: str, files: Mapping[str, str], requires: tuple[str, ...] = (), version: str = "1.0") -> bytes:
    """Return a wheel of a few modules."""
    lines = [f"Requires-Dist: {item}\n" for item in requires]
    info = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{''.join(lines)}", "RECORD": ""}
    members = {**files, **{f"{name}-{version}.dist-info/{key}": text for key, text in info.items()}}
    return zipped({key: text.encode() for key, text in members.items()})


def zipped(members: Mapping[str, bytes]) -> bytes:
    """Return a zip archive of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, body in members.items():
            archive.writestr(zipfile.ZipInfo(name), body)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def tools() -> dict[str, bytes]:
    """Return wheels of pytest and what it requires, made of those that run this test."""
    made = {}
    for name in PYTEST:
        try:
            found = distribution(name)
        except PackageNotFoundError:  # only older Pythons need it
            continue
        files = [file for file in found.files or () if ".." not in file.parts and file.suffix != ".pyc"]
        members = {str(file): Path(str(found.locate_file(file))).read_bytes() for file in files}
        made[f"{name}-{found.version}-py3-none-any.whl"] = zipped(members)
    return made


def digest(body: bytes) -> str:
    """Return the hex sha256."""
    return hashlib.sha256(body).hexdigest()


@dataclass
class Bench:
    """A checkout with a built stack of two layers: `base`, a release wheel, and `top`, compiled upon it."""

    root: Path
    tools: Mapping[str, bytes]
    listened: list[Event] = field(default_factory=list)
    layers: dict[str, bytes] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        requires = {"base": ("helper", "alone"), "top": ("common", "helper; python_version >= '3'", "base")}
        self.layers = {name: wheel(name, files, requires[name]) for name, files in LAYERS.items()}
        variant = {name: wheel(name, {f"{name}.py": ""}) for name in ("helper", "alone")}
        run = {f"{name}-1.0-py3-none-any.whl": body for name, body in variant.items()}
        run["common-1.0-py3-none-any.whl"] = wheel("common", {"common.py": ""})
        for name, text in SUITES.items():
            self.put(self.pipelines / name, text.encode())
        for name, body in self.layers.items():
            self.put(self.dist.wheels / f"{name}-1.0-py3-none-any.whl", body)
        for name, body in {**run, **self.tools}.items():
            self.put(self.downloads / digest(body) / name, body)
        interpreter = describe(Path(sys.executable), cache=self.root / "pythons.json")
        self.manifest = {
            "generator": "mmstack 0",
            "verdict": "verified",
            "key": "k",
            "stack": {"name": "mini", "summary": "", "cuda": "13.0"},
            "toolkit": {"version": "13.0", "kind": "wheels", "origin": "", "identity": "", "architectures": ["9.0"]},
            "interpreter": {
                "path": str(interpreter.path),
                "version": interpreter.version,
                "tag": interpreter.tag,
                "platform": interpreter.platform,
            },
            "layers": [
                _layer(
                    "base", "wheel", [_requirement(name, body) for name, body in run.items() if "common" not in name]
                ),
                _layer("top", "sdist", []),
            ],
            "requirements": [
                {"set": set_, **_requirement(name, body)}
                for set_, files in (("run", run), ("verify", self.tools))
                for name, body in files.items()
            ],
            "artifacts": [
                {"layer": name, "filename": f"{name}-1.0-py3-none-any.whl", "sha256": digest(body)}
                for name, body in self.layers.items()
            ],
        }

    @property
    def pipelines(self) -> Path:
        """Return the folder of the layers."""
        return self.root / "pipelines"

    @property
    def downloads(self) -> Path:
        """Return the folder of what was downloaded."""
        return self.root / "state" / "downloads"

    @property
    def dist(self) -> Dist:
        """Return the stack's results."""
        return Dist(self.root / "dist" / "mini")

    @staticmethod
    def put(path: Path, body: bytes) -> None:
        """Write a file, its folder included."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def make(self, *without: str, name: str = "mini.tar.gz") -> Path:
        """Make the bundle."""
        paths = Paths(root=self.root, state=self.root / "state", dist=self.root / "dist")
        shop = Workshop(paths=paths, listener=self.listened.append, environ={}, offline=True)
        file = self.root / name
        Bundler(workshop=shop, dist=self.dist, manifest=self.manifest, without=without).make(file)
        return file

    def unpacked(self, *without: str) -> Unpacked:
        """Make the bundle and unpack it elsewhere."""
        elsewhere = self.root / "elsewhere"
        elsewhere.mkdir()
        with tarfile.open(self.make(*without)) as archive:
            archive.extractall(elsewhere)  # noqa: S202 - just made
        return Unpacked(elsewhere / "mini-bundle")


def _layer(name: str, kind: str, build_requires: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "project": name,
        "version": "1.0",
        "cuda": "13.0",
        "expect": RED,
        "key": f"key of {name}",
        "source": {"kind": kind, "folders": []},
        "build_requires": build_requires,
    }


def _requirement(filename: str, body: bytes) -> dict[str, Any]:
    name, version, *_ = filename.split("-")
    return {"name": name.replace("_", "-"), "version": version, "sha256": [digest(body)]}


@dataclass(frozen=True)
class Unpacked:
    """A bundle on another machine."""

    root: Path

    @property
    def description(self) -> dict[str, Any]:
        """Return what the bundle says of itself."""
        return dict(json.loads((self.root / "bundle.json").read_text(encoding="utf-8")))

    def describe(self, **changes: object) -> None:
        """Change that."""
        text = json.dumps({**self.description, **changes})
        (self.root / "bundle.json").write_text(text, encoding="utf-8")

    def command(self, *words: str) -> list[str]:
        """Return how it is run."""
        return [sys.executable, str(self.root / "verify.py"), *words]

    def environ(self, **variables: str) -> dict[str, str]:
        """Return the variables of a user whose temporary folder is beside the bundle."""
        (self.root.parent / "tmp").mkdir(exist_ok=True)
        return {"PATH": "/usr/bin:/bin", "TMPDIR": str(self.root.parent / "tmp"), **variables}

    def verify(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run it, and see that it leaves nothing behind."""
        done = subprocess.run(
            self.command(*words),
            cwd=self.root,
            env=self.environ(**variables),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert "--keep" in words or list((self.root.parent / "tmp").iterdir()) == []
        return done

    def results(self) -> dict[str, Any]:
        """Return what it wrote."""
        return dict(json.loads((self.root / "results.json").read_text(encoding="utf-8")))

    def change(self, name: str, text: str) -> None:
        """Replace a suite's file, honestly."""
        (self.root / name).write_text(text, encoding="utf-8")
        self.describe(suites={**self.description["suites"], name: digest(text.encode())})


@pytest.fixture
def bench(tmp_path: Path, tools: dict[str, bytes]) -> Bench:
    """Return a built stack."""
    return Bench(tmp_path, tools)


def test_a_bundle_holds_all_that_the_proof_needs(bench: Bench) -> None:
    """One folder: the program and what it goes by, suites, wheels; first what says what is missing."""
    with tarfile.open(bench.make()) as archive:
        members = archive.getmembers()
    names = [member.name.removeprefix("mini-bundle/") for member in members]
    assert names[:3] == ["verify.py", "bundle.json", "README.txt"]
    assert {name for name in names if name.startswith("suites/")} == {
        f"suites/{name}" for name in SUITES if name != "base/installed.py"
    }
    wheels = {*LAYERS, "common", "helper", "alone", *(name.split("-")[0] for name in bench.tools)}
    assert {name.split("-")[0] for name in names if name.startswith("wheels/")} == {f"wheels/{each}" for each in wheels}
    assert {(member.mtime, member.mode, member.uid, member.uname) for member in members} == {(315532800, 0o644, 0, "")}


def test_a_bundle_says_what_it_is(bench: Bench) -> None:
    """The layers, each wheel with its digest and set, and nothing of the machine that made it."""
    bundle = bench.unpacked()
    described = bundle.description
    assert [
        (item["name"], item["version"], item["cuda"], item["expect"], item["wheel"]) for item in described["layers"]
    ] == [
        ("base", "1.0", "13.0", RED, True),
        ("top", "1.0", "13.0", RED, True),
    ]
    sets = {item["filename"].split("-")[0]: (item["set"], item["layer"]) for item in described["wheels"]}
    assert sets["top"] == ("layer", "top")
    assert sets["alone"] == ("run", "base")
    assert sets["common"] == ("run", "")
    assert sets["pytest"] == ("verify", "")
    assert {item["sha256"] for item in described["wheels"]} >= {digest(body) for body in bench.layers.values()}
    assert str(bench.root) not in (bundle.root / "bundle.json").read_text(encoding="utf-8")
    assert described["interpreter"]["tag"] in (bundle.root / "README.txt").read_text(encoding="utf-8")


def test_the_same_stack_gives_the_same_bytes(bench: Bench, tmp_path: Path, tools: dict[str, bytes]) -> None:
    """Wherever it stands, whenever it is made, whatever the file is called."""
    other = Bench(tmp_path / "other", tools)
    for file in other.pipelines.rglob("*"):
        os.utime(file, (1, 1))
        file.chmod(0o700)
    first = bench.make().read_bytes()
    assert first == bench.make(name="again.tar.gz").read_bytes()
    assert first == other.make().read_bytes()


def test_a_bundle_proves_its_stack(bench: Bench) -> None:
    """Every layer has its outcome, its checks, and what they recorded."""
    bundle = bench.unpacked()
    done = bundle.verify()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "base: 1 not run: no GPU" in done.stdout
    results = bundle.results()
    assert (results["verdict"], results["bundle"]["layers"]) == ("verified", {"base": "1.0", "top": "1.0"})
    assert [(item["layer"], item["outcome"], item["counts"]) for item in results["layers"]] == [
        ("base", "passed", {"passed": 2, "failed": 0, "not run": 1}),
        ("top", "passed", {"passed": 1, "failed": 0, "not run": 0}),
    ]
    (check,) = results["layers"][1]["checks"]
    assert (check["name"], check["outcome"]) == ("test_top::test_sum", "passed")
    assert check["properties"] == {"dtype": "float32"}
    assert results["machine"]["python"] == standalone.python_here()


def test_what_a_result_is_a_result_of_is_told(bench: Bench, tmp_path: Path) -> None:
    """GPUs and their driver, or why there are none."""
    bundle = bench.unpacked()
    program = tmp_path / "bin" / "nvidia-smi"
    bench.put(program, b"#!/bin/sh\necho 'H200, 9.0, 580.1'\n")
    program.chmod(0o755)
    done = bundle.verify("--layer", "top", PATH=f"{program.parent}:/usr/bin:/bin")
    assert "H200 (9.0), driver 580.1" in done.stdout
    assert bundle.results()["machine"]["gpus"] == [{"name": "H200", "capability": "9.0", "driver": "580.1"}]
    bench.put(program, b"#!/bin/sh\necho 'no devices' >&2; exit 6\n")
    bundle.verify("--layer", "top", PATH=f"{program.parent}:/usr/bin:/bin")
    assert bundle.results()["machine"]["gpus_note"] == "no devices"
    bench.put(program, b"#!/nowhere/sh\n")
    assert bundle.verify("--layer", "top", PATH=f"{program.parent}:/usr/bin:/bin").returncode == 0
    assert "No such file" in bundle.results()["machine"]["gpus_note"]


@pytest.mark.parametrize(
    ("code", "outcome", "told"),
    [
        (
            "def test_one(): pass\ndef test_two(): assert 1 == 2, 'numbers'\n",
            "failed",
            "test_two: AssertionError: numbers",
        ),
        ("import pytest\ndef test_one(): pytest.skip('not run: no GPU')\n", "failed", "1 not run: no GPU"),
        ("import nosuchmodule\n", "did not run", "nosuchmodule"),
        ("import os\ndef test_one(): os.abort()\n", "did not run", "status -6"),
        ("import os\ndef test_one(): os._exit(0)\n", "did not run", "status 0"),
        ("", "did not run", "no tests ran"),
    ],
    ids=["a check fails", "nothing runs", "import", "crash", "exit", "empty"],
)
def test_what_is_not_proved_ends_in_1(bench: Bench, code: str, outcome: str, told: str) -> None:
    """It is named with its reason, and the layers above are proved all the same."""
    bundle = bench.unpacked()
    bundle.change("suites/base/verify/test_base.py", code)
    done = bundle.verify()
    assert done.returncode == 1, done.stdout
    assert told in done.stdout
    assert [item["outcome"] for item in bundle.results()["layers"]] == [outcome, "passed"]
    assert bundle.results()["verdict"] == "failed"


def test_a_layer_is_proved_without_those_above_it(bench: Bench) -> None:
    """And without what this Python happens to hold besides."""
    bundle = bench.unpacked()
    code = (
        "import pytest\n"
        "@pytest.mark.parametrize('code', ['from top import three', 'import xdist', 'import hypothesis'])\n"
        "def test_absent(code):\n"
        "    with pytest.raises(ImportError): exec(code)\n"
    )
    bundle.change("suites/base/verify/test_base.py", code)
    done = bundle.verify()
    assert done.returncode == 0, done.stdout


def test_a_suite_sees_no_secret(bench: Bench) -> None:
    """Its environment is stated, and options of the user's do not reach it."""
    bundle = bench.unpacked()
    code = "import os\ndef test_one(): assert 's3cret' not in str(os.environ)\n"
    bundle.change("suites/base/verify/test_base.py", code)
    done = bundle.verify("--layer", "base", MY_TOKEN="s3cret", PYTEST_ADDOPTS="--nosuchoption")  # noqa: S106 - not one
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "words", [("--json", "there"), ("--junit", "file"), ("--junit", "file/new"), ("--json", "file/x")]
)
def test_where_nothing_can_be_written_is_told_before_anything_runs(bench: Bench, words: tuple[str, str]) -> None:
    """Or what took hours to find out would be lost."""
    bundle = bench.unpacked()
    (bundle.root / "there").mkdir()
    (bundle.root / "file").touch()
    done = bundle.verify(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "--json and --junit" in done.stderr
    assert "base: " not in done.stdout


def test_a_layer_s_results_can_be_kept(bench: Bench) -> None:
    """What pytest wrote and said, the unpacked stack, the results elsewhere."""
    bundle = bench.unpacked()
    done = bundle.verify("--layer", "base", "--junit", "junit/new", "--keep", "--json", "deep/er.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {file.name for file in (bundle.root / "junit" / "new").iterdir()} == {"base.xml", "base.log"}
    (kept,) = (bundle.root.parent / "tmp").iterdir()
    assert f"kept: {kept}" in done.stdout
    assert (kept / "site" / "base" / "__init__.py").exists()
    assert not (kept / "site" / "top").exists()
    assert json.loads((bundle.root / "deep" / "er.json").read_text(encoding="utf-8"))["verdict"] == "verified"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--layer", "tpo"], "known: base, top"),
        (["--video", "nosuchfile"], "nosuchfile"),
        (["--nosuchoption"], "--nosuchoption"),
    ],
)
def test_a_wrong_command_ends_in_2(bench: Bench, words: list[str], told: str) -> None:
    """Before anything is unpacked."""
    done = bench.unpacked().verify(*words)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("wheels/top-1.0-py3-none-any.whl", flip),
        ("wheels/common-1.0-py3-none-any.whl", Path.unlink),
        ("suites/base/verify/test_base.py", flip),
        ("bundle.json", lambda path: path.write_bytes(path.read_bytes()[:100])),
        ("bundle.json", lambda path: path.write_text('{"schema": 99}')),
        ("bundle.json", lambda path: path.write_text("[]")),
        ("bundle.json", Path.unlink),
    ],
    ids=["wheel", "no wheel", "suite", "cut", "foreign", "list", "nothing"],
)
def test_damage_ends_in_4(bench: Bench, name: str, damage: Callable[[Path], object]) -> None:
    """One flipped bit is enough, and the file is named."""
    bundle = bench.unpacked()
    damage(bundle.root / name)
    done = bundle.verify()
    assert (done.returncode, name in done.stderr, "fix:" in done.stderr) == (4, True, True), done.stderr
    assert not (bundle.root / "results.json").exists()


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_half_an_archive_is_found_out(bench: Bench, tmp_path: Path, part: float) -> None:
    """Even by who did not mind what `tar` said."""
    body = bench.make().read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(body[: int(len(body) * part)])
    (tmp_path / "cut").mkdir()
    assert subprocess.run(["tar", "xf", cut, "-C", tmp_path / "cut"], capture_output=True, check=False).returncode != 0
    assert Unpacked(tmp_path / "cut" / "mini-bundle").verify().returncode == 4


def test_the_wrong_python_is_told_the_right_one(bench: Bench, tmp_path: Path) -> None:
    """Where it is, which is a wrong command; else that it is wanting, which is this machine's lack."""
    bundle = bench.unpacked()
    bundle.describe(interpreter={"version": "3.99.1", "tag": "cp399", "platform": "linux_x86_64"})
    done = bundle.verify()
    assert (done.returncode, "install CPython 3.99" in done.stderr) == (3, True), done.stderr
    bench.put(tmp_path / "bin" / "python3.99", b"")
    (tmp_path / "bin" / "python3.99").chmod(0o755)
    done = bundle.verify(PATH=str(tmp_path / "bin"))
    assert (done.returncode, f"run `{tmp_path}/bin/python3.99 verify.py`" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "a/./x", "a//x", "a\\x", "..", "a.data/purelib/../../../x"]
)
def test_a_wheel_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    """Names that leave the folder, or mean it in another way, are refused as no honest wheel's."""
    (tmp_path / "bad.whl").write_bytes(zipped({name: b"x"}))
    with pytest.raises(BundleError, match="no honest wheel") as caught:
        standalone.unpack(tmp_path / "bad.whl", tmp_path / "deep" / "site")
    assert caught.value.code == 4
    assert [path.name for path in tmp_path.rglob("*")] == ["bad.whl"]


def test_a_wheel_holds_no_links(tmp_path: Path) -> None:
    """One could lead the next member out of the folder."""
    entry = zipfile.ZipInfo("a")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.whl", "w") as archive:
        archive.writestr(entry, "/etc")
    with pytest.raises(BundleError, match="no honest wheel"):
        standalone.unpack(tmp_path / "bad.whl", tmp_path / "site")


def test_both_roots_of_a_wheel_are_unpacked(tmp_path: Path) -> None:
    """Modules wherever the wheel keeps them; data stay behind; programs are and stay programs."""
    program = zipfile.ZipInfo("a/bin/tool")
    program.external_attr = (stat.S_IFREG | 0o755) << 16
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr(program, "")
        for name in ("a/__init__.py", "a/empty/", "a-1.data/purelib/b.py", "a-1.data/platlib/c/d.py"):
            archive.writestr(name, "")
        for name in ("a-1.data/scripts/e", "a-1.data/data/share/f", "a-1.data/"):
            archive.writestr(name, "")
    standalone.unpack(tmp_path / "a.whl", tmp_path / "site")
    site = tmp_path / "site"
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert files == {"a/__init__.py", "a/bin/tool", "b.py", "c/d.py", ".bin/e"}
    assert os.access(site / ".bin" / "e", os.X_OK)
    assert os.access(site / "a" / "bin" / "tool", os.X_OK)
    assert not os.access(site / "b.py", os.X_OK)


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable that moves the temporary folder."""
    (tmp_path / "a.whl").write_bytes(zipped({"a": b"x" * 1000}))
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 999}))
    with pytest.raises(BundleError, match="GB free") as caught:
        standalone.check_room([tmp_path / "a.whl"], tmp_path)
    assert (caught.value.code, "TMPDIR" in caught.value.fix) == (3, True)


def running(group: int) -> list[psutil.Process]:
    """Return the processes of a group that have not ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_an_interrupted_proof_leaves_nothing(bench: Bench) -> None:
    """Neither the unpacked stack nor a program that a suite has started."""
    bundle = bench.unpacked()
    mark = bundle.root.parent / "mark"
    code = (
        "import os, pathlib, subprocess, sys\n"
        "def test_long():\n"
        f"    pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n"
        "    subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    )
    bundle.change("suites/base/verify/test_base.py", code)
    process = subprocess.Popen(
        bundle.command(), cwd=bundle.root, env=bundle.environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 30
    while not (mark.exists() and mark.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, process.communicate(timeout=1)
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, b"interrupted" in output) == (130, True), output
    assert list((bundle.root.parent / "tmp").iterdir()) == []
    assert running(int(mark.read_text(encoding="utf-8"))) == []
    assert not (bundle.root / "results.json").exists()


def test_cleaning_up_is_not_interrupted(bench: Bench) -> None:
    """A signal then would leave the unpacked stack behind, and nothing is left to stop."""
    bundle = bench.unpacked()
    code = (
        "import os, runpy, shutil, signal, sys\n"
        "remove = shutil.rmtree\n"
        "shutil.rmtree = lambda *words, **options: (os.kill(os.getpid(), signal.SIGTERM), remove(*words, **options))\n"
        "sys.argv = ['verify.py', '--layer', 'top']\n"
        "runpy.run_path('verify.py', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=bundle.root, env=bundle.environ(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, bundle.results()["verdict"]) == (0, "verified"), done.stderr
    assert list((bundle.root.parent / "tmp").iterdir()) == []


def own_base(folder: Path, version: str, cuda: str) -> dict[str, str]:
    """Give this Python a build of `base` of its own, in which `alone` is needed."""
    Bench.put(folder / "own" / "base.py", f"import alone\nversion, cuda = {version!r}, {cuda!r}\n".encode())
    Bench.put(folder / "own" / "alone.py", b"")
    return {"PYTHONPATH": str(folder / "own")}


def test_a_layer_is_left_out_with_what_it_alone_requires(bench: Bench) -> None:
    """What a wheel that stays requires too stays; the other machine's Python must hold the layer."""
    bundle = bench.unpacked("base")
    names = {item["filename"].split("-")[0] for item in bundle.description["wheels"]}
    assert not names & {"base", "alone"}
    assert names >= {"top", "helper", "common", "pytest"}
    assert [(item["wheel"], item["expect"]) for item in bundle.description["layers"]] == [(False, {}), (True, RED)]
    assert "must hold base already" in (bundle.root / "README.txt").read_text(encoding="utf-8")


def test_the_machine_s_own_build_is_proved_and_built_upon(bench: Bench, tmp_path: Path) -> None:
    """Another version near it may do; which one it was is told."""
    bundle = bench.unpacked("base")
    done = bundle.verify(**own_base(tmp_path, "1.1", "13.2"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "base: this Python's own, 1.1; the stack was built with 1.0" in done.stdout
    assert bundle.results()["installed"] == {"base": {"version": "1.1", "cuda": "13.2"}}
    assert [item["version"] for item in bundle.results()["layers"]] == ["1.1", "1.0"]


@pytest.mark.parametrize(
    ("cuda", "told"), [("12.8", "built for CUDA 12.8"), ("", "built without CUDA"), (None, "No module named 'base'")]
)
def test_a_machine_without_the_right_build_ends_in_3(bench: Bench, tmp_path: Path, cuda: str | None, told: str) -> None:
    """Code for one CUDA major version does not run on another's."""
    bundle = bench.unpacked("base")
    done = bundle.verify(**({} if cuda is None else own_base(tmp_path, "1.0", cuda)))
    assert (done.returncode, told in done.stderr) == (3, True), done.stderr
    assert "install base 1.0 or near it, built for CUDA 13" in done.stderr


def test_a_layer_that_was_installed_is_the_other_machine_s_as_well(bench: Bench, tmp_path: Path) -> None:
    """There is no wheel to put into a bundle."""
    bench.manifest["layers"][0]["source"]["kind"] = "installed"
    bench.manifest["layers"][0]["build_requires"] = []
    del bench.manifest["artifacts"][0]
    bundle = bench.unpacked()
    assert bundle.verify(**own_base(tmp_path, "1.0", "13.0")).returncode == 0
    assert bundle.verify().returncode == 3


@pytest.mark.parametrize(
    ("without", "told"),
    [
        (["bsae"], "did you mean 'base'"),
        (["top"], "it was built here"),
    ],
)
def test_only_what_another_build_can_replace_is_left_out(bench: Bench, without: list[str], told: str) -> None:
    """And it must be known how to find that build."""
    with pytest.raises(UsageError) as caught:
        bench.make(*without)
    assert told in str(caught.value)


def test_a_layer_that_cannot_be_found_elsewhere_stays(bench: Bench) -> None:
    """Nothing would say whether the other machine has it."""
    (bench.pipelines / "base" / "installed.py").unlink()
    with pytest.raises(UsageError, match=r"installed\.py"):
        bench.make("base")


def test_an_installed_layer_cannot_be_left_out(bench: Bench) -> None:
    """It is out already, and the option would seem to say otherwise."""
    bench.manifest["layers"][0]["source"]["kind"] = "installed"
    del bench.manifest["artifacts"][0]
    with pytest.raises(UsageError, match="it has no wheel"):
        bench.make("base")


def test_a_stack_that_is_not_built_makes_no_bundle(bench: Bench) -> None:
    """Nor does a name that promises another format."""
    with pytest.raises(UsageError, match=r"name it so: `--bundle NAME\.tar\.gz`"):
        bench.make(name="mini.zip")
    bench.manifest["artifacts"].pop()
    with pytest.raises(UsageError, match="holds no whole stack"):
        bench.make()


def test_a_stack_that_is_not_verified_is_told(bench: Bench) -> None:
    """A bundle may be what finds out why."""
    bench.manifest["verdict"] = "failed"
    bench.make()
    warnings = [event.text for event in bench.listened if isinstance(event, Notice) and event.level == "warning"]
    assert ["ended as 'failed'" in text for text in warnings] == [True]


@pytest.mark.parametrize(
    ("pattern", "error"),
    [("dist/mini/wheels/top*", PinError), ("state/downloads/*/common*", NetworkError)],
    ids=["a result", "a download that cannot be had anew"],
)
def test_a_changed_wheel_is_not_packed(bench: Bench, pattern: str, error: type[MmstackError]) -> None:
    """Rather here than on the other machine."""
    (wheel_,) = bench.root.glob(pattern)
    flip(wheel_)
    with pytest.raises(error):
        bench.make()
    assert not list(bench.root.glob("*.tar.gz*"))


def test_a_full_disk_leaves_the_old_bundle_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no part of a new one."""
    old = bench.make().read_bytes()

    def fail(*_words: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", fail)
    with pytest.raises(DiskError, match="cannot write"):
        bench.make()
    assert [file.read_bytes() for file in bench.root.glob("*mini.tar.gz*")] == [old]


def test_the_program_stands_alone() -> None:
    """The standard library is all that it imports, and any Python since 3.8 can read it."""
    text = Path(standalone.__file__).read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 8))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(name).split(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_the_program_speaks_as_the_engine_does() -> None:
    """Exit codes, variables and questions are the same in both."""
    codes = ("EXIT_FAILED", "EXIT_USAGE", "EXIT_HOST", "EXIT_PIN", "EXIT_INTERRUPTED")
    assert [getattr(standalone, name) for name in codes] == [getattr(errors, name) for name in codes]
    assert standalone.KEPT_VARIABLES == run.KEPT_VARIABLES
