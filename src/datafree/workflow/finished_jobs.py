"""Finished jobs, read from their records: parameters, metrics, training curves and files, for MLflow.

The files are the only source; nothing is computed. A file that cannot be read is reported in one line on standard error and skipped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datafree import artifacts
from datafree.errors import UserError
from datafree.workflow.provenance import HARDWARE

RECORD = "provenance.json"
MEASURED_ON_CARDS = ("accuracy", "macs", "parameters")
READABLE = (".json", ".csv", ".png", ".txt", ".html")  # suffixes of human-readable files, unlike weights and pools


@dataclass(frozen=True)
class FinishedJob:
    """The contents of a job's record; see ``datafree.workflow.provenance.write_record``.

    ``record``: its path, relative to the project folder like all paths. ``fingerprint``: SHA-256 of its bytes. ``finished``: its
    modification time in milliseconds since 1970.
    """

    record: Path
    fingerprint: str
    finished: int
    stage: str
    wildcards: Mapping[str, str]
    config: Mapping[str, Any]
    code: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def name(self) -> str:
        return "/".join([self.stage, *self.wildcards.values()])

    @property
    def code_hash(self) -> str:
        return str(self.code.get("hash", ""))

    def belongs_to(self, config_tree: Mapping[str, Any]) -> bool:
        """Whether the job was computed under this resolved configuration, and not under another, such as one with a removed arm."""
        ignored = HARDWARE if config_tree.get("accept_other_hardware") else ()
        return all(_is_current(config_tree, dotted, value) for dotted, value in self.config.items() if dotted not in ignored)

    def changed_output(self, project: Path) -> str:
        """The first readable output that is missing or differs from the record; empty if there is none."""
        for path, digest in self.outputs.items():
            file = project / path
            if file.suffix in READABLE and not (file.is_file() and artifacts.sha256(file) == digest):
                return path
        return ""

    def readable_files(self) -> list[str]:
        """The record and the readable outputs."""
        return [str(self.record), *(path for path in self.outputs if path.endswith(READABLE))]

    def metrics(self, project: Path) -> Iterator[tuple[str, float, int]]:
        """Name, value and step of every number in the job's JSON files, its training curve, and its timing if it ran on this machine."""
        for path in self.outputs:
            try:
                if path.endswith(".json"):
                    metrics = numbers(artifacts.read_json(project / path))
                    if path.endswith("card.json"):  # the other numbers of a card are parameters
                        metrics = [(name, number) for name, number in metrics if name.startswith(MEASURED_ON_CARDS)]
                    yield from [(name, number, 0) for name, number in metrics]
                elif path.endswith("history.csv"):
                    yield from _curve(artifacts.read_history(project / path))
            except (UserError, ValueError, TypeError) as error:
                warn(f"{path}: not logged: {one_line(error)}")
        timing = project / "logs" / "timings" / self.stage / f"{'.'.join(self.wildcards.values()) or self.stage}.json"
        if timing.is_file():
            with contextlib.suppress(UserError):  # another process may be writing it
                yield from [(f"timing/{name}", number, 0) for name, number in numbers(artifacts.read_json(timing))]


def _is_current(config_tree: Mapping[str, Any], dotted: str, recorded: Any) -> bool:
    """Whether a recorded setting equals the setting under the dotted key.

    A list may hold only the names of a mapping. Sections outside the configuration, such as a teacher's manifest entry, count as equal.
    """
    first, *rest = dotted.split(".")
    if first not in config_tree:
        return True
    value = config_tree[first]
    for key in rest:
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    if isinstance(recorded, list) and isinstance(value, Mapping):
        return sorted(recorded) == sorted(value)
    return recorded == value


def record_states(project: Path) -> dict[Path, tuple[int, int]]:
    """Modification time (ns) and size of every record by its path in the project, sorted; reads no record."""
    states: dict[Path, tuple[int, int]] = {}
    for folder, subfolders, files in os.walk(project / "artifacts"):
        subfolders.sort()
        if RECORD in files:
            path = Path(folder, RECORD)
            with contextlib.suppress(FileNotFoundError):  # being replaced
                status = path.stat()
                states[path.relative_to(project)] = (status.st_mtime_ns, status.st_size)
    return states


def read_finished_job(project: Path, record: Path) -> FinishedJob:
    """The job of a record; ``record``: its path in the project.

    Raises:
        UserError: the file is missing, or not a record.
    """
    try:
        with (project / record).open("rb") as file:
            content, finished = file.read(), os.fstat(file.fileno()).st_mtime_ns // 10**6
        value = json.loads(content)
        parts = {key: value[key] for key in ("stage", "wildcards", "config", "code", "inputs", "outputs")}
        for key in ("wildcards", "config", "code", "inputs", "outputs"):
            if not isinstance(parts[key], dict):
                raise TypeError(f"`{key}` is not a mapping")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{record}: skipped: not a readable record ({one_line(error)}); rerun its job") from None
    return FinishedJob(record, hashlib.sha256(content).hexdigest(), finished, **parts)


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a JSON document under a flat name.

    A result (a mapping whose ``mean`` is a number) gives its mean under its own name, and ``_interval`` and ``_n``. Nested keys are
    joined by ``/``, and rows of a table have their ``name`` or ``method`` as prefix: ``bell/accuracy_5shot``. Other lists are left out.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)
    elif isinstance(value, Mapping) and isinstance(value.get("mean"), (int, float)):
        yield from numbers(value["mean"], name)
        for part in ("interval", "n"):
            yield from numbers(value.get(part), f"{name}_{part}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _table_numbers(inner) if key == "rows" else numbers(inner, f"{name}/{key}" if name else str(key))


def _table_numbers(rows: Any) -> Iterator[tuple[str, float]]:
    for row in rows:
        title = row.get("name", row.get("method"))
        for shot, result in row.get("shots", {}).items():
            yield from numbers(result, f"{title}/accuracy_{shot}shot")
        for metric, result in row.get("metrics", {}).items():
            yield from numbers(result, f"{title}/{metric}")


def _curve(rows: list[dict[str, float]]) -> Iterator[tuple[str, float, int]]:
    for row in rows:
        if "step" not in row:
            raise ValueError("a row without `step`")
        yield from [(f"history/{name}", number, int(row["step"])) for name, number in row.items() if name != "step"]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by dotted key; values other than strings as JSON."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def warn(line: str) -> None:
    """Print one line about tracking to standard error."""
    print(f"tracking: {line}", file=sys.stderr, flush=True)


def one_line(error: Exception) -> str:
    """The first line of an error's message, or its type when it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:200]
