"""Quality of recovered images: teacher accuracy, transfer to an independent classifier, within-class distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datafree.evaluation.intervals import mean_interval
from datafree.inversion.losses import within_class_distance
from datafree.tasks.pools import Pool
from datafree.zoo.backbones import Classifier, Normalise
from datafree.zoo.teachers import Teacher
from datafree.zoo.training import logits_of

PER_CLASS = 20  # images per class for the within-class distance, whose cost is quadratic


def teacher_confidence(teacher: Teacher, images: Tensor, labels: Tensor, device: torch.device) -> dict[str, float]:
    """The teacher's accuracy and mean probability of the label. Not a measure of quality: a collapsed pool scores near 1."""
    return soft_label_confidence(logits_of(teacher.network, teacher.normalise, images, device).softmax(1), labels)


def soft_label_confidence(soft_labels: Tensor, labels: Tensor) -> dict[str, float]:
    """``teacher_confidence`` of a pool from its soft labels [N, K]."""
    return _accuracy_and_confidence(soft_labels.float(), labels, "teacher")


@dataclass(frozen=True)
class Judge:
    """An independent classifier of another architecture, trained on real images of ``classes``."""

    network: Classifier
    normalise: Normalise
    classes: tuple[str, ...]

    def covers(self, classes: Sequence[str]) -> bool:
        """Whether it was trained on all of ``classes``."""
        return set(classes) <= set(self.classes)


def transfer(judge: Judge, classes: Sequence[str], images: Tensor, labels: Tensor, device: torch.device) -> dict[str, float]:
    """The judge's accuracy and mean probability of the label among ``classes``; it must cover all of them."""
    return _accuracy_and_confidence(judge_logits(judge, classes, images, device).softmax(1), labels, "transfer")


def judge_logits(judge: Judge, classes: Sequence[str], images: Tensor, device: torch.device) -> Tensor:
    """The judge's logits [N, len(classes)] for these classes, in their order."""
    columns = torch.tensor([judge.classes.index(name) for name in classes])
    return logits_of(judge.network, judge.normalise, images, device)[:, columns]


def spread(teacher: Teacher, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean absolute distance between images of one class, in pixel values (0 to 255)."""
    chosen = torch.cat([torch.nonzero(labels == label).flatten()[:PER_CLASS] for label in range(len(teacher.classes))])
    return {"within_class_distance": within_class_distance(images[chosen].float(), labels[chosen]).item()}


def _accuracy_and_confidence(probabilities: Tensor, labels: Tensor, name: str) -> dict[str, float]:
    confidence = probabilities.gather(1, labels[:, None]).mean().item()
    return {f"{name}_accuracy": (probabilities.argmax(1) == labels).float().mean().item(), f"{name}_confidence": confidence}


def measure(teacher: Teacher, judge: Judge | None, pool: Pool, device: torch.device) -> dict[str, float]:
    """All measures of one teacher's pool; those of the judge only if it covers the teacher's classes."""
    known = len(pool.soft_labels) > 0  # of recovered images, not of real ones
    confidence = (
        soft_label_confidence(pool.soft_labels, pool.labels) if known else teacher_confidence(teacher, pool.images, pool.labels, device)
    )
    measures = {**confidence, **spread(teacher, pool.images, pool.labels)}
    if judge is not None and judge.covers(teacher.classes):
        measures |= transfer(judge, teacher.classes, pool.images, pool.labels, device)
    return measures


def quality_row(method: str, recovered: Mapping[str, dict[str, float]], real: Mapping[str, dict[str, float]]) -> dict[str, Any]:
    """One method's measures over teachers: {mean, interval, n} each, and the within-class distance relative to real images.

    ``recovered`` and ``real`` map a teacher's name to its measures.
    """
    metrics = {}
    for name in sorted({name for measures in recovered.values() for name in measures}):
        metrics[name] = mean_interval([measures[name] for measures in recovered.values() if name in measures])
    distances = {teacher: measures["within_class_distance"] for teacher, measures in real.items() if measures["within_class_distance"] > 0}
    ratios = [measures["within_class_distance"] / distances[teacher] for teacher, measures in recovered.items() if teacher in distances]
    if ratios:
        metrics["within_class_ratio"] = mean_interval(ratios)
    return {"method": method, "metrics": metrics}
