from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mmstack.errors import CatalogError, HostError, MmstackError, NetworkError, PinError
from mmstack.model import FilePin, LockedRequirement
from mmstack.sources.index import Index
from mmstack.sources.places import RETRY_PAUSES, Offer, redact
from mmstack.sources.settings import IndexSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.conftest import Server

    MakeIndex = Callable[..., Index]

TAGS = ("cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_17_x86_64", "py3-none-any")
A, B = "a" * 64, "b" * 64


def _pin(name: str, digest: str = A) -> FilePin:
    return FilePin(filename=name, sha256=digest)


def _locked(*digests: str, version: str = "1.0") -> LockedRequirement:
    return LockedRequirement(name="demo", version=version, sha256=digests)


def test_a_pinned_file_is_located(server: Server, make_index: MakeIndex) -> None:
    """The project's page, by its normalised name, says where the file is."""
    server.page("my-demo", {"../../files/my_demo-1.0.tar.gz": A, "../../files/my_demo-2.0.tar.gz": B})
    offers = make_index(f"{server.url}/simple").locate("My.Demo", [_pin("my_demo-1.0.tar.gz"), _pin("other.tar.gz")])
    assert list(offers) == [_pin("my_demo-1.0.tar.gz")]
    assert offers[_pin("my_demo-1.0.tar.gz")].urls == (f"{server.url}/files/my_demo-1.0.tar.gz",)


@pytest.mark.parametrize("hashes", [{"sha256": A}, {}, None, " ", 5, {"sha256": 5}])
def test_json_pages_are_understood(server: Server, make_index: MakeIndex, hashes: object) -> None:
    """PEP 691 serves as well as PEP 503; hashes that are none are as if there were none: the file is hashed itself."""
    page = {
        "meta": {"api-version": "1.0"},
        "name": "demo",
        "files": [{"filename": "demo-1.0.zip", "url": "/f/demo-1.0.zip", "hashes": hashes}],
    }
    server.add("/simple/demo/", json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json")
    offers = make_index(f"{server.url}/simple").locate("demo", [_pin("demo-1.0.zip")])
    assert offers[_pin("demo-1.0.zip")].urls == (f"{server.url}/f/demo-1.0.zip",)


def test_every_place_that_has_the_file_is_listed_in_order(
    server: Server, make_index: MakeIndex, tmp_path: Path
) -> None:
    """Folders and pages of find-links come first, then the indexes, so that a download can go on to the next."""
    (tmp_path / "demo-1.0.tar.gz").touch()
    local = tmp_path / "mirror" / "demo"
    local.mkdir(parents=True)
    (local / "index.html").write_text(f'<a href="files/demo-1.0.tar.gz#sha256={A}">x</a>')
    server.page("demo", {"/f/demo-1.0.tar.gz": A, "/bad/demo-1.0.tar.gz": B})
    index = make_index(
        (tmp_path / "mirror").as_uri(),
        f"{server.url}/simple",
        find_links=(tmp_path.as_uri(), f"{server.url}/simple/demo/"),
    )
    offer = index.locate("demo", [_pin("demo-1.0.tar.gz")])[_pin("demo-1.0.tar.gz")]
    assert offer.urls == (
        (tmp_path / "demo-1.0.tar.gz").as_uri(),
        f"{server.url}/f/demo-1.0.tar.gz",
        (local / "files/demo-1.0.tar.gz").as_uri(),
    )


def test_another_digest_everywhere_is_an_error(server: Server, make_index: MakeIndex) -> None:
    """A file of that name with another content is not the pinned file."""
    server.page("demo", {"/f/demo-1.0.tar.gz": B})
    with pytest.raises(PinError) as caught:
        make_index(f"{server.secret_url()}/simple").locate("demo", [_pin("demo-1.0.tar.gz")])
    assert A in caught.value.why
    assert B in caught.value.why
    assert server.url in caught.value.why
    assert "t0ken" not in str(caught.value)


def test_a_place_without_the_project_offers_nothing(server: Server, make_index: MakeIndex, tmp_path: Path) -> None:
    """404, a missing folder and a local index without the project are no errors."""
    index = make_index(
        f"{server.url}/simple", (tmp_path / "none").as_uri(), find_links=((tmp_path / "absent").as_uri(),)
    )
    assert index.locate("demo", [_pin("demo-1.0.tar.gz")]) == {}
    assert index.troubles == ()


@pytest.mark.parametrize("fault", ["500", "503", "429", "403", "401", "sleep 9", "to /simple/demo/", "drop 3"])
def test_an_outage_is_never_not_found(server: Server, make_index: MakeIndex, sleeps: list[float], fault: str) -> None:
    """A place that does not answer as it should is named, without its password, with a remedy."""
    server.page("demo", {"/f/demo-1.0.tar.gz": A})
    server.always["/simple/demo/"] = fault
    index = make_index(f"{server.secret_url()}/simple", timeout=0.05)
    with pytest.raises(NetworkError) as caught:
        index.locate("demo", [_pin("demo-1.0.tar.gz")])
    assert f"{server.url}/simple/demo/" in caught.value.why
    assert "--offline" in caught.value.fix
    assert "UV_INDEX_URL" in caught.value.fix
    assert "t0ken" not in str(caught.value)
    passing = fault not in {"403", "401", "to /simple/demo/"}
    assert sleeps == (list(RETRY_PAUSES) if passing else [])


def test_an_unreachable_host_is_named(make_index: MakeIndex) -> None:
    """Nobody listens there: the address and the reason are given."""
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9/simple/demo"):
        make_index("http://user:t0ken@127.0.0.1:9/simple").locate("demo", [_pin("demo-1.0.tar.gz")])


def test_a_passing_failure_is_tried_again(server: Server, make_index: MakeIndex, sleeps: list[float]) -> None:
    """Two bad answers and a good one make a good one."""
    server.page("demo", {"/f/demo-1.0.tar.gz": A})
    server.faults["/simple/demo/"] = ["502", "drop 5"]
    assert make_index(f"{server.url}/simple").locate("demo", [_pin("demo-1.0.tar.gz")])
    assert sleeps == list(RETRY_PAUSES[:2])


def test_an_outage_does_not_matter_once_all_is_found(server: Server, make_index: MakeIndex) -> None:
    """The digest says that it is the file: another place need not confirm it, but is remembered."""
    server.page("demo", {"/f/demo-1.0.tar.gz": A})
    index = make_index("http://127.0.0.1:9/simple", f"{server.url}/simple")
    assert list(index.locate("demo", [_pin("demo-1.0.tar.gz")])) == [_pin("demo-1.0.tar.gz")]
    assert len(index.troubles) == 1
    with pytest.raises(NetworkError):
        index.locate("demo", [_pin("demo-1.0.tar.gz"), _pin("demo-1.0.zip")])


@pytest.mark.parametrize(
    ("body", "kind"), [(b"{", "application/vnd.pypi.simple.v1+json"), (b"\xff\xfe", "text/html"), (b"x", "image/png")]
)
def test_a_page_that_cannot_be_read_is_an_outage(server: Server, make_index: MakeIndex, body: bytes, kind: str) -> None:
    """Broken JSON, broken text and a page of another kind do not read as empty."""
    server.add("/simple/demo/", body, f"{kind}; charset=utf-8" if kind == "text/html" else kind)
    with pytest.raises(NetworkError):
        make_index(f"{server.url}/simple").locate("demo", [_pin("demo-1.0.tar.gz")])


def test_a_page_cannot_point_into_the_users_files(server: Server, make_index: MakeIndex, tmp_path: Path) -> None:
    """A remote page that lists file:// addresses is not believed."""
    server.page("demo", {(tmp_path / "demo-1.0.tar.gz").as_uri(): A})
    with pytest.raises(NetworkError, match="by file, refused"):
        make_index(f"{server.url}/simple").locate("demo", [_pin("demo-1.0.tar.gz")])


def test_a_page_is_fetched_once_by_many_threads(server: Server, make_index: MakeIndex) -> None:
    """Sixteen questions at once are one request per page."""
    server.page("demo", {"/f/demo-1.0.tar.gz": A})
    index = make_index(f"{server.url}/simple", find_links=(f"{server.url}/simple/",))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: index.locate("demo", [_pin("demo-1.0.tar.gz")]), range(16)))
    assert all(len(result) == 1 for result in results)
    assert server.count("/simple/demo/") == 1
    assert server.count("/simple/") == 1


def test_credentials_in_the_address_are_sent(server: Server, make_index: MakeIndex) -> None:
    """They are used, for pages and files, and shown nowhere."""
    server.page("demo", {"/f/demo-1.0.tar.gz": A})
    index = make_index(f"{server.secret_url()}/simple")
    offer = index.locate("demo", [_pin("demo-1.0.tar.gz")])[_pin("demo-1.0.tar.gz")]
    assert server.headers[0]["Authorization"].startswith("Basic ")
    with pytest.raises(Exception, match="404"), index.web.open(offer.urls[0]):
        pass
    assert server.headers[-1]["Authorization"].startswith("Basic ")
    assert "t0ken" not in repr((index.settings, offer, [redact(url) for url in offer.urls]))


def test_the_best_wheel_that_is_locked_is_chosen(server: Server, make_index: MakeIndex) -> None:
    """The interpreter's order of tags decides among the locked files; build numbers break ties."""
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in "vwxyz"}
    server.page(
        "demo",
        {
            "/f/demo-1.0-py3-none-any.whl": digests["v"],
            "/f/demo-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl": digests["w"],
            "/f/demo-1.0-1-cp311-cp311-manylinux_2_17_x86_64.whl": B,
            "/f/demo-1.0-2-cp311-cp311-manylinux_2_17_x86_64.whl": digests["x"],
            "/f/demo-1.0-cp312-cp312-manylinux_2_28_x86_64.whl": digests["y"],
            "/f/demo-1.1-cp311-cp311-manylinux_2_28_x86_64.whl": digests["z"],
            "/f/demo-1.0.tar.gz": A,
        },
    )
    index = make_index(f"{server.url}/simple")
    assert index.choose(_locked(B, *digests.values()), TAGS).pin.sha256 == digests["x"]
    assert index.choose(_locked(digests["v"], digests["w"]), TAGS).pin.sha256 == digests["w"]
    assert index.choose(_locked(digests["v"], digests["y"]), TAGS).pin.sha256 == digests["v"]


def test_wheels_without_listed_digest_are_judged_by_content(
    make_index: MakeIndex, server: Server, tmp_path: Path
) -> None:
    """A folder of wheels carries no digests; a stale file of the same name is passed over."""
    name = "demo-1.0-py3-none-any.whl"
    (tmp_path / "stale").mkdir()
    (tmp_path / "stale" / name).write_bytes(b"old")
    (tmp_path / name).write_bytes(b"new")
    new = hashlib.sha256(b"new").hexdigest()
    folders = ((tmp_path / "stale").as_uri(), tmp_path.as_uri())
    offer = make_index(find_links=folders).choose(_locked(B, new), TAGS)
    assert offer.pin == _pin(name, new)
    server.page("demo", {f"/f/{name}": ""})
    server.add(f"/f/{name}", b"new")
    assert make_index(f"{server.url}/simple").choose(_locked(B, new), TAGS).pin == _pin(name, new)


def test_a_file_without_a_digest_is_read_only_if_none_has_one(server: Server, make_index: MakeIndex) -> None:
    """PyTorch's index lists some so, and not all of those are there."""
    name = "demo-1.0-py3-none-any.whl"
    server.page("demo", {f"/gone/{name}": "", f"/f/{name}": A})
    assert make_index(f"{server.url}/simple").choose(_locked(A, B), TAGS).pin == _pin(name)


@pytest.mark.parametrize(
    ("links", "error", "text"),
    [
        (
            {"/f/demo-1.0-cp310-cp310-win32.whl": A, "/f/demo-1.0.tar.gz": B},
            HostError,
            "demo-1.0-cp310-cp310-win32.whl",
        ),
        ({"/f/demo-2.0-py3-none-any.whl": A}, NetworkError, "demo 1.0"),
        ({"/f/demo-1.0-py3-none-any.whl": "c" * 64}, PinError, "c" * 64),
    ],
)
def test_no_wheel_to_choose_says_what_there_is(
    server: Server, make_index: MakeIndex, links: dict[str, str], error: type[MmstackError], text: str
) -> None:
    """Wrong platform, absent version and wrong digest are different failures."""
    server.page("demo", links)
    with pytest.raises(error) as caught:
        make_index(f"{server.url}/simple").choose(_locked(A, B), TAGS)
    assert type(caught.value) is error
    assert text in str(caught.value)


def test_sizes_are_asked_for_lazily(server: Server, make_index: MakeIndex, tmp_path: Path) -> None:
    """A HEAD request tells how large a file is; nobody knowing is no failure."""
    server.add("/f/x", b"12345")
    (tmp_path / "y").write_bytes(b"123")
    index = make_index()
    assert index.size_of(Offer(pin=_pin("x"), urls=(f"{server.url}/none", f"{server.url}/f/x"))) == 5
    assert index.size_of(Offer(pin=_pin("y"), urls=((tmp_path / "y").as_uri(),))) == 3
    assert index.size_of(Offer(pin=_pin("y"), urls=("http://127.0.0.1:9/y",))) is None
    assert index.size_of(Offer(pin=_pin("y"), urls=(), size=7)) == 7
    assert [method for method, *_ in server.asked] == ["HEAD", "HEAD"]


def test_a_proxy_is_used_and_a_wrong_one_refused(server: Server, sleeps: list[float], tmp_path: Path) -> None:
    """All requests go through it; a malformed address is a configuration error that hides its password."""

    def settings(proxy: str, bundle: Path | None = None) -> IndexSettings:
        return IndexSettings(
            index_urls=("http://index.invalid/simple",),
            find_links=(),
            ca_bundle=bundle,
            trusted_hosts=("index.invalid",) if bundle else (),
            proxy=proxy,
            timeout=5,
            origins=("PIP_PROXY",),
        )

    server.page("demo", {"/f/demo-1.0.tar.gz": A})
    server.files["http://index.invalid/simple/demo/"] = server.files["/simple/demo/"]
    server.types["http://index.invalid/simple/demo/"] = "text/html"
    index = Index(settings(server.url), sleep=sleeps.append)
    assert index.locate("demo", [_pin("demo-1.0.tar.gz")])
    index.close()
    with pytest.raises(CatalogError, match="PIP_PROXY") as caught:
        Index(settings("nonsense://user:t0ken@proxy"))
    assert "t0ken" not in str(caught.value)
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(CatalogError, match=r"ca\.pem"):
        Index(settings("", tmp_path / "ca.pem"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:t0ken@h.example/a?X-Sig=t0ken#sha256=1", "https://h.example/a"),
        ("https://t0ken@h.example:8/a", "https://h.example:8/a"),
        ("https://user:t0/ken@h.example/a", "a malformed address"),
        ("file:///home/me@work/x", "file:///home/me@work/x"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    """User, password, query and fragment are left out."""
    assert redact(url) == shown


def test_an_unreadable_folder_is_an_outage(make_index: MakeIndex, tmp_path: Path) -> None:
    """What may be in a folder that we may not list is unknown, not absent."""
    folder = tmp_path / "wheels"
    folder.mkdir(mode=0o000)
    if os.access(folder, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(NetworkError, match="wheels"):
        make_index(find_links=(folder.as_uri(),)).locate("demo", [_pin("demo-1.0.tar.gz")])
