"""Finished jobs read from their records, without MLflow."""

import json
import os
from pathlib import Path

import pytest

from datafree import artifacts
from datafree.errors import UserError
from datafree.workflow import finished_jobs


def finish(project: Path, stage: str, wildcards: dict, config: dict, files: dict, folder: str) -> Path:
    """Write outputs and record as a job does; returns the folder."""
    for name, content in files.items():
        path = project / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else artifacts.write_json(path, content)
    outputs = {f"{folder}/{name}": artifacts.sha256(project / folder / name) for name in files}
    record = {"stage": stage, "wildcards": wildcards, "config": config, "inputs": {}, "outputs": outputs}
    artifacts.write_json(
        project / folder / "provenance.json", {**record, "code": {"modules": [f"datafree.stages.{stage}"], "hash": "c0de"}}
    )
    return project / folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def all_jobs(project):
    return [finished_jobs.read_finished_job(project, record) for record in finished_jobs.record_states(project)]


def only_job(project):
    (job,) = all_jobs(project)
    return job


def test_numbers_of_a_document():
    document = {
        "loss": 0.5,
        "steps": 3,
        "converged": True,
        "method": "bell",
        "sizes": [1, 2],
        "missing": None,
        "nested": {"deep": {"mean": 0.25, "interval": 0.01, "n": 600, "per_seed": [{"mean": 0.2}]}},
        "rows": [
            {"name": "bell", "networks": 1, "shots": {"1": {"mean": 0.5, "interval": 0.02, "n": 10}}},
            {"method": "five", "metrics": {"teacher_accuracy": {"mean": 0.9, "interval": None, "n": 4}}},
        ],
    }
    assert dict(finished_jobs.numbers(document)) == {
        "loss": 0.5,
        "steps": 3.0,
        "nested/deep": 0.25,
        "nested/deep_interval": 0.01,
        "nested/deep_n": 600.0,
        "bell/accuracy_1shot": 0.5,
        "bell/accuracy_1shot_interval": 0.02,
        "bell/accuracy_1shot_n": 10.0,
        "five/teacher_accuracy": 0.9,
        "five/teacher_accuracy_n": 4.0,
    }


def test_flatten_keeps_every_leaf():
    assert finished_jobs.flatten({"a": {"b": 1, "c": {"d": "x"}}, "e": [1, 2], "f": {}, "g": None}) == {
        "a.b": "1",
        "a.c.d": "x",
        "e": "[1, 2]",
        "f": "{}",
        "g": "null",
    }


CONFIG = {
    "seed": 0,
    "meta": {"arms": {"bell": {"steps": 7}}},
    "inversion": {"shift": 2, "methods": {"five": {"steps": 5}, "slow": {"steps": 20}}},
}


@pytest.mark.parametrize(
    ("wildcards", "recorded", "expected"),
    [
        ({}, {"seed": 0, "inversion.shift": 2}, True),
        ({}, {"seed": 1}, False),
        ({}, {"inversion.shift": 3}, False),
        ({"arm": "bell", "seed": "1"}, {"seed": 0, "meta.arms.bell": {"steps": 7}}, True),
        ({"arm": "bell"}, {"meta.arms.bell": {"steps": 8}}, False),
        ({"arm": "bell"}, {"meta.arms.bell.steps": 7}, True),
        ({"arm": "bell"}, {"meta.arms.bell.steps.more": 7}, False),
        ({"arm": "gone"}, {"meta.arms.gone": {"steps": 7}}, False),
        ({}, {"inversion.methods": ["five", "slow"]}, True),
        ({}, {"inversion.methods": ["slow", "five"]}, True),
        ({}, {"inversion.methods": ["five"]}, False),
        ({"teacher": "latin"}, {"teachers.latin": {"name": "latin"}}, True),
    ],
)
def test_a_job_belongs_to_the_configuration_that_it_read(project, wildcards, recorded, expected):
    finish(project, "learner", wildcards, recorded, {}, "artifacts/meta/bell")
    assert only_job(project).name == "/".join(["learner", *wildcards.values()])
    assert only_job(project).belongs_to(CONFIG) is expected


def test_readable_outputs_are_checked_and_weights_are_not(project):
    folder = finish(project, "teacher", {}, {}, {"card.json": {"a": 1}, "weights.safetensors": b"1"}, "artifacts/zoo/t")
    job = only_job(project)
    assert job.code_hash == "c0de"
    assert job.readable_files() == ["artifacts/zoo/t/provenance.json", "artifacts/zoo/t/card.json"]
    (folder / "weights.safetensors").write_bytes(b"2")
    assert job.changed_output(project) == ""
    (folder / "card.json").write_text("{}")
    assert job.changed_output(project) == "artifacts/zoo/t/card.json"
    (folder / "card.json").unlink()
    assert job.changed_output(project) == "artifacts/zoo/t/card.json"


def test_metrics_curve_and_timing(project):
    curve = b"step,loss,accuracy\n0,2.5,\n10,1.5,0.5\n"
    finish(project, "learner", {"arm": "bell", "seed": "0"}, {}, {"history.csv": curve, "metrics.json": {"loss": 1}}, "artifacts/meta/bell")
    artifacts.write_json(project / "logs/timings/learner/bell.0.json", {"seconds": 2.5, "max_rss_mb": 100})
    finish(project, "images", {}, {}, {}, "artifacts/x")
    artifacts.write_json(project / "logs/timings/images/images.json", {"seconds": 4})
    learner, images = all_jobs(project)
    assert list(images.metrics(project)) == [("timing/seconds", 4.0, 0)]
    assert sorted(learner.metrics(project)) == [
        ("history/accuracy", 0.5, 10),
        ("history/loss", 1.5, 10),
        ("history/loss", 2.5, 0),
        ("loss", 1.0, 0),
        ("timing/max_rss_mb", 100.0, 0),
        ("timing/seconds", 2.5, 0),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", b"{"),
        ("history.csv", b"step,loss\n1,many\n"),
        ("history.csv", b"loss\n1\n"),
        ("history.csv", b"step,loss\n1,2,3\n"),
    ],
)
def test_an_unreadable_file_is_reported_in_one_line(project, capsys, name, content):
    finish(project, "learner", {}, {}, {name: content, "card.json": {"accuracy": 0.5}}, "artifacts/meta/bell")
    assert list(only_job(project).metrics(project)) == [("accuracy", 0.5, 0)]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tracking: artifacts/meta/bell/{name}: not logged: ")


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", json.dumps(dict.fromkeys(("stage", "wildcards", "config", "code", "inputs", "outputs"), ""))]
)
def test_an_unreadable_record_is_reported(project, content):
    path = project / "artifacts/x/provenance.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match=r"^artifacts/x/provenance.json: skipped: not a readable record \(.*\); rerun its job$"):
        finished_jobs.read_finished_job(project, Path("artifacts/x/provenance.json"))


def test_record_states_change_when_a_job_finishes(project):
    assert finished_jobs.record_states(project) == {}
    folder = finish(project, "teacher", {}, {}, {}, "artifacts/zoo/t")
    before = finished_jobs.record_states(project)
    assert before == finished_jobs.record_states(project)
    assert list(before) == [Path("artifacts/zoo/t/provenance.json")]
    finish(project, "teacher", {}, {}, {}, "artifacts/zoo/a")
    both = finished_jobs.record_states(project)
    assert list(both) == [Path("artifacts/zoo/a/provenance.json"), *before]
    os.utime(folder / "provenance.json", ns=(5, 5))
    assert finished_jobs.record_states(project)[Path("artifacts/zoo/t/provenance.json")] != both[Path("artifacts/zoo/t/provenance.json")]
