"""Reading teachers, the outputs of stage ``teacher``: weights and card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datafree import artifacts
from datafree.zoo import loading
from datafree.zoo.backbones import Normalise
from datafree.zoo.teachers import Teacher, empty_network, freeze


def read_teacher(weights: Path, card_path: Path) -> Teacher:
    """One teacher, frozen, on the CPU.

    Raises:
        UserError: a file is missing or damaged.
    """
    card = artifacts.read_json(card_path, "name", "architecture", "input", "mean", "std", "classes")
    network = empty_network(card, len(card["classes"]))
    loading.fill(network, artifacts.read_tensors(weights), weights)
    return Teacher(
        card["name"], freeze(network), Normalise(card["mean"], card["std"], card["input"]), tuple(card["classes"]), tuple(card["input"])
    )


def read_teachers(weights: Sequence[Path], cards: Sequence[Path]) -> list[Teacher]:
    """Several teachers, in the order of the files."""
    return [read_teacher(w, c) for w, c in zip(weights, cards, strict=True)]
