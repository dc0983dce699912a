"""A distribution's archive: apt itself, against archives that the tests make."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import threading
from dataclasses import dataclass, field
from functools import cached_property, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from mmstack import run
from mmstack.errors import DiskError, HostError, InterruptedRunError, MmstackError, NetworkError, PinError
from mmstack.events import DownloadProgress, Event, Notice, Waiting, ignore
from mmstack.model import DistroPackage, DistroPin, FilePin
from mmstack.sources import distro
from mmstack.sources.distro import Archive
from mmstack.sources.download import Downloads
from mmstack.toolchains import sysroot
from tests.support import sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    any(shutil.which(name) is None for name in distro.PROGRAMS), reason="this machine has not the tools of Debian"
)
PIN = DistroPin(package="demo", version="1.0-1", codename="wooden", libraries=("libdemo-dev", "democ"))
TARBALL = "demo_1.0.orig.tar.xz"


@dataclass(kw_only=True)
class Repository:
    """An archive in a folder, as a distribution's mirror holds it, and a user's apt that knows it."""

    root: Path
    sources: list[str] = field(default_factory=list)
    stanzas: list[str] = field(default_factory=list)
    source_stanzas: list[str] = field(default_factory=list)

    @property
    def pool(self) -> Path:
        """Return the mirror's folder."""
        return self.root / "mirror"

    @cached_property
    def machine(self) -> str:
        """Return what Debian calls this machine's processors."""
        return subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()

    def deb(self, name: str, version: str = "1", file: str = "", **fields: str) -> DistroPackage:
        """Put a package on offer, and return it; what is Multi-Arch: same is for processors like this one."""
        kind = self.machine if fields.get("Multi_Arch") == "same" else "all"
        tree = self.root / "trees" / f"{name}_{version.replace(':', '-')}"
        path = tree / (file or f"usr/share/{name}/about")
        path.parent.mkdir(parents=True)
        path.write_text(name, encoding="utf-8")
        more = "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in fields.items())
        control = f"Package: {name}\nVersion: {version}\nArchitecture: {kind}\nMaintainer: me <me@localhost>\n{more}"
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN" / "control").write_text(f"{control}Description: a test\n", encoding="utf-8")
        deb = self.pool / f"{tree.name}_{kind}.deb"
        subprocess.run(["dpkg-deb", "-b", "--root-owner-group", tree, deb], check=True, capture_output=True)
        digest = sha256(deb)
        self.stanzas.append(
            f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\nDescription: a test\n"
        )
        return DistroPackage(name=name, version=version, architecture=kind, sha256=digest)

    def source(self, version: str = "1.0-1", content: bytes = b"int a;") -> FilePin:
        """Put a source package on offer, whose packaging is lost, and return its tarball."""
        name = f"demo_{version.partition('-')[0]}.orig.tar.xz"
        with tarfile.open(self.pool / name, "w:xz") as tar:
            member = tarfile.TarInfo("demo-1.0/a.c")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        dsc = self.pool / f"demo_{version}.dsc"
        dsc.write_text(f"Source: demo\nVersion: {version}\n", encoding="utf-8")
        files = [(sha256(path), path.stat().st_size, path.name) for path in (dsc, self.pool / name)]
        files.append(("0" * 64, 7, f"demo_{version}.debian.tar.xz"))
        listed = "".join(f" {digest} {size} {file}\n" for digest, size, file in files)
        self.source_stanzas.append(
            f"Package: demo\nBinary: libdemo1\nVersion: {version}\nMaintainer: me <me@localhost>\nArchitecture: any\n"
            f"Format: 3.0 (quilt)\nDirectory: .\nChecksums-Sha256:\n{listed}"
        )
        return FilePin(filename=name, sha256=files[1][0])

    def publish(self) -> None:
        """Write the lists, so that apt can see what is on offer."""
        for name, stanzas in (("Packages", self.stanzas), ("Sources", self.source_stanzas)):
            (self.pool / name).write_text("\n".join(stanzas), encoding="utf-8")
        lists = [self.pool / name for name in ("Packages", "Sources")]
        sums = "".join(f" {sha256(path)} {path.stat().st_size} {path.name}\n" for path in lists)
        date = "Thu, 01 Jan 2026 00:00:00 UTC"
        release = f"Origin: test\nCodename: wooden\nDate: {date}\nSHA256:\n{sums}"
        (self.pool / "Release").write_text(release, encoding="utf-8")

    def replace(self, *, packages: bool = True) -> None:
        """Take everything off offer."""
        shutil.rmtree(self.pool)
        shutil.rmtree(self.root / "trees", ignore_errors=True)
        self.pool.mkdir()
        self.source_stanzas.clear()
        if packages:
            self.stanzas.clear()


@dataclass(kw_only=True)
class Bench:
    """A machine that runs a release called wooden, and what was said to its user."""

    repository: Repository
    said: list[Event] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Return the folder of the machine."""
        return self.repository.root

    @property
    def downloads(self) -> Downloads:
        """Return where files go."""
        return Downloads(self.home / "state" / "downloads")

    def archive(self, *, offline: bool = False, listener: Callable[[Event], None] | None = None) -> Archive:
        """Return the archive, as a run of its own sees it."""
        return Archive(
            root=self.home / "state" / "apt",
            downloads=self.downloads,
            listener=listener or self.said.append,
            home=self.home / "state" / "home",
            environ={"PATH": os.environ["PATH"], "APT_CONFIG": str(self.home / "apt.conf"), **self.environ},
            offline=offline,
            os_release=self.home / "os-release",
        )

    def configure(self, *lines: str, more: str = "", name: str = "test.list") -> None:
        """Write the user's sources and settings."""
        folder = self.home / "sources.list.d"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (self.home / "apt.conf.d").mkdir(exist_ok=True)
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        (self.home / "apt.conf").write_text(
            f'Dir::Etc::Parts "{self.home}/apt.conf.d";\nAPT::Sandbox::User "root";\nAcquire::Retries "0";\n'
            f'Dir::Etc::SourceList "{self.home}/none.list";\nDir::Etc::SourceParts "{folder}";\n'
            f'Dir::State::lists "{self.home}/users";\n'
            f'Dir::Cache::archives "{self.home}/users";\nDir::Cache::pkgcache "{self.home}/users.bin";\n{more}\n',
            encoding="utf-8",
        )

    def kept(self) -> list[str]:
        """Return the names of everything among the downloads."""
        return sorted(path.name for path in self.downloads.root.rglob("*") if path.is_file())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A machine with an archive that has nothing to offer yet."""
    repository = Repository(root=tmp_path)
    repository.pool.mkdir()
    bench = Bench(repository=repository)
    bench.configure(f"deb [trusted=yes] copy:{repository.pool} ./")
    (tmp_path / "os-release").write_text('NAME="Wood"\nVERSION_CODENAME=wooden\n', encoding="utf-8")
    return bench


@pytest.fixture
def toolchain(bench: Bench) -> Bench:
    """The same, whose archive has a compiler, and a library with all that such have around them."""
    deb = bench.repository.deb
    deb("libc6", Multi_Arch="same")
    deb("libc6-dev", Depends="libc6 (= 1)", Provides="libc-dev (= 1)", Multi_Arch="same")
    deb("libstdc++6", Source="gcc", Depends="libc6", Multi_Arch="same")
    deb("libstdc++-9-dev", Depends="libstdc++6 (= 1), libc6-dev", Provides="libstdc++-dev", Multi_Arch="same")
    deb("zlib1g", Depends="libc6", Multi_Arch="same")
    deb("cpp", Depends="libc6", Section="interpreters")
    deb("g++", Source="gcc", Depends="libstdc++-9-dev, zlib1g, cpp", Section="devel")
    deb("build-essential", Depends="libc6-dev | libc-dev, g++")
    deb("libpam0g", Depends="libc6", Multi_Arch="same")
    deb("adduser", Depends="libpam0g", Multi_Arch="foreign", Section="admin")
    deb("pkgconf", Depends="libc6", Section="devel")
    deb("libfortran5", Source="gcc", Depends="libstdc++6 (= 1), libc6", Multi_Arch="same")
    deb("libdemo1", "2:1.0-1", Depends="libc6, libstdc++6, libfortran5, zlib1g, adduser", Multi_Arch="same")
    deb("eigen-dev", Depends="pkgconf", Multi_Arch="foreign", Section="devel", file="usr/include/eigen.h")
    deb("libdemo-dev", Depends="libdemo1, libc6-dev, eigen-dev", Recommends="demo-doc", file="usr/include/demo.h")
    deb("demo-doc")
    deb("democ", Depends="libdemo1", Multi_Arch="foreign", Section="devel", file="usr/bin/democ")
    bench.repository.publish()
    return bench


def _fails(kind: type[MmstackError], call: Callable[[], object]) -> MmstackError:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert caught.value.fix
    return caught.value


def _answer(repository: Repository) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        """A mirror, and a proxy that knows only this mirror."""

        def translate_path(self, path: str) -> str:
            return super().translate_path(path.removeprefix("http://archive.invalid"))

        def log_message(self, *_details: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(repository.pool)))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def mirror(bench: Bench) -> Iterator[str]:
    """Serve the archive by HTTP."""
    yield from _answer(bench.repository)


def test_a_source_package_s_tarball_is_fetched(bench: Bench) -> None:
    """By one-line sources that name no source packages; its packaging may be missing."""
    file = bench.repository.source()
    bench.repository.publish()
    bench.archive().fetch_source(PIN, file)
    assert sha256(bench.downloads.path(file)) == file.sha256
    assert bench.kept() == [TARBALL]
    assert [event.filename for event in bench.said if isinstance(event, DownloadProgress)] == [TARBALL]


def test_deb822_sources_and_http_are_taken_too(bench: Bench, mirror: str) -> None:
    """The other way to write sources, over the network."""
    file = bench.repository.source()
    bench.repository.publish()
    bench.configure("Types: deb", f"URIs: {mirror}/", "Suites: ./", "Trusted: yes", name="test.sources")
    bench.archive().fetch_source(PIN, file)
    assert bench.kept() == [TARBALL]


def test_what_is_here_is_not_fetched_again(bench: Bench) -> None:
    """Not even asked for: the archive may be gone, the run offline."""
    file = bench.repository.source()
    package = bench.repository.deb("libdemo1")
    bench.repository.publish()
    bench.archive().fetch_source(PIN, file)
    bench.archive().fetch_packages(PIN, [package])
    bench.repository.replace()
    bench.said.clear()
    bench.archive(offline=True).fetch_source(PIN, file)
    bench.archive(offline=True).fetch_packages(PIN, [package])
    assert bench.said == []


def test_lists_are_asked_for_once(bench: Bench) -> None:
    """As long as they have what is wanted."""
    first, second = bench.repository.deb("liba"), bench.repository.deb("libb")
    bench.repository.publish()
    bench.archive().fetch_packages(PIN, [first])
    bench.archive().fetch_packages(PIN, [second])
    assert len([event for event in bench.said if isinstance(event, Notice)]) == 1


def test_lists_are_asked_for_again_when_a_version_is_not_in_them(bench: Bench) -> None:
    """The archive has moved on, and so has the pin."""
    bench.archive().fetch_packages(PIN, [_published(bench, "liba", "1")])
    bench.repository.replace()
    newer = _published(bench, "liba", "2")
    bench.archive().fetch_packages(PIN, [newer])
    assert bench.kept() == ["liba_1_all.deb", "liba_2_all.deb"]


def _published(bench: Bench, name: str, version: str) -> DistroPackage:
    package = bench.repository.deb(name, version)
    bench.repository.publish()
    return package


def test_a_version_that_is_gone_is_named_with_the_one_that_is_there(bench: Bench) -> None:
    """Even where old lists still promise it."""
    bench.archive().fetch_packages(PIN, [_published(bench, "other", "1")])
    gone = _published(bench, "liba", "1")
    bench.archive().fetch_packages(PIN, [_published(bench, "libb", "1")])
    bench.repository.replace()
    _published(bench, "liba", "2")
    error = _fails(NetworkError, lambda: bench.archive().fetch_packages(PIN, [gone]))
    assert "does not have liba 1" in error.what
    assert error.why == "of liba there is 2"
    assert "`invoke lock`" in error.fix
    assert "snapshot" in error.fix
    assert "liba_1_all.deb" not in bench.kept()


def test_a_source_version_that_is_gone_is_named_too(bench: Bench) -> None:
    """It is the recipe that pins it."""
    file = bench.repository.source("1.1-1")
    bench.repository.publish()
    error = _fails(NetworkError, lambda: bench.archive().fetch_source(PIN, file))
    assert error.why == "of demo there is 1.1-1"
    assert "pin a version" in error.fix


def test_another_digest_than_the_pinned_one_is_refused(bench: Bench) -> None:
    """The archive's own lists agree with the file; the pin does not."""
    file = bench.repository.source()
    bench.repository.publish()
    pinned = FilePin(filename=file.filename, sha256="1" * 64)
    error = _fails(PinError, lambda: bench.archive().fetch_source(PIN, pinned))
    assert file.sha256 in error.why
    assert pinned.sha256 in error.why
    assert bench.kept() == []


def test_a_package_of_another_digest_is_refused(bench: Bench) -> None:
    """It is not the one that was locked."""
    package = _published(bench, "liba", "1")
    locked = DistroPackage(name="liba", version="1", architecture="all", sha256="1" * 64)
    error = _fails(PinError, lambda: bench.archive().fetch_packages(PIN, [locked]))
    assert package.sha256 in error.why
    assert bench.kept() == []


def test_a_file_that_the_source_package_has_not_is_a_wrong_pin(bench: Bench) -> None:
    """What it has is said."""
    file = bench.repository.source()
    bench.repository.publish()
    other = FilePin(filename="demo_1.0.orig-more.tar.xz", sha256=file.sha256)
    error = _fails(PinError, lambda: bench.archive().fetch_source(PIN, other))
    assert TARBALL in error.why


def test_a_file_that_the_lists_do_not_mean_is_refused(bench: Bench, mirror: str) -> None:
    """A mirror that changes a file is caught by apt."""
    file = bench.repository.source()
    bench.repository.publish()
    bench.configure(f"deb [trusted=yes] {mirror} ./")
    path = bench.repository.pool / file.filename
    path.write_bytes(path.read_bytes()[::-1])
    error = _fails(NetworkError, lambda: bench.archive().fetch_source(PIN, file))
    assert "Hash Sum mismatch" in error.why
    assert bench.kept() == []


def test_lists_that_nobody_signed_are_not_read(bench: Bench) -> None:
    """Unless the user trusts them."""
    file = bench.repository.source()
    bench.repository.publish()
    bench.configure(f"deb copy:{bench.repository.pool} ./")
    error = _fails(NetworkError, lambda: bench.archive().fetch_source(PIN, file))
    assert "not signed" in error.why
    assert bench.kept() == []


def test_no_password_is_shown(bench: Bench, mirror: str) -> None:
    """Whatever apt shows of an address."""
    bench.repository.publish()
    bench.configure(f"deb {mirror.replace('//', '//me:t0ken@')} ./")
    file = FilePin(filename=TARBALL, sha256="1" * 64)
    error = _fails(NetworkError, lambda: bench.archive().fetch_source(PIN, file))
    assert "not signed" in error.why
    assert "t0ken" not in str(error)
    assert not any("t0ken" in str(event) for event in bench.said)


def test_an_archive_that_cannot_be_reached_is_named(bench: Bench) -> None:
    """Without the password that is in its address."""
    bench.configure("deb [trusted=yes] http://me:t0ken@127.0.0.1:9/ ./")
    file = FilePin(filename=TARBALL, sha256="1" * 64)
    error = _fails(NetworkError, lambda: bench.archive().fetch_source(PIN, file))
    assert "127.0.0.1" in error.why
    assert "t0ken" not in str(error)
    assert "proxy" in error.fix


def test_the_user_s_proxy_is_used(bench: Bench, mirror: str) -> None:
    """The variable that apt itself reads is passed on to it."""
    file = bench.repository.source()
    bench.repository.publish()
    bench.configure("deb [trusted=yes] http://archive.invalid ./")
    bench.environ["http_proxy"] = mirror
    bench.archive().fetch_source(PIN, file)
    assert bench.kept() == [TARBALL]


def test_offline_nothing_is_asked(bench: Bench) -> None:
    """What is missing is an error."""
    package = _published(bench, "liba", "1")
    for call in (
        lambda: bench.archive(offline=True).fetch_source(PIN, FilePin(filename=TARBALL, sha256="1" * 64)),
        lambda: bench.archive(offline=True).fetch_packages(PIN, [package]),
        lambda: bench.archive(offline=True).resolve(PIN),
    ):
        assert "--offline" in _fails(NetworkError, call).what
    assert bench.kept() == []


def test_the_machine_s_own_apt_is_left_alone(bench: Bench) -> None:
    """Neither its lists change nor do its hooks run, though its settings count."""
    file = bench.repository.source()
    bench.repository.publish()
    source, hook = f"deb [trusted=yes] copy:{bench.repository.pool} ./", f'{{"touch {bench.home}/hooked";}};'
    hooks = "".join(f"APT::Update::{name} {hook}" for name in ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success"))
    bench.configure(source, more=hooks)
    before = sorted(path.name for path in bench.home.iterdir())
    bench.archive().fetch_source(PIN, file)
    assert sorted(path.name for path in bench.home.iterdir()) == sorted([*before, "state"])


def test_a_machine_of_another_kind_is_told_so(bench: Bench) -> None:
    """Before anything else is done."""
    bench.environ["PATH"] = str(bench.home)
    error = _fails(HostError, lambda: bench.archive().fetch_source(PIN, FilePin(filename=TARBALL, sha256="1" * 64)))
    assert "apt-get" in error.what
    assert "Debian" in error.why
    assert "--source" in error.fix
    assert not (bench.home / "state").exists()


@pytest.mark.parametrize("text", ['VERSION_CODENAME="plastic"\n', "NAME=plastic\n", None])
def test_another_release_is_refused(bench: Bench, text: str | None) -> None:
    """Its libraries do not go with the compilers of this one; nothing is downloaded."""
    (bench.home / "os-release").unlink()
    if text is not None:
        (bench.home / "os-release").write_text(text, encoding="utf-8")
    package = _published(bench, "liba", "1")
    for call in (
        lambda: bench.archive().fetch_source(PIN, FilePin(filename=TARBALL, sha256="1" * 64)),
        lambda: bench.archive().fetch_packages(PIN, [package]),
        lambda: bench.archive().resolve(PIN),
    ):
        error = _fails(HostError, call)
        assert "wooden" in error.what
        assert ("plastic" in error.what) == (text is not None and "CODENAME" in text)
    assert bench.said == []
    assert not (bench.home / "state").exists()


def test_libraries_are_resolved_with_what_they_need(toolchain: Bench) -> None:
    """Without what goes with the compiler, and without programs that nobody named; headers are no programs."""
    found = toolchain.archive().resolve(PIN)
    names = ["democ", "eigen-dev", "libdemo-dev", "libdemo1", "libfortran5", "zlib1g"]
    assert [package.name for package in found] == names
    assert [package.version for package in found] == ["1", "1", "1", "2:1.0-1", "1", "1"]
    machine = toolchain.repository.machine
    assert [package.architecture for package in found] == ["all", "all", "all", machine, machine, machine]


def test_what_is_resolved_makes_a_build_root(toolchain: Bench) -> None:
    """The versions, digests and names of the lock are those of the files."""
    archive = toolchain.archive()
    found = archive.resolve(PIN)
    toolchain.archive().fetch_packages(PIN, found)
    files = archive.files(found)
    assert [sha256(path) for path in files] == [package.sha256 for package in found]
    assert f"libdemo1_2%3a1.0-1_{toolchain.repository.machine}.deb" in {path.name for path in files}
    root = sysroot.make(files, toolchain.home / "root")
    assert {path.name for path in (root / "usr" / "include").iterdir()} == {"demo.h", "eigen.h"}
    assert (root / "usr" / "bin" / "democ").exists()


def test_the_archive_s_newest_versions_are_locked(toolchain: Bench) -> None:
    """Lists of an earlier run do not count."""
    toolchain.archive().resolve(PIN)
    toolchain.repository.deb("libfortran5", "1.1", Depends="libc6", Multi_Arch="same")
    toolchain.repository.publish()
    found = {package.name: package.version for package in toolchain.archive().resolve(PIN)}
    assert found["libfortran5"] == "1.1"


def test_a_library_that_does_not_exist_is_named(toolchain: Bench) -> None:
    """The recipe is wrong, or the sources do not have it."""
    pin = DistroPin(package="demo", version="1.0-1", codename="wooden", libraries=("libdemo-dev", "libnone-dev"))
    error = _fails(NetworkError, lambda: toolchain.archive().resolve(pin))
    assert "libnone-dev" in error.what
    assert "libdemo-dev" not in error.what


def test_libraries_that_do_not_go_together_are_an_error(toolchain: Bench) -> None:
    """As apt says."""
    toolchain.repository.deb("libbad-dev", Depends="libnone")
    toolchain.repository.publish()
    pin = DistroPin(package="demo", version="1.0-1", codename="wooden", libraries=("libbad-dev",))
    error = _fails(HostError, lambda: toolchain.archive().resolve(pin))
    assert "libbad-dev" in error.what
    assert error.why


def test_a_lock_for_other_processors_is_refused(bench: Bench) -> None:
    """Its packages would not run here."""
    package = DistroPackage(name="liba", version="1", architecture="vax", sha256="1" * 64)
    error = _fails(HostError, lambda: bench.archive().fetch_packages(PIN, [package]))
    assert "vax" in error.what
    assert "`invoke lock`" in error.fix


def test_two_runs_take_turns(bench: Bench) -> None:
    """The second says what it waits for."""
    package = _published(bench, "liba", "1")
    locks = bench.home / "state" / "apt" / "locks"
    locks.mkdir(parents=True)
    lock = FileLock(locks / "distro.lock")
    lock.acquire()

    def listener(event: Event) -> None:
        bench.said.append(event)
        if isinstance(event, Waiting):
            lock.release()

    bench.archive(listener=listener).fetch_packages(PIN, [package])
    assert isinstance(bench.said[0], Waiting)
    assert bench.kept() == ["liba_1_all.deb"]


def test_what_a_killed_run_left_is_in_nobody_s_way(bench: Bench) -> None:
    """It is removed by the next."""
    package = _published(bench, "liba", "1")
    junk = bench.downloads.root / ".distro" / "liba_1_all.deb"
    junk.parent.mkdir(parents=True)
    junk.write_bytes(b"half")
    bench.archive().fetch_packages(PIN, [package])
    assert bench.kept() == ["liba_1_all.deb"]
    assert not junk.parent.exists()


def test_an_interrupted_run_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next does it."""
    package = _published(bench, "liba", "1")
    with monkeypatch.context() as patch:
        patch.setattr(run._stopping, "is_set", lambda: True)  # noqa: SLF001 - as Ctrl-C does
        with pytest.raises(InterruptedRunError):
            bench.archive().fetch_packages(PIN, [package])
    assert bench.kept() == []
    bench.archive().fetch_packages(PIN, [package])
    assert bench.kept() == ["liba_1_all.deb"]


def test_a_full_disk_is_called_so(bench: Bench) -> None:
    """By what apt says of it."""
    package = _published(bench, "liba", "1")
    bench.archive().fetch_packages(PIN, [_published(bench, "libb", "1")])
    fake = bench.home / "bin" / "apt-get"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'E: Write error - write (28: No space left on device)'; exit 100\n")
    fake.chmod(0o755)
    bench.environ["PATH"] = f"{fake.parent}:{os.environ['PATH']}"
    error = _fails(DiskError, lambda: bench.archive().fetch_packages(PIN, [package]))
    assert "full" in error.what
    assert bench.kept() == ["libb_1_all.deb"]


@pytest.mark.slow
def test_the_machine_s_own_archive_serves(tmp_path: Path) -> None:
    """Whatever its sources are: a library of every release of Debian, resolved, fetched and unpacked."""
    found = distro.CODENAME.search(distro.OS_RELEASE.read_text(encoding="utf-8"))
    if found is None:
        pytest.skip("this machine's release has no codename")
    pin = DistroPin(package="fmtlib", version="", codename=found["name"], libraries=("libfmt-dev",))
    downloads = Downloads(tmp_path / "downloads")
    archive = Archive(
        root=tmp_path / "apt", downloads=downloads, listener=ignore, home=tmp_path / "home", environ=os.environ
    )
    packages = archive.resolve(pin)
    assert "libfmt-dev" in {package.name for package in packages}
    assert not {"libc6", "libc6-dev", "libstdc++6"} & {package.name for package in packages}
    archive.fetch_packages(pin, packages)
    for path, package in zip(archive.files(packages), packages, strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256
    root = sysroot.make(archive.files(packages), tmp_path / "root")
    assert (root / "usr" / "include" / "fmt" / "core.h").is_file()
