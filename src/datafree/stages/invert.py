"""Stage ``invert``: recover one teacher's training images by one method."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from datafree import artifacts, devices
from datafree.config import INVERSION_TYPES, RecoveryConfig, typed
from datafree.data.images import class_sheet
from datafree.errors import UserError
from datafree.evaluation.inversion_quality import soft_label_confidence, spread
from datafree.inversion import METHODS, Recovered, Recovery
from datafree.inversion.generator import Generator, new_generator
from datafree.inversion.rows import NO_TEACHERS
from datafree.stages.files.teachers import auxiliary_teachers, read_teacher
from datafree.workflow.job_checkpoints import checkpoint_of
from datafree.workflow.provenance import Job
from datafree.zoo.backbones import batch_norm_layers
from datafree.zoo.teachers import Teacher, move

FOLDER = "artifacts/inversion/{method}/{teacher}"
READS = (
    "seed", "data.image_size", "inversion.loss", "inversion.shift", "inversion.augmentation", "inversion.auxiliary_teachers",
    "inversion.region", "inversion.compile", "inversion.images_per_class", "inversion.methods.{method}",
)  # fmt: skip
SHARED = ("loss", "shift", "augmentation", "auxiliary_teachers", "region", "compile", "images_per_class")  # settings that all methods use
PREVIEW_COLUMNS = 12  # images per class in the preview
JOBS_AT_ONCE = 256  # bounds the memory of the process; the memory of the GPU may hold fewer


def run(job: Job) -> None:
    """Inputs: ``weights`` and ``card`` of the teacher; ``generator`` for methods that start from the meta-generator; ``zoo``, the index of
    the teachers, for methods that match the statistics of auxiliary teachers.

    Outputs: ``images`` (the pool), ``history``, ``metrics``, ``preview``.
    """
    (error,) = _recover([job], together=False)
    if error:
        raise error


def run_together(jobs: Sequence[Job]) -> Iterator[UserError | None]:
    """As ``run`` for several jobs: on a GPU the teachers of one architecture are recovered in one pass, on a CPU one after the other.

    Yields None or the error of each job; nothing for jobs on a CPU, whose results must not depend on each other to the last bit.
    """
    if jobs and jobs[0].config["device"] == "cpu":
        return
    for _, of_method in itertools.groupby(jobs, key=lambda job: job.wildcards["method"]):
        members = list(of_method)
        for first in range(0, len(members), JOBS_AT_ONCE):
            yield from _recover(members[first : first + JOBS_AT_ONCE], together=True)


def _recover(jobs: Sequence[Job], together: bool) -> list[UserError | None]:
    """Recover and write the pools of jobs by one method; the error of each job, or None."""
    first = jobs[0]
    shared = typed(RecoveryConfig, {key: first.config[f"inversion.{key}"] for key in SHARED})
    chosen = first.config[f"inversion.methods.{first.wildcards['method']}"]
    method = typed(INVERSION_TYPES[chosen["method"]], chosen)
    start = _read_generator(first.input("generator")) if "generator" in first.inputs else None
    errors: list[UserError | None] = [None] * len(jobs)
    with devices.use(first.config["device"]) as device, devices.autocast(device, first.config["precision"]):
        recoveries = [_recovery(job, device, shared) for job in jobs]
        outcomes = METHODS[method.method](
            recoveries, method, shared, size=first.config["data.image_size"], start=start, together=together and devices.together(device)
        )
        for index, outcome in outcomes:
            if isinstance(outcome, UserError):
                errors[index] = outcome
            else:
                _write(jobs[index], recoveries[index].teacher, outcome)
                recoveries[index].checkpoint.clear()
    return errors


def _recovery(job: Job, device: torch.device, shared: RecoveryConfig) -> Recovery:
    teacher = move(read_teacher(job.input("weights"), job.input("card")), device)
    if shared.loss.batch_norm and not batch_norm_layers(teacher.network):
        print(f"{teacher.name}: no BatchNorm layer; inversion.loss.batch_norm has no effect on this teacher", file=sys.stderr)
    seed = devices.derive_seed(job.config["seed"], "invert", *job.wildcards.values())
    others = auxiliary_teachers(job.input("zoo"), teacher.name, device) if "zoo" in job.inputs else NO_TEACHERS
    return Recovery(teacher, seed, checkpoint_of(job), others)


def _write(job: Job, teacher: Teacher, recovered: Recovered) -> None:
    confidence = soft_label_confidence(recovered.soft_labels, recovered.labels)
    pool = {"images": recovered.images, "labels": recovered.labels, "soft_labels": recovered.soft_labels}
    artifacts.write_tensors(job.output("images"), pool, teacher=teacher.name, method=job.wildcards["method"], seed=job.config["seed"])
    artifacts.write_history(job.output("history"), recovered.history)
    final = {f"final_{name}": value for name, value in recovered.history[-1].items() if name != "step"}
    metrics = {**confidence, **spread(teacher, recovered.images, recovered.labels), **final, "images": len(recovered.images)}
    artifacts.write_json(job.output("metrics"), metrics)
    artifacts.write_image(job.output("preview"), class_sheet(recovered.images, recovered.labels, PREVIEW_COLUMNS))


def _read_generator(path: Path) -> Generator:
    generator = new_generator(**artifacts.read_metadata(path), seed=0)
    generator.load_state_dict(artifacts.read_tensors(path))
    return generator
