"""Building a stack in miniature through the front door: what a user may rely on."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.support import UPSTREAMS, sha256, times

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support import Checkout


def test_the_first_run_leaves_everything_in_dist(golden: Checkout) -> None:
    """Wheels, a ready environment, a manifest, a report, requirements and logs."""
    manifest = golden.manifest()
    assert manifest["verdict"] == "verified"
    assert {step["outcome"] for step in manifest["steps"]} == {"done"}
    assert {item["filename"]: item["sha256"] for item in manifest["artifacts"]} == golden.wheels()
    assert [found["counts"] for found in manifest["verifications"]] == [
        {"passed": 1, "failed": 0, "not run": 0},
        {"passed": 2, "failed": 0, "not run": 1},
        {"passed": 2, "failed": 0, "not run": 0},
    ]
    assert "miniext-first-value" in (golden.dist / "report.html").read_text()
    shown = {event["name"] for event in json.loads((golden.dist / "trace.json").read_text())["traceEvents"]}
    assert {step["title"] for step in manifest["steps"]} < shown
    assert manifest["cpu_seconds"] > 0
    assert "--hash=sha256:" in (golden.dist / "requirements" / "run.txt").read_text()
    assert {log.name for log in (golden.dist / "logs").iterdir()} == {
        "install.log",
        "verify-base.log",
        "verify-ext.log",
        "verify-top.log",
    }


def test_the_environment_works_from_any_directory(golden: Checkout, tmp_path: Path) -> None:
    """Activated or not, wherever one stands."""
    words = [str(golden.dist / "env" / "bin" / "python"), "-c", "import minitop; print(minitop.mean([1, 2, 6]))"]
    for folder in (tmp_path, golden.root, golden.dist):
        assert subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout == "3.0\n"


def test_the_second_run_does_nothing(built: Checkout) -> None:
    """It says so, and no file changes."""
    before = times(built.dist, built.state / "artifacts", built.state / "verified", built.state / "downloads")
    done = built.build()
    assert done.code == 0, done.text
    assert "nothing to do: every step was done before" in done.out
    assert "> " not in done.out
    assert times(built.dist, built.state / "artifacts", built.state / "verified", built.state / "downloads") == before


SPY = """
import sys
sys.addaudithook(lambda event, words: event == "subprocess.Popen" and print("started", words[1], file=sys.stderr))
"""
LIBRARIES = ("httpx2", "unearth", "jinja2", "filelock", "psutil", "unidiff", "elftools")
HEAVY = (*LIBRARIES, "mmstack.gates", "mmstack.bundle", "mmstack.trace")
# cc, c++ three times, uv twice
ASKED = ("--version", "--version", "-dumpmachine", "-Wl,--version", "--version", "python list")


def test_the_second_run_starts_little(built: Checkout, tmp_path: Path) -> None:
    """What makes a start slow is not loaded, and few programs are asked for what may have changed."""
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY, encoding="utf-8")
    done = built.build(PYTHONPROFILEIMPORTTIME="1", PYTHONPATH=str(tmp_path / "spy"))
    assert "nothing to do" in done.out
    lines = done.err.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "mmstack.workshop" in loaded
    assert not loaded & set(HEAVY)
    # and one that ends these when we are killed
    programs = [line for line in lines if line.startswith("started") and "os.getsid" not in line and "smi" not in line]
    assert len(programs) <= len(ASKED), programs


def test_plan_says_what_is_there(fresh: Checkout) -> None:
    """Before: nothing. After the lowest layer: its steps. After all: every step."""
    assert not any(fresh.plan().values())
    fresh.build("--stop-after", "gate")
    assert {step for step, cached in fresh.plan().items() if not cached} == {
        "fetch",
        "install",
        "verify base",
        "verify ext",
        "verify top",
    }
    assert fresh.build().code == 0
    assert all(fresh.plan().values())


def test_a_dry_run_builds_nothing(fresh: Checkout) -> None:
    """`--dry-run` shows the plan; what it remembers of this machine's Pythons is all that it writes."""
    before = times(fresh.root)
    done = fresh.build("--dry-run")
    assert done.code == 0, done.text
    assert "to do" in done.out
    assert "verify" not in fresh.build("--dry-run", "--stop-after", "gate").out
    written = {path.removeprefix(f"{fresh.root}/") for path in set(times(fresh.root)) - set(before)}
    remembered = (".mmstack/pythons/", "__pycache__")
    others = {path for path in written if not any(part in f"{path}/" for part in remembered)}
    assert others <= {".mmstack", ".mmstack/pythons.json"}


def test_fetch_makes_a_build_without_network_possible(fresh: Checkout) -> None:
    """`fetch`, then the index is gone, then `build-stack --offline` ends well."""
    assert fresh.invoke("fetch", "--stack", "mini").code == 0
    shutil.rmtree(fresh.index)
    done = fresh.build("--offline")
    assert done.code == 0, done.text
    assert "is built and verified" in done.out


def test_offline_without_fetch_says_what_to_do(fresh: Checkout) -> None:
    """Nothing is fetched behind the user's back."""
    done = fresh.build("--offline")
    assert done.code == 3
    assert "is needed, is not here" in done.err
    assert "`invoke fetch` first" in done.err
    assert "Traceback" not in done.text


def test_stop_after_each_kind_of_step(fresh: Checkout) -> None:
    """Each run carries on where the one before was told to stop."""
    work = fresh.state / "work"
    expected: dict[str, Callable[[], bool]] = {
        "fetch": lambda: len(list(fresh.state.glob("downloads/*/*.tar.gz"))) == 3 and not work.exists(),
        "source": lambda: len(list(work.glob("*/tree"))) == 3 and not list(work.glob("*/env")),
        "build": lambda: any(work.glob("top-*/out/*.whl")) and not list(fresh.dist.glob("wheels/*")),
        "gate": lambda: len(list(fresh.state.glob("artifacts/*/*.whl"))) == 3 and not (fresh.dist / "env").exists(),
        "install": lambda: (fresh.dist / "env").exists() and not list(fresh.state.glob("verified/*")),
        "verify": lambda: len(list(fresh.state.glob("verified/*"))) == 3,
    }
    for kind, holds in expected.items():
        done = fresh.build("--stop-after", kind)
        assert done.code == 0, done.text
        assert holds(), kind
        assert ("is built and verified" in done.out) == (kind == "verify")


def test_stop_after_an_unknown_step_is_a_usage_error(built: Checkout) -> None:
    """The nearest known kind is named."""
    done = built.build("--stop-after", "instal")
    assert done.code == 2
    assert "did you mean 'install'?" in done.err


def test_json_is_one_document(built: Checkout) -> None:
    """Standard output is the manifest, standard error the rest."""
    done = built.build("--json")
    assert json.loads(done.out) == built.manifest()
    assert "nothing to do" in done.err


REBUILT = {
    "patch": {"base": False, "ext": True, "top": False},
    "recipe": {"base": False, "ext": True, "top": False},
    "flag": {"base": False, "ext": True, "top": False},
    "source": {"base": False, "ext": True, "top": False},
    "base's recipe": {"base": True, "ext": True, "top": False},
    "suite": {"base": False, "ext": False, "top": False},
    "top's flag": {"base": False, "ext": False, "top": True},
}
VERIFIED = {
    "suite": {"base": False, "ext": True, "top": False},
    "base's recipe": {"base": True, "ext": True, "top": True},
    "top's flag": {"base": False, "ext": False, "top": True},
}
FROM_EXT = {"base": False, "ext": True, "top": True}


@pytest.mark.parametrize("change", REBUILT)
def test_a_change_does_again_what_depends_on_it_and_nothing_else(built: Checkout, change: str) -> None:
    """Only the layers whose inputs changed are built, only what stands on them is verified again."""
    words = _change(built, change)
    plan = built.plan(*words)
    assert {layer: not plan[f"build {layer}"] for layer in ("base", "ext", "top")} == REBUILT[change]
    before = times(built.state / "artifacts", built.state / "verified")
    done = built.build(*words)
    assert done.code == 0, done.text
    new = set(times(built.state / "artifacts", built.state / "verified")) - set(before)
    assert sum(path.endswith(".whl") for path in new) == sum(REBUILT[change].values())
    ran = {layer: f"✓ {layer}: " in done.out.partition("\nwheels")[0] for layer in ("base", "ext", "top")}
    assert ran == VERIFIED.get(change, FROM_EXT)


def _change(checkout: Checkout, what: str) -> tuple[str, ...]:
    if what == "flag":
        return ("--flag", "ext.SPEED=O2")
    if what == "patch":
        checkout.repatch(("double sum = 0;\n-", "double sum = 0;\n-"), ("i = 0; i < count", "i = 0; count > i"))
    elif what == "recipe":
        checkout.edit("pipelines/ext/recipe.toml", ("one compiled module", "a compiled module"))
    elif what == "base's recipe":
        checkout.edit("pipelines/base/recipe.toml", ("pure Python", "Python alone"))
    elif what == "top's flag":
        checkout.edit("pipelines/top/recipe.toml", ("[verify]", '[build.environment]\nX = "1"\n\n[verify]'))
    elif what == "suite":
        checkout.edit("pipelines/ext/verify/test_ext.py", ("[1, 2, 4]) == 7", "[1, 2, 5]) == 8"))
    else:
        checkout.publish("ext", lambda tree: (tree / "README").write_text("new"))
    return ()


def test_verify_proves_the_wheels_in_dist(built: Checkout) -> None:
    """Fresh environments, each suite anew, nothing taken from an earlier result."""
    done = built.invoke("verify", "--json")
    assert done.code == 0, done.text
    assert [f"✓ {layer}: " in done.err for layer in ("base", "ext", "top")] == [True] * 3
    for said, held in zip(json.loads(done.out)["verifications"], built.manifest()["verifications"], strict=True):
        assert said.keys() == held.keys()
        assert said["counts"] == held["counts"]


def test_verify_refuses_an_exchanged_wheel(built: Checkout) -> None:
    """A wheel that is not the one built is named; building again puts the right one back."""
    wheel = next((built.dist / "wheels").glob("miniext-*"))
    right = sha256(wheel)
    _break(wheel, "miniext/__init__.py", b"def total(values): return 0\n\n\ndef scale(value): return 0\n")
    done = built.invoke("verify")
    assert done.code == 4
    assert "miniext-2.0" in done.err
    assert "is not the wheel that was built" in done.err
    wheel.unlink()
    assert built.build().code == 0
    assert sha256(wheel) == right
    assert built.invoke("verify").code == 0


def _break(wheel: Path, member: str, body: bytes) -> None:
    """Exchange a member in place, as an editor or `cp` would."""
    with zipfile.ZipFile(wheel) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert member in members
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**members, member: body}.items():
            archive.writestr(name, content)


def test_a_broken_kernel_fails_verification_by_name(built: Checkout, tmp_path: Path) -> None:
    """Built from a folder in which one function is wrong, the stack fails and the check is named."""
    tree = tmp_path / "ext"
    shutil.copytree(UPSTREAMS / "ext", tree)
    source = tree / "src" / "scale.cpp"
    source.write_text(source.read_text().replace("value * UNIT", "value / UNIT"))
    done = built.build("--source", f"ext=path:{tree}")
    assert done.code == 1
    assert "ext failed 1 of 3 checks" in done.err
    assert "test_ext::test_scale" in done.err
    assert "the result cannot be made again elsewhere" in done.out
    assert "is built and verified" not in done.out
    manifest = built.manifest()
    assert manifest["verdict"] == "failed"
    assert [item["reproducible"] for item in manifest["artifacts"]] == [True, False, True]
    assert built.invoke("verify").code == 1


def test_verify_without_a_stack_says_so(fresh: Checkout) -> None:
    """Nothing is there to be verified, or not enough."""
    assert fresh.invoke("verify").code == 2
    assert fresh.build("--stop-after", "source").code == 0
    done = fresh.invoke("verify")
    assert done.code in {2, 4}
    assert "invoke build-stack" in done.err
    assert "Traceback" not in done.text


def test_report_is_rendered_again(built: Checkout) -> None:
    """The page comes back, the same."""
    page = (built.dist / "report.html").read_text()
    (built.dist / "report.html").unlink()
    done = built.invoke("report")
    assert done.code == 0, done.text
    assert "stack mini is built and verified" in done.out
    assert (built.dist / "report.html").read_text() == page


def test_doctor_answers_in_json(built: Checkout) -> None:
    """Each finding with its verdict and remedy."""
    done = built.invoke("doctor", "--stack", "mini", "--json")
    found = {item["name"]: item["verdict"] for item in json.loads(done.out)["findings"]}
    assert {"python", "uv", "compiler", "disk", "memory", "index"} <= set(found)
    assert found["compiler"] == found["index"] == "ok"
    assert done.code == (3 if "missing" in found.values() else 0)
