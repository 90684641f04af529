"""The store of a project: what is wrong with it in one line, and its artifacts after it was deleted or its project moved."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from datafree import artifacts
from datafree.errors import UserError
from datafree.workflow import mlflow_store, tracking

CONFIG = {"seed": 0, "tracking": {"enabled": True, "experiment": "study"}}
RESULTS_ARE_SAFE = "; results are safe, repeat with `datafree track`"


def finish(project: Path, name: str) -> None:
    """The outputs and the record of a teacher."""
    folder = Path("artifacts/zoo") / name
    artifacts.write_json(project / folder / "card.json", {"accuracy": 0.5})
    outputs = {str(folder / "card.json"): artifacts.sha256(project / folder / "card.json")}
    record = {
        "stage": "teacher",
        "wildcards": {"teacher": name},
        "config": {"seed": 0},
        "code": {"hash": "0"},
        "inputs": {},
        "outputs": outputs,
    }
    artifacts.write_json(project / folder / "provenance.json", record)


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> Path:
    """A project with one logged job, made once, because creating the tables takes seconds."""
    folder = tmp_path_factory.mktemp("logged")
    finish(folder, "latin")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert tracking.log_all(folder, CONFIG, "g") == 1
    return folder


@pytest.fixture
def project(logged, tmp_path, monkeypatch) -> Path:
    """A copy of the project at another place."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(logged, tmp_path / "my study")
    return tmp_path / "my study"


def downloaded(project: Path, target: Path) -> dict[str, str]:
    """The card of every teacher's run, by name of the run, as the MLflow client gets it."""
    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("study").experiment_id], "tags.`datafree.stage` = 'teacher'")
    cards = {}
    for run in found:
        assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"card.json", "provenance.json"}
        place = target / run.info.run_id
        place.mkdir(parents=True)
        cards[run.info.run_name] = Path(client.download_artifacts(run.info.run_id, "card.json", str(place))).read_text()
        assert str(project.as_uri()) in run.info.artifact_uri
    return cards


def problem(project: Path, timeout: float = 0.2) -> str:
    """The line that names what is wrong with the store; the pipeline's process prints the same one and ends normally."""
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(UserError) as caught:
        tracking.log_all(project, CONFIG, "g", timeout=timeout)
    assert tracking.follow(project, CONFIG, "g", descriptor=reading, every=0.01, timeout=timeout)
    os.close(reading)
    prefix = f"tracking: MLflow store sqlite:///{project}/mlflow.db: "
    line = str(caught.value)
    assert line.startswith(prefix)
    assert line.endswith(RESULTS_ARE_SAFE)
    return line.removeprefix(prefix).removesuffix(RESULTS_ARE_SAFE)


def test_artifacts_are_found_after_a_project_was_moved(project, tmp_path):
    finish(project, "greek")
    assert tracking.log_all(project, CONFIG, "g") == 1  # the copy of a store writes to its own folder
    assert set(downloaded(project, tmp_path / "a")) == {"teacher/latin", "teacher/greek"}
    moved = tmp_path / "renamed #2"
    project.rename(moved)
    finish(moved, "arabic")
    assert tracking.log_all(moved, CONFIG, "g") == 1
    assert not project.exists()
    assert set(downloaded(moved, tmp_path / "b")) == {"teacher/latin", "teacher/greek", "teacher/arabic"}


def test_the_artifacts_of_other_experiments_stay_where_they_are(project):
    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    experiment = client.create_experiment("of the user", artifact_location="file:///data/pictures")
    run = client.create_run(experiment).info.run_id
    tracking.log_all(project, CONFIG, "g")
    assert client.get_experiment(experiment).artifact_location == "file:///data/pictures"
    assert client.get_run(run).info.artifact_uri == f"file:///data/pictures/{run}/artifacts"


def log_in_new_process(project: Path) -> None:
    """For a store that is deleted: MLflow keeps its file open in this process."""
    call = f"from pathlib import Path; from datafree.workflow import tracking; tracking.log_all(Path.cwd(), {CONFIG}, 'g')"
    subprocess.run([sys.executable, "-c", call], cwd=project, check=True)


def run_folders(project: Path) -> set[str]:
    return {path.name for path in (project / "mlartifacts").iterdir() if len(path.name) == 32}


def test_a_deleted_store_takes_its_artifacts_along(project, tmp_path):
    before = run_folders(project)
    assert len(before) == 2  # the job and its parent
    (project / "mlartifacts/1/notes").mkdir(parents=True)  # where a server of MLflow keeps the artifacts of a user's own runs
    (project / "mlartifacts/README").write_text("mine")
    log_in_new_process(project)
    assert run_folders(project) == before
    (project / "mlflow.db").unlink()
    log_in_new_process(project)
    after = run_folders(project)
    assert len(after) == 2
    assert not before & after
    assert (project / "mlartifacts/1/notes").is_dir()
    assert (project / "mlartifacts/README").read_text() == "mine"
    assert set(downloaded(project, tmp_path / "a")) == {"teacher/latin"}


def test_a_second_experiment_of_a_store_keeps_the_artifacts_of_the_first(project):
    before = run_folders(project)
    tracking.log_all(project, {**CONFIG, "tracking": {"enabled": True, "experiment": "second"}}, "g")
    assert before < run_folders(project)


def test_a_folder_without_the_marker_is_kept(project):
    before = run_folders(project)
    (project / "mlflow.db").unlink()
    (project / "mlartifacts" / mlflow_store.MARKER).unlink()
    log_in_new_process(project)
    assert before < run_folders(project)


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"\0garbage" * 1000])
def test_a_damaged_store(project, content):
    (project / "mlflow.db").write_bytes(content)
    assert problem(project) == "damaged, delete it or move it away (file is not a database)"
    (project / "mlflow.db").unlink()
    assert tracking.log_all(project, CONFIG, "g") == 1


def test_a_store_with_damaged_pages(project):
    content = (project / "mlflow.db").read_bytes()
    (project / "mlflow.db").write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    assert problem(project) == "damaged, delete it or move it away (database disk image is malformed)"


def test_a_store_that_another_process_writes_for_long(project):
    finish(project, "greek")
    with contextlib.closing(sqlite3.connect(project / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert problem(project) == "locked by another process (database is locked)"
    assert tracking.log_all(project, CONFIG, "g") == 1


def test_a_store_in_use_by_another_process_of_this_program(project):
    from filelock import FileLock

    with FileLock(project / "mlflow.db.lock"):
        assert problem(project).startswith("locked by another process (The file lock '")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("ffffffffffff", r"written by a newer MLflow than the installed [\d.]+, install that version or move the file away"),
        ("0584bdc529eb", r"written by an older MLflow, run `mlflow db upgrade` with this address \(Detected out-of-date .*\)"),
    ],
)
def test_a_store_of_another_version_of_mlflow(project, version, expected):
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
        connection.commit()
    assert re.fullmatch(expected, problem(project))


@contextlib.contextmanager
def other_user() -> Iterator[None]:
    """Without the rights of root, which may write to every file."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def foreign(project) -> Iterator[Path]:
    """The project in a folder that every user can read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shutil.copytree(project, folder / "project")
    yield folder / "project"
    shutil.rmtree(folder)


def test_a_read_only_store(foreign):
    finish(foreign, "greek")
    foreign.chmod(0o777)
    (foreign / "mlflow.db.lock").chmod(0o666)
    (foreign / "mlflow.db").chmod(0o444)
    with other_user():
        assert problem(foreign) == "not writable (attempt to write a readonly database)"
    (foreign / "mlflow.db").chmod(0o644)
    assert tracking.log_all(foreign, CONFIG, "g") == 1


def test_a_store_in_a_read_only_folder(foreign):
    (foreign / "mlflow.db.lock").chmod(0o666)
    (foreign / "mlflow.db").chmod(0o666)
    foreign.chmod(0o555)
    with other_user():
        assert problem(foreign) == "not writable (attempt to write a readonly database)"
    foreign.chmod(0o755)


def test_a_read_only_folder_without_a_store(foreign):
    for path in foreign.glob("mlflow.db*"):
        path.unlink()
    foreign.chmod(0o555)
    with other_user():
        assert problem(foreign) == f"not writable ([Errno 13] Permission denied: '{foreign}/mlflow.db.lock')"
    foreign.chmod(0o755)


def test_a_read_only_artifact_folder(foreign):
    finish(foreign, "greek")
    foreign.chmod(0o777)
    for path in foreign.glob("mlflow.db*"):
        path.chmod(0o666)
    (foreign / "mlartifacts").chmod(0o555)
    with other_user():
        assert problem(foreign).startswith("not writable ([Errno 13] Permission denied: '")
    (foreign / "mlartifacts").chmod(0o755)
    assert tracking.log_all(foreign, CONFIG, "g") == 1
