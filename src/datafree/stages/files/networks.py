"""Reading trained networks (weights and card), and the backbone of a search result."""

from __future__ import annotations

from pathlib import Path

from datafree import artifacts
from datafree.config import BackboneConfig, typed
from datafree.nas.networks import from_card
from datafree.zoo import loading
from datafree.zoo.backbones import Backbone, Classifier, Normalise

CARD_KEYS = ("backbone", "input", "mean", "std")


def searched_backbone(architecture: Path, width: int | None = None) -> BackboneConfig:
    """The backbone of a search result (architecture.json), with ``width`` channels in the first stage, or those of the search.

    Raises:
        UserError: a file is missing or damaged.
    """
    result = artifacts.read_json(architecture, "backbone", "channels", "genotype", "cells")
    tree = {"name": result["backbone"], "width": width or result["channels"], "genotype": result["genotype"], "cells": result["cells"]}
    return typed(BackboneConfig, tree)


def read_backbone(weights: Path, card_path: Path) -> tuple[Backbone, Normalise]:
    """A trained backbone and its input normalisation, on the CPU.

    Raises:
        UserError: a file is missing or damaged.
    """
    card = artifacts.read_json(card_path, *CARD_KEYS)
    backbone = from_card(card)
    loading.fill(backbone, artifacts.read_tensors(weights), weights)
    return backbone, Normalise(card["mean"], card["std"])


def read_classifier(weights: Path, card_path: Path) -> tuple[Classifier, Normalise]:
    """As ``read_backbone``, for a network with a head over the card's classes; in evaluation mode."""
    card = artifacts.read_json(card_path, *CARD_KEYS, "classes")
    network = Classifier(from_card(card), len(card["classes"]))
    loading.fill(network, artifacts.read_tensors(weights), weights)
    return network.eval(), Normalise(card["mean"], card["std"])
