"""Where a layer comes from, with which flags, and what of it is in its key."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mmstack.engine import until
from mmstack.errors import CatalogError, ConstraintError, UsageError
from mmstack.graph import has_project
from mmstack.model import BUILT, DistroPackage, Request, Step, StepKind
from mmstack.resolve import select
from tests.miniature import INTERPRETER, PINS, Miniature

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STACK, BASE, EXT = "stacks/mini.toml", "pipelines/base/recipe.toml", "pipelines/ext/recipe.toml"
SERIES = "patches/ext/series.toml"
LIBRARY = DistroPackage(name="libdemo-dev", version="1.0-1", architecture="all", sha256="d" * 64)
FLAGS = """\
[flags.NEW]
default = "OFF"
help = "?"
versions = ">=2.1"

[flags.LINK]
default = "static"
help = "?"

[presets.release]
LINK = "shared"
NEW = "ON"

[presets.debug]
SPEED = "O0"

[gates]
"""
PROJECT = """\
requires = ["backend", "cmake", "ninja"]

[build.cmake]
command = ["setup.py", "--cmake-only"]
folder = "build"
"""


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    """A catalog in which one release is pinned in every way, with flags, presets, and a lock that has its library."""
    mini = Miniature(root=tmp_path).write().pin_every_way()
    mini.edit(EXT, "[gates]\n", FLAGS)
    mini.lock(PINS, packages={"ext": (LIBRARY,)})
    return mini


def unpin(mini: Miniature, kind: str) -> None:
    """Take a way to the middle layer's release away."""
    head, _, rest = (mini.root / EXT).read_text(encoding="utf-8").partition(f"[releases.{kind}]\n")
    mini.put(EXT, f"{head}[releases.{rest.partition('[releases.')[2]}")


def taken(mini: Miniature, kind: str) -> Request:
    """Let the stack take the middle layer from a kind of source, and return a request for nothing else."""
    mini.edit(STACK, '"sdist"', f'"{kind}"')
    mini.lock(PINS, packages={"ext": (LIBRARY,)})
    return Request()


@pytest.mark.parametrize("kind", ["git", "archive", "distro", "sdist", "wheel"])
def test_a_source_is_what_the_release_is_pinned_as(mini: Miniature, kind: str) -> None:
    """By the stack or by the user, with the pins of that kind alone."""
    asked = select(Request(sources={"ext": kind}), mini.catalog).sources["ext"]
    assert select(taken(mini, kind), mini.catalog).sources["ext"] == asked
    assert (asked.kind, asked.version, asked.path) == (kind, "2.0", None)
    assert bool(asked.git) == (kind == "git")
    assert bool(asked.distro) == (kind == "distro")
    assert bool(asked.urls) == (kind == "archive")
    assert bool(asked.files) == (kind != "git")


def test_source_means_what_is_built_best_first(mini: Miniature) -> None:
    """git, archive, sdist, distro; but what the stack builds from stays."""
    mini.edit(STACK, '"sdist"', '"wheel"')
    found = []
    for gone in ("", "git", "archive"):
        if gone:
            unpin(mini, gone)
        found.append(select(Request(sources={"ext": "source"}), mini.catalog).sources["ext"].kind)
    assert found == ["git", "archive", "sdist"]
    mini.edit(STACK, 'source = "wheel"\nflags', 'source = "distro"\nflags')
    assert select(Request(sources={"ext": "source"}), mini.catalog).sources["ext"].kind == "distro"


@pytest.mark.parametrize(("version", "known"), [("2.1", "path:DIR, wheel"), ("2.2", "path:DIR")])
def test_source_of_a_release_that_has_none_is_refused(mini: Miniature, version: str, known: str) -> None:
    """One that has wheels alone, or is not pinned at all."""
    mini.edit(EXT, 'sdist = [{ filename = "ext-2.1.tar.gz"', 'wheel = [{ filename = "ext-2.1-py3-none-any.whl"')
    mini.edit(STACK, '"2.0"', f'"{version}"')
    with pytest.raises(UsageError, match=rf"layer 'ext' {re.escape(version)} has no source 'git'") as caught:
        select(Request(sources={"ext": "source"}), mini.catalog)
    assert caught.value.why == f"known: {known}"


def test_index_only_takes_what_an_index_has(mini: Miniature) -> None:
    """The wheel where there is one, the sdist where there is none, and nothing where the stack can have neither."""
    taken(mini, "git")
    request = Request(index_only=True)
    assert select(request, mini.catalog).sources["ext"].kind == "wheel"
    mini.edit(EXT, f'wheel = [{{ filename = "ext-2.0-py3-none-any.whl", sha256 = "{"6" * 64}" }}]\n', "")
    assert select(request, mini.catalog).sources["ext"].kind == "sdist"
    mini.edit(EXT, f'sdist = [{{ filename = "ext-2.0.tar.gz", sha256 = "{"5" * 64}" }}]\n', "")
    with pytest.raises(ConstraintError, match=r"no package index holds ext 2\.0") as caught:
        select(request, mini.catalog)
    assert (caught.value.why, caught.value.fix) == ("the stack takes it from 'git'", "leave `--index-only` out")


@pytest.mark.parametrize("kind", ["git", "archive", "distro", "path:here"])
def test_index_only_and_another_source_contradict_each_other(mini: Miniature, kind: str) -> None:
    """None of the two is passed over."""
    with pytest.raises(UsageError, match=f"`--source ext={kind}` does not") as caught:
        select(Request(index_only=True, sources={"ext": kind}), mini.catalog)
    assert caught.value.fix == "leave one of them out"


REFUSED = {
    "flag of another release": (
        Request(flags={"ext.NEW": "ON"}),
        "ext 2.0 has no flag 'NEW'|it is one of ext >=2.1|leave it out",
    ),
    "flag of what is not built": (
        Request(flags={"ext.SPEED": "O1"}, sources={"ext": "wheel"}),
        "`--flag ext.SPEED` has no effect|ext is not built here|taken as 'wheel'|add `--source ext=source`",
    ),
    "preset of what is not built": (
        Request(flags={"ext.PRESET": "debug"}, sources={"ext": "wheel"}),
        "`--flag ext.PRESET` has no effect|ext is not built here",
    ),
    "preset that is not there": (
        Request(flags={"ext.PRESET": "debugg"}),
        "'debugg' is no value of ext.PRESET|did you mean 'debug'|debug, release",
    ),
    "preset of a layer without": (Request(flags={"top.PRESET": "debug"}), "layer 'top' has no flag 'PRESET'"),
}


@pytest.mark.parametrize(("request_", "words"), REFUSED.values(), ids=REFUSED)
def test_a_flag_without_effect_is_refused(mini: Miniature, request_: Request, words: str) -> None:
    """What a user asks for is done or refused."""
    with pytest.raises(UsageError) as caught:
        select(request_, mini.catalog)
    assert all(word in str(caught.value) for word in words.split("|")), caught.value
    assert caught.value.fix


VALUES: dict[str, tuple[dict[str, str], str, dict[str, str]]] = {
    "defaults": ({}, "", {"SPEED": "O2", "LINK": "static"}),
    "stack": ({}, 'SPEED = "O1"', {"SPEED": "O1", "LINK": "static"}),
    "user": ({"SPEED": "O0"}, 'SPEED = "O1"', {"SPEED": "O0", "LINK": "static"}),
    "preset": ({"PRESET": "release"}, "", {"SPEED": "O2", "LINK": "shared"}),
    "preset and stack": ({"PRESET": "debug"}, 'SPEED = "O1"', {"SPEED": "O1", "LINK": "static"}),
    "preset and user": ({"PRESET": "debug", "SPEED": "O1"}, "", {"SPEED": "O1", "LINK": "static"}),
    "preset of the stack": ({}, 'PRESET = "debug"', {"SPEED": "O0", "LINK": "static"}),
    "other preset of the user": ({"PRESET": "release"}, 'PRESET = "debug"', {"SPEED": "O2", "LINK": "shared"}),
}


@pytest.mark.parametrize(("asked", "stack", "flags"), VALUES.values(), ids=VALUES)
def test_flags_are_chosen_from_the_recipe_to_the_user(
    mini: Miniature, asked: dict[str, str], stack: str, flags: dict[str, str]
) -> None:
    """Default, preset, stack, user: the last wins; a preset is no flag, nor is what the release does not have."""
    mini.edit(STACK, 'SPEED = "O1"', stack)
    request = Request(flags={f"ext.{name}": value for name, value in asked.items()})
    layer = mini.layer("ext", request)
    assert (layer.flags, layer.facts.flags) == (flags, flags)


def test_another_release_has_its_own_flags(mini: Miniature) -> None:
    """And what a preset says of them then counts."""
    mini.edit(STACK, '"2.0"', '"2.1"')
    assert mini.layer("ext").flags == {"SPEED": "O1", "NEW": "OFF", "LINK": "static"}
    request = Request(flags={"ext.PRESET": "release"})
    assert mini.layer("ext", request).flags == {"SPEED": "O1", "NEW": "ON", "LINK": "shared"}


def test_what_is_not_built_here_has_no_flags(mini: Miniature) -> None:
    """Nothing was asked of a released wheel, and nothing can be held against it."""
    layer = mini.layer("ext", Request(sources={"ext": "wheel"}))
    assert (layer.flags, layer.facts.flags) == ({}, {})


def test_a_recipe_is_told_its_own_release_and_tells_its_suite(mini: Miniature) -> None:
    """What the stack expects counts where the recipe expects nothing, and where nothing is built."""
    assert mini.layer("ext").expect == {"unit": "10"}
    mini.put(
        "pipelines/ext/recipe.py",
        "from mmstack.recipes import DataOnly\n"
        "class Recipe(DataOnly):\n"
        "    def expect(self, facts):\n"
        "        return {'speed': facts.flags['SPEED'], 'of': facts.version}\n"
        "recipe = Recipe()\n",
    )
    layer = mini.layer("ext")
    assert (layer.facts.version, layer.expect) == ("2.0", {"speed": "O1", "of": "2.0"})
    assert mini.layer("ext", Request(sources={"ext": "wheel"})).expect == {"unit": "10"}


def test_a_conflict_may_be_with_what_a_build_requires(mini: Miniature) -> None:
    """But not where nothing is built."""
    mini.edit(EXT, 'base = ">=1", gcc = "<9"', 'backend = ">=82"')
    with pytest.raises(ConstraintError, match="old-compiler") as caught:
        mini.plan()
    assert "here: backend 82" in caught.value.why
    assert mini.layer("ext", Request(sources={"ext": "wheel"})).key


def test_a_patch_may_be_for_some_kinds_of_source(mini: Miniature) -> None:
    """What an upstream's archive lacks, its repository may hold."""
    mini.edit(SERIES, 'versions = "==2.0"\n', 'versions = "==2.0"\nsources = ["git", "distro"]\n')
    found = {
        kind: [patch.id for patch in mini.layer("ext", Request(sources={"ext": kind})).patches]
        for kind in ("sdist", "archive", "git", "distro", "wheel")
    }
    rest = ["ext-new-backend"]
    assert found == {
        "sdist": rest,
        "archive": rest,
        "git": ["ext-always", *rest],
        "distro": ["ext-always", *rest],
        "wheel": [],
    }


def test_every_kind_of_source_is_another_key(mini: Miniature) -> None:
    """Also where the same tree comes of it: that it is the same is for the digests to say."""
    kinds = ("git", "archive", "distro", "sdist", "wheel")
    keys = {mini.layer("ext", Request(sources={"ext": kind})).key for kind in kinds}
    assert len(keys) == len(kinds)


IN_KEY: dict[str, tuple[str, Callable[[Miniature], None]]] = {
    "the commit": ("git", lambda mini: mini.edit(EXT, "c" * 40, "d" * 40)),
    "the archive": ("archive", lambda mini: mini.edit(EXT, "a1" * 32, "b1" * 32)),
    "the source package": ("distro", lambda mini: mini.edit(EXT, "a2" * 32, "b2" * 32)),
    "a part's file": ("distro", lambda mini: mini.edit(EXT, "a3" * 32, "b3" * 32)),
    "a part's place": ("distro", lambda mini: mini.edit(EXT, "third_party/other", "third_party/another")),
    "a part's folder": ("distro", lambda mini: mini.edit(EXT, "src/part", "source/part")),
    "a library's digest": (
        "distro",
        lambda mini: mini.lock(PINS, packages={"ext": (replace(LIBRARY, sha256="e" * 64),)}),
    ),
    "a library's version": (
        "distro",
        lambda mini: mini.lock(PINS, packages={"ext": (replace(LIBRARY, version="1.0-2"),)}),
    ),
    "a library more": (
        "distro",
        lambda mini: mini.lock(PINS, packages={"ext": (LIBRARY, replace(LIBRARY, name="x1"))}),
    ),
}


@pytest.mark.parametrize(("kind", "change"), IN_KEY.values(), ids=IN_KEY)
def test_what_a_source_is_made_of_is_in_the_key(
    mini: Miniature, kind: str, change: Callable[[Miniature], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its digest, and not only because it stands in the recipe's file."""
    request = Request(sources={"ext": kind})
    monkeypatch.setattr("mmstack.catalog.files_digest", lambda *_files: "the same")
    before = mini.layer("ext", request)
    change(mini)
    after = mini.layer("ext", request)
    assert after.recipe.digest == before.recipe.digest
    assert after.key != before.key


def test_only_a_layer_of_the_distribution_has_its_libraries(mini: Miniature) -> None:
    """Another way to the same release needs none, whatever the lock holds."""
    assert mini.layer("ext", Request(sources={"ext": "distro"})).packages == (LIBRARY,)
    assert mini.layer("ext", Request(sources={"ext": "git"})).packages == ()


def test_a_lock_without_the_libraries_is_told(mini: Miniature) -> None:
    """Nothing is built against what happens to be installed."""
    mini.lock(PINS)
    with pytest.raises(CatalogError, match="the stack's lock has no packages for 'ext'") as caught:
        mini.layer("ext", Request(sources={"ext": "distro"}))
    assert caught.value.fix == "make it anew: `invoke lock --stack mini`"


def test_the_digests_of_a_tree_are_those_of_its_release_and_source(mini: Miniature) -> None:
    """They are demanded of it, and are not in its key: its pins are."""
    before = mini.layer("ext", Request(sources={"ext": "git"}))
    trees = {"ext git 2.0": {"tree": "e" * 64}, "ext git 2.1": {"tree": "f" * 64}, "base git 1.0": {"tree": "0" * 64}}
    mini.lock(PINS, packages={"ext": (LIBRARY,)}, trees=trees)
    after = mini.layer("ext", Request(sources={"ext": "git"}))
    assert (before.tree, after.tree) == ({}, {"tree": "e" * 64})
    assert after.key == before.key
    assert mini.layer("ext").tree == {}


@pytest.mark.parametrize(("kind", "seconds"), [("sdist", 600), ("git", 600), ("wheel", 0)])
def test_a_plan_says_what_a_build_takes(mini: Miniature, kind: str, seconds: int) -> None:
    """Where nothing is built, or nothing is known, it says nothing."""
    assert mini.layer("ext", Request(sources={"ext": kind})).seconds == seconds
    assert mini.layer("top").seconds == 0


def test_what_is_built_here_runs_with_what_its_release_requires(mini: Miniature) -> None:
    """In the environment, and where the layers above are built against it."""
    base = '[[releases]]\nversion = "1.0"\n'
    mini.edit(BASE, base, f'{base}requires = ["runtime==1.5", "needed"]\n')
    mini.edit(EXT, 'requires = ["runtime==1.5", "helper"]\n', "")
    mini.edit(BASE, "[run]", '[build]\nrequires = ["backend"]\n\n[run]')
    mini.lock(PINS | {"build-base": ("backend==82",), f"run-{BUILT}": ("needed==3",)})
    wheel, built = mini.plan(), mini.plan(Request(sources={"base": "sdist"}))
    assert [plan.layer("base").variant for plan in (wheel, built)] == ["small", BUILT]
    assert [[item.name for item in plan.run_requires] for plan in (wheel, built)] == [
        ["runtime"],
        ["runtime", "needed"],
    ]
    assert "needed" in [item.name for item in built.layer("ext").build_requires]
    assert "needed" not in [item.name for item in built.layer("top").build_requires]


CONDITIONS = {
    "always": ("", {}, True),
    "its flag": ('when = { SPEED = "O1" }\n', {}, True),
    "another flag": ('when = { SPEED = "O1" }\n', {"ext.SPEED": "O2"}, False),
    "its releases": ('versions = "<2.1"\n', {}, True),
    "other releases": ('versions = ">=2.1"\n', {}, False),
    "both": ('versions = "<2.1"\nwhen = { SPEED = "O1" }\n', {}, True),
    "one of both": ('versions = "<2.1"\nwhen = { SPEED = "O0" }\n', {}, False),
}


@pytest.mark.parametrize(("condition", "flags", "there"), CONDITIONS.values(), ids=CONDITIONS)
def test_a_cmake_project_is_there_for_some_releases_and_flags(
    mini: Miniature,
    condition: str,
    flags: dict[str, str],
    there: bool,  # noqa: FBT001 - a table
) -> None:
    """Then its layer is configured before it is built, and in one step otherwise."""
    mini.edit(EXT, 'requires = ["backend"]\n', f"{PROJECT}{condition}")
    plan = mini.plan(Request(flags=flags))
    steps = {step.id: step.needs for step in plan.steps}
    assert has_project(plan.layer("ext")) == there
    assert steps["build ext"] == (("configure ext",) if there else ("env ext",))
    assert steps.get("configure ext") == (("env ext",) if there else None)
    assert "configure top" not in steps


def test_a_wheel_is_never_configured(mini: Miniature) -> None:
    """Whatever its recipe would do to build it."""
    mini.edit(EXT, 'requires = ["backend"]\n', PROJECT)
    steps = {step.id for step in mini.plan(Request(sources={"ext": "wheel"})).steps}
    assert not {"configure ext", "build ext", "source ext"} & steps
    assert {"fetch ext", "env ext", "gate ext"} <= steps


def test_a_stop_after_a_kind_of_step_takes_all_that_it_waits_for(mini: Miniature) -> None:
    """And nothing else; a kind that no layer has would leave nothing to do, which is not what was asked."""
    steps = mini.plan().steps
    with pytest.raises(UsageError, match="no layer of this plan has a step 'configure'") as caught:
        until(steps, "configure")
    assert "known: build, env, fetch, gate" in caught.value.why
    mini.edit(EXT, 'requires = ["backend"]\n', PROJECT)
    kept = {step.id for step in until(mini.plan().steps, "configure")}
    assert {"fetch ext", "source ext", "env ext", "gate base", "configure ext"} <= kept
    assert not {"build ext", "source top", "install"} & kept


def test_a_stop_after_configure_waits_for_no_compiler(mini: Miniature) -> None:
    """What is configured against a layer that is yet to be compiled is left out; if that is all, it is refused."""
    mini.edit(EXT, 'requires = ["backend"]\n', PROJECT)
    steps = mini.plan().steps
    built = Step(kind=StepKind.BUILD, layer="base", needs=(), key="k", title="build base", heavy=True)
    onto = [replace(step, needs=(built.id,)) if step.id == "gate base" else step for step in steps]
    with pytest.raises(UsageError, match="nothing of this plan is configured before something is compiled") as caught:
        until([*onto, built], "configure")
    assert caught.value.why == "'configure ext' waits for 'build base'"
    for base, cached in ((replace(built, heavy=False), ()), (built, (built.id,))):
        assert "configure ext" in {step.id for step in until([*onto, base], "configure", cached)}
    first = Step(kind=StepKind.CONFIGURE, layer="base", needs=(), key="k", title="configure base")
    built = replace(built, needs=(first.id,))
    assert [step.id for step in until([*onto, first, built], "configure")] == ["configure base"]
    assert {"build base", "gate ext"} <= {step.id for step in until([*onto, first, built], "gate")}


@pytest.mark.parametrize("kind", ["git", "archive", "distro"])
def test_what_is_pinned_can_be_made_again(mini: Miniature, kind: str) -> None:
    """Only a folder of the user's own cannot."""
    plan = mini.plan(Request(sources={"ext": kind}))
    assert plan.layer("ext").reproducible
    assert (plan.warnings, plan.interpreter) == ((), INTERPRETER)
