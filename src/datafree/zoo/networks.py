"""Feature extractors that this project trained, on disk: weights beside a card that says how to use them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from datafree import artifacts
from datafree.config import BackboneConfig, as_tree, typed
from datafree.zoo import loading
from datafree.zoo.backbones import Backbone, Classifier, Normalise, build, parameter_count

CARD_KEYS = ("backbone", "input", "mean", "std")


def searched_backbone(architecture: Path, width: int = 0) -> BackboneConfig:
    """What a search found (its architecture.json): of ``width`` in the first stage, or as wide as in the search.

    Raises:
        UserError: a missing or damaged file.
    """
    found = artifacts.read_json(architecture, "backbone", "channels", "genotype", "cells")
    return BackboneConfig(found["backbone"], width or found["channels"], found["genotype"], found["cells"])


def network_card(backbone: Backbone, config: BackboneConfig, shape: Sequence[int], mean: list[float], std: list[float]) -> dict[str, Any]:
    """What ``read_backbone`` needs, and the network's size: parameters, and multiply-adds for one image."""
    return {
        "backbone": as_tree(config),
        "input": list(shape),
        "mean": mean,
        "std": std,
        "parameters": parameter_count(backbone),
        "macs": multiply_adds(backbone, shape),
    }


def read_backbone(weights: Path, card_path: Path) -> tuple[Backbone, Normalise]:
    """A trained backbone and its input normalisation.

    Raises:
        UserError: a missing or damaged file.
    """
    card = artifacts.read_json(card_path, *CARD_KEYS)
    config = typed(BackboneConfig, card["backbone"])
    backbone = build(config, card["input"][0], card["input"][1], seed=0)
    loading.fill(backbone, artifacts.read_tensors(weights), weights)
    return backbone, Normalise(card["mean"], card["std"])


def read_classifier(weights: Path, card_path: Path) -> tuple[Classifier, Normalise]:
    """As ``read_backbone``, for a network whose weights include a head over the card's classes."""
    card = artifacts.read_json(card_path, *CARD_KEYS, "classes")
    backbone = build(typed(BackboneConfig, card["backbone"]), card["input"][0], card["input"][1], seed=0)
    network = Classifier(backbone, len(card["classes"]))
    loading.fill(network, artifacts.read_tensors(weights), weights)
    return network.eval(), Normalise(card["mean"], card["std"])


def multiply_adds(module: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-adds of one image of shape [C, H, W]: half of what PyTorch's counter calls FLOPs. Leaves the module as it was."""
    modes = {part: part.training for part in module.modules()}
    device = next(module.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, *shape, device=device))
    for part, training in modes.items():
        part.training = training
    return counter.get_total_flops() // 2
