"""Running jobs: skip a job that is up to date, otherwise run its stage and write its record."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from datafree import artifacts, devices
from datafree.errors import UserError
from datafree.registry import noted_modules
from datafree.workflow import hardware, provenance
from datafree.workflow.code import Source
from datafree.workflow.locks import job_lock
from datafree.workflow.provenance import Job

TIMINGS = Path("logs/timings")
JOB_LOG = Path("logs/jobs.log")
TEST_SPLIT, FINAL_EVALUATION = "test.safetensors", "few_shot"


def execute_all(shard: Sequence[Job], source: Source) -> None:
    """Run several jobs one after the other, in this process and on one device. If a job fails, the others still run.

    Raises:
        UserError: the first error of a job.
    """
    failed: list[UserError] = []
    with contextlib.ExitStack() as held:

        def hold_device(job: Job) -> None:
            held.enter_context(devices.use(job.config["device"]))  # from the first job that computes to the end of the last job

        for index, job in enumerate(shard):
            try:
                execute(job, source, hold_device if len(shard) > 1 and "device" in job.config else _nothing)
            except UserError as error:
                failed.append(error)
                if index < len(shard) - 1:
                    print(f"datafree: {error}", file=sys.stderr)
    if failed:
        raise failed[0]


def _nothing(job: Job) -> None:
    pass


def execute(job: Job, source: Source, before_computing: Callable[[Job], None] = _nothing) -> None:
    """Run a job, unless its outputs are up to date; ``before_computing`` is called only if its stage runs.

    ``source`` is the code with which the run was planned.

    Raises:
        UserError: a user's mistake or a file error; finished outputs are kept. Or the code or an input changed since the start of the run:
            the job then records nothing.
    """
    try:
        with job_lock(job.name):
            reason = provenance.stale_reason(job, source)
            if not reason:
                provenance.touch_outputs(job)
                _log(job, "up to date")
                return
            _refuse_test_split(job)
            _compute(on_this_hardware(job), source, reason, before_computing)
    except OSError as error:
        where = error.filename2 or error.filename or job.outputs["provenance"]
        raise UserError(f"{where}: {error.strerror or error}; fix this and run again, finished work is kept") from None


def _compute(job: Job, source: Source, reason: str, before_computing: Callable[[Job], None]) -> None:
    inputs = {path: artifacts.sha256(path) for path in job.input_paths()}
    stage = importlib.import_module(job.module)
    _refuse_changed_code(job, source, [job.module])
    before_computing(job)
    provenance.date_inputs_now(job)
    _log(job, f"computing ({reason})")
    start, cpu_start = time.monotonic(), _cpu_seconds()
    with noted_modules() as looked_up:
        stage.run(job)
    modules = [job.module, *looked_up]
    _refuse_changed_code(job, source, modules)
    _write_timing(job, time.monotonic() - start, _cpu_seconds() - cpu_start)
    provenance.write_record(job, modules, source, inputs, _produced_with())
    _log(job, f"done in {time.monotonic() - start:.1f} s")


def on_this_hardware(job: Job) -> Job:
    """The job with the hardware of this machine, if other hardware than that of the plan is accepted.

    Raises:
        UserError: this machine computes in another way than the one that planned the run.
    """
    if "processor" not in job.config:
        return job
    planned = hardware.Hardware(**{key: job.config[key] for key in provenance.HARDWARE})
    here = hardware.of_this_machine(planned.device, planned.precision)
    difference = hardware.mismatch(planned, here)
    if difference and not job.accept_other_hardware:
        raise UserError(f"{job.name}: {difference}")
    return dataclasses.replace(job, config={**job.config, **dataclasses.asdict(here)}) if difference else job


def _refuse_changed_code(job: Job, source: Source, modules: list[str]) -> None:
    if path := source.first_change(modules):
        raise UserError(f"{job.name}: src/datafree/{path} was edited after the run started, so nothing is recorded; start the run again")


def _refuse_test_split(job: Job) -> None:
    """Allow only the final evaluation to read the real images of the test classes, regardless of the inputs in a rule.

    Raises:
        UserError: the test split is an input of another job.
    """
    final = job.stage == FINAL_EVALUATION and job.config["evaluation"]["split"] == "test"
    for path in job.input_paths():
        if Path(path).name == TEST_SPLIT and not final:
            raise UserError(f"{job.name}: {path} is among its inputs, but only {FINAL_EVALUATION} may read the test classes; fix its rule")


def _log(job: Job, event: str) -> None:
    """Write one line to the job's own log (standard error) and, with the time, to the log of all jobs."""
    print(f"{job.name}: {event}", file=sys.stderr)
    with contextlib.suppress(OSError):  # a job must not fail because of this log
        JOB_LOG.parent.mkdir(parents=True, exist_ok=True)
        with JOB_LOG.open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {job.name}: {event}\n")


def _produced_with() -> dict[str, str]:
    import torch

    # Not compared: results pulled from another machine stay up to date under another build.
    return {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}


def _cpu_seconds() -> float:
    """CPU time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _write_timing(job: Job, seconds: float, cpu_seconds: float) -> None:
    """Write the cost of the computation, for MLflow, into logs/timings: artifacts must not differ between runs.

    The peak memory (MiB) is that of the process, which in a shard includes earlier jobs.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    name = ".".join(job.wildcards.values()) or job.stage
    artifacts.write_json(
        TIMINGS / job.stage / f"{name}.json",
        {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2), "max_rss_mb": round(peak)},
    )
