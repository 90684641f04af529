"""SHA-256 of large files, cached on disk until the file changes."""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path

from datafree import artifacts
from datafree.errors import UserError

RECORDS = Path(".datafree/hashes")
MIN_CACHED_SIZE = 8 * 2**20  # bytes; hashing a smaller file is as fast as reading its record
MIN_AGE = 2.0  # seconds; a file changed more recently could change again within one tick of the file system's clock


def sha256(path: Path, records: Path = RECORDS) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; from a record if size, times and inode have not changed since.

    Raises:
        UserError: the file is missing.
    """
    if not path.is_file() or path.stat().st_size < MIN_CACHED_SIZE:
        return artifacts.sha256(path)
    record = records / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    before = _fingerprint(path)
    if (cached := _read(record)) is not None and cached.get("fingerprint") == before and isinstance(cached.get("sha256"), str):
        return cached["sha256"]
    digest = artifacts.sha256(path)
    if before == _fingerprint(path) and time.time_ns() - max(before[1:3]) > MIN_AGE * 1e9:
        with contextlib.suppress(OSError):  # without the record the file is only hashed again
            artifacts.write_json(record, {"path": str(path.resolve()), "fingerprint": before, "sha256": digest})
    return digest


def _fingerprint(path: Path) -> list[int]:
    status = path.stat()
    # Unlike the modification time, the change time cannot be set back.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(record: Path) -> dict | None:
    if not record.is_file():
        return None
    with contextlib.suppress(UserError):
        value = artifacts.read_json(record)
        return value if isinstance(value, dict) else None
    return None
