"""Indexes of the results of all teachers."""

from __future__ import annotations

from pathlib import Path

import pytest

from datafree import artifacts
from datafree.errors import UserError
from datafree.workflow import indexes
from datafree.workflow.provenance import Job, Records


def job_of(teacher: str) -> Job:
    return Job("teacher", {"teacher": teacher}, {}, "", {}, {"provenance": f"zoo/{teacher}/provenance.json"})


@pytest.fixture
def jobs(tmp_path, monkeypatch) -> list[Job]:
    """Three finished jobs."""
    monkeypatch.chdir(tmp_path)
    for teacher in "abc":
        artifacts.write_text(f"zoo/{teacher}/card.json", teacher)
        outputs = {f"zoo/{teacher}/card.json": artifacts.sha256(f"zoo/{teacher}/card.json")}
        artifacts.write_json(f"zoo/{teacher}/provenance.json", {"stage": "teacher", "wildcards": {}, "config": {}, "outputs": outputs})
    return [job_of(teacher) for teacher in "abc"]


def write(names: str = "abc") -> None:
    indexes.write_index("zoo/index.json", [job_of(name) for name in names])


def test_an_index_names_the_results_of_all_teachers_in_the_order_of_the_manifest(jobs):
    write()
    members = indexes.read_index("zoo/index.json")
    assert [member.name for member in members] == ["a", "b", "c"]
    assert [member.path("card.json").read_text() for member in members] == ["a", "b", "c"]
    write("ca")
    assert [member.name for member in indexes.read_index("zoo/index.json")] == ["c", "a"]


def test_an_index_that_matches_the_records_is_current(jobs):
    assert indexes.index_changed("zoo/index.json", jobs, Records()) == "not yet written"
    write()
    assert indexes.index_changed("zoo/index.json", jobs, Records()) == ""
    assert indexes.index_changed("zoo/index.json", jobs[:2], Records()) == "other results than in the records"
    record = artifacts.read_json("zoo/b/provenance.json")
    artifacts.write_json("zoo/b/provenance.json", {**record, "outputs": {"zoo/b/card.json": "0" * 64}})
    assert indexes.index_changed("zoo/index.json", jobs, Records()) == "other results than in the records"
    Path("zoo/b/provenance.json").unlink()
    assert indexes.index_changed("zoo/index.json", jobs, Records()) == "other results than in the records"


def test_a_changed_file_is_not_read_through_an_index(jobs):
    write()
    Path("zoo/b/card.json").write_text("changed")
    first, second, _ = indexes.read_index("zoo/index.json")
    assert first.path("card.json") == Path("zoo/a/card.json")
    with pytest.raises(UserError, match="zoo/b/card.json: its content differs from the index; run again"):
        second.path("card.json")
    with pytest.raises(UserError, match="b: the index names no weights.safetensors"):
        second.path("weights.safetensors")


def test_a_missing_record_is_one_line_and_keeps_the_index(jobs):
    write()
    before = Path("zoo/index.json").read_bytes()
    with pytest.raises(UserError, match="zoo/d/provenance.json: the record is missing; run again"):
        write("abcd")
    assert Path("zoo/index.json").read_bytes() == before


@pytest.mark.parametrize(
    "content", [{"members": 3}, {"members": [3]}, {"members": [{"name": "a"}]}, {"members": [{"name": "a", "files": 3}]}, {}]
)
def test_a_file_that_is_no_index_is_refused(tmp_path, content):
    artifacts.write_json(tmp_path / "index.json", content)
    with pytest.raises(UserError, match="index.json"):
        indexes.read_index(tmp_path / "index.json")
