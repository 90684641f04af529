"""Recovered pools: the images of one teacher with the labels and soft labels that it gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datafree import artifacts
from datafree.data.images import ImageSet


@dataclass(frozen=True)
class Pool:
    """images uint8 [N, C, H, W]; labels int64 [N] in the teacher's order; soft_labels float16 [N, K]; classes: K names."""

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    classes: tuple[str, ...]


def read_pool(images: Path, card: Path) -> Pool:
    """Load the pool that the inversion stage wrote for a teacher."""
    tensors = artifacts.read_tensors(images, "images", "labels", "soft_labels")
    return Pool(tensors["images"], tensors["labels"], tensors["soft_labels"], tuple(artifacts.read_json(card, "classes")["classes"]))


def read_pools(images: Sequence[Path], cards: Sequence[Path]) -> list[Pool]:
    return [read_pool(i, c) for i, c in zip(images, cards, strict=True)]


def real_pool(data: ImageSet) -> Pool:
    """Real images in place of recovered ones, for oracles; their soft labels are certain."""
    return Pool(data.images, data.labels, torch.nn.functional.one_hot(data.labels, len(data.classes)).half(), data.classes)


def class_rows(pool: Pool) -> list[Tensor]:
    """For each class the positions of its images in the pool."""
    return [torch.nonzero(pool.labels == label).flatten() for label in range(len(pool.classes))]
