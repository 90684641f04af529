"""Stage ``inversion_quality``: measure the recovered images of every method, and real images of the same classes for comparison."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import torch

from datafree import artifacts, devices
from datafree.data.images import ImageSet, class_sheet
from datafree.evaluation.inversion_quality import Judge, measure, quality_row
from datafree.stages.files.image_sets import read_image_set
from datafree.stages.files.networks import read_classifier
from datafree.stages.files.pools import read_pools
from datafree.stages.files.teachers import read_teachers
from datafree.tasks.pools import Pool, real_pool
from datafree.workflow.provenance import Job
from datafree.zoo.teachers import Teacher, move
from datafree.zoo.training import hold_out

PREVIEW_COLUMNS = 12  # images per class in the preview, as in the previews of the pools

FOLDER = "artifacts/evaluation/inversion"
READS = ("seed", "zoo.training.held_out", "methods")


def run(job: Job) -> None:
    """Inputs: ``train`` (image set); ``zoo``, the index of the teachers; ``pools``, those of the pools by method; optionally ``judge`` and
    ``judge_card``, the independent classifier.

    Outputs: ``quality``, ``metrics``, ``preview`` (real images of the first teacher's classes, or of any classes if it has none).
    """
    teachers = read_teachers(job.input("zoo"))
    judge = _read_judge(job)
    data = read_image_set(job.input("train"))
    _, held = hold_out(data, job.config["zoo.training.held_out"], job.config["seed"])
    indexes = dict(zip(job.config["methods"], job.input_list("pools"), strict=True))
    measured: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        for method in ["real", *indexes]:
            pools = read_pools(indexes[method], job.input("zoo")) if method in indexes else [_real_pool(held, t) for t in teachers]
            for teacher, pool in zip(teachers, pools, strict=True):
                if pool is not None:
                    measured[method][teacher.name] = measure(move(teacher, device), judge, pool, device)
    rows = [quality_row(method, by_teacher, measured.get("real", {})) for method, by_teacher in measured.items() if by_teacher]
    artifacts.write_json(job.output("quality"), {"teachers": len(teachers), "rows": rows})
    flat = {f"{row['method']}_{name}": value["mean"] for row in rows for name, value in row["metrics"].items()}
    artifacts.write_json(job.output("metrics"), flat)
    previewed = _real_pool(held, teachers[0]) or held
    artifacts.write_image(job.output("preview"), class_sheet(previewed.images, previewed.labels, PREVIEW_COLUMNS))


def _read_judge(job: Job) -> Judge | None:
    if "judge" not in job.inputs:
        return None
    network, normalise = read_classifier(job.input("judge"), job.input("judge_card"))
    return Judge(network, normalise, tuple(artifacts.read_json(job.input("judge_card"))["classes"]))


def _real_pool(held: ImageSet, teacher: Teacher) -> Pool | None:
    """Held-out real images of a teacher's classes, labelled in its order; None unless ``held`` has all of them."""
    if not set(teacher.classes) <= set(held.classes):
        return None
    return replace(real_pool(held, teacher.classes), soft_labels=torch.empty(0))  # unlike labels, predictions of the teacher may be wrong
