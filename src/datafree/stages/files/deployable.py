"""Learners and teachers of a project, from their files, as networks that learn new classes; without recovered images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from datafree import artifacts
from datafree.config import as_tree
from datafree.evaluation.representations import weights_for
from datafree.predict.files import largest_input
from datafree.predict.network import RepresentationNetwork, SideBySide, TrainedLearner
from datafree.stages.files.learners import read_learner
from datafree.stages.files.networks import read_backbone
from datafree.stages.files.teachers import read_teacher
from datafree.zoo.backbones import Normalise, parameter_count
from datafree.zoo.teachers import architecture


def of_learner(weights: Path, card_path: Path, *, mirrored: bool) -> TrainedLearner:
    """A trained arm; ``mirrored`` as in ``RepresentationNetwork``.

    Raises:
        UserError: a file is missing or damaged.
    """
    card = artifacts.read_json(card_path, "arm", "inversion", "input", "macs", "parameters")
    backbone, _, heads, join_weights = read_learner(weights, card_path)
    network = RepresentationNetwork(backbone, Normalise(card["mean"], card["std"], card["input"]), heads, join_weights, mirrored=mirrored)
    counts = card["teacher_classes"] if heads is not None else []
    return _learner(network, {**card, "teacher_classes": counts, "sha256": artifacts.sha256(weights)})


def of_search(weights: Path, card_path: Path, *, mirrored: bool) -> TrainedLearner:
    """The network of a search result that was trained on recovered images; it has no heads."""
    card = artifacts.read_json(card_path, "input")
    backbone, _ = read_backbone(weights, card_path)
    network = RepresentationNetwork(backbone, Normalise(card["mean"], card["std"], card["input"]), None, mirrored=mirrored)
    return _learner(network, {**card, "method": "architecture search", "teacher_classes": [], "sha256": artifacts.sha256(weights)})


def of_teacher(path: Path, card_path: Path, *, mirrored: bool) -> TrainedLearner:
    """A teacher as it is."""
    card = artifacts.read_json(card_path, "licence", "source", "macs")
    teacher = read_teacher(path, card_path)
    backbone, head, weights = teacher.network.backbone, teacher.network.head, weights_for(len(teacher.classes))
    network = RepresentationNetwork(backbone, teacher.normalise, head, weights, mirrored=mirrored)
    described = {
        "backbone": as_tree(architecture(card)),
        "input": list(teacher.input),
        "teacher_classes": [len(teacher.classes)],
        "teacher": teacher.name,
        "sha256": artifacts.sha256(path),
        "parameters": parameter_count(backbone),
        **{key: card[key] for key in ("mean", "std", "licence", "source", "macs")},
    }
    return _learner(network, described)


def side_by_side(members: list[TrainedLearner], name: str) -> TrainedLearner:
    """Several teachers as one network, N ≥ 1."""
    cards = [dict(member.card) for member in members]
    described = {
        "arm": name,
        "method": "teachers side by side",
        "members": cards,
        "input": largest_input(cards),
        "teacher_classes": [],
        **{key: sum(card[key] for card in cards) for key in ("parameters", "macs")},
    }
    return _learner(SideBySide([network for member in members for network in member.members]), described)


def _learner(network: RepresentationNetwork | SideBySide, card: dict[str, Any]) -> TrainedLearner:
    return TrainedLearner(network, torch.empty(0, network.size), card)
