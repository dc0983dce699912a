"""Two wheels that should be one: what differs is named, and so is what was asked for differently."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mmstack import rebuild
from mmstack.console import Console
from mmstack.errors import CatalogError, ConstraintError, HostError, PinError, RebuildError, UsageError
from mmstack.events import RunEnded
from mmstack.keys import file_digest
from mmstack.model import Artifact, Compiler, Installed, Paths, Request
from mmstack.options import Options
from mmstack.rebuild import wheel_differences
from mmstack.report import Manifest, read_manifest_file, to_manifest
from mmstack.session import Session
from mmstack.sweep import Limits, sweep
from mmstack.uses import Uses
from tests.miniature import HOST, NEWER, PINS, Miniature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmstack.model import Plan

DATE = (2023, 11, 14, 22, 13, 20)


def a_wheel(file: Path, members: Mapping[str, bytes], *, date: tuple[int, ...] = DATE, mode: int = 0o100644) -> Path:
    """Write an archive."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, body in members.items():
            entry = zipfile.ZipInfo(name, (date[0], date[1], date[2], date[3], date[4], date[5]))
            entry.external_attr = mode << 16
            archive.writestr(entry, body)
    return file


def compiled(folder: Path, code: str) -> bytes:
    """Return a shared library of this C code."""
    (folder / "x.c").write_text(code, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "x.so", "x.c"], cwd=folder, check=True)
    return (folder / "x.so").read_bytes()


def manifest_of(plan: Plan, **more: object) -> Manifest:
    """Return the manifest of a run that made all wheels of a plan."""
    artifacts = tuple(
        Artifact(layer=layer.name, key=layer.key, path=Path(f"{layer.name}.whl"), sha256="a" * 64, size=1)
        for layer in plan.layers
    )
    ended = RunEnded(plan=plan, artifacts=artifacts, verifications=(), seconds=1.0)
    return {**to_manifest(ended, options={"stack": "mini"}), **more}


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    """Three layers."""
    return Miniature(root=tmp_path / "checkout").write()


def test_equal_wheels_do_not_differ(tmp_path: Path) -> None:
    """Nothing is said of them."""
    first = a_wheel(tmp_path / "a.whl", {"x.py": b"1\n"})
    assert wheel_differences(first, Path(shutil.copy(first, tmp_path / "b.whl"))) == ()


def test_text_differs_by_line_and_the_rest_by_byte(tmp_path: Path) -> None:
    """Files of one alone, lines, lengths, bytes."""
    first = a_wheel(tmp_path / "a.whl", {"gone": b"", "x.py": b"a\nb\n", "long": b"a\n", "data": b"\xff\x00\x01"})
    second = a_wheel(tmp_path / "b.whl", {"x.py": b"a\nc\n", "long": b"a\nb\n", "data": b"\xff\x00\x02", "new": b""})
    assert wheel_differences(first, second) == (
        "gone: only in the first",
        "new: only in the second",
        "x.py: line 2 is b and c",
        "long: has 1 and 2 lines",
        "data: differs from byte 2 on (3 and 3 bytes)",
    )


def test_elf_files_differ_by_section(tmp_path: Path) -> None:
    """Another constant changes the data alone; one more function other sections too."""
    one, other = compiled(tmp_path, "int x = 1;"), compiled(tmp_path, "int x = 2;")
    first, second = a_wheel(tmp_path / "a.whl", {"x.so": one}), a_wheel(tmp_path / "b.whl", {"x.so": other})
    found = wheel_differences(first, second)
    assert [line for line in found if ".data" in line]
    assert not [line for line in found if ".text" in line]
    more = compiled(tmp_path, "int x = 1; int y = 1; int f(void) { return x + y; }")
    assert [line for line in wheel_differences(first, a_wheel(tmp_path / "c.whl", {"x.so": more})) if ".text" in line]


def test_archives_differ_in_how_they_are_packed(tmp_path: Path) -> None:
    """Dates, modes and order are seen where all files are the same."""
    members = {"a": b"1", "b": b"2"}
    first = a_wheel(tmp_path / "a.whl", members)
    later = a_wheel(tmp_path / "b.whl", members, date=(2024, 1, 1, 0, 0, 0), mode=0o100664)
    assert all("another date" in line and "mode" in line for line in wheel_differences(first, later))
    assert len(wheel_differences(first, later)) == 2
    turned = a_wheel(tmp_path / "c.whl", dict(reversed(members.items())))
    assert wheel_differences(first, turned) == ("the files stand in another order",)
    (tmp_path / "d.whl").write_bytes(first.read_bytes() + b"")
    with zipfile.ZipFile(tmp_path / "d.whl", "a") as archive:
        archive.comment = b"x"
    assert wheel_differences(first, tmp_path / "d.whl") == ("the same files, packed by another program",)


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    """Instead of a traceback."""
    (tmp_path / "b.whl").write_text("no archive")
    (line,) = wheel_differences(a_wheel(tmp_path / "a.whl", {}), tmp_path / "b.whl")
    assert line.startswith("cannot be compared")


def test_the_same_checkout_and_machine_pass(mini: Miniature) -> None:
    """Jobs and paths do not count."""
    rebuild.check(mini.plan(Request(jobs=3)), manifest_of(mini.plan()))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("patches/ext/series.toml", 'reason = "r"', 'reason = "other"', "ext: patch ext-always is another"),
        ("pipelines/ext/recipe.toml", "one compiled module", "a module", "ext: another recipe"),
        ("stacks/mini.toml", 'SPEED = "O1"', 'SPEED = "O2"', "ext: another flags"),
        ("pipelines/ext/recipe.toml", "5" * 64, "9" * 64, "ext: another source: files"),
    ],
)
def test_another_checkout_is_refused_by_what_differs(mini: Miniature, file: str, old: str, new: str, said: str) -> None:
    """Before anything is built."""
    manifest = manifest_of(mini.plan(), builder={"commit": "f" * 40})
    mini.edit(file, old, new)
    with pytest.raises(PinError) as caught:
        rebuild.check(mini.plan(), manifest)
    assert said in caught.value.why
    assert "f" * 40 in caught.value.fix


def test_another_lock_is_refused_by_the_requirement(mini: Miniature) -> None:
    """And one that is there alone, or not there."""
    manifest = manifest_of(mini.plan())
    mini.lock({**PINS, "build-ext": ("backend==83", "new==1")})
    with pytest.raises(PinError) as caught:
        rebuild.check(mini.plan(), manifest)
    assert "ext: build requirement backend is another" in caught.value.why
    assert "ext: build requirement new is only here" in caught.value.why
    assert "ext: build requirement old-helper is only in the manifest" in caught.value.why


def test_another_machine_is_refused_by_what_it_lacks(mini: Miniature) -> None:
    """Its compiler, its Python; and with that the patches and requirements that they decide on."""
    manifest = manifest_of(mini.plan())
    newer = Compiler(cc=Path("cc"), cxx=Path("c++"), version="c++ (Debian 14.2.0) 14.2.0")
    with pytest.raises(HostError) as caught:
        rebuild.check(mini.plan(host=replace(HOST, compiler=newer)), manifest)
    assert "compiler: c++ (Debian 12.2.0-14)" in caught.value.why
    with pytest.raises(HostError) as other:
        rebuild.check(mini.plan(interpreter=NEWER), manifest)
    assert other.value.why.splitlines() == [
        "Python: ['cp311', 'linux_x86_64'] in the manifest, ['cp312', 'linux_x86_64'] here",
        "ext: patch ext-new-python is only here",
        "ext: build requirement old-helper is only in the manifest",
    ]


def test_another_checkout_on_another_machine_is_another_checkout(mini: Miniature) -> None:
    """A recipe does not follow from a machine; all that differs is told at once."""
    manifest = manifest_of(mini.plan())
    mini.edit("pipelines/ext/recipe.toml", "one compiled module", "a module")
    with pytest.raises(PinError) as caught:
        rebuild.check(mini.plan(interpreter=NEWER), manifest)
    for said in ("ext: another recipe", "ext: patch ext-new-python is only here", "cp312"):
        assert said in caught.value.why


def test_another_installed_layer_is_the_machines(mini: Miniature) -> None:
    """No checkout has it."""
    (mini.root / "pipelines" / "base" / "installed.py").write_text("", encoding="utf-8")
    request = Request(sources={"base": "installed"}, python="/opt/python")
    held = Installed(version="1.0", digest="1" * 64, folders=(), support=None)
    manifest = manifest_of(mini.plan(request, installed={"base": held}))
    rebuild.check(mini.plan(request, installed={"base": held}), manifest)
    newer = replace(held, version="1.1", digest="2" * 64)
    with pytest.raises(HostError, match="this machine") as caught:
        rebuild.check(mini.plan(request, installed={"base": newer}), manifest)
    assert "base: another is installed: 1.0 and 1.1 here" in caught.value.why


def test_the_options_are_the_manifests_but_for_how_it_is_built(mini: Miniature) -> None:
    """Stack, flags and sources from it; jobs and the mirror are ours; a Python of the same version."""
    given = {"stack": "", "cuda": "cpu", "flag": ["ext.SPEED=O2"], "jobs": "9", "mirror": "x", "python": "/opt/python"}
    found = rebuild.options(manifest_of(mini.plan(), options=given), Options(jobs="2"))
    assert found == Options(stack="mini", flag=["ext.SPEED=O2"], jobs="2", python="3.11")
    assert rebuild.options(manifest_of(mini.plan()), Options(python="3.11.9")).python == "3.11.9"


def test_a_folder_of_the_builder_s_own_must_be_here(
    mini: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other checkout has it, so none is asked for."""
    given = {"stack": "mini", "source": [f"ext=path:{tmp_path}/own"]}
    with pytest.raises(HostError, match="own, which is not on this machine"):
        rebuild.options(manifest_of(mini.plan(), options=given), Options())
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    home = {"stack": "mini", "source": ["ext=path:~/own"]}
    assert rebuild.options(manifest_of(mini.plan(), options=home), Options()).source == home["source"]
    with pytest.raises(HostError, match="which is not on this machine"):
        rebuild.options(manifest_of(mini.plan(), options={"source": [f"ext=path:{'a' * 300}"]}), Options())
    assert rebuild.options(manifest_of(mini.plan(), options=given), Options()).source == given["source"]


TOOLKIT = {"kind": "wheels", "architectures": ["8.0", "9.0+PTX"]}
MOLD = {"linker": {"kind": "mold", "version": "mold 1.10"}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"arch": "native"}, {"toolkit": "wheels"}),
        ({"toolkit": "auto", "linker": "auto"}, {"toolkit": "wheels", "linker": "mold"}),
        ({"toolkit": "system:/opt/cuda", "linker": "lld"}, {"toolkit": "system:/opt/cuda", "linker": "lld"}),
        ({"toolkit": "redist:https://example.org"}, {"toolkit": "redist:https://example.org"}),
    ],
)
def test_what_was_found_out_there_is_not_looked_for_here(
    mini: Miniature, given: dict[str, str], expected: dict[str, Any]
) -> None:
    """GPUs, toolkit and linker of another machine; those that somebody named are taken by their names."""
    options = {"stack": "mini", **given}
    found = rebuild.options(manifest_of(mini.plan(), options=options, toolkit=TOOLKIT, compiler=MOLD), Options())
    assert found == Options(stack="mini", python="3.11", arch="8.0,9.0+PTX", **expected)
    plain = manifest_of(mini.plan(), options={"stack": "mini", "linker": "auto"}, compiler=None)
    assert rebuild.options(plain, Options()).linker == "auto"


def test_the_toolkit_may_lie_elsewhere_here(mini: Miniature) -> None:
    """Each machine has it where it likes; that it is the same one is seen afterwards."""
    given = {"stack": "mini", "toolkit": "system:/usr/local/cuda"}
    here = Options(toolkit="system:/opt/cuda")
    assert rebuild.options(manifest_of(mini.plan(), options=given, toolkit=TOOLKIT), here).toolkit == here.toolkit
    with pytest.raises(UsageError, match="says nothing here"):
        rebuild.options(manifest_of(mini.plan()), here)


@pytest.mark.parametrize(
    ("own", "said"),
    [({"mirror": "nonsense"}, "--mirror"), ({"jobs": "many"}, "--jobs"), ({"python": "3.9"}, "is not for Python 3.9")],
)
def test_one_s_own_mistake_is_not_the_manifest_s(
    mini: Miniature, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any], said: str
) -> None:
    """What is typed with `rebuild` is judged as everywhere; what the manifest asks for, another checkout makes."""
    paths = Paths(root=mini.root, state=mini.root / "state", dist=mini.root / "dist")
    session = Session(paths=paths, console=Console(stdout=io.StringIO(), stderr=io.StringIO()))
    monkeypatch.setattr("mmstack.session.host.look", lambda *_words, **_options: HOST)
    manifest = manifest_of(mini.plan(), builder={"commit": "f" * 40})
    with pytest.raises((UsageError, ConstraintError), match=said):
        session.rebuild(str(mini.put("manifest.json", json.dumps(manifest))), Options(**own))
    another = {"interpreter": {**manifest["interpreter"], "version": "3.9.1"}}
    for theirs in ({"stack": {**manifest["stack"], "name": "other"}}, {"options": {"flag": ["ext.NONE=1"]}}, another):
        with pytest.raises(PinError, match="this checkout does not make") as caught:
            session.rebuild(str(mini.put("manifest.json", json.dumps({**manifest, **theirs}))), Options())
        assert "f" * 40 in caught.value.fix


def test_a_manifest_that_is_none_is_refused(mini: Miniature) -> None:
    """No wheels, wheels of no layer, options that nobody has."""
    manifest = manifest_of(mini.plan())
    for few in (manifest["artifacts"][:0], manifest["artifacts"][:1]):  # of a build that did not come to its end
        with pytest.raises(UsageError, match=r"names no wheel of .*'top'"):
            rebuild.options({**manifest, "artifacts": few}, Options())
    with pytest.raises(UsageError, match="has no layer 'x'"):
        rebuild.options({**manifest, "artifacts": [{**manifest["artifacts"][0], "layer": "x"}]}, Options())
    strange: list[dict[str, object]] = [
        {"options": {"rm": "-rf"}},
        {"options": {"source": 5}},
        {"options": {"flag": [1]}},
        {"options": {"flag": "ext.SPEED=O1"}},
        {"options": {"linker": 5}},
        {"options": {"toolkit": ["wheels"]}},
        {"options": {"without": [5]}},
        {"options": {"index_only": "yes"}},
        {"options": ["stack"]},
        {"layers": 1},
    ]
    for broken in (*({**manifest, **each} for each in strange), {}):
        with pytest.raises(CatalogError, match="is not one that this version"):
            rebuild.options(broken, Options())
    for broken in ({**manifest, "compiler": 1}, {**manifest, "layers": [{"name": "ext"}]}):
        with pytest.raises(CatalogError, match="is not one that this version"):
            rebuild.check(mini.plan(), broken)


@pytest.mark.parametrize("lacking", ["engine", "builder", "options"])
def test_a_manifest_that_lacks_what_a_rebuild_asks_for_is_refused(mini: Miniature, lacking: str) -> None:
    """When it is read: later, who tells that this checkout is another would trip over it."""
    manifest = {**manifest_of(mini.plan()), "cores": 1}
    file = mini.put("manifest.json", json.dumps(manifest))
    assert read_manifest_file(file)["key"] == manifest["key"]
    del manifest[lacking]
    mini.put("manifest.json", json.dumps(manifest))
    with pytest.raises(CatalogError) as caught:
        read_manifest_file(file)
    assert caught.value.why == f"the document.{lacking} is not what it must be"


def test_it_is_built_apart(tmp_path: Path) -> None:
    """What is fetched is shared, what is built is not; a key that leads out is refused."""
    paths = Paths(root=tmp_path, state=tmp_path / "state", dist=tmp_path / "dist")
    paths.state.mkdir()
    other = rebuild.apart(paths, {"key": "ab" * 32})
    assert rebuild.apart(paths, {"key": "ab" * 32}) == other
    assert (other.state / "downloads").resolve() == paths.state / "downloads"
    assert not (other.state / "artifacts").exists()
    assert other.dist.is_relative_to(other.state)
    with pytest.raises(CatalogError):
        rebuild.apart(paths, {"key": "../../etc"})
    (paths.state / "downloads" / "kept").touch()
    rebuild.demand_same([{"same": True}], other.state)
    assert not other.state.exists()
    assert (paths.state / "downloads" / "kept").exists()


def test_two_rebuilds_of_one_manifest_take_turns(
    mini: Miniature, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., None]
) -> None:
    """The second says that it waits; nothing of the first is changed, nor swept, meanwhile."""
    state = mini.root / "state"
    paths = Paths(root=mini.root, state=state, dist=mini.root / "dist")
    file = mini.put("manifest.json", json.dumps(manifest_of(mini.plan())))
    told = [io.StringIO(), io.StringIO()]
    order: list[str] = []

    def again(number: int) -> None:
        with pytest.raises(UsageError, match="as far as it goes"):
            Session(paths=paths, console=Console(stdout=told[number], stderr=told[number])).rebuild(
                str(file), Options()
            )

    def request(session: Session, _asked: Options) -> Request:
        if not order:
            order.append("the first begins")
            second.start()
            wait_for(lambda: "waiting: rebuild-" in told[1].getvalue())
            swept = sweep(paths, Uses(state / "uses", print), Limits(max_size=0))
            assert [item.why for item in swept.verdicts if item.thing.kind == "rebuild"] == [
                "a build that runs uses it"
            ]
            assert session.paths.state.exists()
            order.append("the first ends")
        else:
            order.append("the second")
        raise UsageError("as far as it goes")

    monkeypatch.setattr(Session, "_request", request)
    second = threading.Thread(target=again, args=(1,))
    again(0)
    second.join(5)
    assert order == ["the first begins", "the first ends", "the second"]


def test_a_wheel_that_came_out_differently_is_shown(mini: Miniature, tmp_path: Path) -> None:
    """How, where the first one lies beside the manifest; that it is not at hand, where it does not."""
    plan = mini.plan()
    manifest = manifest_of(plan)
    (tmp_path / "wheels").mkdir()
    first = a_wheel(tmp_path / "wheels" / "ext.whl", {"x.py": b"a\n"})
    manifest["artifacts"][1]["sha256"] = file_digest(first)
    second = a_wheel(tmp_path / "ext.whl", {"x.py": b"b\n"})
    made = {
        layer.name: Artifact(layer=layer.name, key=layer.key, path=second, sha256=file_digest(second), size=1)
        for layer in plan.layers
    }
    base, ext, _top = rebuild.compare(manifest, made, tmp_path / "wheels")
    assert (ext["same"], ext["differences"]) == (False, ["x.py: line 1 is a and b"])
    assert base["differences"] == ["base.whl of the manifest is not at hand"]
    with pytest.raises(RebuildError) as caught:
        rebuild.demand_same([base, ext], tmp_path)
    assert "ext.whl: x.py: line 1 is a and b" in caught.value.why
    assert caught.value.compared == [base, ext]
