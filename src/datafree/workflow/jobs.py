"""Running one job: skip it if its work is done, otherwise compute, then record what was made from what."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from datafree import artifacts, devices
from datafree.errors import UserError
from datafree.workflow import provenance
from datafree.workflow.provenance import Job

TIMINGS = Path("logs/timings")
JOURNAL = Path("logs/jobs.log")
TEST_SPLIT, FINAL_EVALUATION = "test.safetensors", "few_shot"


def execute_all(shard: Sequence[Job]) -> None:
    """Bring the outputs of several jobs up to date, one job after the other in this one process and on one device.

    A job that fails does not keep the next ones from their turn.

    Raises:
        UserError: a mistake in what a job was given, the first if there are several.
    """
    failed: list[UserError] = []
    with contextlib.ExitStack() as held:

        def hold_device(job: Job) -> None:
            held.enter_context(devices.use(job.config["device"]))  # from the first one that computes until the last is done

        for place, job in enumerate(shard):
            try:
                execute(job, hold_device if len(shard) > 1 else _nothing)
            except UserError as error:
                failed.append(error)
                if place < len(shard) - 1:
                    print(f"datafree: {error}", file=sys.stderr)
    if failed:
        raise failed[0]


def _nothing(job: Job) -> None:
    pass


def execute(job: Job, before: Callable[[Job], None] = _nothing) -> None:
    """Bring a job's outputs up to date; ``before`` is called if that takes computing.

    Raises:
        UserError: a mistake in what the job was given; outputs that were finished before stay as they are.
    """
    try:
        reason = provenance.stale_because(job)
        if not reason:
            provenance.mark_current(job)
            _tell(job, "up to date")
            return
        _keep_from_the_test_classes(job)
        job = on_present_hardware(job)
        before(job)
        _tell(job, f"computing ({reason})")
        start, used = time.monotonic(), _cpu_seconds()
        importlib.import_module(f"datafree.stages.{job.stage}").run(job)
        _write_timing(job, time.monotonic() - start, _cpu_seconds() - used)
        provenance.record(job, _produced_with())
        _tell(job, f"done in {time.monotonic() - start:.1f} s")
    except OSError as error:
        where = error.filename or job.outputs["provenance"]
        raise UserError(f"{where}: {error.strerror or error}; mend this and run again, finished work is kept") from None


def on_present_hardware(job: Job) -> Job:
    """The job as it is computed now: its card may name the hardware of an earlier result, where other hardware is accepted."""
    present = os.environ.get(provenance.PRESENT_HARDWARE)
    if not job.accept_other_hardware or "processor" not in job.config or not present:
        return job
    return dataclasses.replace(job, config={**job.config, **json.loads(present)})


def _keep_from_the_test_classes(job: Job) -> None:
    """The real images of the test classes are for the final evaluation: no other job computes from them, whatever its rule says.

    Raises:
        UserError: the test split is among the inputs of a job that may not see it.
    """
    final = job.stage == FINAL_EVALUATION and job.config["evaluation"]["split"] == "test"
    for path in job.input_paths():
        if Path(path).name == TEST_SPLIT and not final:
            raise UserError(f"{job.name}: {path} is among its inputs, but the test classes are for {FINAL_EVALUATION} alone; mend its rule")


def _tell(job: Job, event: str) -> None:
    """One line in the job's own log, and one in the journal of all jobs: what was computed, what was left alone, when and why."""
    print(f"{job.name}: {event}", file=sys.stderr)
    with contextlib.suppress(OSError):  # no job fails for its journal
        JOURNAL.parent.mkdir(parents=True, exist_ok=True)
        with JOURNAL.open("a", encoding="utf-8") as journal:
            journal.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {job.name}: {event}\n")


def _produced_with() -> dict[str, str]:
    import torch

    # Named, not compared: a pulled result stays valid on a machine with another build.
    return {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}


def _cpu_seconds() -> float:
    """CPU time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _write_timing(job: Job, seconds: float, cpu_seconds: float) -> None:
    """Cost of the computation, for the report and MLflow; apart from the artifacts, which hold nothing that differs between runs.

    The peak of memory is that of the process: in a shard, of the jobs so far.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    name = ".".join(job.wildcards.values()) or job.stage
    artifacts.write_json(
        TIMINGS / job.stage / f"{name}.json",
        {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2), "max_rss_mb": round(peak)},
    )
