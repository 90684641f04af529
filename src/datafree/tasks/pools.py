"""Pools: the recovered images of one teacher with labels and soft labels, or real images in the same form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datafree.data.images import ImageSet


@dataclass(frozen=True)
class Pool:
    """images uint8 [N, C, H, W]; labels int64 [N] in the teacher's order; soft_labels float16 [N, K]; classes: K names."""

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    classes: tuple[str, ...]


def real_pool(data: ImageSet, classes: Sequence[str] | None = None, per_class: int | None = None) -> Pool:
    """Real images as a pool, for oracles and references, with one-hot soft labels.

    Args:
        classes: names of the classes to take, for instance a teacher's; labels follow this order. None takes all in the order of ``data``.
        per_class: number of images per class, the first ones, sorted by class; None takes all, in the order of ``data``.

    Raises:
        ValueError: ``data`` lacks one of ``classes``.
    """
    if classes is not None:
        data = data.of_classes([data.classes.index(name) for name in classes])
    images, labels = data.images, data.labels
    if per_class is not None:
        rows = torch.cat([torch.nonzero(labels == label).flatten()[:per_class] for label in range(len(data.classes))])
        images, labels = images[rows], labels[rows]
    return Pool(images, labels, torch.nn.functional.one_hot(labels, len(data.classes)).half(), data.classes)


def class_rows(pool: Pool) -> list[Tensor]:
    """The positions of each class's images in the pool."""
    return [torch.nonzero(pool.labels == label).flatten() for label in range(len(pool.classes))]


def balanced_rows(labels: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """At most ``count`` random positions in ``labels`` [N], as evenly over the classes as possible."""
    shuffled = torch.randperm(len(labels), generator=rng)
    order = torch.empty(len(labels))
    for label in labels.unique():
        members = labels[shuffled] == label
        order[members] = torch.arange(int(members.sum()), dtype=order.dtype)
    order += torch.rand(len(labels), generator=rng)  # within a round over the classes their order is random
    return shuffled[order.argsort()[:count]]
