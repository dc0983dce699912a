"""Where sources come from: pages of package indexes, settings of uv and pip, and git repositories."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import strategies as st

from mmstack._compat import tomllib
from mmstack.events import ignore
from mmstack.model import FilePin, GitPin, LockedRequirement
from mmstack.sources.git import Repositories, resolve
from mmstack.sources.gitcommand import Git
from mmstack.sources.index import Index
from mmstack.sources.mirrors import Mirror, fault
from mmstack.sources.settings import IndexSettings, load_settings
from mmstack.sources.web import Web
from tests.fuzz.cases import contents, damaged, edited, encoded, fuzz, json_bytes, mutated, refusable, texts, words
from tests.fuzz.test_options import ADDRESSES
from tests.miniature import document

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hypothesis.strategies import DrawFn

    from mmstack.sources.git import Submodule

PIN = FilePin(filename="demo-1.0.tar.gz", sha256="0" * 64)
WANTED = LockedRequirement(name="demo", version="1.0", sha256=("0" * 64, "1" * 64))
PAGE = """\
<!DOCTYPE html>
<html><head><base href="https://host.test/files/"><meta name="pypi:repository-version" content="1.1"></head><body>
<a href="demo-1.0.tar.gz#sha256=0000000000000000000000000000000000000000000000000000000000000000">demo-1.0.tar.gz</a>
<a href="demo-1.0-py3-none-any.whl#sha256=1111111111111111111111111111111111111111111111111111111111111111"
   data-requires-python="&gt;=3.8" data-yanked="no">demo</a>
<a href="../x/demo-1.0-cp311-cp311-linux_x86_64.whl" data-dist-info-metadata="sha256=00">demo</a>
</body></html>
"""
LISTING = {
    "meta": {"api-version": "1.0"},
    "name": "demo",
    "files": [
        {"filename": "demo-1.0.tar.gz", "url": "https://host.test/demo-1.0.tar.gz", "hashes": {"sha256": "0" * 64}},
        {
            "filename": "demo-1.0-py3-none-any.whl",
            "url": "https://host.test/demo-1.0-py3-none-any.whl",
            "hashes": {"sha256": "1" * 64},
            "requires-python": ">=3.8",
            "yanked": False,
            "dist-info-metadata": {"sha256": "0"},
        },
        {"filename": "demo-1.0-cp311-cp311-linux_x86_64.whl", "url": "https://host.test/x", "hashes": {}},
    ],
}
LINKS = st.lists(ADDRESSES, max_size=4).map(lambda urls: "".join(f'<a href="{url}">x</a>' for url in urls))
PAGES = st.one_of(
    st.tuples(st.just("text/html"), edited(PAGE).map(lambda text: text.encode("utf-8", "surrogatepass"))),
    st.tuples(st.just("text/html"), LINKS.map(lambda text: text.encode("utf-8", "surrogatepass"))),
    st.tuples(st.just("text/html"), damaged(PAGE.encode())),
    st.tuples(st.just("application/vnd.pypi.simple.v1+json"), json_bytes(LISTING)),
    st.tuples(
        st.sampled_from(["text/html; charset=utf-16", "text/html; charset=x", "text/html; charset="]), st.binary()
    ),
)


class Pages(Web):
    """A client that gets the same page from everywhere."""

    page: tuple[str, bytes]

    def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> httpx2.Response:  # noqa: ARG002 - as there
        """Return the page."""
        kind, body = self.page
        return httpx2.Response(200, headers={"Content-Type": kind}, content=body, request=httpx2.Request("GET", url))

    def open(self, url: str, start: int = 0, etag: str = "") -> Any:  # noqa: ANN401, ARG002 - as there
        """Refuse to give a file."""
        from mmstack.sources.places import PlaceError  # noqa: PLC0415 - for this alone

        raise PlaceError("it has no files")


@pytest.fixture(scope="module")
def pages() -> Pages:
    """A client, made once: its certificates take long to load."""
    return Pages(settings("https://user:pass@host.test/simple"))


def settings(*urls: str) -> IndexSettings:
    """Return the settings of one who has these indexes."""
    return IndexSettings(
        index_urls=urls,
        find_links=(),
        ca_bundle=None,
        trusted_hosts=(),
        proxy="",
        timeout=1.0,
        origins=("UV_INDEX_URL",),
    )


def offering(pages: Pages, page: tuple[str, bytes], flat: bool, monkeypatch: pytest.MonkeyPatch) -> Index:  # noqa: FBT001 - drawn
    """Return an index, or a page of links, that answers with this page."""
    monkeypatch.setattr("mmstack.sources.index.Web", lambda *_words, **_more: pages)
    pages.page = page
    url = "https://user:pass@host.test/simple"
    return Index(_flat(url) if flat else settings(url))


@fuzz("pages of package indexes", page=PAGES, flat=st.booleans())
def test_a_page_of_an_index_offers_something_or_is_refused(
    pages: Pages,
    page: tuple[str, bytes],
    flat: bool,  # noqa: FBT001 - drawn
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its addresses may be of any kind, and none of them is shown with a password."""
    index = offering(pages, page, flat, monkeypatch)
    for ask in (lambda: index.locate("demo", [PIN]), lambda: index.choose(WANTED, ["py3-none-any"])):
        with refusable() as refused:
            ask()
        assert not any("//user:pass@" in str(error) for error in refused)
    assert not any("//user:pass@" in trouble for trouble in index.troubles)


def _flat(url: str) -> IndexSettings:
    from dataclasses import replace  # noqa: PLC0415 - for this alone

    return replace(settings(), find_links=(url,))


UV = {
    "index-url": "https://user:pass@host/simple",
    "extra-index-url": ["https://host/more"],
    "find-links": ["/x", "https://host/flat"],
    "no-index": False,
    "index": [
        {"name": "ours", "url": "https://user:pass@host/ours", "default": True, "explicit": False, "format": "flat"}
    ],
    "pip": {"index-url": "https://host/pip"},
    "allow-insecure-host": ["host"],
    "https-proxy": "http://user:pass@proxy:1",
}
PIP = """\
[global]
index-url = https://user:pass@host/simple
extra-index-url =
    https://host/a
    https://host/b
timeout = 15
cert = CERTIFICATES
trusted-host = host
proxy = http://user:pass@proxy:1
[install]
find_links = /x
--no-index = true
"""
VARIABLES = st.dictionaries(
    st.sampled_from(
        [
            "UV_DEFAULT_INDEX",
            "UV_INDEX_URL",
            "UV_INDEX",
            "UV_FIND_LINKS",
            "UV_HTTP_TIMEOUT",
            "UV_INSECURE_HOST",
            "SSL_CERT_FILE",
            "PIP_INDEX_URL",
            "PIP_TIMEOUT",
            "PIP_CERT",
            "PIP_PROXY",
            "PIP_NO_INDEX",
            "UV_INDEX_OURS_PASSWORD",
            "XDG_CONFIG_DIRS",
        ]
    ),
    st.one_of(ADDRESSES, texts, st.just("https://user:pass@host/simple")).map(lambda text: text.replace("\0", "")),
    max_size=3,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's home, with places for both files, and certificates."""
    home = tmp_path_factory.mktemp("home")
    (home / ".config" / "uv").mkdir(parents=True)
    (home / ".config" / "pip").mkdir()
    (home / "certificates").touch()
    return home


def configure(home: Path, uv: bytes, pip: bytes) -> None:
    """Write what both tools are told."""
    (home / ".config" / "uv" / "uv.toml").write_bytes(uv)
    (home / ".config" / "pip" / "pip.conf").write_bytes(pip.replace(b"CERTIFICATES", bytes(home / "certificates")))


@fuzz(
    "settings of uv and pip",
    share=2,
    uv=st.one_of(
        mutated(UV).map(lambda value: document(value).encode() if isinstance(value, dict) else b"x"),
        edited(document(UV)).map(lambda text: text.encode("utf-8", "surrogatepass")),
        damaged(document(UV).encode()),
    ),
    pip=st.one_of(edited(PIP).map(lambda text: text.encode("utf-8", "surrogatepass")), damaged(PIP.encode())),
    variables=VARIABLES,
)
def test_settings_are_understood_or_refused(home: Path, uv: bytes, pip: bytes, variables: dict[str, str]) -> None:
    """And nothing that is said of them holds a password."""
    configure(home, uv, pip)
    for environ in ({"HOME": str(home)}, {"HOME": str(home), **variables}, {"HOME": "/nowhere", **variables}):
        with refusable() as refused:
            loaded = load_settings(environ, home)
            assert "//user:pass@" not in repr(loaded)
        assert not any("//user:pass@" in str(error) for error in refused)


COMMIT = "1" * 40
TREE = f"""\
100644 blob {"2" * 40}\t.gitmodules
100644 blob {"3" * 40}\ta.c
160000 commit {"4" * 40}\tsub/mod
160000 commit {"5" * 40}\tother
120000 blob {"6" * 40}\tlink
"""
MODULES = (
    "submodule.m.path\nsub/mod\0submodule.m.url\n../mod.git\0"
    "submodule.o.path\nother\0submodule.o.url\nhttps://host.test/o.git\0submodule.o.update\nnone\0"
)
TOPS = ["https://host.test/a/top.git", "file:///srv/top.git", "git@host.test:a/top.git"]
LEAVES = f"100644 blob {'3' * 40}\ta.c\n"


class Told(Git):
    """A git that says what it is told to: of a tree once, then that there is nothing below."""

    def __init__(self, tree: str, modules: str) -> None:
        super().__init__(Path("/nowhere"), {}, 1.0)
        self.trees = [tree]
        self.modules = modules

    def local(self, repository: Path, *words: str) -> str:  # noqa: ARG002 - as there
        """Say it."""
        if words[0] == "config":
            return self.modules
        return self.trees.pop() if self.trees else LEAVES

    def whole(self, repository: Path, what: str) -> bool:  # noqa: ARG002 - as there
        """Say that it is there."""
        return True


def levels(tree: str, modules: str, url: str) -> Iterator[Sequence[Submodule]]:
    """Yield what a tree holds of other repositories, and theirs, level by level."""
    repositories = Repositories(Path("/nowhere"), Path("/nowhere"), ignore, Mirror(), environ={})
    repositories._git = Told(tree, modules)  # noqa: SLF001 - the program itself is slow
    object.__setattr__(repositories._shelf, "git", repositories._git)  # noqa: SLF001 - as above
    yield from repositories._levels(GitPin(url=url, tag="v1", commit=COMMIT, submodules=0))  # noqa: SLF001 - as above


@fuzz(
    "trees and .gitmodules",
    share=2,
    tree=st.one_of(
        edited(TREE),
        st.lists(texts, min_size=1, max_size=3).map(
            lambda names: TREE + "".join(f"160000 commit {'7' * 40}\t{name}\n" for name in names)
        ),
    ),
    modules=st.one_of(
        edited(MODULES.replace("\0", "\0\n")).map(lambda text: text.replace("\0\n", "\0")),
        st.lists(st.tuples(texts, ADDRESSES), max_size=3).map(
            lambda pairs: (
                MODULES
                + "".join(
                    f"submodule.{n}.path\n{path}\0submodule.{n}.url\n{url}\0" for n, (path, url) in enumerate(pairs)
                )
            )
        ),
    ),
    url=st.sampled_from(TOPS),
)
def test_submodules_are_honest_or_refused(tree: str, modules: str, url: str) -> None:
    """Below the tree, at addresses that git takes for addresses, and no folder of this machine unless the tree is."""
    with refusable():
        for level in levels(tree, modules, url):
            for item in level:
                assert not fault(item.url)
                assert not item.url.startswith("file:") or url.startswith("file:")
                parts = Path(item.path).parts
                assert ".." not in parts
                assert not any(part.lower() == ".git" for part in parts)
                assert not item.path.startswith("/")
                assert "/" not in item.name
                assert item.name not in {"", ".", ".."}
            if len(level) > 1:
                break


@fuzz(
    "relative addresses",
    url=st.one_of(ADDRESSES, words).map("../".__add__),
    base=st.sampled_from(["https://host/", "https://host/a.git", "https://host/a/b/", "https://host/a/../b"]),
)
def test_a_relative_address_stays_on_its_host(url: str, base: str) -> None:
    """However many folders it goes up."""
    found = resolve(url, base)
    assert not found or urlsplit(found)[:2] == ("https", "host")


NAMES = st.sampled_from(
    [
        "a.c",
        ".git",
        ".GIT",
        "..",
        ".",
        "a/b",
        ".gitmodules",
        "-x",
        "git~1",
        ".git\u200c",
        "sub",
        "x\ny",
        "é",
        ".gitattributes",
    ]
)
GITMODULES_TEXT = '[submodule "m"]\n\tpath = sub\n\turl = ../mod.git\n'
GITMODULES = st.one_of(
    edited(GITMODULES_TEXT),
    st.just(GITMODULES_TEXT),
    st.sampled_from(
        [
            '[submodule "m"]\n\tpath = sub\n\turl = ext::sh -c "touch {out}"\n',
            '[submodule "m"]\n\tpath = sub\n\turl = --upload-pack=touch${{IFS}}{out}\n',
            '[submodule "../../x"]\n\tpath = sub\n\turl = ../mod.git\n\tupdate = !touch {out}\n',
            '[submodule "m"]\n\tpath = ../outside\n\turl = ../mod.git\n',
            '[include]\n\tpath = {out}\n[submodule "m"]\n\tpath = sub\n\turl = ../mod.git\n',
            '[core]\n\tfsmonitor = touch {out}\n[submodule "m"]\n\tpath = sub\n\turl = ../outside.git\n',
        ]
    ),
)


@st.composite
def entries(draw: DrawFn) -> list[tuple[str, str, str]]:
    """Return a tree: modes, names, and what is in them."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        mode = draw(st.sampled_from(["100644", "100755", "120000", "160000", "100664"]))
        body = draw(st.sampled_from(["x", "../outside", "/etc/passwd", "* filter=evil export-subst\n", "$Format:%H$"]))
        found.append((mode, draw(NAMES), body))
    return found


def git(folder: Path, *more: str, body: str = "") -> str:
    """Run git, with no configuration of anybody's."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"}
    environ |= {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", *more],
        cwd=folder,
        env=environ,
        input=body.encode("utf-8", "surrogatepass"),
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().strip()


def upstream(folder: Path, rows: list[tuple[str, str, str]]) -> str:
    """Make a repository that gives what it is asked for, with hooks that tell of themselves, and return its commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "--bare")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    commit = git(folder, "commit-tree", _tree(folder, rows), "-m", "x")
    git(folder, "update-ref", "refs/heads/main", commit)
    (folder / "hooks").mkdir(exist_ok=True)
    for hook in ("post-checkout", "post-upload-pack", "reference-transaction", "fsmonitor-watchman"):
        (folder / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {folder}/../../outside/hook\n", encoding="utf-8")
        (folder / "hooks" / hook).chmod(0o755)
    return commit


def fetched(base: Path, modules: str, listed: list[tuple[str, str, str]]) -> dict[str, bytes | str | None]:
    """Fetch a repository with such a .gitmodules and such entries, lay it out, and return what has come to be."""
    (base / "outside").mkdir(parents=True)
    module = upstream(base / "upstreams" / "mod.git", [("100644", "m.c", "int m;")])
    text = modules.replace("{out}", str(base / "outside" / "touched"))
    rows = [("100644", ".gitmodules", text), ("160000", "sub", module), *listed]
    commit = upstream(base / "upstreams" / "top.git", rows)
    before = contents(base)
    repositories = Repositories(
        base / "cache", base / "home", ignore, Mirror(), environ={}, patience=60.0, sleep=lambda _seconds: None
    )
    links = sum(mode == "160000" for mode, _name, _text in {row[1]: row for row in rows}.values())
    pin = GitPin(url=(base / "upstreams" / "top.git").as_uri(), tag="v1", commit=commit, submodules=links)
    with refusable():
        repositories.fetch(pin)
        repositories.lay_out(pin, base / "into" / "tree")
    after = contents(base)
    assert all(after.get(path) == body for path, body in before.items())
    return {path: body for path, body in after.items() if path not in before}


@fuzz("git repositories", share=0.02, listed=entries(), modules=GITMODULES)
def test_a_repository_is_fetched_or_refused(listed: list[tuple[str, str, str]], modules: str) -> None:
    """Of a real one nothing is run, neither hook nor filter nor address, and nothing gets out of the tree."""
    with TemporaryDirectory() as name:
        base = Path(name)
        new = {path.split("/")[0] for path in fetched(base, modules, listed)}
        assert new <= {"cache", "home", "into"}
        tree = (base / "into" / "tree").resolve()
        assert all(Path(os.path.realpath(path)).is_relative_to(tree) for path in tree.rglob("*")), modules


def _link(text: str) -> str:
    """Return a commit: the one that is named, or one that is nowhere."""
    return text if re.fullmatch("[0-9a-f]{40}", text) else "8" * 40


def _tree(folder: Path, rows: list[tuple[str, str, str]]) -> str:
    """Write a tree as it stands, honest or not, and return its id; git refuses any that is not sorted, unread."""
    body = b""
    last = {row[1]: row for row in rows}
    for mode, entry, text in sorted(last.values(), key=lambda row: row[1].encode()):
        oid = _link(text) if mode == "160000" else git(folder, "hash-object", "-w", "--stdin", body=text)
        body += f"{mode} {entry}\0".encode("utf-8", "surrogatepass") + bytes.fromhex(oid)
    done = subprocess.run(
        ["git", "hash-object", "-t", "tree", "-w", "--literally", "--stdin"],
        cwd=folder,
        input=body,
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().strip()


def test_the_pages_and_settings_are_taken_as_they_are(
    pages: Pages, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is changed above is valid before: of a document that is refused unread, no change could find anything."""
    for kind, body in (("text/html", PAGE.encode()), ("application/vnd.pypi.simple.v1+json", encoded(LISTING))):
        for flat in (False, True):
            index = offering(pages, (kind, body), flat, monkeypatch)
            assert index.locate("demo", [PIN])[PIN].urls
            assert index.choose(WANTED, ["py3-none-any"]).pin.filename == "demo-1.0-py3-none-any.whl"
            assert index.troubles == ()
    assert tomllib.loads(document(UV)) == UV
    configure(home, document(UV).encode(), PIP.encode())
    loaded = load_settings({"HOME": str(home)}, home)
    assert (loaded.timeout, loaded.ca_bundle, loaded.index_urls) == (15.0, home / "certificates", ())
    assert {"https://host/flat", "https://user:pass@host/ours"} <= set(loaded.find_links)


@pytest.mark.parametrize("url", TOPS)
def test_the_tree_is_taken_as_it_is(url: str) -> None:
    """Its submodule beside it is followed; one that nobody updates is not."""
    _top, below, *_ = levels(TREE, MODULES, url)
    assert [(item.path, item.url) for item in below] == [("sub/mod", url.replace("top.git", "mod.git"))]


def test_the_repository_is_fetched_as_it_is(tmp_path: Path) -> None:
    """With its submodule."""
    new = fetched(tmp_path / "base", GITMODULES_TEXT, [("100644", "a.c", "int a;")])
    assert (new["into/tree/a.c"], new["into/tree/sub/m.c"]) == (b"int a;", b"int m;")
