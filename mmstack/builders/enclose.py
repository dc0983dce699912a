"""A file of our own becomes part of a wheel, which is packed anew: in order, with fixed modes, all of one date."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import shutil
import stat
import time
import zipfile
from collections import Counter
from typing import TYPE_CHECKING

from mmstack.errors import GateError
from mmstack.model import EARLIEST

if TYPE_CHECKING:
    from pathlib import Path

PLAIN, PROGRAM = 0o100644, 0o100755
RECORD = "RECORD"


def metadata(wheel: Path) -> bytes:
    """Return what a wheel says of itself.

    Raises:
        GateError: it is no wheel.
    """
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{_info(archive, wheel)}/METADATA")


def enclose(wheel: Path, name: str, body: bytes, moment: int) -> None:
    """Put a file into a wheel's dist-info folder, in place of one of that name, and name it in RECORD.

    The archive is packed anew. Files stand in the order of their names, those of dist-info last, as the wheel format
    recommends, RECORD after all. So the bytes depend on what is in it, and on the compressor.

    Args:
        wheel: the file, which is replaced whole.
        name: where in the dist-info folder.
        body: what the file holds.
        moment: what date all files get, in seconds since the epoch.

    Raises:
        GateError: it is no wheel, or holds what would not come out of it again.
    """
    new = wheel.with_name(f".{wheel.name}.new")  # what a killed run leaves must not pass for a second wheel
    date = time.gmtime(max(moment, EARLIEST))[:6]
    try:
        with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(new, "w") as made:
            info = _info(old, wheel)
            check_members(old, wheel)
            ours, record = f"{info}/{name}", f"{info}/{RECORD}"
            entries = {entry.filename: entry for entry in old.infolist() if not entry.is_dir()}
            kept = sorted(entries.keys() - {ours, record}, key=lambda each: (each.startswith(f"{info}/"), each))
            for each in kept:
                with old.open(entries[each]) as source, made.open(_entry(each, date, entries[each]), "w") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
            made.writestr(_entry(ours, date), body)
            made.writestr(_entry(record, date), _record(old.read(record).decode(), ours, record, body))
        new.replace(wheel)
    finally:
        new.unlink(missing_ok=True)


def check_members(archive: zipfile.ZipFile, wheel: Path) -> None:
    """Refuse what packing anew would hide from the gate: a name's second file, no name, and that a file is a link.

    Raises:
        GateError: the wheel holds one of these.
    """
    entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
    found = {
        "files without a name": [repr(entry.filename) for entry in entries if not entry.filename],
        "more than once in the wheel": [
            name for name, count in Counter(entry.filename for entry in entries).items() if count > 1
        ],
        "symbolic links": [entry.filename for entry in entries if stat.S_ISLNK(entry.external_attr >> 16)],
    }
    if any(found.values()):
        raise GateError(
            f"{wheel.name} holds what no wheel may",
            why="\n".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names),
            fix="patch the layer's build so that each file is in its wheel once, and as a file",
        )


def _info(archive: zipfile.ZipFile, wheel: Path) -> str:
    found = {name.partition("/")[0] for name in archive.namelist() if name.endswith(f".dist-info/{RECORD}")}
    if len(found) != 1:
        raise GateError(
            f"{wheel.name} is no wheel", why="it has not one dist-info folder with a RECORD", fix="build it again"
        )
    return found.pop()


def _entry(name: str, date: tuple[int, ...], old: zipfile.ZipInfo | None = None) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (date[0], date[1], date[2], date[3], date[4], date[5]))
    program = old is not None and old.external_attr >> 16 & 0o100
    entry.external_attr = (PROGRAM if program else PLAIN) << 16
    entry.create_system = 3  # Unix: what makes modes count
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.file_size = old.file_size if old else 0  # where it is 4 GiB and more, the header must know before
    return entry


def _record(text: str, ours: str, record: str, body: bytes) -> str:
    """Return a RECORD with our file in it: rows in order, its own last."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
    rows = [row for row in csv.reader(text.splitlines()) if row and row[0] not in {ours, record}]
    rows.append([ours, f"sha256={digest}", str(len(body))])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([*sorted(rows), [record, "", ""]])
    return out.getvalue()
