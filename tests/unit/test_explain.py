"""A wheel explained: the command that makes it again makes that one, and what no bill of ours is, is refused."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mmstack import bill
from mmstack.errors import NoBillError, PinError
from mmstack.explain import explain
from mmstack.keys import file_digest
from mmstack.model import Compiler, Installed, Linker, Request
from tests.miniature import BIG, HOST, PINS, SMALL, Miniature

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmstack.model import Plan

METADATA = b"Metadata-Version: 2.4\nName: ext\nVersion: 2.0\nLicense-Expression: MIT\n"
COMPILER = Compiler(cc=Path("gcc"), cxx=Path("g++"), version="g++ (Debian 12.2.0-14) 12.2.0")
USUAL = "uv run invoke build-stack --stack mini --python 3.11 --stop-after gate"


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    """Three layers: the middle one is to be had from every kind of source, the upper one is built against it."""
    mini = Miniature(root=tmp_path / "checkout").write().pin_every_way()
    mini.edit("pipelines/top/recipe.toml", "[build]\n", '[build]\nagainst = ["ext"]\n')
    mini.lock(PINS)
    return mini


def of_wheel(plan: Plan, name: str) -> dict[str, Any]:
    """Return the bill of a layer's wheel."""
    made_of = bill.ingredients(plan, plan.layer(name), moment=1_700_000_000)
    return dict(json.loads(bill.of_wheel(made_of, METADATA)))


def told(mini: Miniature, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of a wheel that holds a bill."""
    wheel = mini.root / "x-2.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"x-2.0.dist-info/{bill.PLACE}", json.dumps(document))
    said, lines = explain(wheel, mini.catalog)
    assert all(isinstance(line, str) for line in lines)
    return said


def test_a_wheel_built_against_released_ones_is_made_again_without_doubt(mini: Miniature) -> None:
    """They are known by sha256, and this checkout pins them, whichever of them the index offers."""
    for file in (SMALL, BIG):
        said = told(mini, of_wheel(mini.plan(base=file), "ext"))
        assert (said["command"], said["doubt"]) == (USUAL, "")


def test_a_released_wheel_is_what_it_is_pinned_as(mini: Miniature) -> None:
    """It holds no bill: its sha256 says which release it is; of one that nobody pins nothing is told."""
    wheel = mini.root / SMALL.filename
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("proj_base-1.0.dist-info/WHEEL", "")
    with pytest.raises(NoBillError, match="does not say what it is made of"):
        explain(wheel, mini.catalog)
    mini.edit("pipelines/base/recipe.toml", SMALL.sha256, file_digest(wheel))
    said, lines = explain(wheel, mini.catalog)
    assert (said["layer"], said["version"], said["source"]["kind"]) == ("base", "1.0", "wheel")
    assert said["command"] == "uv run invoke fetch --stack mini --python 3.11"
    mini.edit("pipelines/base/recipe.toml", file_digest(wheel), SMALL.sha256)
    mini.edit("pipelines/base/recipe.toml", BIG.sha256, file_digest(wheel))
    assert explain(wheel, mini.catalog)[0]["command"] == ""  # the stack takes the first that there is
    mini.edit("pipelines/base/recipe.toml", file_digest(wheel), BIG.sha256)
    mini.edit("pipelines/base/recipe.toml", SMALL.sha256, file_digest(wheel))
    other = SMALL.filename.replace("cp311-cp311", "cp39-cp39")
    mini.edit("pipelines/base/recipe.toml", SMALL.filename, other)
    assert explain(wheel, mini.catalog)[0]["command"] == ""
    mini.edit("pipelines/base/recipe.toml", other, SMALL.filename.replace("cp311-cp311", "py3-none"))
    assert explain(wheel, mini.catalog)[0]["command"] == "uv run invoke fetch --stack mini"
    assert "  source      a release as upstream published it" in lines


def test_a_release_that_this_checkout_does_not_pin_is_a_doubt(mini: Miniature) -> None:
    """The same version in another file."""
    said = told(mini, of_wheel(mini.plan(base=replace(SMALL, sha256="e" * 64)), "ext"))
    assert (
        said["doubt"]
        == f"it was built against proj-base 1.0+small of sha256 {'e' * 64}, which this checkout does not pin"
    )


def test_other_patches_and_another_lock_are_doubts(mini: Miniature) -> None:
    """One that was changed, one that is gone; what it was built with that nobody pins here any more."""
    document = of_wheel(mini.plan(), "ext")
    patch = mini.root / "patches" / "ext" / "0001-always.patch"
    before = file_digest(patch)
    patch.write_text(patch.read_text(encoding="utf-8").replace("Subject: ", "Subject: another ", 1) + "\n", "utf-8")
    mini.edit("patches/ext/series.toml", before, file_digest(patch))
    assert told(mini, document)["doubt"] == "patches of this checkout are others: ext-always"
    mini.lock({name: tuple(line.replace("==82", "==83") for line in lines) for name, lines in PINS.items()})
    assert (
        "it was built with what the lock of 'mini' does not name: backend 82; patches" in told(mini, document)["doubt"]
    )


@pytest.mark.parametrize(
    ("source", "option"), [("git", "ext=git"), ("path:/home/someone/ext", "ext=path:DIR"), ("sdist", "")]
)
def test_the_command_says_where_what_is_below_comes_from(mini: Miniature, source: str, option: str) -> None:
    """Its flags and patches no bill of the upper one tells, so the key is what to compare."""
    asked = Request(sources={"ext": source}, flags={"ext.SPEED": "O0"})
    plan = mini.plan(asked, trees={"ext": "e" * 64} if "path" in source else {})
    said = told(mini, of_wheel(plan, "top"))
    words = f"--source {option} --stop-after" if option else "--stop-after"
    assert said["command"] == USUAL.replace("--stop-after", words)
    assert f"it was built against ext 2.0 of key {plan.layer('ext').key}" in said["doubt"]


def test_what_was_built_against_an_installed_layer_names_a_python(mini: Miniature) -> None:
    """Which holds it, in whatever version."""
    mini.put("pipelines/base/installed.py", "")
    held = Installed(version="1.5", digest="1" * 64, folders=(), support=None)
    asked = Request(sources={"base": "installed"}, python="/opt/python")
    said = told(mini, of_wheel(mini.plan(asked, installed={"base": held}), "ext"))
    assert "--python PATH --source base=installed" in said["command"]


def test_a_stack_with_another_release_below_makes_another_wheel(mini: Miniature) -> None:
    """So no command is given."""
    document = of_wheel(mini.plan(), "ext")
    mini.edit("stacks/mini.toml", 'version = "1.0"', 'version = "1.1"')
    said = told(mini, document)
    assert (said["command"], said["doubt"]) == (
        "",
        "no stack of this checkout has this release and what it is built against",
    )


def test_an_installed_layer_counts_as_what_it_was(mini: Miniature) -> None:
    """A patch for a newer release below is due where such a one was installed, whichever the stack has."""
    document = of_wheel(mini.plan(), "ext")
    for item in document["components"]:
        facts = {each["name"]: each for each in item["properties"]}
        if facts["mmstack:role"]["value"] == "against":
            item["version"] = "2.0"
            facts["mmstack:source"]["value"] = "installed"
    assert "patches of this checkout are others: ext-new-base;" in told(mini, document)["doubt"]


def test_a_stack_whose_lock_is_to_be_written_is_a_doubt(mini: Miniature) -> None:
    """A copy that somebody is about to lock, first by name, hides no wheel's story."""
    document = of_wheel(mini.plan(), "ext")
    (mini.root / "stacks" / "aaa.toml").write_text(
        (mini.root / "stacks" / "mini.toml").read_text(encoding="utf-8").replace('"mini"', '"aaa"'), encoding="utf-8"
    )
    said = told(mini, document)
    assert "--stack aaa" in said["command"]
    assert "aaa.lock" in said["doubt"]


@pytest.mark.parametrize("name", ["--offline", "-x"])
def test_no_value_of_a_bill_becomes_an_option_of_the_command(mini: Miniature, name: str) -> None:
    """Which is there to be typed."""
    linker = Linker(kind="mold", version="mold 2.40.0")
    compiler = replace(COMPILER, linker=linker)
    document = of_wheel(mini.plan(host=replace(HOST, compiler=compiler), linker=linker), "ext")
    assert "--linker mold" in told(mini, document)["command"]
    (part,) = (item for item in document["components"] if item["name"] == "mold")
    part["name"] = name
    with pytest.raises(PinError, match="a bill that mmstack did not write") as caught:
        told(mini, document)
    assert f"{name!r} is no value of an option" in caught.value.why


def test_a_bill_that_lacks_anything_is_refused_or_told(mini: Miniature) -> None:
    """Whichever of its facts is not there, or is empty: there is no traceback."""
    refused = set()
    for kind, name in (("sdist", "ext"), ("git", "ext"), ("git", "top")):
        plan = mini.plan(Request(sources={"ext": kind}))
        refused |= {what for what, document in _damaged(of_wheel(plan, name)) if not _is_told(mini, document)}
    assert {"no mmstack:id", "no mmstack:layer", "no mmstack:key", "no mmstack:file", "no mmstack:commit"} <= refused


def _is_told(mini: Miniature, document: Mapping[str, Any]) -> bool:
    try:
        told(mini, document)
    except PinError:
        return False
    return True


def _damaged(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a bill once without each of its facts, and once with each of them empty or shortened."""
    components = [document["metadata"]["component"], *document["components"]]
    components += document["metadata"]["component"]["pedigree"]["ancestors"]
    for component in components:
        facts = component["properties"]
        for number, fact in enumerate(facts):
            component["properties"] = facts[:number] + facts[number + 1 :]
            yield f"no {fact['name']}", document
            for value in ("", fact["value"][:2]):
                component["properties"] = [*facts[:number], {**fact, "value": value}, *facts[number + 1 :]]
                yield f"another {fact['name']}", document
        component["properties"] = facts
