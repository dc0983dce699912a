"""Which package indexes the user has configured, for uv and for pip: read, merged, never written."""

from __future__ import annotations

import os
import re
from configparser import Error as ConfigParserError
from configparser import RawConfigParser
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlsplit

from unearth import PackageFinder

from mmstack import tables
from mmstack.errors import CatalogError
from mmstack.sources.places import redact, user_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

DEFAULT_TIMEOUT = 30.0
SYSTEM_FOLDER = Path("/etc")
TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})

Key = Literal["index", "extra", "find-links", "no-index", "cert", "trusted", "proxy", "timeout"]
UV_VARIABLES: tuple[tuple[str, Key], ...] = (
    ("UV_DEFAULT_INDEX", "index"),
    ("UV_INDEX_URL", "index"),
    ("UV_INDEX", "extra"),
    ("UV_EXTRA_INDEX_URL", "extra"),
    ("UV_FIND_LINKS", "find-links"),
    ("UV_INSECURE_HOST", "trusted"),
    ("UV_HTTP_TIMEOUT", "timeout"),
    ("SSL_CERT_FILE", "cert"),
)
UV_OPTIONS: tuple[tuple[str, Key], ...] = (
    ("index-url", "index"),
    ("extra-index-url", "extra"),
    ("find-links", "find-links"),
    ("no-index", "no-index"),
    ("allow-insecure-host", "trusted"),
    ("https-proxy", "proxy"),
    ("http-proxy", "proxy"),
)
PIP_OPTIONS: tuple[tuple[str, Key], ...] = (
    ("index-url", "index"),
    ("extra-index-url", "extra"),
    ("find-links", "find-links"),
    ("no-index", "no-index"),
    ("cert", "cert"),
    ("trusted-host", "trusted"),
    ("proxy", "proxy"),
    ("timeout", "timeout"),
    ("default-timeout", "timeout"),
)
PIP_SECTIONS = ("download", "install", "global")


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """Where files may come from, in the order in which the places are asked.

    Attributes:
        index_urls: package indexes, the default one last; empty where the user wants none.
        find_links: pages and folders that list files; asked before the indexes.
        ca_bundle: the certificates to trust instead of the system's.
        trusted_hosts: hosts whose certificates are not checked.
        proxy: the proxy for everything; without it the usual variables decide.
        timeout: how many seconds a place may stay silent.
        origins: the variables and files that had a say, for people to read.
    """

    index_urls: tuple[str, ...] = field(repr=False)
    find_links: tuple[str, ...] = field(repr=False)
    ca_bundle: Path | None
    trusted_hosts: tuple[str, ...] = field(repr=False)
    proxy: str = field(repr=False)
    timeout: float
    origins: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What one variable or file says about one key; relative paths in it start at `base`."""

    origin: str
    key: Key
    values: tuple[str, ...] = field(repr=False)
    base: Path


def load_settings(environ: Mapping[str, str], cwd: Path) -> IndexSettings:
    """Read what uv and pip would read, and merge it.

    The environment comes before files, uv's settings before pip's, a project's file before
    the user's and the system's. Of single values the first one counts, lists are joined;
    where several tools name a default index the first one is it. `no-index`, wherever it is
    said, rules out every index. Indexes that uv calls `explicit` are left out, as uv does.

    Raises:
        CatalogError: a file cannot be read, or a value is not what it must be.
    """
    cwd = cwd.absolute()
    said = [
        *_uv_environment(environ, cwd),
        *_pip_environment(environ, cwd),
        *(word for file in _uv_files(environ, cwd) for word in _uv_file(file, environ)),
        *(word for file in _pip_files(environ) for word in _pip_file(file, cwd)),
    ]
    return _merge([word for word in said if word.values])


def _merge(said: list[_Said]) -> IndexSettings:
    first: dict[Key, _Said] = {}
    for word in said:
        first.setdefault(word.key, word)
    lists = {"extra", "find-links", "trusted"}
    used = [word for word in said if word.key in lists or first[word.key] is word]
    timeout, cert, proxy = first.get("timeout"), first.get("cert"), first.get("proxy")
    return IndexSettings(
        index_urls=_index_urls(said, first),
        find_links=_unique(_address(word, value) for word in said if word.key == "find-links" for value in word.values),
        ca_bundle=_bundle(cert) if cert else None,
        trusted_hosts=_unique(value for word in said if word.key == "trusted" for value in word.values),
        proxy=proxy.values[0] if proxy else "",
        timeout=_seconds(timeout) if timeout else DEFAULT_TIMEOUT,
        origins=_unique(word.origin for word in used),
    )


def _index_urls(said: list[_Said], first: Mapping[Key, _Said]) -> tuple[str, ...]:
    if any(word.key == "no-index" and word.values[0].lower() in TRUE for word in said):
        return ()
    extra = [_address(word, value) for word in said if word.key == "extra" for value in word.values]
    chosen = first.get("index")
    # The name of the index that everybody uses is unearth's to know, not ours.
    default = _address(chosen, chosen.values[0]) if chosen else PackageFinder().sources[0]["url"].rstrip("/")
    return _unique([*extra, default])


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _address(word: _Said, value: str) -> str:
    """Return a URL as it stands, and a path as the URL of an absolute one."""
    if "://" not in value:
        path = _expanded(word, value.removeprefix("file:"))
        return Path(os.path.abspath(word.base / path)).as_uri()  # noqa: PTH100 - links in the path are to stay
    try:
        parts = urlsplit(value)
        _ = parts.port
        known = parts.hostname if parts.scheme in {"http", "https"} else (parts.hostname or "localhost") == "localhost"
    except ValueError:
        known = None
    if not known or parts.scheme not in {"http", "https", "file"}:
        raise CatalogError(
            f"{word.origin} names a package index by a malformed address",
            why="it must be http://…, https://…, file:///… or a path",
            fix="correct it; characters such as / # @ in a user name or password must be percent-encoded",
        )
    return value.rstrip("/")


def _expanded(word: _Said, text: str) -> Path:
    try:
        return user_path(text)
    except ValueError as error:
        fix = "write the whole path"
        raise CatalogError(f"{word.origin} names a path that is none", why=str(error), fix=fix) from error


def _is_there(path: Path, test: Callable[[Path], bool] = Path.is_file) -> bool:
    """Return whether there is such a file; there is none by an impossible name."""
    try:
        return test(path)
    except OSError:
        return False


def _bundle(word: _Said) -> Path:
    path = word.base / _expanded(word, word.values[0])
    if not _is_there(path, Path.exists):
        raise CatalogError(
            f"the certificates that {word.origin} names are missing", why=f"no file {path}", fix="correct the path"
        )
    return path


def _seconds(word: _Said) -> float:
    try:
        seconds = float(word.values[0])
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise CatalogError(
            f"{word.origin} sets a timeout that is no number of seconds",
            why=f"it is {redact(word.values[0])!r}",
            fix="set a positive number",
        )
    return seconds


def _uv_environment(environ: Mapping[str, str], cwd: Path) -> Iterator[_Said]:
    for variable, key in UV_VARIABLES:
        text = environ.get(variable, "")
        words = text.split(",") if key == "find-links" else text.split()
        values = [word.strip() for word in words if word.strip()]
        if key in {"index", "extra"}:
            values = [_with_credentials(*_named(value), environ) for value in values]
        elif key == "cert":
            values = [text] if text else []
        yield _Said(origin=variable, key=key, values=tuple(values), base=cwd)


def _named(value: str) -> tuple[str, str]:
    """Split uv's `name=address`."""
    match = re.fullmatch(r"([\w.-]+)=(.+)", value)
    return (match[1], match[2]) if match else ("", value)


def _with_credentials(name: str, url: str, environ: Mapping[str, str]) -> str:
    """Add what uv takes from `UV_INDEX_<NAME>_USERNAME` and `_PASSWORD` to a named index."""
    prefix = f"UV_INDEX_{re.sub(r'[^A-Z0-9]', '_', name.upper())}"
    user, password = environ.get(f"{prefix}_USERNAME", ""), environ.get(f"{prefix}_PASSWORD", "")
    if not name or not (user or password) or "://" not in url:
        return url
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"


def _pip_environment(environ: Mapping[str, str], cwd: Path) -> Iterator[_Said]:
    for option, key in PIP_OPTIONS:
        variable = f"PIP_{option.upper().replace('-', '_')}"
        yield _Said(origin=variable, key=key, values=_pip_values(key, environ.get(variable, "")), base=cwd)


def _pip_values(key: Key, text: str) -> tuple[str, ...]:
    return (text.strip(),) if key == "cert" and text.strip() else tuple(text.split())


def _config_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or _home(environ) / ".config")


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111 - Path.home() ends where there is none


def _config_folders(environ: Mapping[str, str]) -> list[Path]:
    return [Path(folder) for folder in environ.get("XDG_CONFIG_DIRS", "").split(":") if folder] or [
        SYSTEM_FOLDER / "xdg"
    ]


def _uv_files(environ: Mapping[str, str], cwd: Path) -> list[Path]:
    if environ.get("UV_CONFIG_FILE"):
        return [cwd / environ["UV_CONFIG_FILE"]]
    if environ.get("UV_NO_CONFIG", "").lower() in TRUE:
        return []
    system = [folder / "uv" / "uv.toml" for folder in (*_config_folders(environ), SYSTEM_FOLDER)]
    project = cwd / "uv.toml" if _is_there(cwd / "uv.toml") else cwd / "pyproject.toml"
    files = [project, _config_home(environ) / "uv" / "uv.toml", *[file for file in system if _is_there(file)][:1]]
    return [file for file in files if _is_there(file)]


def _uv_file(file: Path, environ: Mapping[str, str]) -> Iterator[_Said]:
    root = tables.load(file).values
    table = _table(file, _table(file, root, "tool"), "uv") if file.name == "pyproject.toml" else root
    table = {**table, **_table(file, table, "pip")}
    places: dict[Key, list[str]] = {"index": [], "extra": [], "find-links": []}
    for entry in _entries(file, table):
        flat, default = entry.get("format") == "flat", entry.get("default") is True
        if not entry.get("explicit"):
            places["find-links" if flat else "index" if default else "extra"].append(_uv_index(file, entry, environ))
    for key, urls in places.items():
        yield _Said(origin=str(file), key=key, values=tuple(urls), base=file.parent)
    for option, key in UV_OPTIONS:
        yield _Said(origin=str(file), key=key, values=_texts(file, option, table.get(option, ())), base=file.parent)


def _entries(file: Path, table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    entries = table.get("index", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _unreadable(file, "'index' must be a list of tables, [[index]]")
    return entries


def _uv_index(file: Path, entry: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    url, name = entry.get("url"), entry.get("name", "")
    if not isinstance(url, str) or not url or not isinstance(name, str):
        raise _unreadable(file, "every [[index]] needs a url, a string")
    return _with_credentials(name, url, environ)


def _table(file: Path, parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    child = parent.get(name, {})
    if not isinstance(child, dict):
        raise _unreadable(file, f"'{name}' must be a table")
    return child


def _texts(file: Path, option: str, value: object) -> tuple[str, ...]:
    """Return strings; the value of a wrong one is not shown, it may hold a password."""
    if isinstance(value, bool):
        return (str(value),)
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not all(isinstance(text, str) and text for text in values):
        raise _unreadable(file, f"'{option}' must be a string or a list of strings")
    return tuple(values)


def _pip_files(environ: Mapping[str, str]) -> list[Path]:
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    own = [_config_home(environ) / "pip" / "pip.conf", _home(environ) / ".pip" / "pip.conf"]
    files = [
        *([Path(named)] if named else []),
        *([Path(environ["VIRTUAL_ENV"]) / "pip.conf"] if environ.get("VIRTUAL_ENV") else []),
        *([] if named and Path(named).exists() else own),  # as pip has it
        SYSTEM_FOLDER / "pip.conf",
        *(folder / "pip" / "pip.conf" for folder in _config_folders(environ)),
    ]
    return [file for file in files if _is_there(file)]


def _pip_file(file: Path, cwd: Path) -> Iterator[_Said]:
    parser = RawConfigParser()
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(file, error.strerror or "it cannot be opened") from None
    except (ConfigParserError, UnicodeDecodeError) as error:
        # The parser's own words quote the line, which may hold a password.
        where = f" in line {error.lineno}" if hasattr(error, "lineno") else ""
        raise _unreadable(file, f"{type(error).__name__}{where}") from None
    for section in PIP_SECTIONS:
        options = dict(parser.items(section)) if parser.has_section(section) else {}
        options = {name.lstrip("-").replace("_", "-"): value for name, value in options.items()}
        for option, key in PIP_OPTIONS:
            values = _pip_values(key, options.get(option, ""))
            yield _Said(origin=str(file), key=key, values=values, base=cwd)


def _unreadable(file: Path, why: str) -> CatalogError:
    return CatalogError(f"the package-index settings in {file} cannot be read", why=why, fix="mend or remove the file")
