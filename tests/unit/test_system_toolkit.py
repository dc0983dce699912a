from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mmstack.catalog import Catalog
from mmstack.errors import DiskError, HostError
from mmstack.events import ignore
from mmstack.model import Paths, Toolkit
from mmstack.run import run
from mmstack.toolchains import compilers
from mmstack.toolchains.system import HEADERS, LIBRARIES, MACHINE, classic, environment, every, find, inspect
from mmstack.workshop import Workshop
from tests.miniature import Miniature
from tests.toolkits import files, headers, nvcc, nvidia, program

ROOT = Path(__file__).resolve().parents[2]
TARGET = "sbsa-linux" if MACHINE == "aarch64" else f"{MACHINE}-linux"


def debian(usr: Path, version: str = "11.8") -> Path:
    """Make a toolkit as Debian spreads it over `/usr`."""
    own = usr / "lib" / "nvidia-cuda-toolkit"
    program(own / "bin" / "nvcc", nvcc(version))
    (own / "bin" / "nvcc.profile").symlink_to("/etc/nvcc.profile")
    program(own / "bin" / "cicc")
    files(own / "bin" / "crt", ["link.stub"])
    files(own / "libdevice", ["libdevice.10.bc"])
    program(usr / "bin" / "nvcc", f'#!/bin/sh\nexec {own}/bin/nvcc "$@"\n')
    for name in ("cudafe++", "ptxas", "fatbinary", "nvlink", "cuobjdump"):
        program(usr / "bin" / name)
    headers(usr / "include", version)
    files(usr / "lib" / f"{MACHINE}-linux-gnu", LIBRARIES)
    (usr / "lib" / "cuda" / "bin").mkdir(parents=True)
    return usr


def broken(home: Path) -> HostError:
    """Return the error that a toolkit is."""
    with pytest.raises(HostError) as caught:
        inspect(home)
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("version", ["11.8", "12.4", "13.0"])
def test_a_toolkit_in_nvidia_s_layout_is_described(tmp_path: Path, version: str) -> None:
    """Its version is what nvcc and cuda.h say; where CUDA 13 has its C++ libraries is known."""
    home = nvidia(tmp_path / "cuda", version)
    found = inspect(home)
    assert (found.kind, found.version, found.home) == ("system", version, home)
    assert found.origin == f"{home}, nvcc {version}.99 (cuda_{version}.r{version}/compiler.1_0)"


@pytest.mark.parametrize(
    ("lib", "include"), [("lib", "include"), (f"targets/{TARGET}/lib", f"targets/{TARGET}/include")]
)
def test_libraries_and_headers_may_be_elsewhere(tmp_path: Path, lib: str, include: str) -> None:
    """Below `targets`, where cross compilers look, or in `lib`."""
    assert inspect(nvidia(tmp_path / "cuda", lib=lib, include=include)).version == "12.4"


def test_debian_s_layout_is_known_by_all_its_folders(tmp_path: Path) -> None:
    """`/usr`, the folder that packages were unpacked into, and those that Debian's variables name are one toolkit."""
    usr = debian(tmp_path / "usr")
    places = (usr, tmp_path, usr / "lib" / "cuda", usr / "lib" / "nvidia-cuda-toolkit")
    found = {inspect(place) for place in places}
    assert {(item.home, item.version) for item in found} == {(usr, "11.8")}
    assert len(found) == 1


def test_a_folder_in_usr_local_is_not_taken_for_debian_s(tmp_path: Path) -> None:
    """Only what is in `lib` belongs to the toolkit around it."""
    debian(tmp_path / "usr")
    home = tmp_path / "usr" / "local" / "cuda"
    home.mkdir(parents=True)
    assert "is no CUDA toolkit" in broken(home).what


def test_the_identity_is_that_of_the_programs(tmp_path: Path) -> None:
    """The same toolkit elsewhere is the same; another compiler of the same version is not."""
    one, other = nvidia(tmp_path / "one"), nvidia(tmp_path / "other")
    assert inspect(one).identity == inspect(other).identity
    for name in ("bin/ptxas", "nvvm/bin/cicc", "bin/nvcc"):
        program(other / name, (other / name).read_text() + "# patched\n")
        assert inspect(one).identity != inspect(other).identity
        shutil.copy2(one / name, other / name)


def test_nothing_and_no_toolkit_are_refused(tmp_path: Path) -> None:
    """The error says what was looked for."""
    for home in (tmp_path, tmp_path / "none"):
        error = broken(home)
        assert error.what == f"{home} is no CUDA toolkit"
        assert str(home / "bin" / "nvcc") in error.why


@pytest.mark.parametrize(
    "name",
    [
        "bin/cudafe++",
        "bin/ptxas",
        "bin/fatbinary",
        "bin/nvlink",
        "nvvm/bin/cicc",
        "nvvm/libdevice/libdevice.10.bc",
        "lib64/libcudart.so",
        "lib64/libcudadevrt.a",
        *(f"include/{name}" for name in HEADERS),
    ],
)
def test_each_missing_part_is_named(tmp_path: Path, name: str) -> None:
    """A toolkit without it would fail in the middle of a build."""
    home = nvidia(tmp_path / "cuda")
    (home / name).unlink()
    error = broken(home)
    assert error.what == f"{home} is not a whole CUDA toolkit"
    assert error.why == f"CUDA 12.4, but it lacks {name if name.startswith('include') else Path(name).name}"
    assert "cuda-toolkit-12-4" in error.fix


def test_all_missing_parts_are_named_at_once(tmp_path: Path) -> None:
    """A toolkit without its mathematical libraries is common: nvcc alone was installed."""
    home = nvidia(tmp_path / "cuda")
    for name in ("cublas_v2.h", "cusparse.h"):
        (home / "include" / name).unlink()
    (home / "bin" / "ptxas").chmod(0o644)
    assert broken(home).why == "CUDA 12.4, but it lacks ptxas, include/cublas_v2.h, include/cusparse.h"


def test_nvcc_and_headers_of_two_versions_are_refused(tmp_path: Path) -> None:
    """What would be compiled with such a mixture is anybody's guess."""
    home = nvidia(tmp_path / "cuda")
    headers(home / "include", "12.6")
    error = broken(home)
    assert "mixture" in error.what
    assert error.why == f"{home}/bin/nvcc is of CUDA 12.4, {home}/include/cuda.h of 12.6"
    files(home / "include", ["cuda.h"], "nothing of use")
    assert "of no stated version" in broken(home).why


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho 'libfoo.so is missing'\nexit 127\n", "libfoo.so is missing"),
        ("#!/bin/sh\necho nvcc 12.4\n", "it said: nvcc 12.4"),
        ("#!/bin/sh\n", "it said: nothing"),
        ("#!/nowhere/sh\n", "is not on this machine"),
        ("\x7fELF of another machine", "xec format error"),
    ],
)
def test_an_nvcc_that_does_not_work_is_refused(tmp_path: Path, script: str, said: str) -> None:
    """It was run, not believed."""
    home = nvidia(tmp_path / "cuda")
    program(home / "bin" / "nvcc", script)
    error = broken(home)
    assert error.what == f"{home}/bin/nvcc does not work"
    assert said in error.why


def test_the_user_s_own_word_comes_first(tmp_path: Path) -> None:
    """`CUDA_HOME` before `CUDA_PATH`, that before the usual folders, those before PATH."""
    homes = [
        nvidia(tmp_path / "mine"),
        nvidia(tmp_path / "path"),
        nvidia(tmp_path / "usr" / "local" / "cuda-12.4"),
        nvidia(tmp_path / "opt" / "cuda"),
        debian(tmp_path / "usr", "12.4"),
        nvidia(tmp_path / "on"),
    ]
    environ = {"CUDA_HOME": str(homes[0]), "CUDA_PATH": str(homes[1]), "PATH": f"{homes[5]}/bin"}
    for home in homes:
        found, notes = find("12.4", environ, root=tmp_path)
        assert found is not None
        assert found.home == home
        (home / "include" / "cuda.h").unlink()
        assert len(notes) == homes.index(home)
    assert find("12.4", environ, root=tmp_path)[0] is None


def test_what_is_passed_over_is_told(tmp_path: Path) -> None:
    """A variable that names nothing, a toolkit of another version, one that is not whole."""
    nvidia(tmp_path / "usr" / "local" / "cuda-12.6", "12.6")
    nvidia(tmp_path / "usr" / "local" / "cuda-12.4") / "include" / "cusparse.h"
    (tmp_path / "usr" / "local" / "cuda-12.4" / "include" / "cusparse.h").unlink()
    found, notes = find("12.4", {"CUDA_HOME": str(tmp_path / "gone"), "PATH": ""}, root=tmp_path)
    assert found is None
    assert notes[0].startswith(f"CUDA_HOME={tmp_path}/gone: there is neither")
    assert notes[1:] == (
        f"{tmp_path}/usr/local/cuda-12.6: CUDA 12.6",
        f"{tmp_path}/usr/local/cuda-12.4: CUDA 12.4, but it lacks include/cusparse.h",
    )


def test_a_toolkit_is_looked_at_once(tmp_path: Path) -> None:
    """`/usr/local/cuda` is mostly a link, and `CUDA_HOME` names what is there anyway."""
    home = nvidia(tmp_path / "usr" / "local" / "cuda-12.4")
    home.with_name("cuda").symlink_to(home.name)
    environ = {"CUDA_HOME": str(home), "PATH": f"{home}/bin"}
    assert [(name, type(found)) for name, found in every(environ, root=tmp_path)] == [(f"CUDA_HOME={home}", Toolkit)]


def test_every_toolkit_is_listed_broken_ones_with_their_error(tmp_path: Path) -> None:
    """That is what a user is told who asks what is here."""
    nvidia(tmp_path / "usr" / "local" / "cuda-12.4")
    (nvidia(tmp_path / "usr" / "local" / "cuda-12.6") / "nvvm" / "bin" / "cicc").unlink()
    debian(tmp_path / "usr")
    found = every({"PATH": ""}, root=tmp_path)
    assert [item.version if isinstance(item, Toolkit) else item.why for _name, item in found] == [
        "CUDA 12.4, but it lacks cicc",
        "12.4",
        "11.8",
    ]


def test_an_nvcc_on_path_may_be_a_script_or_a_link(tmp_path: Path) -> None:
    """Its toolkit is where it says that it is, not where its name is; versioned names count too."""
    local = tmp_path / "bin"
    program(local / "nvcc", f'#!/bin/sh\nexec {nvidia(tmp_path / "a", "12.6")}/bin/nvcc "$@"\n')
    (local / "nvcc-12.4").symlink_to(nvidia(tmp_path / "b") / "bin" / "nvcc")
    found = every({"PATH": str(local)}, root=tmp_path)
    assert [item.home for _name, item in found if isinstance(item, Toolkit)] == [tmp_path / "a", tmp_path / "b"]
    assert [name for name, _item in found] == [f"{local}/nvcc", f"{local}/nvcc-12.4"]


def test_an_nvcc_on_path_that_says_nothing_is_looked_for_by_its_links(tmp_path: Path) -> None:
    """That of CUDA 13 says nothing where there is no host compiler."""
    home = nvidia(tmp_path / "cuda")
    text = (home / "bin" / "nvcc").read_text()
    program(home / "bin" / "nvcc", text.replace("sh\n", 'sh\n[ "$1" = --dryrun ] && exit 1\n', 1))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").symlink_to(home / "bin" / "nvcc")
    found, _notes = find("12.4", {"PATH": f"{tmp_path}/bin"}, root=tmp_path)
    assert found is not None
    assert found.home == home


def test_nvidia_s_layout_is_used_as_it_is(tmp_path: Path) -> None:
    """Nothing is made, and the variables name the folder."""
    home, place = nvidia(tmp_path / "cuda"), tmp_path / "place"
    assert classic(home, place) == home
    assert not place.exists()
    assert environment(home) == {
        "CUDA_HOME": str(home),
        "CUDA_PATH": str(home),
        "CUDACXX": f"{home}/bin/nvcc",
        "CMAKE_LIBRARY_PATH": f"{home}/lib64",
    }


def test_debian_s_layout_gets_a_folder_in_nvidia_s(tmp_path: Path) -> None:
    """It is whole by itself, so that nothing of another toolkit in `/usr` or on PATH can slip in."""
    home = inspect(debian(tmp_path / "unpacked" / "usr").parent).home
    assert home is not None
    place = classic(home, tmp_path / "place")
    assert place == tmp_path / "place"
    found = inspect(place)
    assert (found.version, found.home) == ("11.8", place)
    assert found.identity == inspect(home).identity
    assert (place / "include").resolve() == home / "include"
    assert (place / "bin" / "crt" / "link.stub").is_file()
    assert not (place / "bin" / "nvcc").is_symlink()
    assert "/etc" not in (place / "bin" / "nvcc.profile").read_text()
    assert environment(place)["CMAKE_LIBRARY_PATH"] == f"{place}/lib64"


def test_the_system_s_own_headers_are_not_offered_twice(tmp_path: Path) -> None:
    """`-isystem` with a second stdlib.h would break the C++ library's."""
    usr = debian(tmp_path / "usr")
    files(usr / "include", ["stdlib.h"])
    place = classic(usr, tmp_path / "place")
    assert not (place / "include" / "stdlib.h").exists()
    assert (place / "include" / "cublas_v2.h").resolve() == usr / "include" / "cublas_v2.h"


def test_a_folder_is_filled_once_and_whole(tmp_path: Path) -> None:
    """What an interrupted run left behind is no toolkit; what is there already is not made again."""
    usr, place = debian(tmp_path / "usr"), tmp_path / "place"
    (tmp_path / "place.new" / "bin").mkdir(parents=True)
    classic(usr, place)
    (place / "mark").touch()
    assert classic(usr, place) == place
    assert (place / "mark").exists()
    assert not (tmp_path / "place.new").exists()


def test_the_same_nvcc_in_two_places_is_two_toolkits(tmp_path: Path) -> None:
    """Each with its own headers and libraries: the other's folder may be gone."""
    mini = Miniature(root=tmp_path / "checkout").write()
    paths = Paths(root=mini.root, state=tmp_path / "state", dist=mini.root / "dist")
    shop = Workshop(paths=paths, listener=ignore, environ={})
    for name in ("one", "other"):
        toolkit = inspect(debian(tmp_path / name / "usr"))
        place = shop.toolkit(mini.plan(), toolkit)
        assert (place / "include").resolve() == tmp_path / name / "usr" / "include"


def test_a_folder_that_cannot_be_filled_is_told(tmp_path: Path) -> None:
    """A disk that is not ours to write is an error of its own kind."""
    with pytest.raises(DiskError, match="/sys"):
        classic(debian(tmp_path / "usr"), Path("/sys/toolkit"))


def test_a_toolkit_that_is_gone_is_told(tmp_path: Path) -> None:
    """Between plan and build it may have been removed."""
    with pytest.raises(HostError, match="is no CUDA toolkit"):
        classic(tmp_path / "gone", tmp_path / "place")


@pytest.mark.slow
def test_a_real_toolkit_compiles(tmp_path: Path) -> None:
    """A kernel and the headers of a library, through the folder and the variables that builds get."""
    here = compilers.find_compilers(os.environ)
    known = Catalog(ROOT).toolkits
    for _name, found in every(os.environ):
        if isinstance(found, Toolkit) and found.home and found.version in known:
            release = known[found.version]
            home = classic(found.home, tmp_path / "cuda")
            break
    else:
        pytest.skip("there is no whole CUDA toolkit of a known version on this machine")
    try:
        host = compilers.choose(release, here, None, explicit=False)
    except HostError as error:
        pytest.skip(f"{error.what}: {error.why}")
    code = "#include <cublas_v2.h>\n#include <cmath>\n__global__ void f(float* x) { *x = sinf(*x); }\n"
    files(tmp_path, ["a.cu"], code)
    variables = {"PATH": os.defpath, **environment(home)}
    architecture = f"-arch=sm_{[item for item in release.architectures if not item.feature][-1].number}"
    command: list[str | Path] = [variables["CUDACXX"], "-ccbin", host.cxx, architecture, "-c", "a.cu", "-o", "a.o"]
    run(command, env=variables, cwd=tmp_path)
    assert b"sm_" in (tmp_path / "a.o").read_bytes()
