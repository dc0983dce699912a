"""What a recipe pins besides files of a package index, and what it says of releases, flags and its CMake project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mmstack.catalog import read_recipe
from mmstack.errors import CatalogError
from mmstack.locked import drift, inputs_of, resolves_alike
from mmstack.model import CMakeProject, Cost, DistroPin, FilePin, Flag, GitPin, Part, Pins
from tests.miniature import Miniature

if TYPE_CHECKING:
    from pathlib import Path

EXT, SERIES = "pipelines/ext/recipe.toml", "patches/ext/series.toml"
TAIL = '[[conflicts]]\nid = "old-compiler"'
FLAG = 'help = "how much the compiler optimises"\n'
REQUIRES = 'requires = ["backend"]\n'
PROJECT = 'requires = ["backend", "cmake", "ninja"]\n\n[build.cmake]\n'


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    """A catalog in which one release is pinned in every way."""
    return Miniature(root=tmp_path).write().pin_every_way()


def test_a_release_may_be_pinned_in_every_way(mini: Miniature) -> None:
    """By the files of a package index, a commit, an archive's address, a distribution's version."""
    pins = mini.catalog.recipe("ext").releases["2.0"]
    assert set(pins) == {"sdist", "wheel", "git", "archive", "distro"}
    assert pins["git"] == Pins(
        git=GitPin(url="https://host.test/org/ext.git", tag="v2.0", commit="c" * 40, submodules=2)
    )
    assert pins["archive"] == Pins(
        files=(FilePin(filename="ext-v2.0.tar.gz", sha256="a1" * 32),), urls=("https://host.test/ext-v2.0.tar.gz",)
    )
    assert pins["distro"] == Pins(
        files=(FilePin(filename="libext_2.0.orig.tar.xz", sha256="a2" * 32),),
        distro=DistroPin(
            package="libext",
            version="2.0-1",
            codename="wooden",
            parts=(
                Part(
                    path="third_party/part",
                    project="part",
                    file=FilePin(filename="part-1.0.tar.gz", sha256="a3" * 32),
                    folder="src/part",
                ),
                Part(
                    path="third_party/other",
                    urls=("https://host.test/other-1.0.tar.gz",),
                    file=FilePin(filename="other-1.0.tar.gz", sha256="a4" * 32),
                    folder="",
                ),
            ),
            libraries=("libdemo-dev",),
            folders=("usr/include/demo",),
        ),
    )


def test_a_release_says_what_it_requires_and_what_it_costs(mini: Miniature) -> None:
    """Where it says nothing, nothing is known."""
    recipe = mini.catalog.recipe("ext")
    assert recipe.run_built == {"2.0": ("runtime==1.5", "helper"), "2.1": ()}
    assert recipe.costs == {"2.0": Cost(seconds=600, seconds_per_architecture=60)}


def test_flags_have_groups_and_releases_and_presets_set_them(mini: Miniature) -> None:
    """All of it is optional."""
    mini.edit(EXT, FLAG, f'{FLAG}group = "speed"\nversions = "<2.1"\n\n[presets.debug]\nSPEED = "O0"\n')
    recipe = mini.catalog.recipe("ext")
    assert recipe.flags == (
        Flag(
            name="SPEED",
            default="O2",
            choices=("O0", "O1", "O2"),
            help="how much the compiler optimises",
            group="speed",
            versions="<2.1",
        ),
    )
    assert recipe.presets == {"debug": {"SPEED": "O0"}}


def test_a_cmake_project_may_be_what_the_tree_s_own_program_configures(mini: Miniature) -> None:
    """Then it has a command, and a folder below the tree."""
    keys = 'command = ["setup.py", "build"]\nfolder = "build"\ntarget = "install"\nversions = "<2.1"\n'
    mini.edit(EXT, REQUIRES, PROJECT + keys)
    assert mini.catalog.recipe("ext").cmake == CMakeProject(
        when={}, command=("setup.py", "build"), folder="build", target="install", versions="<2.1"
    )


def test_a_range_of_releases_may_require_more_to_be_built(mini: Miniature) -> None:
    """Listed apart from what all of them require."""
    mini.edit(EXT, TAIL, f'[[build.also]]\nversions = "<2.1"\nrequires = ["old==1"]\n\n{TAIL}')
    recipe = mini.catalog.recipe("ext")
    assert (recipe.build_requires, recipe.build_also) == (("backend",), (("<2.1", ("old==1",)),))


def test_a_patch_may_be_for_some_kinds_of_source(mini: Miniature) -> None:
    """Without the key it is for all."""
    mini.edit(SERIES, 'versions = "==2.0"\n', 'versions = "==2.0"\nsources = ["git", "distro"]\n')
    assert [patch.sources for patch in mini.catalog.patches["ext"]] == [("git", "distro"), (), (), (), ()]


MISTAKES = {
    "short commit": ("c" * 40, "c" * 39, "releases[0].git.commit' must be a commit's whole name|git rev-parse"),
    "a commit's tag": ("c" * 40, "v2.0", "releases[0].git.commit' must be a commit's whole name|it is 'v2.0'"),
    "no address": ('url = "https://host.test/org/ext.git"\n', "", "releases[0].git.url' is missing|a string"),
    "no tag": ('tag = "v2.0"\n', "", "releases[0].git.tag' is missing"),
    "submodules in words": ("submodules = 2", 'submodules = "two"', "releases[0].git.submodules' must be an integer"),
    "unknown key of git": ("submodules = 2", "modules = 2", "unknown key 'releases[0].git.modules'|did you mean 'sub"),
    "git as a list": ("[releases.git]", "[[releases.git]]", "releases[0].git' must be a table"),
    "archive's digest": ("a1" * 32, "a1", "releases[0].archive.sha256' must be a sha256"),
    "archive's path": ('"ext-v2.0.tar.gz"', '"x/ext.tar.gz"', "releases[0].archive.filename' must be the name of a"),
    "archive by http": ("https://host.test/ext-v", "http://me:t0ken@host.test/ext-v", "releases[0].archive.urls' must"),
    "archive by ftp": ("https://host.test/ext-v", "ftp://host.test/ext-v", "releases[0].archive.urls' must be addr"),
    "archive's command": ("https://host.test/ext-v", "ext::sh -c x", "releases[0].archive.urls' must be addresses"),
    "archive's variant": ('filename = "ext-v', 'variant = "x"\nfilename = "ext-v', "unknown key 'releases[0].archive."),
    "no package": ('package = "libext"\n', "", "releases[0].distro.package' is missing"),
    "no codename": ('codename = "wooden"\n', "", "releases[0].distro.codename' is missing"),
    "distro's digest": ("a2" * 32, "A2" * 32, "releases[0].distro.sha256' must be a sha256"),
    "libraries as text": ('["libdemo-dev"]', '"libdemo-dev"', "releases[0].distro.libraries' must be a list"),
    "unknown key of distro": ("codename =", "code_name =", "unknown key 'releases[0].distro.code_name'|'codename'"),
    "part outside": ('"third_party/part"', '"../part"', "distro.parts[0].path' must be a folder below the tree|third"),
    "part by its root": ('"third_party/part"', '"/part"', "distro.parts[0].path' must be a folder below the tree"),
    "part is the tree": ('"third_party/part"', '"."', "distro.parts[0].path' must be a folder below the tree"),
    "part from outside": ('"src/part"', '"../src"', "distro.parts[0].folder' must be a folder below the tree"),
    "part from nowhere": ('project = "part"\n', "", "distro.parts[0].project' must be there, or else 'urls'|one of"),
    "part from two": (
        'project = "part"\n',
        'project = "part"\nurls = ["https://host.test/x"]\n',
        "distro.parts[0].project' must be there, or else 'urls'",
    ),
    "part's digest": ("a3" * 32, "", "distro.parts[0].sha256' must be a sha256"),
    "unknown key of a part": (
        'folder = "src/part"',
        'folder = "src"\nname = ""',
        "unknown key 'releases[0].distro.par",
    ),
    "cost in hours": ("seconds = 600,", "hours = 600,", "unknown key 'releases[0].cost.hours'|known: seconds"),
    "no cost": ("seconds = 600, ", "", "releases[0].cost.seconds' is missing|an integer"),
    "no requirement": ('"helper"]', '"help er"]', "releases[0].requires' must be a list of requirements"),
    "unknown kind": ("[releases.git]", "[releases.gitt]", "unknown key 'releases[0].gitt'|did you mean 'git'"),
    "a folder as a kind": ("[releases.git]", "[releases.path]", "unknown key 'releases[0].path'"),
    "preset's flag": (FLAG, f'{FLAG}[presets.x]\nSPED = "O1"\n', "unknown key 'presets.x.SPED'|did you mean 'SPEED'"),
    "preset's value": (FLAG, f'{FLAG}[presets.x]\nSPEED = "O9"\n', "presets.x.SPEED' must be one of|O0, O1, O2"),
    "preset as text": (FLAG, f'{FLAG}[presets]\nx = "O9"\n', "key 'presets.x' must be a table"),
    "a flag called PRESET": ("flags.SPEED", "flags.PRESET", "flags.PRESET.default' belongs to a flag that cannot"),
    "flag's releases": (FLAG, f'{FLAG}versions = "2"\n', "flags.SPEED.versions' must be a version range"),
    "also without a range": (TAIL, f"[[build.also]]\nrequires = []\n{TAIL}", "build.also[0].versions' is missing"),
    "also no range": (
        TAIL,
        f'[[build.also]]\nversions = "2.0"\n{TAIL}',
        "build.also[0].versions' must be a version range",
    ),
    "also no requirement": (
        TAIL,
        f'[[build.also]]\nversions = "<3"\nrequires = ["a b"]\n{TAIL}',
        "build.also[0].requires' must be a list of requirements",
    ),
    "project by nothing": (REQUIRES, PROJECT, "build.cmake.file' must be there, or else 'command'"),
    "project by both": (
        REQUIRES,
        f'{PROJECT}file = "README.md"\ncommand = ["x"]\nfolder = "build"\n',
        "build.cmake.file' must be there, or else 'command'",
    ),
    "project outside": (
        REQUIRES,
        f'{PROJECT}command = ["setup.py"]\nfolder = "../build"\n',
        "build.cmake.folder' must be a folder below the tree",
    ),
    "project nowhere": (REQUIRES, f'{PROJECT}command = ["setup.py"]\n', "build.cmake.folder' is missing"),
    "project's releases": (
        REQUIRES,
        f'{PROJECT}command = ["x"]\nfolder = "build"\nversions = "2"\n',
        "build.cmake.versions' must be a version range",
    ),
}


@pytest.mark.parametrize(("old", "new", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_file_key_and_remedy(mini: Miniature, old: str, new: str, words: str) -> None:
    """Whatever is pinned wrongly, the error says where; it shows no password."""
    mini.edit(EXT, old, new)
    with pytest.raises(CatalogError) as caught:
        read_recipe(mini.root / EXT)
    assert str(mini.root / EXT) in caught.value.what
    assert all(word in str(caught.value) for word in words.split("|")), caught.value
    assert caught.value.fix
    assert "t0ken" not in str(caught.value)


def test_a_patch_for_no_kind_of_source_is_refused(mini: Miniature) -> None:
    """The nearest is named."""
    mini.edit(SERIES, 'versions = "==2.0"\n', 'versions = "==2.0"\nsources = ["gti"]\n')
    with pytest.raises(CatalogError, match=r"key 'patch\[0\]\.sources' names no kind of source: 'gti'") as caught:
        assert mini.catalog.patches
    assert "did you mean 'git'" in caught.value.why


PRESETS = '[presets.debug]\nSPEED = "O0"\n\n[flags.NEW]\ndefault = "OFF"\nhelp = "?"\nversions = ">=2.1"\n'
WRONG_CHOICES = {
    "no preset": ('SPEED = "O1"', 'PRESET = "debugg"', "'debugg' is no value of ext.PRESET|did you mean 'debug'"),
    "another release's flag": ('SPEED = "O1"', 'NEW = "ON"', "ext 2.0 has no flag 'NEW'|>=2.1"),
}


@pytest.mark.parametrize(("old", "new", "words"), WRONG_CHOICES.values(), ids=WRONG_CHOICES)
def test_a_stack_chooses_what_its_release_has(mini: Miniature, old: str, new: str, words: str) -> None:
    """A preset that is there, and no flag that would be dropped without a word."""
    mini.edit(EXT, FLAG, f"{FLAG}\n{PRESETS}")
    mini.edit("stacks/mini.toml", old, new)
    with pytest.raises(CatalogError) as caught:
        assert mini.catalog.stacks
    assert str(mini.root / "stacks/mini.toml") in caught.value.what
    assert all(word in str(caught.value) for word in words.split("|")), caught.value
    assert caught.value.fix


LOCKED = {
    "a release's requirement": ('"helper"]', '"helper>1"]'),
    "a library": ('["libdemo-dev"]', '["libdemo-dev", "libmore-dev"]'),
    "the distribution": ("wooden", "plastic"),
    "a requirement of a range": (TAIL, f'[[build.also]]\nversions = "<2.1"\nrequires = ["old"]\n\n{TAIL}'),
}
NOT_RESOLVED = {
    "the commit": ("c" * 40, "d" * 40),
    "a part": ("a3" * 32, "b3" * 32),
    "the cost": ("seconds = 600", "seconds = 700"),
    "a requirement of other releases": (TAIL, f'[[build.also]]\nversions = ">2"\nrequires = ["new"]\n\n{TAIL}'),
}


@pytest.mark.parametrize(
    ("old", "new", "resolved"),
    [*((*edit, False) for edit in LOCKED.values()), *((*edit, True) for edit in NOT_RESOLVED.values())],
    ids=[*LOCKED, *NOT_RESOLVED],
)
def test_a_lock_is_resolved_anew_when_what_is_asked_for_changed(
    mini: Miniature,
    old: str,
    new: str,
    resolved: bool,  # noqa: FBT001 - a table
) -> None:
    """What is resolved, and nothing else; that the recipe is another one is always told."""
    mini.edit("stacks/mini.toml", '"sdist"', '"distro"')
    before = inputs_of(mini.catalog.stack("mini"), mini.catalog)
    mini.edit(EXT, old, new)
    now = inputs_of(mini.catalog.stack("mini"), mini.catalog)
    assert resolves_alike(before, now) == resolved
    assert "ext recipe.toml changed" in drift(before, now)
