from __future__ import annotations

import copy
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmstack._compat import tomllib
from mmstack.catalog import Catalog, read_recipe, read_series, read_stack
from mmstack.errors import CatalogError, UsageError
from mmstack.lock import read_lock
from mmstack.locked import drift, inputs_of
from mmstack.model import CMakeProject
from tests.miniature import PATCHES, Miniature, document

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
STACK_FILE, SERIES = "stacks/mini.toml", "patches/ext/series.toml"
BASE_FILE, EXT_FILE = "pipelines/base/recipe.toml", "pipelines/ext/recipe.toml"
LOCK_FILE = "stacks/mini.lock"
ENVIRONMENT = "[build.environment]"
REQUIRES = 'requires = ["backend"]\n\n[build.environment]'
TOOLS = 'requires = ["cmake", "ninja"]\n\n'
PROJECT = '[build.cmake]\nfile = "{}"\nwhen = {{ SPEED = "{}" }}\n\n[build.environment]'
DEFINITIONS = '[build.cmake]\ndefinitions = { PREFIX = "{built}/prefix" }\nfolder = "build"\n\n'
READERS: dict[str, Callable[[Path], object]] = {
    STACK_FILE: read_stack,
    EXT_FILE: read_recipe,
    SERIES: read_series,
    LOCK_FILE: read_lock,
}
TREE_UNDER_TEST = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    """A catalog that is right."""
    return Miniature(root=tmp_path).write()


def read_all(catalog: Catalog) -> None:
    """Read every file of a catalog."""
    assert catalog.recipes
    assert catalog.patches
    for stack in catalog.stacks.values():
        assert catalog.lock(stack).sets


def test_a_catalog_is_what_its_files_say(mini: Miniature) -> None:
    """Stacks, layers and patches are found by their names."""
    read_all(mini.catalog)
    catalog = mini.catalog
    assert [layer.name for layer in catalog.stack("mini").layers] == ["base", "ext", "top"]
    assert catalog.stack("mini").expect == {"ext": {"unit": "10"}}
    assert catalog.recipe("ext").memory_per_job == 512 << 20
    assert catalog.recipe("ext").releases["2.1"]["sdist"].files[0].filename == "ext-2.1.tar.gz"
    assert [patch.id for patch in catalog.patches["ext"]] == [f"ext-{name}" for name in PATCHES]
    assert catalog.patches["ext"][2].when == {"base": ">=2"}


def test_a_recipe_may_have_a_cmake_project(mini: Miniature) -> None:
    """It names its file and the flags under which it is built; the file is in the layer's digest."""
    before = mini.catalog.recipe("ext")
    assert before.cmake is None
    mini.edit(EXT_FILE, ENVIRONMENT, PROJECT.format("CMakeLists.txt", "O1"))
    mini.edit(EXT_FILE, '["backend"]', '["backend", "CMake>=4", "ninja"]')
    mini.put("pipelines/ext/CMakeLists.txt", "project(ext)\n")
    recipe = mini.catalog.recipe("ext")
    assert recipe.cmake == CMakeProject(file="CMakeLists.txt", when={"SPEED": "O1"})
    mini.put("pipelines/ext/CMakeLists.txt", "project(other)\n")
    assert len({before.digest, recipe.digest, mini.catalog.recipe("ext").digest}) == 3


def test_a_recipe_may_have_a_project_of_the_tree_s_own(mini: Miniature) -> None:
    """It says what that is told, and where in the tree it is configured."""
    mini.edit(EXT_FILE, REQUIRES, TOOLS + DEFINITIONS + ENVIRONMENT)
    expected = CMakeProject(definitions={"PREFIX": "{built}/prefix"}, folder="build", when={})
    assert mini.catalog.recipe("ext").cmake == expected


def test_a_recipe_may_take_the_patches_of_another_project(mini: Miniature) -> None:
    """Two layers that are made of one source share its series; by default it is the project's own."""
    assert mini.catalog.recipe("ext").series == "ext"
    mini.edit("pipelines/ext/recipe.toml", 'project = "ext"', 'project = "other"\npatches = "ext"')
    assert (mini.catalog.recipe("ext").project, mini.catalog.recipe("ext").series) == ("other", "ext")
    assert mini.catalog.patches["ext"]


def test_a_recipe_may_lay_files_over_the_tree(mini: Miniature) -> None:
    """They stand beside it, and are in the layer's digest."""
    before = mini.catalog.recipe("ext")
    mini.put("pipelines/ext/setup.py", "")
    mini.edit(EXT_FILE, REQUIRES, f'files = ["setup.py"]\n{REQUIRES}')
    recipe = mini.catalog.recipe("ext")
    assert recipe.files == ("setup.py",)
    mini.put("pipelines/ext/setup.py", "pass\n")
    assert len({before.digest, recipe.digest, mini.catalog.recipe("ext").digest}) == 3


MISTAKES = {
    "unknown key": (STACK_FILE, "summary =", "sumary =", "unknown key 'sumary'|did you mean 'summary'"),
    "missing key": (STACK_FILE, 'cuda = "cpu"', "", "key 'cuda' is missing|add it, a string"),
    "wrong type": (STACK_FILE, 'cuda = "cpu"', "cuda = 12.8", "key 'cuda' must be a string|12.8"),
    "no CUDA version": (STACK_FILE, '"cpu"', '"twelve"', "key 'cuda' must be cpu or a version X.Y"),
    "no Pythons": (STACK_FILE, '["3.11", "3.12"]', "[]", "key 'python' must be a list of Pythons"),
    "no Python": (STACK_FILE, '"3.12"', '"3.x"', "key 'python' must be a list of Pythons|3.x"),
    "no layers": (STACK_FILE, "[[layers]]", "[[expect.ext.layers]]", "must be a string|layers"),
    "layer twice": (STACK_FILE, '"top"', '"base"', "key 'layers' must list layers, each once"),
    "unknown layer": (STACK_FILE, '"top"', '"tops"', "no layer 'tops'|did you mean 'top'"),
    "unknown source": (STACK_FILE, '"sdist"', '"sdits"', "key 'layers[1].source'|did you mean 'sdist'"),
    "a folder as source": (STACK_FILE, '"sdist"', '"path"', "key 'layers[1].source' must be pinned|LAYER=path"),
    "no version": (STACK_FILE, '"2.0"', '"two"', "key 'layers[1].version' must be a version|two"),
    "unknown flag": (STACK_FILE, "SPEED", "SPED", "layer 'ext' has no flag 'SPED'|did you mean 'SPEED'"),
    "unknown value": (STACK_FILE, '"O1"', '"01"', "'01' is no value of ext.SPEED|known: O0, O1, O2"),
    "unknown expect": (STACK_FILE, "expect.ext", "expect.exd", "unknown key 'expect.exd'|did you mean 'ext'"),
    "unknown recipe key": (EXT_FILE, "against =", "agains =", "unknown key 'build.agains'|did you mean 'against'"),
    "against not needed": (EXT_FILE, 'needs = ["base"]', "", "key 'build.against' must name layers"),
    "no memory": (EXT_FILE, "= 512", "= 0", "key 'build.memory_per_job_mib' must be at least 1"),
    "memory as text": (EXT_FILE, "= 512", '= "512"', "key 'build.memory_per_job_mib' must be an integer"),
    "no requirement": (EXT_FILE, '"backend"', '"back end"', "key 'build.requires' must be a list of requirements"),
    "no test requirement": (EXT_FILE, '"checker==1.0"', '"=="', "key 'verify.requires' must be a list of requ"),
    "no project there": (
        EXT_FILE,
        ENVIRONMENT,
        PROJECT.format("CMake.txt", "O1"),
        "key 'build.cmake.file' must be a file",
    ),
    "a file of another folder": (
        EXT_FILE,
        REQUIRES,
        f'files = ["../x"]\n{REQUIRES}',
        "key 'build.files' must be a file",
    ),
    "a project twice": (
        EXT_FILE,
        REQUIRES,
        TOOLS + 'cmake = { command = ["x"], definitions = {}, folder = "x" }\n' + ENVIRONMENT,
        "key 'build.cmake.file' must be there, or else 'command' or 'definitions' must",
    ),
    "a project nowhere": (
        EXT_FILE,
        REQUIRES,
        TOOLS + DEFINITIONS.replace('"build"', '"../build"') + ENVIRONMENT,
        "key 'build.cmake.folder' must be a folder below the tree",
    ),
    "project elsewhere": (EXT_FILE, ENVIRONMENT, PROJECT.format("../x", "O1"), "key 'build.cmake.file' must be a file"),
    "project's value": (
        EXT_FILE,
        REQUIRES,
        TOOLS + PROJECT.format("recipe.toml", "O9"),
        "key 'build.cmake.when.SPEED' must be",
    ),
    "project's flag": (EXT_FILE, ENVIRONMENT, '[build.cmake.when]\nX = ""\n\n[x]', "unknown key"),
    "project without tools": (EXT_FILE, ENVIRONMENT, PROJECT.format("recipe.toml", "O1"), "must name cmake and ninja"),
    "project of no key": (
        EXT_FILE,
        ENVIRONMENT,
        PROJECT.format("README.md", "O1"),
        "'build.cmake.file' must be a file of",
    ),
    "default no choice": (EXT_FILE, '"O2"\n', '"O3"\n', "key 'flags.SPEED.default' must be one of the choices"),
    "no gate": (EXT_FILE, '"platform"', '"platfrom"', "key 'gates.wheel' must be one of platform, library"),
    "no gates": (EXT_FILE, "[gates]", "[flags.gates]", "unknown key"),
    "short sha256": (EXT_FILE, "5" * 64, "5" * 63, "key 'releases[0].sdist[0].sha256' must be a sha256"),
    "no sha256": (EXT_FILE, "5" * 64, "G" * 64, "key 'releases[0].sdist[0].sha256' must be a sha256"),
    "release twice": (EXT_FILE, '"2.1"', '"2.0"', "key 'releases[1].version' must be another"),
    "no file": (EXT_FILE, 'sdist = [{ filename = "ext-2.1.tar.gz"', 'sdist = []\nx = [{ a = ""', "unknown key"),
    "empty files": (EXT_FILE, f'[{{ filename = "ext-2.1.tar.gz", sha256 = "{"7" * 64}" }}]', "[]", "at least one file"),
    "path for a file": (EXT_FILE, '"ext-2.1', '"../ext-2.1', "key 'releases[1].sdist[0].filename' must be the name"),
    "no wheel": (EXT_FILE, "-py3-none-any.whl", ".whl", "key 'releases[0].wheel[0].filename' must be the name of a w"),
    "no range": (EXT_FILE, '">=1"', '"=>1"', "key 'conflicts[0].when.base' must be a version range|=>1"),
    "conflict of nothing": (EXT_FILE, '{ base = ">=1", gcc = "<9" }', "{}", "key 'conflicts[0].when' must name"),
    "variant's name": (BASE_FILE, "big = [", '"b g" = [', "key 'run.variants.b g' must be named"),
    "no variant": (BASE_FILE, "proj-base=={version}", "proj base", "key 'run.variants.big' must be a list of requ"),
    "other project": (SERIES, 'project = "ext"', 'project = "exd"', "key 'project' must be the folder's name, 'ext'"),
    "patch not there": (SERIES, "0001-always", "0001-allways", "key 'patch[0].file'|did you mean '0001-always.patch'"),
    "patch elsewhere": (SERIES, "0001-always", "../ext/0001-always", "key 'patch[0].file'"),
    "endless patch": (SERIES, "0001-always", "x" * 5000, "key 'patch[0].file'"),
    "no patch range": (SERIES, '"==2.0"', '"2.0"', "key 'patch[0].versions' must be a version range"),
    "no when range": (SERIES, 'base = ">=2"', 'base = "2"', "key 'patch[2].when.base' must be a version range"),
    "unknown patch key": (SERIES, "retire_when", "retirewhen", "unknown key 'patch[0].retirewhen'|did you mean"),
    "no lock": (LOCK_FILE, "version = 2", "version = 1", "key 'version' must be one that this mmstack knows"),
    "no pin": (LOCK_FILE, "runtime==1.5", "runtime>=1.5", "'runtime>=1.5' is no pinned requirement"),
    "no pinned version": (LOCK_FILE, '"runtime==1.5"', '"runtime==x"', "no valid version or marker"),
    "no marker": (LOCK_FILE, "python_version <", "python_versoin <", "no valid version or marker"),
    "no digest": (LOCK_FILE, '"runtime==1.5" =', '"runtime==1.4" =', "key 'sha256.runtime==1.5' is missing"),
    "wrong digest": (LOCK_FILE, "a" * 64, "a" * 65, "must be a list of sha256"),
}


@pytest.mark.parametrize(("file", "old", "new", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_file_key_and_remedy(mini: Miniature, file: str, old: str, new: str, words: str) -> None:
    """Whatever is wrong, the error says where, what is known there, and what to do."""
    mini.edit(file, old, new)
    with pytest.raises(CatalogError) as caught:
        read_all(mini.catalog)
    assert str(mini.root / file) in str(caught.value)
    assert all(word in str(caught.value) for word in words.split("|")), caught.value
    assert caught.value.fix


@pytest.mark.parametrize("file", READERS)
@pytest.mark.parametrize("content", [b"\xff", b"a = [", b"a = " + b"[" * 4000, b"\x00"])
def test_what_is_no_toml_is_told_with_its_file(mini: Miniature, file: str, content: bytes) -> None:
    """Every kind of file is read through the same door."""
    mini.put(file, content)
    with pytest.raises(CatalogError, match=re.escape(f"{mini.root / file} is not valid TOML")):
        read_all(mini.catalog)


def test_a_changed_patch_is_told_with_both_digests(mini: Miniature) -> None:
    """A patch is what its series says, or nothing is built."""
    mini.edit("patches/ext/0001-always.patch", "always = 2", "always = 3")
    with pytest.raises(CatalogError, match="is not the patch that series") as caught:
        read_all(mini.catalog)
    assert len(re.findall(r"[0-9a-f]{64}", caught.value.why)) == 2


def test_a_series_of_no_recipe_is_an_error(mini: Miniature) -> None:
    """A patch that nothing would ever apply is not passed over in silence."""
    mini.put("patches/exd/series.toml", 'project = "exd"\n')
    with pytest.raises(CatalogError, match="is for a project that no recipe has") as caught:
        read_all(mini.catalog)
    assert "did you mean 'ext'" in caught.value.why


def test_a_missing_lock_says_how_to_make_it(mini: Miniature) -> None:
    """The remedy is a command."""
    (mini.root / LOCK_FILE).unlink()
    with pytest.raises(CatalogError, match="is missing") as caught:
        read_all(mini.catalog)
    assert caught.value.fix == "make it with `invoke lock --stack mini`"


@pytest.mark.parametrize(("kind", "word", "near"), [("stack", "mimi", "mini"), ("recipe", "extt", "ext")])
def test_a_name_that_is_not_there_is_answered_with_the_nearest(
    mini: Miniature, kind: str, word: str, near: str
) -> None:
    """Stacks and layers alike."""
    with pytest.raises(UsageError) as caught:
        getattr(mini.catalog, kind)(word)
    assert f"did you mean '{near}'?" in caught.value.why


def test_the_key_of_a_recipe_covers_its_code_and_not_its_page(mini: Miniature) -> None:
    """What can change a build changes the digest, what is for readers does not."""
    before = mini.catalog.recipe("ext")
    mini.put("pipelines/ext/README.md", "other")
    assert mini.catalog.recipe("ext") == before
    mini.put("pipelines/ext/recipe.py", "")
    assert mini.catalog.recipe("ext").digest != before.digest
    assert mini.catalog.recipe("ext").suite_digest == before.suite_digest


@pytest.mark.parametrize("name", [".recipe.toml.swp", "recipe.toml~", "#recipe.toml#", "4913"])
def test_what_an_editor_writes_beside_a_file_is_in_no_key(mini: Miniature, name: str) -> None:
    """Else to look into a recipe would end a build."""
    before = mini.catalog.recipe("ext")
    mini.put(f"pipelines/ext/{name}", "x")
    mini.put(f"pipelines/ext/verify/{name}", "x")
    assert mini.catalog.recipe("ext") == before


@pytest.mark.parametrize("file", ["pipelines/ext/verify/test_ext.py", "pipelines/conftest.py", "pipelines/pytest.ini"])
def test_the_key_of_a_suite_covers_the_suite(mini: Miniature, file: str) -> None:
    """A changed check is run again, but nothing is built again for it."""
    before = mini.catalog.recipe("ext")
    mini.put(file, "changed = True\n")
    mini.put("pipelines/ext/verify/__pycache__/test_ext.pyc", b"\0")
    after = mini.catalog.recipe("ext")
    assert (after.digest, after.suite_digest != before.suite_digest) == (before.digest, True)


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(WORDS, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(-1e9, 1e9)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


def replaced(values: Any, data: st.DataObject) -> Any:  # noqa: ANN401 - any TOML
    """Return a document with one value, wherever it is, replaced by any other, or one key added or left out."""
    place = values
    while True:
        spots = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not spots:
            return values
        spot = data.draw(st.sampled_from(spots))
        inner = place[spot]
        if isinstance(inner, dict | list) and data.draw(st.integers(0, 3)):
            place = inner
            continue
        if data.draw(st.booleans()):
            place[spot] = data.draw(VALUES)
        elif isinstance(place, dict):
            place[data.draw(WORDS)] = place.pop(spot)
        else:
            place.append(data.draw(VALUES))
        return values


@pytest.mark.parametrize("file", READERS)
@given(data=st.data())
@TREE_UNDER_TEST
def test_any_change_of_a_file_ends_in_a_value_or_a_catalog_error(
    tmp_path: Path, file: str, data: st.DataObject
) -> None:
    """No value in any place makes the reader fail in another way."""
    mini = Miniature(root=tmp_path)
    if not (tmp_path / LOCK_FILE).exists():
        mini.write().pin_every_way()
        (tmp_path / "valid").write_bytes((tmp_path / file).read_bytes())
    valid = tomllib.loads((tmp_path / "valid").read_text(encoding="utf-8"))
    mini.put(file, document(replaced(copy.deepcopy(valid), data)))
    try:
        assert READERS[file](tmp_path / file)
    except CatalogError as error:
        assert str(tmp_path / file) in str(error)  # noqa: PT017 - every error is looked at, and none is a value too


@pytest.mark.parametrize("file", READERS)
@given(content=st.one_of(st.text().map(str.encode), st.binary(), st.dictionaries(WORDS, VALUES).map(document)))
@TREE_UNDER_TEST
def test_any_content_of_a_file_ends_in_a_catalog_error(tmp_path: Path, file: str, content: str | bytes) -> None:
    """Nothing that is not such a file is taken for one."""
    mini = Miniature(root=tmp_path)
    mini.put(file, content)
    with pytest.raises(CatalogError):
        READERS[file](tmp_path / file)


def test_the_repository_s_own_catalog_is_right() -> None:
    """Every stack, recipe, series and lock can be read, and each lock is made of what its recipes ask for now."""
    catalog = Catalog(ROOT)
    read_all(catalog)
    for stack in catalog.stacks.values():
        assert drift(catalog.lock(stack).inputs, inputs_of(stack, catalog)) == (), (
            f"run invoke lock --keep on {stack.name}"
        )


def test_no_file_names_a_package_index() -> None:
    """Which package index is used is the user's own configuration."""
    hosts = ("files.python" + "hosted.org", "py" + "pi.org", "deb.deb" + "ian.org", "registry.npm" + "js.org")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True)
    files = [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    assert ROOT / "stacks" / "cpu.lock" in files
    assert [file for file in files if any(host.encode() in file.read_bytes() for host in hosts)] == []
