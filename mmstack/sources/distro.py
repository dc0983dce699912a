"""A Debian-like distribution's archive, through its own tools: source packages, and libraries to build against.

apt works on lists and a cache of ours, so it needs no root and leaves the machine as it is. Whatever else
the machine has configured counts: its sources and their keys, proxies, credentials, preferences. Only lists
that apt itself trusts are read.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mmstack.errors import CommandError, HostError, NetworkError, PinError
from mmstack.events import DownloadProgress, Notice
from mmstack.keys import file_digest
from mmstack.model import DistroPackage, FilePin
from mmstack.run import run, scrubbed
from mmstack.sources.download import out_of_reach
from mmstack.store import Store, disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mmstack.events import Listener
    from mmstack.model import DistroPin
    from mmstack.sources.download import Downloads

    # Version by version, what apt's lists say of each package.
    Records = Mapping[str, Mapping[str, Mapping[str, str]]]

PROGRAMS = ("apt-get", "apt-cache", "apt-config", "dpkg", "dpkg-deb")
# Where these programs are, a user's way to configure them, and where they look for proxies: in lower case alone.
KEPT_VARIABLES = ("PATH", "APT_CONFIG", "http_proxy", "https_proxy", "no_proxy")
OS_RELEASE = Path("/etc/os-release")
CODENAME = re.compile(r"^VERSION_CODENAME=[\"']?(?P<name>[^\"'\n]*)", re.MULTILINE)
TOOLCHAIN = "build-essential"
TOOLCHAIN_LIBRARIES = {"libc-dev", "libstdc++-dev"}
# Read last, so it wins over the machine's own. The hooks are for the machine's lists: they refresh its desktop.
CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::Languages;
Acquire::Languages "none";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "{root}/sources";
Dir::State "{root}/state";
Dir::State::lists "{root}/state/lists";
Dir::State::status "{root}/state/status";
Dir::State::extended_states "{root}/state/extended_states";
Dir::Cache "{root}/cache";
Dir::Cache::pkgcache "{root}/cache/pkgcache.bin";
Dir::Cache::srcpkgcache "{root}/cache/srcpkgcache.bin";
"""
# Not `Inst name [old] (new …)`: that one is there already.
INSTALLS = re.compile(r"Inst (?P<name>[^\s:]+)\S* \((?P<version>\S+) ")
NEEDED = {"Package", "Version", "Architecture", "SHA256"}
TROUBLE = re.compile(r"(?:E: |W: (?:Failed|GPG|An error)).*")
DEB822_TYPES = re.compile(r"^Types:.*$", re.IGNORECASE | re.MULTILINE)
BINARY_LINE = re.compile(r"^\s*deb(?P<rest>\s.*)$", re.MULTILINE)


@dataclass(kw_only=True)
class Archive:
    """The archive of the distribution that this machine runs.

    Args:
        root: where apt's lists and cache go.
        downloads: where files go.
        listener: who is told what happens.
        home: the HOME of the programs.
        environ: the user's variables.
        offline: whether only what is here may be used.
        os_release: the file that says which distribution this is.
    """

    root: Path
    downloads: Downloads
    listener: Listener
    home: Path
    environ: Mapping[str, str]
    offline: bool = False
    os_release: Path = OS_RELEASE
    _updated: bool = field(default=False, init=False)
    _troubles: str = field(default="", init=False)

    def check(self, pin: DistroPin) -> None:
        """Demand that this machine can take what a pin means from its archive; asks no network.

        Raises:
            HostError: it has not the tools of a Debian-like distribution, or is another release.
        """
        missing = [name for name in PROGRAMS if not shutil.which(name, path=self.environ.get("PATH", os.defpath))]
        if missing:
            raise HostError(
                f"{pin.package} comes from a distribution's archive, and this machine lacks {', '.join(missing)}",
                why="that source needs Debian or a distribution made from it",
                fix="choose another source with `--source`, or another stack",
            )
        try:
            found = CODENAME.search(self.os_release.read_text(encoding="utf-8"))
        except OSError:
            found = None
        here = found["name"] if found else "a distribution without a codename"
        if here != pin.codename:
            raise HostError(
                f"{pin.package} {pin.version} is pinned for {pin.codename}, and this machine runs {here}",
                why=f"{self.os_release} says so; libraries of one release do not go with the compilers of another",
                fix=f"build on {pin.codename}, or choose another source with `--source`",
            )

    def fetch_source(self, pin: DistroPin, file: FilePin) -> None:
        """Download a file of a source package, unless it is here; apt holds it against its lists, we against the pin.

        Raises:
            HostError: this machine cannot take it from its archive.
            PinError: it is not the file that its pin means, or the package has no such file.
            NetworkError: the archive cannot be reached or has the version no more, or the run is offline.
            DiskError: the disk is full, read-only or not ours to write.
            InterruptedRunError: we are stopping.
        """
        self.check(pin)
        if self.downloads.has(file):
            return
        fix = f"pin a version that is there, or {_snapshots(pin.codename)}"
        with self._working([file.filename]) as folder:
            self._bring(
                folder,
                ["source", "--download-only", "--tar-only", "--only-source", f"{pin.package}={pin.version}"],
                {pin.package: pin.version},
                fix,
            )
            if not (folder / file.filename).is_file():
                brought = ", ".join(sorted(path.name for path in folder.iterdir()))
                raise PinError(
                    f"the source package {pin.package} {pin.version} has no {file.filename}",
                    why=f"it has {brought or 'no tarball'}",
                    fix="correct the pin",
                )
            self._keep(folder, file)

    def resolve(self, pin: DistroPin) -> tuple[DistroPackage, ...]:
        """Return what a pin's libraries need, at the versions that the archive has today, by name.

        It is what apt would install on an empty system, but for two things that the pin does not name: what the
        compiler's own libraries (C, C++) need, which go with the machine's compiler and kernel; and programs,
        which do their work when packages are installed, and none in a build root.

        Raises:
            HostError: this machine cannot take them from its archive, or they do not go together.
            NetworkError: the archive cannot be reached or has no such libraries, or the run is offline.
            DiskError: the disk is full, read-only or not ours to write.
            InterruptedRunError: we are stopping.
        """
        self.check(pin)
        with self._working(["the list of the distribution's packages"]) as folder:
            self._update()
            self._demand("show", dict.fromkeys([TOOLCHAIN, *pin.libraries], ""), "correct the libraries in the recipe")
            whole = self._needs([TOOLCHAIN, *pin.libraries], (), folder)
            own = self._needs([item["Package"] for item in whole if TOOLCHAIN_LIBRARIES & _provides(item)], (), folder)
            own = [item for item in own if item["Package"] not in pin.libraries]
            programs = [item for item in whole if _is_program(item) and item["Package"] not in pin.libraries]
            found = self._needs(pin.libraries, [*own, *programs], folder)
        packages = [
            DistroPackage(
                name=item["Package"],
                version=item["Version"],
                architecture=item["Architecture"],
                sha256=item["SHA256"],
            )
            for item in found
        ]
        return tuple(sorted(packages, key=lambda package: package.name))

    def fetch_packages(self, pin: DistroPin, packages: Sequence[DistroPackage]) -> None:
        """Download packages that are not here yet; apt holds them against its lists, we against their digests.

        Raises:
            HostError: this machine cannot take them from its archive, or has another kind of processor.
            PinError: a package is not the one that is locked.
            NetworkError: the archive cannot be reached or has a version no more, or the run is offline.
            DiskError: the disk is full, read-only or not ours to write.
            InterruptedRunError: we are stopping.
        """
        self.check(pin)
        wanted = [package for package in packages if not self.downloads.has(file_pin(package))]
        if not wanted:
            return
        self._check_machine(packages)
        fix = f"`invoke lock` takes up what is there; or {_snapshots(pin.codename)}"
        with self._working([file_pin(package).filename for package in wanted]) as folder:
            words = [f"{package.name}={package.version}" for package in wanted]
            self._bring(folder, ["download", *words], {package.name: package.version for package in wanted}, fix)
            for package in wanted:
                self._keep(folder, file_pin(package))

    def files(self, packages: Iterable[DistroPackage]) -> tuple[Path, ...]:
        """Return where packages are, or will be once they are fetched."""
        return tuple(self.downloads.path(file_pin(package)) for package in packages)

    @cached_property
    def _env(self) -> dict[str, str]:
        return scrubbed(self.home, {name: self.environ[name] for name in KEPT_VARIABLES if name in self.environ})

    @property
    def _configuration(self) -> Path:
        return self.root / "apt.conf"

    @contextmanager
    def _working(self, names: Sequence[str]) -> Iterator[Path]:
        """Hold apt's lists against other runs, with an empty folder beside the downloads for what it brings: these."""
        if self.offline:
            raise out_of_reach(names)
        folder = self.downloads.root / ".distro"
        with disk_errors(self.downloads.root), Store(self.root, self.listener).lock("distro"):
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _apt(self, program: str, *words: str | Path, cwd: Path | None = None, into: Path | None = None) -> str:
        argv = [program, "-c", self._configuration, "-q", *words]
        return run(argv, env=self._env, cwd=cwd or self.root, into=into).output

    def _bring(self, folder: Path, words: Sequence[str], wanted: Mapping[str, str], fix: str) -> None:
        """Have apt-get put what is wanted into a folder; with new lists where the old ones do not do."""
        query = "showsrc" if words[0] == "source" else "show"
        if self._missing(query, wanted):
            self._update()
            self._demand(query, wanted, fix)
        try:
            self._apt("apt-get", *words, cwd=folder)
        except CommandError as error:
            if self._updated:
                raise self._unreachable(", ".join(wanted), _reasons(error.why) or error.why) from error
            self._update()
            self._bring(folder, words, wanted, fix)

    def _keep(self, folder: Path, file: FilePin) -> None:
        path = folder / file.filename
        digest = file_digest(path)
        if digest != file.sha256:
            raise PinError(
                f"{file.filename} is not the file that its pin means",
                why=f"expected sha256 {file.sha256}, got {digest} from this machine's apt sources",
                fix="the download was thrown away; find out who changed the file, "
                "or correct the pin if the change is right",
            )
        kept = self.downloads.path(file)
        kept.parent.mkdir(exist_ok=True)
        size = path.stat().st_size
        path.replace(kept)
        self.listener(DownloadProgress(filename=file.filename, done=size, total=size, finished=True))

    def _update(self) -> None:
        """Get the archive's lists, once a run: what cannot be had matters only if something is missing then."""
        if self._updated:
            return
        self._set_up()
        self.listener(Notice(text="asking the distribution's archive what it has"))
        try:
            self._troubles = _reasons(self._apt("apt-get", "update"))
        except CommandError as error:
            self._troubles = _reasons(error.why) or error.why
        if self._troubles:
            self.listener(Notice(text=f"apt-get update: {self._troubles}", level="warning"))
        self._updated = True

    def _set_up(self) -> None:
        """Give apt folders of ours, and the machine's sources, each of them for source packages too."""
        for name in ("sources", "state/lists/partial", "cache"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "state/status").write_bytes(b"")
        self._configuration.write_text(CONFIGURATION.format(root=self.root), encoding="utf-8")
        words = ("apt-config", "shell", "FILE", "Dir::Etc::sourcelist/f", "FOLDER", "Dir::Etc::sourceparts/d")
        places = dict(re.findall(r"^(\w+)='(.*)'$", run(words, env=self._env).output, re.MULTILINE))
        shutil.rmtree(self.root / "sources")
        (self.root / "sources").mkdir()
        named = Path(places["FILE"])
        for path in [*([named] if named.is_file() else []), *sorted(Path(places["FOLDER"]).glob("*"))]:
            if path.suffix in {".list", ".sources"}:
                text = path.read_text(encoding="utf-8")
                (self.root / "sources" / path.name).write_text(_with_sources(text, path.suffix), encoding="utf-8")

    def _records(self, query: str, words: Sequence[str]) -> Records:
        """Return what apt's lists say, nothing where there are none; the first that is said of a version counts."""
        printed = self.root / "printed"
        more = ["--only-source"] if query == "showsrc" else []
        try:
            self._apt("apt-cache", query, *more, *words, into=printed)
        except CommandError:
            return {}
        found: dict[str, dict[str, Mapping[str, str]]] = {}
        for stanza in printed.read_text(encoding="utf-8", errors="replace").split("\n\n"):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
            if {"Package", "Version"} <= fields.keys():
                found.setdefault(fields["Package"], {}).setdefault(fields["Version"], fields)
        return found

    def _missing(self, query: str, wanted: Mapping[str, str]) -> dict[str, str]:
        """Return which of the wanted versions (any, where it is empty) the lists lack, and what they have instead."""
        if not self._configuration.exists():
            return dict(wanted)
        found = self._records(query, list(wanted))
        there = {name: found.get(name, {}) for name in wanted}
        lacking = [
            name for name, version in wanted.items() if not there[name] or (version and version not in there[name])
        ]
        return {name: ", ".join(there[name]) for name in lacking}

    def _demand(self, query: str, wanted: Mapping[str, str], fix: str) -> None:
        missing = self._missing(query, wanted)
        if missing and self._troubles:
            raise self._unreachable(", ".join(missing), self._troubles)
        if missing:
            names = ", ".join(f"{name} {wanted[name]}".strip() for name in missing)
            there = "; ".join(f"of {name} there is {versions or 'nothing'}" for name, versions in missing.items())
            raise NetworkError(f"the distribution's archive does not have {names}", why=there, fix=fix)

    def _unreachable(self, what: str, why: str) -> NetworkError:
        return NetworkError(
            f"the distribution's archive could not be asked for {what}",
            why=why,
            fix="check the network, the proxy and this machine's apt sources; "
            "`build-stack --offline` makes do with what is already downloaded",
        )

    def _needs(
        self, names: Sequence[str], installed: Iterable[Mapping[str, str]], folder: Path
    ) -> list[Mapping[str, str]]:
        """Return what apt would install on a system that has these packages alone, and they need nothing."""
        status = folder / "status"
        status.write_text("\n".join(map(_as_installed, installed)), encoding="utf-8")
        words = ("install", "--simulate", "--no-install-recommends", "--no-install-suggests")
        try:
            said = self._apt("apt-get", "-o", f"Dir::State::status={status}", *words, *names)
        except CommandError as error:
            raise HostError(
                f"{', '.join(names)} do not go together in this machine's apt sources",
                why=_reasons(error.why) or error.why,
                fix="correct the libraries in the recipe, or this machine's apt sources and preferences",
            ) from error
        chosen = [match.group("name", "version") for match in map(INSTALLS.match, said.splitlines()) if match]
        records = self._records("show", [f"{name}={version}" for name, version in chosen]) if chosen else {}
        found = [records.get(name, {}).get(version, {}) for name, version in chosen]
        if lacking := [name for (name, _version), item in zip(chosen, found, strict=True) if not item.keys() >= NEEDED]:
            raise HostError(
                f"this machine's apt lists say too little of {', '.join(lacking)}",
                why=f"wanted of each: {', '.join(sorted(NEEDED))}",
                fix="correct this machine's apt sources, then run the same command again",
            )
        return found

    def _check_machine(self, packages: Iterable[DistroPackage]) -> None:
        here = run(["dpkg", "--print-architecture"], env=self._env).output.strip()
        others = {package.architecture for package in packages} - {"all", here}
        if others:
            raise HostError(
                f"the distribution's packages are locked for {', '.join(sorted(others))}, and this machine is {here}",
                fix="`invoke lock` on this machine locks those for it",
            )


def file_pin(package: DistroPackage) -> FilePin:
    """Return a package's file, named as apt does."""
    name = f"{package.name}_{package.version.replace(':', '%3a')}_{package.architecture}.deb"
    return FilePin(filename=name, sha256=package.sha256)


def _snapshots(codename: str) -> str:
    return f"add a snapshot archive of {codename}, which keeps old versions, to this machine's apt sources"


def _with_sources(text: str, suffix: str) -> str:
    """Return a file of apt sources in which whatever has binary packages may have source packages too."""
    if suffix == ".sources":
        return DEB822_TYPES.sub("Types: deb deb-src", text)
    return BINARY_LINE.sub(lambda match: f"{match[0]}\ndeb-src{match['rest']}", text)


def _reasons(output: str) -> str:
    """Return what apt says of its troubles; it shows addresses without their passwords."""
    found = dict.fromkeys(TROUBLE.findall(output))
    return "; ".join(line.removeprefix("E: ").removeprefix("W: ") for line in found)


def _provides(record: Mapping[str, str]) -> set[str]:
    return set(re.findall(r"(?:^|, )([^\s,]+)", record.get("Provides", "")))


def _is_program(record: Mapping[str, str]) -> bool:
    """Return whether others run a package, or read its data at a fixed place, rather than compile against it."""
    tool = record.get("Section", "").rpartition("/")[2] == "devel"
    return (tool or record.get("Multi-Arch") == "foreign") and not record["Package"].endswith("-dev")


def _as_installed(record: Mapping[str, str]) -> str:
    # Held: apt sees that the one that it knows needs something, and would take that for a better one.
    fields = {"Status": "hold ok installed", **record}
    names = ("Package", "Status", "Architecture", "Version", "Multi-Arch", "Provides")
    return "".join(f"{name}: {fields[name]}\n" for name in names if name in fields)
