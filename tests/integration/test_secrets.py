"""What a user keeps secret is in nothing that a build leaves behind or says, whether it succeeds or fails."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import zipfile
import zlib
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.support import ROOT
from tests.toolkits import for_gpus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import Checkout, Done

# Each its own, so that one that is found says whose it is.
SECRETS = {
    name: f"s3cret/{number}+{name.lower()}"
    for number, name in enumerate(
        (
            "INDEX",
            "EXTRA",
            "FIND_LINKS",
            "NETRC",
            "MIRROR",
            "PROXY",
            "MMSTACK_TEST_TOKEN",
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "SCCACHE_REDIS_PASSWORD",
            "SCCACHE_WEBDAV_TOKEN",
            "UV_INDEX_OURS_PASSWORD",
            "UV_PUBLISH_TOKEN",
            "PIP_PASSWORD",
        ),
        start=100,
    )
}
USER = "robot"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder to whoever has the password; of some names it has nothing."""

    missing = ""
    asked: list[str]

    def log_message(self, *_details: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        """Serve, or refuse."""
        self.asked.append(self.headers.get("Authorization", ""))
        if self.missing and self.missing in self.path:
            self.send_error(403, "not for you")
        elif not self.headers.get("Authorization"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture
def place(fresh: Checkout) -> Iterator[type[Quiet]]:
    """Serve the checkout's index by HTTP, behind passwords, and give the checkout the settings of one who has them."""
    handler = type("Handler", (Quiet,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(fresh.index)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    here = f"127.0.0.1:{server.server_port}"
    fresh.env = {name: value for name, value in SECRETS.items() if "_" in name and name != "FIND_LINKS"} | {
        "UV_FIND_LINKS": f"http://{USER}:{_quoted('FIND_LINKS')}@{here}/",
        "UV_DEFAULT_INDEX": f"http://{USER}:{_quoted('INDEX')}@{here}/simple",
        "PIP_EXTRA_INDEX_URL": f"http://{USER}:{_quoted('EXTRA')}@{here}/more",
        "UV_INDEX": f"ours=http://{here}/ours",
        "UV_INDEX_OURS_USERNAME": USER,
        "PIP_NO_INDEX": "",
        "https_proxy": f"http://{USER}:{_quoted('PROXY')}@127.0.0.1:9",
        "CCACHE_REMOTE_STORAGE": f"redis://{USER}:{_quoted('SCCACHE_REDIS_PASSWORD')}@127.0.0.1:9",
    }
    netrc = fresh.root.parent / "home" / ".netrc"
    netrc.parent.mkdir(exist_ok=True)
    netrc.write_text(f"machine netrc.test login {USER} password {SECRETS['NETRC']}\n", encoding="utf-8")
    netrc.chmod(0o600)
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def _quoted(name: str) -> str:
    return quote(SECRETS[name], safe="")


def spellings(secret: str) -> set[bytes]:
    """Return how a secret may be written."""
    pair = base64.b64encode(f"{USER}:{secret}".encode())
    alone = base64.b64encode(secret.encode())
    return {secret.encode(), quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), pair, alone}


SPELLINGS = {spelling: name for name, secret in SECRETS.items() for spelling in spellings(secret)}


def found_in(body: bytes, where: str) -> set[str]:
    """Return which secrets are in some bytes, also if they are packed."""
    found = {f"{name} in {where}" for spelling, name in SPELLINGS.items() if spelling in body}
    if body[:2] == b"\x1f\x8b":
        with suppress(OSError, EOFError, zlib.error):
            found |= found_in(gzip.decompress(body), f"{where}, unpacked")
    return found


def leaks(checkout: Checkout, *runs: Done) -> set[str]:
    """Return which secrets are in what runs have said, or in any file that they have left."""
    found = {leak for n, done in enumerate(runs) for leak in found_in(done.text.encode(), f"what run {n} said")}
    files = [path for path in checkout.root.rglob("*") if path.is_file() and not path.resolve().is_relative_to(ROOT)]
    assert len(files) > 10
    for path in files:
        name = str(path.relative_to(checkout.root))
        found |= found_in(path.read_bytes(), name) | found_in(name.encode(), "a name")
        if path.suffix == ".whl" and "uv-cache" not in path.parts:
            found |= _packed(path, name)
    return found


def _packed(wheel: Path, name: str) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {leak for each in archive.namelist() for leak in found_in(archive.read(each), f"{name}: {each}")}


def careless(tree: Path) -> None:
    """Let a layer's build print all that it is told, and put it into the wheel."""
    setup = tree / "setup.py"
    text = "\nimport os\nprint(sorted(os.environ.items()))\n"
    text += "open('miniext/told.py', 'w').write(repr(sorted(os.environ.items())))\n"
    setup.write_text(text + setup.read_text(encoding="utf-8"), encoding="utf-8")


def test_a_build_that_succeeds_keeps_secrets(fresh: Checkout, place: type[Quiet]) -> None:
    """Though all that is downloaded needs a password, and a layer tells whatever it can find."""
    fresh.publish("ext", careless)
    mirror = f"https://{USER}:{_quoted('MIRROR')}@mirror.test/git"
    first = fresh.build("--verbose", "--debug", "--mirror", mirror)
    again = fresh.build("--json", "--mirror", mirror)
    shown = fresh.invoke("report", "--json")
    planned = fresh.invoke("plan", "--stack", "mini", "--json", "--mirror", mirror)
    looked = fresh.invoke("doctor", "--stack", "mini", "--verbose")
    assert first.code == again.code == shown.code == planned.code == 0, first.text
    pair = base64.b64encode(f"{USER}:{SECRETS['FIND_LINKS']}".encode()).decode()
    assert f"Basic {pair}" in place.asked
    told = next((fresh.dist / "wheels").glob("miniext-*.whl"))
    assert b"SOURCE_DATE_EPOCH" in zipfile.ZipFile(told).read("miniext/told.py")
    assert leaks(fresh, first, again, shown, planned, looked) == set()


def test_a_build_that_fails_keeps_secrets(fresh: Checkout, place: type[Quiet]) -> None:
    """Whoever fails: the index, the build itself, the checks of its wheel; and however much of it is shown."""
    runs = []
    place.missing = ".tar.gz"
    runs.append(fresh.build("--verbose", "--debug"))
    runs.append(fresh.build("--json", "--debug"))
    assert [done.code for done in runs] == [3, 3], runs[0].text
    place.missing = ""

    def broken(tree: Path) -> None:
        careless(tree)
        setup = tree / "setup.py"
        text = setup.read_text(encoding="utf-8")
        setup.write_text(text + "\nraise SystemExit('error: ' + repr(dict(os.environ)))\n", encoding="utf-8")

    fresh.publish("ext", broken)
    runs.append(fresh.build("--verbose", "--debug"))
    runs.append(fresh.build("--json", "--debug"))
    assert [done.code for done in runs[2:]] == [1, 1], runs[2].text
    assert "SOURCE_DATE_EPOCH" in "".join(path.read_text("utf-8") for path in (fresh.state / "logs").glob("*.log"))
    assert leaks(fresh, *runs) == set()


def test_wrong_settings_are_told_of_without_their_secrets(fresh: Checkout, place: type[Quiet]) -> None:
    """A password with a slash in it, a mirror that is none, a proxy that is none, a file that makes no sense."""
    raw = SECRETS["INDEX"]
    config = fresh.root.parent / "uv.toml"
    config.write_text(f'[[index]]\nurl = "http://{USER}:{raw}@127.0.0.1/x"\nname = [\n', encoding="utf-8")
    rules = fresh.root.parent / "mirrors"
    rules.write_text(f"https://a.test https://{USER}:{raw}@b.test\n", encoding="utf-8")
    wrong = [
        fresh.build("--debug", UV_DEFAULT_INDEX=f"http://{USER}:{raw}@127.0.0.1/x"),
        fresh.build("--debug", "--mirror", f"https://{USER}:{raw}@mirror.test/x y"),
        fresh.build("--debug", "--mirror", str(rules)),
        fresh.build("--debug", PIP_PROXY=f"http://{USER}:{raw}@"),
        fresh.build("--debug", UV_NO_CONFIG="", UV_CONFIG_FILE=str(config)),
    ]
    for_gpus(fresh)
    wrong.append(fresh.build("--debug", "--toolkit", f"redist:https://{USER}:{raw}@host/x"))
    assert "--toolkit" in wrong[-1].text
    assert all(done.code for done in wrong), [done.text for done in wrong if not done.code]
    assert place.asked is not None
    assert leaks(fresh, *wrong) == set()
