"""What a wheel says of itself: a bill that others can read and its key alone decides, in a wheel that stays sound."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from mmstack import bill
from mmstack.builders.enclose import enclose, metadata
from mmstack.errors import GateError, PinError, UsageError
from mmstack.model import Architecture, Artifact, Compiler, DistroPackage, FilePin, Linker, Request, Toolkit
from mmstack.sources.git import Submodule
from tests.miniature import HOST, INTERPRETER, PINS, Miniature, pinned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmstack.model import Plan

MOMENT = 1_700_000_000
METADATA = b"Metadata-Version: 2.4\nName: ext\nVersion: 2.0\nLicense-Expression: Apache-2.0\n"
COMPILER = Compiler(
    cc=Path("/home/someone/bin/gcc"),
    cxx=Path("/home/someone/bin/g++"),
    version="g++ (Debian 12.2.0-14) 12.2.0",
    linker=Linker(kind="mold", version="mold 2.40.0"),
)
SUBMODULE = Submodule(path="third_party/part", url="https://github.com/org/part.git", commit="d" * 40)
PACKAGE = DistroPackage(name="libdemo-dev", version="1.2", architecture="amd64", sha256="d" * 64)
# of the bill below: whoever changes what is written raises ENGINE, and then this
GOLDEN = "ce86feef3bc555847fee0f2df00202cfdf86830bc475e05fd7b77a094c31b3b2"


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    """Three layers, the middle one patched and to be had from every kind of source."""
    return Miniature(root=tmp_path).write().pin_every_way()


def wheel_bill(plan: Plan, name: str = "ext", text: bytes = METADATA, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the bill of a layer's wheel."""
    made_of = bill.ingredients(plan, plan.layer(name), moment=MOMENT, **more)
    return dict(json.loads(bill.of_wheel(made_of, text)))


def facts(component: Mapping[str, Any]) -> dict[str, str]:
    """Return what of a component has no place in the format."""
    return {item["name"].removeprefix("mmstack:"): item["value"] for item in component["properties"]}


def by_role(document: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return a bill's components by what they are to the wheel."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for item in document["components"]:
        found.setdefault(facts(item)["role"], []).append(item)
    return found


def complaints(document: Mapping[str, Any]) -> list[str]:
    """Return what the published schema has against a bill."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    return [repr(error)] if error else []


def a_wheel(folder: Path, members: Mapping[str, bytes] | None = None, name: str = "ext-2.0-py3-none-any.whl") -> Path:
    """Write a small wheel with a sound RECORD, its files in no order."""
    files = {
        "ext/run.sh": b"#!/bin/sh\n",
        "ext/__init__.py": b"",
        **(members or {}),
        "ext-2.0.dist-info/METADATA": METADATA,
    }
    files["ext-2.0.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = [f"{each},{_digest(body)},{len(body)}" for each, body in files.items()]
    files["ext-2.0.dist-info/RECORD"] = "\n".join([*rows, "ext-2.0.dist-info/RECORD,,"]).encode()
    wheel = folder / name
    with zipfile.ZipFile(wheel, "w") as archive:
        for each, body in files.items():
            entry = zipfile.ZipInfo(each, (2020, 1, 1, 0, 0, 0))
            entry.external_attr = (0o100775 if each.endswith(".sh") else 0o100660) << 16
            archive.writestr(entry, body)
    return wheel


def _digest(body: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()


def record_of(wheel: Path) -> dict[str, tuple[str, str]]:
    """Return what a wheel's RECORD says of each file."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("ext-2.0.dist-info/RECORD").decode()
    return {name: (digest, size) for name, digest, size in csv.reader(text.splitlines())}


def test_a_bill_says_what_goes_into_a_wheel(mini: Miniature) -> None:
    """Source, patches with their reasons, what it is built with and against, each by version and digest."""
    plan = mini.plan(host=replace(HOST, compiler=COMPILER), linker=COMPILER.linker)
    document = wheel_bill(plan)
    main, parts = document["metadata"]["component"], by_role(document)
    assert (main["name"], main["version"], main["purl"]) == ("ext", "2.0", "pkg:pypi/ext@2.0")
    assert main["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert facts(main) == {
        "role": "layer",
        "layer": "ext",
        "key": plan.layer("ext").key,
        "engine": "3",
        "recipe": plan.layer("ext").recipe.digest,
        "source": "sdist",
        "cuda": "cpu",
        "python": "cp311",
        "platform": "linux_x86_64",
        "flag:SPEED": "O1",
        "variable:MAX_JOBS": "{jobs}",
    }
    (source,) = main["pedigree"]["ancestors"]
    assert source["hashes"] == [{"alg": "SHA-256", "content": "5" * 64}]
    assert source["purl"] == "pkg:pypi/ext@2.0?file_name=ext-2.0.tar.gz"
    patch, _of_the_backend = parts["patch"]
    assert (patch["name"], patch["description"]) == ("patches/ext/0001-always.patch", "r")
    assert patch["hashes"][0]["content"] == plan.layer("ext").patches[0].sha256
    assert [item["resolves"][0]["id"] for item in main["pedigree"]["patches"]] == ["ext-always", "ext-new-backend"]
    assert [(item["name"], item["version"]) for item in parts["build"]] == [("backend", "82"), ("old-helper", "1")]
    assert [(item["name"], item["version"]) for item in parts["compiler"]] == [("gcc", "12.2.0")]
    assert parts["compiler"][0]["description"] == COMPILER.version
    assert [item["description"] for item in parts["linker"]] == ["mold 2.40.0"]
    (below,) = parts["against"]
    assert (below["name"], below["version"], below["scope"]) == ("proj-base", "1.0+small", "required")
    assert below["hashes"][0]["content"] == "1" * 64
    assert complaints(document) == []


@pytest.mark.parametrize("kind", ["git", "archive", "distro", "sdist"])
def test_every_kind_of_source_has_its_place(mini: Miniature, kind: str) -> None:
    """Commit, tag, submodules and parts, packages of a distribution; each bill follows the published schema."""
    if kind == "distro":
        mini.lock(PINS, packages={"ext": (PACKAGE,)})
    plan = mini.plan(Request(sources={"ext": kind}))
    document = wheel_bill(plan, submodules=[SUBMODULE] if kind == "git" else [])
    assert complaints(document) == []
    (source,) = document["metadata"]["component"]["pedigree"]["ancestors"]
    if kind == "git":
        assert facts(source)["commit"] == "c" * 40
        assert facts(source)["tag"] == "v2.0"
        assert document["metadata"]["component"]["pedigree"]["commits"][0]["uid"] == "c" * 40
        (module,) = by_role(document)["submodule"]
        assert (module["purl"], facts(module)["path"]) == (f"pkg:github/org/part@{'d' * 40}", "third_party/part")
        return
    assert source["hashes"][0]["content"] == {"archive": "a1" * 32, "distro": "a2" * 32, "sdist": "5" * 64}[kind]
    if kind == "distro":
        parts = by_role(document)
        assert (source["name"], source["version"], facts(source)["distribution"]) == ("libext", "2.0-1", "wooden")
        assert {facts(item)["path"]: item["hashes"][0]["content"] for item in parts["part"]} == {
            "third_party/part": "a3" * 32,
            "third_party/other": "a4" * 32,
        }
        assert [(item["name"], item["version"]) for item in parts["package"]] == [("libdemo-dev", "1.2")]


@pytest.mark.parametrize("kind", ["git", "archive", "distro"])
def test_what_is_in_the_wheel_is_required_and_what_made_it_is_not(mini: Miniature, kind: str) -> None:
    """Who looks for what is vulnerable passes over what is excluded."""
    if kind == "distro":
        mini.lock(PINS, packages={"ext": (PACKAGE,)})
    plan = mini.plan(Request(sources={"ext": kind}), host=replace(HOST, compiler=COMPILER), linker=COMPILER.linker)
    parts = by_role(wheel_bill(plan, submodules=[SUBMODULE] if kind == "git" else []))
    tools = {"build", "compiler", "linker"}
    assert set(parts) - tools == {
        "patch",
        "against",
        *{"git": {"submodule"}, "distro": {"part", "package"}}.get(kind, ()),
    }
    for role, items in parts.items():
        assert {item["scope"] for item in items} == {"excluded" if role in tools else "required"}, role


@pytest.mark.parametrize("kind", ["git", "archive", "distro"])
def test_what_only_its_owner_may_know_of_an_address_is_in_no_bill(mini: Miniature, kind: str) -> None:
    """A password or a token of a company's own fork: a wheel goes further than the recipe that has it."""
    if kind == "distro":
        mini.lock(PINS, packages={"ext": (PACKAGE,)})
    plan = mini.plan(Request(sources={"ext": kind}))
    layer = plan.layer("ext")
    secret, told = "https://bot:s3cret@forge.test/ext.git?token=s3cret", "https://forge.test/ext.git"
    git, distro = layer.source.git, layer.source.distro
    source = replace(
        layer.source,
        urls=(secret,) if layer.source.urls else (),
        git=git and replace(git, url=secret),
        distro=distro and replace(distro, parts=tuple(replace(part, urls=(secret,)) for part in distro.parts)),
    )
    held = replace(plan, layers=tuple(replace(item, source=source) if item is layer else item for item in plan.layers))
    modules = [replace(SUBMODULE, url=secret)] if kind == "git" else []
    text = json.dumps(wheel_bill(held, submodules=modules))
    assert "s3cret" not in text
    assert told in text


def test_a_folder_of_the_users_own_is_known_by_its_digest_alone(mini: Miniature) -> None:
    """Where it is on this machine is nobody's business."""
    plan = mini.plan(Request(sources={"ext": "path:/home/someone/ext"}), trees={"ext": "e" * 64})
    text = json.dumps(wheel_bill(plan))
    assert "e" * 64 in text
    assert "someone" not in text


def test_licences_are_those_of_the_metadata(mini: Miniature) -> None:
    """An SPDX expression, a name, or what the classifiers say; nothing where it says nothing."""
    texts = {
        b"License-Expression: MIT OR Apache-2.0\n": [{"expression": "MIT OR Apache-2.0"}],
        b"License: BSD-3-Clause\n": [{"license": {"id": "BSD-3-Clause"}}],
        b"License: Apache License 2.0\n": [{"license": {"name": "Apache License 2.0"}}],
        b"License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n": [
            {"license": {"name": "MIT License"}}
        ],
        b"Name: ext\n": None,
    }
    plan = mini.plan()
    for text, expected in texts.items():
        document = wheel_bill(plan, text=text)
        found = [
            {key: {k: v for k, v in value.items() if k != "acknowledgement"} if isinstance(value, dict) else value}
            for item in document["metadata"]["component"].get("licenses", [])
            for key, value in item.items()
            if key != "acknowledgement"
        ]
        assert (found or None) == expected
        assert complaints(document) == []


def test_the_same_key_gives_the_same_bill(mini: Miniature) -> None:
    """Whatever machine, user, number of jobs or place of the toolkit: what is in no key is in no bill."""
    here = mini.plan(host=replace(HOST, compiler=COMPILER))
    there = mini.plan(
        Request(jobs=7),
        host=replace(
            HOST, compiler=replace(COMPILER, cc=Path("/opt/gcc"), cxx=Path("/opt/g++"), linker=None), cores=64
        ),
        interpreter=replace(INTERPRETER, path=Path("/opt/python"), version="3.11.9"),
    )
    assert here.layer("ext").key == there.layer("ext").key
    assert wheel_bill(here) == wheel_bill(there)
    assert "/" not in "".join(facts(wheel_bill(here)["metadata"]["component"]).values())
    pure = replace(here.layer("top"), cuda="13.0")  # what is compiled by nobody is the same for any CUDA
    assert wheel_bill(here, "top") == wheel_bill(replace(here, layers=(*here.layers[:2], pure)), "top")


def test_a_toolkit_is_known_by_what_it_is_made_of(mini: Miniature) -> None:
    """Its version and identity, its wheels or archives by digest; where on this machine it is, is not said."""
    plan = mini.plan()
    gpu = replace(plan.layer("ext").facts, cuda="13.0", architectures=(Architecture(major=9, minor=0, ptx=True),))
    layer = replace(plan.layer("ext"), facts=gpu)
    toolkit = Toolkit(
        kind="redist",
        version="13.0",
        origin="/opt/cuda",
        identity="f" * 64,
        home=Path("/opt/cuda"),
        requirements=(pinned("nvidia-cuda-nvcc==13.0"),),
        manifest=FilePin(filename="redistrib_13.0.json", sha256="b" * 64),
    )
    archive = FilePin(filename="cuda_nvcc.tar.xz", sha256="c" * 64)
    document = wheel_bill(replace(plan, layers=(plan.layers[0], layer), toolkit=toolkit), archives=[archive])
    parts = by_role(document)
    assert [(item["name"], item["version"]) for item in parts["toolkit"]] == [("cuda-toolkit", "13.0")]
    assert facts(parts["toolkit"][0])["identity"] == "f" * 64
    assert {item["name"]: item["hashes"][0]["content"] for item in parts["toolkit-part"]} == {
        "nvidia-cuda-nvcc": "a" * 64,
        "redistrib_13.0.json": "b" * 64,
        "cuda_nvcc.tar.xz": "c" * 64,
    }
    assert facts(document["metadata"]["component"])["architecture"] == "9.0+PTX"
    assert "/opt/cuda" not in json.dumps(document)
    assert complaints(document) == []


@pytest.mark.parametrize("change", ["reason", "upstream", "id", "file"])
def test_what_the_bill_says_of_a_patch_is_in_the_key(mini: Miniature, change: str) -> None:
    """Another reason or link makes another bill, so it makes another key."""
    before = mini.layer("ext").key
    if change == "file":
        mini.put("patches/ext/0001-other.patch", (mini.root / "patches/ext/0001-always.patch").read_bytes())
        mini.edit("patches/ext/series.toml", "0001-always.patch", "0001-other.patch")
    else:
        old = {"reason": 'reason = "r"', "upstream": 'upstream = "u"', "id": 'id = "ext-always"'}[change]
        mini.edit("patches/ext/series.toml", old, f'{old[:-1]}-new"')
    assert mini.layer("ext").key != before


def test_another_key_gives_another_bill(mini: Miniature) -> None:
    """The key itself is in it."""
    fast = mini.plan(Request(flags={"ext.SPEED": "O2"}))
    assert wheel_bill(fast) != wheel_bill(mini.plan())
    assert facts(wheel_bill(fast)["metadata"]["component"])["flag:SPEED"] == "O2"


def test_a_wheel_with_a_bill_is_a_sound_wheel(tmp_path: Path) -> None:
    """RECORD names every file with its digest, order, dates and modes are fixed, and what was in it stays."""
    wheel = a_wheel(tmp_path)
    before = record_of(wheel)
    enclose(wheel, bill.PLACE, b"{}\n", MOMENT)
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
        bodies = {entry.filename: archive.read(entry) for entry in entries}
    ours = "ext-2.0.dist-info/sboms/mmstack.cdx.json"
    assert [entry.filename for entry in entries] == [
        "ext/__init__.py",
        "ext/run.sh",
        "ext-2.0.dist-info/METADATA",
        "ext-2.0.dist-info/WHEEL",
        ours,
        "ext-2.0.dist-info/RECORD",
    ]
    assert {entry.date_time for entry in entries} == {(2023, 11, 14, 22, 13, 20)}
    assert {entry.filename for entry in entries if entry.external_attr >> 16 == 0o100755} == {"ext/run.sh"}
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644, 0o100755}
    assert record_of(wheel) == {**before, ours: (_digest(b"{}\n"), "3")}
    for name, (digest, size) in record_of(wheel).items():
        assert name.endswith("RECORD") or (digest, size) == (_digest(bodies[name]), str(len(bodies[name])))
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_bill_is_put_in_once(tmp_path: Path) -> None:
    """A build that was stopped after it does the same again, to the same bytes."""
    wheel = a_wheel(tmp_path)
    enclose(wheel, bill.PLACE, b"{}\n", MOMENT)
    once = wheel.read_bytes()
    enclose(wheel, bill.PLACE, b"{}\n", MOMENT)
    assert wheel.read_bytes() == once


def test_what_a_killed_run_leaves_is_no_second_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel without its bill is still there alone, and the next run goes on from it."""
    wheel = a_wheel(tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda _path, **_words: None)
        killed.setattr(Path, "replace", lambda _path, _target: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            enclose(wheel, bill.PLACE, b"{}\n", MOMENT)
    assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.glob("*.whl")) == [wheel]
    enclose(wheel, bill.PLACE, b"{}\n", MOMENT)
    assert list(tmp_path.iterdir()) == [wheel]
    assert "ext-2.0.dist-info/sboms/mmstack.cdx.json" in record_of(wheel)


def test_the_bytes_are_these(mini: Miniature) -> None:
    """What is written changes with the engine's number, or not at all."""
    plan = mini.plan(Request(sources={"ext": "git"}), host=replace(HOST, compiler=COMPILER), linker=COMPILER.linker)
    made_of = bill.ingredients(plan, plan.layer("ext"), moment=MOMENT, submodules=[SUBMODULE])
    text = bill.of_wheel(made_of, METADATA)
    key, recipe = plan.layer("ext").key, plan.layer("ext").recipe.digest
    serial = json.loads(text)["serialNumber"]
    for part in (key, recipe, serial, plan.layer("base").key):  # these are held by tests of their own
        text = text.replace(part, "")
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN


def test_what_is_no_wheel_gets_no_bill(tmp_path: Path) -> None:
    """Two dist-info folders, or none: nothing is written."""
    wheel = a_wheel(tmp_path, {"other-1.dist-info/RECORD": b""})
    before = wheel.read_bytes()
    with pytest.raises(GateError, match="is no wheel"):
        enclose(wheel, bill.PLACE, b"{}", MOMENT)
    assert wheel.read_bytes() == before
    assert list(tmp_path.iterdir()) == [wheel]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_what_packing_anew_would_hide_is_refused(tmp_path: Path) -> None:
    """Of two files of a name one would be left, and a link would become a file: the gate could not see them."""
    wheel = a_wheel(tmp_path)
    link = zipfile.ZipInfo("ext/link.py")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("ext/__init__.py", b"other = 1\n")
        archive.writestr(link, b"/etc/passwd")
    before = wheel.read_bytes()
    with pytest.raises(GateError) as caught:
        enclose(wheel, bill.PLACE, b"{}", MOMENT)
    assert caught.value.why.splitlines() == [
        "more than once in the wheel: ext/__init__.py",
        "symbolic links: ext/link.py",
    ]
    assert wheel.read_bytes() == before
    assert list(tmp_path.iterdir()) == [wheel]


def test_the_bill_of_a_stack_holds_those_of_its_wheels(mini: Miniature, tmp_path: Path) -> None:
    """Each wheel by its digest, what is inside, what the stack requires, and who needs whom."""
    plan = mini.plan()
    artifacts = []
    for layer in plan.layers:
        wheel = a_wheel(tmp_path, name=f"{layer.name}-2.0-py3-none-any.whl")
        if layer.source.kind != "wheel":
            made_of = bill.ingredients(plan, layer, moment=MOMENT)
            enclose(wheel, bill.PLACE, bill.of_wheel(made_of, metadata(wheel)).encode(), MOMENT)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        size = wheel.stat().st_size
        artifacts.append(Artifact(layer=layer.name, key=layer.key, path=wheel, sha256=digest, size=size))
    text = bill.of_stack(plan, artifacts)
    document = json.loads(text)
    assert complaints(document) == []
    assert text == bill.of_stack(plan, artifacts)
    assert str(tmp_path) not in text
    parts = by_role(document)
    assert {item["bom-ref"]: item["hashes"][0]["content"] for item in parts["layer"]} == {
        item.layer: item.sha256 for item in artifacts
    }
    assert [item["name"] for item in parts["requirement"]] == [item.name for item in plan.run_requires]
    assert [item["bom-ref"] for item in parts["patch"]] == ["ext/patch/ext-always", "ext/patch/ext-new-backend"]
    needs = {item["ref"]: item.get("dependsOn", []) for item in document["dependencies"]}
    assert {"base", "ext"} <= set(needs["top"])
    assert {"base", "ext", "top"} <= set(needs["stack/mini"])
    assert document["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"


def test_a_wheel_without_a_bill_is_told_from_what_is_no_wheel(tmp_path: Path) -> None:
    """Not there, no archive, no wheel, no bill, no JSON, no document: never a traceback."""
    plain = a_wheel(tmp_path)
    with pytest.raises(UsageError, match="does not say what it is made of"):
        bill.read(plain)
    with pytest.raises(UsageError, match="cannot be read"):
        bill.read(tmp_path / "none.whl")
    (tmp_path / "text.whl").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "archive.whl", "w") as archive:
        archive.writestr("a", "b")
    broken = [tmp_path / "text.whl", tmp_path / "archive.whl"]
    for number, body in enumerate([b"{", b"[]", b"\xff"]):
        wheel = a_wheel(tmp_path, name=f"ext-2.{number}-py3-none-any.whl")
        enclose(wheel, bill.PLACE, body, MOMENT)
        broken.append(wheel)
    for file in broken:
        with pytest.raises(PinError, match="is no wheel, or is damaged"):
            bill.read(file)


def test_requirements_of_several_files_claim_no_digest(mini: Miniature) -> None:
    """Which of them was taken depends on the machine: all are named, none is said to be it."""
    plan = mini.plan()
    several = replace(pinned("backend==82"), sha256=("a" * 64, "b" * 64))
    layer = replace(plan.layer("ext"), build_requires=(several,))
    document = wheel_bill(replace(plan, layers=(plan.layers[0], layer, plan.layers[2])))
    (item,) = by_role(document)["build"]
    assert "hashes" not in item
    assert [each["value"] for each in item["properties"] if each["name"] == "mmstack:one-of"] == [
        f"sha256:{'a' * 64}",
        f"sha256:{'b' * 64}",
    ]
