"""The MLflow store of a project: opening it under a lock, what its errors mean, and the folder of its artifacts. Imports mlflow.

The store of a project is ``mlflow.db`` in its folder, with the artifacts (images, curves, records) in ``mlartifacts`` beside it, unless
the environment variable MLFLOW_TRACKING_URI names another store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from datafree.errors import UserError
from datafree.workflow.finished_jobs import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
MARKER = ".datafree"  # a file in the artifact folder: the folder was made for the store beside it
RUN_FOLDER = re.compile(r"[0-9a-f]{32}")
# Limits of MLflow.
KEY_LENGTH, PARAMETER_LENGTH, TAG_LENGTH, PARAMETERS_PER_CALL, METRICS_PER_CALL = 250, 6000, 5000, 100, 1000


@dataclass(frozen=True)
class Store:
    """One MLflow experiment. ``created``: when it was created, in milliseconds since 1970; a new store has another time."""

    client: MlflowClient
    experiment: str
    created: int

    def search(self, filter_string: str) -> Iterator[Run]:
        """All runs of the experiment that match a filter."""
        token = None
        while True:
            page = self.client.search_runs([self.experiment], filter_string, max_results=500, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def log(
        self, run_id: str, parameters: Mapping[str, str] | None = None, metrics: Iterable[tuple[str, float, int]] = (), at: int = 0
    ) -> None:
        """Log flat parameters, and metrics (name, value, step) at a time in milliseconds since 1970."""
        from mlflow.entities import Metric, Param

        params = [Param(_key(name), value[:PARAMETER_LENGTH]) for name, value in (parameters or {}).items()]
        for start in range(0, len(params), PARAMETERS_PER_CALL):
            self.client.log_batch(run_id, params=params[start : start + PARAMETERS_PER_CALL])
        points = [Metric(_key(name), value, at, step) for name, value, step in metrics]
        for start in range(0, len(points), METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=points[start : start + METRICS_PER_CALL])


def _key(name: str) -> str:
    """The name with characters and length that MLflow accepts."""
    return re.sub(r"[^\w\-. /]", "_", name)[:KEY_LENGTH]


def store_uri(project: Path) -> str:
    """The address of the project's store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_store_folder(project) / DATABASE}"


def _store_folder(project: Path) -> Path:
    """The folder of the store. DVC runs queued experiments in temporary copies of the project; DVC_ROOT is then the original."""
    return Path(os.environ.get("DVC_ROOT", project)).absolute()


@contextlib.contextmanager
def open_store(project: Path, experiment: str, timeout: float) -> Iterator[Store]:
    """The experiment in the store of a project, created if it is missing.

    Under a lock, so that no schema and no run is created twice; ``timeout``: seconds to wait for it, and for the database.

    Raises:
        UserError: the store cannot be used; one line with the cause.
    """
    with store_problems(project):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that does not respond must not delay the pipeline
        from filelock import FileLock
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # failures arrive as exceptions, which are printed as one line
        folder, uri = _store_folder(project), store_uri(project)
        database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
        lock = Path(f"{database or folder / DATABASE}.lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=timeout):
            own = database == folder / DATABASE
            if database and database.exists():
                _check_database(database, timeout)
                if own:
                    _move_artifacts(database, folder / ARTIFACTS)
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                if own and not _in_use(client, folder / ARTIFACTS):
                    _remove_earlier_runs(folder / ARTIFACTS)
                # A server has its own setting for the artifact location.
                location = (folder / ARTIFACTS).as_uri() if database else None
                found = client.get_experiment(client.create_experiment(experiment, artifact_location=location))
            if own and found.artifact_location == (folder / ARTIFACTS).as_uri():
                _mark(folder / ARTIFACTS)
            yield Store(client, found.experiment_id, found.creation_time or 0)


def store_file(project: Path) -> tuple[int, int] | None:
    """Device and inode of the project's own database; None if it has none."""
    try:
        status = (_store_folder(project) / DATABASE).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _in_use(client: MlflowClient, folder: Path) -> bool:
    """Whether an experiment of the store, deleted ones included, has its artifacts in a folder."""
    from mlflow.entities import ViewType

    return any(experiment.artifact_location == folder.as_uri() for experiment in client.search_experiments(view_type=ViewType.ALL))


def _remove_earlier_runs(folder: Path) -> None:
    """Remove the artifacts of an earlier store that was deleted: folders of runs, and only where the marker shows whose they are."""
    for path in folder.iterdir() if (folder / MARKER).is_file() else ():
        if RUN_FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def _mark(folder: Path) -> None:
    if not (folder / MARKER).is_file():
        folder.mkdir(exist_ok=True)
        (folder / MARKER).write_text(
            f"Artifacts of the runs in {DATABASE}. If it is deleted, the next store removes them.\n", encoding="utf-8"
        )


def _move_artifacts(database: Path, folder: Path) -> None:
    """Let the experiments and runs of a project that was moved find their artifacts.

    MLflow stores absolute paths, and its API cannot change them. Of the locations in the database, those in a folder ``mlartifacts``
    were written by ``open_store``; the folder is now the one beside the database.
    """
    with contextlib.closing(sqlite3.connect(database)) as connection:
        stored = connection.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
        moved = [(number, old) for number, old in stored if old and old != folder.as_uri() and _is_artifact_folder(old)]
        for number, old in moved:
            connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (folder.as_uri(), number))
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (folder.as_uri(), len(old) + 1, number, len(old) + 1, f"{old}/"),
            )
        connection.commit()


def _is_artifact_folder(location: str) -> bool:
    parts = urlsplit(location)
    return parts.scheme == "file" and Path(unquote(parts.path)).name == ARTIFACTS


def _check_database(database: Path, timeout: float) -> None:
    """Check first what MLflow would retry for a minute, or report by an error of a later statement.

    Raises:
        UserError: damaged, locked, not writable, or of another version of MLflow.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=timeout, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE datafree_write_test (value INTEGER)")  # writes the journal, then nothing
        connection.execute("ROLLBACK")
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
    import mlflow

    migrations = Path(mlflow.__file__).parent / "store/db_migrations/versions"
    if migrations.is_dir() and not any(migrations.glob(f"{version}_*.py")):
        raise UserError(f"written by a newer MLflow than the installed {mlflow.__version__}, install that version or move the file away")


@contextlib.contextmanager
def store_problems(project: Path) -> Iterator[None]:
    """Turn every error of a store into one line with its cause and what to do.

    Raises:
        UserError: the block raised an exception.
    """
    try:
        yield
    except Exception as error:  # MLflow, SQLAlchemy, file system and network have different error types
        raise UserError(_line(project, error)) from None


def _line(project: Path, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"tracking: {error.name} is not installed; results are safe, install datafree[workflow] and repeat with `datafree track`"
    if isinstance(error, UserError) and str(error).startswith("tracking: "):  # of an inner block
        return str(error)
    where = re.sub(r"//[^/@]*@", "//", f"{store_uri(project)}: {_cause(project, error)}")  # without a password in a server's address
    return f"tracking: MLflow store {where}; results are safe, repeat with `datafree track`"


# Message of SQLite or the system, and what it means here.
CAUSES = {
    "readonly database|unable to open database|Permission denied|Read-only file system": "not writable",
    "not a database|malformed|disk image": "damaged, delete it or move it away",
    "database is locked|file lock": "locked by another process",
    "disk is full|No space left": "the disk is full",
    "out-of-date database schema": "written by an older MLflow, run `mlflow db upgrade` with this address",
}


def _cause(project: Path, error: Exception) -> str:
    """What an error means, and the message of the library that noticed it first."""
    first: BaseException = error
    while inner := first.__cause__ or (first.__context__ if not first.__suppress_context__ else None):
        if not isinstance(inner, Exception) or isinstance(first, (sqlite3.Error, UserError)):
            break
        first = inner
    message = one_line(first)
    for pattern, cause in CAUSES.items():
        if re.search(pattern, f"{message} {error}", re.IGNORECASE):
            return f"{cause} ({message})"
    return message
