"""The result of comparing the networks that can learn new classes (``datafree.predict.candidates``), as it is in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datafree import artifacts
from datafree.errors import UserError

LEARNER, TEACHER, TEACHERS = "learner", "teacher", "teachers"  # kinds of rows: a learner, a teacher, several teachers side by side

Row = Mapping[str, Any]


KEYS = {"name": str, "kind": str, "members": list, "parameters": int, "macs": int, "shots": dict}  # of a row


def read_content(networks: Path) -> dict[str, Any]:
    """What stage ``networks`` wrote: ``rows`` (see ``candidates.compare``), the ``reason`` if there are none, ``way``, ``computed_on``.

    Raises:
        UserError: the file is missing or damaged.
    """
    content = artifacts.read_json(networks, "rows", "reason", "way", "computed_on")
    rows = content["rows"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_row(row) for row in rows):
        raise UserError(f"{networks}: its rows are damaged; delete it and run again")
    return content


def _is_row(row: Row) -> bool:
    return all(isinstance(row.get(key), kind) for key, kind in KEYS.items())


def read(networks: Path, times: Path) -> tuple[list[Row], str]:
    """The rows, each with ``latency``, milliseconds for one image; without rows the reason.

    Raises:
        UserError: a file is missing or damaged.
    """
    content, milliseconds = read_content(networks), artifacts.read_json(times, "milliseconds")["milliseconds"]
    try:
        return [{**row, "latency": sum(milliseconds[key] for key in _keys(row))} for row in content["rows"]], content["reason"]
    except (KeyError, TypeError):
        raise UserError(f"{networks}: does not belong to {times.name}; delete both and run again") from None


def times_key(kind: str, name: str) -> str:
    """The key of a single network in the file of the times."""
    return f"{kind}/{name}"


def _keys(row: Row) -> list[str]:
    return [times_key(LEARNER if row["kind"] == LEARNER else TEACHER, name) for name in row["members"]]
