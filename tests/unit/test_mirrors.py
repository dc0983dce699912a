from __future__ import annotations

import string
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstack.errors import UsageError
from mmstack.sources.mirrors import Mirror, fault, read_mirror

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "t0ken"  # noqa: S105 - not one
NAMES = st.text(string.ascii_lowercase + string.digits + "_.-", min_size=1, max_size=8).filter(
    lambda name: name[0].isalnum() and not name.endswith(".git")
)
HOSTS = st.sampled_from(["https://one.test", "http://two.test:8080", "ssh://git@three.test", "git://four.test"])
REPOSITORIES = st.builds(
    lambda host, names, suffix: f"{host}/{'/'.join(names)}{suffix}",
    HOSTS,
    st.lists(NAMES, min_size=1, max_size=3),
    st.sampled_from(["", ".git"]),
)


def rules(folder: Path, *lines: str) -> Mirror:
    """Return what a file of lines means."""
    file = folder / "mirrors"
    file.write_text("\n".join(lines), encoding="utf-8")
    return read_mirror(str(file))


@pytest.mark.parametrize(
    "base", ["https://mirror.test", "https://mirror.test/git/", "file:///srv/mirror", "git@m.test:gh"]
)
@pytest.mark.parametrize(
    "url",
    [
        "https://host.test/a/b.git",
        "http://host.test:80/a/b.git",
        "ssh://git@host.test/a/b.git",
        "git@host.test:a/b.git",
    ],
)
def test_a_base_has_every_repository_at_its_path(base: str, url: str) -> None:
    """Whatever the host, and however it is asked."""
    assert read_mirror(base).rewrite(url) == f"{base.rstrip('/')}/a/b.git"
    assert read_mirror(base).rewrite(url.removesuffix(".git")) == f"{base.rstrip('/')}/a/b"


def test_no_mirror_changes_nothing() -> None:
    """The upstream itself is asked then, and folders of this machine are mirrored by no base."""
    assert Mirror().rewrite("https://host.test/a/b.git") == "https://host.test/a/b.git"
    assert read_mirror("https://mirror.test").rewrite("file:///srv/a.git") == "file:///srv/a.git"


def test_the_longest_rule_wins(tmp_path: Path) -> None:
    """Wherever it stands in the file; comments and blank lines mean nothing."""
    mirror = rules(
        tmp_path,
        "# the company's",
        "https://host.test = https://git.corp.test/mirrors/host.test",
        "",
        "https://host.test/a/ = https://flat.test/mirrors/   # all of a's are here",
        "  https://host.test/a/b=file:///srv/b.git",
        "git@host.test: = ssh://git@git.corp.test/h/",
    )
    assert mirror.rewrite("https://host.test/x/y.git") == "https://git.corp.test/mirrors/host.test/x/y.git"
    assert mirror.rewrite("https://host.test/a/c") == "https://flat.test/mirrors/c"
    assert mirror.rewrite("https://host.test/a/b.git") == "file:///srv/b.git"
    assert mirror.rewrite("https://host.test/a/b") == "file:///srv/b.git"
    assert mirror.rewrite("git@host.test:p/q.git") == "ssh://git@git.corp.test/h/p/q.git"
    assert mirror.rewrite("https://other.test/a/b.git") == "https://other.test/a/b.git"


def test_a_rule_means_whole_names(tmp_path: Path) -> None:
    """The rule for `torus` says nothing of `torus-extra`, nor that for a host of one whose name goes on."""
    mirror = rules(tmp_path, "https://host.test/a/torus = https://m.test/x", "https://host.te = https://n.test")
    assert mirror.rewrite("https://host.test/a/torus-extra.git") == "https://host.test/a/torus-extra.git"
    assert mirror.rewrite("https://host.test/a/torus.git") == "https://m.test/x.git"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("https://host.test", "not `from = to`"),
        ("https://host.test = https://a.test https://b.test", "not `from = to`"),
        ("= https://a.test", "not `from = to`"),
        ("host = https://a.test", "on the left, it is no address"),
        ("https://host.test = ext::sh -c id", "not `from = to`"),
        ("https://host.test = ext::id", "on the right, it is no address"),
        ("https://host.test = /srv/mirror", "on the right, it is no address"),
        ("https://host.test = -u/x", "on the right, it is no address"),
        ("https://host.test = file:///srv/../etc", "'..'"),
        (f"https://host.test = ftp://user:{SECRET}@a.test", "on the right, it is no address"),
        ("https://good.test/ = https://b.test", "another line"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(tmp_path: Path, line: str, why: str) -> None:
    """By file and number, and without its text: there may be a password in it."""
    with pytest.raises(UsageError) as caught:
        rules(tmp_path, "# fine", "https://good.test = https://a.test", "", line)
    assert f"{tmp_path / 'mirrors'}:4" in caught.value.what
    assert why in caught.value.why
    assert SECRET not in str(caught.value)


def test_a_file_must_be_there_and_say_something(tmp_path: Path) -> None:
    """No mirror at all would be a surprise to who asked for one."""
    with pytest.raises(UsageError, match="holds no rule"):
        rules(tmp_path, "# nothing yet")
    with pytest.raises(UsageError, match="cannot be read") as caught:
        read_mirror(str(tmp_path / "none"))
    assert "No such file" in caught.value.why
    for name in ("x" * 300, "~nobody-of-that-name/x", "a\0b"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_mirror(name)
    (tmp_path / "mirrors").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        read_mirror(str(tmp_path / "mirrors"))
    with pytest.raises(UsageError, match="is a folder") as caught:
        read_mirror(str(tmp_path))
    assert tmp_path.as_uri() in caught.value.fix


@pytest.mark.parametrize(
    "base", ["ftp://mirror.test", f"ext://u:{SECRET}@x", "https://mirror.test/?q=1", "https://-o.test"]
)
def test_a_base_must_be_an_address(base: str) -> None:
    """One that git could be told, and nothing that asks for a page."""
    with pytest.raises(UsageError, match="cannot be used") as caught:
        read_mirror(base)
    assert SECRET not in str(caught.value)


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    """It goes where it must, and into no message."""
    based = read_mirror(f"https://user:{SECRET}@mirror.test/x")
    ruled = rules(tmp_path, f"https://host.test = https://user:{SECRET}@mirror.test/x")
    for mirror in (based, ruled):
        assert mirror.rewrite("https://host.test/a") == f"https://user:{SECRET}@mirror.test/x/a"
        assert SECRET not in repr(mirror)


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c id",
        "ext::id",
        "ext::@host:",
        "fd::17/x",
        "https::https://host.test/a",
        "-u./payload",
        "--upload-pack=id",
        "ssh://-oProxyCommand=id/x",
        "ssh://git@-oProxyCommand=id/x",
        "-oProxyCommand=id:x",
        "host.test:-x",
        "git@host.test:/../x",
        "/srv/x.git",
        "./x.git",
        "C:\\x",
        "https://host.test/a b",
        "https://host.test/a\nb",
        "https://host.test/a\x1bb",
        "https://host.test/a/../b",
        "https://host.test/a/%2e%2E/b",
        "file://server/share",
        f"https://host.test/{'a' * 300}",
        f"https://host.test/{'%C3%B6' * 150}",
        "",
    ],
)
def test_what_git_must_not_be_given(url: str) -> None:
    """Helpers that are programs, options in place of addresses, folders, and paths that climb."""
    assert fault(url)


@given(REPOSITORIES)
def test_addresses_of_repositories_are_harmless(url: str) -> None:
    """The rules above refuse no honest one."""
    assert fault(url) == ""


@given(REPOSITORIES, st.sampled_from(["https://m.test", "https://m.test/p/", "file:///srv/m"]))
def test_a_base_keeps_the_path_and_what_it_makes_is_an_address(url: str, base: str) -> None:
    """For any repository."""
    there = Mirror(base=base).rewrite(url)
    assert there == base.rstrip("/") + "/" + url.split("://")[1].partition("/")[2]
    assert fault(there) == ""


@given(st.data(), REPOSITORIES)
def test_rules_in_any_order_mean_the_same(data: st.DataObject, url: str) -> None:
    """Only the longest that means a repository counts, as if it stood there alone."""
    head = url.removesuffix(".git").split("/")
    folders = ["/".join(head[:count]) for count in range(3, len(head) + 1)]
    lines = [(folder, f"https://m{number}.test/x") for number, folder in enumerate(folders)]
    chosen = data.draw(st.lists(st.sampled_from(lines), min_size=1, unique=True))
    there = Mirror(rules=tuple(chosen)).rewrite(url)
    assert there == Mirror(rules=(max(chosen, key=lambda rule: len(rule[0])),)).rewrite(url)
    assert there.startswith("https://m")
    assert fault(there) == ""


@given(st.text(max_size=60))
def test_any_text_means_a_mirror_or_an_error(text: str) -> None:
    """Nothing that a user types ends in another way."""
    try:
        mirror = read_mirror(text)
    except UsageError as error:
        assert error.fix  # noqa: PT017 - one of two good ends
    else:
        assert mirror.base == text
        assert fault(f"{text.rstrip('/')}/") == ""
