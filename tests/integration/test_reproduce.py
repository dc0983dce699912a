"""The same inputs, the same bits: the real wheels, built again under all that must not matter, and compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mmstack.rebuild import wheel_differences
from tests.real import CUDA, ROOT, lacking, lay_out, own_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STACKS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("--stack", "cpu"),
    "cu130": CUDA,
    "debian12": ("--stack", "debian12"),
}
BUILD = (sys.executable, "-m", "invoke", "build-stack")
ONLY = ("--stop-after", "gate", "--json")
OTHER = "1001" if os.getuid() == 1000 else "1000"
OTHER_USER = ("unshare", "--user", f"--map-user={OTHER}", f"--map-group={OTHER}")
NOISE = {
    "LANG": "de_DE.UTF-8",
    "LC_ALL": "POSIX",
    "TZ": "Asia/Kathmandu",
    "USER": "somebody",
    "LOGNAME": "somebody",
    "HOSTNAME": "elsewhere",
    "CFLAGS": "-O1 -g",
    "CXXFLAGS": "-O1 -g",
    "CPPFLAGS": "-DNOISE",
    "LDFLAGS": "-Wl,-O0",
    "MAKEFLAGS": "-j1",
    "MAX_JOBS": "1",
    "CUDA_HOME": "/nonexistent",
    "TORCH_CUDA_ARCH_LIST": "7.0",
    "PYTHONHASHSEED": "77",
    "PYTHONOPTIMIZE": "2",
    "PYTHONPATH": "/nonexistent",
    "SOURCE_DATE_EPOCH": "1",
    "CMAKE_GENERATOR": "Unix Makefiles",
    "CMAKE_BUILD_TYPE": "Debug",
    "GCC_COLORS": "error=01;31",
}

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Way:
    """What is different about one of two builds.

    `before` is a command that runs the build, `cache` what a compiler cache holds before and after, and `shuffled`
    whether the folder lists its files in another order each time.
    """

    folder: str
    umask: int = 0o022
    before: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    cache: Path | None = None
    shuffled: bool = False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once: what is built for a GPU takes many gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@contextmanager
def shuffling(folder: Path) -> Iterator[None]:
    """Let a folder list its files in another order each time it is asked."""
    real = folder.with_name(f"{folder.name}-real")
    real.mkdir(parents=True)
    folder.mkdir(parents=True)
    words = ["disorderfs", "--shuffle-dirents=yes", "--share-locks=yes", "--quiet", str(real), str(folder)]
    subprocess.run(words, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def laid_out(way: Way, place: Path) -> Iterator[Path]:
    """Yield a copy of this checkout, and beside it a state that holds downloads alone."""
    folder = place / way.folder
    if way.shuffled:
        with shuffling(folder), laid_out(replace(way, shuffled=False), place) as root:
            yield root
        return
    root = lay_out(folder)
    if way.cache is None:
        yield root
        return
    cache = folder / "state" / "compiler-cache"
    if way.cache.exists():
        way.cache.rename(cache)
    yield root
    cache.rename(way.cache)


def surroundings(folder: Path) -> dict[str, str]:
    """Return the user's variables, but with a HOME, a TMPDIR and a first folder on PATH that are made in a folder.

    In HOME lies what would change a build that looked there, on PATH no program that a build could want.
    """
    home, temporary, programs = (folder / name for name in ("home", "tmp", "programs"))
    for made in (home, temporary, programs):
        made.mkdir()
    (home / ".pydistutils.cfg").write_text("[build_ext]\ndebug=1\n", encoding="utf-8")
    path = os.pathsep.join((str(programs), os.environ["PATH"]))
    return {**os.environ, "HOME": str(home), "TMPDIR": str(temporary), "PATH": path}


def first(stack: str) -> dict[str, tuple[str, Path]]:
    """Build a stack here, unless it is, and return of each layer digest and wheel."""
    return wheels(run([*BUILD, *STACKS[stack], *ONLY], cwd=ROOT), own_state())


def wheels(output: str, state: Path) -> dict[str, tuple[str, Path]]:
    """Return of each layer digest and wheel."""
    made = json.loads(output)["artifacts"]
    return {item["layer"]: (item["sha256"], state / "artifacts" / item["key"] / item["filename"]) for item in made}


def again(stack: str, way: Way, place: Path) -> dict[str, tuple[str, Path]]:
    """Build a stack another way, and return of each layer digest and wheel; a cache that is filled must have served."""
    filled = way.cache is not None and way.cache.exists()
    with laid_out(way, place) as root:
        state, kept = root.parent / "state", place / "wheels" / way.folder
        environment = {**surroundings(root.parent), **way.variables, "MMSTACK_HOME": str(state)}
        words = [*way.before, *BUILD, *STACKS[stack], *way.words, "--offline", *ONLY]
        output = run(words, cwd=root, env=environment, umask=way.umask)
        served = json.loads(output)["compiler_caches"]
        assert not filled or sum(each["hits"] for each in served) > 19 * sum(each["misses"] for each in served), served
        found = wheels(output, state)
        kept.mkdir(parents=True, exist_ok=True)
        result = {layer: (digest, Path(shutil.copy2(wheel, kept))) for layer, (digest, wheel) in found.items()}
    shutil.rmtree(place / way.folder, ignore_errors=True)
    return result


def run(words: list[str], *, cwd: Path, env: Mapping[str, str] | None = None, umask: int = 0o022) -> str:
    """Run a command and return what it says on standard output."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env=env,
        umask=umask,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def compare(
    one: Mapping[str, tuple[str, Path]], other: Mapping[str, tuple[str, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Print the digests of both builds; where they differ, fail with what it is that differs."""
    assert set(one) == set(other)
    with capsys.disabled():
        print()  # noqa: T201 - the digests are the result
        for layer, (digest, wheel) in sorted(one.items()):
            print(f"{layer:10} {digest} {wheel.name}\n{'':10} {other[layer][0]}")  # noqa: T201 - the same
    differing = [
        f"{layer}: {line}"
        for layer, (digest, wheel) in one.items()
        if digest != other[layer][0]
        for line in wheel_differences(wheel, other[layer][1])
    ]
    assert [digest for digest, _ in one.values()] == [digest for digest, _ in other.values()], "\n".join(differing)


@pytest.mark.parametrize("stack", STACKS)
def test_another_folder_user_locale_umask_order_and_number_of_jobs_give_the_same_bits(
    stack: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also under variables that would change a build if they reached it."""
    named = subprocess.run([*OTHER_USER, "true"], capture_output=True, check=False).returncode == 0
    shuffled = shutil.which("disorderfs") is not None and os.access("/dev/fuse", os.W_OK)
    other = Way(
        folder="of/another/and/longer/name",
        umask=0o077,
        before=OTHER_USER if named else (),
        words=("--jobs", "3"),
        variables=NOISE,
        shuffled=shuffled,
    )
    compare(first(stack), again(stack, other, place), capsys)
    same = [what for what, varied in (("the user", named), ("the order of files", shuffled)) if not varied]
    if same:
        lacking(f"the bits are the same, but this machine could not vary {' and '.join(same)}")


@pytest.mark.parametrize("stack", ["cpu", "cu130"])
def test_a_compiler_cache_changes_no_bit(stack: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither one that is filled nor one that has everything; nvcc's for the same folder, which its options name."""
    if shutil.which("ccache") is None:
        lacking("ccache is not on this machine")
    words = ("--compiler-cache", "ccache")
    cold = again(stack, Way(folder="cold", words=words, cache=place / "cache"), place)
    compare(first(stack), cold, capsys)
    folder = "warm/elsewhere" if stack == "cpu" else "cold"
    compare(cold, again(stack, Way(folder=folder, words=words, cache=place / "cache"), place), capsys)
