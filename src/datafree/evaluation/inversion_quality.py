"""How good recovered images are, by measures that a collapsed pool cannot please."""

from __future__ import annotations

import torch
from torch import Tensor

from datafree.inversion.losses import within_class_distance
from datafree.tasks.pools import Pool
from datafree.zoo.backbones import Classifier, Normalise
from datafree.zoo.teachers import Teacher
from datafree.zoo.training import logits_of

PER_CLASS = 20  # images per class that enter the distance: its cost grows with the square


def teacher_belief(teacher: Teacher, images: Tensor, labels: Tensor, device: torch.device) -> dict[str, float]:
    """The teacher's own accuracy and mean confidence in the label. Not a measure of quality: a collapsed pool scores near 1."""
    return _belief(logits_of(teacher.network, teacher.normalise, images, device), labels, "teacher")


def transfer(
    judge: Classifier, normalise: Normalise, columns: Tensor, images: Tensor, labels: Tensor, device: torch.device
) -> dict[str, float]:
    """Accuracy and confidence of an independent classifier, trained on real data, among the teacher's classes only.

    ``columns`` int64 [K]: the judge's logit for each of the teacher's classes.
    """
    logits = logits_of(judge, normalise, images, device)[:, columns]
    return _belief(logits, labels, "transfer")


def spread(teacher: Teacher, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean absolute distance between images of one class, in grey values (0 to 255)."""
    chosen = torch.cat([torch.nonzero(labels == label).flatten()[:PER_CLASS] for label in range(len(teacher.classes))])
    return {"within_class_distance": within_class_distance(images[chosen].float(), labels[chosen]).item()}


def _belief(logits: Tensor, labels: Tensor, name: str) -> dict[str, float]:
    confidence = logits.softmax(1).gather(1, labels[:, None]).mean().item()
    return {f"{name}_accuracy": (logits.argmax(1) == labels).float().mean().item(), f"{name}_confidence": confidence}


def measure(
    teacher: Teacher, judge: Classifier, judge_normalise: Normalise, columns: Tensor, pool: Pool, device: torch.device
) -> dict[str, float]:
    """All measures of one teacher's pool."""
    return {
        **teacher_belief(teacher, pool.images, pool.labels, device),
        **transfer(judge, judge_normalise, columns, pool.images, pool.labels, device),
        **spread(teacher, pool.images, pool.labels),
    }
