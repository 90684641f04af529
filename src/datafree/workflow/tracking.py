"""MLflow as a view of the files that the stages leave: the only module that imports mlflow.

No stage talks to MLflow. Every job leaves a provenance sidecar, and beside it metrics, curves and pictures; this module reads them and
logs one run per job, once: a run carries the fingerprint of its sidecar, so logging can be repeated at any time, and a locked,
missing or deleted store costs nothing but the view. The runs of one execution of the pipeline hang under one parent run.

Tags of a job's run: ``datafree.fingerprint`` (SHA-256 of its sidecar), ``datafree.stage``, ``datafree.<wildcard>`` such as
``datafree.arm`` and ``datafree.seed``, and ``datafree.groups``, the executions that used it, the first one first. A parent has
``datafree.group`` and ``datafree.config``, and its ``jobs.json`` lists every job with its run.
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
from datafree.workflow.finished_jobs import FinishedJob, finished_jobs, flatten, numbers, one_line, sidecar_states, tell

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FEW_SHOT_RESULTS = "artifacts/evaluation/few_shot/results.json"
LEARNER_STAGE = "learner"  # its wildcards are `arm` and `seed`
LARGEST_COPY = 32 * 2**20  # bytes; a larger file is not copied into the store
# MLflow's own limits.
KEY_LENGTH, PARAMETER_LENGTH, TAG_LENGTH, PARAMETERS_PER_CALL, METRICS_PER_CALL = 250, 6000, 5000, 100, 1000


def group_key(project: str | Path, config_tree: Mapping[str, Any]) -> str:
    """What names one execution of the pipeline: DVC's experiment, or else a hash of the resolved configuration and the git commit."""
    if experiment := os.environ.get("DVC_EXP_NAME"):
        return experiment
    return hashlib.sha256(f"{_digest(config_tree)} {_commit(Path(project))}".encode()).hexdigest()[:12]


def log_all(project: str | Path, config_tree: Mapping[str, Any], group: str, *, timeout: float = 30.0) -> int:
    """Log every finished job of a project that has no run yet, and close the parent run of this execution.

    ``config_tree`` is the resolved configuration; ``group`` names the execution (``group_key``); ``timeout`` is how many seconds to
    wait for another process that logs to the same store. Returns the number of jobs that were logged now. A file that cannot be
    read is skipped with a line on standard error.

    Raises:
        UserError: the store cannot be used; nothing is lost.
    """
    try:
        return _log_finished_jobs(Path(project), config_tree, group, timeout=timeout, last=True)
    except Exception as error:  # MLflow, SQLAlchemy, the file system and the network each bring their own
        raise UserError(_store_problem(Path(project), error)) from None


def follow(
    project: str | Path, config_tree: Mapping[str, Any], group: str, *, descriptor: int = 0, every: float = 15.0, timeout: float = 30.0
) -> None:
    """Log jobs as they finish, until the file ``descriptor`` (standard input) reaches its end; then log what is left and return.

    For a background process: the pipeline holds the other end of the pipe, so the end comes when the pipeline does, however it
    ends. Ctrl-C counts as the end too. Looks for new sidecars ``every`` so many seconds; call from the main thread. Never raises for
    trouble with the store: it says so in one line on standard error, and what was not logged then is logged by the next pass or by
    ``log_all``.
    """
    project = Path(project)
    seen: object = None
    told: set[str] = set()
    with _interrupt_noted() as interrupted:
        ended = False
        while not ended:
            sidecars = sidecar_states(project)
            if sidecars != seen:
                try:
                    _log_finished_jobs(project, config_tree, group, timeout=timeout, last=False)
                    seen = sidecars
                except Exception as error:  # as in `log_all`
                    _print_once(_store_problem(project, error), told)
            ended = _reached_end(descriptor, every) or bool(interrupted)
        try:
            log_all(project, config_tree, group, timeout=timeout)
        except UserError as error:
            _print_once(str(error), told)


def _log_finished_jobs(project: Path, config_tree: Mapping[str, Any], group: str, *, timeout: float, last: bool) -> int:
    """One pass. Before the ``last`` one, a job that does not match its sidecar is passed over in silence: it is being redone."""
    with _open_store(project, config_tree["tracking"]["experiment"], timeout) as store:
        jobs, problems = finished_jobs(project)
        for problem in problems if last else ():
            tell(problem)
        ours = {job.fingerprint for job in jobs if job.belongs_to(config_tree)}
        if last and len(ours) < len(jobs):
            tell(f"{len(jobs) - len(ours)} of {len(jobs)} jobs were done under another configuration than this one; they get no parent run")
        commit = _commit(project)
        parent = store.parent(group, config_tree, commit) if ours else None
        known = store.logged_jobs()
        used: list[tuple[FinishedJob, Run]] = []
        logged = 0
        for job in jobs:
            home = parent if job.fingerprint in ours else None
            run = known.get(job.fingerprint)
            if run is None or run.info.status != "FINISHED":
                if problem := job.changed_output(project):
                    if last:
                        tell(f"{job.sidecar}: skipped: {problem} is missing or not what was recorded; rerun {job.name}")
                    continue
                if run is not None:  # left by a process that was stopped halfway
                    store.client.delete_run(run.info.run_id)
                run = store.log_job(project, job, home, group, commit)
                logged += 1
            elif home:
                store.link(run, home, group)
            if home:
                used.append((job, run))
        if parent:
            _log_headline(store, project, used, parent)
            store.describe(parent, used, group)
            store.client.update_run(parent, status="RUNNING")
            if last:
                store.client.set_terminated(parent, "FINISHED")
        return logged


def _log_headline(store: _Store, project: Path, used: Sequence[tuple[FinishedJob, Run]], parent: str) -> None:
    """Repeat the few-shot results on the parent and on the run of each arm and seed, so that the run table compares them.

    An arm's run gets a result only when the evaluation read just what this run made.
    """
    found = next(((job, run) for job, run in used if FEW_SHOT_RESULTS in job.outputs), None)
    if found is None or found[0].changed_output(project):
        return
    evaluation, at = found[0], found[1].info.start_time  # a fixed time: repeated values then replace each other
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
    """One MLflow experiment, with the few operations that this module needs."""

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
        """Run by fingerprint; an unfinished run only where there is no finished one."""
        runs: dict[str, Run] = {}
        for run in self.search("tags.`datafree.fingerprint` != ''"):
            fingerprint = run.data.tags["datafree.fingerprint"]
            if run.info.status == "FINISHED" or fingerprint not in runs:
                runs[fingerprint] = run
        return runs

    def parent(self, group: str, config_tree: Mapping[str, Any], commit: str) -> str:
        """Find or create the parent run of one execution. A run's parameters are final, so another configuration is another run."""
        digest = _digest(config_tree)
        for run in self.search(f"tags.`datafree.config` = '{digest}'"):
            if run.data.tags.get("datafree.group") == group:
                return run.info.run_id
        tags = {"mlflow.runName": f"pipeline {group}", "datafree.group": group, "datafree.config": digest, **_source_tags(commit)}
        run_id = self.client.create_run(self.experiment, tags=tags).info.run_id
        self.log(run_id, flatten(config_tree))
        return run_id

    def log_job(self, project: Path, job: FinishedJob, parent: str | None, group: str, commit: str) -> Run:
        """Make the run of a job; one that belongs to no execution that is known here gets no parent."""
        metrics = list(dict.fromkeys(job.metrics(project)))  # two files may hold the same number
        seconds = next((value for name, value, _ in metrics if name == "timing/seconds"), 0.0)
        tags = {f"datafree.{name}": value for name, value in job.wildcards.items()}
        tags |= {"datafree.stage": job.stage, "datafree.code": job.code, "datafree.fingerprint": job.fingerprint}
        tags |= {"mlflow.runName": job.name, **_source_tags(commit)}
        if parent:
            tags |= {"mlflow.parentRunId": parent, "datafree.groups": group}
        run = self.client.create_run(self.experiment, start_time=job.finished - round(1000 * seconds), tags=tags)
        self.log(run.info.run_id, flatten(job.config), metrics, job.finished)
        for path in job.shown_files():
            if (project / path).stat().st_size <= LARGEST_COPY:
                self.client.log_artifact(run.info.run_id, str(project / path))
        self.client.set_terminated(run.info.run_id, "FINISHED", end_time=job.finished)
        return run

    def link(self, run: Run, parent: str, group: str) -> None:
        """Note on an earlier run that this execution uses it; one without a parent gets this one."""
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
        """List the jobs of an execution on its parent, and count those that an earlier execution had done."""
        rows = [{"job": job.name, "fingerprint": job.fingerprint, "run": run.info.run_id} for job, run in used]
        reused = sum(run.data.tags.get("datafree.groups", group).split()[0] != group for _, run in used)
        self.client.log_dict(parent, {"jobs": rows}, "jobs.json")
        self.client.set_tag(parent, "datafree.jobs_total", str(len(rows)))
        self.client.set_tag(parent, "datafree.jobs_reused", str(reused))


@contextlib.contextmanager
def _open_store(project: Path, experiment: str, timeout: float) -> Iterator[_Store]:
    """The experiment in its store, held by this process alone: neither a schema nor a run may be made twice."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is away must not hold up the pipeline
    from filelock import FileLock
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures arrive as exceptions and are told in one line
    home, uri = _home(project), _store_uri(project)
    database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    lock = Path(f"{database or home / 'mlflow.db'}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=timeout):
        if database and database.exists():
            _require_writable(database, timeout)
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            # A server knows itself where its artifacts go.
            location = (home / "mlartifacts").as_uri() if database else None
            yield _Store(client, client.create_experiment(experiment, artifact_location=location))
        else:
            yield _Store(client, found.experiment_id)


def _require_writable(database: Path, timeout: float) -> None:
    # Asked first, because MLflow itself retries for a minute.
    with contextlib.closing(sqlite3.connect(database, timeout=timeout, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def _home(project: Path) -> Path:
    """Where the store lies: DVC runs queued experiments in temporary copies of the project, and names the lasting one in DVC_ROOT."""
    return Path(os.environ.get("DVC_ROOT", project)).absolute()


def _store_uri(project: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_home(project) / 'mlflow.db'}"


def _source_tags(commit: str) -> dict[str, str]:
    return {"mlflow.source.name": "datafree", **({"mlflow.source.git.commit": commit} if commit else {})}


def _key(name: str) -> str:
    """A name that MLflow accepts."""
    return re.sub(r"[^\w\-. /]", "_", name)[:KEY_LENGTH]


def _digest(config_tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config_tree, sort_keys=True).encode()).hexdigest()


def _commit(project: Path) -> str:
    """The git commit of the project; empty outside of git."""
    command = ["git", "-C", str(project), "rev-parse", "--verify", "--quiet", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return ""


def _store_problem(project: Path, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"tracking: {error.name} is not installed; results are safe, install datafree[workflow] and repeat with `datafree track`"
    where = re.sub(r"//[^/@]*@", "//", f"{_store_uri(project)}: {one_line(error)}")  # a server's address may hold a password
    return f"tracking: MLflow store {where}; results are safe, repeat with `datafree track`"


def _print_once(line: str, told: set[str]) -> None:
    if line not in told:
        print(line, file=sys.stderr, flush=True)
    told.add(line)


def _reached_end(descriptor: int, seconds: float) -> bool:
    """Wait at most so long; whether the file has reached its end."""
    try:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return bool(ready) and not os.read(descriptor, 65536)
    except OSError:  # closed: there is nobody to wait for
        return True


@contextlib.contextmanager
def _interrupt_noted() -> Iterator[list[int]]:
    """Let Ctrl-C fill the list instead of tearing a pass apart: it reaches the whole process group, and the pipeline is ending."""
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
