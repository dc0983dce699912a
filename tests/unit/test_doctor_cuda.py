"""What doctor says of CUDA stacks: one stack for each generation of CUDA, and the toolkits as they really are."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from mmstack.doctor import Finding
from mmstack.doctor_cuda import Looked, examine
from mmstack.errors import HostError, UsageError
from mmstack.model import Compiler, CudaSupport, Gpu, Installed, Paths, Request, Toolkit
from mmstack.options import Options
from mmstack.resolve import select
from mmstack.session import Session
from mmstack.toolchains.architectures import parse_architecture
from tests.miniature import HOST, INTERPRETER, PINS, Miniature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmstack.doctor import Family
    from mmstack.errors import MmstackError
    from mmstack.model import Host

ROOT = Path(__file__).parents[2]
BASES = {  # what the lowest layer of the stacks was built with
    "13.0": ("1.0", "7.5 8.0 8.6 9.0 10.0 12.0"),
    "12.8": ("0.9", "7.0 7.5 8.0 8.6 9.0 10.0 12.0"),
    "12.4": ("0.8", "5.0 6.0 7.0 7.5 8.0 8.6 9.0"),
}
RELEASE = """
[[releases]]
version = "{version}"
cuda = {{ version = "{cuda}", architectures = {architectures} }}
wheel = [{{ filename = "proj_base-{version}-cp311-cp311-linux_x86_64.whl", sha256 = "{digest}" }}]
"""
GXX = {
    major: Compiler(
        cc=Path(f"/bin/gcc-{major}"), cxx=Path(f"/bin/g++-{major}"), version=f"g++ (Debian {major}) {major}.2.0 [x]"
    )
    for major in (11, 13, 14, 16)
}
RTX_5090 = Gpu(name="NVIDIA GeForce RTX 5090", capability="12.0", driver="580.95.05")
RTX_4090 = Gpu(name="NVIDIA GeForce RTX 4090", capability="8.9", driver="580.95.05")
H200 = Gpu(name="NVIDIA H200", capability="9.0", driver="580.95.05")
P100 = Gpu(name="Tesla P100-PCIE-16GB", capability="6.0", driver="580.95.05")
MACHINE = replace(HOST, compiler=GXX[13], compilers=(GXX[13], GXX[11]), gpus=(H200,))
HELD = Installed(
    version="0.9",
    digest="d" * 64,
    folders=(Path("/venv/site-packages"),),
    support=CudaSupport(version="12.8", architectures=(parse_architecture("9.0"),)),
)
OLD_FOR_13 = "535.54 runs CUDA 12.x programs, CUDA 13.0 needs 580.65.06 or newer"
NOTHING: Mapping[str, Installed] = MappingProxyType({})
BROKEN = HostError("no toolkit", why="CUDA 13.0, but it lacks nvcc", fix="`apt-get install cuda-toolkit-13-0`")


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """Return a checkout with the stacks `cu130`, `cu128` and `cu124` of three layers, the middle one with kernels."""
    made = Miniature(root=tmp_path_factory.mktemp("cuda")).write()
    shutil.copytree(ROOT / "toolkits", made.root / "toolkits")
    made.edit(
        "pipelines/ext/recipe.toml",
        "[build.environment]",
        '[build.cuda]\nmemory_per_job_mib = 3072\nlocal_version = ""\n\n[build.environment]',
    )
    base = (made.root / "pipelines/base/recipe.toml").read_text().partition("[[releases]]")[0]
    for cuda, (version, words) in BASES.items():
        base += RELEASE.format(version=version, cuda=cuda, architectures=words.split(), digest="1" * 64)
    made.put("pipelines/base/recipe.toml", base)
    made.put("pipelines/base/installed.py", "")
    made.lock({**PINS, "toolkit": ("nvidia-cuda-nvcc==13.0.88",), "cubins": ("reader==1",)})
    stack = (made.root / "stacks/mini.toml").read_text()
    for cuda, (version, words) in BASES.items():
        name = f"stacks/cu{cuda.replace('.', '')}"
        listed = [word for word in words.split() if word not in {"7.0", "5.0", "6.0"}]
        text = stack.replace('cuda = "cpu"', f'cuda = "{cuda}"\narch = {listed}').replace("'", '"')
        made.put(f"{name}.toml", text.replace('"1.0"', f'"{version}"'))
        made.put(f"{name}.lock", (made.root / "stacks/mini.lock").read_bytes())
    (made.root / "stacks/mini.toml").unlink()
    return made


def toolkit(version: str) -> Toolkit:
    """Return a whole one of that version."""
    return Toolkit(kind="system", version=version, origin="/cuda", identity="one", home=Path("/cuda"))


def findings(
    mini: Miniature,
    cuda: str = "13.0",
    host: Host = MACHINE,
    *,
    made: Toolkit | MmstackError | None = None,
    compiled: bool = True,
    here: tuple[tuple[str, Toolkit | HostError], ...] = (),
    installed: Mapping[str, Installed] | MmstackError = NOTHING,
    general: tuple[Finding, ...] = (),
    system: Family = "debian",
    **words: Any,  # noqa: ANN401 - Request's own
) -> dict[str, Finding]:
    """Return what doctor finds of a stack, by name; without `made`, a toolkit of its own version is taken."""
    catalog, request = mini.catalog, Request(cuda=cuda, **words)
    looked = Looked(
        request=request,
        selection=select(request, catalog),
        catalog=catalog,
        interpreter=INTERPRETER,
        toolkits=here,
        toolkit=(made or toolkit(cuda)) if compiled else None,
        installed=installed,
    )
    found = examine(general, host, looked, system)
    assert len({finding.name for finding in found}) == len(found)
    return {finding.name: finding for finding in found}


def missing(found: Mapping[str, Finding]) -> list[str]:
    """Return the names of what is missing."""
    return [name for name, finding in found.items() if finding.verdict == "missing"]


def test_a_machine_that_has_all_needs_nothing(mini: Miniature) -> None:
    """Every finding is ok, says what is there, and asks for nothing."""
    found = findings(mini, here=(("/cuda", toolkit("13.0")), ("/usr", toolkit("11.8"))))
    assert {name: finding.found for name, finding in found.items()} == {
        "driver": "580.95.05 runs CUDA 13.x programs",
        "gpu": "NVIDIA H200 (9.0)",
        "toolkits": "/cuda: CUDA 13.0\n/usr: CUDA 11.8",
        "toolkit": "CUDA 13.0, system: /cuda",
        "compiler": "g++ 13.2.0 (/bin/g++-13), the newest that serves; nvcc 13.0 accepts g++ <16 and clang++ <21; "
        "accepted here: g++ 13.2.0 (/bin/g++-13), g++ 11.2.0 (/bin/g++-11)",
        "prebuilt": "base 1.0: CUDA 13.0, for 7.5, 8.0, 8.6, 9.0, 10.0, 12.0",
        "arch": "7.5, 8.0, 8.6, 9.0, 10.0, 12.0",
        "stack": "cu130 can be built here, by 2 compile jobs at once, for Python 3.11.7",
    }
    assert {(finding.verdict, finding.fix) for finding in found.values()} == {("ok", "")}


def test_what_is_found_here_stands_in_the_place_of_what_every_stack_has(mini: Miniature) -> None:
    """A compiler that is good enough for C++ may not be for nvcc, and what is missing elsewhere counts."""
    compiler = Finding(name="compiler", verdict="missing", found="none", fix="x")
    found = findings(mini, general=(compiler, replace(compiler, name="disk")))
    assert list(found)[:3] == ["compiler", "disk", "driver"]
    assert found["compiler"].verdict == "ok"
    assert found["stack"].verdict == "missing"
    assert found["stack"].found == "cu130 does not fit this machine as it is: disk"


@pytest.mark.parametrize(
    ("gpu", "driver", "cuda", "found", "fix"),
    [
        (H200, "535.54", "13.0", OLD_FOR_13, "12.8"),
        (P100, "535.54", "13.0", OLD_FOR_13, "12.4"),
        (H200, "470.82", "12.8", "470.82 runs CUDA 11.x programs, CUDA 12.8 needs 525.60.13 or newer", ""),
        (H200, "390.1", "12.8", "390.1 runs no known CUDA's programs, CUDA 12.8 needs 525.60.13 or newer", ""),
        (
            RTX_5090,
            "535.54",
            "13.0",
            f"{OLD_FOR_13}, NVIDIA GeForce RTX 5090 (12.0) needs 570 or newer",
            "",
        ),
        (
            RTX_5090,
            "560.28.03",
            "12.8",
            "560.28.03 runs CUDA 12.x programs, NVIDIA GeForce RTX 5090 (12.0) needs 570 or newer",
            "",
        ),
        (
            RTX_5090,
            "570.86.16",
            "13.0",
            "570.86.16 runs CUDA 12.x programs, CUDA 13.0 needs 580.65.06 or newer",
            "12.8",
        ),
    ],
)
def test_a_driver_that_is_too_old(mini: Miniature, gpu: Gpu, driver: str, cuda: str, found: str, fix: str) -> None:
    """It is to be updated, or the newest stack taken that it and the GPU do run."""
    host = replace(MACHINE, gpus=(replace(gpu, driver=driver),))
    finding = findings(mini, cuda, host)["driver"]
    assert (finding.verdict, finding.found) == ("missing", found)
    assert finding.fix == "update it" + (f", or choose `--cuda {fix}`" if fix else "")


@pytest.mark.parametrize("driver", ["580.65.06", "580.65.6", "590.1"])
def test_a_driver_that_will_do(mini: Miniature, driver: str) -> None:
    """The bound itself is enough."""
    assert findings(mini, host=replace(MACHINE, gpus=(replace(H200, driver=driver),)))["driver"].verdict == "ok"


def test_no_gpu_is_a_warning(mini: Miniature) -> None:
    """It is never missing: a stack is built without one."""
    found = findings(mini, host=replace(MACHINE, gpus=()))
    assert found["gpu"].verdict == "warning"
    assert found["gpu"].found == "none visible: GPU checks will be reported as not run"
    assert "invoke verify --bundle" in found["gpu"].fix
    assert "driver" not in found
    assert missing(found) == []


def test_a_broken_driver_is_told_by_what_every_stack_has(mini: Miniature) -> None:
    """No second finding says that there is no GPU."""
    found = findings(mini, host=replace(MACHINE, gpus=(), notes={"gpu": "nvidia-smi ended with status 9"}))
    assert "gpu" not in found


def test_an_nvcc_that_is_too_old_for_the_gpu(mini: Miniature) -> None:
    """The toolkit was named, the stack's own would do."""
    host = replace(MACHINE, gpus=(RTX_5090,))
    found = findings(mini, "12.8", host, made=toolkit("12.4"), toolkit="system:/cuda")
    assert missing(found) == ["gpu", "arch", "stack"]
    assert found["gpu"].found == (
        "nvcc 12.4 cannot target this NVIDIA GeForce RTX 5090 (12.0): sm_120 needs CUDA 12.8 or newer"
    )
    assert found["gpu"].fix == "leave `--toolkit` out, or give a toolkit of CUDA 12.8"
    assert found["toolkit"].verdict == "warning"
    assert found["toolkit"].found.endswith("; the stack is for 12.8")
    assert found["stack"].found == "cu128 does not fit this machine as it is: gpu, arch"


def test_an_nvcc_that_is_old_but_not_for_this_gpu(mini: Miniature) -> None:
    """What it cannot compile for need not be compiled."""
    found = findings(mini, "12.8", made=toolkit("12.4"), toolkit="system:/cuda")
    assert found["gpu"].verdict == "ok"
    assert "sm_100 needs CUDA 12.8 or newer" in found["arch"].found
    assert found["arch"].fix.startswith("`--arch native`, for the GPUs of this machine; or choose among ")
    found = findings(mini, "12.8", made=toolkit("12.4"), toolkit="system:/cuda", arch=("native",))
    assert missing(found) == []
    assert (found["arch"].found, found["stack"].verdict) == ("9.0", "ok")


def test_a_layer_below_that_has_no_code_for_the_gpu(mini: Miniature) -> None:
    """Another stack has; the newest of them is named."""
    found = findings(mini, "12.4", replace(MACHINE, gpus=(RTX_5090,)))
    assert found["gpu"].verdict == "missing"
    assert found["gpu"].found == (
        "base 0.8 has no code for this NVIDIA GeForce RTX 5090 (12.0), only for 5.0, 6.0, 7.0, 7.5, 8.0, 8.6, 9.0"
    )
    assert found["gpu"].fix == "choose `--cuda 13.0`"
    newer = replace(MACHINE, gpus=(replace(RTX_5090, driver="570.86.16"),))
    assert findings(mini, "12.4", newer)["gpu"].fix == "choose `--cuda 12.8`"
    ancient = replace(MACHINE, gpus=(replace(RTX_5090, capability="3.5"),))
    assert findings(mini, "12.4", ancient)["gpu"].fix == "build that layer from source"


def test_a_gpu_that_is_not_in_the_list(mini: Miniature) -> None:
    """It can be compiled for, if one says so."""
    found = findings(mini, host=replace(MACHINE, gpus=(RTX_5090,)), arch=("9.0",))
    assert found["gpu"].verdict == "warning"
    assert found["gpu"].found == "would be built without code for this NVIDIA GeForce RTX 5090 (12.0), only for 9.0"
    assert found["gpu"].fix == "`--arch native` compiles for it"
    assert missing(found) == []


@pytest.mark.parametrize("arch", ["8.6", "8.0", "8.0+PTX", "8.9", "7.5+PTX"])
def test_code_for_another_gpu_may_serve(mini: Miniature, arch: str) -> None:
    """Of the same generation, or as PTX of an older one."""
    assert findings(mini, host=replace(MACHINE, gpus=(RTX_4090,)), arch=(arch,))["gpu"].verdict == "ok"


def test_one_gpu_of_several_is_enough(mini: Miniature) -> None:
    """The other is named all the same; two of the same kind are one."""
    both = findings(mini, host=replace(MACHINE, gpus=(P100, H200)))["gpu"]
    assert (both.verdict, both.fix) == ("warning", "choose `--cuda 12.4`")
    assert both.found.startswith("base 1.0 has no code for this Tesla P100-PCIE-16GB (6.0), only for 7.5,")
    assert both.found.endswith("; NVIDIA H200 (9.0)")
    assert findings(mini, host=replace(MACHINE, gpus=(P100, P100)))["gpu"].verdict == "missing"


@pytest.mark.parametrize(
    ("system", "fix"),
    [
        ("debian", "sudo apt-get install g++-13"),
        ("fedora", "sudo dnf install gcc13-c++"),
        ("other", "install g++-13 with its gcc-13"),
    ],
)
def test_a_compiler_that_is_too_new(mini: Miniature, system: Family, fix: str) -> None:
    """What to install is the newest that this nvcc accepts."""
    host = replace(MACHINE, compiler=GXX[14], compilers=(GXX[14],), notes={})
    found = findings(mini, "12.4", host, made=toolkit("12.6"), system=system)
    assert found["compiler"].verdict == "missing"
    assert "here is g++ 14.2.0" in found["compiler"].found
    assert "g++ <14" in found["compiler"].found
    assert found["compiler"].found.endswith("refused here: g++ 14.2.0 (/bin/g++-14)")
    assert fix in found["compiler"].fix
    assert found["stack"].found == "cu124 does not fit this machine as it is: compiler"


def test_the_newest_compiler_that_serves_is_taken(mini: Miniature) -> None:
    """A newer one beside it does no harm."""
    host = replace(MACHINE, compiler=GXX[16], compilers=(GXX[16], GXX[14], GXX[11]))
    finding = findings(mini, "12.8", host)["compiler"]
    assert finding.verdict == "ok"
    assert finding.found.startswith("g++ 14.2.0 (/bin/g++-14), the newest that serves; nvcc 12.8 accepts g++ <15")
    assert finding.found.endswith("refused here: g++ 16.2.0 (/bin/g++-16)")


def test_a_compiler_that_was_named_is_that_one_or_none(mini: Miniature) -> None:
    """Where another one would serve, it suffices to name none."""
    host = replace(MACHINE, compiler=GXX[16], compilers=(GXX[16], GXX[11]), compiler_named=True)
    finding = findings(mini, host=host)["compiler"]
    assert (finding.verdict, finding.fix) == ("missing", "unset CC CXX")
    assert finding.found.startswith("g++ 16.2.0 is too new for CUDA 13.0's nvcc: ")
    alone = replace(host, compilers=(GXX[16],))
    assert findings(mini, host=alone)["compiler"].fix == "unset CC CXX; sudo apt-get install g++-15"
    named = replace(host, compiler=GXX[11])
    assert findings(mini, host=named)["compiler"].found.startswith("g++ 11.2.0 (/bin/g++-11), as CC and CXX say; ")


def test_a_broken_toolkit_matters_where_none_other_is_taken(mini: Miniature) -> None:
    """With how to mend it; else it is only named."""
    here = (("/cuda", BROKEN), ("/usr", toolkit("11.8")))
    told = "/cuda: CUDA 13.0, but it lacks nvcc\n/usr: CUDA 11.8"
    error = HostError("there is no whole CUDA 13.0 on this machine", why=told, fix="install it")
    found = findings(mini, made=error, here=here, toolkit="system")
    assert found["toolkits"] == Finding(name="toolkits", verdict="warning", found=told, fix=BROKEN.fix)
    assert found["toolkit"] == Finding(name="toolkit", verdict="missing", found=error.what, fix="install it")
    assert missing(found) == ["toolkit", "stack"]
    found = findings(mini, here=here)
    assert found["toolkits"] == Finding(name="toolkits", verdict="ok", found=told)
    assert missing(found) == []


def test_a_toolkit_that_is_refused_says_why(mini: Miniature) -> None:
    """The reason is its own, not that of the toolkits that are here."""
    found = findings(mini, made=BROKEN, here=(("/usr", toolkit("11.8")),))
    assert found["toolkits"].verdict == "ok"
    assert found["toolkit"].found == "no toolkit: CUDA 13.0, but it lacks nvcc"
    assert findings(mini)["toolkits"].found == "none on this machine"


def test_a_layer_that_was_built_for_another_cuda(mini: Miniature) -> None:
    """What a Python holds stays, so the stack has to change; what a stack takes stays, so the toolkit has to."""
    held: dict[str, Any] = {"sources": {"base": "installed"}, "python": "/venv/bin/python"}
    found = findings(mini, installed={"base": HELD}, **held)
    assert missing(found) == ["prebuilt", "stack"]
    assert "base 0.9 was built with CUDA 12.8, the toolkit is 13.0" in found["prebuilt"].found
    assert found["prebuilt"].fix == "give a toolkit of CUDA 12 or choose `--cuda 12.8`"
    found = findings(mini, made=toolkit("12.4"), toolkit="system:/cuda")
    assert "base 1.0 was built with CUDA 13.0, the toolkit is 12.4" in found["prebuilt"].found
    assert found["prebuilt"].fix == "give a toolkit of CUDA 13 or choose `--cuda 12.8`"
    assert missing(findings(mini, "12.8", installed={"base": HELD}, arch=("9.0",), **held)) == []
    found = findings(mini, "12.8", installed={"base": replace(HELD, support=None)}, **held)
    assert "cuda-is-missing-below" in found["prebuilt"].found
    found = findings(mini, installed=HostError("/venv does not hold this layer", fix="name another"), **held)
    assert (found["prebuilt"].verdict, found["prebuilt"].fix) == ("missing", "name another")


def test_the_verdict_is_the_plan_s(mini: Miniature) -> None:
    """What only the plan knows is told with the verdict."""
    old = Compiler(cc=Path("/bin/gcc"), cxx=Path("/bin/g++"), version="g++ (Debian) 8.3.0 [x]")
    found = findings(mini, host=replace(MACHINE, compiler=old, compilers=(old,)))
    assert missing(found) == ["stack"]
    assert found["stack"].found.startswith("cu130 cannot be built here: this combination cannot work: old-compiler: ")
    assert found["stack"].fix == "install g++ 9"


def test_what_is_only_installed_needs_no_toolkit(mini: Miniature) -> None:
    """Nor a compiler for it, nor architectures; the GPU and its driver matter all the same."""
    host = replace(MACHINE, gpus=(RTX_5090,))
    found = findings(mini, "12.4", host, compiled=False, sources={"ext": "wheel"})
    assert {name: finding.verdict for name, finding in found.items()} == {
        "driver": "ok",
        "gpu": "missing",
        "stack": "missing",
    }


@dataclass
class Recorder:
    """A console that keeps what doctor shows."""

    shown: dict[str, Finding] = field(default_factory=dict)

    def findings(self, findings: tuple[Finding, ...]) -> None:
        """Keep the findings."""
        self.shown = {finding.name: finding for finding in findings}

    def document(self, _document: object) -> None:
        """Let go what `--json` would print."""


@pytest.fixture
def session(mini: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Return a session on a machine without a CUDA toolkit, whose package index answers."""
    monkeypatch.setattr("mmstack.host.look", lambda *_args, **_words: MACHINE)
    monkeypatch.setattr("mmstack.workshop.Workshop.reach_index", lambda *_: "reached")
    monkeypatch.setattr("mmstack.toolchains.system._homes", lambda *_: iter(()))
    console: Any = Recorder()
    return Session(Paths(root=mini.root, state=tmp_path / "state", dist=tmp_path / "dist"), console)


def shown(session: Session) -> dict[str, Finding]:
    """Return what doctor showed."""
    assert isinstance(session.console, Recorder)
    return session.console.shown


def test_what_a_plan_would_take_is_looked_up(session: Session) -> None:
    """The toolkit as the plan chooses it, or the error that the plan would end with."""
    assert session.doctor(Options(cuda="13.0"))
    assert shown(session)["toolkit"].found == "CUDA 13.0, wheels: 1 wheels, nvcc 13.0.88"
    assert shown(session)["toolkits"].found == "none on this machine"
    assert not session.doctor(Options(cuda="13.0", toolkit="system"))
    assert shown(session)["toolkit"].found.startswith("there is no whole CUDA 13.0 on this machine")


def test_a_cuda_stack_needs_more(session: Session) -> None:
    """Room for NVIDIA's libraries, unless a Python has them; memory for nvcc, where it is used."""
    session.doctor(Options(cuda="13.0"))
    assert "25.0 GiB needed" in shown(session)["disk"].found
    assert "3.0 GiB per compile job: room for 2 at once" in shown(session)["memory"].found
    session.doctor(Options(cuda="13.0", source=("ext=wheel",)))
    assert "1.0 GiB per compile job" in shown(session)["memory"].found
    assert "toolkit" not in shown(session)


def test_what_a_python_holds_is_looked_up(session: Session, tmp_path: Path) -> None:
    """It says itself that it holds nothing."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    pythons = (replace(INTERPRETER, path=python),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmstack.host.look", lambda *_args, **_words: replace(MACHINE, pythons=pythons))
        assert not session.doctor(Options(cuda="13.0", source=("base=installed",), python=str(python)))
    assert shown(session)["prebuilt"].found.startswith(f"{python} does not hold this layer")
    assert "8.0 GiB needed" in shown(session)["disk"].found


def test_a_wrong_option_is_an_error_and_no_finding(session: Session) -> None:
    """It is the command that has to change."""
    with pytest.raises(UsageError, match="'bogus' is no toolkit"):
        session.doctor(Options(cuda="13.0", toolkit="bogus"))
