from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any

import pytest

from mmstack import rebuild
from mmstack.engine import Engine
from mmstack.errors import UsageError
from mmstack.events import RunEnded, Waiting
from mmstack.model import Paths
from mmstack.report import MANIFEST_NAME, to_manifest
from mmstack.sweep import AGES, OURS, Limits, read_age, read_size, sweep
from mmstack.toolchains.caches import SCCACHE
from mmstack.uses import STANDS_ON, Uses, of_plan
from mmstack.workshop import Workshop
from tests.miniature import Miniature
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmstack.events import Event
    from mmstack.sweep import Swept
    from mmstack.uses import Known

NOW = 2_000_000_000.0
DAY = AGES["d"]
KEYS = [str(number) * 64 for number in range(10)]


@cache
def a_manifest() -> dict[str, Any]:
    """Return the manifest of a run that made nothing."""
    with TemporaryDirectory() as folder:
        plan = Miniature(root=Path(folder)).write().plan()
    ended = RunEnded(plan=plan, artifacts=(), verifications=(), seconds=1.0, error=None)
    return dict(json.loads(json.dumps({**to_manifest(ended), "cores": 1})))


@dataclass
class Bench:
    """A state with things of known size and age."""

    root: Path
    told: list[Event] = field(default_factory=list)

    @property
    def paths(self) -> Paths:
        """Return the places."""
        return Paths(root=self.root, state=self.root / "state", dist=self.root / "dist")

    @property
    def uses(self) -> Uses:
        """Return who uses what."""
        return Uses(self.paths.state / "uses", self.told.append)

    def make(self, name: str, *, size: int = 1000, days: float = 0.0) -> Path:
        """Make a file of a size that was last changed some days ago."""
        file = self.paths.state / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
        self.age(file, days)
        return file

    def age(self, file: Path, days: float) -> None:
        """Date a file and its folder, if that is a thing."""
        moment = NOW - days * DAY
        for path in (file, file.parent):
            if path.parent != self.paths.state:
                os.utime(path, (moment, moment))

    def artifact(self, key: str, *, size: int = 1000, days: float = 0.0) -> Path:
        """Put an artifact into the store."""
        self.make(f"artifacts/{key}/artifact.json", size=0, days=days)
        return self.make(f"artifacts/{key}/x.whl", size=size, days=days)

    def result(  # what a manifest may name
        self,
        stack: str,
        *keys: str,
        files: tuple[str, ...] = (),
        wheels: tuple[str, ...] = (),
        packages: tuple[str, ...] = (),
        commit: str = "",
    ) -> None:
        """Write the manifest of a result that stands on these."""
        manifest = a_manifest()
        layers = [
            {
                **manifest["layers"][0],
                "name": "ext",
                "key": key,
                "verify_key": "f" * 64,
                "source": {
                    **manifest["layers"][0]["source"],
                    "files": [{"filename": "x", "sha256": item} for item in files],
                    "packages": [{"name": "x", "sha256": item} for item in packages],
                    "git": {"url": "x", "commit": commit} if commit else None,
                },
            }
            for key in keys
        ]
        needs = [{"set": "run", "name": "x", "version": "1", "sha256": list(wheels)}]
        self.say(stack, MANIFEST_NAME, json.dumps({**manifest, "layers": layers, "requirements": needs}))

    def say(self, stack: str, name: str, text: str) -> None:
        """Write what a result says of itself."""
        file = self.paths.dist / stack / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def sweep(self, *, dry_run: bool = False, **limits: Any) -> Swept:  # noqa: ANN401 - the limits' own
        """Sweep at a known time."""
        return sweep(self.paths, self.uses, Limits(**limits), dry_run=dry_run, clock=lambda: NOW)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return an empty state."""
    return Bench(tmp_path)


def removed(swept: Swept) -> dict[str, str]:
    """Return what went, and why."""
    return {item.thing.name: item.why for item in swept.verdicts if item.removed}


def kept(swept: Swept) -> dict[str, str]:
    """Return what stayed, and why."""
    return {item.thing.name: item.why for item in swept.verdicts if not item.removed}


def test_without_limits_only_what_is_of_no_use_goes(bench: Bench) -> None:
    """What stopped runs left; however old the rest is, it may be of use."""
    bench.artifact(KEYS[1], days=900)
    useful = [
        bench.make(f"downloads/{KEYS[2]}/a.tar.gz.part", days=900),
        bench.make("verified/abc.json", days=900),
        bench.make(f"work/ext-{KEYS[3][:16]}/tree/a.c", days=900),
        bench.make("edit/ext/a.c", days=900),
    ]
    useless = [
        bench.make(f"artifacts/.new-{KEYS[4]}/x.whl"),
        bench.make("verified/.new-abc.json"),
        bench.make("downloads/.old-1/a"),
        bench.make(f"work/ext-{KEYS[1][:16]}/tree/a.c"),
        bench.make("work/verify-123/env/a"),
        bench.make("work/.prove-123/tree/a"),
        bench.make("toolkits/.new-cuda-1/home/a"),
        bench.make(".new-pythons.json.123"),
        bench.make("pythons.json.123"),
        bench.make(f"artifacts/{KEYS[5]}/x.whl"),
    ]
    swept = bench.sweep()
    assert [path.exists() for path in useful] == [True] * len(useful)
    assert [path.exists() for path in useless] == [False] * len(useless)
    assert removed(swept)[f"work/ext-{KEYS[1][:16]}"] == "what was built in it is in the store"
    assert removed(swept)["work/verify-123"] == "left half made by a run that was stopped"
    assert removed(swept)[f"artifacts/{KEYS[5]}"] == "it has no record"
    assert set(kept(swept).values()) == {"may be of use"}
    assert swept.after == sum(path.stat().st_size for path in bench.paths.state.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["thesis.tex", ".bashrc", "Documents/a", "pythons.json.bak"])
def test_a_folder_that_is_not_ours_alone_is_left_alone(bench: Bench, name: str) -> None:
    """`MMSTACK_HOME=$HOME`: a `work` or `downloads` there is the user's."""
    own = [bench.make(f"{folder}/mine", days=900) for folder in ("work", "downloads", "logs", "artifacts")]
    bench.make(name)
    with pytest.raises(UsageError, match="holds what mmstack did not make") as caught:
        bench.sweep(max_size=0, older_than=0.0)
    assert name.partition("/")[0] in caught.value.what
    assert all(file.exists() for file in own)


def test_the_logs_of_suites_are_not_half_made(bench: Bench) -> None:
    """Only what they worked in is."""
    log = bench.make(f"logs/verify-ext-{KEYS[1][:16]}.log", days=900)
    assert kept(bench.sweep()) == {f"logs/{log.name}": "may be of use"}
    assert log.exists()


def test_all_that_is_documented_of_the_state_is_ours() -> None:
    """Or a sweep would refuse it."""
    text = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8").partition("## Results")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    names = {name.partition("/")[0] for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert len(names) > 15
    assert names <= OURS


def test_what_was_not_used_for_longest_goes_first(bench: Bench) -> None:
    """Until what is left is small enough, and no further; whatever kind it is of."""
    old = bench.artifact(KEYS[1], size=4000, days=9)
    older = bench.make(f"downloads/{KEYS[2]}/a.whl", size=4000, days=10)
    young = bench.make("toolkits/cuda-1/a", size=4000, days=1)
    swept = bench.sweep(max_size=9000)
    assert removed(swept) == {f"downloads/{KEYS[2]}": "least recently used of what is over 9.0 kB"}
    assert (older.exists(), old.exists(), young.exists()) == (False, True, True)
    assert (swept.before, swept.after) == (12000, 8000)
    assert bench.sweep(max_size=0).after == 0
    assert not old.exists()


def test_what_was_not_used_for_so_long_goes(bench: Bench) -> None:
    """Age is that of the last use, not of the file."""
    bench.artifact(KEYS[1], days=31)
    bench.artifact(KEYS[2], days=29)
    bench.artifact(KEYS[3], days=400)
    with bench.uses.claim([f"artifacts/{KEYS[3]}"]):
        pass
    (record,) = bench.uses.root.glob("*.json")
    os.utime(record, (NOW - 3 * DAY, NOW - 3 * DAY))
    assert removed(bench.sweep(older_than=30 * DAY)) == {f"artifacts/{KEYS[1]}": "last used 31.0 days ago"}


def test_what_a_result_stands_on_stays(bench: Bench) -> None:
    """Artifact, suite, log, source and wheels; and it is said which result that is."""
    names = [
        f"verified/{'f' * 64}.json",
        f"logs/ext-{KEYS[1][:16]}.log",
        f"downloads/{KEYS[2]}/a.tar.gz",
        f"downloads/{KEYS[3]}/a.whl",
        f"downloads/{KEYS[5]}/a.deb",
    ]
    files = [bench.artifact(KEYS[1], days=99), *(bench.make(name, days=99) for name in names)]
    other = bench.artifact(KEYS[4], days=1)
    repository = bench.make("repositories/host.test-ext/HEAD", days=99)
    bench.result("mini", KEYS[1], files=(KEYS[2],), wheels=(KEYS[3],), packages=(KEYS[5],))
    swept = bench.sweep(max_size=0, older_than=0.0)
    assert all(file.exists() for file in files)
    assert not other.exists()
    assert not repository.exists()
    assert set(kept(swept).values()) == {"dist/mini stands on it"}
    assert swept.after == 6000


def test_what_is_installed_stays_whatever_was_built_after_it(bench: Bench) -> None:
    """A later run that ended early leaves the environment as it was, and a manifest of its own."""
    installed, later = bench.artifact(KEYS[1], days=99), bench.artifact(KEYS[2], days=99)
    bench.result("mini", KEYS[2])
    bench.say("mini", f"env/{STANDS_ON}", json.dumps({"names": [f"artifacts/{KEYS[1]}"]}))
    assert set(kept(bench.sweep(max_size=0)).values()) == {"dist/mini stands on it"}
    assert installed.exists()
    assert later.exists()


def test_a_result_from_git_stands_on_the_repositories(bench: Bench) -> None:
    """On all of them: which hold its submodules, no manifest says."""
    files = [bench.make(f"repositories/{name}/HEAD", days=99) for name in ("ext", "submodule")]
    bench.result("mini", KEYS[1], commit="c" * 40)
    assert not removed(bench.sweep(max_size=0))
    assert all(file.exists() for file in files)


@pytest.mark.parametrize("place", ["", "mini", "mini/env"])
def test_results_that_cannot_be_looked_for_end_the_sweep(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Such as another user's, on a machine where several have one state: they count as there, not as none."""
    bench.result("mini", KEYS[1])
    file, closed = bench.artifact(KEYS[1], days=99), bench.paths.dist / place
    ask = {name: getattr(Path, name) for name in ("iterdir", "stat")}

    def refuse(name: str, path: Path, **how: bool) -> object:
        if path == closed if name == "iterdir" else path.parent == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return ask[name](path, **how)

    monkeypatch.setattr(Path, "iterdir", lambda path: refuse("iterdir", path))
    monkeypatch.setattr(Path, "stat", lambda path, **how: refuse("stat", path, **how))
    with pytest.raises(UsageError, match="it is not known what that result stands on") as caught:
        bench.sweep(max_size=0)
    assert "Permission denied" in caught.value.why
    assert file.exists()


def test_results_on_a_disk_that_is_not_mounted_end_the_sweep(bench: Bench) -> None:
    """Where `dist/` is a link to it."""
    file = bench.artifact(KEYS[1], days=99)
    bench.paths.dist.symlink_to(bench.root / "nosuch")
    with pytest.raises(UsageError, match="it is not known what that result stands on"):
        bench.sweep(max_size=0)
    assert file.exists()


DEEP = "[" * 5000


@pytest.mark.parametrize("text", ["{", "", "[]", "\0", DEEP, '{"schema": 5}', '{"schema": 4, "layers": []}'])
def test_a_result_whose_manifest_cannot_be_read_ends_the_sweep(bench: Bench, text: str) -> None:
    """Nothing goes while it is not known what is in use."""
    file = bench.artifact(KEYS[1], days=99)
    bench.say("mini", MANIFEST_NAME, text)
    with pytest.raises(UsageError, match="it is not known what that result stands on") as caught:
        bench.sweep(max_size=0)
    assert caught.value.why
    assert caught.value.fix.endswith(f"remove {bench.paths.dist / 'mini'}")
    assert file.exists()


def test_a_manifest_that_lacks_what_a_result_stands_on_ends_the_sweep(bench: Bench) -> None:
    """By the name of what it lacks."""
    bench.result("mini", KEYS[1])
    file = bench.paths.dist / "mini" / MANIFEST_NAME
    file.write_text(file.read_text(encoding="utf-8").replace("verify_key", "verified"), encoding="utf-8")
    with pytest.raises(UsageError, match="it is not known what that result stands on") as caught:
        bench.sweep(max_size=0)
    assert "layers[0].verify_key is not what it must be" in caught.value.why


@pytest.mark.parametrize(
    "text",
    [
        "{",
        DEEP,
        "[]",
        "{}",
        f'{{"names": "artifacts/{KEYS[1]}"}}',  # letter by letter, none of which is in use
        '{"names": 5}',
        '{"names": {"artifacts": 1}}',
        '{"names": [5]}',
        '{"names": ["../../outside"]}',
    ],
)
def test_an_environment_that_does_not_say_what_it_stands_on_ends_the_sweep(bench: Bench, text: str) -> None:
    """The same."""
    file = bench.artifact(KEYS[1], days=99)
    bench.result("mini", KEYS[2])
    bench.say("mini", f"env/{STANDS_ON}", text)
    with pytest.raises(UsageError, match="it is not known what that result stands on"):
        bench.sweep(max_size=0)
    assert file.exists()


@pytest.mark.parametrize("text", ["{", DEEP, "5", '{"path": 5}', "[5]", '["\\u0000"]', json.dumps(["x" * 300])])
def test_records_that_are_not_what_was_written_are_of_no_use(bench: Bench, text: str) -> None:
    """Of who used what, and of what a file was like: what they tell of is not believed, and they go."""
    file = bench.artifact(KEYS[1], days=9)
    records = [bench.make("digests/1.json"), bench.make("uses/1.json")]
    for record in records:
        record.write_text(text, encoding="utf-8")
    assert kept(bench.sweep()) == {f"artifacts/{KEYS[1]}": "may be of use"}
    assert file.exists()
    assert not any(record.exists() for record in records)


def test_what_a_run_uses_stays(bench: Bench) -> None:
    """Its own things, those of which nobody knows who needs them, and what it may be making."""
    ours = bench.artifact(KEYS[1], days=99)
    names = ["toolkits/cuda-1/a", "uv-cache/a", "artifacts/.new-1/a", "repositories/x/a", "work/verify-1/a"]
    shared = [bench.make(name, days=99) for name in names]
    other = bench.artifact(KEYS[2], days=99)
    with bench.uses.claim([f"artifacts/{KEYS[1]}"]):
        swept = bench.sweep(max_size=0)
    assert all(file.exists() for file in (ours, *shared))
    assert not other.exists()
    assert kept(swept)[f"artifacts/{KEYS[1]}"] == "a build that runs uses it"
    assert kept(swept)["artifacts/.new-1"] == "a build that runs may be making it"
    bench.sweep(max_size=0)
    assert not any(file.exists() for file in (ours, *shared))


def test_another_checkout_s_results_stay_too(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of one that has the same state, as checkouts on a runner do: as long as its `dist/` is there."""
    other = Bench(tmp_path_factory.mktemp("other"))
    other.result("mini", KEYS[1])
    bench.result("mini", KEYS[2])
    files = [bench.artifact(key, days=99) for key in KEYS[1:4]]
    with bench.uses.claim([str(other.paths.dist)]):
        pass
    swept = bench.sweep(max_size=0)
    assert [file.exists() for file in files] == [True, True, False]
    assert kept(swept)[f"artifacts/{KEYS[1]}"] == f"{other.paths.dist}/mini stands on it"
    assert kept(swept)[f"artifacts/{KEYS[2]}"] == "dist/mini stands on it"
    other.say("mini", MANIFEST_NAME, "{}")
    with pytest.raises(UsageError, match=r"other0/dist/mini/manifest\.json cannot be read"):
        bench.sweep()
    shutil.rmtree(other.root)
    bench.sweep(max_size=0)
    assert not files[0].exists()
    assert not list(bench.uses.root.glob("*.json"))


def test_another_checkout_s_results_may_be_away_for_a_while(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On a disk that is mounted again later."""
    other = Bench(tmp_path_factory.mktemp("other"))
    other.result("mini", KEYS[1])
    file = bench.artifact(KEYS[1], days=99)
    with bench.uses.claim([str(other.paths.dist)]):
        pass
    (claim,) = bench.uses.root.glob("*.json")
    os.utime(claim, (NOW - 80 * DAY, NOW - 80 * DAY))
    away = other.paths.dist.rename(other.root / "away")
    assert not removed(bench.sweep())
    away.rename(other.paths.dist)
    assert not removed(bench.sweep(max_size=0))
    assert file.exists()


def test_a_build_lets_sweeps_know_its_checkout(tmp_path: Path) -> None:
    """Those from other checkouts."""
    plan = Miniature(root=tmp_path).write().plan()
    shop = Workshop(paths=Bench(tmp_path).paths, listener=print, environ={"PATH": str(tmp_path)})

    def refuse(_event: Event) -> None:
        raise KeyboardInterrupt

    shop.listener = refuse
    with pytest.raises(KeyboardInterrupt):
        Engine(shop).build(plan)
    with shop.uses.alone() as known:
        assert str(tmp_path / "dist") in known.last


def test_a_rebuild_is_one_thing_and_claims_where_all_do(bench: Bench) -> None:
    """What it shares stays while it runs, and so does what it makes; what it left goes by the limits."""
    place = rebuild.apart(bench.paths, {"key": KEYS[1]}).state
    shared = [bench.make(f"downloads/{KEYS[2]}/a.whl", days=99), bench.make("toolkits/cuda-1/a", days=99)]
    made = bench.make(f"rebuild/{KEYS[1][:16]}/artifacts/{KEYS[3]}/x.whl", days=99)
    left = bench.make(f"rebuild/{KEYS[4][:16]}/artifacts/{KEYS[3]}/x.whl", days=99)
    with (
        bench.uses.claim([rebuild.place({"key": KEYS[1]})]),
        Uses(place / "uses", print).claim([f"downloads/{KEYS[2]}"]),
    ):
        assert kept(bench.sweep())[f"rebuild/{KEYS[4][:16]}"] == "may be of use"
        swept = bench.sweep(max_size=0)
    assert list(removed(swept)) == [f"rebuild/{KEYS[4][:16]}"]
    assert not left.exists()
    assert all(file.exists() for file in (*shared, made))
    assert set(kept(swept).values()) == {"a build that runs uses it"}
    assert set(removed(bench.sweep(max_size=0))) >= {f"rebuild/{KEYS[1][:16]}", f"downloads/{KEYS[2]}"}
    assert not place.exists()


def test_a_benchmark_goes_by_the_limits_unless_it_runs(bench: Bench) -> None:
    """Its trees and its state are the largest of all."""
    left = bench.make("bench/state/artifacts/a", days=99)
    with bench.uses.claim(["bench/"]):
        assert removed(bench.sweep(max_size=0)) == {}
    assert set(removed(bench.sweep(max_size=0))) == {"bench/state"}
    assert not left.exists()


def test_the_tools_of_a_build_are_in_use_too(tmp_path: Path) -> None:
    """The pinned sccache, which no plan names."""
    plan = Miniature(root=tmp_path).write().plan()
    shop = Workshop(paths=Bench(tmp_path).paths, listener=print, environ={"PATH": str(tmp_path)}, compiler_cache="auto")
    assert set(of_plan(plan, shop.tools)) - set(of_plan(plan)) == {f"downloads/{item}" for item in SCCACHE.sha256}
    seen: list[Known] = []

    def listen(_event: Event) -> None:
        with shop.uses.alone() as known:
            seen.append(known)
        raise KeyboardInterrupt

    shop.listener = listen
    with pytest.raises(KeyboardInterrupt):
        Engine(shop).build(plan)
    assert seen[0].runs(f"downloads/{SCCACHE.sha256[0]}")


def test_a_folder_stands_for_all_that_it_holds(bench: Bench) -> None:
    """For a plan that does not know yet which of it it needs."""
    file = bench.make(f"downloads/{KEYS[1]}/a", days=99)
    with bench.uses.claim(["downloads/"]):
        assert not removed(bench.sweep(max_size=0))
    assert file.exists()


HOLDER = """
import sys, time
from pathlib import Path
from mmstack.uses import Uses
with Uses(Path(sys.argv[1]), print).claim([sys.argv[2]]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_claim_ends_with_its_process(bench: Bench) -> None:
    """`kill -9` included."""
    file = bench.artifact(KEYS[1], days=99)
    words = [sys.executable, "-c", HOLDER, str(bench.uses.root), f"artifacts/{KEYS[1]}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert not removed(bench.sweep(max_size=0))
        process.kill()
    assert removed(bench.sweep(older_than=-1.0))
    assert not file.exists()


def test_locks_are_such_as_nfs_grants(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shares only what may be read, and locks alone only what may be written."""
    flock, refused = fcntl.flock, {fcntl.LOCK_SH: os.O_WRONLY, fcntl.LOCK_EX: os.O_RDONLY}

    def of_nfs(stream: IO[str], kind: int) -> None:
        if fcntl.fcntl(stream, fcntl.F_GETFL) & os.O_ACCMODE == refused.get(kind & ~fcntl.LOCK_NB):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(stream, kind)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    bench.make("toolkits/cuda-1/a", days=1)
    with bench.uses.claim(["toolkits/cuda-1"]):
        assert removed(bench.sweep(max_size=0)) == {}
    assert set(removed(bench.sweep(max_size=0))) == {"toolkits/cuda-1"}


def test_two_runs_may_use_the_same(bench: Bench) -> None:
    """Neither waits, and the first to end does not end the other's claim."""
    bench.artifact(KEYS[1], days=99)
    things = [f"artifacts/{KEYS[1]}"]
    with bench.uses.claim(things):
        with bench.uses.claim(things):
            pass
        assert not removed(bench.sweep(max_size=0))
    assert bench.told == []


def test_a_run_waits_for_a_sweep(bench: Bench, wait_for: Callable[..., None]) -> None:
    """It says so, and begins when the sweep is over."""
    order: list[str] = []

    def begin() -> None:
        with bench.uses.claim(["uv-cache"]):
            order.append("run")

    with bench.uses.alone():
        thread = threading.Thread(target=begin)
        thread.start()
        wait_for(lambda: bool(bench.told))
        order.append("sweep")
    thread.join(5)
    assert order == ["sweep", "run"]
    assert bench.told == [Waiting(what="invoke gc")]


def test_a_number_without_end_is_no_size() -> None:
    """It would be infinite, and that is no number of bytes."""
    for read, unit in ((read_size, "GB"), (read_age, "d")):
        with pytest.raises(UsageError, match="is no "):
            read("9" * 400 + unit)


def test_a_dry_run_removes_nothing(bench: Bench) -> None:
    """But says the same."""
    file = bench.artifact(KEYS[1], days=99)
    bench.make("artifacts/.new-1/a")
    planned = bench.sweep(max_size=0, dry_run=True)
    assert file.exists()
    assert any("would remove artifact" in line for line in planned.lines(dry_run=True, verbose=False))
    assert removed(bench.sweep(max_size=0)) == removed(planned)


def test_a_file_with_two_names_counts_once(bench: Bench) -> None:
    """Its space is free with its last name."""
    wheel = bench.artifact(KEYS[1], size=4000, days=9)
    link = bench.paths.state / "downloads" / KEYS[2] / "x.whl"
    link.parent.mkdir(parents=True)
    link.hardlink_to(wheel)
    bench.age(link, 5)
    other = bench.make("toolkits/cuda-1/a", size=4000, days=1)
    swept = bench.sweep(max_size=5000)
    assert swept.before == 8000
    assert not wheel.exists()
    assert not link.exists()
    assert other.exists()
    assert swept.after == 4000


def test_a_clock_that_was_set_back_makes_nothing_older(bench: Bench) -> None:
    """What is dated in the future was used now, and goes last."""
    future = bench.artifact(KEYS[1], days=-400)
    old = bench.artifact(KEYS[2], days=2)
    assert removed(bench.sweep(older_than=DAY)) == {f"artifacts/{KEYS[2]}": "last used 2.0 days ago"}
    assert future.exists()
    assert not old.exists()


def test_a_run_that_has_made_nothing_yet_keeps_its_claim(bench: Bench) -> None:
    """A sweep in a fresh state leaves the next one something to see."""
    with bench.uses.claim([f"work/ext-{KEYS[1][:16]}", "uv-cache"]):
        bench.sweep()
        file = bench.make(f"work/ext-{KEYS[1][:16]}/tree/a.c", days=9)
        assert not removed(bench.sweep(max_size=0, older_than=0.0))
    assert file.exists()
    assert removed(bench.sweep(max_size=0))


def test_files_may_be_renamed_while_a_sweep_looks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a build does that runs: what is gone counts for nothing, and nothing of what is being written goes."""
    part = bench.make(f"downloads/{KEYS[1]}/a.whl.part", days=9)
    new = bench.make("verified/.new-a.json")
    look = Path.lstat

    def too_late(path: Path) -> os.stat_result:
        if path in {part, new}:
            path.unlink(missing_ok=True)
        return look(path)

    monkeypatch.setattr(Path, "lstat", too_late)
    with bench.uses.claim([f"downloads/{KEYS[1]}"]):
        swept = bench.sweep(max_size=0)
    assert not part.exists()
    assert not new.exists()
    assert not removed(swept)


def test_what_is_renamed_before_it_is_removed_is_gone_as_well(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that which is known of Pythons is by a run that still plans, and so claims nothing yet."""
    new = bench.make(".new-pythons.json.123")
    look = Path.lstat

    def too_late(path: Path) -> os.stat_result:
        if path == new:
            path.unlink(missing_ok=True)
        return look(path)

    monkeypatch.setattr(Path, "lstat", too_late)
    assert list(removed(bench.sweep())) == [new.name]


def test_what_is_known_of_things_that_are_gone_goes_too(bench: Bench) -> None:
    """So that records do not pile up."""
    file = bench.artifact(KEYS[1], days=9)
    bench.paths.state.joinpath("digests").mkdir()
    record = bench.paths.state / "digests" / "1.json"
    record.write_text(json.dumps({"path": str(file)}))
    with bench.uses.claim([f"artifacts/{KEYS[1]}"]):
        pass
    bench.sweep()
    assert record.exists()
    bench.sweep(max_size=0, older_than=-1.0)
    assert not record.exists()
    assert list(bench.uses.root.glob("*.json")) == []


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20e9), ("1.5GiB", 1.5 * 2**30), ("0B", 0), ("7 mb", 7e6), ("3kib", 3072), ("1TB", 1e12)]
)
def test_sizes_are_read(text: str, size: float) -> None:
    """Decimal and binary units."""
    assert read_size(text) == size


@pytest.mark.parametrize(("text", "age"), [("30d", 30 * DAY), ("12h", DAY / 2), ("90m", 5400), ("2w", 14 * DAY)])
def test_ages_are_read(text: str, age: float) -> None:
    """From minutes to weeks."""
    assert read_age(text) == age


@pytest.mark.parametrize("text", ["20", "GB", "-1GB", "20 bananas", "1e3GB", "", "٣GB", "1GB2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """A number alone is none: nobody knows of what."""
    with pytest.raises(UsageError, match="is no size"):
        read_size(text)


@pytest.mark.parametrize("text", ["30", "d", "-1d", "30 D", "1y", "", "1d12h"])
def test_what_is_no_age_is_refused(text: str) -> None:
    """The same."""
    with pytest.raises(UsageError, match="is no age"):
        read_age(text)


def test_nothing_is_swept_where_there_is_nothing(bench: Bench) -> None:
    """A checkout in which nothing was done yet."""
    swept = bench.sweep(max_size=0)
    assert swept.document() == {"before": swept.before, "after": swept.after, "removed": [], "kept": []}
