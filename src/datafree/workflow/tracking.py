"""MLflow tracking: logs finished jobs from their files. The only module that imports mlflow.

Stages do not use MLflow. This module reads the records, metrics, training curves and images of finished jobs and logs one run per job.
A run is tagged with the fingerprint of the job's record, so logging can be repeated at any time, and no result depends on the store.
The runs of one execution of the pipeline have one parent run.

Tags of a job's run: ``datafree.fingerprint`` (SHA-256 of its record), ``datafree.stage``, ``datafree.<wildcard>`` such as
``datafree.arm`` and ``datafree.seed``, and ``datafree.groups``, the executions that used the run, oldest first. A parent run has
``datafree.group`` and ``datafree.config``, and its ``jobs.json`` lists all jobs with their runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datafree import artifacts
from datafree.errors import UserError
from datafree.report import tables
from datafree.workflow.finished_jobs import FinishedJob, finished_jobs, flatten, numbers, one_line, record_states, warn

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FEW_SHOT_RESULTS = "artifacts/evaluation/few_shot/results.json"
LEARNER_STAGE = "learner"  # its wildcards are `arm` and `seed`
LARGEST_COPY = 32 * 2**20  # bytes; larger files are not copied into the store
# Limits of MLflow.
KEY_LENGTH, PARAMETER_LENGTH, TAG_LENGTH, PARAMETERS_PER_CALL, METRICS_PER_CALL = 250, 6000, 5000, 100, 1000


def group_key(project: str | Path, config_tree: Mapping[str, Any]) -> str:
    """The name of one execution of the pipeline: that of the DVC experiment, or a hash of resolved configuration and git commit."""
    if experiment := os.environ.get("DVC_EXP_NAME"):
        return experiment
    return hashlib.sha256(f"{_digest(config_tree)} {_commit(Path(project))}".encode()).hexdigest()[:12]


def log_all(project: str | Path, config_tree: Mapping[str, Any], group: str, *, timeout: float = 30.0) -> int:
    """Log every finished job of a project that has no run yet, and end the parent run of this execution.

    ``config_tree``: the resolved configuration. ``group``: the name of the execution (``group_key``). ``timeout``: seconds to wait for
    another process that logs to the same store. Returns the number of jobs logged by this call. A file that cannot be read is skipped
    with one line on standard error.

    Raises:
        UserError: the store cannot be used; the results are not affected.
    """
    try:
        return _log_finished_jobs(Path(project), config_tree, group, timeout=timeout, last=True)
    except Exception as error:  # MLflow, SQLAlchemy, file system and network have different error types
        raise UserError(_store_problem(Path(project), error)) from None


def follow(
    project: str | Path, config_tree: Mapping[str, Any], group: str, *, descriptor: int = 0, every: float = 15.0, timeout: float = 30.0
) -> None:
    """Log jobs as they finish, until the file ``descriptor`` (standard input) reaches its end; then log the remaining jobs and return.

    For a background process: the pipeline holds the other end of the pipe, which closes when the pipeline ends for any reason. Ctrl-C
    ends it too. Looks for new records every ``every`` seconds. Call from the main thread. Errors of the store are not raised but printed
    as one line on standard error; the next pass or ``log_all`` logs what is missing.
    """
    project = Path(project)
    logged: object = None
    printed: set[str] = set()
    with _record_interrupts() as interrupts:
        ended = False
        while not ended:
            records = record_states(project)
            if records != logged:
                try:
                    _log_finished_jobs(project, config_tree, group, timeout=timeout, last=False)
                    logged = records
                except Exception as error:  # as in `log_all`
                    _print_once(_store_problem(project, error), printed)
            ended = _reached_end(descriptor, every) or bool(interrupts)
        try:
            log_all(project, config_tree, group, timeout=timeout)
        except UserError as error:
            _print_once(str(error), printed)


def _log_finished_jobs(project: Path, config_tree: Mapping[str, Any], group: str, *, timeout: float, last: bool) -> int:
    """Log the jobs without a run. Before the ``last`` pass, jobs that differ from their record are skipped silently: they are running."""
    with _open_store(project, config_tree["tracking"]["experiment"], timeout) as store:
        jobs, problems = finished_jobs(project)
        for problem in problems if last else ():
            warn(problem)
        current = {job.fingerprint for job in jobs if job.belongs_to(config_tree)}
        if last and len(current) < len(jobs):
            warn(f"{len(jobs) - len(current)} of {len(jobs)} jobs were computed under another configuration; they get no parent run")
        commit = _commit(project)
        parent = store.parent(group, config_tree, commit) if current else None
        runs = store.logged_jobs()
        used: list[tuple[FinishedJob, Run]] = []
        logged = 0
        for job in jobs:
            job_parent = parent if job.fingerprint in current else None
            run = runs.get(job.fingerprint)
            if run is None or run.info.status != "FINISHED":
                if problem := job.changed_output(project):
                    if last:
                        warn(f"{job.record}: skipped: {problem} is missing or differs from the record; rerun {job.name}")
                    continue
                if run is not None:  # unfinished: its process was stopped
                    store.client.delete_run(run.info.run_id)
                run = store.log_job(project, job, job_parent, group, commit)
                logged += 1
            elif job_parent:
                store.link(run, job_parent, group)
            if job_parent:
                used.append((job, run))
        if parent:
            _log_headline(store, project, used, parent)
            store.describe(parent, used, group)
            store.client.update_run(parent, status="RUNNING")
            if last:
                store.client.set_terminated(parent, "FINISHED")
        return logged


def _log_headline(store: _Store, project: Path, used: Sequence[tuple[FinishedJob, Run]], parent: str) -> None:
    """Copy the few-shot results to the parent run and to the run of each arm and seed, so that MLflow's run table compares them.

    The run of an arm gets a result only if the evaluation read its outputs.
    """
    few_shot = next(((job, run) for job, run in used if FEW_SHOT_RESULTS in job.outputs), None)
    if few_shot is None or few_shot[0].changed_output(project):
        return
    evaluation, at = few_shot[0], few_shot[1].info.start_time  # a fixed time, so that repeated values replace each other
    results = artifacts.read_json(project / FEW_SHOT_RESULTS)
    store.log(parent, metrics=[(name, number, 0) for name, number in numbers(results)], at=at)
    store.client.set_tag(parent, "mlflow.note.content", tables.markdown_table(results)[:TAG_LENGTH])
    for job, run in used:
        if job.stage != LEARNER_STAGE or any(evaluation.inputs.get(path, digest) != digest for path, digest in job.outputs.items()):
            continue
        scores = {
            "_".join([f"accuracy_{shot}shot", *row.get("variant", "").split()]): of_seed
            for row in results["rows"]
            if row["kind"] == "arm" and row["name"] == " ".join([job.wildcards["arm"], row.get("variant", "")]).strip()
            for shot, result in row["shots"].items()
            for of_seed in result["per_seed"]
            if str(of_seed["seed"]) == job.wildcards["seed"]
        }
        store.log(run.info.run_id, metrics=[(name, number, 0) for name, number in numbers(scores)], at=at)


class _Store:
    """One MLflow experiment."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self.client = client
        self.experiment = experiment

    def search(self, filter_string: str) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment], filter_string, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def logged_jobs(self) -> dict[str, Run]:
        """Runs by fingerprint; an unfinished run only if there is no finished one."""
        runs: dict[str, Run] = {}
        for run in self.search("tags.`datafree.fingerprint` != ''"):
            fingerprint = run.data.tags["datafree.fingerprint"]
            if run.info.status == "FINISHED" or fingerprint not in runs:
                runs[fingerprint] = run
        return runs

    def parent(self, group: str, config_tree: Mapping[str, Any], commit: str) -> str:
        """Find or create the parent run of one execution. Parameters of a run cannot change, so another configuration has another run."""
        digest = _digest(config_tree)
        for run in self.search(f"tags.`datafree.config` = '{digest}'"):
            if run.data.tags.get("datafree.group") == group:
                return run.info.run_id
        tags = {"mlflow.runName": f"pipeline {group}", "datafree.group": group, "datafree.config": digest, **_source_tags(commit)}
        run_id = self.client.create_run(self.experiment, tags=tags).info.run_id
        self.log(run_id, flatten(config_tree))
        return run_id

    def log_job(self, project: Path, job: FinishedJob, parent: str | None, group: str, commit: str) -> Run:
        """Create the run of a job, without a parent if ``parent`` is None."""
        metrics = list(dict.fromkeys(job.metrics(project)))  # two files may hold the same number
        seconds = next((value for name, value, _ in metrics if name == "timing/seconds"), 0.0)
        tags = {f"datafree.{name}": value for name, value in job.wildcards.items()}
        tags |= {"datafree.stage": job.stage, "datafree.code": job.code, "datafree.fingerprint": job.fingerprint}
        tags |= {"mlflow.runName": job.name, **_source_tags(commit)}
        if parent:
            tags |= {"mlflow.parentRunId": parent, "datafree.groups": group}
        run = self.client.create_run(self.experiment, start_time=job.finished - round(1000 * seconds), tags=tags)
        self.log(run.info.run_id, flatten(job.config), metrics, job.finished)
        for path in job.readable_files():
            if (project / path).stat().st_size <= LARGEST_COPY:
                self.client.log_artifact(run.info.run_id, str(project / path))
        self.client.set_terminated(run.info.run_id, "FINISHED", end_time=job.finished)
        return run

    def link(self, run: Run, parent: str, group: str) -> None:
        """Add this execution to the tags of an earlier run, and set its parent if it has none."""
        groups = run.data.tags.get("datafree.groups", "").split()
        if group not in groups:
            self.client.set_tag(run.info.run_id, "datafree.groups", " ".join([*groups, group])[:TAG_LENGTH])
        if "mlflow.parentRunId" not in run.data.tags:
            self.client.set_tag(run.info.run_id, "mlflow.parentRunId", parent)

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

    def describe(self, parent: str, used: Sequence[tuple[FinishedJob, Run]], group: str) -> None:
        """List the jobs of an execution on its parent run, and count those that an earlier execution computed."""
        rows = [{"job": job.name, "fingerprint": job.fingerprint, "run": run.info.run_id} for job, run in used]
        reused = sum(run.data.tags.get("datafree.groups", group).split()[0] != group for _, run in used)
        self.client.log_dict(parent, {"jobs": rows}, "jobs.json")
        self.client.set_tag(parent, "datafree.jobs_total", str(len(rows)))
        self.client.set_tag(parent, "datafree.jobs_reused", str(reused))


@contextlib.contextmanager
def _open_store(project: Path, experiment: str, timeout: float) -> Iterator[_Store]:
    """The experiment in its store, under a lock, so that no schema and no run is created twice."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that does not respond must not delay the pipeline
    from filelock import FileLock
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures arrive as exceptions, which are printed as one line
    folder, uri = _store_folder(project), _store_uri(project)
    database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    lock = Path(f"{database or folder / 'mlflow.db'}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=timeout):
        if database and database.exists():
            _require_writable(database, timeout)
        client = MlflowClient(tracking_uri=uri)
        existing = client.get_experiment_by_name(experiment)
        if existing is None:
            # A server has its own setting for the artifact location.
            location = (folder / "mlartifacts").as_uri() if database else None
            yield _Store(client, client.create_experiment(experiment, artifact_location=location))
        else:
            yield _Store(client, existing.experiment_id)


def _require_writable(database: Path, timeout: float) -> None:
    # Checked first, because MLflow would retry for a minute.
    with contextlib.closing(sqlite3.connect(database, timeout=timeout, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def _store_folder(project: Path) -> Path:
    """The folder of the store. DVC runs queued experiments in temporary copies of the project; DVC_ROOT is then the original."""
    return Path(os.environ.get("DVC_ROOT", project)).absolute()


def _store_uri(project: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_store_folder(project) / 'mlflow.db'}"


def _source_tags(commit: str) -> dict[str, str]:
    return {"mlflow.source.name": "datafree", **({"mlflow.source.git.commit": commit} if commit else {})}


def _key(name: str) -> str:
    """The name with characters and length that MLflow accepts."""
    return re.sub(r"[^\w\-. /]", "_", name)[:KEY_LENGTH]


def _digest(config_tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config_tree, sort_keys=True).encode()).hexdigest()


def _commit(project: Path) -> str:
    """The git commit of the project; empty outside a git repository."""
    command = ["git", "-C", str(project), "rev-parse", "--verify", "--quiet", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return ""


def _store_problem(project: Path, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"tracking: {error.name} is not installed; results are safe, install datafree[workflow] and repeat with `datafree track`"
    where = re.sub(r"//[^/@]*@", "//", f"{_store_uri(project)}: {one_line(error)}")  # without a password in a server's address
    return f"tracking: MLflow store {where}; results are safe, repeat with `datafree track`"


def _print_once(line: str, printed: set[str]) -> None:
    if line not in printed:
        print(line, file=sys.stderr, flush=True)
    printed.add(line)


def _reached_end(descriptor: int, seconds: float) -> bool:
    """Whether the file reaches its end within ``seconds`` seconds."""
    try:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return bool(ready) and not os.read(descriptor, 65536)
    except OSError:  # closed: nothing to wait for
        return True


@contextlib.contextmanager
def _record_interrupts() -> Iterator[list[int]]:
    """Append Ctrl-C to the list instead of raising KeyboardInterrupt, so that a pass is completed before the process ends."""
    interrupts: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, previous)
