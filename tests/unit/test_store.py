from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mmstack.errors import DiskError, PinError
from mmstack.events import Notice, Waiting
from mmstack.keys import file_digest
from mmstack.model import Artifact, CheckResult, Verification
from mmstack.store import RECORD, Store, disk_errors, link_or_copy, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mmstack.events import Event

KEY = "1" * 64
RESULT = Verification(
    layer="ext",
    key="2" * 64,
    checks=(
        CheckResult(name="test_a::one", outcome="passed", seconds=0.5),
        CheckResult(name="test_a::two", outcome="not run", seconds=0.0, detail="no GPU"),
    ),
    seconds=1.5,
)


@pytest.fixture
def events() -> list[Event]:
    """Collect what the store tells."""
    return []


@pytest.fixture
def store(tmp_path: Path, events: list[Event]) -> Store:
    """Return an empty store."""
    return Store(tmp_path / "state", events.append)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Return a file that is no wheel, which the store need not know."""
    file = tmp_path / "ext-1.0-py3-none-any.whl"
    file.write_bytes(b"contents")
    return file


def put(store: Store, wheel: Path) -> Artifact:
    """Take the wheel in."""
    return store.put(wheel, layer="ext", key=KEY, seconds=2.5, gates=("tag", "record"), reproducible=False)


def everything(store: Store) -> list[str]:
    """Return all that lies among the artifacts."""
    return sorted(path.name for path in (store.root / "artifacts").rglob("*"))


def test_what_was_put_is_found(store: Store, wheel: Path) -> None:
    """With all that was said of it, by a later run as well."""
    artifact = put(store, wheel)
    assert Store(store.root, store.listener).find(KEY) == artifact
    assert artifact == Artifact(
        layer="ext",
        key=KEY,
        path=store.root / "artifacts" / KEY / wheel.name,
        sha256=file_digest(wheel),
        size=8,
        seconds=2.5,
        gates=("tag", "record"),
        reproducible=False,
    )
    assert everything(store) == [KEY, RECORD, wheel.name]


def test_an_unknown_key_is_not_found(store: Store) -> None:
    """An empty store has nothing and makes nothing."""
    assert store.find(KEY) is None
    assert not store.root.exists()


def test_a_wheel_put_again_replaces_the_first(store: Store, wheel: Path) -> None:
    """Whoever was last, whole."""
    put(store, wheel)
    wheel.unlink()
    wheel.write_bytes(b"other contents")
    assert put(store, wheel).size == 14
    assert everything(store) == [KEY, RECORD, wheel.name]


def _flip(file: Path) -> None:
    """Change one bit."""
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": lambda folder: _flip(next(folder.glob("*.whl"))),
    "cut short": lambda folder: os.truncate(next(folder.glob("*.whl")), 3),
    "gone": lambda folder: next(folder.glob("*.whl")).unlink(),
    "no record": lambda folder: (folder / RECORD).unlink(),
    "record cut short": lambda folder: os.truncate(folder / RECORD, 20),
    "record empty": lambda folder: os.truncate(folder / RECORD, 0),
    "record of another form": lambda folder: (folder / RECORD).write_text("[]"),
    "record of other types": lambda folder: (folder / RECORD).write_text('{"filename": 1}'),
    "record without facts": lambda folder: (folder / RECORD).write_text("{}"),
    "record of another size": lambda folder: _replace(folder / RECORD, '"size": 8', '"size": 9'),
    "record of another layer": lambda folder: _replace(folder / RECORD, '"layer": "ext"', '"layer": "exu"'),
    "record of other gates": lambda folder: _replace(folder / RECORD, '"tag"', '"tah"'),
    "record no text": lambda folder: (folder / RECORD).write_bytes(b"\xff"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_not_whole_is_not_found(
    store: Store, wheel: Path, events: list[Event], damage: Callable[[Path], object]
) -> None:
    """It is told of once, made anew instead of used, and can be put again."""
    artifact = put(store, wheel)
    wheel.unlink()
    wheel.write_bytes(b"contents")
    damage(artifact.path.parent)
    assert store.find(KEY) is None
    assert store.find(KEY) is None
    (told,) = events
    assert isinstance(told, Notice)
    assert f"the artifact {KEY[:16]} is not what its record says" in told.text
    assert told.level == "warning"
    assert put(store, wheel) == artifact
    assert everything(store) == [KEY, RECORD, wheel.name]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_strict_refuse_what_is_not_whole(store: Store, wheel: Path, damage: Callable[[Path], object]) -> None:
    """With exit code 4, and what to do."""
    artifact = put(store, wheel)
    damage(artifact.path.parent)
    strict = Store(store.root, store.listener, strict=True)
    with pytest.raises(PinError, match="is not what its record says") as caught:
        strict.find(KEY)
    assert caught.value.code == 4
    assert str(artifact.path.parent) in caught.value.fix
    assert strict.find("9" * 64) is None


@pytest.mark.parametrize("name", ["link", "fsync", "replace"])
def test_a_put_that_fails_leaves_nothing(store: Store, wheel: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Neither a half artifact nor scraps, and an earlier artifact stays."""

    def fail(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="No space left"):
            put(store, wheel)
    assert store.find(KEY) is None
    assert [name for name in everything(store) if name.startswith(".new-")] == []
    put(store, wheel)


def test_a_put_that_is_killed_leaves_the_store_usable(store: Store, wheel: Path) -> None:
    """What a kill -9 left behind is not an artifact."""
    folder = store.root / "artifacts" / ".new-abc"
    folder.mkdir(parents=True)
    (folder / wheel.name).write_bytes(b"cont")
    assert store.find(KEY) is None
    assert put(store, wheel).size == 8


def test_a_wheel_is_linked_where_the_disk_is_the_same(store: Store, wheel: Path) -> None:
    """Gigabytes are not written twice."""
    assert put(store, wheel).path.samefile(wheel)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_a_file_is_copied_where_it_cannot_be_linked(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Another disk, or one without links."""

    def refuse(*_args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(wheel, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"contents"
    assert not (tmp_path / "copy").samefile(wheel)


def test_a_verification_is_found_as_it_was(store: Store) -> None:
    """Every check with its outcome and reason."""
    assert store.find_verification(RESULT.key) is None
    store.put_verification(RESULT)
    assert store.find_verification(RESULT.key) == RESULT


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"checks": 1}', '{"checks": [{"name": 1, "other": 2}]}', "\0"])
def test_a_damaged_verification_is_not_found(store: Store, events: list[Event], text: str) -> None:
    """The suite runs again, which is said once; where there never was one, nothing is."""
    assert store.find_verification(RESULT.key) is None
    assert events == []
    store.put_verification(RESULT)
    (store.root / "verified" / f"{RESULT.key}.json").write_text(text)
    for _ in range(2):
        assert store.find_verification(RESULT.key) is None
    (notice,) = events
    assert isinstance(notice, Notice)
    assert "the suite runs again" in notice.text


@pytest.mark.parametrize(("old", "new"), [('"seconds": 1.5', '"seconds": 9.5'), ("not run", "passed")])
def test_a_verification_that_says_something_else_is_not_found(store: Store, old: str, new: str) -> None:
    """What is believed of it was written by us."""
    store.put_verification(RESULT)
    _replace(store.root / "verified" / f"{RESULT.key}.json", old, new)
    assert store.find_verification(RESULT.key) is None


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A value that cannot be written leaves the old file and no scraps."""
    file = tmp_path / "deep" / "file.json"
    write_json(file, {"b": 1, "a": [2]})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": [2], "b": 1}
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": [2], "b": 1}
    assert [path.name for path in file.parent.iterdir()] == ["file.json"]


def test_a_lock_excludes_and_the_other_says_that_it_waits(
    store: Store, events: list[Event], wait_for: Callable[..., None]
) -> None:
    """Two runs, one name: the second tells and comes after the first."""
    order: list[str] = []

    def second() -> None:
        with Store(store.root, events.append).lock("ext-123"):
            order.append("second")

    with store.lock("ext-123"):
        thread = threading.Thread(target=second)
        thread.start()
        wait_for(lambda: bool(events))
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    assert events == [Waiting(what="ext-123")]


def test_locks_of_other_names_do_not_meet(store: Store, events: list[Event]) -> None:
    """One layer does not wait for another."""
    with store.lock("one"), Store(store.root, events.append).lock("two"):
        pass
    assert events == []


def test_a_lock_is_free_after_an_error(store: Store, events: list[Event]) -> None:
    """A failed step does not hold up the next run."""
    with pytest.raises(ValueError, match="failed"), store.lock("one"):
        raise ValueError("failed")
    with Store(store.root, events.append).lock("one"):
        pass
    assert events == []


HOLDER = """
import sys, time
from pathlib import Path
from mmstack.store import Store
with Store(Path(sys.argv[1]), print).lock("ext"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_of_a_dead_process_is_free(store: Store, events: list[Event]) -> None:
    """A run that was killed has nothing to say any more."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.root)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
    with store.lock("ext"):
        pass
    assert events == []


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "make the folder writable"),
        (errno.EACCES, "make it readable and writable"),
        (errno.EPERM, "make it readable and writable"),
    ],
    ids=["full", "quota", "read-only", "forbidden", "not ours"],
)
def test_a_disk_that_cannot_be_written_is_told_as_such(
    store: Store, wheel: Path, monkeypatch: pytest.MonkeyPatch, code: int, fix: str
) -> None:
    """Cause, place and what to do; exit code 3."""

    def fail(*_args: Any, **_options: Any) -> None:  # noqa: ANN401 - any call
        raise OSError(code, os.strerror(code), "artifact.json")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskError, match=r"cannot (write below|use) ") as caught, disk_errors(store.root):
        put(store, wheel)
    assert str(store.root) in caught.value.what
    assert caught.value.why == f"{os.strerror(code)}: artifact.json"
    assert fix in caught.value.fix
    assert caught.value.code == 3


def test_a_folder_that_cannot_be_copied_whole_is_told_as_such(store: Store) -> None:
    """What shutil gathers has no number of its own."""
    full = [("a", "b", f"[Errno 28] {os.strerror(errno.ENOSPC)}: 'b'")]
    with pytest.raises(DiskError, match="cannot write below") as caught, disk_errors(store.root):
        raise shutil.Error(full)
    assert "free some space" in caught.value.fix
    with pytest.raises(shutil.Error), disk_errors(store.root):
        raise shutil.Error([("a", "b", "[Errno 2] No such file or directory: 'a'")])


@pytest.mark.parametrize("name", ["downloads", "downloads/x"])
def test_a_folder_that_leads_nowhere_is_told_as_such(tmp_path: Path, name: str) -> None:
    """As a link to a disk that is not mounted; but a folder that is there is no fault of the disk's."""
    (tmp_path / "link").symlink_to(tmp_path / "nosuch")
    (tmp_path / "file").touch()
    for place in (tmp_path / "link", tmp_path / "file" / name):
        with pytest.raises(DiskError, match="is no folder, or below what is none"), disk_errors(tmp_path):
            place.mkdir(parents=True, exist_ok=True)
    with pytest.raises(FileExistsError), disk_errors(tmp_path):
        tmp_path.mkdir()


def test_other_errors_of_the_system_are_not_the_disk_s(store: Store) -> None:
    """A bug is not dressed up as a full disk."""
    with pytest.raises(FileNotFoundError), disk_errors(store.root):
        (store.root / "nosuch").read_bytes()
