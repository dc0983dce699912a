"""Artifacts by content key: what is here is whole, passed its gates, and can be used again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mmstack.errors import DiskError
from mmstack.events import Waiting
from mmstack.keys import file_digest
from mmstack.model import Artifact, CheckResult, GpuCode, Verification
from mmstack.run import interrupted, is_stopping

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
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
        if error.errno not in DISK_ERRORS:
            raise
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise DiskError(
            f"cannot write below {folder}",
            why=f"{error.strerror}: {error.filename or folder}",
            fix="free some space, or move the state with MMSTACK_HOME" if full else "make the folder writable",
        ) from error


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
    """The folder that keeps artifacts and verification results, shared by all runs of a checkout."""

    def __init__(self, root: Path, listener: Listener) -> None:
        self.root = root
        self.listener = listener

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a name against other runs; a dead run's lock is free.

        Raises:
            InterruptedRunError: we are stopping.
        """
        from filelock import FileLock, Timeout  # noqa: PLC0415 - a run that does nothing starts sooner without

        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.listener(Waiting(what=name))
            try:
                lock.acquire(cancel_check=is_stopping)
            except Timeout:
                raise interrupted() from None
        try:
            yield
        finally:
            lock.release()

    def find(self, key: str) -> Artifact | None:
        """Return the artifact of a key if it is here."""
        folder = self._folder(key)
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            path = folder / record["filename"]
            if path.stat().st_size != record["size"]:
                return None
            return Artifact(
                layer=record["layer"],
                key=key,
                path=path,
                sha256=record["sha256"],
                size=record["size"],
                seconds=record["seconds"],
                gates=tuple(record["gates"]),
                reproducible=record["reproducible"],
                gpu_code=tuple(GpuCode(**line) for line in record["gpu_code"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

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
            write_json(
                new / RECORD,
                {
                    "layer": layer,
                    "filename": wheel.name,
                    "sha256": file_digest(kept),
                    "size": kept.stat().st_size,
                    "seconds": seconds,
                    "gates": list(gates),
                    "reproducible": reproducible,
                    "gpu_code": [vars(line) for line in gpu_code],
                },
            )
            if folder.exists():
                shutil.rmtree(folder)
            new.replace(folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        artifact = self.find(key)
        assert artifact is not None  # noqa: S101 - it was just written
        return artifact

    def find_verification(self, key: str) -> Verification | None:
        """Return the result of a suite that passed."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(self._verified(key).read_text(encoding="utf-8"))
            checks = tuple(CheckResult(**check) for check in record["checks"])
            return Verification(layer=record["layer"], key=key, checks=checks, seconds=record["seconds"])
        return None

    def put_verification(self, result: Verification) -> None:
        """Remember that a suite passed."""
        write_json(
            self._verified(result.key),
            {
                "layer": result.layer,
                "seconds": result.seconds,
                "checks": [vars(check) for check in result.checks],
            },
        )

    def _folder(self, key: str) -> Path:
        return self.root / "artifacts" / key

    def _verified(self, key: str) -> Path:
        return self.root / "verified" / f"{key}.json"


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; where the disk is another one, a second body."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
            raise
        shutil.copyfile(source, target)
