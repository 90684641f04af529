"""Running jobs: skip a job that is up to date, otherwise run its stage and write its record."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datafree import artifacts, devices, gpus
from datafree.errors import UserError
from datafree.registry import noted_modules
from datafree.workflow import hardware, provenance
from datafree.workflow.code import Source
from datafree.workflow.locks import job_lock
from datafree.workflow.provenance import Job

TIMINGS = Path("logs/timings")
JOB_LOG = Path("logs/jobs.log")
TEST_SPLIT, FINAL_EVALUATION = "test.safetensors", "few_shot"


def is_up_to_date(job: Job, source: Source) -> bool:
    """Whether a job need not run; if so, its outputs are dated now. Waits while another process computes it.

    Raises:
        UserError: an input is missing, or a file cannot be read.
    """
    with one_line_errors(job), job_lock(job.name):
        return not _stale_reason(job, source)


def nothing(job: Job) -> None:
    """The default of ``before_computing``."""


def execute(job: Job, source: Source, before_computing: Callable[[Job], None] = nothing) -> None:
    """Run a job, unless its outputs are up to date; ``before_computing`` is called only if its stage runs.

    ``source`` is the code with which the run was planned.

    Raises:
        UserError: a user's mistake or a file error; finished outputs are kept. Or the code or an input changed since the start of the run:
            the job then records nothing.
    """
    with one_line_errors(job), job_lock(job.name):
        if begun := begin(job, source, before_computing):
            with noted_modules() as looked_up:
                begun.stage.run(begun.job)
            begun.record(looked_up)
            begun.write_timing(1)


@dataclass(frozen=True)
class Begun:
    """A job that is being computed, under its lock: with the hardware of this machine, the hashes of its inputs, and when it began."""

    job: Job
    source: Source
    stage: Any  # the module
    inputs: Mapping[str, str]
    start: float
    cpu_start: float

    def record(self, looked_up: Iterable[str]) -> None:
        """Write the record of the job, whose outputs are complete; ``looked_up``: the modules that it found in registries.

        Raises:
            UserError: an output is missing, or the code or an input changed since the start.
        """
        modules = [self.job.module, *looked_up]
        _refuse_changed_code(self.job, self.source, modules)
        provenance.write_record(self.job, modules, self.source, self.inputs, _produced_with())
        log_event(self.job, f"done in {time.monotonic() - self.start:.1f} s")

    def write_timing(self, jobs: int) -> None:
        """Write the cost of the computation, for MLflow, into logs/timings: artifacts must not differ between runs.

        The time since the start is divided by the number of ``jobs`` that were computed together. The peak memory (MiB) is that of the
        process, which in a shard includes earlier jobs.
        """
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
        seconds, cpu_seconds = (time.monotonic() - self.start) / jobs, (_cpu_seconds() - self.cpu_start) / jobs
        name = ".".join(self.job.wildcards.values()) or self.job.stage
        artifacts.write_json(
            TIMINGS / self.job.stage / f"{name}.json",
            {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2), "max_rss_mb": round(peak)},
        )


def begin(job: Job, source: Source, before_computing: Callable[[Job], None]) -> Begun | None:
    """Prepare the computation of a job, whose lock is held: load its stage, hash its inputs. None if the job is up to date.

    Raises:
        UserError: as ``execute``.
    """
    reason = _stale_reason(job, source)
    if not reason:
        return None
    _refuse_test_split(job)
    job = on_this_hardware(job)
    inputs = {path: artifacts.sha256(path) for path in job.input_paths()}
    stage = importlib.import_module(job.module)
    _refuse_changed_code(job, source, [job.module])
    before_computing(job)
    provenance.date_inputs_now(job)
    log_event(job, f"computing ({reason})")
    return Begun(job, source, stage, inputs, time.monotonic(), _cpu_seconds())


def _stale_reason(job: Job, source: Source) -> str:
    """Why a job must be computed; if it need not, its outputs are dated now."""
    reason = provenance.stale_reason(job, source)
    if not reason:
        provenance.touch_outputs(job)
        log_event(job, "up to date")
    return reason


@contextlib.contextmanager
def one_line_errors(job: Job) -> Iterator[None]:
    """Turn an error of a file, or a lack of GPU memory, into a ``UserError``.

    Raises:
        UserError: in place of these errors.
    """
    try:
        yield
    except RuntimeError as error:
        if not devices.out_of_memory(error):
            raise
        raise UserError(
            f"{job.name}: not enough memory on the GPU; lower its batch size or `jobs_per_gpu`, or end other programs on the GPU"
        ) from None
    except OSError as error:
        where = error.filename2 or error.filename or job.outputs["provenance"]
        raise UserError(f"{where}: {error.strerror or error}; fix this and run again, finished work is kept") from None


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


def log_event(job: Job, event: str) -> None:
    """Write one line to the job's own log (standard error) and, with the time, to the log of all jobs."""
    print(f"{job.name}: {event}", file=sys.stderr)
    with contextlib.suppress(OSError):  # a job must not fail because of this log
        JOB_LOG.parent.mkdir(parents=True, exist_ok=True)
        with JOB_LOG.open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {job.name}: {event}\n")


def _produced_with() -> dict[str, str]:
    # Not compared: results pulled from another machine stay up to date under another build.
    return {"python": platform.python_version(), "torch": gpus.pytorch_build()[0], "machine": platform.machine()}


def _cpu_seconds() -> float:
    """CPU time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
