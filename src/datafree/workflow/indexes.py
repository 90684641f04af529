"""Indexes: one file that names the results of a stage for all teachers, with their hashes.

Later stages depend on an index instead of on the files of every teacher, so the graph of jobs and the records grow with the number of
teachers, not with its square.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datafree import artifacts
from datafree.errors import UserError
from datafree.workflow.provenance import Job, Records, read_record


@dataclass(frozen=True)
class Member:
    """The results of one teacher: SHA-256 by path."""

    name: str
    files: dict[str, str]

    def path(self, file: str) -> Path:
        """The path of a result by its file name; the content is that of the index.

        Raises:
            UserError: there is no such file, or its content has changed since the index was written.
        """
        for path, digest in self.files.items():
            if Path(path).name == file:
                if artifacts.sha256(path) != digest:
                    raise UserError(f"{path}: its content differs from the index; run again, or `make verify` to check all files")
                return Path(path)
        raise UserError(f"{self.name}: the index names no {file}; delete the index and run again")


def read_index(path: str | Path) -> list[Member]:
    """The members of an index, in the order of the manifest.

    Raises:
        UserError: the file is missing or damaged.
    """
    rows = artifacts.read_json(path, "members")["members"]
    try:
        return [Member(row["name"], dict(row["files"])) for row in rows]
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{path}: not an index of results; delete it and run again") from None


def content(rows: Sequence[tuple[str, dict[str, str]]]) -> dict[str, Any]:
    """The content of an index for (name, SHA-256 by path) of each member."""
    return {"members": [{"name": name, "files": files} for name, files in rows]}


def write_index(path: str | Path, jobs: Iterable[Job]) -> None:
    """Write what the records of finished jobs, one per teacher, say of their results.

    Raises:
        UserError: a job has no record.
    """
    rows = []
    for job in jobs:
        record = read_record(job.outputs["provenance"])
        if record is None:
            raise UserError(f"{job.outputs['provenance']}: the record is missing; run again")
        rows.append((job.wildcards["teacher"], record["outputs"]))
    artifacts.write_json(path, content(rows))


def index_changed(path: str, jobs: Sequence[Job], records: Records) -> str:
    """Why an index differs from the records of the jobs that it names, in one phrase; empty if it does not."""
    try:
        present = [(member.name, member.files) for member in read_index(path)]
    except UserError:
        return "not yet written"
    recorded = [records.of(job.outputs["provenance"]) for job in jobs]
    wanted = [(job.wildcards["teacher"], record.get("outputs", {}) if record else {}) for job, record in zip(jobs, recorded, strict=True)]
    return "" if present == wanted else "other results than in the records"
