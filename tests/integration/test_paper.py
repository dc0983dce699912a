"""The paper trail through the front door: what a wheel says of itself, who made it, and that it can be made again."""

from __future__ import annotations

import base64
import csv
import getpass
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from mmstack.envs import uv_path
from tests.statements import check
from tests.support import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import Checkout

PLACE = ".dist-info/sboms/mmstack.cdx.json"


def ext(checkout: Checkout) -> Path:
    """Return the wheel of the compiled layer."""
    return next((checkout.dist / "wheels").glob("miniext-*"))


def bills(checkout: Checkout) -> Iterator[tuple[Path, str]]:
    """Yield each wheel with its bill."""
    for wheel in sorted((checkout.dist / "wheels").iterdir()):
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (each for each in archive.namelist() if each.endswith(PLACE))
            yield wheel, archive.read(name).decode()


def test_each_wheel_holds_a_bill_as_published(golden: Checkout) -> None:
    """In its own dist-info; nothing in it is of this machine, its user or the day."""
    assert len(list(bills(golden))) == 3
    for _wheel, text in bills(golden):
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        for word in (str(golden.root), str(golden.root.parent), str(Path.home()), f'"{getpass.getuser()}"'):
            assert word not in text
    said = {wheel.name.partition("-")[0]: json.loads(text) for wheel, text in bills(golden)}
    (patch,) = said["miniext"]["metadata"]["component"]["pedigree"]["patches"]
    assert patch["resolves"][0]["id"] == "miniext-first-value"


def test_the_wheels_are_sound(golden: Checkout, tmp_path: Path) -> None:
    """Every file is in RECORD with its digest; an installer takes them, and all that they require is there."""
    for wheel, _text in bills(golden):
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            (record,) = (name for name in names if name.endswith(".dist-info/RECORD"))
            rows = {row[0]: row[1:] for row in csv.reader(archive.read(record).decode().splitlines())}
            assert set(rows) == set(names)
            for name in set(names) - {record}:
                digest = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode()
                assert rows[name] == [f"sha256={digest}", str(archive.getinfo(name).file_size)]
    env = tmp_path / "env"
    uv = [str(word) for word in (uv_path(), "--offline", "--no-config", "--cache-dir", tmp_path / "cache")]
    into = ["--python", str(env)]
    wheels = [str(wheel) for wheel, _text in bills(golden)]
    for words in (
        ["venv", "--python", sys.executable, str(env)],
        ["pip", "install", *into, "--find-links", str(golden.index), *wheels],
        ["pip", "check", *into],
    ):
        subprocess.run([*uv, *words], check=True, capture_output=True)
    assert len(list(env.glob("lib/*/site-packages/*/sboms/mmstack.cdx.json"))) == 3


def test_the_stack_has_a_bill_and_a_provenance(golden: Checkout) -> None:
    """Both as published, both by the digests of the wheels that lie beside them."""
    text = (golden.dist / "sbom.cdx.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    digests = {each["content"] for item in json.loads(text)["components"] for each in item.get("hashes", [])}
    assert set(golden.wheels().values()) <= digests
    statement = json.loads((golden.dist / "provenance.json").read_text(encoding="utf-8"))
    check(statement)
    assert {item["name"]: item["digest"]["sha256"] for item in statement["subject"]} == golden.wheels()
    inputs = {
        item["digest"].get("sha256") for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert {sha256(file) for file in golden.index.glob("*.tar.gz")} <= inputs
    assert statement["predicate"]["buildDefinition"]["externalParameters"] == {"stack": "mini"}


def test_a_bill_that_is_gone_is_written_again(built: Checkout) -> None:
    """As all that a stack's folder holds."""
    before = (built.dist / "sbom.cdx.json").read_bytes()
    (built.dist / "sbom.cdx.json").unlink()
    assert built.build().code == 0
    assert (built.dist / "sbom.cdx.json").read_bytes() == before


def test_a_wheel_alone_tells_its_story(golden: Checkout, tmp_path: Path) -> None:
    """Source, patches and why, flags, compiler, what it was built against, and a command that makes it again."""
    wheel = shutil.copy(ext(golden), tmp_path)
    done = golden.invoke("explain", str(wheel))
    assert done.code == 0, done.text
    text = " ".join(done.out.split())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = f"uv run invoke build-stack --stack mini --python {version} --stop-after gate"
    for words in (
        "miniext 2.0",
        f"sdist miniext-2.0.tar.gz, sha256 {sha256(golden.index / 'miniext-2.0.tar.gz')}",
        "miniext-first-value: The sum leaves the first value out. (https://example.org/miniext/issues/1)",
        "flags SPEED=O1",
        f"compiler {golden.manifest()['compiler']['version']}",
        "against minibase 1.0, key",
        f"make again {command}",
    ):
        assert words in text
    said = json.loads(golden.invoke("explain", str(wheel), "--json").out)
    assert (said["command"], said["sha256"]) == (command, sha256(Path(wheel)))
    keys = {item["name"]: item["key"] for item in golden.manifest()["layers"]}
    assert said["doubt"].startswith(f"it was built against minibase 1.0 of key {keys['base']}")
    assert said["key"] == keys["ext"]


def test_the_command_names_what_is_unusual(built: Checkout) -> None:
    """Flags that no default gives, and a doubt where the recipe here is another."""
    assert built.build("--flag", "ext.SPEED=O2", "--stop-after", "gate").code == 0
    (wheel,) = (path for path in built.state.glob("artifacts/*/miniext-*") if sha256(path) != sha256(ext(built)))
    said: dict[str, Any] = json.loads(built.invoke("explain", str(wheel), "--json").out)
    assert "--flag ext.SPEED=O2" in said["command"]
    built.edit("pipelines/ext/recipe.toml", ("one compiled module", "a compiled module"))
    said = json.loads(built.invoke("explain", str(wheel), "--json").out)
    assert "the recipe of this checkout is another" in said["doubt"]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda folder, _golden: folder / "none.whl", 2),
        (lambda folder, _golden: _written(folder / "text.whl", b"no archive"), 4),
        (lambda _folder, golden: next(golden.index.glob("setuptools-*.whl")), 2),
        (lambda folder, golden: _written(folder / "half.whl", ext(golden).read_bytes()[:3000]), 4),
    ],
    ids=["not there", "no wheel", "no bill", "torn"],
)
def test_what_says_nothing_of_itself_is_an_error(golden: Checkout, tmp_path: Path, make: Any, code: int) -> None:  # noqa: ANN401
    """With a remedy, and no traceback."""
    done = golden.invoke("explain", str(make(tmp_path, golden)))
    assert done.code == code, done.text
    assert "  fix  " in done.err
    assert "Traceback" not in done.text


def _written(file: Path, body: bytes) -> Path:
    file.write_bytes(body)
    return file


def test_a_fresh_checkout_elsewhere_makes_the_same_bits(golden: Checkout, fresh: Checkout) -> None:
    """From the manifest of the first: nothing of it is there but the inputs."""
    done = fresh.invoke("rebuild", "--from", str(golden.dist / "manifest.json"), "--json")
    assert done.code == 0, done.text
    rebuilt = json.loads(done.out)["rebuilt"]
    assert {item["filename"]: item["rebuilt"] for item in rebuilt} == golden.wheels()
    assert all(item["same"] for item in rebuilt)
    assert not list(fresh.state.glob("artifacts/*"))
    assert not list(fresh.state.glob("rebuild/*"))
    assert not fresh.dist.exists()


def test_what_comes_out_differently_is_shown(built: Checkout) -> None:
    """Built for another flag under the same name: the section is named, and nothing was taken from the store."""
    wheel = ext(built)
    assert built.build("--flag", "ext.SPEED=O0", "--stop-after", "gate").code == 0
    (other,) = (path for path in built.state.glob("artifacts/*/miniext-*") if sha256(path) != sha256(wheel))
    assert built.build().code == 0
    shutil.copyfile(other, wheel)
    manifest = built.manifest()
    for item in manifest["artifacts"]:
        item["sha256"] = sha256(built.dist / "wheels" / item["filename"])
    (built.dist / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = built.invoke("rebuild", "--from", str(built.dist), "--json")
    assert done.code == 1, done.text
    (different,) = (item for item in json.loads(done.out)["rebuilt"] if not item["same"])
    assert [line for line in different["differences"] if "section .text differs" in line]
    assert "1 of 3 wheels came out differently" in done.err
    assert "section .text differs" in done.err
    assert "mmstack.cdx.json: line" in done.err


def test_another_checkout_is_refused(built: Checkout) -> None:
    """Its patch is another: it is named, and nothing is built."""
    built.repatch(("i = 0; i < count", "i = 0; count > i"))
    done = built.invoke("rebuild", "--from", str(built.dist / "manifest.json"))
    assert done.code == 4, done.text
    assert "patch miniext-first-value is another" in done.err
    assert "> build" not in done.out


def test_a_manifest_that_is_not_there_is_named(built: Checkout, tmp_path: Path) -> None:
    """And one that is none."""
    assert built.invoke("rebuild", "--from", str(tmp_path / "manifest.json")).code == 2
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    assert built.invoke("rebuild", "--from", str(tmp_path)).code == 2
