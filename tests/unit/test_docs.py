from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from invoke.parser.context import ParserContext

from benchmarks.builds import CASES
from mmstack import catalog, errors, gates, lock, report
from mmstack._compat import tomllib
from mmstack.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from invoke.collection import Collection

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path for pattern in ("*.md", ".github/*.md", "docs/**/*.md", "pipelines/*/README.md") for path in ROOT.glob(pattern)
)
REFERENCE = ROOT / "docs" / "reference"
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SHA_PIN = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+){1,2}")
INSTALLS_UV = "python3 -m pip install uv"
LETS_NAMESPACES_BE = r"sysctl -w kernel\.apparmor_restrict_unprivileged_userns=0"
INSTALLS_DISORDERFS = r"apt-get (?:update|install --yes disorderfs)"
PREPARES = re.compile(rf"sudo (?:{LETS_NAMESPACES_BE}|{INSTALLS_DISORDERFS})(?: # .*)?")

# Which reading function of the catalog, and which of its tables in turn, a heading of the reference describes.
KEYS: dict[str, tuple[ModuleType, str, int]] = {
    "Stack": (catalog, "read_stack", 0),
    "Stack layer": (catalog, "_layer_choice", 0),
    "Recipe": (catalog, "read_recipe", 0),
    "Recipe build": (catalog, "read_recipe", 1),
    "Recipe build also": (catalog, "_also", 0),
    "Recipe build cmake": (catalog, "_cmake", 0),
    "Recipe build cuda": (catalog, "_cuda", 0),
    "Recipe run": (catalog, "read_recipe", 2),
    "Recipe verify": (catalog, "read_recipe", 3),
    "Recipe flag": (catalog, "_flag", 0),
    "Recipe gates": (catalog, "_gates", 0),
    "Recipe release": (catalog, "_releases", 0),
    "Recipe release cuda": (catalog, "_support", 0),
    "Recipe release git": (catalog, "_git", 0),
    "Recipe release archive": (catalog, "_pins", 0),
    "Recipe release distro": (catalog, "_distro", 0),
    "Recipe release distro part": (catalog, "_part", 0),
    "Recipe release cost": (catalog, "_cost", 0),
    "File pin": (catalog, "_index_file", 0),
    "Recipe conflict": (catalog, "_conflict", 0),
    "Series": (catalog, "read_series", 0),
    "Series patch": (catalog, "_patch", 0),
    "CUDA version": (catalog, "read_toolkit", 0),
    "CUDA version wheels": (catalog, "read_toolkit", 2),
    "CUDA version redist": (catalog, "read_toolkit", 1),
    "Lock": (lock, "read_lock", 0),
    "Lock stack": (lock, "_inputs", 0),
    "Lock toolkit": (lock, "_inputs", 1),
    "Lock layer": (lock, "_layer", 0),
}


def load(name: str) -> ModuleType:
    """Load one of the repository's own entry files."""
    spec = importlib.util.spec_from_file_location(f"{name}_under_test", ROOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def options() -> dict[str, set[str]]:
    """Return the long options of each task, by its name."""
    namespace: Collection = load("tasks").namespace
    return {
        name: {flag for flag in ParserContext(args=namespace[name].get_arguments()).flags if flag.startswith("--")}
        for name in namespace.task_names
    }


@cache
def sessions() -> set[str]:
    """Return the names of the nox sessions."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any("session" in ast.unparse(item) for item in node.decorator_list)
    }


def relative(path: Path) -> str:
    """Name a file as a reader would."""
    return path.relative_to(ROOT).as_posix()


def commands(text: str) -> Iterator[str]:
    """Yield what stands in a document as code: the lines of its fenced blocks, and its inline code."""
    for match in FENCE.finditer(text):
        yield from match[3].splitlines()
    for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        yield span.strip()


def problems(command: str) -> Iterator[str]:
    """Yield what a command line, or an option by itself, says of invoke or nox that is not so."""
    if re.match("--[a-z]", command):
        option = re.split("[ =]", command)[0]
        yield from () if option in set().union(*options().values()) else [f"no task has {option}"]
    for part in re.split(r"&&|;|\||>", command):
        words = shlex.split(part, comments=True)
        while words and (words[0] in {"uv", "run", "--offline"} or re.fullmatch(r"[A-Z_]+=\S*", words[0])):
            words.pop(0)
        match words:
            case ["invoke", task, *rest]:
                yield from _invoke(task, rest)
            case ["nox", *rest] if "-s" in rest:
                names = rest[rest.index("-s") + 1 :]
                names = names[: names.index("--")] if "--" in names else names
                yield from (f"no session {name}" for name in names if name not in sessions())


def _invoke(task: str, rest: list[str]) -> Iterator[str]:
    if task in {"--list", "--help", "TASK"}:
        yield from (f"no task {word}" for word in rest if word != "TASK" and word not in options())
    elif task not in options():
        yield f"no task {task}"
    else:
        named = {word.split("=")[0] for word in rest if word.startswith("--")}
        yield from (f"{task} has no {option}" for option in sorted(named - options()[task]))


def rows(file: Path, heading: str = "") -> list[list[str]]:
    """Return the cells of the table rows of a document, or of its section with that heading."""
    text = file.read_text(encoding="utf-8")
    if heading:
        text = re.split(rf"^#+ {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)[1]
        text = re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines[1:]]


def code(cell: str) -> set[str]:
    """Return what stands as code in a cell."""
    return set(re.findall(r"`([^`]+)`", cell))


def checked_tables(source: str, module: ModuleType) -> list[set[str]]:
    """Return the keys that code lets pass, table by table: the arguments of its `only` calls, where it names them."""
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "only"
    ]
    found = [_named(call.args, module) for call in sorted(calls, key=lambda call: call.lineno)]
    return [keys for keys in found if keys is not None]


def _named(arguments: list[ast.expr], module: ModuleType) -> set[str] | None:
    """Return the words that arguments are, or constants of the module hold; None where code finds them out."""
    words: set[str] = set()
    for argument in arguments:
        if isinstance(argument, ast.Constant):
            words.add(ast.literal_eval(argument))
        elif isinstance(argument, ast.Starred) and ast.unparse(argument.value) in vars(module):
            words |= set(vars(module)[ast.unparse(argument.value)])
        else:
            return None
    return words


def anchors(file: Path) -> set[str]:
    """Return the anchors that a renderer gives a document's headings."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", file.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_command_exists(document: Path) -> None:
    """Tasks, options and sessions that a document names are there."""
    text = document.read_text(encoding="utf-8")
    lines = [line for line in commands(text) if "invoke" in line or "nox" in line or line.startswith("--")]
    assert [(line, wrong) for line in lines for wrong in problems(line)] == []


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("uv run invoke biuld-stack", "no task biuld-stack"),
        ("X=1 uv run invoke plan --stop-after build", "plan has no --stop-after"),
        ("python3 -m pip install uv && uv run nox -s test -- -k x", "no session test"),
        ("--stop-aftr build", "no task has --stop-aftr"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, wrong: str) -> None:
    """The check above sees a wrong task, option or session."""
    assert list(problems(command)) == [wrong]


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_link_leads_somewhere(document: Path) -> None:
    """Relative links name a file that is there, and a heading in it."""
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_examples_can_be_read(document: Path) -> None:
    """Python and TOML examples are Python and TOML."""
    for indent, language, body in FENCE.findall(document.read_text(encoding="utf-8")):
        text = re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
        if language == "python":
            compile(text, relative(document), "exec")
        elif language == "toml":
            tomllib.loads(text)


def test_every_document_can_be_found() -> None:
    """Each page of the docs is linked from the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {relative(path) for path in (ROOT / "docs").rglob("*.md")}
    assert pages - set(re.findall(r"\]\(([^)#\s]+)", text)) == set()


def test_tasks_are_documented() -> None:
    """The reference lists every task with exactly its options, and says what each option means."""
    documented = {cells[0].strip("`"): code(cells[2]) for cells in rows(REFERENCE / "tasks.md") if len(cells) == 3}
    tables = {name: found for name, found in documented.items() if name in options()}
    assert tables == options()
    explained = set().union(*(code(cells[0]) for cells in rows(REFERENCE / "tasks.md", "Options")))
    assert explained == set().union(*options().values())


def test_sessions_are_documented() -> None:
    """The reference lists every nox session."""
    assert {cells[0].strip("`").split()[-1] for cells in rows(REFERENCE / "tasks.md", "Sessions")} == sessions()


def test_cases_of_the_benchmark_are_documented() -> None:
    """Each of them, for its option and for its session."""
    for row in ("`--case`", "`uv run nox -s bench`"):
        (said,) = (" ".join(cells) for cells in rows(REFERENCE / "tasks.md") if cells[0] == row)
        assert set(CASES) <= code(said)


def test_errors_are_documented() -> None:
    """The reference lists every error class with its slug and exit code."""
    found = {
        cells[0].strip("`"): (cells[1].strip("`"), int(cells[2])) for cells in rows(REFERENCE / "errors.md", "Classes")
    }
    classes = [
        item for _name, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, errors.MmstackError)
    ]
    assert found == {item.__name__: (item.slug, item.code) for item in classes}
    codes = {int(cells[0]) for cells in rows(REFERENCE / "errors.md") if cells[0].isdecimal()}
    assert codes == {0} | {item.code for item in classes}


@pytest.mark.parametrize("heading", KEYS)
def test_keys_are_documented(heading: str) -> None:
    """The reference lists the keys that the reader knows, and no others."""
    documented = {cells[0].strip("`") for cells in rows(REFERENCE / "formats.md", heading)}
    module, function, number = KEYS[heading]
    assert documented == checked_tables(inspect.getsource(getattr(module, function)), module)[number]


def test_no_format_is_left_out() -> None:
    """Every table that a reader checks for unknown keys has its section."""
    tables = [table for module in (catalog, lock) for table in checked_tables(inspect.getsource(module), module)]
    assert len(tables) == len(KEYS), tables


def test_manifest_is_documented() -> None:
    """The reference lists the keys of a manifest."""
    tree = ast.parse(inspect.getsource(report.to_manifest))
    returned = next(node.value for node in ast.walk(tree) if isinstance(node, ast.Return))
    assert isinstance(returned, ast.Dict)
    keys = {ast.literal_eval(key) for key in returned.keys if key is not None}
    assert set().union(*(code(cells[0]) for cells in rows(REFERENCE / "manifest.md"))) == keys


def test_gates_are_documented() -> None:
    """The reference lists the gates."""
    assert {cells[0].strip("`") for cells in rows(REFERENCE / "gates.md")} == set(gates.GATES)


def test_modules_are_documented() -> None:
    """The architecture names every module of the engine."""
    named = set().union(*(code(cells[0]) for cells in rows(ROOT / "docs" / "architecture.md")))
    modules = {path.relative_to(ROOT / "mmstack").as_posix() for path in (ROOT / "mmstack").rglob("*.py")}
    assert {name for name in modules if not Path(name).name.startswith("_")} <= named
    assert {name for name in named if name.endswith(".py")} <= modules


@pytest.mark.parametrize("layer", sorted(Catalog(ROOT).recipes))
def test_layers_are_documented(layer: str) -> None:
    """A layer's page names its flags and patches, and the reference lists the files of its suite."""
    recipe = Catalog(ROOT).recipes[layer]
    patches = {patch.id for patch in Catalog(ROOT).patches.get(recipe.project, ())}
    named = {cells[0].strip("`") for cells in rows(recipe.folder / "README.md") if cells[0].startswith("`")}
    assert named == patches | {flag.name for flag in recipe.flags}
    files = {cells[0].strip("`") for cells in rows(REFERENCE / "suites.md", layer)}
    assert files == {path.name for path in (recipe.folder / "verify").glob("test_*.py")}


def test_known_failures_name_every_patch() -> None:
    """Each patch answers a failure that is explained, and no other is named."""
    text = (ROOT / "docs" / "explanation" / "known-failures.md").read_text(encoding="utf-8")
    ids = {patch.id for series in Catalog(ROOT).patches.values() for patch in series}
    projects = tuple(f"{project}-" for project in Catalog(ROOT).patches)
    assert {word for word in re.findall(r"`([a-z0-9.-]+)`", text) if word.startswith(projects)} == ids


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=relative)
def test_workflows_run_tasks_alone(workflow: Path) -> None:
    """Every `run:` line is one Invoke task or nox session that exists; what they need installed is the exception."""
    lines = re.findall(r"^ *(?:- )?run: *(.*)$", workflow.read_text(encoding="utf-8"), re.MULTILINE)
    assert lines
    for line in lines:
        if PREPARES.fullmatch(line):
            continue
        assert line == INSTALLS_UV or re.match(r"uv run (invoke|nox -s) \S", line), line
        assert not re.search(r"[|;&<>`]|\$\{\{", line), line
        assert list(problems(line)) == []


def test_every_slow_test_is_run_by_a_session() -> None:
    """The session `tests` leaves them out."""
    named = re.findall(r'"(tests/[\w./]+)"', (ROOT / "noxfile.py").read_text(encoding="utf-8"))
    slow = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"pytest\.mark\.slow", file.read_text(encoding="utf-8"))
    }
    assert len(slow) > 5
    assert {file for file in slow if not any(f"{file}/".startswith(f"{name}/") for name in named)} == set()


def test_what_must_pass_exists() -> None:
    """Its tasks and sessions, as the workflows' are."""
    lines = re.findall(r"^uv run .*$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) > 5
    assert [problem for line in lines for problem in problems(line)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=relative)
def test_actions_are_pinned(workflow: Path) -> None:
    """Every action is pinned by a full commit, with its version beside it."""
    uses = re.findall(r"uses: *(.*)$", workflow.read_text(encoding="utf-8"), re.MULTILINE)
    assert uses
    assert [use for use in uses if not SHA_PIN.fullmatch(use)] == []


def test_one_commit_for_each_action() -> None:
    """The workflows agree on the commit of an action."""
    pins: dict[str, set[str]] = {}
    for workflow in WORKFLOWS:
        for name, commit in re.findall(r"uses: *(\S+)@(\S+)", workflow.read_text(encoding="utf-8")):
            pins.setdefault(name, set()).add(commit)
    assert {name: commits for name, commits in pins.items() if len(commits) > 1} == {}


def test_workflows_take_the_pinned_uv() -> None:
    """The uv that a workflow installs is the one that the project is pinned to."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (pinned,) = (item.partition("==")[2] for item in project["dependencies"] if item.startswith("uv=="))
    versions = {
        version
        for workflow in WORKFLOWS
        for version in re.findall(r'^ *version: "(.+?)"', workflow.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert versions == {pinned}


def test_workflows_test_every_python_of_the_stacks() -> None:
    """The matrix has each Python that a stack is for."""
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    matrix = re.search(r"python: \[(.+)\]", text)
    assert matrix is not None
    wanted = {minor for stack in Catalog(ROOT).stacks.values() for minor in stack.python}
    assert wanted <= set(re.findall(r'"([\d.]+)"', matrix[1]))
