"""Which CUDA toolkit is taken: what the user names, or the first of three kinds that serves; never another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mmstack.errors import ConstraintError, HostError, MmstackError, UsageError
from mmstack.model import CudaRelease, FilePin, LockedRequirement, Toolkit
from mmstack.options import Options
from mmstack.toolchains import choice, system, wheels

MANIFEST = FilePin(filename="redistrib_13.0.2.json", sha256="9" * 64)
RELEASE = CudaRelease(
    version="13.0",
    gcc="<16",
    clang="<21",
    driver=">=580",
    architectures=(),
    wheels=("cuda-toolkit==13.0.2",),
    manifest=MANIFEST,
    components=("cuda_nvcc",),
    file=Path("toolkits/13.0.toml"),
)
NO_WHEELS = replace(RELEASE, version="12.8", wheels=())
LOCKED = (
    LockedRequirement(name="cuda-toolkit", version="13.0.2", sha256=("a" * 64,)),
    LockedRequirement(name="nvidia-cuda-nvcc", version="13.0.88", sha256=("b" * 64,)),
)
HERE = Toolkit(kind="system", version="13.0", origin="/usr/local/cuda-13.0", identity="x", home=Path("/usr/local"))
BROKEN = "/usr/local/cuda-13.0: CUDA 13.0, but it lacks include/cublas_v2.h"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Toolkit]:
    """Return the list of this machine's toolkits, for a test to fill; a broken one is there as well."""
    found: list[Toolkit] = []
    monkeypatch.setattr(system, "find", lambda *_: (found[0] if found else None, () if found else (BROKEN,)))
    return found


@pytest.mark.parametrize(
    ("wish", "release", "here", "kind"),
    [
        ("", RELEASE, True, "system"),
        ("auto", RELEASE, False, "wheels"),
        ("auto", NO_WHEELS, False, "redist"),
        ("system", RELEASE, True, "system"),
        ("wheels", RELEASE, True, "wheels"),
        ("redist", RELEASE, True, "redist"),
    ],
)
def test_a_wish_is_met_or_the_first_that_serves(
    machine: list[Toolkit],
    wish: str,
    release: CudaRelease,
    here: bool,  # noqa: FBT001 - a column
    kind: str,
) -> None:
    """System before wheels before archives, where nothing is named."""
    machine += [HERE] if here else []
    found, notes = choice.choose(wish, release, LOCKED, {})
    assert (found.kind, found.version) == (kind, HERE.version if kind == "system" else release.version)
    assert notes == ((BROKEN,) if wish == "auto" else ())


def test_a_package_index_alone_means_wheels(machine: list[Toolkit]) -> None:
    """Whatever this machine has."""
    machine.append(HERE)
    assert choice.choose("", RELEASE, LOCKED, {}, index_only=True)[0].kind == "wheels"
    with pytest.raises(UsageError, match="--index-only"):
        choice.choose("system", RELEASE, LOCKED, {}, index_only=True)
    with pytest.raises(ConstraintError, match=r"12\.8"):
        choice.choose("", NO_WHEELS, (), {}, index_only=True)


@pytest.mark.parametrize("wish", ["sytem", "wheels:x", "auto:/cuda", ":", "redist-13"])
def test_what_is_no_toolkit(wish: str) -> None:
    """The kinds are named, and the nearest."""
    with pytest.raises(UsageError, match="is no toolkit") as caught:
        choice.choose(wish, RELEASE, LOCKED, {})
    assert "redist" in caught.value.why


def test_wheels_are_refused_where_they_hold_no_compiler() -> None:
    """NVIDIA's for CUDA 12 and older; what to do instead is said."""
    with pytest.raises(ConstraintError) as caught:
        choice.choose("wheels", NO_WHEELS, (), {})
    assert "13.0 on" in caught.value.why
    assert "--toolkit redist" in caught.value.fix


def test_archives_are_refused_where_no_list_is_pinned() -> None:
    """What would be unpacked could not be checked."""
    with pytest.raises(ConstraintError, match="no list of redistributable archives is pinned"):
        choice.choose("redist", replace(RELEASE, manifest=None), LOCKED, {})


@pytest.mark.usefixtures("machine")
def test_a_system_toolkit_that_is_not_there() -> None:
    """What was found and passed over is told."""
    with pytest.raises(HostError, match=r"no whole CUDA 13\.0") as caught:
        choice.choose("system", RELEASE, LOCKED, {})
    assert caught.value.why == BROKEN


def test_identity_is_what_it_is_made_of(tmp_path: Path) -> None:
    """Other wheels, another manifest or other components are another toolkit; another mirror is not."""
    first, _ = choice.choose("wheels", RELEASE, LOCKED, {})
    assert first.identity != choice.choose("wheels", RELEASE, LOCKED[:1], {})[0].identity
    archives = choice.choose("redist", RELEASE, LOCKED, {})[0]
    assert archives.identity == choice.choose(f"redist:{tmp_path}", RELEASE, LOCKED, {})[0].identity
    assert archives.identity != choice.choose("redist", replace(RELEASE, components=("x",)), LOCKED, {})[0].identity


def test_a_mirror_s_password_is_not_shown() -> None:
    """The plan is printed and kept."""
    found, _ = choice.choose("redist:https://me:s3cret@mirror.example/cuda", RELEASE, LOCKED, {})
    assert "s3cret" not in found.origin
    assert "mirror.example/cuda" in found.origin


@pytest.mark.parametrize("index_only", [False, True])
@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("redist:https://me:s3cret@mirror.example/cuda?key=s3cret", "redist:https://mirror.example/cuda"),
        ("https://me:s3cret@mirror.example/cuda", "https://mirror.example/cuda"),
        ("redist:https://me:s3cret@mirror.example:port", "redist:a malformed address"),
        ("redist:folder?#/x", "redist:folder?#/x"),
        ("system:/usr/local/cuda", "system:/usr/local/cuda"),
        ("", ""),
    ],
)
def test_what_was_typed_is_told_without_its_password(wish: str, told: str, *, index_only: bool) -> None:
    """In errors, and in the command that a manifest names to make the same again."""
    assert choice.shown(wish) == told
    assert not any("s3cret" in word for word in Options(toolkit=wish).words())
    try:
        choice.choose(wish, RELEASE, LOCKED, {"PATH": ""}, index_only=index_only)
    except MmstackError as error:
        assert "s3cret" not in str(error)  # noqa: PT017 - some of these are no error


def site(tmp_path: Path, *names: str) -> Path:
    """Return site-packages with these files below NVIDIA's folder."""
    for name in names:
        file = tmp_path / "nvidia" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def test_wheels_become_a_toolkit_that_linkers_understand(tmp_path: Path) -> None:
    """Libraries under the names that `-l` means, and `lib64`; twice is as good as once."""
    place = site(tmp_path, "cu13/bin/nvcc", "cu13/lib/libcudart.so.13", "cu13/lib/libnvrtc-builtins.so.13.0")
    for _ in range(2):
        home = wheels.complete(place, "13.0")
    assert (home / "lib64" / "libcudart.so").resolve() == home / "lib" / "libcudart.so.13"
    assert home == tmp_path / "nvidia" / "cu13"


def test_each_library_of_the_wheels_is_a_folder_that_linkers_understand(tmp_path: Path) -> None:
    """What is installed stays so; what is no longer there goes."""
    names = ("cudnn/include/cudnn.h", "cudnn/lib/libcudnn.so.9", "cudnn/lib/libcudnn_ops.so.9", "tool/bin/tool")
    place, into = site(tmp_path / "site", *names), tmp_path / "nvidia"
    (into / "old").mkdir(parents=True)
    wheels.lay_out(place, into)
    assert [folder.name for folder in into.iterdir()] == ["cudnn"]
    assert (into / "cudnn/include/cudnn.h").is_file()
    linked = {path.name: path.resolve().name for path in (into / "cudnn/lib").iterdir()}
    assert {linked[name] for name in ("libcudnn.so", "libcudnn.so.9")} == {"libcudnn.so.9"}
    assert linked["libcudnn_ops.so"] == "libcudnn_ops.so.9"
    assert sorted(path.name for path in (place / "nvidia/cudnn/lib").iterdir()) == [
        "libcudnn.so.9",
        "libcudnn_ops.so.9",
    ]


def test_wheels_without_a_compiler_are_no_toolkit(tmp_path: Path) -> None:
    """Nor is a program found that they do not hold."""
    place = site(tmp_path, "cu13/lib/libcudart.so.13")
    with pytest.raises(HostError, match="hold no compiler"):
        wheels.complete(place, "13.0")
    with pytest.raises(HostError, match="no cuobjdump"):
        wheels.program(place, "cuobjdump")
    site(tmp_path, "cu13/bin/cuobjdump")
    assert wheels.program(place, "cuobjdump") == tmp_path / "nvidia" / "cu13" / "bin" / "cuobjdump"
