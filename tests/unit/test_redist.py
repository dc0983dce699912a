from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstack.errors import (
    ArchiveError,
    CatalogError,
    DiskError,
    HostError,
    InterruptedRunError,
    MmstackError,
    NetworkError,
    PinError,
    UsageError,
)
from mmstack.events import ignore
from mmstack.model import Toolkit
from mmstack.sources.download import Downloads
from mmstack.toolchains import redist
from mmstack.toolchains.redist import address, components, manifest_offer, merge
from tests.support import flip
from tests.toolkits import LINK, MANIFEST, PROGRAM, Mirror, archive

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmstack.sources.index import Index
    from tests.unit.conftest import Server

    MakeIndex = Callable[..., Index]

NVCC = {"LICENSE": "nvcc's", "bin/nvcc": f"{PROGRAM}nvcc", "bin/nvcc.profile": "TOP", "nvvm/bin/cicc": f"{PROGRAM}cicc"}
CUDART = {
    "LICENSE": "cudart's",
    "include/cuda.h": "#define CUDA_VERSION 12080",
    "lib/libcudart.so": f"{LINK}libcudart.so.12",
    "lib/libcudart.so.12": "ELF",
    "pkg-config/cudart.pc": "Name: cudart",
}


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    """Return a mirror of a small release."""
    (tmp_path / "a mirror").mkdir()
    return Mirror(tmp_path / "a mirror", {"cuda_nvcc": NVCC, "cuda_cudart": CUDART})


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    """Return an empty folder of downloads."""
    return Downloads(tmp_path / "downloads", sleep=lambda _seconds: None)


def _make(toolkit: Toolkit, downloads: Downloads, index: Index, into: Path) -> Path:
    """Do what a build does."""
    assert toolkit.manifest is not None
    downloads.fetch([manifest_offer(toolkit)], index, ignore)
    offers = components(downloads.path(toolkit.manifest), toolkit, "x86_64")
    downloads.fetch(offers, index, ignore)
    return merge([downloads.path(offer.pin) for offer in offers], into)


def _tree(root: Path) -> list[str]:
    return sorted(
        path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir() or path.is_symlink()
    )


def _kept(downloads: Downloads) -> list[str]:
    return sorted(path.name for path in downloads.root.glob("[!.]*/*"))


def test_a_mirror_serves_a_whole_toolkit(
    mirror: Mirror, server: Server, downloads: Downloads, make_index: MakeIndex, tmp_path: Path
) -> None:
    """The archives of the named components become one folder, ready to be a CUDA_HOME."""
    mirror.manifest()
    base = mirror.serve(server)
    home = _make(mirror.toolkit(base), downloads, make_index(), tmp_path / "toolkits" / "cuda")
    assert _tree(home) == [
        "bin/nvcc",
        "bin/nvcc.profile",
        "include/cuda.h",
        "lib/libcudart.so",
        "lib/libcudart.so.12",
        "lib64",
        "licenses/cuda_cudart/LICENSE",
        "licenses/cuda_nvcc/LICENSE",
        "nvvm/bin/cicc",
        "pkg-config/cudart.pc",
    ]
    assert (home / "lib64" / "libcudart.so").read_text() == "ELF"
    assert (home / "lib" / "libcudart.so").readlink() == Path("libcudart.so.12")
    assert (home / "bin" / "nvcc").stat().st_mode & 0o777 == 0o755
    assert (home / "include" / "cuda.h").stat().st_mode & 0o777 == 0o644
    assert (home / "licenses" / "cuda_nvcc" / "LICENSE").read_text() == "nvcc's"
    assert [path.name for path in home.parent.iterdir()] == ["cuda"]
    assert not any("windows" in path for _method, path, _range in server.asked)


def test_a_folder_is_a_mirror(mirror: Mirror, downloads: Downloads, make_index: MakeIndex, tmp_path: Path) -> None:
    """A mounted copy serves without any server, whatever its name has in it."""
    mirror.manifest()
    home = _make(mirror.toolkit(address(str(mirror.root))), downloads, make_index(), tmp_path / "cuda")
    assert (home / "bin" / "nvcc").exists()


def test_a_mirror_may_demand_a_password(
    mirror: Mirror, server: Server, downloads: Downloads, make_index: MakeIndex, tmp_path: Path
) -> None:
    """What stands in the address is sent, and shown nowhere."""
    mirror.manifest()
    mirror.serve(server)
    toolkit = mirror.toolkit(address(f"{server.secret_url()}/redist?key=t0ken"))
    assert (_make(toolkit, downloads, make_index(), tmp_path / "cuda") / "bin" / "nvcc").exists()
    assert all("Authorization" in headers for headers in server.headers)
    assert "t0ken" not in repr(manifest_offer(toolkit))


@pytest.mark.parametrize("file", [MANIFEST, "cuda_nvcc/linux-x86_64/cuda_nvcc-linux-x86_64-12.8.93-archive.tar.xz"])
def test_one_flipped_bit_is_found(
    mirror: Mirror, server: Server, downloads: Downloads, make_index: MakeIndex, tmp_path: Path, file: str
) -> None:
    """Manifest or archive: exit 4, the file named, neither it nor a toolkit left behind."""
    mirror.manifest()
    toolkit = mirror.toolkit(address(f"{server.url}/redist"))
    flip(mirror.root / file)
    mirror.serve(server)
    with pytest.raises(PinError) as caught:
        _make(toolkit, downloads, make_index(), tmp_path / "cuda")
    name = Path(file).name
    assert caught.value.code == 4
    assert name in caught.value.what
    assert not any(kept.startswith(name) for kept in _kept(downloads))
    assert not (tmp_path / "cuda").exists()


def test_an_archive_that_the_mirror_lacks_is_named(
    mirror: Mirror, server: Server, downloads: Downloads, make_index: MakeIndex, tmp_path: Path
) -> None:
    """A mirror that is not whole is no toolkit."""
    mirror.manifest()
    base = mirror.serve(server)
    server.always["/redist/cuda_cudart/linux-x86_64/cuda_cudart-linux-x86_64-12.8.93-archive.tar.xz"] = "404"
    with pytest.raises(NetworkError, match="cuda_cudart-linux-x86_64"):
        _make(mirror.toolkit(base), downloads, make_index(), tmp_path / "cuda")
    assert not (tmp_path / "cuda").exists()


def test_the_archives_of_this_machine_are_chosen(mirror: Mirror) -> None:
    """NVIDIA calls Arm servers sbsa; what is for all of Linux serves where nothing more special does."""
    mirror.add("cuda_nvcc", NVCC, "linux-sbsa")
    mirror.add("cuda_nvcc", NVCC, "linux-all")
    mirror.add("cuda_docs", {"LICENSE": "x"}, "linux-all")
    toolkit = mirror.toolkit(wanted="cuda_nvcc cuda_docs")
    manifest = mirror.manifest()
    on_arm = components(manifest, toolkit, "aarch64")
    assert [offer.pin.filename for offer in on_arm] == [
        "cuda_nvcc-linux-sbsa-12.8.93-archive.tar.xz",
        "cuda_docs-linux-all-12.8.93-archive.tar.xz",
    ]
    nvcc = components(manifest, toolkit, "x86_64")[0]
    facts = mirror.listed["cuda_nvcc"]["linux-x86_64"]
    assert nvcc.pin.sha256 == facts["sha256"]
    assert nvcc.size == int(facts["size"])
    assert nvcc.urls == (f"https://h.example/redist/{facts['relative_path']}",)


def test_another_machine_has_no_archives(mirror: Mirror) -> None:
    """There are none for it, and the error says for which there are."""
    with pytest.raises(HostError, match="riscv64") as caught:
        components(mirror.manifest(), mirror.toolkit(), "riscv64")
    assert "x86_64, aarch64" in caught.value.why


def test_a_component_that_is_not_listed(mirror: Mirror) -> None:
    """Named with the manifest, and with the component that was likely meant."""
    with pytest.raises(CatalogError, match=f"{MANIFEST} has no cuda_nvc\n") as caught:
        components(mirror.manifest(), mirror.toolkit(wanted="cuda_nvc"), "x86_64")
    assert "did you mean 'cuda_nvcc'" in caught.value.why
    assert "release_label" not in caught.value.why
    assert "toolkits/12.8.toml" in caught.value.fix


def test_a_component_for_other_platforms_alone(mirror: Mirror) -> None:
    """It is said which they are."""
    with pytest.raises(CatalogError, match="has no cuda_nvcc for linux-sbsa") as caught:
        components(mirror.manifest(), mirror.toolkit(), "aarch64")
    assert "linux-x86_64, windows-x86_64" in caught.value.why


GOOD_PATH = "cuda_nvcc/linux-x86_64/a.tar.xz"


@pytest.mark.parametrize(
    "path",
    [
        "../a.tar.xz",
        "cuda_nvcc/../../a.tar.xz",
        "/etc/a.tar.xz",
        "//h.example/a.tar.xz",
        "https://h.example/a.tar.xz",
        "file:///a.tar.xz",
        "a\\..\\a.tar.xz",
        "%2e%2e/a.tar.xz",
        "a.tar.xz?x=a.tar.xz",
        "a.tar.xz#x.tar.xz",
        ".a.tar.xz",
        "a.zip",
        "a.tar.xz\n",
        "",
        None,
        7,
        ["a.tar.xz"],
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(mirror: Mirror, path: object) -> None:
    """Every archive lies below its manifest, on the same host."""
    mirror.listed["cuda_nvcc"]["linux-x86_64"]["relative_path"] = path
    with pytest.raises(PinError, match=MANIFEST) as caught:
        components(mirror.manifest(), mirror.toolkit(), "x86_64")
    assert "cuda_nvcc: relative_path" in caught.value.why


@pytest.mark.parametrize("digest", ["", "aaa111", "g" * 64, "a" * 65, f"{'a' * 64}\n", None, 7, "A" * 63 + "/"])
def test_an_archive_without_a_digest_is_refused(mirror: Mirror, digest: object) -> None:
    """Nothing is downloaded unchecked."""
    mirror.listed["cuda_nvcc"]["linux-x86_64"]["sha256"] = digest
    with pytest.raises(PinError) as caught:
        components(mirror.manifest(), mirror.toolkit(), "x86_64")
    assert "cuda_nvcc: sha256" in caught.value.why


@pytest.mark.parametrize("size", [None, 12, "", "-1", "lots", "9" * 5000, "٣"])
def test_a_size_that_is_none_is_no_obstacle(mirror: Mirror, size: object) -> None:
    """It only serves to show progress."""
    mirror.listed["cuda_nvcc"]["linux-x86_64"]["size"] = size
    assert components(mirror.manifest(), mirror.toolkit(), "x86_64")[0].size is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"\xff\xfe\x00",
        b"[]",
        b'"cuda_nvcc"',
        b"[" * 200_000,
        b'{"cuda_nvcc": ' * 200_000,
        b"9" * 10_000,
        b'{"cuda_nvcc": {"linux-x86_64": []}}',
        b'{"cuda_nvcc": {"linux-x86_64": {"cuda12": {"relative_path": "a.tar.xz"}}}}',
    ],
)
def test_what_is_no_manifest_is_refused(mirror: Mirror, text: bytes) -> None:
    """Whatever was pinned by mistake: exit 4, and the file is named."""
    with pytest.raises(PinError, match=MANIFEST) as caught:
        components(mirror.manifest(text), mirror.toolkit(), "x86_64")
    assert caught.value.code == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["cuda_nvcc", "linux-x86_64", "relative_path", "sha256", "size"]) | st.text(), inner
        )
    ),
)


@given(listed=JSON)
def test_any_json_gives_offers_below_the_base_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, listed: object
) -> None:
    """No manifest, however odd, ends in anything else."""
    manifest = tmp_path_factory.getbasetemp() / "odd.json"
    manifest.write_text(json.dumps(listed), encoding="utf-8")
    toolkit = Toolkit(
        kind="redist", version="12.8", origin="", identity="", base="https://h.example/", components=("cuda_nvcc",)
    )
    with suppress(MmstackError):
        offers = components(manifest, toolkit, "x86_64")
        assert all(url.startswith("https://h.example/") for offer in offers for url in offer.urls)


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's own by default; slashes at the end, credentials, queries and relative folders are understood."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert address("") == "https://developer.download.nvidia.com/compute/cuda/redist/"
    assert address("https://h.example/redist") == address("https://h.example/redist///") == "https://h.example/redist/"
    assert address("http://user:t0ken@h.example?key=x") == "http://user:t0ken@h.example/?key=x"
    assert address("my mirror") == address("~/my mirror") == address((tmp_path / "my mirror").as_uri())


@pytest.mark.parametrize("place", ["ftp://h.example/x", "https://", "http://[h/", "http://user:t0ken@h.example:port/"])
def test_what_is_no_address_is_refused(place: str) -> None:
    """Before anything is asked, and without showing a password."""
    with pytest.raises(UsageError, match="--toolkit") as caught:
        address(place)
    assert "t0ken" not in str(caught.value)


def test_archives_may_share_folders_and_equal_files(tmp_path: Path) -> None:
    """Headers of several components lie in one include folder; the same file twice is one file."""
    one = archive(tmp_path, "one", {"include/cub/a.h": "a", "include/same.h": "s", "lib/l": f"{LINK}x"})
    two = archive(tmp_path, "two", {"include/cub/b.h": "b", "include/same.h": "s", "lib/l": f"{LINK}x"})
    home = merge([one, two], tmp_path / "cuda")
    assert _tree(home) == ["include/cub/a.h", "include/cub/b.h", "include/same.h", "lib/l", "lib64"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("one", "two"),
        ("same", f"{PROGRAM}same"),
        (f"{LINK}a", f"{LINK}b"),
        (f"{LINK}a", "a"),
    ],
)
def test_archives_that_contradict_each_other_are_refused(tmp_path: Path, first: str, second: str) -> None:
    """One toolkit cannot hold two files of one name: the file and the later archive are named, nothing is kept."""
    one = archive(tmp_path, "one", {"bin/x": first})
    two = archive(tmp_path, "two", {"bin/x": second})
    with pytest.raises(ArchiveError, match="two-linux") as caught:
        merge([one, two], tmp_path / "new" / "cuda")
    assert "bin/x" in caught.value.why
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("name", ["include", "lib/cmake"])
@pytest.mark.parametrize("swap", [False, True])
def test_nothing_is_written_through_another_archives_link(tmp_path: Path, name: str, *, swap: bool) -> None:
    """A folder of one archive and a link of that name in another contradict each other."""
    up = "../" * name.count("/")
    one = archive(tmp_path, "one", {name: f"{LINK}{up}bin", "bin/x": "x"})
    two = archive(tmp_path, "two", {"bin/y": "y", f"{name}/x": "evil"})
    with pytest.raises(ArchiveError) as caught:
        merge([two, one] if swap else [one, two], tmp_path / "cuda")
    assert name in caught.value.why
    assert not (tmp_path / "cuda").exists()


def test_a_dishonest_archive_is_refused(tmp_path: Path) -> None:
    """What leaves its folder never enters the toolkit's."""
    good, bad = archive(tmp_path, "good", NVCC), archive(tmp_path, "bad", {"../../x": "evil"})
    with pytest.raises(ArchiveError, match="bad-linux"):
        merge([good, bad], tmp_path / "new" / "cuda")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_interrupted_merge_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to stop between two archives, it does, and takes away what it had."""
    archives = [archive(tmp_path, "cuda_nvcc", NVCC), archive(tmp_path, "cuda_cudart", CUDART)]
    answers = iter([False, True])
    monkeypatch.setattr(redist, "is_stopping", lambda: next(answers))
    with pytest.raises(InterruptedRunError):
        merge(archives, tmp_path / "new" / "cuda")
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_merge_left_is_cleared_away(tmp_path: Path) -> None:
    """The next one starts from nothing and leaves nothing beside the toolkit."""
    left = tmp_path / "new" / ".new-cuda" / "home" / "bin"
    left.mkdir(parents=True)
    (left / "nvcc").write_text("half of it")
    home = merge([archive(tmp_path, "cuda_nvcc", NVCC)], tmp_path / "new" / "cuda")
    assert (home / "bin" / "nvcc").read_text() == NVCC["bin/nvcc"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cuda"]


def test_a_toolkit_is_never_merged_into_another(tmp_path: Path) -> None:
    """What is there stays as it is."""
    (tmp_path / "new" / "cuda").mkdir(parents=True)
    (tmp_path / "new" / "cuda" / "mine").touch()
    with pytest.raises(DiskError, match="already there"):
        merge([archive(tmp_path, "cuda_nvcc", NVCC)], tmp_path / "new" / "cuda")
    assert _tree(tmp_path / "new") == ["cuda/mine"]


def test_a_folder_that_is_not_ours_to_write(tmp_path: Path) -> None:
    """The kernel refuses new folders there, to everybody."""
    with pytest.raises(DiskError, match="/sys"):
        merge([archive(tmp_path, "cuda_nvcc", NVCC)], Path("/sys/mmstack/cuda"))
