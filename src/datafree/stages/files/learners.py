"""Writing and reading learners: the backbone, the trained heads, and how the two are read together."""

from __future__ import annotations

from pathlib import Path

import torch

from datafree import artifacts
from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.representations import EQUAL, JoinWeights
from datafree.nas.networks import from_card
from datafree.stages.files.networks import CARD_KEYS
from datafree.zoo import loading
from datafree.zoo.backbones import Backbone, Normalise

JOIN_WEIGHTS = "join_weights"  # tensor [2] of the file


def write_learner(path: Path, backbone: Backbone, heads: TeacherHeads | None, weights: JoinWeights) -> None:
    """Write a learner's backbone, its trained heads, and the weights with which its features and probabilities are joined."""
    tensors = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    if heads is not None:
        tensors |= {f"heads.{name}": value for name, value in heads.state_dict().items()}
        tensors[JOIN_WEIGHTS] = torch.tensor(weights, dtype=torch.float64)
    artifacts.write_tensors(path, tensors)


def read_learner(path: Path, card_path: Path) -> tuple[Backbone, Normalise, TeacherHeads | None, JoinWeights]:
    """A learner as ``write_learner`` wrote it, with its input normalisation, on the CPU; no heads if they were not trained.

    Raises:
        UserError: a file is missing or damaged.
    """
    card = artifacts.read_json(card_path, *CARD_KEYS, "teacher_classes", "trained_heads")
    tensors = artifacts.read_tensors(path)
    backbone, heads, weights = from_card(card), None, EQUAL
    loading.fill(backbone, loading.part(tensors, "backbone."), path)
    if card["trained_heads"]:
        of_heads = loading.part(tensors, "heads.")
        shared = len(of_heads.get("bias", ())) < len(card["teacher_classes"])
        heads = TeacherHeads(backbone.feature_size, card["teacher_classes"], shared)
        loading.fill(heads, of_heads, path)
        weights = JoinWeights(*artifacts.read_tensors(path, JOIN_WEIGHTS)[JOIN_WEIGHTS].tolist())
    return backbone, Normalise(card["mean"], card["std"]), heads, weights
