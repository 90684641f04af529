"""Finished jobs as their provenance sidecars tell them: parameters, numbers, curves and files, ready for a tracker.

The files are the source of truth. Nothing here computes, and a file that cannot be read costs a line on standard error, not the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datafree import artifacts
from datafree.errors import UserError
from datafree.workflow.provenance import HARDWARE

MEASURED_ON_CARDS = ("accuracy", "macs", "parameters")
SHOWN = (".json", ".csv", ".png", ".txt", ".html")  # files that a person would open, as opposed to weights and image pools


@dataclass(frozen=True)
class FinishedJob:
    """A job as its sidecar tells it; see ``datafree.workflow.provenance.record``.

    ``sidecar`` is relative to the project folder like every other path; ``fingerprint`` is the SHA-256 of its bytes; ``finished`` is its
    modification time in milliseconds since 1970.
    """

    sidecar: Path
    fingerprint: str
    finished: int
    stage: str
    wildcards: Mapping[str, str]
    config: Mapping[str, Any]
    code: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def name(self) -> str:
        return "/".join([self.stage, *self.wildcards.values()])

    def belongs_to(self, config_tree: Mapping[str, Any]) -> bool:
        """Whether the job was done under this resolved configuration: it may be left over from another, such as an arm that is gone."""
        ignored = HARDWARE if config_tree.get("accept_other_hardware") else ()
        return all(self._as_now(config_tree, dotted.split("."), value) for dotted, value in self.config.items() if dotted not in ignored)

    def _as_now(self, tree: Any, path: Sequence[str], recorded: Any) -> bool:
        """Whether a recorded setting is the one in ``tree``, whose part under ``path`` it is.

        A key that ends in a wildcard's name, such as ``meta.arm``, holds what that wildcard chose from ``meta.arms``. A list may hold
        just the names of a mapping. What is no setting, such as the manifest's entry of a teacher, cannot be judged and passes.
        """
        first, *rest = path
        if not rest and first in self.wildcards and f"{first}s" in tree:
            return tree[f"{first}s"].get(self.wildcards[first]) == recorded
        if first not in tree:
            return True
        if rest:
            return self._as_now(tree[first], rest, recorded)
        return recorded == (list(tree[first]) if isinstance(recorded, list) else tree[first])

    def changed_output(self, project: Path) -> str:
        """The first output for people that is missing or not what the sidecar recorded; empty when all are as recorded."""
        for path, digest in self.outputs.items():
            file = project / path
            if file.suffix in SHOWN and not (file.is_file() and artifacts.sha256(file) == digest):
                return path
        return ""

    def shown_files(self) -> list[str]:
        """The sidecar and the outputs for people."""
        return [str(self.sidecar), *(path for path in self.outputs if path.endswith(SHOWN))]

    def metrics(self, project: Path) -> Iterator[tuple[str, float, int]]:
        """Name, value and step of every number in the job's JSON files, of its curve, and of its timing where this machine did the work."""
        for path in self.outputs:
            try:
                if path.endswith(".json"):
                    found = numbers(artifacts.read_json(project / path))
                    if path.endswith("card.json"):  # the rest of a card describes what was asked for, and is a parameter
                        found = [(name, number) for name, number in found if name.startswith(MEASURED_ON_CARDS)]
                    yield from [(name, number, 0) for name, number in found]
                elif path.endswith("history.csv"):
                    yield from _curve(artifacts.read_history(project / path))
            except (UserError, ValueError, TypeError) as error:
                tell(f"{path}: not logged: {one_line(error)}")
        timing = project / "logs" / "timings" / self.stage / f"{'.'.join(self.wildcards.values()) or self.stage}.json"
        if timing.is_file():
            with contextlib.suppress(UserError):  # written by another process, perhaps just now
                yield from [(f"timing/{name}", number, 0) for name, number in numbers(artifacts.read_json(timing))]


def sidecar_states(project: Path) -> set[tuple[str, int]]:
    """Path and modification time of every sidecar: equal while no job has finished."""
    states = set()
    for path in project.glob("artifacts/**/provenance.json"):
        with contextlib.suppress(FileNotFoundError):  # replaced in this moment
            states.add((str(path), path.stat().st_mtime_ns))
    return states


def finished_jobs(project: Path) -> tuple[list[FinishedJob], list[str]]:
    """Every job of a project whose sidecar can be read, in the order of the sidecars' paths, and a line for each that cannot."""
    jobs, problems = [], []
    for path in sorted(project.glob("artifacts/**/provenance.json")):
        sidecar = path.relative_to(project)
        try:
            content, finished = path.read_bytes(), path.stat().st_mtime_ns // 10**6
            value = json.loads(content)
            parts = {key: value[key] for key in ("stage", "wildcards", "config", "code", "inputs", "outputs")}
            for key in ("wildcards", "config", "inputs", "outputs"):
                if not isinstance(parts[key], dict):
                    raise TypeError(f"`{key}` is not a mapping")
        except (OSError, ValueError, TypeError, KeyError) as error:
            problems.append(f"{sidecar}: skipped: not a readable sidecar ({one_line(error)}); rerun its job")
        else:
            jobs.append(FinishedJob(sidecar, hashlib.sha256(content).hexdigest(), finished, **parts))
    return jobs, problems


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a JSON document under a flat name.

    A result (a mapping whose ``mean`` is a number) gives the mean under its own name, and ``_interval`` and ``_n``. The rows of a table
    go by their ``name`` or ``method``, as in ``bell/accuracy_5shot``; what is nested has names like that too. Other lists are settings
    rather than metrics, and left out.
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
    """Settings by dotted key; lists and the like as JSON."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def tell(line: str) -> None:
    """Say one line to the person who watches."""
    print(f"tracking: {line}", file=sys.stderr, flush=True)


def one_line(error: Exception) -> str:
    """The first line of an error's message, or its type when it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:200]
