"""Running the jobs of a shard: one process, one device, and for each job its own lock, record and log.

A stage may define ``run_together(jobs)`` beside ``run(job)``. It then gets all jobs of the shard that are not up to date, computes as many
of them together as it likes, and yields for each of them, in their order, None when its outputs are complete, or a ``UserError`` if it
failed. Jobs for which it yields nothing are run one by one. The record of each job names the modules that any of these jobs looked up in a
registry, so jobs whose records must not depend on each other, those on a CPU, should be left to ``run``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from datafree import devices
from datafree.errors import UserError
from datafree.registry import noted_modules
from datafree.workflow import jobs
from datafree.workflow.code import Source
from datafree.workflow.deals import SHARDED
from datafree.workflow.jobs import Begun
from datafree.workflow.locks import job_lock
from datafree.workflow.provenance import Job

# Environment variable of a process that was started again after an error of its GPU: the names of the jobs that were running, one for
# each error.
DEVICE_ERRORS = "DATAFREE_DEVICE_ERRORS"
LOGS = Path("logs")


def execute_all(shard: Sequence[Job], source: Source) -> None:
    """Run the jobs of a shard, which are of one stage, in this process and on one device. If a job fails, the others still run.

    After an error of CUDA, which leaves the GPU unusable for this process, the process starts again for the jobs that are not finished;
    a job that was running at two such errors fails.

    Raises:
        UserError: the first error of a job.
    """
    environment = dict(os.environ)  # before a lease makes one GPU the only visible one
    earlier = environment.get(DEVICE_ERRORS, "").split()
    failures = _Failures()
    stale = []
    for job in shard:
        with failures.of(job):
            if earlier.count(job.name) > 1:
                raise UserError(f"{job.name}: the GPU failed twice while this job was running, see above; check it with `nvidia-smi`")
            if not jobs.is_up_to_date(job, source):
                stale.append(job)
    with contextlib.ExitStack() as held:

        def hold_device(job: Job) -> None:
            held.enter_context(devices.use(job.config["device"]))  # from the first job that computes to the end of the last job

        before_computing = hold_device if len(shard) > 1 and stale and "device" in stale[0].config else jobs.nothing
        together = [job for job in stale if job.name not in earlier]  # a job of an error runs by itself, so that it does no harm to others
        done = _execute_together(together, source, before_computing, failures, environment)
        for job in stale:
            if job not in done:
                with _own_log(job, "w"), failures.of(job), _starting_again([job], environment):
                    jobs.execute(job, source, before_computing)
    failures.raise_first()


class _Failures:
    """The errors of jobs: the first is that of the process, the others are printed."""

    def __init__(self) -> None:
        self._errors: list[UserError] = []

    @contextlib.contextmanager
    def of(self, job: Job) -> Iterator[None]:
        """Keep and log a ``UserError`` of the block."""
        try:
            yield
        except UserError as error:
            jobs.log_event(job, f"failed: {error}")
            self._errors.append(error)

    def raise_first(self) -> None:
        for error in self._errors[1:]:
            print(f"datafree: {error}", file=sys.stderr)
        if self._errors:
            raise self._errors[0]


def _execute_together(
    stale: Sequence[Job], source: Source, before_computing: Callable[[Job], None], failures: _Failures, environment: Mapping[str, str]
) -> list[Job]:
    """Run jobs with the ``run_together`` of their stage, if it has one; returns those that need not run any more."""
    run_together = getattr(importlib.import_module(stale[0].module), "run_together", None) if stale else None
    if not run_together:
        return []
    with contextlib.ExitStack() as locks:
        begun: dict[str, Begun] = {}
        for job in sorted(stale, key=lambda job: job.name):  # all processes take locks in one order, so no two wait for each other
            with _own_log(job, "w"), failures.of(job), jobs.one_line_errors(job):
                locks.enter_context(job_lock(job.name))
                if started := jobs.begin(job, source, before_computing):
                    begun[job.name] = started
        left = [begun[job.name] for job in stale if job.name in begun]
        recorded = []
        with _starting_again((started.job for started in left), environment), noted_modules() as looked_up:
            for started, error in _results(run_together, list(left)):
                left.remove(started)
                with _own_log(started.job, "a"), failures.of(started.job), jobs.one_line_errors(started.job):
                    if error:
                        raise error
                    started.record(looked_up)
                    recorded.append(started)
        for started in recorded:
            started.write_timing(len(begun))
        unfinished = [started.job.name for started in left]
    return [job for job in stale if job.name not in unfinished]


def _results(
    run_together: Callable[[list[Job]], Iterable[UserError | None]], begun: list[Begun]
) -> Iterator[tuple[Begun, Exception | None]]:
    """The result of each job in turn. An error of ``run_together`` itself is that of all jobs without a result, except a lack of memory."""
    waiting = iter(begun)
    try:
        # The jobs are second: a job is taken only when there is a result for it.
        for error, started in zip(run_together([started.job for started in begun]), waiting, strict=False):
            yield started, error
    except (UserError, OSError) as error:
        yield from ((started, error) for started in waiting)
    except RuntimeError as error:
        if not devices.out_of_memory(error):
            raise
        print("not enough memory on the GPU for these jobs together; those without a result run one by one", file=sys.stderr)


@contextlib.contextmanager
def _starting_again(running: Iterable[Job], environment: Mapping[str, str]) -> Iterator[None]:
    """Start this process again if CUDA fails in the block, which computes the jobs ``running``; their locks end with the old program."""
    try:
        yield
    except RuntimeError as error:
        reason, names = devices.lost(error), [job.name for job in running]
        if not reason:
            raise
        earlier = environment.get(DEVICE_ERRORS, "").split()
        print(f"datafree: {', '.join(names)}: {reason}; the process starts again for the jobs that are not finished", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, {**environment, DEVICE_ERRORS: " ".join([*earlier, *names])})


class _Copy(io.TextIOBase):
    """A text stream that writes to two others."""

    def __init__(self, *streams: IO[str]) -> None:
        self._streams = streams

    def write(self, text: str, /) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()


@contextlib.contextmanager
def _own_log(job: Job, mode: str) -> Iterator[None]:
    """Copy standard error to the log of the job too, if it may share a process with others; the log of another job is that of its rule.

    ``mode``: ``w`` for a new log, ``a`` to continue it.
    """
    if job.stage not in SHARDED:
        yield
        return
    path = LOGS / job.stage / f"{'.'.join(job.wildcards.values())}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open(mode, buffering=1, encoding="utf-8")
    except OSError:  # a job must not fail because of this log
        yield
        return
    with log, contextlib.redirect_stderr(_Copy(sys.stderr, log)):
        yield
