"""Logging to a real MLflow store: every job once, grouped by execution, without effect on results."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import ANY

import pytest

from datafree import artifacts
from datafree.errors import UserError
from datafree.workflow import tracking

CONFIG = {
    "seed": 0,
    "meta": {"seeds": [0, 1], "arms": {"bell": {"method": "bell", "steps": 7}}},
    "evaluation": {"way": 5, "episodes": 600},
    "tracking": {"enabled": True, "experiment": "study"},
}


def finish(project: Path, stage: str, wildcards: dict, config: dict, files: dict, folder: str, inputs: list[str] | None = None) -> Path:
    """Write outputs and record as a job does; returns the folder."""
    (project / folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = project / folder / name
        path.write_bytes(content) if isinstance(content, bytes) else artifacts.write_json(path, content)
    record = {"stage": stage, "wildcards": wildcards, "config": config, "code": {"modules": [], "hash": "c0de"}}
    record |= {"inputs": {path: artifacts.sha256(project / path) for path in inputs or ()}}
    record |= {"outputs": {f"{folder}/{name}": artifacts.sha256(project / folder / name) for name in files}}
    artifacts.write_json(project / folder / "provenance.json", record)
    return project / folder


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store with empty tables, made once, because creating them takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME"):
            patch.delenv(name, raising=False)
        assert tracking.log_all(folder, CONFIG, "g") == 0
    database = folder / "mlflow.db"
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM experiments WHERE name = 'study'")
    connection.close()
    return database


@pytest.fixture
def project(tmp_path, monkeypatch, empty_store):
    """A project with a teacher, two seeds of an arm, and their evaluation."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    card = {"name": "latin", "architecture": {"name": "conv4", "width": 32}, "mean": [0.5], "accuracy": {"mean": 0.97, "n": 120}}
    finish(tmp_path, "teacher", {"teacher": "latin"}, {"seed": 0}, {"card.json": card, "weights.safetensors": b"1"}, "artifacts/zoo/latin")
    for seed in (0, 1):
        learner(tmp_path, seed)
    evaluation(tmp_path)
    return tmp_path


def learner(project: Path, seed: int, loss: float = 0.5, arm: str = "bell") -> Path:
    curve = "step,loss\n" + "".join(f"{step},{loss + 1 / (1 + step)}\n" for step in range(1200))
    files = {"history.csv": curve.encode(), "metrics.json": {"loss": loss}, "learner.safetensors": b"2"}
    config = {f"meta.arms.{arm}": {"method": "bell", "steps": 7}, "seed": 0}
    return finish(project, "learner", {"arm": arm, "seed": str(seed)}, config, files, f"artifacts/meta/{arm}/seed{seed}")


def evaluation(project: Path, episodes: int = 600) -> Path:
    def result(mean):
        per_seed = [{"seed": seed, "mean": mean + seed / 100, "interval": 0.01, "n": episodes} for seed in (0, 1)]
        return {"mean": mean, "interval": 0.007, "n": 2 * episodes, "per_seed": per_seed}

    shared = {"description": "d", "networks": 1, "parameters": 9}
    rows = [
        {"name": "bell", "kind": "arm", "seeds": [0, 1], "shots": {"1": result(0.61), "5": result(0.82)}, **shared},
        {"name": "bell transductive", "variant": "transductive", "kind": "arm", "seeds": [0, 1], "shots": {"1": result(0.64)}, **shared},
        {"name": "pixels", "kind": "baseline", "seeds": [0], "shots": {"1": result(0.33)}, **shared},
    ]
    results = {"computed_on": ["float32 on x86_64 AVX2"], "split": "test", "way": 5, "query": 15, "episodes": episodes, "rows": rows}
    inputs = [f"artifacts/meta/bell/seed{seed}/learner.safetensors" for seed in (0, 1)]
    config = {"evaluation": {"way": 5, "episodes": episodes}}
    return finish(project, "few_shot", {}, config, {"results.json": results, "plot.png": b"png"}, "artifacts/evaluation/few_shot", inputs)


def client(project: Path):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")


def runs(project: Path) -> dict:
    """Every run of the store by name."""
    store = client(project)
    found = store.search_runs([store.get_experiment_by_name("study").experiment_id])
    by_name = {run.info.run_name: run for run in found}
    assert len(by_name) == len(found)
    return by_name


def test_every_job_is_logged_once_under_one_parent(project):
    assert tracking.log_all(project, CONFIG, "first") == 4
    first = runs(project)
    assert set(first) == {"pipeline first", "teacher/latin", "learner/bell/0", "learner/bell/1", "few_shot"}
    assert tracking.log_all(project, CONFIG, "first") == 0
    again = runs(project)
    assert set(again) == set(first)

    parent = again["pipeline first"]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["meta.arms.bell.steps"] == "7"
    assert (parent.data.tags["datafree.jobs_total"], parent.data.tags["datafree.jobs_reused"]) == ("4", "0")
    assert "| bell | 1 | 9 | 2 | 1200 | 61.0 ± 0.7 | 82.0 ± 0.7 |" in parent.data.tags["mlflow.note.content"]
    assert {run.data.tags.get("mlflow.parentRunId") for name, run in again.items() if name != "pipeline first"} == {parent.info.run_id}

    run = again["learner/bell/1"]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"meta.arms.bell.method": "bell", "meta.arms.bell.steps": "7", "seed": "0"}
    assert {key: run.data.tags[f"datafree.{key}"] for key in ("stage", "arm", "seed", "groups")} == {
        "stage": "learner",
        "arm": "bell",
        "seed": "1",
        "groups": "first",
    }
    record = project / "artifacts/meta/bell/seed1/provenance.json"
    assert run.data.tags["datafree.fingerprint"] == artifacts.sha256(record)
    assert run.info.end_time == record.stat().st_mtime_ns // 10**6
    store = client(project)
    assert {file.path for file in store.list_artifacts(run.info.run_id)} == {"history.csv", "metrics.json", "provenance.json"}
    assert {file.path for file in store.list_artifacts(parent.info.run_id)} == {"jobs.json"}
    assert again["teacher/latin"].data.metrics == {"accuracy": 0.97, "accuracy_n": 120.0}


def test_curves_and_headline_numbers(project):
    artifacts.write_json(project / "logs/timings/learner/bell.0.json", {"seconds": 2.5})
    for _ in range(2):
        tracking.log_all(project, CONFIG, "first")
    found, store = runs(project), client(project)
    run = found["learner/bell/0"]
    curve = store.get_metric_history(run.info.run_id, "history/loss")
    assert [(point.step, point.value) for point in sorted(curve, key=lambda point: point.step)] == [
        (step, pytest.approx(0.5 + 1 / (1 + step))) for step in range(1200)
    ]
    assert run.info.end_time - run.info.start_time == 2500
    assert run.data.metrics["accuracy_1shot"] == 0.61
    assert run.data.metrics["accuracy_1shot_transductive"] == 0.64
    assert run.data.metrics["accuracy_5shot_interval"] == 0.01
    assert found["learner/bell/1"].data.metrics["accuracy_1shot"] == pytest.approx(0.62)
    headline = found["pipeline first"].data.metrics
    assert (headline["bell/accuracy_5shot"], headline["bell/accuracy_5shot_interval"]) == (0.82, 0.007)
    assert headline["pixels/accuracy_1shot"] == 0.33
    # Logged twice, stored once.
    assert len(store.get_metric_history(found["pipeline first"].info.run_id, "bell/accuracy_5shot")) == 1
    assert len(store.get_metric_history(run.info.run_id, "accuracy_1shot")) == 1


def test_a_second_execution_logs_only_what_is_new(project, capsys):
    tracking.log_all(project, CONFIG, "first")
    changed = {**CONFIG, "evaluation": {"way": 5, "episodes": 900}}
    evaluation(project, episodes=900)
    learner(project, 0, arm="gone")  # an arm of neither configuration
    assert tracking.log_all(project, changed, "second") == 2
    assert capsys.readouterr().err == "tracking: 1 of 5 jobs were computed under another configuration; they get no parent run\n"
    store = client(project)
    found = store.search_runs([store.get_experiment_by_name("study").experiment_id])
    parents = {run.data.tags["datafree.group"]: run for run in found if "datafree.group" in run.data.tags}
    assert set(parents) == {"first", "second"}
    second = parents["second"]
    assert (second.data.tags["datafree.jobs_total"], second.data.tags["datafree.jobs_reused"]) == ("4", "3")
    children = {run.info.run_name for run in found if run.data.tags.get("mlflow.parentRunId") == second.info.run_id}
    assert children == {"few_shot"}
    (gone,) = [run for run in found if run.info.run_name == "learner/gone/0"]
    assert "mlflow.parentRunId" not in gone.data.tags
    (reused,) = [run for run in found if run.info.run_name == "learner/bell/0"]
    assert reused.data.tags["datafree.groups"] == "first second"
    assert second.data.metrics["bell/accuracy_1shot_n"] == 1800

    # The arm is configured again: its run gets the parent and is not repeated.
    with_arm = {**CONFIG, "meta": {"arms": {"gone": {"method": "bell", "steps": 7}}}}
    assert tracking.log_all(project, with_arm, "third") == 0
    run = store.get_run(gone.info.run_id)
    assert run.data.tags["datafree.groups"] == "third"
    assert store.get_run(run.data.tags["mlflow.parentRunId"]).data.tags["datafree.group"] == "third"


def test_without_a_job_of_this_configuration_there_is_no_parent(project):
    assert tracking.log_all(project, {**CONFIG, "seed": 9, "evaluation": {}}, "first") == 4
    assert set(runs(project)) == {"teacher/latin", "learner/bell/0", "learner/bell/1", "few_shot"}


def test_the_same_group_with_another_configuration_is_another_parent(project):
    tracking.log_all(project, CONFIG, "same")
    tracking.log_all(project, {**CONFIG, "seed": 5}, "same")
    store = client(project)
    found = store.search_runs([store.get_experiment_by_name("study").experiment_id], "tags.`datafree.group` = 'same'")
    assert sorted(run.data.params["seed"] for run in found) == ["0", "5"]


def test_a_result_goes_only_to_the_learner_that_was_evaluated(project):
    folder = learner(project, 0, loss=0.25)
    (folder / "learner.safetensors").write_bytes(b"3")
    learner_job = artifacts.read_json(folder / "provenance.json")
    learner_job["outputs"]["artifacts/meta/bell/seed0/learner.safetensors"] = artifacts.sha256(folder / "learner.safetensors")
    artifacts.write_json(folder / "provenance.json", learner_job)
    tracking.log_all(project, CONFIG, "first")
    assert "accuracy_1shot" not in runs(project)["learner/bell/0"].data.metrics
    assert "accuracy_1shot" in runs(project)["learner/bell/1"].data.metrics


def test_a_locked_store_loses_nothing(project, capsys):
    tracking.log_all(project, CONFIG, "first")
    learner(project, 1, loss=0.125)
    before = {path: path.read_bytes() for path in project.glob("artifacts/**/*") if path.is_file()}
    other = sqlite3.connect(project / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(UserError) as caught:
            tracking.log_all(project, CONFIG, "first", timeout=0.1)
        tracking.follow(project, CONFIG, "first", descriptor=closed_pipe(), every=0.01, timeout=0.1)
    finally:
        other.execute("ROLLBACK")
        other.close()
    line = str(caught.value)
    assert line.startswith(f"tracking: MLflow store sqlite:///{project}/mlflow.db: locked by another process (database is locked); ")
    assert line.endswith("; results are safe, repeat with `datafree track`")
    assert capsys.readouterr().err == f"{line}\n"
    assert {path: path.read_bytes() for path in project.glob("artifacts/**/*") if path.is_file()} == before
    assert tracking.log_all(project, CONFIG, "first") == 1


def test_an_unreachable_server_is_reported_in_one_line_without_its_password(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError) as caught:
        tracking.log_all(project, CONFIG, "first")
    line = str(caught.value)
    assert line.startswith("tracking: MLflow store http://127.0.0.1:9: ")
    assert line.endswith("; results are safe, repeat with `datafree track`")
    assert "secret" not in line
    assert "\n" not in line


def test_without_mlflow_the_message_names_what_to_install(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"^tracking: mlflow is not installed; results are safe, install datafree\[workflow\]"):
        tracking.log_all(project, CONFIG, "first")


def test_unreadable_files_are_skipped_with_one_line(project, capsys):
    (project / "artifacts/zoo/latin/provenance.json").write_text("{")
    (project / "artifacts/meta/bell/seed0/metrics.json").write_text('{"loss": 0.1}')
    assert tracking.log_all(project, CONFIG, "first") == 2
    assert [line.partition(": skipped: ")[0::2] for line in capsys.readouterr().err.splitlines()] == [
        (
            "tracking: artifacts/meta/bell/seed0/provenance.json",
            "artifacts/meta/bell/seed0/metrics.json is missing or differs from the record; rerun learner/bell/0",
        ),
        ("tracking: artifacts/zoo/latin/provenance.json", ANY),
    ]
    assert set(runs(project)) == {"pipeline first", "learner/bell/1", "few_shot"}
    learner(project, 0)
    assert tracking.log_all(project, CONFIG, "first") == 1


def test_a_half_logged_job_is_logged_again(project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "LARGEST_COPY", "not a size")  # fails between the metrics and the end of the first run
        with pytest.raises(UserError):
            tracking.log_all(project, CONFIG, "first")
    assert [run.info.status for name, run in runs(project).items() if name != "pipeline first"] == ["RUNNING"]
    assert tracking.log_all(project, CONFIG, "first") == 4
    assert {run.info.status for run in runs(project).values()} == {"FINISHED"}


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def test_follow_logs_until_the_pipe_is_closed(project):
    reading, writing = os.pipe()
    states = []

    def pipeline():
        deadline = time.monotonic() + 300
        try:
            os.write(writing, b"still here\n")
            while time.monotonic() < deadline and client(project).get_experiment_by_name("study") is None:
                time.sleep(0.02)
            while time.monotonic() < deadline and "few_shot" not in runs(project):
                time.sleep(0.02)
            states.append(runs(project)["pipeline first"].info.status)
            learner(project, 2)
        finally:
            os.close(writing)

    thread = threading.Thread(target=pipeline)
    thread.start()
    tracking.follow(project, CONFIG, "first", descriptor=reading, every=0.05)
    thread.join()
    os.close(reading)
    assert states == ["RUNNING"]
    assert runs(project)["learner/bell/2"].info.status == "FINISHED"
    assert runs(project)["pipeline first"].info.status == "FINISHED"


def passes(project: Path, monkeypatch, *between) -> list[float]:
    """Follow with one pass before each call of ``between``, and the last one; the seconds that each would wait for the next."""
    waits, calls = [], iter(between)

    def wait(descriptor, seconds):
        waits.append(seconds)
        call = next(calls, None)
        if call:
            call()
        return call is None

    monkeypatch.setattr(tracking, "_reached_end", wait)
    assert tracking.follow(project, CONFIG, "first")
    return waits


def test_a_pass_reads_new_records_only_and_looks_up_all_runs_once(project, monkeypatch):
    read, searched = [], []
    read_job, search = tracking.read_finished_job, tracking.Store.search
    monkeypatch.setattr(tracking, "read_finished_job", lambda folder, record: read.append(str(record)) or read_job(folder, record))
    monkeypatch.setattr(tracking.Store, "search", lambda store, text: searched.append(text) or search(store, text))

    def first_pass():
        assert {"artifacts/zoo/latin/provenance.json", "artifacts/meta/bell/seed0/provenance.json"} <= set(read)
        assert searched.count("tags.`datafree.fingerprint` != ''") == 1
        read.clear(), searched.clear()

    def new_teacher():
        assert (read, searched) == ([], [])
        finish(project, "teacher", {"teacher": "greek"}, {"seed": 0}, {"card.json": {"accuracy": 0.5}}, "artifacts/zoo/greek")

    def teacher_is_logged():
        assert read == ["artifacts/zoo/greek/provenance.json"]
        assert len(searched) == 1
        assert "fingerprint` = '" in searched[0]
        assert runs(project)["teacher/greek"].info.status == "FINISHED"
        read.clear(), searched.clear()

    passes(project, monkeypatch, first_pass, new_teacher, teacher_is_logged)
    assert (read, searched) == ([], [])
    assert runs(project)["pipeline first"].data.tags["datafree.jobs_total"] == "5"


def test_an_expensive_pass_is_followed_by_a_longer_wait(project, monkeypatch):
    used = iter([20.0, 20.1, 20.1, 23.1, 23.1, 100.0, 100.0])
    monkeypatch.setattr(tracking.time, "process_time", lambda: next(used))
    monkeypatch.setattr(tracking._Logging, "run_pass", lambda logging, last: 0)
    waits = passes(project, monkeypatch, int, int, int)
    assert waits == [15.0, 15.0, pytest.approx(75.0), 300.0]


def test_a_store_deleted_while_following_is_complete_at_the_end(project):
    """MLflow keeps the deleted file open: the process starts itself again, as the command does."""
    call = (
        "import json, os, sys; from datafree.workflow import tracking\n"
        "if not tracking.follow('.', json.loads(sys.argv[1]), 'first', every=0.1): os.execv(sys.executable, sys.orig_argv)"
    )
    command = [sys.executable, "-c", call, json.dumps(CONFIG)]
    with subprocess.Popen(command, cwd=project, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: len(finished_runs(project)) == 4)
            store = project / "mlflow.db"
            store.rename(project / "old.db")
            wait_for(store.exists)
            learner(project, 2)
            _, error = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 0, error
    assert {"teacher/latin", "learner/bell/0", "learner/bell/1", "learner/bell/2", "few_shot"} == finished_runs(project) - {"pipeline"}
    assert len(list((project / "mlartifacts").iterdir())) == 7  # five jobs, their parent, and the marker: those of the old store are gone
    assert "Traceback" not in error


def finished_runs(project: Path) -> set[str]:
    """Names of the runs; through no client, because that keeps the file of a deleted store open."""
    with contextlib.closing(sqlite3.connect(f"file:{project}/mlflow.db?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT name FROM runs WHERE status = 'FINISHED'").fetchall()
    return {name if not name.startswith("pipeline") else "pipeline" for (name,) in found}


def wait_for(condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_follow_ends_on_interrupt_and_on_a_closed_descriptor(project):
    reading, writing = os.pipe()
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        wait_for(lambda: signal.getsignal(signal.SIGINT) is not before)  # an earlier one would end the test itself
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    tracking.follow(project, CONFIG, "first", descriptor=reading, every=0.05)
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    os.close(writing)
    os.close(reading)
    tracking.follow(project, CONFIG, "first", descriptor=reading, every=60)
    assert len(runs(project)) == 5


def test_the_group_is_dvcs_experiment_or_configuration_and_commit(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    outside = tracking.group_key(tmp_path, CONFIG)
    assert len(outside) == 12
    assert outside == tracking.group_key(tmp_path, dict(reversed(CONFIG.items())))
    assert outside != tracking.group_key(tmp_path, {**CONFIG, "seed": 1})
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    assert outside == tracking.group_key(tmp_path, CONFIG)  # no commit yet
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "m"], check=True)
    assert outside != tracking.group_key(tmp_path, CONFIG)
    monkeypatch.setenv("DVC_EXP_NAME", "puffy-ices")
    assert tracking.group_key(tmp_path, CONFIG) == "puffy-ices"


def test_a_temporary_copy_logs_to_the_original_project(project, tmp_path_factory, monkeypatch):
    copy = tmp_path_factory.mktemp("copy")
    monkeypatch.chdir(copy)
    learner(copy, 0)
    monkeypatch.setenv("DVC_ROOT", str(project))
    assert tracking.log_all(copy, CONFIG, "first") == 1
    assert "learner/bell/0" in runs(project)
    assert not (copy / "mlflow.db").exists()
