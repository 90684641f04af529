"""How good recovered images are, by measures that a collapsed pool cannot please."""

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

PER_CLASS = 20  # images per class that enter the distance: its cost grows with the square


def teacher_belief(teacher: Teacher, images: Tensor, labels: Tensor, device: torch.device) -> dict[str, float]:
    """The teacher's own accuracy and mean confidence in the label. Not a measure of quality: a collapsed pool scores near 1."""
    return _belief(logits_of(teacher.network, teacher.normalise, images, device), labels, "teacher")


@dataclass(frozen=True)
class Judge:
    """An independent classifier of another architecture, trained on real images of ``classes``."""

    network: Classifier
    normalise: Normalise
    classes: tuple[str, ...]

    def knows(self, classes: Sequence[str]) -> bool:
        return set(classes) <= set(self.classes)


def transfer(judge: Judge, classes: Sequence[str], images: Tensor, labels: Tensor, device: torch.device) -> dict[str, float]:
    """The judge's accuracy and confidence when it may choose among ``classes`` only, all of which it knows."""
    return _belief(judge_logits(judge, classes, images, device), labels, "transfer")


def judge_logits(judge: Judge, classes: Sequence[str], images: Tensor, device: torch.device) -> Tensor:
    """The judge's logits [N, len(classes)] for these classes, in their order."""
    columns = torch.tensor([judge.classes.index(name) for name in classes])
    return logits_of(judge.network, judge.normalise, images, device)[:, columns]


def spread(teacher: Teacher, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean absolute distance between images of one class, in grey values (0 to 255)."""
    chosen = torch.cat([torch.nonzero(labels == label).flatten()[:PER_CLASS] for label in range(len(teacher.classes))])
    return {"within_class_distance": within_class_distance(images[chosen].float(), labels[chosen]).item()}


def _belief(logits: Tensor, labels: Tensor, name: str) -> dict[str, float]:
    confidence = logits.softmax(1).gather(1, labels[:, None]).mean().item()
    return {f"{name}_accuracy": (logits.argmax(1) == labels).float().mean().item(), f"{name}_confidence": confidence}


def measure(teacher: Teacher, judge: Judge | None, pool: Pool, device: torch.device) -> dict[str, float]:
    """All measures of one teacher's pool; those of the judge only if it knows the teacher's classes."""
    found = {**teacher_belief(teacher, pool.images, pool.labels, device), **spread(teacher, pool.images, pool.labels)}
    if judge is not None and judge.knows(teacher.classes):
        found |= transfer(judge, teacher.classes, pool.images, pool.labels, device)
    return found


def quality_row(method: str, found: Mapping[str, dict[str, float]], real: Mapping[str, dict[str, float]]) -> dict[str, Any]:
    """One method's measures over teachers (by name): {mean, interval, n} each, and the within-class distance relative to real images."""
    metrics = {}
    for name in sorted({name for one in found.values() for name in one}):
        metrics[name] = mean_interval([one[name] for one in found.values() if name in one])
    references = {name: one["within_class_distance"] for name, one in real.items() if one["within_class_distance"] > 0}
    ratios = [one["within_class_distance"] / references[name] for name, one in found.items() if name in references]
    if ratios:
        metrics["within_class_ratio"] = mean_interval(ratios)
    return {"method": method, "metrics": metrics}
