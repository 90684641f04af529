"""Hashes of a user's files, such as checkpoints, by content; files that have not changed since the last run are not read again."""

from __future__ import annotations

import os
from pathlib import Path

from datafree import artifacts
from datafree.errors import UserError

CACHE = Path(".datafree/file_hashes.json")


class FileHashes:
    """SHA-256 of files, remembered under their size, inode, and times of the last change of content and of status.

    As in git's index: the time of the last change of status is set by the system alone, so a changed file does not pass as unchanged.
    """

    def __init__(self, known: dict[str, tuple[list[int], str]]) -> None:
        self._known = known

    @classmethod
    def read(cls) -> FileHashes:
        """The hashes that ``write`` stored; none if there is no such file."""
        try:
            return cls({path: (state, digest) for path, (state, digest) in artifacts.read_json(CACHE).items()})
        except (UserError, AttributeError, TypeError, ValueError):
            return cls({})

    def of(self, path: str) -> str:
        """The SHA-256 of a file, in hexadecimal."""
        status = os.stat(path)  # noqa: PTH116
        state = [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
        known = self._known.get(path)
        if known is None or known[0] != state:
            self._known[path] = (state, artifacts.sha256(path))
        return self._known[path][1]

    def write(self) -> None:
        """Store the hashes for later runs."""
        artifacts.write_json(CACHE, self._known)
