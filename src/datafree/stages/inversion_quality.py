"""Stage ``inversion_quality``: every method's recovered images beside real ones of the same classes."""

from __future__ import annotations

from collections import defaultdict

import torch

from datafree import artifacts, devices
from datafree.data.images import ImageSet, contact_sheet, read_image_set
from datafree.evaluation.intervals import mean_interval
from datafree.evaluation.inversion_quality import measure
from datafree.provenance import Job
from datafree.tasks.pools import Pool, read_pool
from datafree.zoo.networks import read_classifier
from datafree.zoo.teachers import move, read_teachers
from datafree.zoo.training import hold_out

PREVIEW = (4, 12)  # teachers shown, images of each


def run(job: Job) -> None:
    """Inputs: ``train`` (image set), ``weights`` and ``cards`` per teacher, ``judge``, ``judge_card``, ``pools`` (method by method, in
    the teachers' order). Outputs: ``quality``, ``metrics``, ``preview`` (real images of some teachers' classes).
    """
    teachers = read_teachers(job.input_list("weights"), job.input_list("cards"))
    judge, judge_normalise = read_classifier(job.input("judge"), job.input("judge_card"))
    judge_classes = artifacts.read_json(job.input("judge_card"))["classes"]
    data = read_image_set(job.input("train"))
    _, held = hold_out(data, job.config["zoo.training"]["held_out"], job.config["seed"])
    paths = iter(job.input_list("pools"))
    measured: dict[str, list[dict[str, float]]] = defaultdict(list)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        for method in ["real", *job.config["inversion.methods"]]:
            for teacher, card in zip(teachers, job.input_list("cards"), strict=True):
                pool = _real_pool(held, teacher.classes) if method == "real" else read_pool(next(paths), card)
                columns = torch.tensor([judge_classes.index(name) for name in teacher.classes])
                found = measure(move(teacher, device), judge, judge_normalise, columns, pool, device)
                measured[method].append(found)
    rows = [_row(method, found, measured["real"]) for method, found in measured.items()]
    artifacts.write_json(job.output("quality"), {"teachers": len(teachers), "rows": rows})
    flat = {f"{row['method']}_{name}": value["mean"] for row in rows for name, value in row["metrics"].items()}
    artifacts.write_json(job.output("metrics"), flat)
    shown = [_real_pool(held, teacher.classes).images[: PREVIEW[1]] for teacher in teachers[: PREVIEW[0]]]
    artifacts.write_image(job.output("preview"), contact_sheet(torch.cat(shown), PREVIEW[1]))


def _real_pool(held: ImageSet, classes: tuple[str, ...]) -> Pool:
    """Held-out real images of a teacher's classes, labelled in its order; they have no soft labels."""
    own = held.of_classes([held.classes.index(name) for name in classes])
    return Pool(own.images, own.labels, torch.empty(0), classes)


def _row(method: str, found: list[dict[str, float]], real: list[dict[str, float]]) -> dict:
    metrics = {name: mean_interval([one[name] for one in found]) for name in found[0]}
    ratios = [one["within_class_distance"] / reference["within_class_distance"] for one, reference in zip(found, real, strict=True)]
    return {"method": method, "metrics": {**metrics, "within_class_ratio": mean_interval(ratios)}}
