"""Stacks, recipes, series, locks, toolkits: what the repository itself says, in the hands of somebody hostile."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st

from mmstack._compat import tomllib
from mmstack.catalog import Catalog, read_recipe, read_series, read_stack, read_toolkit
from mmstack.lock import applicable, parse_requirements, read_lock
from tests.fuzz.cases import FEW, damaged, edited, fuzz, mutated, refusable, values
from tests.miniature import INTERPRETER, Miniature, document

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
MINI = Path("/nowhere")
TOOLKIT = "toolkits/13.0.toml"
READERS: dict[str, Callable[[Path], Any]] = {
    "stacks/mini.toml": read_stack,
    "stacks/mini.lock": read_lock,
    "pipelines/base/recipe.toml": read_recipe,
    "pipelines/ext/recipe.toml": read_recipe,
    "patches/ext/series.toml": read_series,
    TOOLKIT: read_toolkit,
}
KINDS = {
    "stack": "stacks/mini.toml",
    "lock": "stacks/mini.lock",
    "recipe": "pipelines/ext/recipe.toml",
    "series": "patches/ext/series.toml",
    "toolkit": TOOLKIT,
}


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """A catalog that is right, and stays so between cases."""
    return make(tmp_path_factory.mktemp("catalog"))


def make(root: Path) -> Miniature:
    """Write a catalog that is right."""
    made = Miniature(root=root).write().pin_every_way()
    made.lock({"run": ("runtime==1.5",), "run-big": ("cuda-like==12",), "verify": ("checker==1.0",), **BUILT})
    (root / "toolkits").mkdir()
    shutil.copy(ROOT / TOOLKIT, root / TOOLKIT)
    return made


BUILT = {"build-ext": ("backend==82", "old-helper==1 ; python_version < '3.12'"), "build-top": ("backend==82",)}


def _valid(file: str) -> str:
    from tempfile import TemporaryDirectory  # noqa: PLC0415 - for this alone

    with TemporaryDirectory() as folder:
        return (make(Path(folder)).root / file).read_text(encoding="utf-8")


VALID = {kind: _valid(file) for kind, file in KINDS.items()}


def hostile(kind: str) -> st.SearchStrategy[bytes]:
    """Return a strategy of what may stand in such a file."""
    text = VALID[kind]
    return st.one_of(
        mutated(tomllib.loads(text)).map(lambda value: document(value).encode() if isinstance(value, dict) else b"="),
        edited(text).map(lambda changed: changed.encode("utf-8", "surrogatepass")),
        damaged(text.encode()),
        st.dictionaries(st.sampled_from(sorted(tomllib.loads(text))), values).map(
            lambda value: document(value).encode()
        ),
        st.binary(max_size=60),
        st.sampled_from([b"a=" + b"[" * 5000, b"a." * 5000 + b"b=1", b"\xef\xbb\xbf", b"a=9" + b"9" * 5000]),
    )


def read(mini: Miniature, kind: str, body: bytes) -> None:
    """Read one such file by itself."""
    file = mini.root / KINDS[kind]
    before = file.read_bytes()
    file.write_bytes(body)
    try:
        with refusable():
            READERS[KINDS[kind]](file)
    finally:
        file.write_bytes(before)


@fuzz("stacks (TOML)", body=hostile("stack"))
def test_a_stack_is_read_or_refused(mini: Miniature, body: bytes) -> None:
    """Whatever stands in `stacks/<name>.toml`."""
    read(mini, "stack", body)


@fuzz("recipes (TOML)", body=hostile("recipe"))
def test_a_recipe_is_read_or_refused(mini: Miniature, body: bytes) -> None:
    """Whatever stands in `pipelines/<layer>/recipe.toml`."""
    read(mini, "recipe", body)


@fuzz("series (TOML)", body=hostile("series"))
def test_a_series_is_read_or_refused(mini: Miniature, body: bytes) -> None:
    """Whatever stands in `patches/<project>/series.toml`."""
    read(mini, "series", body)


@fuzz("locks (TOML)", body=hostile("lock"))
def test_a_lock_is_read_or_refused(mini: Miniature, body: bytes) -> None:
    """Whatever stands in `stacks/<name>.lock`, its markers too."""
    file = mini.root / KINDS["lock"]
    before = file.read_bytes()
    file.write_bytes(body)
    try:
        with refusable():
            for items in read_lock(file).sets.values():
                applicable(items, INTERPRETER.markers)
    finally:
        file.write_bytes(before)


@fuzz("toolkits (TOML)", body=hostile("toolkit"))
def test_a_toolkit_is_read_or_refused(mini: Miniature, body: bytes) -> None:
    """Whatever stands in `toolkits/X.Y.toml`."""
    read(mini, "toolkit", body)


@fuzz(
    "plans from changed files",
    share=0.4,
    kind=st.sampled_from(["stack", "lock", "recipe", "series"]),
    data=st.data(),
)
def test_what_is_read_can_be_planned_with(mini: Miniature, kind: str, data: st.DataObject) -> None:
    """A value that a reader lets through makes nothing after it fail in another way."""
    file = mini.root / KINDS[kind]
    before = file.read_bytes()
    changed = data.draw(mutated(tomllib.loads(VALID[kind])))
    file.write_bytes(document(changed).encode() if isinstance(changed, dict) else b"")
    try:
        with refusable():
            catalog = Catalog(mini.root)
            _ = catalog.stacks, catalog.patches
            mini.plan()
    finally:
        file.write_bytes(before)


HASH = f"    --hash=sha256:{'0' * 64}"
RESOLVED = f"a==1 \\\n{HASH}\nb==2 ; os_name == 'nt' \\\n{HASH} \\\n{HASH.replace('0', '1')}\n"


@fuzz("resolved requirements", text=edited(RESOLVED))
def test_what_a_resolver_printed_is_read_or_refused(text: str) -> None:
    """It is the words of another program."""
    with refusable():
        parse_requirements(text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tables_are_taken_as_they_are(mini: Miniature, kind: str) -> None:
    """What is changed above is valid before: of a document that is refused unread, no change could find anything."""
    assert READERS[KINDS[kind]](mini.root / KINDS[kind])
    assert mini.plan().layers


def test_what_a_resolver_printed_is_taken_as_it_is() -> None:
    """With its markers, and all hashes."""
    a, b = parse_requirements(RESOLVED)
    assert (a.name, a.version, b.marker, len(b.sha256)) == ("a", "1", "os_name == 'nt'", 2)


def test_few_cases_are_run_with_the_other_tests() -> None:
    """The many have a session of their own."""
    assert FEW <= 25
