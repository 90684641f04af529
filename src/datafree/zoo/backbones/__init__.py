"""Feature extractors by name. A new one is one file here and one line in ``BACKBONES``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from datafree.config import BackboneConfig
from datafree.devices import seeded_initialisation
from datafree.errors import UserError
from datafree.zoo.backbones.base import Backbone, Classifier, Normalise
from datafree.zoo.backbones.conv4 import Conv4
from datafree.zoo.backbones.nasbench201 import NasBench201
from datafree.zoo.backbones.resnet import ResNet8

# Each takes the configuration, the input channels and the image size in pixels.
BACKBONES: dict[str, Callable[[BackboneConfig, int, int], Backbone]] = {
    "conv4": lambda config, channels, size: Conv4(config.width, channels, size),
    "conv4_strided": lambda config, channels, size: Conv4(config.width, channels, size, stride_stem=True),
    "resnet8": lambda config, channels, size: ResNet8(config.width, channels),
    "nasbench201": lambda config, channels, size: NasBench201(config.genotype, config.width, config.cells, channels),
}


def build(config: BackboneConfig, channels: int, image_size: int, seed: int) -> Backbone:
    """A freshly initialised backbone; the same seed gives the same weights.

    Raises:
        UserError: no backbone of that name.
    """
    if config.name not in BACKBONES:
        raise UserError(f"backbone: got {config.name!r}; allowed: {', '.join(BACKBONES)}")
    with seeded_initialisation(seed):
        return BACKBONES[config.name](config, channels, image_size).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def parameter_count(module: Any) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in module.parameters())


__all__ = ["BACKBONES", "Backbone", "Classifier", "Normalise", "build", "parameter_count"]
