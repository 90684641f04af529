"""MLflow tracking: logs finished jobs from their files.

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
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from datafree import artifacts
from datafree.errors import UserError
from datafree.report import tables
from datafree.workflow.finished_jobs import FinishedJob, flatten, numbers, read_finished_job, record_states, warn
from datafree.workflow.mlflow_store import TAG_LENGTH, Store, open_store, store_file
from datafree.workflow.plan import DERIVED

if TYPE_CHECKING:
    from mlflow.entities import Run

FEW_SHOT_RESULTS = "artifacts/evaluation/few_shot/results.json"
EVALUATION_STAGE = "few_shot"  # writes the results
LEARNER_STAGE = "learner"  # its wildcards are `arm` and `seed`
LARGEST_COPY = 32 * 2**20  # bytes; larger files are not copied into the store
LARGEST_SHARE = 0.04  # of a core: the follower waits so long between two passes that it uses less
LONGEST_WAIT = 300.0  # seconds between two passes of the follower


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
    return _Logging(Path(project), config_tree, group, timeout).run_pass(last=True)


def follow(
    project: str | Path, config_tree: Mapping[str, Any], group: str, *, descriptor: int = 0, every: float = 15.0, timeout: float = 30.0
) -> bool:
    """Log jobs as they finish, until the file ``descriptor`` (standard input) reaches its end; then log the remaining jobs and return.

    For a background process: the pipeline holds the other end of the pipe, which closes when the pipeline ends for any reason. Ctrl-C
    ends it too. Looks for new records every ``every`` seconds, less often if a pass is expensive. Call from the main thread. Errors of
    the store are not raised but printed as one line on standard error; the next pass or ``log_all`` logs what is missing.

    Returns False if the database file was deleted or replaced while this process had it open: MLflow keeps files open, so only a new
    process can log to the new one.
    """
    project, printed = Path(project), set[str]()
    logging, ended, begin = _Logging(project, config_tree, group, timeout), False, None
    with _record_interrupts() as interrupts:
        while True:
            try:
                logging.run_pass(last=ended)
            except UserError as error:
                _print_once(str(error), printed)
            if ended:
                return True
            # The first pass imports MLflow and looks up all runs, which is not repeated.
            wait = every if begin is None else max(every, min((time.process_time() - begin) / LARGEST_SHARE, LONGEST_WAIT))
            begin = time.process_time()
            ended = _reached_end(descriptor, wait) or bool(interrupts)
            if logging.opened and store_file(project) != logging.opened:
                return False


class _LoggedJob(NamedTuple):
    """What is kept of a job that has a run. ``current``: it was computed under this configuration; ``reused``: by an earlier execution."""

    name: str
    stage: str
    fingerprint: str
    run_id: str
    current: bool
    reused: bool


@dataclass(frozen=True)
class _StoredRun:
    """What is kept of a run of the store; ``groups``: its executions, oldest first."""

    run_id: str
    finished: bool
    has_parent: bool
    groups: tuple[str, ...]


class _Logging:
    """The logging of one execution: each pass reads only records that are new or changed since the last one.

    All runs of the store are looked up once, in the first pass. A job has a run, or its record is in ``skipped`` with the reason.
    """

    def __init__(self, project: Path, config_tree: Mapping[str, Any], group: str, timeout: float) -> None:
        self.project, self.config_tree, self.group, self.timeout = project, config_tree, group, timeout
        self.opened: tuple[int, int] | None = None  # the database file that MLflow has open
        self.created: int | None = None  # time stamp of the store that the following belongs to
        self._forget()

    def _forget(self) -> None:
        self.states: dict[Path, tuple[int, int]] = {}
        self.jobs: dict[Path, _LoggedJob] = {}
        self.skipped: dict[Path, str] = {}
        self.runs: dict[str, _StoredRun] = {}
        self.parent: str | None = None
        self.commit = ""

    def run_pass(self, *, last: bool) -> int:
        """Log new jobs; returns their number. Before the ``last`` pass, jobs that differ from their record are skipped silently: they
        are running. The last pass reports them and ends the parent run.

        Raises:
            UserError: the store cannot be used.
        """
        states = record_states(self.project)
        if states == self.states and not last:
            return 0
        try:
            with open_store(self.project, self.config_tree["tracking"]["experiment"], self.timeout) as store:
                self.opened = self.opened or store_file(self.project)
                first = store.created != self.created
                if first:
                    self._forget()
                    self.created, self.commit = store.created, _commit(self.project)
                    self.runs = _stored_runs(store)
                return self._log_changes(store, states, first=first, last=last)
        except UserError:
            self.created = None  # the next pass looks up everything again
            raise

    def _log_changes(self, store: Store, states: dict[Path, tuple[int, int]], *, first: bool, last: bool) -> int:
        for record in self.states.keys() - states.keys():
            self._drop(record)
        changed = [r for r, state in states.items() if state != self.states.get(r) or (last and r in self.skipped)]
        logged = sum([self._log_record(store, record, first=first) for record in changed])
        self.states, self.runs = states, {}
        if last:
            self._report()
        if self.parent and (changed or last):
            self._describe(store, changed, last=last)
        return logged

    def _drop(self, record: Path) -> None:
        self.jobs.pop(record, None)
        self.skipped.pop(record, None)

    def _log_record(self, store: Store, record: Path, *, first: bool) -> bool:
        """Give the job of a record a run if it has none; returns whether a run was made."""
        self._drop(record)
        try:
            job = read_finished_job(self.project, record)
        except UserError as error:
            self.skipped[record] = str(error)
            return False
        current = job.belongs_to(self.config_tree)
        if current and self.parent is None:
            self.parent = self._find_parent(store)
        parent = self.parent if current else None
        # Another execution can have logged the job since the first pass.
        run = (self.runs if first else _stored_runs(store, job.fingerprint)).get(job.fingerprint)
        made = run is None or not run.finished
        if run is not None and run.finished:
            if parent:
                self._link(store, run, parent)
        elif problem := job.changed_output(self.project):
            self.skipped[record] = f"{record}: skipped: {problem} is missing or differs from the record; rerun {job.name}"
            return False
        else:
            if run is not None:  # its process was stopped
                store.client.delete_run(run.run_id)
            run = self._log_job(store, job, parent)
        reused = bool(run.groups) and run.groups[0] != self.group
        self.jobs[record] = _LoggedJob(job.name, job.stage, job.fingerprint, run.run_id, current, reused)
        return made

    def _log_job(self, store: Store, job: FinishedJob, parent: str | None) -> _StoredRun:
        """Create the run of a job, without a parent if ``parent`` is None."""
        metrics = list(dict.fromkeys(job.metrics(self.project)))  # two files may hold the same number
        seconds = next((value for name, value, _ in metrics if name == "timing/seconds"), 0.0)
        tags = {f"datafree.{name}": value for name, value in job.wildcards.items()}
        tags |= {"datafree.stage": job.stage, "datafree.code": job.code_hash, "datafree.fingerprint": job.fingerprint}
        tags |= {"mlflow.runName": job.name, **_source_tags(self.commit)}
        if parent:
            tags |= {"mlflow.parentRunId": parent, "datafree.groups": self.group}
        start = job.finished - round(1000 * seconds)
        run_id = store.client.create_run(store.experiment, start_time=start, tags=tags).info.run_id
        store.log(run_id, flatten(job.config), metrics, job.finished)
        for path in job.readable_files():
            if (self.project / path).stat().st_size <= LARGEST_COPY:
                store.client.log_artifact(run_id, str(self.project / path))
        store.client.set_terminated(run_id, "FINISHED", end_time=job.finished)
        return _StoredRun(run_id, True, parent is not None, (self.group,) if parent else ())

    def _link(self, store: Store, run: _StoredRun, parent: str) -> None:
        """Add this execution to the tags of an earlier run, and set its parent if it has none."""
        if self.group not in run.groups:
            store.client.set_tag(run.run_id, "datafree.groups", " ".join([*run.groups, self.group])[:TAG_LENGTH])
        if not run.has_parent:
            store.client.set_tag(run.run_id, "mlflow.parentRunId", parent)

    def _find_parent(self, store: Store) -> str:
        """Find or create the parent run of the execution. Parameters of a run cannot change, so another configuration has another run."""
        digest = _digest(self.config_tree)
        for run in store.search(f"tags.`datafree.config` = '{digest}'"):
            if run.data.tags.get("datafree.group") == self.group:
                store.client.update_run(run.info.run_id, status="RUNNING")
                return run.info.run_id
        tags = {"mlflow.runName": f"pipeline {self.group}", "datafree.group": self.group, "datafree.config": digest}
        run_id = store.client.create_run(store.experiment, tags=tags | _source_tags(self.commit)).info.run_id
        settings = {key: value for key, value in self.config_tree.items() if key not in DERIVED}  # those are logged with their jobs
        store.log(run_id, flatten(settings))
        return run_id

    def _report(self) -> None:
        for problem in self.skipped.values():
            warn(problem)
        if others := sum(not job.current for job in self.jobs.values()):
            warn(f"{others} of {len(self.jobs)} jobs were computed under another configuration; they get no parent run")

    def _describe(self, store: Store, changed: list[Path], *, last: bool) -> None:
        """Update the parent run: the headline numbers if a job that they depend on is new, the number of jobs, at the end their list."""
        assert self.parent is not None
        used = {record: job for record, job in self.jobs.items() if job.current}
        if any(record in used and used[record].stage in (EVALUATION_STAGE, LEARNER_STAGE) for record in changed):
            self._log_headline(store, self.parent, used)
        store.client.set_tag(self.parent, "datafree.jobs_total", str(len(used)))
        store.client.set_tag(self.parent, "datafree.jobs_reused", str(sum(job.reused for job in used.values())))
        if last:
            rows = [{"job": job.name, "fingerprint": job.fingerprint, "run": job.run_id} for job in used.values()]
            store.client.log_dict(self.parent, {"jobs": rows}, "jobs.json")
            store.client.set_terminated(self.parent, "FINISHED")

    def _log_headline(self, store: Store, parent: str, used: Mapping[Path, _LoggedJob]) -> None:
        """Copy the few-shot results to the parent run and to the run of each arm and seed, so that MLflow's run table compares them.

        The run of an arm gets a result only if the evaluation read its outputs.
        """
        jobs = {stage: self._read(used, stage) for stage in (EVALUATION_STAGE, LEARNER_STAGE)}
        evaluation = next((job for job, _ in jobs[EVALUATION_STAGE] if FEW_SHOT_RESULTS in job.outputs), None)
        if evaluation is None or evaluation.changed_output(self.project):
            return
        at = evaluation.finished  # a fixed time, so that repeated values replace each other
        results = artifacts.read_json(self.project / FEW_SHOT_RESULTS)
        store.log(parent, metrics=[(name, number, 0) for name, number in numbers(results)], at=at)
        store.client.set_tag(parent, "mlflow.note.content", tables.markdown_table(results)[:TAG_LENGTH])
        for job, run_id in jobs[LEARNER_STAGE]:
            if any(evaluation.inputs.get(path, digest) != digest for path, digest in job.outputs.items()):
                continue
            store.log(run_id, metrics=[(name, number, 0) for name, number in numbers(_scores(results, job))], at=at)

    def _read(self, used: Mapping[Path, _LoggedJob], stage: str) -> list[tuple[FinishedJob, str]]:
        """The jobs of a stage with their runs, without those whose record changed since they were logged."""
        found = []
        for record, logged in used.items():
            if logged.stage == stage:
                with contextlib.suppress(UserError):  # being replaced
                    job = read_finished_job(self.project, record)
                    if job.fingerprint == logged.fingerprint:
                        found.append((job, logged.run_id))
        return found


def _scores(results: Mapping[str, Any], job: FinishedJob) -> dict[str, Any]:
    """The results of one arm and seed by metric."""
    return {
        "_".join([f"accuracy_{shot}shot", *row.get("variant", "").split()]): of_seed
        for row in results["rows"]
        if row["kind"] == "arm" and row["name"] == " ".join([job.wildcards["arm"], row.get("variant", "")]).strip()
        for shot, result in row["shots"].items()
        for of_seed in result["per_seed"]
        if str(of_seed["seed"]) == job.wildcards["seed"]
    }


def _stored_runs(store: Store, fingerprint: str = "") -> dict[str, _StoredRun]:
    """The runs of one fingerprint, or of all jobs, by fingerprint; an unfinished run only if there is no finished one."""
    runs: dict[str, _StoredRun] = {}
    condition = f"= '{fingerprint}'" if fingerprint else "!= ''"
    for run in store.search(f"tags.`datafree.fingerprint` {condition}"):
        tags = run.data.tags
        if run.info.status == "FINISHED" or tags["datafree.fingerprint"] not in runs:
            runs[tags["datafree.fingerprint"]] = _stored_run(run)
    return runs


def _stored_run(run: Run) -> _StoredRun:
    tags = run.data.tags
    groups = tuple(tags.get("datafree.groups", "").split())
    return _StoredRun(run.info.run_id, run.info.status == "FINISHED", "mlflow.parentRunId" in tags, groups)


def _source_tags(commit: str) -> dict[str, str]:
    return {"mlflow.source.name": "datafree", **({"mlflow.source.git.commit": commit} if commit else {})}


def _digest(config_tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config_tree, sort_keys=True).encode()).hexdigest()


def _commit(project: Path) -> str:
    """The git commit of the project; empty outside a git repository."""
    command = ["git", "-C", str(project), "rev-parse", "--verify", "--quiet", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return ""


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
