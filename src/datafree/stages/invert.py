"""Stage ``invert``: recover one teacher's training images by one method."""

from __future__ import annotations

import sys
from pathlib import Path

from datafree import artifacts, devices
from datafree.config import INVERSION_TYPES, RecoveryConfig, typed
from datafree.data.images import class_sheet
from datafree.evaluation.inversion_quality import spread, teacher_confidence
from datafree.inversion import METHODS
from datafree.inversion.generator import Generator, new_generator
from datafree.stages.files.teachers import AuxiliaryTeachers, read_teacher
from datafree.workflow.job_checkpoints import checkpoint_of
from datafree.workflow.provenance import Job
from datafree.zoo.backbones import batch_norm_layers
from datafree.zoo.teachers import move

FOLDER = "artifacts/inversion/{method}/{teacher}"
READS = (
    "seed", "data.image_size", "inversion.loss", "inversion.shift", "inversion.augmentation", "inversion.auxiliary_teachers",
    "inversion.region", "inversion.images_per_class", "inversion.methods.{method}",
)  # fmt: skip
SHARED = ("loss", "shift", "augmentation", "auxiliary_teachers", "region", "images_per_class")  # settings that all methods use
PREVIEW_COLUMNS = 12  # images per class in the preview


def run(job: Job) -> None:
    """Inputs: ``weights`` and ``card`` of the teacher; ``generator`` for methods that start from the meta-generator; ``zoo``, the index of
    the teachers, for methods that match the statistics of auxiliary teachers.

    Outputs: ``images`` (the pool), ``history``, ``metrics``, ``preview``.
    """
    shared = typed(RecoveryConfig, {key: job.config[f"inversion.{key}"] for key in SHARED})
    chosen = job.config[f"inversion.methods.{job.wildcards['method']}"]
    method = typed(INVERSION_TYPES[chosen["method"]], chosen)
    teacher = read_teacher(job.input("weights"), job.input("card"))
    if shared.loss.batch_norm and not batch_norm_layers(teacher.network):
        print(f"{teacher.name}: no BatchNorm layer; inversion.loss.batch_norm has no effect on this teacher", file=sys.stderr)
    start = _read_generator(job.input("generator")) if "generator" in job.inputs else None
    seed = devices.derive_seed(job.config["seed"], "invert", *job.wildcards.values())
    checkpoint = checkpoint_of(job)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        teacher = move(teacher, device)
        auxiliary_teachers = AuxiliaryTeachers(job.input("zoo"), teacher.name, device) if "zoo" in job.inputs else ()
        recovered = METHODS[method.method](
            teacher, method, shared, size=job.config["data.image_size"], start=start, seed=seed, checkpoint=checkpoint,
            auxiliary_teachers=auxiliary_teachers,
        )  # fmt: skip
        confidence = teacher_confidence(teacher, recovered.images, recovered.labels, device)
    pool = {"images": recovered.images, "labels": recovered.labels, "soft_labels": recovered.soft_labels}
    artifacts.write_tensors(job.output("images"), pool, teacher=teacher.name, method=job.wildcards["method"], seed=job.config["seed"])
    artifacts.write_history(job.output("history"), recovered.history)
    final = {f"final_{name}": value for name, value in recovered.history[-1].items() if name != "step"}
    metrics = {**confidence, **spread(teacher, recovered.images, recovered.labels), **final, "images": len(recovered.images)}
    artifacts.write_json(job.output("metrics"), metrics)
    artifacts.write_image(job.output("preview"), class_sheet(recovered.images, recovered.labels, PREVIEW_COLUMNS))
    checkpoint.clear()


def _read_generator(path: Path) -> Generator:
    generator = new_generator(**artifacts.read_metadata(path), seed=0)
    generator.load_state_dict(artifacts.read_tensors(path))
    return generator
