"""Plans for CUDA stacks: toolkit, host compiler, architectures, and what goes into keys and wheels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mmstack.errors import CatalogError, ConstraintError, HostError, UsageError
from mmstack.model import Compiler, CudaSupport, Gpu, Installed, Request, Toolkit
from mmstack.resolve import compiled_for_gpus, select
from mmstack.toolchains.architectures import parse_architecture
from tests.miniature import HOST, PINS, Miniature

if TYPE_CHECKING:
    from mmstack.model import Plan

OLD = """\
gcc = "<13"
clang = "<18"
driver = ">=525"
architectures = ["8.0", "9.0"]
"""
NEW = """\
gcc = "<15"
clang = "<20"
driver = ">=525"
architectures = ["8.0", "9.0", "12.0"]

[wheels]
requires = ["cuda-like==12"]

[redist]
manifest = "redistrib_12.8.1.json"
sha256 = "{digest}"
components = ["cuda_nvcc"]
"""
TOOLKIT = Toolkit(kind="system", version="12.8", origin="/cuda", identity="one", home=Path("/cuda"))
OLDER = replace(TOOLKIT, version="12.4", identity="two")
GXX = {
    version: Compiler(cc=Path(f"gcc-{version}"), cxx=Path(f"g++-{version}"), version=f"g++ (Debian) {version}.2.0 [x]")
    for version in ("11", "12", "13", "14", "15")
}
MACHINE = replace(HOST, compiler=GXX["15"], compilers=tuple(reversed(GXX.values())))
HELD = Installed(
    version="1.5",
    digest="d" * 64,
    folders=(Path("/venv/site-packages"),),
    support=CudaSupport(version="12.6", architectures=(parse_architecture("8.0"), parse_architecture("9.0"))),
)


def asked(**words: Any) -> Request:  # noqa: ANN401 - Request's own
    """Return a request for the stack of these tests."""
    return Request(stack="mini", **words)


FROM_PYTHON = asked(sources={"base": "installed"}, python="/venv/bin/python")


@pytest.fixture
def gpu(tmp_path: Path) -> Miniature:
    """Return the miniature as a stack for CUDA 12.8, whose middle layer is compiled for GPUs."""
    mini = Miniature(root=tmp_path).write()
    mini.put("toolkits/12.4.toml", OLD)
    mini.put("toolkits/12.8.toml", NEW.format(digest="9" * 64))
    mini.edit("stacks/mini.toml", 'cuda = "cpu"', 'cuda = "12.8"\narch = ["8.0", "9.0+PTX"]')
    mini.edit(
        "pipelines/ext/recipe.toml",
        "[build.environment]",
        '[build.cuda]\nlocal_version = "cu{cuda}base{base}"\n\n[build.environment]',
    )
    mini.edit(
        "pipelines/base/recipe.toml",
        "wheel = [",
        'cuda = { version = "12.6", architectures = ["8.0", "9.0"] }\nwheel = [',
    )
    mini.lock({**PINS, "toolkit": ("cuda-like==12",), "cubins": ("reader==1",)})
    return mini


def plan(mini: Miniature, *arch: str, toolkit: Toolkit = TOOLKIT) -> Plan:
    """Return the plan for these architectures."""
    return mini.plan(asked(arch=arch), host=MACHINE, toolkit=toolkit)


def test_the_plan_names_toolkit_compiler_and_architectures(gpu: Miniature) -> None:
    """What is not said comes from the stack, and the compiler is the newest that this nvcc accepts."""
    found = plan(gpu)
    assert found.toolkit == TOOLKIT
    assert [str(item) for item in found.architectures] == ["8.0", "9.0+PTX"]
    assert found.compiler == GXX["14"]
    assert [item.name for item in found.cubins] == ["reader"]
    assert found.warnings == ()


def test_a_c_library_that_is_too_new_for_the_headers_is_told(gpu: Miniature) -> None:
    """Before gigabytes are fetched for what cannot compile; what a distribution has, it may have mended."""
    gpu.edit("toolkits/12.8.toml", 'clang = "<20"', 'clang = "<20"\nglibc = "<2.41"')
    newer = replace(MACHINE, glibc="2.41")
    made = replace(TOOLKIT, kind="wheels", home=None)
    assert gpu.plan(asked(), host=replace(MACHINE, glibc="2.36"), toolkit=made).warnings == ()
    assert gpu.plan(asked(), host=replace(MACHINE, glibc=""), toolkit=made).warnings == ()
    with pytest.raises(HostError, match=r"glibc 2\.41 is too new for CUDA 12\.8") as caught:
        gpu.plan(asked(), host=newer, toolkit=made)
    assert "an older one" in caught.value.fix
    (warning,) = gpu.plan(asked(), host=newer, toolkit=TOOLKIT).warnings
    assert warning.startswith("glibc-too-new: ")


@pytest.mark.parametrize(
    ("capability", "lacking"), [("9.0", ""), ("12.0", "base"), ("7.5", "base, what is compiled here"), ("8.6", "")]
)
def test_a_gpu_that_the_stack_will_not_run_on_is_told(gpu: Miniature, capability: str, lacking: str) -> None:
    """Not refused: it may be built for another machine. PTX serves what is newer."""
    here = replace(MACHINE, gpus=(Gpu(name="RTX", capability=capability, driver="570.1"),) * 2)
    warnings = gpu.plan(asked(), host=here, toolkit=TOOLKIT).warnings
    assert [warning.partition(" will have")[0] for warning in warnings] == (
        [f"gpu-not-served: {lacking}"] if lacking else []
    )


def test_what_is_compiled_for_gpus_is_examined_beside_what_its_release_requires(gpu: Miniature) -> None:
    """NVIDIA's libraries are not in its own wheel."""
    gpu.edit("pipelines/base/recipe.toml", "[run]", '[build]\nrequires = ["backend"]\n\n[build.cuda]\n\n[run]')
    sets = {"toolkit": ("cuda-like==12",), "cubins": ("reader==1",), "build-base": ("backend==82",)}
    gpu.lock({**PINS, **sets, "run-small": ("backend==81", "library==9")})
    found = gpu.plan(asked(sources={"base": "sdist"}), host=MACHINE, toolkit=TOOLKIT)
    needed = [(item.name, item.version) for item in found.layer("base").build_requires]
    assert needed == [("backend", "82"), ("library", "9")]
    assert [item.name for item in found.layer("ext").build_requires] == ["backend", "old-helper", "library"]


def test_only_what_is_compiled_for_gpus_needs_a_toolkit(gpu: Miniature) -> None:
    """A layer taken as a wheel, or left out, needs none."""
    assert compiled_for_gpus(select(asked(), gpu.catalog), gpu.catalog) == ("ext",)
    assert compiled_for_gpus(select(asked(sources={"ext": "wheel"}), gpu.catalog), gpu.catalog) == ()
    assert compiled_for_gpus(select(asked(without=("ext", "top")), gpu.catalog), gpu.catalog) == ()


def test_a_wheel_s_version_tells_what_it_is_for(gpu: Miniature) -> None:
    """CUDA's version and the lower layer's, without what comes after the minor one; other layers' have no such part."""
    found = plan(gpu)
    assert [layer.local_version for layer in found.layers] == ["", "cu128base1.0", ""]
    assert [layer.for_gpus for layer in found.layers] == [False, True, False]
    assert [layer.cuda for layer in found.layers] == ["12.6", "12.8", "12.8"]


def test_toolkit_and_architectures_are_in_the_key_of_what_they_compile(gpu: Miniature) -> None:
    """And of nothing else."""
    first = plan(gpu)
    others = [
        plan(gpu, "9.0"),
        plan(gpu, toolkit=replace(TOOLKIT, identity="other")),
        plan(gpu, "8.0", "9.0", toolkit=OLDER),
    ]
    assert len({item.layer("ext").key for item in (first, *others)}) == 4
    assert {item.layer("base").key for item in others} == {first.layer("base").key}
    assert {item.layer("top").key for item in others} == {first.layer("top").key}


def test_where_the_toolkit_is_does_not_matter(gpu: Miniature) -> None:
    """The same compilers in another folder make the same wheel."""
    moved = replace(TOOLKIT, home=Path("/opt/cuda"), origin="/opt/cuda")
    assert plan(gpu, toolkit=moved).layer("ext").key == plan(gpu).layer("ext").key


def test_another_minor_version_is_warned_of_by_name(gpu: Miniature) -> None:
    """It works, but not for what only the newer one knows."""
    (warning,) = plan(gpu, "9.0", toolkit=OLDER).warnings
    assert warning.startswith("cuda-minor-version: the toolkit is CUDA 12.4, the stack is for 12.8")
    with pytest.raises(ConstraintError) as caught:
        plan(gpu, "12.0", toolkit=OLDER)
    assert "sm_120 needs CUDA 12.8 or newer; yours is 12.4" in caught.value.why


def test_another_major_version_is_refused(gpu: Miniature) -> None:
    """The layers below were built with CUDA 12."""
    gpu.put("toolkits/13.0.toml", NEW.format(digest="9" * 64))
    with pytest.raises(ConstraintError, match="cuda-major-version") as caught:
        plan(gpu, toolkit=replace(TOOLKIT, version="13.0"))
    assert "base 1.0 was built with CUDA 12.6, the toolkit is 13.0" in caught.value.why


def test_a_toolkit_of_a_version_that_nothing_is_known_of(gpu: Miniature) -> None:
    """What its nvcc accepts cannot be guessed."""
    with pytest.raises(CatalogError, match=r"nothing is known of CUDA 12\.9") as caught:
        plan(gpu, toolkit=replace(TOOLKIT, version="12.9"))
    assert caught.value.fix == "add toolkits/12.9.toml"


def test_a_compiler_that_the_user_named_is_taken_or_refused(gpu: Miniature) -> None:
    """It is never replaced."""
    named = replace(MACHINE, compiler_named=True)
    with pytest.raises(ConstraintError, match=r"15\.2"):
        gpu.plan(asked(), host=named, toolkit=TOOLKIT)
    assert gpu.plan(asked(), host=replace(named, compiler=GXX["11"]), toolkit=TOOLKIT).compiler == GXX["11"]


def test_a_visible_gpu_is_what_native_means(gpu: Miniature) -> None:
    """Nothing else is compiled for."""
    host = replace(MACHINE, gpus=(Gpu(name="card", capability="9.0", driver="580"),))
    found = gpu.plan(asked(arch=("native",)), host=host, toolkit=TOOLKIT)
    assert [str(item) for item in found.architectures] == ["9.0"]


def test_what_was_verified_on_one_gpu_is_verified_on_another(gpu: Miniature) -> None:
    """Also where another driver, or the user's choice among the GPUs, is all that is new."""
    card = Gpu(name="card", capability="9.0", driver="570")
    hosts = [
        replace(MACHINE, gpus=()),
        replace(MACHINE, gpus=(card,)),
        replace(MACHINE, gpus=(replace(card, driver="580"),)),
        replace(MACHINE, gpus=(card,), gpu_choice=("CUDA_VISIBLE_DEVICES=",)),
    ]
    layers = [gpu.plan(asked(), host=host, toolkit=TOOLKIT).layer("ext") for host in hosts]
    assert len({layer.verify_key for layer in layers}) == len(hosts)
    assert len({layer.key for layer in layers}) == 1


def test_what_a_python_holds_is_built_against_and_not_built(gpu: Miniature) -> None:
    """Its release counts for patches and names, its files for keys; there is no step for it but to verify it."""
    gpu.put("pipelines/base/installed.py", "")
    found = gpu.plan(FROM_PYTHON, host=MACHINE, toolkit=TOOLKIT, installed={"base": HELD})
    assert [step.id for step in found.steps if step.layer == "base"] == ["verify base"]
    assert next(step for step in found.steps if step.id == "env ext").needs == ("source ext",)
    assert found.layer("ext").local_version == "cu128base1.5"
    assert found.beside == HELD.folders
    assert [layer.name for layer in found.made] == ["ext", "top"]
    assert not found.layer("ext").reproducible
    assert "cuda-like" not in {item.name for item in found.run_requires}
    other = {"base": replace(HELD, digest="e" * 64)}
    assert (
        gpu.plan(FROM_PYTHON, host=MACHINE, toolkit=TOOLKIT, installed=other).layer("ext").key != found.layer("ext").key
    )


def test_what_a_python_holds_must_have_cuda(gpu: Miniature) -> None:
    """Ops for GPUs on a build without them would fail late."""
    gpu.put("pipelines/base/installed.py", "")
    with pytest.raises(ConstraintError, match="cuda-is-missing-below"):
        gpu.plan(FROM_PYTHON, host=MACHINE, toolkit=TOOLKIT, installed={"base": replace(HELD, support=None)})


def test_a_python_must_be_named_for_what_it_holds(gpu: Miniature) -> None:
    """And only a layer that can say what is there can be taken so."""
    with pytest.raises(UsageError, match="cannot be taken as installed"):
        select(FROM_PYTHON, gpu.catalog)
    gpu.put("pipelines/base/installed.py", "")
    with pytest.raises(UsageError, match="names no Python") as caught:
        select(replace(FROM_PYTHON, python="3.11"), gpu.catalog)
    assert "--python /path/to/python" in caught.value.fix


def test_a_package_index_alone(gpu: Miniature) -> None:
    """What the stack takes from elsewhere is taken from the index, and what the user says otherwise is refused."""
    assert select(asked(index_only=True), gpu.catalog).sources["ext"].kind == "sdist"
    with pytest.raises(UsageError, match="--index-only"):
        select(asked(index_only=True, sources={"ext": "path:tree"}), gpu.catalog)


@pytest.mark.parametrize("request_", [asked(arch=("9.0",)), asked(toolkit="wheels")], ids=["arch", "toolkit"])
def test_gpu_options_have_no_meaning_for_a_cpu_stack(tmp_path: Path, request_: Request) -> None:
    """They would be without effect."""
    with pytest.raises(UsageError, match="compiles nothing for a GPU"):
        select(request_, Miniature(root=tmp_path).write().catalog)


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("stacks/mini.toml", 'arch = ["8.0", "9.0+PTX"]', "", "key 'arch' must list GPU architectures"),
        ("stacks/mini.toml", '"9.0+PTX"', '"nine"', "'nine' is no GPU architecture"),
        ("stacks/mini.toml", "arch =", 'constraints = ["numpy <<2"]\narch =', "key 'constraints'"),
        ("toolkits/12.8.toml", '"<15"', '"fifteen"', "key 'gcc' must be a version range"),
        ("toolkits/12.8.toml", '["8.0", "9.0", "12.0"]', "[]", "key 'architectures' must list"),
        ("toolkits/12.8.toml", "9" * 64, "9" * 63, "key 'redist.sha256' must be a sha256"),
        ("toolkits/12.8.toml", "redistrib_12.8.1.json", "../x.json", "must be the name of a file"),
        ("toolkits/12.8.toml", "clang", "klang", "unknown key 'klang'"),
        ("pipelines/base/recipe.toml", '"12.6"', '"twelve"', "cuda.version' must be a version X.Y"),
        ("pipelines/ext/recipe.toml", "local_version", "lokal_version", "unknown key 'build.cuda.lokal_version'"),
    ],
)
def test_a_mistake_is_told_with_its_key(gpu: Miniature, file: str, old: str, new: str, told: str) -> None:
    """Each names the file and what it must be."""
    gpu.edit(file, old, new)
    catalog = gpu.catalog
    with pytest.raises(CatalogError) as caught:
        _ = (catalog.stacks, catalog.toolkits)
    assert Path(file).name in str(caught.value)
    assert told in str(caught.value)


def test_a_toolkit_file_is_named_by_its_version(gpu: Miniature) -> None:
    """Otherwise nothing would ever find it."""
    gpu.put("toolkits/newest.toml", OLD)
    with pytest.raises(CatalogError, match="not named by a CUDA version"):
        _ = gpu.catalog.toolkits
