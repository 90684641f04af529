"""The kinds of faults of ``faults.py``: one function per kind that disturbs a project and then requires the results of an undisturbed run.

A trial gets a project whose folder does not exist yet and a random number generator, notes what went wrong in ``project.problems``, and
returns in a few words what was done.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import time
from pathlib import Path

from fault_project import TIMEOUT, Project, Run, record_mismatches, results_of, wait_until

WHOM = ("job", "snakemake", "group")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
EARLY_KILLS = 0.2  # share of the kills within the first seconds after a start
KILLS_OF_A_RUN = 12
CLASSIFIERS = Path("src/datafree/evaluation/classifiers.py")
LAST_JOBS = ("evaluation/few_shot", "report")


# Kills


def kills(project: Project, rng: random.Random, count: int = KILLS_OF_A_RUN) -> list[tuple[str, str, list[str]]]:
    """Start, kill at a random point, start again, until the pipeline is finished or ``count`` kills have been made.

    Returns for each kill (kind, point, problems). The problems that the last, undisturbed run shows count for every kill.
    """
    project.make(project.reference.empty)
    made: list[tuple[str, str, list[str]]] = []
    while len(made) < count:
        orphans = project.processes()
        run = project.start()
        whom, number = rng.choice(WHOM), rng.choice(SIGNALS)
        _wait_before_a_kill(project, run, rng)
        target = _target(project, run, whom, rng)
        if target is None:
            project.check(run)
            if run.status == 0:
                break
            if orphans and project.refused(run):
                project.wait_for_processes()
                continue
            project.problems.append(f"a start after a kill ended with status {run.status}: {run.last_line()}")
            break
        point = last_event(project)
        _send(target, number, whom == "group")
        project.end(run)  # it goes on if the killed job was that of an earlier run
        made.append((f"kill {whom}, {number.name}", point, list(project.problems)))
        project.problems.clear()
    project.finish()
    return [(kind, point, [*problems, *project.problems]) for kind, point, problems in made]


def _wait_before_a_kill(project: Project, run: Run, rng: random.Random) -> None:
    """Wait for a random time: for most kills after the first job has started, in proportion to what the start took."""
    if rng.random() < EARLY_KILLS:
        run.wait(rng.uniform(0.5, 10))
        return
    wait_until(lambda: run.ended or bool(project.jobs()))
    run.wait(rng.uniform(0, 3) * (time.time() - run.started))


def _target(project: Project, run: Run, whom: str, rng: random.Random) -> int | None:
    """The process to kill; None if the run has ended."""
    if whom == "job":
        wait_until(lambda: run.ended or bool(project.jobs()))
        jobs = project.jobs()
        return None if run.ended or not jobs else rng.choice(jobs).pid
    return None if run.ended else run.process.pid


def last_event(project: Project) -> str:
    """The last line of the log of all jobs, without its time."""
    return (project.job_log() or [" " * 20 + "before the first job"])[-1][20:]


def _send(pid: int, number: signal.Signals, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(pid, number)


def orphan(project: Project, rng: random.Random) -> str:
    """Snakemake alone is killed; the next run has other settings while the jobs of the first run go on."""
    project.make_unfinished(rng, 0.1, "meta", *LAST_JOBS)
    run = project.start()
    if not _wait_for_a_random_point(project, run, rng):
        return _ended_first(project, run)
    _send(run.process.pid, signal.SIGKILL, group=False)
    project.end(run)
    point, jobs = last_event(project), project.jobs()
    run = project.run(other=True)
    if jobs and project.refused(run):
        project.wait_for_processes()
        run = project.run(other=True)
    if run.status:
        project.problems.append(f"the run with the other settings ended with status {run.status}: {run.last_line()}")
    project.wait_for_processes()
    project.compare(other=True)
    project.problems += record_mismatches(project.folder)
    project.finish()
    return f"{point}: {len(jobs)} jobs went on"


# Damaged files


def damaged(project: Project, rng: random.Random, how: str, records: bool) -> str:
    """One to three random results or records are damaged between runs; ``--forceall`` restores them, for deleted ones a plain run."""
    project.make(project.reference.finished)
    files = [path for path in results_of(project.folder) if path.endswith("provenance.json") == records]
    chosen = rng.sample(files, rng.randint(1, 3))
    for name in chosen:
        _damage(project.folder / name, how, rng)
    if how != "deleted":
        run = project.run("--forceall")
        if run.status:
            project.problems.append(f"--forceall ended with status {run.status}: {run.last_line()}")
        project.compare()
    project.finish()
    return ", ".join(chosen)


def _damage(path: Path, how: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: rng.randrange(max(len(content), 1))])
    elif content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


def bookkeeping(project: Project, rng: random.Random, where: str, how: str) -> str:
    """A run is killed; half of the files in ``where``, checkpoints among them, are damaged, or the folder is deleted."""
    project.make_unfinished(rng, 0.1, "meta", *LAST_JOBS)
    run = project.start()
    wait_until(lambda: run.ended or bool(project.jobs()))
    run.wait(rng.uniform(2, 40))
    if not run.ended:
        _send(run.process.pid, signal.SIGKILL, group=True)
    project.end(run)
    project.wait_for_processes()
    if how == "deleted":
        shutil.rmtree(project.folder / where)
        project.finish()
        return f"after {last_event(project)}"
    files = [path for path in sorted((project.folder / where).rglob("*")) if path.is_file() and rng.random() < 0.5]
    for path in files:
        _damage(path, rng.choice(["flipped", "truncated"]), rng)
    project.finish()
    return f"{len(files)} files, {sum(path.suffix == '.pt' for path in files)} checkpoints"


# Changes during a run


def edited_code(project: Project, rng: random.Random) -> str:
    """Code of the evaluation is changed before its job starts, and restored while the job runs or after the run."""
    project.make_unfinished(rng, 0.0, "meta", *LAST_JOBS)
    path = project.folder / CLASSIFIERS
    text = path.read_text()
    run = project.start()
    project.wait_for_job(run, rng.choice(["learner", "few_shot"]))
    path.write_text(text.replace("argmin", "argmax"))
    until = rng.choice(["the evaluation starts", "the evaluation has run for a moment", "the end of the run"])
    if until != "the end of the run":
        project.wait_for_job(run, "few_shot")
        if until == "the evaluation has run for a moment":
            run.wait(rng.uniform(2, 12))
        path.write_text(text)
    project.end(run)
    path.write_text(text)
    project.finish()
    return f"edited until {until}: status {run.status}"


def edited_comment(project: Project, rng: random.Random) -> str:
    """Comments are edited and files touched while a run goes on; nothing may be computed again."""
    project.make_unfinished(rng, 0.0, "meta", *LAST_JOBS)
    run = project.start()
    project.wait_for_job(run, "learner")
    path = project.folder / CLASSIFIERS
    path.write_text(path.read_text() + "# a comment\n")
    touched = rng.sample([name for name in results_of(project.folder) if "learner" not in name], 5)
    for name in [*touched, "params.yaml", *project.reference.configfiles]:
        (project.folder / name).touch()
    project.end(run)
    if run.status:
        project.problems.append(f"the run with the edited comment ended with status {run.status}: {run.last_line()}")
    project.finish(computes=False)
    return ", ".join(touched)


def edited_settings(project: Project, rng: random.Random) -> str:
    """The settings are rewritten while a run goes on: it keeps its settings, and the next run computes the new ones."""
    project.make_unfinished(rng, 0.1, "meta", *LAST_JOBS)
    run = project.start()
    if not _wait_for_a_random_point(project, run, rng):
        return _ended_first(project, run)
    import yaml

    text = project.change_settings(yaml.safe_load(project.reference.other_settings.read_text()))
    point = last_event(project)
    project.end(run)
    if run.status:
        project.problems.append(f"the run ended with status {run.status}: {run.last_line()}")
    project.compare()
    run = project.run()
    if run.status:
        project.problems.append(f"the run with the new settings ended with status {run.status}: {run.last_line()}")
    project.compare(other=True)
    (project.folder / project.reference.configfiles[-1]).write_text(text)
    project.finish()
    return point


def second_start(project: Project, rng: random.Random, *arguments: str, other: bool) -> str:
    """Snakemake is started a second time while a run goes on; it must wait or refuse, and must not change the results of the first."""
    project.make_unfinished(rng, 0.1, "meta", *LAST_JOBS)
    run = project.start()
    if not _wait_for_a_random_point(project, run, rng):
        return _ended_first(project, run)
    point = last_event(project)
    second = project.start(*arguments, other=other)
    project.end(run)
    if run.status:
        project.problems.append(f"the first run ended with status {run.status}: {run.last_line()}")
    second.wait(TIMEOUT)
    project.check(second)
    project.require_refusal(second)
    project.compare(other=other and second.status == 0 and "--dry-run" not in arguments)
    project.finish()
    return f"{point}: status {second.status}"


def _wait_for_a_random_point(project: Project, run: Run, rng: random.Random) -> bool:
    """Wait until a random moment after the first job has started; whether the run still goes on."""
    wait_until(lambda: run.ended or bool(project.jobs()))
    run.wait(rng.uniform(0, 30))
    return not run.ended


def _ended_first(project: Project, run: Run) -> str:
    project.check(run)
    project.finish()
    return f"the run ended before the fault: status {run.status}"


def clocks(project: Project, rng: random.Random, hours: float) -> str:
    """All results are dated into the future or the past; then a setting is changed and changed back."""
    project.make(project.reference.finished)
    moment, share = time.time() + 3600 * hours, rng.choice([1.0, 0.5, 0.1])
    names = [name for name in results_of(project.folder) if rng.random() < share]
    for name in names:
        os.utime(project.folder / name, (moment, moment))
    run = project.run(other=True)
    if run.status:
        project.problems.append(f"the changed settings ended with status {run.status}: {run.last_line()}")
    project.compare(other=True)
    project.finish()
    return f"{len(names)} files moved by {hours:g} hours"


def other_hardware(project: Project, rng: random.Random, **variables: str) -> str:
    """A part of the run computes in another precision or, by an environment variable, with another instruction set."""
    project.make_unfinished(rng, 0.3, *LAST_JOBS)
    record = json.loads(next(project.reference.finished.glob("artifacts/evaluation/few_shot/provenance.json")).read_text())
    precision = {"float32": "bfloat16", "bfloat16": "float32"}[record["config"]["precision"]]
    project.environment |= variables
    tracking = f"tracking={{enabled: {str(project.reference.tracking).lower()}}}"
    run = project.start("--config", tracking, *([] if variables else [f"precision={precision}"]))
    wait_until(lambda: run.ended or bool(project.jobs()))
    run.wait(rng.uniform(5, 60))
    _send(run.process.pid, rng.choice(SIGNALS), group=True)
    project.end(run)
    project.environment.clear()
    project.finish()
    return f"until {last_event(project)}"


# MLflow


def mlflow_store(project: Project, rng: random.Random, how: str) -> str:
    """The MLflow store is locked, deleted or damaged during a run: results are unaffected, and `datafree track` completes the store."""
    project.make_unfinished(rng, 0.1, *LAST_JOBS)
    store = project.folder / "mlflow.db"
    run = project.start("--config", "tracking={enabled: true}")
    if not _wait_for_a_random_point(project, run, rng):
        return _ended_first(project, run)
    if how == "locked":
        with contextlib.closing(sqlite3.connect(store, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            run.wait(rng.uniform(5, 90))
            connection.execute("ROLLBACK")
    elif how == "deleted":
        store.unlink(missing_ok=True)
    elif store.is_file():
        content = bytearray(store.read_bytes())
        start = rng.choice([0, rng.randrange(len(content))])
        content[start : start + 4096] = rng.randbytes(len(content[start : start + 4096]))
        store.write_bytes(content)
    project.end(run)
    if run.status:
        project.problems.append(f"the run ended with status {run.status}: {run.last_line()}")
    project.finish()
    _complete_store(project, store, how)
    return how


def _complete_store(project: Project, store: Path, how: str) -> None:
    files = list(dict.fromkeys(["params.yaml", *project.reference.configfiles]))
    track = project.run("track", *files, command="datafree")
    if how == "damaged" and project.refused(track, "MLflow store"):
        store.unlink()  # as a user would, after the line that names the file
        track = project.run("track", *files, command="datafree")
    if track.status:
        project.problems.append(f"datafree track ended with status {track.status}: {track.last_line()}")
        return
    with contextlib.closing(sqlite3.connect(store)) as connection:
        query = (
            "SELECT count(DISTINCT value) FROM tags JOIN runs USING (run_uuid) WHERE key = 'datafree.fingerprint' AND status = 'FINISHED'"
        )
        logged = connection.execute(query).fetchone()[0]
    records = len(list(project.folder.glob("artifacts/**/provenance.json")))
    if logged < records:
        project.problems.append(f"{logged} of {records} jobs are in the MLflow store after datafree track")
