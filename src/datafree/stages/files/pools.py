"""Reading recovered pools, the outputs of stage ``invert``."""

from __future__ import annotations

from pathlib import Path

from datafree import artifacts
from datafree.tasks.pools import Pool
from datafree.workflow.indexes import read_index


def read_pools(index: Path, zoo: Path) -> list[Pool]:
    """The pools of all teachers by one method, in the order of the zoo; ``index`` and ``zoo`` are the indexes of pools and teachers.

    Raises:
        UserError: a file is missing, damaged or not the one of the index.
    """
    return [
        read_pool(pool.path("images.safetensors"), teacher.path("card.json"))
        for pool, teacher in zip(read_index(index), read_index(zoo), strict=True)
    ]


def read_pool(images: Path, card: Path) -> Pool:
    """The pool of one teacher; ``card`` is the teacher's, with the class names.

    Raises:
        UserError: a file is missing or damaged.
    """
    tensors = artifacts.read_tensors(images, "images", "labels", "soft_labels")
    return Pool(tensors["images"], tensors["labels"], tensors["soft_labels"], tuple(artifacts.read_json(card, "classes")["classes"]))
