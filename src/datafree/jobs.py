"""Running one job: skip it if its work is done, otherwise compute, then record what was made from what."""

from __future__ import annotations

import importlib
import platform
import resource
import sys
import time
from pathlib import Path

from datafree import artifacts, provenance
from datafree.errors import UserError
from datafree.provenance import Job

TIMINGS = Path("logs/timings")


def execute(job: Job) -> None:
    """Bring a job's outputs up to date.

    Raises:
        UserError: a mistake in what the job was given; outputs that were finished before stay as they are.
    """
    reason = provenance.stale_because(job)
    if not reason:
        provenance.mark_current(job)
        print(f"{job.name}: up to date", file=sys.stderr)
        return
    print(f"{job.name}: computing ({reason})", file=sys.stderr)
    start = time.monotonic()
    try:
        importlib.import_module(f"datafree.stages.{job.stage}").run(job)
        provenance.record(job, _produced_with())
        _write_timing(job, time.monotonic() - start)
    except OSError as error:
        where = error.filename or job.outputs["provenance"]
        raise UserError(f"{where}: {error.strerror or error}; mend this and run again, finished work is kept") from None
    print(f"{job.name}: done in {time.monotonic() - start:.1f} s", file=sys.stderr)


def _produced_with() -> dict[str, str]:
    import torch

    # Named, not compared: a pulled result stays valid on a machine with another build.
    return {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}


def _write_timing(job: Job, seconds: float) -> None:
    """Cost of the computation, for the report and MLflow; apart from the artifacts, which hold nothing that differs between runs."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    name = ".".join(job.wildcards.values()) or job.stage
    artifacts.write_json(TIMINGS / job.stage / f"{name}.json", {"seconds": round(seconds, 2), "max_rss_mb": round(peak)})
