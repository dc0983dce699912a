from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unearth import PackageFinder

from mmstack.errors import CatalogError
from mmstack.sources.settings import DEFAULT_TIMEOUT, load_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a HOME of our own; the system's files are out of the way."""
    monkeypatch.setattr("mmstack.sources.settings.SYSTEM_FOLDER", tmp_path / "etc")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return _write(tmp_path / "home" / ".keep", "").parent


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_who_says_nothing_gets_the_common_index(home: Path, tmp_path: Path) -> None:
    """Without settings there is one index, the one that unearth takes by itself."""
    settings = load_settings({"HOME": str(home)}, tmp_path)
    assert settings.index_urls == (PackageFinder().sources[0]["url"].rstrip("/"),)
    assert settings.find_links == ()
    assert settings.origins == ()
    assert settings.timeout == DEFAULT_TIMEOUT


def test_the_environment_of_uv_and_pip_is_read(home: Path, tmp_path: Path) -> None:
    """Every documented variable counts; extra indexes come first, the default one last."""
    bundle = _write(tmp_path / "ca.pem", "")
    environ = {
        "HOME": str(home),
        "UV_INDEX_URL": "https://uv.example/simple/",
        "UV_INDEX": "https://one.example/simple named=https://two.example/simple",
        "UV_EXTRA_INDEX_URL": "https://three.example/simple",
        "UV_FIND_LINKS": "https://links.example/a.html, wheels",
        "UV_INSECURE_HOST": "one.example",
        "UV_HTTP_TIMEOUT": "7",
        "PIP_INDEX_URL": "https://pip.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://four.example/simple https://one.example/simple/",
        "PIP_FIND_LINKS": "more",
        "PIP_TRUSTED_HOST": "four.example:8443",
        "PIP_CERT": str(bundle),
        "PIP_PROXY": "http://proxy.example:3128",
        "PIP_DEFAULT_TIMEOUT": "9",
    }
    settings = load_settings(environ, tmp_path)
    assert settings.index_urls == (
        "https://one.example/simple",
        "https://two.example/simple",
        "https://three.example/simple",
        "https://four.example/simple",
        "https://uv.example/simple",
    )
    assert settings.find_links == (
        "https://links.example/a.html",
        (tmp_path / "wheels").as_uri(),
        (tmp_path / "more").as_uri(),
    )
    assert settings.trusted_hosts == ("one.example", "four.example:8443")
    assert settings.ca_bundle == bundle
    assert settings.proxy == "http://proxy.example:3128"
    assert settings.timeout == 7
    assert "UV_INDEX_URL" in settings.origins
    assert "PIP_INDEX_URL" not in settings.origins, "it had no say"


def test_uv_default_index_wins_over_its_older_name(home: Path, tmp_path: Path) -> None:
    """UV_DEFAULT_INDEX is the explicit one."""
    environ = {"HOME": str(home), "UV_INDEX_URL": "https://old.example", "UV_DEFAULT_INDEX": "https://new.example"}
    assert load_settings(environ, tmp_path).index_urls == ("https://new.example",)


@pytest.mark.parametrize("where", ["project uv.toml", "pyproject.toml", "user", "system", "xdg", "UV_CONFIG_FILE"])
def test_uv_files_are_found_where_uv_documents_them(home: Path, tmp_path: Path, where: str) -> None:
    """The project's, the user's and the system's file are all read."""
    environ = {"HOME": str(home)}
    table = '[[{}index]]\nname = "x"\nurl = "https://x.example/simple"\ndefault = true\n'
    text, project = table.format(""), tmp_path / "project"
    project.mkdir()
    if where == "project uv.toml":
        _write(project / "uv.toml", text)
        _write(project / "pyproject.toml", "[tool.uv]\nindex-url = 'https://ignored.example'\n")
    elif where == "pyproject.toml":
        _write(project / "pyproject.toml", table.format("tool.uv."))
    elif where == "user":
        _write(home / ".config/uv/uv.toml", text)
    elif where == "system":
        _write(tmp_path / "etc/uv/uv.toml", text)
    elif where == "xdg":
        environ["XDG_CONFIG_DIRS"] = f"{tmp_path}/a:{tmp_path}/b"
        _write(tmp_path / "b/uv/uv.toml", text)
    else:
        environ["UV_CONFIG_FILE"] = str(_write(tmp_path / "mine.toml", text))
        _write(home / ".config/uv/uv.toml", "index-url = 'https://ignored.example'\n")
    settings = load_settings(environ, project)
    assert settings.index_urls == ("https://x.example/simple",)
    assert len(settings.origins) == 1


def test_an_index_table_may_be_flat_explicit_or_a_path(home: Path, tmp_path: Path) -> None:
    """Flat ones are find-links, explicit ones are left to who asks for them, paths start at the file."""
    _write(
        tmp_path / "p/uv.toml",
        "find-links = ['./wheels']\n"
        "[[index]]\nurl = 'https://flat.example/list.html'\nformat = 'flat'\n"
        "[[index]]\nname = 'e'\nurl = 'https://explicit.example'\nexplicit = true\n"
        "[[index]]\nurl = 'mirror/simple'\n"
        "[pip]\nno-index = false\nextra-index-url = ['https://pip-table.example']\n",
    )
    settings = load_settings({"HOME": str(home), "UV_INDEX_URL": "https://d.example"}, tmp_path / "p")
    assert settings.index_urls == (
        (tmp_path / "p/mirror/simple").as_uri(),
        "https://pip-table.example",
        "https://d.example",
    )
    assert settings.find_links == ("https://flat.example/list.html", (tmp_path / "p/wheels").as_uri())


def test_a_named_index_gets_the_credentials_of_its_variables(home: Path, tmp_path: Path) -> None:
    """What UV_INDEX_<NAME>_USERNAME and _PASSWORD say is put into the address, escaped."""
    environ = {
        "HOME": str(home),
        "UV_INDEX": "in-house=https://in.example/simple",
        "UV_DEFAULT_INDEX": "https://d.example",
        "UV_INDEX_IN_HOUSE_USERNAME": "me",
        "UV_INDEX_IN_HOUSE_PASSWORD": "p@ss/word",
    }
    settings = load_settings(environ, tmp_path)
    assert settings.index_urls[0] == "https://me:p%40ss%2Fword@in.example/simple"


@pytest.mark.parametrize("where", ["etc/pip.conf", "etc/xdg/pip/pip.conf", "home/.pip/pip.conf", "venv/pip.conf"])
def test_pip_files_are_found_where_pip_documents_them(home: Path, tmp_path: Path, where: str) -> None:
    """Global, user, legacy and environment files are all read."""
    _write(tmp_path / where, "[global]\nindex_url = https://x.example/simple\n[install]\nfind-links =\n  a\n  b\n")
    settings = load_settings({"HOME": str(home), "VIRTUAL_ENV": str(tmp_path / "venv")}, tmp_path)
    assert settings.index_urls == ("https://x.example/simple",)
    assert settings.find_links == ((tmp_path / "a").as_uri(), (tmp_path / "b").as_uri())
    assert settings.origins == (str(tmp_path / where),)


def test_nearer_settings_win_and_lists_are_joined(home: Path, tmp_path: Path) -> None:
    """Environment before files, uv before pip, environment's pip.conf before the user's before the system's."""
    _write(
        tmp_path / "etc/pip.conf", "[global]\nindex-url = https://sys.example\nextra-index-url = https://1.example\n"
    )
    _write(
        home / ".config/pip/pip.conf",
        "[global]\nindex-url = https://user.example\nextra-index-url = https://2.example https://1.example\n",
    )
    environ = {"HOME": str(home), "PIP_EXTRA_INDEX_URL": "https://0.example"}
    expected = ("https://0.example", "https://2.example", "https://1.example")
    assert load_settings(environ, tmp_path).index_urls == (*expected, "https://user.example")
    _write(home / ".config/uv/uv.toml", "index-url = 'https://uv.example'\n")
    assert load_settings(environ, tmp_path).index_urls == (*expected, "https://uv.example")
    environ["PIP_INDEX_URL"] = "https://pip.example"
    assert load_settings(environ, tmp_path).index_urls == (*expected, "https://pip.example")


def test_a_file_that_is_named_stands_for_the_users_own(home: Path, tmp_path: Path) -> None:
    """As for pip; but one that is not there stands for none."""
    _write(home / ".config/pip/pip.conf", "[global]\nno-index = true\n")
    environ = {"HOME": str(home), "PIP_CONFIG_FILE": str(tmp_path / "named")}
    assert load_settings(environ, tmp_path).index_urls == ()
    _write(tmp_path / "named", "[global]\nindex-url = https://corp.example\n")
    assert load_settings(environ, tmp_path).index_urls == ("https://corp.example",)


def test_no_index_leaves_only_find_links(home: Path, tmp_path: Path) -> None:
    """Whoever wants no index gets none, not even the common one."""
    environ = {"HOME": str(home), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "w", "UV_INDEX": "https://x.example"}
    settings = load_settings(environ, tmp_path)
    assert settings.index_urls == ()
    assert settings.find_links == ((tmp_path / "w").as_uri(),)


def test_configuration_files_can_be_switched_off(home: Path, tmp_path: Path) -> None:
    """PIP_CONFIG_FILE=/dev/null and UV_NO_CONFIG do what their tools document."""
    _write(home / ".pip/pip.conf", "[global]\nextra-index-url = https://pip.example\n")
    _write(home / ".config/uv/uv.toml", "extra-index-url = ['https://uv.example']\n")
    environ = {"HOME": str(home), "PIP_CONFIG_FILE": "/dev/null", "UV_NO_CONFIG": "1"}
    assert load_settings(environ, tmp_path).origins == ()
    assert len(load_settings({"HOME": str(home)}, tmp_path).origins) == 2


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("home/.config/uv/uv.toml", "index-url = 'https://user:t0ken@x.example\n"),
        ("home/.config/uv/uv.toml", "find-links = [1, 'https://user:t0ken@x.example']\n"),
        ("home/.config/uv/uv.toml", "index = 'https://user:t0ken@x.example'\n"),
        ("home/.config/uv/uv.toml", "[[index]]\nurl = 1\n"),
        ("home/.pip/pip.conf", "index-url = https://user:t0ken@x.example\n"),
        ("home/.pip/pip.conf", "[global]\nt0ken and no value\n"),
    ],
)
def test_a_broken_file_is_named_and_not_quoted(home: Path, tmp_path: Path, file: str, text: str) -> None:
    """The message says which file, and shows nothing of it: there may be passwords in it."""
    path = _write(tmp_path / file, text)
    with pytest.raises(CatalogError) as caught:
        load_settings({"HOME": str(home)}, tmp_path)
    assert str(path) in str(caught.value)
    assert "t0ken" not in str(caught.value)
    assert caught.value.__suppress_context__ or "t0ken" not in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("UV_INDEX_URL", "https://user:t0/ken@x.example/simple"),
        ("PIP_FIND_LINKS", "git+https://user:t0ken@x.example/simple"),
        ("PIP_EXTRA_INDEX_URL", "https://[user:t0ken@x"),
        ("UV_INDEX", "file://elsewhere.example/simple"),
        ("PIP_DEFAULT_TIMEOUT", "soon"),
        ("UV_HTTP_TIMEOUT", "-1"),
        ("PIP_CERT", "nowhere.pem"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(home: Path, tmp_path: Path, variable: str, value: str) -> None:
    """Malformed addresses, timeouts and missing certificates say where they come from."""
    with pytest.raises(CatalogError, match=variable) as caught:
        load_settings({"HOME": str(home), variable: value}, tmp_path)
    assert "t0" not in str(caught.value)
    assert caught.value.fix


@given(st.sampled_from(["UV_INDEX_URL", "UV_INDEX", "PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_PROXY"]), st.text())
def test_secrets_are_never_shown(variable: str, noise: str) -> None:
    """Whatever else an address holds, neither the settings' text nor an error repeats the password."""
    value = f"https://user:s3cret-t0ken@{noise}"
    environ = {"HOME": "/nonexistent", "PIP_CONFIG_FILE": "/dev/null", "UV_NO_CONFIG": "1", variable: value}
    try:
        shown = repr(load_settings(environ, Path("/nonexistent")))
    except CatalogError as error:
        shown = str(error)
    assert "s3cret" not in shown
