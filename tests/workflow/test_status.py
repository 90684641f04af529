"""The table of ``datafree status``."""

from __future__ import annotations

from pathlib import Path

import pytest

from datafree.artifacts import write_json
from datafree.errors import UserError
from datafree.workflow.status import job_states, print_status

CARD = {"stage": "teacher", "wildcards": {"teacher": "t0"}, "config": {"seed": 0}, "code": "c", "written_ns": 1}


def _write_record(root: Path, **changes: object) -> None:
    record = {**CARD, "inputs": {}, "outputs": {}, **changes}
    record.pop("written_ns")
    write_json(root / "artifacts/zoo/t0/provenance.json", record)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        (None, "not yet run"),
        ({}, "done"),
        ({"config": {"seed": 1}}, "parameter changed: seed"),
        ({"code": "d"}, "code changed"),
    ],
)
def test_states(tmp_path: Path, changes: dict | None, state: str) -> None:
    write_json(tmp_path / "jobs/teacher.t0/card.json", CARD)
    if changes is not None:
        _write_record(tmp_path, **changes)
    assert job_states(tmp_path / "jobs", tmp_path / "artifacts") == [("teacher/t0", state)]


def test_records_and_cards_that_are_damaged_are_left_out(tmp_path: Path) -> None:
    write_json(tmp_path / "jobs/teacher.t0/card.json", CARD)
    write_json(tmp_path / "jobs/teacher.t1/card.json", {})
    write_json(tmp_path / "artifacts/zoo/t0/provenance.json", {"wildcards": {}})
    assert job_states(tmp_path / "jobs", tmp_path / "artifacts") == [("teacher/t0", "not yet run")]


def test_no_cards_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `snakemake -n` first"):
        print_status(tmp_path)
