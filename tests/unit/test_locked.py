from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mmstack.errors import LockedError, UsageError
from mmstack.events import RunEnded
from mmstack.keys import file_digest
from mmstack.lock import read_lock, write_lock
from mmstack.locked import check, check_manifest, check_plan, check_request, drift, inputs_of
from mmstack.locking import kept
from mmstack.model import Request, Toolkit
from mmstack.report import to_manifest
from mmstack.resolve import select
from mmstack.toolchains.architectures import parse_architecture
from tests.miniature import Miniature

if TYPE_CHECKING:
    from pathlib import Path

    from mmstack.model import Inputs

CUDA = f"""
gcc = "<15"
clang = "<20"
driver = ">=525"
architectures = ["9.0"]
[redist]
manifest = "redistrib_12.8.1.json"
sha256 = "{"d" * 64}"
components = ["nvcc-like"]
"""
STACK, EXT, SERIES = "stacks/mini.toml", "pipelines/ext/recipe.toml", "patches/ext/series.toml"
ALWAYS = "patches/ext/0001-always.patch"
LAYER = 'name = "ext"\nversion = "2.0"\nsource = "sdist"'
CHANGES = {
    "a recipe": (EXT, 'default = "O2"', 'default = "O0"', ["ext recipe.toml changed"]),
    "a file that is laid over the tree": ("pipelines/ext/fast.h", "fast", "faster", ["ext fast.h changed"]),
    "a source": (EXT, "5" * 64, "9" * 64, ["ext pin ext-2.0.tar.gz changed", "ext recipe.toml changed"]),
    "a flag of the stack": (STACK, '"O1"', '"O0"', ["flag ext.SPEED is O0, locked as O1"]),
    "no flag": (STACK, 'flags = { SPEED = "O1" }\n', "", ["flag ext.SPEED is not set, locked as O1"]),
    "the Pythons": (STACK, ', "3.12"', "", ["python of the stack: 3.11; locked: 3.11, 3.12"]),
    "a constraint": (STACK, "cuda =", 'constraints = ["a<2"]\ncuda =', ["constraints of the stack: a<2; locked: none"]),
    "a patch's conditions": (SERIES, 'when = { base = ">=2" }', "when = {}", ["patch ext/0003-new-base.patch is new"]),
    "a patch that is left out": (
        SERIES,
        'id = "ext-always"\nversions = "==2.0"',
        'id = "ext-always"\nversions = "==9"',
        ["patch ext/0001-always.patch is gone"],
    ),
    "a patch that other Pythons get": (
        SERIES,
        '{ python = ">=3.12" }',
        '{ python = ">=3.13" }',
        ["patch ext/0004-new-python.patch changed"],
    ),
    "the way to a layer": (
        STACK,
        LAYER,
        LAYER.replace("sdist", "git"),
        [
            "ext is taken from git, locked as taken from sdist",
            "ext pin commit is new",
            "ext pin submodules is new",
            "ext pin ext-2.0.tar.gz is gone",
        ],
    ),
    "another release": (
        STACK,
        'version = "2.0"',
        'version = "2.1"',
        [
            "ext is 2.1, locked as 2.0",
            "ext pin ext-2.1.tar.gz is new",
            "ext pin ext-2.0.tar.gz is gone",
            "patch ext/0002-other-release.patch is new",
            "patch ext/0001-always.patch is gone",
            "patch ext/0004-new-python.patch is gone",
            "patch ext/0005-new-backend.patch is gone",
            "helper is not asked for any more, locked as helper (set run-built)",
            "runtime is not asked for any more, locked as runtime==1.5 (set run-built)",
        ],
    ),
    "what a layer asks for": (
        "pipelines/base/recipe.toml",
        '"runtime>=1"',
        '"runtime>=2", "other"',
        [
            "base recipe.toml changed",
            "other is asked for as other, locked as not asked for (set build-ext)",
            "runtime is asked for as runtime>=2, locked as runtime>=1 (set build-ext)",
            "other is asked for as other, locked as not asked for (set run)",
            "runtime is asked for as runtime>=2, locked as runtime>=1 (set run)",
        ],
    ),
    "what a suite asks for no more": (
        EXT,
        '[verify]\nrequires = ["checker==1.0"]\n',
        "",
        ["ext recipe.toml changed", "checker is not asked for any more, locked as checker==1.0 (set verify)"],
    ),
}
WITHOUT_EFFECT = {
    "a page": ("pipelines/ext/README.md", "# ext", "# extension"),
    "the weights of an estimate": ("pipelines/ext/weights.json", "{}", '{"*": 1}'),
    "a suite": ("pipelines/ext/verify/test_ext.py", "...", "pass"),
    "a reason": (SERIES, 'reason = "r"', 'reason = "because"'),
    "a patch for another release": (SERIES, 'versions = ">=2.1,<3"', 'versions = ">=2.1,<4"'),
    "what the stack is for": (STACK, "three layers", "four layers less one"),
}


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    """A checkout in which the middle layer can be had in every way, and whose lock fits."""
    mini = Miniature(root=tmp_path).write().pin_every_way()
    mini.put("pipelines/ext/weights.json", "{}\n")
    mini.put("pipelines/ext/fast.h", "// fast\n")
    file = tmp_path / "stacks" / "mini.lock"
    mini.put("stacks/mini.lock", write_lock(replace(read_lock(file), inputs=inputs(mini))))
    check(mini.catalog.stacks.values(), mini.catalog)
    return mini


def inputs(mini: Miniature) -> Inputs:
    """Return what the stack is made of now."""
    return inputs_of(mini.catalog.stack("mini"), mini.catalog)


def told(mini: Miniature) -> list[str]:
    """Return what is not as the lock has it."""
    return list(drift(mini.catalog.lock(mini.catalog.stack("mini")).inputs, inputs(mini)))


@pytest.mark.parametrize(("file", "old", "new", "changes"), CHANGES.values(), ids=CHANGES)
def test_what_drifted_is_named(mini: Miniature, file: str, old: str, new: str, changes: list[str]) -> None:
    """All of it, and nothing else."""
    mini.edit(file, old, new)
    assert told(mini) == changes


@pytest.mark.parametrize(("file", "old", "new"), WITHOUT_EFFECT.values(), ids=WITHOUT_EFFECT)
def test_what_changes_no_build_is_no_drift(mini: Miniature, file: str, old: str, new: str) -> None:
    """The lock holds what the stack is made of, not what is said of it."""
    mini.edit(file, old, new)
    assert told(mini) == []


def test_a_patch_that_changed_is_named(mini: Miniature, tmp_path: Path) -> None:
    """Its digest in the series being right."""
    before = file_digest(tmp_path / ALWAYS)
    text = (tmp_path / ALWAYS).read_text(encoding="utf-8")
    mini.edit(SERIES, before, file_digest(mini.put(ALWAYS, f"another first line\n{text}")))
    assert told(mini) == ["patch ext/0001-always.patch changed"]


def test_the_order_of_patches_counts(mini: Miniature, tmp_path: Path) -> None:
    """They are applied one on top of another."""
    head, *entries = (tmp_path / SERIES).read_text(encoding="utf-8").split("[[patch]]\n")
    mini.put(SERIES, "[[patch]]\n".join([head, *reversed(entries)]))
    assert told(mini) == ["the patches of ext are in another order"]


def test_a_file_of_a_recipe_may_come_and_go(mini: Miniature, tmp_path: Path) -> None:
    """Any of them may go into the build."""
    mini.put("pipelines/top/recipe.py", "")
    (tmp_path / "pipelines" / "ext" / "fast.h").unlink()
    assert told(mini) == ["ext fast.h is gone", "top recipe.py is new"]


def test_a_layer_may_come_and_go(mini: Miniature) -> None:
    """It is named once, with what it asked for."""
    mini.edit(STACK, '[[layers]]\nname = "top"\nversion = "3.0"\nsource = "sdist"\n', "")
    assert told(mini) == ["layer top is gone", "backend is not asked for any more, locked as backend (set build-top)"]


def test_the_toolkit_of_a_cuda_stack_is_held(mini: Miniature) -> None:
    """The digest of its manifest, and which archives make it."""
    mini.put("toolkits/12.8.toml", CUDA)
    mini.edit(STACK, 'cuda = "cpu"', 'cuda = "12.8"\narch = ["9.0"]')
    assert "the stack is for CUDA 12.8, locked for cpu" in told(mini)
    file = mini.root / "stacks" / "mini.lock"
    mini.put("stacks/mini.lock", write_lock(replace(read_lock(file), inputs=inputs(mini))))
    assert told(mini) == []
    mini.edit("toolkits/12.8.toml", "d" * 64, "e" * 64)
    mini.edit("toolkits/12.8.toml", '["nvcc-like"]', '["nvcc-like", "cudart-like"]')
    assert told(mini) == [
        "components of the stack: nvcc-like, cudart-like; locked: nvcc-like",
        "redistrib_12.8.1.json of the CUDA toolkit is pinned by another digest",
    ]


def test_drift_is_refused_once_for_all_stacks(mini: Miniature, tmp_path: Path) -> None:
    """What several of them have in common is said once, with their names; what is kept decides the remedy."""
    for suffix in ("toml", "lock"):
        mini.put(f"stacks/twin.{suffix}", (tmp_path / "stacks" / f"mini.{suffix}").read_text(encoding="utf-8"))
    mini.edit("pipelines/ext/fast.h", "fast", "faster")
    mini.edit("stacks/twin.toml", '"O1"', '"O2"')
    with pytest.raises(LockedError) as caught:
        check(mini.catalog.stacks.values(), mini.catalog)
    assert (caught.value.code, caught.value.what) == (4, "mini.lock, twin.lock are out of date")
    assert caught.value.why == "ext fast.h changed (mini, twin)\nflag ext.SPEED is O2, locked as O1 (twin)"
    assert "`invoke lock --keep`" in caught.value.fix
    mini.edit("pipelines/top/recipe.toml", '["backend"]', '["backend>=2"]')
    with pytest.raises(LockedError, match="out of date") as caught:
        check([mini.catalog.stack("mini")], mini.catalog)
    assert "`invoke lock`" in caught.value.fix


def test_a_lock_can_be_written_anew_with_its_versions_kept(mini: Miniature) -> None:
    """Where nothing else is asked for than it was resolved from; else that is told."""
    catalog = mini.catalog
    before = catalog.lock(catalog.stack("mini"))
    mini.edit("pipelines/ext/fast.h", "fast", "faster")
    mini.put("stacks/mini.lock", write_lock(kept(mini.catalog.stack("mini"), mini.catalog)))
    assert told(mini) == []
    assert mini.catalog.lock(mini.catalog.stack("mini")).sets == before.sets
    mini.edit("pipelines/top/recipe.toml", '["backend"]', '["backend>=2"]')
    with pytest.raises(UsageError, match="--keep: what mini requires") as caught:
        kept(mini.catalog.stack("mini"), mini.catalog)
    assert "backend is asked for as backend>=2, locked as backend (set build-top)" in caught.value.why


WRONG: dict[str, tuple[Request, str, str]] = {
    "a folder": (Request(sources={"ext": "path:/tree"}), "mini.lock holds ext from 'sdist', not from 'path'", ""),
    "another kind of source": (Request(sources={"ext": "git"}), "mini.lock holds ext from 'sdist', not from 'git'", ""),
    "a wheel": (Request(sources={"ext": "wheel"}), "mini.lock holds ext from 'sdist', not from 'wheel'", ""),
    "a flag": (Request(flags={"ext.SPEED": "O0"}), "with other flags", "ext.SPEED is O0, locked as O1"),
}
RIGHT = {
    "nothing": Request(),
    "what the stack says anyway": Request(sources={"ext": "sdist"}, flags={"ext.SPEED": "O1"}),
    "less": Request(without=("top",)),
    "an index alone": Request(index_only=True),
}


@pytest.mark.parametrize(("request_", "what", "why"), WRONG.values(), ids=WRONG)
def test_options_that_the_lock_does_not_hold_are_refused(
    mini: Miniature, request_: Request, what: str, why: str
) -> None:
    """With what it holds instead."""
    catalog = mini.catalog
    with pytest.raises(UsageError, match="`--locked`") as caught:
        check_request(request_, select(request_, catalog), catalog)
    assert what in caught.value.what
    assert why in caught.value.why
    assert caught.value.fix


@pytest.mark.parametrize("request_", RIGHT.values(), ids=RIGHT)
def test_options_that_the_lock_holds_pass(mini: Miniature, request_: Request) -> None:
    """Whether or not they say what the stack says."""
    catalog = mini.catalog
    check_request(request_, select(request_, catalog), catalog)
    check_plan(mini.plan(request_))


def test_a_plan_may_compile_with_a_toolkit_that_is_pinned_alone(mini: Miniature) -> None:
    """And for the stack's own GPUs."""
    plan = mini.plan()
    (nine,) = (parse_architecture("9.0"),)
    for kind in ("wheels", "redist", "system"):
        toolkit = Toolkit(kind=kind, version="12.8", origin="somewhere", identity="x", home=None)
        stack = replace(plan.stack, architectures=(nine,))
        taken = replace(plan, stack=stack, toolkit=toolkit, architectures=(nine,))
        if kind == "system":
            with pytest.raises(LockedError, match="does not hold the CUDA toolkit of this machine"):
                check_plan(taken)
        else:
            check_plan(taken)
            with pytest.raises(UsageError, match="other GPU architectures") as caught:
                check_plan(replace(taken, architectures=(nine, parse_architecture("12.0"))))
            assert caught.value.why == "9.0, 12.0; locked: 9.0"


def manifest(mini: Miniature, request_: Request | None = None) -> dict[str, Any]:
    """Return what would be told of a build."""
    plan = mini.plan(request_)
    ended = RunEnded(plan=plan, artifacts=(), verifications=(), seconds=1.0, error=None)
    return dict(to_manifest(ended))


def test_what_was_built_of_what_the_lock_holds_passes(mini: Miniature) -> None:
    """Sources, patches, flags and requirements."""
    check_manifest(manifest(mini), mini.catalog)


def test_what_was_built_of_anything_else_is_named(mini: Miniature) -> None:
    """All of it, whatever was the reason."""
    built = manifest(mini, Request(sources={"top": "path:/tree"}, flags={"ext.SPEED": "O0"}))
    ext = next(layer for layer in built["layers"] if layer["name"] == "ext")
    ext["source"]["files"][0]["sha256"] = "0" * 64
    ext["patches"][0]["sha256"] = "0" * 64
    ext["source"]["git"] = {"commit": "d" * 40}
    built["requirements"][0]["sha256"] = ["0" * 64]
    built["toolkit"] = {
        "kind": "system",
        "version": "12.8",
        "origin": "/usr/local/cuda-12.8",
        "architectures": ["8.0"],
        "files": [{"filename": "redistrib.json", "sha256": "0" * 64}],
        "requirements": [{"name": "nvcc", "version": "12.8", "sha256": ["0" * 64]}],
    }
    with pytest.raises(LockedError, match="what was built of mini is not what") as caught:
        check_manifest(built, mini.catalog)
    first = built["requirements"][0]
    assert caught.value.why.split("\n") == [
        "ext: file ext-2.0.tar.gz",
        "ext: patch ext-always",
        f"ext: commit {'d' * 40}",
        "ext: flag SPEED=O0",
        "top 3.0 from 'path'",
        "requirement nvcc 12.8",
        f"requirement {first['name']} {first['version']}",
        "the CUDA toolkit of this machine, /usr/local/cuda-12.8",
        "GPU architectures: 8.0; locked: none",
        "the CUDA toolkit's redistrib.json",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (EXT, "one compiled module", "a module", ["ext: another recipe"]),
        (SERIES, 'when = { base = ">=2" }', "when = {}", ["ext: without patch ext-new-base"]),
        (SERIES, '{ base = ">=2" }', '{ base = "<2", gcc = ">=12" }', ["ext: without patch ext-new-base"]),
        (SERIES, '{ backend = ">=80" }', '{ backend = ">=80", clang = ">=1" }', ["ext: patch ext-new-backend"]),
        (SERIES, '{ python = ">=3.12" }', '{ python = ">=3.13" }', []),
    ],
)
def test_what_was_built_before_the_lock_was_written_anew_is_named(
    mini: Miniature, file: str, old: str, new: str, said: list[str]
) -> None:
    """By what of it would be otherwise now, where it was built: a recipe, a patch more or less."""
    built = manifest(mini)
    mini.edit(file, old, new)
    mini.put("stacks/mini.lock", write_lock(kept(mini.catalog.stack("mini"), mini.catalog)))
    check(mini.catalog.stacks.values(), mini.catalog)
    if not said:
        check_manifest(built, mini.catalog)
        return
    with pytest.raises(LockedError) as caught:
        check_manifest(built, mini.catalog)
    assert caught.value.why.split("\n") == said


def test_patches_in_another_order_are_named(mini: Miniature, tmp_path: Path) -> None:
    """They are applied one on top of another."""
    built = manifest(mini)
    head, *entries = (tmp_path / SERIES).read_text(encoding="utf-8").split("[[patch]]\n")
    mini.put(SERIES, "[[patch]]\n".join([head, *reversed(entries)]))
    with pytest.raises(LockedError) as caught:
        check_manifest(built, mini.catalog)
    assert caught.value.why == "ext: its patches in another order"
