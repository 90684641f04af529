"""Backbones by configuration: stand-alone networks of searched architectures, and all backbones of the zoo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datafree.config import BackboneConfig, typed
from datafree.nas.space import Genotype, Space
from datafree.nas.spaces import SPACES
from datafree.zoo import backbones
from datafree.zoo.backbones import Backbone


def build(config: BackboneConfig, channels: int, image_size: int, seed: int) -> Backbone:
    """A freshly initialised backbone for images of [channels, image_size, image_size]; the same seed gives the same weights.

    ``config.name`` is that of a search space or of a backbone of the zoo.

    Raises:
        UserError: no backbone of that name, one that cannot take such images, or a malformed genotype.
    """
    if config.name not in SPACES:
        return backbones.build(config, channels, image_size, seed)
    assert config.genotype is not None  # checked before the first job
    space = SPACES[config.name](config.width, config.cells, image_size, channels)
    return stand_alone(space, space.decode(config.genotype), seed)


def from_card(card: Mapping[str, Any]) -> Backbone:
    """An untrained backbone of the architecture of a network card.

    Raises:
        UserError: the card's ``backbone`` or ``input`` [C, H, W] describe none.
    """
    return build(typed(BackboneConfig, card["backbone"]), card["input"][0], card["input"][1], seed=0)


def stand_alone(space: Space, genotype: Genotype, seed: int) -> Backbone:
    """The freshly initialised network of one architecture, outside the supernet; the same arguments give the same weights."""
    return backbones.initialised(lambda: space.network(genotype), space.image_channels, space.image_size, seed)
