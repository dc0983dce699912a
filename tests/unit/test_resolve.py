from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mmstack.errors import CatalogError, ConstraintError, HostError, MmstackError, UsageError
from mmstack.keys import file_digest
from mmstack.model import Compiler, FilePin, Linker, Request, StepKind
from mmstack.resolve import candidates, choose_python, select
from tests.miniature import BIG, HOST, INTERPRETER, NEWER, PINS, SMALL, Miniature, pinned

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmstack.model import Interpreter

GCC = "c++ (Debian 12.2.0-14) 12.2.0"
SAME_COMPILER = Compiler(cc=Path("cc"), cxx=Path("c++"), version="c++ (Debian 12.2.0-14) 12.2.0 [x86_64-linux-gnu]")
FROM_PATH = Request(sources={"ext": "path:somewhere"})


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    """A catalog that is right."""
    return Miniature(root=tmp_path).write()


def compiler(version: str) -> Compiler:
    """Return a compiler that says this of itself."""
    return Compiler(cc=Path("cc"), cxx=Path("c++"), version=version)


def test_without_options_the_stack_is_the_one_for_the_cpu(mini: Miniature) -> None:
    """The main job needs no option."""
    assert select(Request(), mini.catalog).stack.name == "mini"
    assert select(Request(cuda="cpu"), mini.catalog).stack.name == "mini"
    assert select(Request(stack="mini"), mini.catalog).stack.name == "mini"


def test_a_cuda_version_names_its_stack(mini: Miniature) -> None:
    """One stack for a version is found by it."""
    text = (mini.root / "stacks/mini.toml").read_text(encoding="utf-8")
    mini.put("stacks/gpu.toml", text.replace('"cpu"', '"12.8"\narch = ["9.0"]'))
    assert select(Request(cuda="12.8"), mini.catalog).stack.name == "gpu"


def test_of_several_stacks_none_is_taken_unasked(mini: Miniature) -> None:
    """Unless one is named like what it is for, the user has to choose."""
    text = (mini.root / "stacks/mini.toml").read_text(encoding="utf-8")
    mini.put("stacks/more.toml", text)
    with pytest.raises(UsageError, match="there are 2 stacks for CUDA cpu") as caught:
        select(Request(), mini.catalog)
    assert (caught.value.why, caught.value.fix) == ("mini, more", "choose one with `--stack NAME`")
    mini.put("stacks/cpu.toml", text)
    assert select(Request(), mini.catalog).stack.name == "cpu"


REFUSALS = {
    "unknown stack": (Request(stack="mimi"), "no stack 'mimi'|did you mean 'mini'"),
    "unknown CUDA": (Request(cuda="99"), "'99' is no CUDA version"),
    "unmade CUDA": (Request(cuda="99.9"), "no stack for CUDA 99.9|known: cpu"),
    "stack and CUDA": (Request(stack="mini", cuda="12.8"), "stack 'mini' is for CUDA cpu, not 12.8"),
    "no architecture": (Request(arch=("banana",)), "'banana' is no GPU architecture|9.0"),
    "architecture on a CPU": (Request(arch=("9.0",)), "compiles nothing for a GPU"),
    "unknown layer's source": (Request(sources={"exd": "sdist"}), "'exd' is not in this stack|did you mean 'ext'"),
    "unknown layer to leave out": (Request(without=("tob",)), "'tob' is not in this stack|did you mean 'top'"),
    "unknown layer's flag": (Request(flags={"exd.SPEED": "O1"}), "'exd' is not in this stack|did you mean 'ext'"),
    "unknown flag": (Request(flags={"ext.SPED": "O1"}), "layer 'ext' has no flag 'SPED'|did you mean 'SPEED'"),
    "flag without layer": (Request(flags={"SPEED": "O1"}), "'SPEED' is not in this stack"),
    "unknown value": (Request(flags={"ext.SPEED": "O9"}), "'O9' is no value of ext.SPEED|known: O0, O1, O2"),
    "unknown source": (Request(sources={"ext": "sdits"}), "'sdits' is no kind of source|did you mean 'sdist'"),
    "source with a rest": (Request(sources={"ext": "sdist:x"}), "'sdist:x' is no kind of source"),
    "unpinned source": (Request(sources={"top": "wheel"}), "'top' 3.0 has no source 'wheel'|path:DIR, sdist"),
    "no way to build": (Request(sources={"base": "sdist"}), "'base' cannot be built from source|no build.requires"),
    "no folder": (Request(sources={"ext": "path:"}), "path names no folder|ext=path:DIR"),
    "nobody's folder": (
        Request(sources={"ext": "path:~nosuchuser/x"}),
        "'~nosuchuser/x' is no path|write the whole",
    ),
    "all left out": (Request(without=("base", "ext", "top")), "stack 'mini' has no layer that `--without` leaves"),
    "needed layer left out": (Request(without=("ext",)), "layer 'top' needs 'ext'|--without top"),
}


@pytest.mark.parametrize(("request_", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_does_not_exist_is_refused_with_a_remedy(mini: Miniature, request_: Request, words: str) -> None:
    """Each is the user's own mistake, told before anything is done."""
    with pytest.raises(UsageError) as caught:
        select(request_, mini.catalog)
    assert all(word in str(caught.value) for word in words.split("|")), caught.value
    assert caught.value.fix


def test_an_architecture_is_for_a_cuda_stack(mini: Miniature) -> None:
    """Every spelling that users know is taken there."""
    mini.edit("stacks/mini.toml", '"cpu"', '"12.8"\narch = ["9.0"]')
    assert select(Request(cuda="12.8", arch=("9.0", "12.0+PTX", "9.0a")), mini.catalog).stack.cuda == "12.8"


def test_a_stack_whose_release_is_not_pinned_is_a_mistake_of_the_catalog(mini: Miniature) -> None:
    """The error names what is pinned, and where more belongs."""
    mini.edit("stacks/mini.toml", 'version = "2.0"', 'version = "2.2"')
    with pytest.raises(CatalogError, match=r"stack takes ext 2\.2 from 'sdist'") as caught:
        select(Request(), mini.catalog)
    assert caught.value.why == "pinned: 2.0 (sdist, wheel), 2.1 (sdist)"
    assert str(mini.root / "pipelines/ext/recipe.toml") in caught.value.fix


def test_a_layer_can_be_left_out(mini: Miniature) -> None:
    """Everything below it stays."""
    plan = mini.plan(Request(without=("top",)))
    assert [layer.name for layer in plan.layers] == ["base", "ext"]
    assert plan.key != mini.plan().key


def test_layers_stand_bottom_up(mini: Miniature) -> None:
    """A stack in another order is not sorted in silence."""
    mini.edit("pipelines/base/recipe.toml", 'modules = ["base"]', 'modules = ["base"]\nneeds = ["ext"]')
    with pytest.raises(CatalogError, match=r"mini\.toml: layer 'base' needs 'ext' below it"):
        mini.plan()


def test_a_plan_takes_each_layer_as_the_stack_says(mini: Miniature) -> None:
    """Release, source, file, flags, environment and requirements of the middle layer."""
    layer = mini.layer("ext")
    assert (layer.version, layer.source.kind, layer.chosen) == (
        "2.0",
        "sdist",
        FilePin(filename="ext-2.0.tar.gz", sha256="5" * 64),
    )
    assert layer.flags == {"SPEED": "O1"}
    assert layer.environment == {"MAX_JOBS": "{jobs}"}
    assert [item.name for item in layer.build_requires] == ["backend", "old-helper"]
    assert layer.reproducible


def test_a_wheel_is_neither_patched_nor_built(mini: Miniature) -> None:
    """A layer that comes built has no build's facts."""
    layer = mini.layer("ext", Request(sources={"ext": "wheel"}))
    assert (layer.patches, layer.build_requires, layer.environment) == ((), (), {})


def test_a_flag_of_the_user_goes_before_that_of_the_stack(mini: Miniature) -> None:
    """User, stack, recipe: the nearest wins."""
    assert mini.layer("ext", Request(flags={"ext.SPEED": "O0"})).flags == {"SPEED": "O0"}
    mini.edit("stacks/mini.toml", 'flags = { SPEED = "O1" }', "")
    assert mini.layer("ext").flags == {"SPEED": "O2"}


def test_a_recipe_s_code_has_the_flags_and_versions(mini: Miniature) -> None:
    """What data cannot say comes from recipe.py, and goes before the data."""
    mini.put(
        "pipelines/ext/recipe.py",
        "from mmstack.recipes import DataOnly\n"
        "class Recipe(DataOnly):\n"
        "    def environment(self, facts):\n"
        "        return {'MAX_JOBS': '1', 'BASE': facts.versions['base'], 'O': facts.flags['SPEED'], 'C': facts.cuda}\n"
        "recipe = Recipe()\n",
    )
    assert mini.layer("ext").environment == {"MAX_JOBS": "1", "BASE": "1.0", "O": "O1", "C": "cpu"}


@pytest.mark.parametrize(
    ("code", "words"), [("x = (", "does not run"), ("import nosuch", "does not run"), ("x = 1", "defines no `recipe`")]
)
def test_code_of_a_recipe_that_is_wrong_is_a_mistake_of_the_catalog(mini: Miniature, code: str, words: str) -> None:
    """The error names the file, whatever went wrong in it."""
    file = mini.put("pipelines/ext/recipe.py", code)
    with pytest.raises(CatalogError, match=words) as caught:
        mini.plan()
    assert str(file) in caught.value.what


def patches(mini: Miniature, interpreter: Interpreter = INTERPRETER) -> list[str]:
    """Return which patches a plan applies to the middle layer."""
    return [patch.id.removeprefix("ext-") for patch in mini.layer("ext", interpreter=interpreter).patches]


def test_patches_are_chosen_by_release_and_by_what_is_beside_them(mini: Miniature) -> None:
    """The release's range and every range of `when` must hold: layers, Python, build requirements."""
    assert patches(mini) == ["always", "new-backend"]
    assert patches(mini, interpreter=NEWER) == ["always", "new-python", "new-backend"]
    mini.lock(PINS | {"build-ext": ("backend==79",)})
    assert patches(mini) == ["always"]
    mini.edit("stacks/mini.toml", 'version = "2.0"', 'version = "2.1"')
    assert patches(mini) == ["other-release"]


def test_a_layer_may_take_the_patches_of_another_project(mini: Miniature) -> None:
    """What is made of the same source is patched alike."""
    mini.edit("pipelines/ext/recipe.toml", 'project = "ext"', 'project = "other"\npatches = "ext"')
    assert patches(mini) == ["always", "new-backend"]


def test_a_patch_may_depend_on_the_layer_below(mini: Miniature) -> None:
    """The version that counts is the stack's."""
    mini.edit("stacks/mini.toml", 'version = "1.0"', 'version = "2.0"')
    mini.edit("pipelines/base/recipe.toml", 'version = "1.0"', 'version = "2.0"')
    assert patches(mini) == ["always", "new-base", "new-backend"]


def test_a_python_of_the_stack_is_chosen_in_its_order(mini: Miniature) -> None:
    """What the stack prefers counts, not what was found first."""
    stack = mini.catalog.stack("mini")
    assert choose_python(stack, replace(HOST, pythons=(NEWER, INTERPRETER))) is INTERPRETER
    assert choose_python(stack, replace(HOST, pythons=(NEWER,))) is NEWER
    with pytest.raises(HostError) as none:
        choose_python(stack, replace(HOST, pythons=(), notes={"python 3.11": "its headers are missing", "gpu": "none"}))
    assert none.value.why.splitlines() == ["stack 'mini' is made for 3.11, 3.12", "3.11: its headers are missing"]
    assert "uv python install 3.11" in none.value.fix
    with pytest.raises(ConstraintError, match=r"is not for Python 3\.9") as wrong:
        choose_python(stack, replace(HOST, pythons=(replace(INTERPRETER, version="3.9.1"),)))
    assert "--python 3.11" in wrong.value.fix


@pytest.mark.parametrize(
    ("interpreter", "names"),
    [(INTERPRETER, [SMALL.filename, BIG.filename]), (NEWER, [BIG.filename.replace("11", "12")])],
)
def test_candidates_serve_the_interpreter_in_the_recipe_s_order(
    mini: Miniature, interpreter: Interpreter, names: list[str]
) -> None:
    """A small variant that is listed first is preferred wherever there is one."""
    source = select(Request(), mini.catalog).sources["base"]
    assert [pin.filename for pin in candidates(source, interpreter)] == names


def test_a_machine_that_no_file_serves_is_told(mini: Miniature) -> None:
    """The error says for which machines there are files."""
    source = select(Request(), mini.catalog).sources["base"]
    with pytest.raises(HostError, match=r"proj-base 1\.0 is pinned for no such machine") as caught:
        candidates(source, replace(INTERPRETER, tags=("cp311-cp311-linux_aarch64",)))
    assert SMALL.filename in caught.value.why


def test_an_sdist_serves_every_interpreter(mini: Miniature) -> None:
    """And a folder has no files to choose from."""
    sources = select(replace(FROM_PATH, sources={"top": "path:x"}), mini.catalog).sources
    assert len(candidates(sources["ext"], NEWER)) == 1
    assert candidates(sources["top"], NEWER) == ()


def test_without_a_compiler_what_is_compiled_cannot_be_built(mini: Miniature) -> None:
    """Only a layer that is built here and compiles needs one."""
    bare = replace(HOST, compiler=None)
    with pytest.raises(HostError, match=r"no C\+\+ compiler on this machine") as caught:
        mini.plan(host=bare)
    assert "'ext'" in caught.value.why
    assert "apt-get install g++" in caught.value.fix
    assert mini.plan(Request(without=("ext", "top")), host=bare).compiler is None
    assert mini.plan(Request(sources={"ext": "wheel"}), host=bare).compiler is None


@pytest.mark.parametrize(
    ("version", "works"),
    [
        (GCC, True),
        ("g++ (GCC) 8.5.0 20210514 (Red Hat 8.5.0-22)", False),
        ("x86_64-conda-linux-gnu-c++ (crosstool-NG 1.25.0.95) 11.4.0", True),
        ("g++-7 (SUSE Linux) 7.5.0", False),
        ("Debian clang version 6.0.6", True),
        ("some compiler of its own kind", True),
    ],
)
def test_a_known_conflict_ends_the_plan(mini: Miniature, version: str, works: bool) -> None:  # noqa: FBT001 - a table
    """Name, cause, facts and remedy come from the recipe."""
    host = replace(HOST, compiler=compiler(f"{version} [x86_64-linux-gnu]"))
    if works:
        assert mini.plan(host=host).compiler == host.compiler
    else:
        with pytest.raises(ConstraintError, match="old-compiler") as caught:
            mini.plan(host=host)
        assert "base 1.0, gcc" in caught.value.why
        assert caught.value.fix == "install g++ 9"


def test_a_folder_of_the_user_s_own_makes_all_above_it_unrepeatable(mini: Miniature) -> None:
    """The layer says so, those built against it as well, and the plan warns."""
    mini.edit("pipelines/base/recipe.toml", "[run]", '[build]\nrequires = ["backend"]\n[run]')
    mini.lock(PINS | {"build-base": ("backend==82",)})
    request = Request(sources={"base": "path:here"})
    plan = mini.plan(request, trees={"base": "f" * 64})
    assert [layer.reproducible for layer in plan.layers] == [False, False, True]
    assert plan.warnings == ("base is built from the folder here: the result cannot be made again elsewhere",)
    assert mini.plan().warnings == ()


def test_the_requirements_of_the_chosen_variant_are_installed(mini: Miniature) -> None:
    """Those of other variants are not; what the common set pins stays as it is."""
    assert [item.line() for item in mini.plan(base=SMALL).run_requires] == [pinned("runtime==1.5").line()]
    big = mini.plan(base=BIG)
    assert [(item.name, item.version) for item in big.run_requires] == [("runtime", "1.5"), ("cuda-like", "12")]
    names = [item.name for item in big.layer("ext").build_requires]
    assert names == ["backend", "old-helper", "cuda-like", "runtime"], "its build imports the layer below"
    assert [item.name for item in big.layer("top").build_requires] == ["backend"]


def test_what_runs_is_not_installed_twice_for_the_suites(mini: Miniature) -> None:
    """A suite adds what only it needs."""
    assert [item.name for item in mini.plan().verify_requires] == ["checker"]


def test_markers_are_read_for_the_interpreter(mini: Miniature) -> None:
    """One lock, two Pythons."""
    assert [item.name for item in mini.layer("ext", interpreter=NEWER).build_requires] == ["backend"]


def test_a_lock_without_a_set_is_told(mini: Miniature) -> None:
    """A lock made for other recipes is not used in part."""
    mini.lock({name: lines for name, lines in PINS.items() if name != "build-top"})
    with pytest.raises(CatalogError, match="has no set 'build-top'"):
        mini.plan()


def test_the_graph_goes_bottom_up(mini: Miniature) -> None:
    """Each layer's chain, on the layers that it is built against; install on all; suites upwards, the last one last."""
    steps = {step.id: step.needs for step in mini.plan().steps}
    assert steps == {
        "fetch": (),
        "fetch base": (),
        "env base": ("fetch base",),
        "gate base": ("env base",),
        "fetch ext": (),
        "source ext": ("fetch ext",),
        "env ext": ("source ext", "gate base"),
        "build ext": ("env ext",),
        "gate ext": ("build ext",),
        "fetch top": (),
        "source top": ("fetch top",),
        "env top": ("source top",),
        "build top": ("env top",),
        "gate top": ("build top",),
        "install": ("fetch", "gate base", "gate ext", "gate top"),
        "verify base": ("fetch", "gate base"),
        "verify ext": ("verify base", "gate ext"),
        "verify top": ("verify ext", "gate top", "install"),
    }


def test_what_may_use_all_cores_is_marked(mini: Miniature) -> None:
    """A compilation and the suites; a layer of pure Python is built beside them."""
    heavy = {step.id for step in mini.plan().steps if step.heavy}
    assert heavy == {"build ext", "verify base", "verify ext", "verify top"}


@pytest.mark.parametrize(
    ("gibibytes", "roomy"), [(64, True), (5, True), (4, False), (1, False)], ids=["ample", "just", "tight", "little"]
)
def test_a_suite_runs_beside_a_compilation_where_memory_is_enough(
    mini: Miniature, gibibytes: int, *, roomy: bool
) -> None:
    """Four compilers of half a gibibyte, two for the suite, one kept free; where nothing is compiled, always."""
    machine = replace(HOST, cores=4, memory=gibibytes << 30)
    assert mini.plan(host=machine).roomy is roomy
    assert mini.plan(Request(sources={"ext": "wheel"}), host=machine).roomy


def test_steps_carry_the_keys_of_what_they_make(mini: Miniature) -> None:
    """By them a second run finds what is there."""
    plan = mini.plan()
    layer = plan.layer("ext")
    for step in plan.steps:
        if step.layer == "ext":
            assert step.key == (layer.verify_key if step.kind is StepKind.VERIFY else layer.key)
        elif not step.layer:
            assert step.key == plan.key


@pytest.mark.parametrize(
    ("cores", "gibibytes", "jobs"),
    [(4, 64, 4), (64, 3, 4), (8, 1, 1), (1, 64, 1)],
    ids=["cores", "RAM", "little", "one"],
)
def test_jobs_come_from_cores_and_memory(mini: Miniature, cores: int, gibibytes: int, jobs: int) -> None:
    """Half a gibibyte for each job of the heaviest layer, one kept free, at least one job."""
    assert mini.plan(host=replace(HOST, cores=cores, memory=gibibytes << 30)).jobs == jobs
    plan = mini.plan(Request(jobs=7), host=replace(HOST, cores=cores))
    assert (plan.jobs, plan.layer("ext").jobs.total) == (7, 7)


def test_each_layer_has_jobs_of_its_own(mini: Miniature) -> None:
    """One that needs much memory does not make another one wait."""
    machine = replace(HOST, cores=16, memory=9 << 30)
    mini.edit("pipelines/top/recipe.toml", "[build]\n", "[build]\ncompiles = true\nmemory_per_job_mib = 4096\n")
    plan = mini.plan(host=machine)
    assert {layer.name: layer.jobs.total for layer in plan.layers if layer.recipe.compiles} == {"ext": 16, "top": 2}
    assert plan.jobs == 16


def _patch(mini: Miniature) -> None:
    patch = mini.root / "patches/ext/0001-always.patch"
    before = file_digest(patch)
    mini.edit("patches/ext/0001-always.patch", "always = 2", "always = 3")
    mini.edit("patches/ext/series.toml", before, file_digest(patch))


def _code(mini: Miniature) -> None:
    mini.put("pipelines/ext/recipe.py", "from mmstack.recipes import DataOnly\nrecipe = DataOnly()")


CHANGES: dict[str, Callable[[Miniature], object]] = {
    "a patch": _patch,
    "the recipe's code": _code,
    "a flag of the stack": lambda mini: mini.edit("stacks/mini.toml", '"O1"', '"O0"'),
    "an environment variable": lambda mini: mini.edit("pipelines/ext/recipe.toml", "{jobs}", "1{jobs}"),
    "the source": lambda mini: mini.edit("pipelines/ext/recipe.toml", "5" * 64, "c" * 64),
    "a build requirement": lambda mini: mini.lock(PINS | {"build-ext": ("backend==83", "old-helper==1")}),
    "the layer below": lambda mini: mini.edit("pipelines/base/recipe.toml", 'modules = ["base"]', "modules = []"),
}
FACTS: dict[str, dict[str, Any]] = {
    "the compiler": {"host": replace(HOST, compiler=compiler(GCC.replace("12.2.0", "12.3.0")))},
    "the linker": {"linker": Linker(kind="default", version="GNU ld 2.40")},
    "Python's ABI": {"interpreter": NEWER},
    "the platform": {"interpreter": replace(INTERPRETER, platform="linux_aarch64")},
    "a flag of the user": {"request": Request(flags={"ext.SPEED": "O0"})},
    "the source's kind": {"request": FROM_PATH, "trees": {"ext": "f" * 64}},
    "the wheel below": {"base": BIG},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_what_is_built_changes_the_key(mini: Miniature, change: Callable[[Miniature], object]) -> None:
    """Of the artifact, of its suite's result and of the installed stack."""
    before, whole = mini.layer("ext"), mini.plan().key
    change(mini)
    after = mini.layer("ext")
    assert after.key != before.key
    assert after.verify_key != before.verify_key
    assert mini.plan().key != whole


@pytest.mark.parametrize("facts", FACTS.values(), ids=FACTS)
def test_other_facts_are_another_key(mini: Miniature, facts: dict[str, Any]) -> None:
    """Machine and options count as the files do."""
    assert mini.layer("ext", **facts).key != mini.layer("ext").key


def test_a_tree_of_the_user_s_own_is_part_of_the_key_by_its_digest(mini: Miniature) -> None:
    """An edit is built, but in the folder of the build before."""
    before, after = (mini.layer("ext", FROM_PATH, trees={"ext": digest * 64}) for digest in "ef")
    assert before.key != after.key
    assert before.work_key == after.work_key
    assert mini.layer("ext").work_key == mini.layer("ext").key


@pytest.mark.parametrize(
    "facts",
    [
        {"request": Request(jobs=1)},
        {"request": Request(index_only=True)},
        {"host": replace(HOST, cores=1, memory=2 << 30, disk_free=0, uv="9")},
        {"interpreter": replace(INTERPRETER, path=Path("elsewhere"))},
        {"host": replace(HOST, compiler=replace(SAME_COMPILER, cc=Path("gcc")))},
    ],
    ids=["jobs", "index only", "machine", "where Python is", "where the compiler is"],
)
def test_what_cannot_change_an_artifact_is_not_in_its_key(mini: Miniature, facts: dict[str, Any]) -> None:
    """Otherwise the second run would build again."""
    assert mini.layer("ext", **facts).key == mini.layer("ext").key


def test_what_only_readers_see_is_not_in_a_key(mini: Miniature) -> None:
    """A page, a summary of the stack, what is checked: the wheel stays what it is."""
    before = mini.layer("ext")
    mini.put("pipelines/ext/README.md", "other words")
    mini.edit("stacks/mini.toml", "three layers", "other words")
    assert mini.layer("ext") == before
    mini.edit("stacks/mini.toml", 'unit = "10"', 'unit = "11"')
    after = mini.layer("ext")
    assert after.key == before.key
    assert after.verify_key != before.verify_key


REQUIREMENTS = {
    "a version of a variant": PINS | {"run-small": ("cuda-like==11",)},
    "a version of all": PINS | {"run": ("runtime==1.6",)},
    "what verifies": PINS | {"verify": ("checker==1.1", "runtime==1.5")},
}


@pytest.mark.parametrize("pins", REQUIREMENTS.values(), ids=REQUIREMENTS)
def test_what_a_suite_s_environment_holds_is_in_its_key(mini: Miniature, pins: dict[str, tuple[str, ...]]) -> None:
    """And in that of the installation, which notes what verifies it; nothing is built again for it."""
    before, whole = mini.layer("top"), mini.plan().key
    mini.lock(pins)
    after = mini.layer("top")
    assert after.key == before.key
    assert after.verify_key != before.verify_key
    assert mini.plan().key != whole


def test_a_file_of_another_digest_is_another_requirement(mini: Miniature) -> None:
    """Its name and version say less than what is in it."""
    before = mini.layer("top")
    file = mini.root / "stacks" / "mini.lock"
    head, name, tail = file.read_text(encoding="utf-8").rpartition("checker==1.0")
    file.write_text(head + name + tail.replace("a" * 64, "b" * 64, 1), encoding="utf-8")
    after = mini.layer("top")
    assert after.key == before.key
    assert after.verify_key != before.verify_key


def test_a_compiler_is_not_in_the_key_of_what_is_not_compiled(mini: Miniature) -> None:
    """A new compiler does not make pure Python again."""
    host = replace(HOST, compiler=compiler(GCC.replace("12.2.0", "12.3.0")))
    linker = Linker(kind="mold", version="mold 2.30.0")
    assert mini.layer("base", host=host, linker=linker).key == mini.layer("base").key
    assert mini.layer("top", host=host, linker=linker).key == mini.layer("top").key


def test_the_same_inputs_give_the_same_plan(mini: Miniature, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning reads the catalog and nothing else: no clock, no environment, no folder."""
    before = mini.plan(FROM_PATH, trees={"ext": "f" * 64})
    for name in list(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.chdir("/")
    assert mini.plan(FROM_PATH, trees={"ext": "f" * 64}) == before


def test_every_refusal_has_an_exit_code_of_its_kind() -> None:
    """Usage and catalog are the user's to correct, the host's lacks are another thing."""
    codes = {kind: kind.code for kind in (UsageError, CatalogError, ConstraintError, HostError)}
    assert codes == {UsageError: 2, CatalogError: 2, ConstraintError: 2, HostError: 3}
    assert all(issubclass(kind, MmstackError) for kind in codes)
