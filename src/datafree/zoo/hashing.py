"""SHA-256 of large files, computed once and remembered for as long as the file is not touched."""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path

from datafree import artifacts
from datafree.errors import UserError

RECORDS = Path(".datafree/hashes")
WORTH_A_RECORD = 8 * 2**20  # bytes; a smaller file is hashed as fast as its record is read
SETTLED = 2.0  # seconds; a file that changed more recently could change again within the same tick of its clock


def sha256(path: Path, records: Path = RECORDS) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; from a record when size, times and inode are as they were when it was made.

    Raises:
        UserError: the file is missing.
    """
    if not path.is_file() or path.stat().st_size < WORTH_A_RECORD:
        return artifacts.sha256(path)
    record = records / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    before = _fingerprint(path)
    if (known := _read(record)) is not None and known.get("fingerprint") == before and isinstance(known.get("sha256"), str):
        return known["sha256"]
    digest = artifacts.sha256(path)
    if before == _fingerprint(path) and time.time_ns() - max(before[1:3]) > SETTLED * 1e9:
        with contextlib.suppress(OSError):  # the record saves time, nothing else
            artifacts.write_json(record, {"path": str(path.resolve()), "fingerprint": before, "sha256": digest})
    return digest


def _fingerprint(path: Path) -> list[int]:
    status = path.stat()
    # The change time cannot be set back, as the modification time can.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(record: Path) -> dict | None:
    if not record.is_file():
        return None
    with contextlib.suppress(UserError):
        value = artifacts.read_json(record)
        return value if isinstance(value, dict) else None
    return None
