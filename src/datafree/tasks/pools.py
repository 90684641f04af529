"""Recovered pools: the images of one teacher with the labels and soft labels that it gives them."""

from __future__ import annotations

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


def real_pool(data: ImageSet) -> Pool:
    """Real images in place of recovered ones, for oracles; their soft labels are certain."""
    return Pool(data.images, data.labels, torch.nn.functional.one_hot(data.labels, len(data.classes)).half(), data.classes)


def class_rows(pool: Pool) -> list[Tensor]:
    """For each class the positions of its images in the pool."""
    return [torch.nonzero(pool.labels == label).flatten() for label in range(len(pool.classes))]
