from __future__ import annotations

import io
import json
import resource
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmstack.console import Console
from mmstack.errors import CatalogError, DiskError, NetworkError, UsageError
from mmstack.lock import applicable, parse_requirements, read_lock, write_lock
from mmstack.locked import inputs_of
from mmstack.locking import Resolver, changes, with_layer
from mmstack.model import DistroPackage, FilePin, Inputs, LayerInputs, Lock, LockedRequirement, Paths
from mmstack.session import Session
from mmstack.sources.settings import IndexSettings
from tests.miniature import INTERPRETER, NEWER, Miniature, pinned

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmstack.catalog import Catalog
    from mmstack.model import Stack

CUDA = """
gcc = "<15"
clang = "<20"
driver = ">=525"
architectures = ["9.0"]
[wheels]
requires = ["cuda-like==12"]
"""
HERE = "1.0 where python_full_version < '3.12'"
DIGEST, OTHER = "a" * 64, "b" * 64
MARKERS = ("", "python_version < '3.11'", "sys_platform == 'linux' and (os_name == 'nt' or os_name == 'posix')")
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?", fullmatch=True)
SET_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=8)
VERSION_NAMES = ["1", "2.0.1", "1!3.0rc1.post2+cpu.1", "2026.11.20"]
VERSIONS = st.sampled_from(VERSION_NAMES)


def wheel(name: str, version: str, *requires: str) -> bytes:
    """Return a wheel that holds nothing but its metadata, the same bytes each time."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr(
            zipfile.ZipInfo(f"{info}/METADATA"), metadata + "".join(f"Requires-Dist: {line}\n" for line in requires)
        )
        archive.writestr(
            zipfile.ZipInfo(f"{info}/WHEEL"), "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "")
    return body.getvalue()


def locks() -> st.SearchStrategy[Lock]:
    """Return locks in which each release has the same digests wherever it occurs."""
    releases = st.builds(lambda name, version: f"{name}=={version}", NAMES, VERSIONS)
    digests = st.dictionaries(releases, st.lists(DIGESTS, min_size=1, max_size=3, unique=True), min_size=1, max_size=4)
    return digests.flatmap(_sets_of)


def _packages() -> st.SearchStrategy[DistroPackage]:
    return st.builds(
        DistroPackage,
        name=st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,8}", fullmatch=True),
        version=st.sampled_from(["1", "2:1.0-1", "1.13.1+dfsg-4~bpo12+1", "1.74.0.3ubuntu7"]),
        architecture=st.sampled_from(["all", "amd64", "kfreebsd-i386"]),
        sha256=DIGESTS,
    )


def _sets_of(digests: dict[str, list[str]]) -> st.SearchStrategy[Lock]:
    def requirement(release: str, marker: str) -> LockedRequirement:
        name, _, version = release.partition("==")
        return LockedRequirement(name=name, version=version, marker=marker, sha256=tuple(digests[release]))

    items = st.builds(requirement, st.sampled_from(sorted(digests)), st.sampled_from(MARKERS))
    sets = st.dictionaries(SET_NAMES, st.lists(items, max_size=4).map(tuple), max_size=3)
    packages = st.dictionaries(SET_NAMES, st.lists(_packages(), max_size=3).map(tuple), max_size=2)
    trees = st.dictionaries(SET_NAMES, st.dictionaries(SET_NAMES, DIGESTS, max_size=3), max_size=2)
    return st.builds(Lock, sets=sets, inputs=_inputs(), packages=packages, trees=trees)


def _inputs() -> st.SearchStrategy[Inputs]:
    words = st.lists(SET_NAMES, max_size=3).map(tuple)
    strings = st.dictionaries(SET_NAMES, SET_NAMES, max_size=3)
    layer = st.builds(
        LayerInputs,
        version=st.sampled_from(VERSION_NAMES),
        source=st.sampled_from(["git", "wheel"]),
        pins=strings,
        recipe=strings,
        libraries=words,
        patches=strings,
        flags=strings,
    )
    manifest = st.builds(FilePin, filename=SET_NAMES, sha256=DIGESTS)
    toolkit = st.tuples(manifest, words) | st.just((None, ()))

    def made(toolkit: tuple[FilePin | None, tuple[str, ...]], **more: Any) -> Inputs:  # noqa: ANN401 - a lock's own
        return Inputs(manifest=toolkit[0], components=toolkit[1], **more)

    return st.builds(
        made,
        toolkit=toolkit,
        python=words,
        cuda=st.sampled_from(["cpu", "13.0"]),
        layers=st.dictionaries(SET_NAMES, layer, max_size=2),
        requires=st.dictionaries(SET_NAMES, words, max_size=2),
        architectures=words,
        constraints=words,
    )


@given(lock=locks())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_lock_that_was_written_is_read_as_it_was(tmp_path: Path, lock: Lock) -> None:
    """Nothing is lost or added on the way through the file."""
    file = tmp_path / "mini.lock"
    file.write_text(write_lock(lock), encoding="utf-8")
    assert read_lock(file) == lock


@given(requirements=st.lists(st.builds(pinned, st.sampled_from(["a==1", "b.c==2 ; os_name == 'nt'"]), DIGESTS)))
def test_a_requirement_is_read_from_the_line_that_it_writes(requirements: list[LockedRequirement]) -> None:
    """What stands in dist's requirements is what was planned."""
    text = "".join(f"{item.line()}\n" for item in requirements)
    assert parse_requirements(text) == tuple(requirements)


def test_what_uv_writes_is_read() -> None:
    """Versions, markers and every digest of a release, with uv's own comments between them."""
    text = f"""\
# This file was autogenerated by uv via the following command:
#    uv pip compile in.txt --generate-hashes --universal
back-port==2.0 ; python_full_version < '3.11' \\
    --hash=sha256:{DIGEST}
    # via top-one
low==1.5 \\
    --hash=sha256:{OTHER} \\
    --hash=sha256:{DIGEST}
    # via
    #   -r in.txt
    #   top-one
top-one==1.0 \\
    --hash=sha256:{DIGEST}
    # via -r in.txt
"""
    assert [(item.line(), item.sha256) for item in parse_requirements(text)] == [
        (pinned("back-port==2.0 ; python_full_version < '3.11'").line(), (DIGEST,)),
        (replace(pinned("low==1.5"), sha256=(DIGEST, OTHER)).line(), (DIGEST, OTHER)),
        (pinned("top-one==1.0").line(), (DIGEST,)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "name==1\n",
        f"name>=1 \\\n    --hash=sha256:{DIGEST}\n",
        f"name @ file:///x \\\n    --hash=sha256:{DIGEST}\n",
        f"name[extra]==1 \\\n    --hash=sha256:{DIGEST}\n",
        f"-e . \\\n    --hash=sha256:{DIGEST}\n",
        "name==1 \\\n    --hash=md5:abc\n",
        f"name==1 \\\n    --hash=sha256:{DIGEST[:-1]}\n",
    ],
)
def test_what_is_not_pinned_by_version_and_digest_is_refused(text: str) -> None:
    """No requirement gets into a lock half pinned."""
    with pytest.raises(CatalogError, match="is not pinned by version and hash") as caught:
        parse_requirements(text)
    assert caught.value.why == text.splitlines()[0]


@given(text=st.text(st.sampled_from("ab==1 ;\\\n#<'3")) | st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever a resolver may print."""
    try:
        assert all(item.sha256 for item in parse_requirements(text))
    except CatalogError as error:
        assert error.why  # noqa: PT017 - the other outcome is looked at as well


def test_markers_choose_what_an_interpreter_installs() -> None:
    """One lock serves all Pythons of a stack."""
    items = [pinned("a==1"), pinned("b==1 ; python_version < '3.12'"), pinned("b==2 ; python_version >= '3.12'")]
    assert [item.version for item in applicable(items, INTERPRETER.markers)] == ["1", "1"]
    assert [item.version for item in applicable(items, NEWER.markers)] == ["1", "2"]


def test_a_marker_without_meaning_is_told() -> None:
    """What parses may still not be comparable."""
    with pytest.raises(CatalogError, match="the marker of a 1 has no meaning"):
        applicable([pinned("a==1 ; os_name ~= 'posix'")], {**INTERPRETER.markers, "os_name": "posix"})


OFFERED = (
    ("runtime", "1.5", ("helper ; python_version < '3.12'", "only-there ; sys_platform == 'win32'")),
    ("helper", "1.0", ()),
    ("only_there", "1.0", ()),
    ("proj_base", "1.0", ("giant",)),
    ("giant", "9.0", ("runtime",)),
    ("backend", "82", ()),
    ("checker", "1.0", ("runtime",)),
    ("checker", "0.9", ()),
    ("cuda_like", "12", ("nvcc_like ; sys_platform == 'linux' or sys_platform == 'win32'",)),
    ("nvcc_like", "12.8", ()),
    ("nvidia_cuda_cuobjdump", "13.5", ()),
)


def serve(server: Any, *offered: tuple[str, str, tuple[str, ...]]) -> None:  # noqa: ANN401 - see offer
    """Put wheels on offer, two files of each, and nothing else of their projects."""
    pages: dict[str, dict[str, str]] = {}
    for name, version, requires in offered:
        files = [f"/files/{name}-{version}-{tag}.whl" for tag in ("py3-none-any", "cp311-cp311-linux_x86_64")]
        body = wheel(name, version, *requires)
        page = pages.setdefault(name.replace("_", "-"), {})
        page |= {file: server.add(file, body + file.encode()) for file in files}
    for name, page in pages.items():
        server.page(name, page)


@pytest.fixture
def offer(server: Any) -> Any:  # noqa: ANN401 - conftest's Server is no importable type
    """Return a package index that has what the miniature catalog asks for."""
    serve(server, *OFFERED)
    return server


def index(url: str) -> IndexSettings:
    """Return settings that name one index."""
    urls = (url,) if url else ()
    return IndexSettings(
        index_urls=urls, find_links=(), ca_bundle=None, trusted_hosts=(), proxy="", timeout=5, origins=()
    )


def resolver(url: str, work: Path, found: Sequence[DistroPackage] = ()) -> Resolver:
    """Return a resolver that has one index, and a distribution's archive in which this is found."""
    return Resolver(settings=index(url), work=work, packages=lambda _pin: tuple(found))


def test_a_stack_is_locked_in_sets(tmp_path: Path, offer: Any) -> None:  # noqa: ANN401 - see offer
    """What runs, what a variant adds, what a build wants; not the layers themselves, nor what no Linux installs."""
    mini = Miniature(root=tmp_path).write()
    stack = mini.catalog.stack("mini")
    lock = resolver(f"{offer.url}/simple", tmp_path / "work").lock(stack, mini.catalog)
    assert {name: [item.name for item in items] for name, items in lock.sets.items()} == {
        "run": ["helper", "runtime"],
        "run-big": ["giant"],
        "verify": ["checker"],
        "build-ext": ["backend", "helper", "runtime"],
        "build-top": ["backend"],
    }
    assert lock.sets["run"][0].marker == "python_full_version < '3.12'"
    assert all(len(item.sha256) == 2 for items in lock.sets.values() for item in items)
    assert lock.inputs == inputs_of(stack, mini.catalog)
    mini.put("stacks/mini.lock", write_lock(lock))
    assert read_lock(tmp_path / "stacks" / "mini.lock") == lock
    assert offer.url not in write_lock(lock)


@pytest.mark.parametrize("said", ["by a variable", "by pip or uv"])
def test_a_stack_is_locked_through_the_user_s_proxy(tmp_path: Path, offer: Any, said: str) -> None:  # noqa: ANN401
    """The index is somewhere that only the proxy knows."""
    host = "http://index.invalid"
    offer.files |= {f"{host}{path}": body for path, body in offer.files.items()}
    offer.types |= {f"{host}{path}": kind for path, kind in offer.types.items()}
    settings = index(f"{host}/simple")
    if said == "by a variable":
        maker = replace(resolver("", tmp_path / "work"), settings=settings, environ={"http_proxy": offer.url})
    else:
        maker = replace(resolver("", tmp_path / "work"), settings=replace(settings, proxy=offer.url))
    mini = Miniature(root=tmp_path).write()
    assert maker.lock(mini.catalog.stack("mini"), mini.catalog).sets["run"]
    assert all(path.startswith(host) for _method, path, _range in offer.asked)


def test_a_cuda_stack_is_locked_with_its_toolkit(tmp_path: Path, offer: Any) -> None:  # noqa: ANN401 - see offer
    """And with the program that reads GPU code; what Linux needs is kept, whatever else needs it too."""
    mini = Miniature(root=tmp_path).write()
    mini.put("toolkits/12.8.toml", CUDA)
    mini.edit("stacks/mini.toml", 'cuda = "cpu"', 'cuda = "12.8"\narch = ["9.0"]\nconstraints = ["checker<1"]')
    mini.edit("pipelines/ext/recipe.toml", '"checker==1.0"', '"checker"')
    work = tmp_path / "work"
    lock = resolver(f"{offer.url}/simple", work).lock(mini.catalog.stack("mini"), mini.catalog)
    assert [item.line().partition(" ")[0] for item in lock.sets["toolkit"]] == ["cuda-like==12", "nvcc-like==12.8"]
    assert [item.name for item in lock.sets["cubins"]] == ["nvidia-cuda-cuobjdump"]
    assert [item.version for item in lock.sets["verify"] if item.name == "checker"] == ["0.9"]
    assert [path for path in work.iterdir() if path.is_dir() and not path.name.startswith(".")] == []


def test_what_releases_require_that_are_built_here_is_one_set(tmp_path: Path, offer: Any) -> None:  # noqa: ANN401
    """Of every layer of the stack that says so, without what runs anyway; a stack for GPUs has no such set."""
    mini = Miniature(root=tmp_path).write().pin_every_way()
    mini.edit("pipelines/ext/recipe.toml", '"runtime==1.5", "helper"', '"helper", "nvcc-like==12.8"')
    base = '[[releases]]\nversion = "1.0"\n'
    mini.edit("pipelines/base/recipe.toml", base, f'{base}requires = ["giant==9"]\n')
    maker = resolver(f"{offer.url}/simple", tmp_path / "work")
    lock = maker.lock(mini.catalog.stack("mini"), mini.catalog)
    assert [item.name for item in lock.sets["run-built"]] == ["giant", "nvcc-like"]
    mini.put("toolkits/12.8.toml", CUDA)
    mini.edit("stacks/mini.toml", 'cuda = "cpu"', 'cuda = "12.8"\narch = ["9.0"]')
    assert "run-built" not in maker.lock(mini.catalog.stack("mini"), mini.catalog).sets


def test_a_layer_of_a_distribution_is_locked_with_its_packages(tmp_path: Path, offer: Any) -> None:  # noqa: ANN401
    """What its archive has of the libraries; another way to the same release needs none."""
    mini = Miniature(root=tmp_path).write().pin_every_way()
    found = DistroPackage(name="libdemo-dev", version="2:1.0-1", architecture="all", sha256=DIGEST)
    maker = resolver(f"{offer.url}/simple", tmp_path / "work", [found])
    assert maker.lock(mini.catalog.stack("mini"), mini.catalog).packages == {}
    mini.edit("stacks/mini.toml", '"sdist"', '"distro"')
    lock = maker.lock(mini.catalog.stack("mini"), mini.catalog)
    assert (lock.packages, lock.trees) == ({"ext": (found,)}, {})
    mini.edit("pipelines/ext/recipe.toml", 'libraries = ["libdemo-dev"]\n', "")
    assert maker.lock(mini.catalog.stack("mini"), mini.catalog).packages == {}


@pytest.mark.parametrize(
    "line",
    [
        f"libdemo-dev 1.0-1 all {DIGEST}",
        f"libdemo-dev=1.0-1 all {DIGEST[1:]}",
        f"Libdemo=1.0-1 all {DIGEST}",
        f"libdemo-dev=1.0-1 {DIGEST}",
        f"../libdemo=1.0-1 all {DIGEST}",
        f"libdemo-dev=1.0/1 all {DIGEST}",
        "",
    ],
)
def test_a_package_that_is_not_pinned_is_refused(tmp_path: Path, line: str) -> None:
    """By name, version, processor and digest; with the file and the remedy."""
    mini = Miniature(root=tmp_path).write()
    mini.edit("stacks/mini.lock", "[sha256]", f'[packages]\next = ["{line}"]\n\n[sha256]')
    with pytest.raises(CatalogError, match="is no pinned package") as caught:
        read_lock(tmp_path / "stacks" / "mini.lock")
    assert str(tmp_path / "stacks" / "mini.lock") in caught.value.what
    assert caught.value.fix == "make it anew: `invoke lock`"


@pytest.mark.parametrize("url", ["", "missing"])
def test_what_does_not_resolve_is_an_error(tmp_path: Path, server: Any, url: str) -> None:  # noqa: ANN401 - as above
    """No index, or one without the requirements, is told as such."""
    mini = Miniature(root=tmp_path).write()
    unserved = resolver(f"{server.url}/{url}" if url else "", tmp_path / "work")
    with pytest.raises(NetworkError) as caught:
        unserved.lock(mini.catalog.stack("mini"), mini.catalog)
    assert caught.value.fix


FOLLOWS = [
    ("build-ext", "helper", HERE, "-"),
    ("build-ext", "newcomer", "-", "1.0"),
    ("build-ext", "runtime", "1.5", "1.6"),
    ("run", "helper", HERE, "-"),
    ("run", "newcomer", "-", "1.0"),
    ("run", "runtime", "1.5", "1.6"),
]
MOVES = {
    "top": [("build-top", "backend", "82", "83")],
    "base": [*FOLLOWS, ("run-big", "giant", "9.0", "9.1")],
    # what its suite requires, requires the runtime
    "ext": [("build-ext", "backend", "82", "83"), *FOLLOWS],
}


@pytest.mark.parametrize(("layer", "moves"), MOVES.items(), ids=MOVES)
def test_an_upgrade_moves_what_a_layer_requires_and_no_more(
    tmp_path: Path,
    offer: Any,  # noqa: ANN401 - see offer
    layer: str,
    moves: list[tuple[str, str, str, str]],
) -> None:
    """Whatever else has newer releases by then; what is built against it follows where it must."""
    mini = Miniature(root=tmp_path).write()
    mini.edit("pipelines/ext/recipe.toml", '["checker==1.0"]', '["checker"]')
    stack, catalog, maker = mini.catalog.stack("mini"), mini.catalog, resolver(f"{offer.url}/simple", tmp_path / "work")
    before = maker.lock(stack, catalog)
    assert changes(before, maker.lock(stack, catalog, before, "top")) == ()
    newer = (
        ("runtime", "1.6", ("newcomer",)),
        ("newcomer", "1.0", ()),
        ("backend", "83", ()),
        ("giant", "9.1", ("runtime",)),
    )
    serve(offer, *OFFERED, *newer)
    later = resolver(f"{offer.url}/simple", tmp_path / "later")  # uv does not look again at once
    after = later.lock(stack, catalog, before, layer)
    shown = [(each.set, each.name, each.before or "-", each.after or "-") for each in changes(before, after)]
    assert shown == moves
    anew = [each.name for each in changes(before, later.lock(stack, catalog))]
    assert set(anew) == {"backend", "giant", "helper", "newcomer", "runtime"}


def test_an_upgrade_looks_for_packages_of_the_layer_alone(tmp_path: Path, offer: Any) -> None:  # noqa: ANN401
    """Another layer's stay as they are, whatever the distribution has by now."""
    mini = Miniature(root=tmp_path).write().pin_every_way()
    mini.edit("stacks/mini.toml", '"sdist"', '"distro"')
    one, two = (
        DistroPackage(name="libdemo-dev", version=version, architecture="all", sha256=DIGEST)
        for version in ("1.0-1", "1.0-2")
    )
    stack, url, work = mini.catalog.stack("mini"), f"{offer.url}/simple", tmp_path / "work"
    before = resolver(url, work, [one]).lock(stack, mini.catalog)
    assert resolver(url, work, [two]).lock(stack, mini.catalog, before, "top").packages == {"ext": (one,)}
    after = resolver(url, work, [two]).lock(stack, mini.catalog, before, "ext")
    assert after.packages == {"ext": (two,)}
    (change,) = changes(before, after)
    assert vars(change) == {
        "set": "packages of ext",
        "name": "libdemo-dev all",
        "before": "1.0-1",
        "after": "1.0-2",
    }


def test_other_files_of_the_same_version_are_a_change(tmp_path: Path) -> None:
    """Told by their digests, for nothing else differs."""
    mini = Miniature(root=tmp_path).write()
    before = mini.catalog.lock(mini.catalog.stack("mini"))
    after = replace(before, sets={**before.sets, "run": (pinned("runtime==1.5", OTHER),)})
    (change,) = changes(before, after)
    assert (change.name, change.before[:5], change.after[:5]) == ("runtime", "1.5 (", "1.5 (")
    assert change.before != change.after


def a_session(root: Path) -> Session:
    """Return a run of a task in a miniature checkout; it writes to the streams of this moment."""
    Miniature(root=root).write()
    return Session(Paths(root=root, state=root / "state", dist=root / "dist"), Console(json=True))


def test_what_changed_is_shown_and_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As a table, and as one document."""
    session = a_session(tmp_path)
    file = tmp_path / "stacks" / "mini.lock"
    held = read_lock(file)
    newer = replace(held, sets={**held.sets, "build-top": (pinned("backend==83"),)})
    asked: list[object] = []

    def resolved(_self: Resolver, stack: Stack, _catalog: Catalog, *more: object) -> Lock:
        asked.append((stack.name, *more))
        return newer

    monkeypatch.setattr(Resolver, "lock", resolved)
    session.lock("", with_trees=False, upgrade="top")
    said = capsys.readouterr()
    assert asked == [("mini", held, "top")]
    assert json.loads(said.out) == {
        "locks": [
            {
                "stack": "mini",
                "changes": [{"set": "build-top", "name": "backend", "before": "82", "after": "83"}],
            }
        ]
    }
    assert [line.split() for line in said.err.splitlines() if "backend" in line] == [
        ["build-top", "backend", "82", "83"]
    ]
    assert read_lock(file) == newer


def test_a_lock_that_cannot_be_read_is_made_anew_and_else_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One of an earlier format, for example; what was in it cannot be kept."""
    session = a_session(tmp_path)
    file = tmp_path / "stacks" / "mini.lock"
    right = read_lock(file)
    file.write_text("version = 1\n", encoding="utf-8")
    for options in ({"keep": True}, {"upgrade": "top"}):
        with pytest.raises(CatalogError, match="must be one that this mmstack knows"):
            session.lock("mini", with_trees=False, **options)
    monkeypatch.setattr(Resolver, "lock", lambda *_given: right)
    session.lock("mini", with_trees=False)
    assert "made anew without a look at what it was" in capsys.readouterr().err
    assert read_lock(file) == right


def test_a_full_disk_leaves_the_lock_that_was(tmp_path: Path) -> None:
    """It is versioned and shared: half of it is of no use to anybody."""
    session = a_session(tmp_path)
    file = tmp_path / "stacks" / "mini.lock"
    before = file.read_bytes()
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # Python ignores the signal, so that writing fails
    try:
        with pytest.raises(DiskError, match=r"mini\.lock"):
            session.lock("mini", with_trees=False, keep=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["mini.lock", "mini.toml"]


def test_options_of_lock_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    """And layers that no stack has."""
    session = a_session(tmp_path)
    with pytest.raises(UsageError, match="`--keep` keeps all versions"):
        session.lock("", with_trees=False, keep=True, upgrade="top")
    with pytest.raises(UsageError, match="--check writes nothing"):
        session.check_locks("", alone=False)
    with pytest.raises(UsageError, match="there is no layer 'tpo'"):
        session.lock("", with_trees=False, upgrade="tpo")
    with pytest.raises(UsageError, match="no such stack has the layer 'top'"):
        with_layer([], "top")
