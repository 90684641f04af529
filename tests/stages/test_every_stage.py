"""Properties of the outputs of every stage."""

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from datafree import artifacts
from datafree.workflow import provenance
from datafree.workflow.code import Source

JOBS = [
    ("teacher", "alpha"), ("teacher", "gamma"), ("meta_generator",), ("invert", "five", "beta"), ("invert", "fresh", "alpha"),
    ("episodes", "five"), ("reinforce", "fresh"), ("learner", "bell", 0), ("learner", "distillation", 4), ("reference", "oracle"),
    ("reference", "judge"), ("inversion_quality",), ("few_shot",), ("networks",),
]  # fmt: skip
MEASURED = "times"  # an output with milliseconds
READERS = {
    ".safetensors": artifacts.read_tensors,
    ".json": artifacts.read_json,
    ".csv": artifacts.read_history,
    ".png": lambda path: Image.open(path).verify() or True,
}


@pytest.fixture(params=JOBS, ids=["-".join(map(str, job)) for job in JOBS])
def job(request, project):
    project.outputs(*request.param)  # with the jobs that it needs
    return project.job_of(*request.param)


def test_a_second_run_gives_the_same_bytes(project, job):
    before = {name: (project.root / path).read_bytes() for name, path in job.outputs.items() if name != "provenance"}
    for path in job.outputs.values():
        (project.root / path).unlink(missing_ok=True)
    again = project.run(job)
    for outputs in (before, again):
        outputs.pop(MEASURED, None)
    assert again == before


def test_every_output_exists_and_is_readable_and_not_empty(project, job):
    for name, path in job.outputs.items():
        if name != "provenance":
            assert READERS[Path(path).suffix](project.root / path), path


def test_a_stage_leaves_no_other_files(project, job):
    folder = (project.root / job.outputs["provenance"]).parent
    expected = {Path(path).name for path in job.outputs.values()} - {"provenance.json"}
    assert {path.name for path in folder.iterdir() if path.is_file()} == expected
    assert not list((project.root / ".datafree").rglob("*.pt"))  # checkpoints of finished jobs


def test_a_recorded_job_is_up_to_date(project, job):
    with project.inside():
        project.run(job)  # a record has the hashes of what this process wrote
        inputs = {path: artifacts.sha256(path) for path in job.input_paths()}
        provenance.write_record(job, [], Source({}), inputs, {})
        try:
            again = dataclasses.replace(job, config=json.loads(json.dumps(job.config)))  # as read from a plan
            assert provenance.stale_reason(again, Source({})) == ""
        finally:
            Path(job.outputs["provenance"]).unlink()


def test_outputs_have_no_paths_of_this_machine(project, job):
    for name, path in job.outputs.items():
        if name != "provenance":
            assert str(project.root).encode() not in (project.root / path).read_bytes()
