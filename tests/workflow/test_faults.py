"""Faults during runs: a few trials of benchmarks/faults.py with tiny settings; one of every other kind among the slow tests."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import fault_kinds as kinds
import faults
import pytest
import yaml
from fault_project import NotPossible, Project, Reference, differences, record_mismatches, results_of, wait_until

OTHER_SETTINGS = {"evaluation": {"episodes": 24}}
FAST = ("Snakemake killed, other settings next",)  # test_never_wrong.py has edited code and other faults


@pytest.fixture(scope="session")
def reference(once, finished, empty_project, tmp_path_factory) -> Reference:
    other = tmp_path_factory.mktemp("settings") / "other.yaml"
    other.write_text(yaml.safe_dump(OTHER_SETTINGS))
    make = functools.partial(
        Reference, empty_project.folder, finished.folder, ("params.yaml",), other, results_of(finished.folder), tracking=False
    )

    def run_with_other_settings(folder: Path) -> tuple[set[str], str]:
        project = finished.copy(folder)
        return project.snakemake("--configfile", "params.yaml", str(other)), project.last.stdout

    return make(results_of(once("finished with other settings", run_with_other_settings).folder))


def survives(project: Project, trial: faults.Trial, seed: int) -> None:
    try:
        trial(project, random.Random(seed))
    except NotPossible as reason:
        pytest.skip(str(reason))
    finally:
        project.kill_all()
    assert not project.problems
    assert project.byte_equal


@pytest.mark.parametrize("fault", FAST)
def test_the_pipeline_survives(fault, reference, tmp_path):
    survives(Project(tmp_path, reference), faults.KINDS[fault][0], seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [name for name in faults.KINDS if name not in FAST])
def test_the_pipeline_survives_every_other_fault(fault, reference, tmp_path):
    survives(Project(tmp_path, reference), faults.KINDS[fault][0], seed=0)


@pytest.mark.slow
def test_the_pipeline_survives_kills_at_random_points(reference, tmp_path):
    project = Project(tmp_path, reference)
    try:
        made = kinds.kills(project, random.Random(0), count=6)
    finally:
        project.kill_all()
    assert made and not [kill for kill in made if kill[2]]
    assert project.byte_equal


# The harness itself: what it must find


def make_results(folder: Path) -> None:
    job = folder / "artifacts/zoo/first"
    job.mkdir(parents=True)
    (job / "weights.safetensors").write_bytes(b"weights")
    digest = results_of(folder)["artifacts/zoo/first/weights.safetensors"]
    (job / "provenance.json").write_text(f'{{"outputs": {{"artifacts/zoo/first/weights.safetensors": "{digest}"}}}}')


def test_a_record_of_another_file_is_found(tmp_path):
    make_results(tmp_path)
    assert record_mismatches(tmp_path) == []
    (tmp_path / "artifacts/zoo/first/weights.safetensors").write_bytes(b"other weights")
    assert "recorded another hash" in record_mismatches(tmp_path)[0]
    (tmp_path / "artifacts/zoo/first/weights.safetensors").unlink()
    assert "recorded another hash" in record_mismatches(tmp_path)[0]


def test_every_difference_of_results_is_found(tmp_path):
    make_results(tmp_path)
    before = results_of(tmp_path)
    assert differences(before, before) == ""
    (tmp_path / "artifacts/zoo/first/.weights.safetensors.x.part").write_bytes(b"we")
    assert "1 not expected" in differences(results_of(tmp_path), before)
    (tmp_path / "artifacts/zoo/first/weights.safetensors").write_bytes(b"other weights")
    assert "1 different" in differences(results_of(tmp_path), before)
    (tmp_path / "artifacts/zoo/first/provenance.json").unlink()
    assert "1 missing: artifacts/zoo/first/provenance.json" in differences(results_of(tmp_path), before)


def test_a_traceback_and_a_demand_for_unlock_are_found(tmp_path):
    project = Project(tmp_path, Reference(tmp_path, tmp_path, (), tmp_path, {}, {}))
    project.folder.mkdir()
    run = project.run("-c", "raise ValueError('a value')", command="python")
    assert project.problems == ["traceback in output: ValueError: a value"]
    assert not project.refused(run)
    project.problems.clear()
    project.run("-c", "raise KeyboardInterrupt", command="python")  # as Python prints it before our code runs
    assert not project.problems
    (project.folder / "job.py").write_text("raise KeyboardInterrupt")
    project.run(str(project.folder / "job.py"), command="python")
    assert project.problems == ["traceback in output: KeyboardInterrupt"]
    refusal = project.run("-c", "import sys; print('datafree: in use'); sys.exit(2)", command="python")
    assert project.refused(refusal)


def test_the_processes_of_a_trial_are_found_even_without_their_parent(tmp_path):
    project = Project(tmp_path, Reference(tmp_path, tmp_path, (), tmp_path, {}, {}))
    project.folder.mkdir()
    run = project.start("-c", "sleep 600 & echo $!", command="bash")
    assert run.wait(60)
    # a process shows no environment for a moment while it starts its program
    assert wait_until(lambda: [process.pid for process in project.processes()] == [int(run.output())], 60)
    project.kill_all()
    assert wait_until(lambda: not project.processes(), 60)


def test_the_table_counts_survivors_and_names_what_was_skipped():
    lines = [
        {"fault": "moved", "seed": 0, "survived": True, "byte_equal": True},
        {"fault": "moved", "seed": 1, "survived": False, "byte_equal": True},
        {"fault": "full disk", "seed": 0, "skipped": "not root"},
        {"fault": "kill job, SIGTERM", "seed": 0, "survived": False, "byte_equal": False},
    ]
    rows = faults.table(lines).splitlines()[2:]
    assert rows[:2] == ["| kill job, SIGTERM | 0 / 1 | 0 |", "| moved | 1 / 2 | 2 |"]
    assert rows[2:] == ["| full disk | skipped: not root | |", "| all | 1 / 3 | 2 |"]


def test_the_settings_file_is_changed_and_its_text_returned(tmp_path):
    project = Project(tmp_path, Reference(tmp_path, tmp_path, ("params.yaml",), tmp_path, {}, {}))
    project.folder.mkdir()
    text = "evaluation: {episodes: 20, split: test}\n"
    (project.folder / "params.yaml").write_text(text)
    assert project.change_settings({"evaluation": {"episodes": 24}}) == text
    assert yaml.safe_load((project.folder / "params.yaml").read_text()) == {"evaluation": {"episodes": 24, "split": "test"}}
