"""Artifacts by content key: what is here is whole, passed its gates, and can be used again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmstack.digests import Digests
from mmstack.errors import DiskError, PinError
from mmstack.events import Notice, Waiting
from mmstack.keys import digest, file_digest
from mmstack.model import Artifact, CheckResult, GpuCode, Verification
from mmstack.run import interrupted, is_stopping
from mmstack.shapes import ARTIFACT, VERIFICATION, load_as

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mmstack.events import Listener

RECORD = "artifact.json"
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into an error that says so."""
    try:
        yield
    except OSError as error:
        number, why = error.errno, f"{error.strerror}: {error.filename or folder}"
        if isinstance(error, shutil.Error):  # of copying a folder: texts of all that went wrong
            text = str(error)
            number = next((each for each in DISK_ERRORS if os.strerror(each) in text), None)
            why = f"{os.strerror(number)}: {folder}" if number else ""
        single = error.filename if not error.filename2 else ""
        # isdir never raises, whatever the system names
        if number in {errno.EEXIST, errno.ENOTDIR} and single and not os.path.isdir(single):  # noqa: PTH112
            raise DiskError(
                f"{single} is no folder, or below what is none",
                why="it may be a link to a disk that is not mounted",
                fix="mount that disk, or move what is there out of the way",
            ) from error
        if number not in DISK_ERRORS:
            raise
        if number in {errno.EACCES, errno.EPERM}:  # also of what was to be read
            raise DiskError(f"cannot use {folder}", why=why, fix="make it readable and writable") from error
        full = number in {errno.ENOSPC, errno.EDQUOT}
        raise DiskError(
            f"cannot write below {folder}",
            why=why,
            fix="free some space there; MMSTACK_HOME moves the state" if full else "make the folder writable",
        ) from error


@contextmanager
def held(file: Path, what: str, tell: Listener, halted: Callable[[], bool] = is_stopping) -> Iterator[None]:
    """Hold a lock file against other runs; a dead run's lock is free.

    Args:
        file: the lock.
        what: what is waited for, in words, where another run holds it.
        tell: who is told so.
        halted: says that there is no use in waiting any longer.

    Raises:
        InterruptedRunError: `halted` says so.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - a run that does nothing starts sooner without

    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(Waiting(what=what))
        try:
            lock.acquire(cancel_check=halted)
        except Timeout:
            raise interrupted() from None
    try:
        yield
    finally:
        lock.release()


def discard(folder: Path) -> None:
    """Remove a folder so that nobody ever finds half of it."""
    old = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(folder.rename(old))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all; the caller holds a lock against other writers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".new-{path.name}")
    try:
        with new.open("w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=2, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


class Store:
    """The folder that keeps artifacts and verification results, shared by all runs of a checkout.

    Args:
        root: the folder.
        listener: who is told.
        digests: what is known of the artifacts' files.
        strict: refuse an artifact that is not what its record says, instead of making it anew.
    """

    def __init__(self, root: Path, listener: Listener, *, digests: Digests | None = None, strict: bool = False) -> None:
        self.root = root
        self.listener = listener
        self.digests = digests or Digests(root / "digests")
        self.strict = strict
        self._told: set[str] = set()

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a name against other runs; a dead run's lock is free.

        Raises:
            InterruptedRunError: we are stopping.
        """
        with held(self.root / "locks" / f"{name}.lock", name, self.listener):
            yield

    def find(self, key: str) -> Artifact | None:
        """Return the artifact of a key if it is here, and is what its record says; another is told of.

        Raises:
            PinError: it is not, and we are strict.
        """
        folder = self._folder(key)
        if not folder.is_dir():
            return None
        try:
            artifact = _read(folder, key)
            found = self.digests.of(artifact.path, artifact.sha256)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._damaged(folder, f"its record cannot be followed: {type(error).__name__}: {error}")
            return None
        if found == artifact.sha256:
            return artifact
        self._damaged(folder, f"{artifact.filename} should have sha256 {artifact.sha256}, and has {found}")
        return None

    def _damaged(self, folder: Path, why: str) -> None:
        what = f"the artifact {folder.name[:16]} is not what its record says"
        if self.strict:
            raise PinError(what, why=why, fix=f"remove {folder} and build without `--offline`: it is made anew")
        self._tell(what, why)

    def _tell(self, what: str, why: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.listener(Notice(text=f"{what}, and does not count: {why}", level="warning"))

    def put(
        self,
        wheel: Path,
        *,
        layer: str,
        key: str,
        seconds: float,
        gates: tuple[str, ...],
        reproducible: bool,
        gpu_code: tuple[GpuCode, ...] = (),
    ) -> Artifact:
        """Take a wheel in, atomically; the caller holds the lock of its key."""
        folder = self._folder(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = folder.with_name(f".new-{key}")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            kept = new / wheel.name
            link_or_copy(wheel, kept)
            record = {
                "layer": layer,
                "filename": wheel.name,
                "sha256": file_digest(kept),
                "size": kept.stat().st_size,
                "seconds": seconds,
                "gates": list(gates),
                "reproducible": reproducible,
                "gpu_code": [vars(line) for line in gpu_code],
            }
            write_json(new / RECORD, _sealed(record))
            self._exchange(new, folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        artifact = self.find(key)
        assert artifact is not None  # noqa: S101 - it was just written
        return artifact

    def _exchange(self, new: Path, folder: Path) -> None:
        """Put a folder where another may be; nobody ever sees half of either."""
        old = folder.with_name(f".old-{folder.name}")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.replace(old)
        new.replace(folder)
        shutil.rmtree(old, ignore_errors=True)

    def find_verification(self, key: str) -> Verification | None:
        """Return the result of a suite that passed, if it is here as it was written; another is told of."""
        try:
            record = _unsealed(self._verified(key), VERIFICATION)
            checks = tuple(CheckResult(**check) for check in record["checks"])
            return Verification(layer=record["layer"], key=key, checks=checks, seconds=record["seconds"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            self._tell(f"the result {key[:16]} of a suite is not what was written", f"{error}; the suite runs again")
        return None

    def put_verification(self, result: Verification) -> None:
        """Remember that a suite passed."""
        record = {
            "layer": result.layer,
            "seconds": result.seconds,
            "checks": [vars(check) for check in result.checks],
        }
        write_json(self._verified(result.key), _sealed(record))

    def _folder(self, key: str) -> Path:
        return self.root / "artifacts" / key

    def _verified(self, key: str) -> Path:
        return self.root / "verified" / f"{key}.json"


def _sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its own digest: what is written in it is believed."""
    return {**record, "digest": digest(record)}


def _unsealed(file: Path, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record that is what was written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not.
    """
    record = dict(load_as(file, {**shape, "digest": str}))
    if record.pop("digest") != digest(record):
        raise ValueError("it was changed")
    return record


def _read(folder: Path, key: str) -> Artifact:
    record = _unsealed(folder / RECORD, ARTIFACT)
    return Artifact(
        layer=record["layer"],
        key=key,
        path=folder / record["filename"],
        sha256=record["sha256"],
        size=record["size"],
        seconds=record["seconds"],
        gates=tuple(record["gates"]),
        reproducible=record["reproducible"],
        gpu_code=tuple(GpuCode(**line) for line in record["gpu_code"]),
    )


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; where the disk is another one, a second body."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
            raise
        shutil.copyfile(source, target)
