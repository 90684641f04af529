"""Reading recovered pools, the outputs of stage ``invert``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datafree import artifacts
from datafree.tasks.pools import Pool


def read_pool(images: Path, card: Path) -> Pool:
    """The pool of one teacher; ``card`` is the teacher's, with the class names.

    Raises:
        UserError: a file is missing or damaged.
    """
    tensors = artifacts.read_tensors(images, "images", "labels", "soft_labels")
    return Pool(tensors["images"], tensors["labels"], tensors["soft_labels"], tuple(artifacts.read_json(card, "classes")["classes"]))


def read_pools(images: Sequence[Path], cards: Sequence[Path]) -> list[Pool]:
    """The pools of several teachers, in the order of the files."""
    return [read_pool(i, c) for i, c in zip(images, cards, strict=True)]
