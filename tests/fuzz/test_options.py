"""What is typed: every option, alone and together, and whole command lines."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from invoke.exceptions import Exit

import tasks
from mmstack.catalog import read_toolkit
from mmstack.host import find_python
from mmstack.options import Options
from mmstack.resolve import choose_python, select
from mmstack.sources.mirrors import Mirror, fault, read_mirror
from mmstack.sources.places import redact
from mmstack.toolchains import redist
from mmstack.toolchains.architectures import check_words, choose, cmake_words
from mmstack.toolchains.caches import choose as choose_cache
from mmstack.toolchains.choice import choose as choose_toolkit
from mmstack.toolchains.choice import shown
from tests.fuzz.cases import WORDS, damaged, edited, fuzz, refusable, texts, words
from tests.miniature import HOST, Miniature

if TYPE_CHECKING:
    from mmstack.model import CudaRelease, Plan

ROOT = Path(__file__).resolve().parents[2]
SINGLE = sorted(
    field.name for field in fields(Options) if field.name not in {"index_only", "source", "flag", "without"}
)
GOOD: dict[str, tuple[str, ...]] = {
    "stack": ("mini",),
    "cuda": ("cpu", "13.0", "auto"),
    "python": ("3.11", "3.12", "3.11.7"),
    "arch": ("9.0", "9.0,12.0+PTX", "native", "all", "all-major", "8.6;9.0a"),
    "toolkit": ("auto", "system", "system:/x", "wheels", "redist", "redist:https://user:pass@host/x", "redist:/x"),
    "mirror": ("https://host/path", "file:///srv", "git@host:path"),
    "linker": ("default", "mold", "auto"),
    "jobs": ("1", "64"),
}
PAIRS = st.lists(
    st.one_of(
        st.sampled_from(["ext=wheel", "ext=sdist", "ext=path:/x", "base=installed", "ext=source", "ext.SPEED=O1"]),
        st.tuples(st.sampled_from(["ext", "ext.SPEED", "base", "torch", "x.y"]), texts).map("=".join),
        texts,
    ),
    max_size=3,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.one_of(st.sampled_from(GOOD[name]), texts) for name in SINGLE},
    "index_only": st.booleans(),
    "source": PAIRS,
    "flag": PAIRS,
    "without": st.lists(st.one_of(st.sampled_from(["top", "base"]), texts), max_size=2),
}
PAIR = st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), VALUES[name]))
# few at a time: of many, one is soon refused, and none of the others read
TYPED = st.one_of(st.lists(PAIR, max_size=3).map(dict), st.fixed_dictionaries({}, optional=VALUES))
ADDRESSES = st.one_of(
    words,
    st.text(max_size=30),
    st.builds(
        "{}://{}{}{}/{}".format,
        st.sampled_from(["https", "http", "ssh", "git", "file", "ext", "", "HTTPS"]),
        st.sampled_from(["", "user@", "user:pass@", "-x@", "a:b@c@", "\0@"]),
        st.sampled_from(["host", "[::1]", "[::1", "-host", "", "h\n", "ho st", "\u0661"]),
        st.sampled_from(["", ":80", ":x", ":99999", ":-1"]),
        st.one_of(words, st.sampled_from(["a/b.git", "a/../b", "%2e%2e/x", "a?b#c"])),
    ),
    edited("git@host:a/b.git").map(str.strip),
)


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """A catalog to choose from."""
    return Miniature(root=tmp_path_factory.mktemp("catalog")).write().pin_every_way()


@pytest.fixture(scope="module")
def release() -> CudaRelease:
    """A CUDA version to choose for."""
    return read_toolkit(ROOT / "toolkits" / "13.0.toml")


@fuzz("options", share=3, typed=TYPED)
def test_options_are_understood_or_refused(mini: Miniature, typed: dict[str, Any]) -> None:
    """Each value in each option, up to a plan; and they can be shown again, without a password."""
    options = Options(**typed)
    shown_again = {name: value for name, value in typed.items() if name in {"mirror", "toolkit"}}
    assert "pass@" not in " ".join(Options(**shown_again).words())
    options.words()
    with refusable():
        planned(mini, options)


def planned(mini: Miniature, options: Options) -> Plan:
    """Return the plan of what is asked for."""
    request = options.request()
    select(request, mini.catalog)
    choose_python(mini.catalog.stack("mini"), HOST)
    return mini.plan(request, host=HOST)


@fuzz(
    "--arch",
    share=2,
    listed=st.lists(st.one_of(st.sampled_from(["9.0", "12.0+PTX", "all", "native"]), texts), max_size=3),
)
def test_architectures_are_understood_or_refused(release: CudaRelease, listed: list[str]) -> None:
    """Whatever is called one."""
    with refusable():
        check_words(listed)
        default = release.architectures[:1]
        cmake_words(
            choose(listed, default=default, release=release, releases=[release], offered=(), supports={}, gpus=())
        )


@fuzz("--toolkit", share=2, wish=st.one_of(st.sampled_from(GOOD["toolkit"]), ADDRESSES.map("redist:".__add__), texts))
def test_a_toolkit_is_found_or_refused(release: CudaRelease, wish: str) -> None:
    """Whatever is called one, and wherever its archives are said to be."""
    assert "://user:pass@" not in wish or "pass@" not in shown(wish)
    with refusable():
        choose_toolkit(wish, release, (), {"PATH": ""})


@fuzz("addresses", share=3, text=ADDRESSES)
def test_an_address_is_shown_without_a_password(text: str) -> None:
    """Whatever is taken for an address; and git is given none that means something else to it."""
    if "//user:pass@" in text and text.count("pass@") == 1:  # a path may have the same words
        assert "pass@" not in redact(text)
    if not fault(text):
        assert not text.startswith("-")
        assert not re.match(r"[a-z0-9][a-z0-9+.-]*::", text, re.IGNORECASE | re.ASCII), "a program of git's is named"
    with refusable():
        redist.address(text)


@fuzz("--mirror", share=3, text=ADDRESSES, url=ADDRESSES)
def test_a_mirror_s_address_is_understood_or_refused(text: str, url: str) -> None:
    """And it rewrites any address, or leaves it as it is."""
    mirror = Mirror()
    with refusable():
        mirror = read_mirror(text)
    mirror.rewrite(url)


RULES = "# where ours are\nhttps://github.com = https://user:pass@mirror.test/gh\n\ngit@host: = file:///srv/git\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files."""
    return tmp_path_factory.mktemp("files")


@fuzz(
    "mirrors (file)",
    body=st.one_of(
        edited(RULES).map(lambda text: text.encode("utf-8", "surrogatepass")),
        damaged(RULES.encode()),
        st.lists(st.tuples(ADDRESSES, ADDRESSES).map(" = ".join), max_size=4).map(
            lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
        ),
        st.binary(max_size=60),
    ),
    url=ADDRESSES,
)
def test_a_file_of_mirrors_is_understood_or_refused(folder: Path, body: bytes, url: str) -> None:
    """And what is wrong with it is said without its passwords."""
    file = folder / "mirrors"
    file.write_bytes(body)
    mirror = Mirror()
    with refusable() as refused:
        mirror = read_mirror(str(file))
    mirror.rewrite(url)
    assert not any("//user:pass@" in str(error) for error in refused)


@fuzz("--compiler-cache", share=0.5, wish=st.one_of(st.sampled_from(["auto", "ccache", "sccache", "none"]), texts))
def test_a_compiler_cache_is_known_or_refused(wish: str) -> None:
    """Whatever is called one."""
    with refusable():
        choose_cache(wish, {"PATH": ""})


@fuzz("--python", share=0.5, wish=st.one_of(words, st.text(max_size=8), words.map("/nowhere/".__add__)))
def test_a_python_is_found_or_refused(folder: Path, wish: str) -> None:
    """Whatever is called one; uv itself is not asked here."""
    with refusable():
        find_python(wish, uv=Path("/bin/true"), cache=folder / "pythons.json")


LINE = st.lists(
    st.one_of(
        st.sampled_from(
            ["build-stack", "plan", "patches.edit", "--stack", "--stack=x", "--jobs", "-s", "--", "--json", "-x"]
        ),
        st.sampled_from(["--help", "--list", "--complete", "--debug", "verify", "lock", "--source", "--arch=9.0"]),
        st.sampled_from([word for word in WORDS if "\0" not in word]),
        st.text(max_size=5),
    ),
    max_size=5,
)


@fuzz("command lines", line=LINE)
def test_a_command_line_is_understood_or_refused(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With 2, and nothing but words about it on standard error."""
    ends = {2}
    try:
        tasks._check_words(line)  # noqa: SLF001 - Invoke calls it where nobody else can
    except Exit as end:
        ends.add(end.code)
    assert ends == {2}
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["code"] == 2 if "--json" in line and said.out else said.out == ""
    assert "Traceback" not in said.err


TAKEN = [
    *({name: value} for name in ("stack", "python", "mirror", "linker", "jobs") for value in GOOD[name]),
    {"cuda": "cpu"},
    *({"source": [pair]} for pair in ("ext=wheel", "ext=sdist", "ext=path:/x", "ext=source")),
    {"flag": ["ext.SPEED=O1"]},
    {"without": ["top"]},
]


@pytest.mark.parametrize("typed", TAKEN, ids=str)
def test_the_options_are_taken_as_they_are(mini: Miniature, typed: dict[str, Any]) -> None:
    """What is changed above is valid before; this stack is for CPUs, and others have tests of their own."""
    assert planned(mini, Options(**typed)).layers


def test_the_values_are_taken_as_they_are(release: CudaRelease, folder: Path) -> None:
    """Architectures, toolkits, mirrors and caches."""
    found = choose(
        ["9.0", "12.0+PTX"], default=(), release=release, releases=[release], offered=(), supports={}, gpus=()
    )
    assert cmake_words(found) == "90-real;120-real;120-virtual"
    for wish in ("auto", "wheels", "redist", "redist:/x"):
        assert choose_toolkit(wish, release, (), {"PATH": ""})
    for text in GOOD["mirror"]:
        assert read_mirror(text).rewrite("https://github.com/a/b.git") == f"{text}/a/b.git"
    (folder / "mirrors").write_text(RULES, encoding="utf-8")
    ours = read_mirror(str(folder / "mirrors"))
    assert ours.rewrite("https://github.com/a/b.git") == "https://user:pass@mirror.test/gh/a/b.git"
    assert choose_cache("sccache", {"PATH": ""})
    assert choose_cache("none", {"PATH": ""}) is None
