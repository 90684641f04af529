"""Backbones (feature extractors) by name. To add one: a file here, a line in ``BACKBONES`` and in ``datafree.config.schema.BACKBONES``.

The module of a backbone is imported only when the backbone is looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datafree.config import BackboneConfig
from datafree.config.schema import backbone_family
from datafree.devices import seeded_initialisation
from datafree.errors import UserError
from datafree.registry import Registry
from datafree.zoo.backbones.base import Backbone, BlockBackbone, Classifier, Normalise, batch_norm_layers, fitted
from datafree.zoo.backbones.memory_format import channels_last

# Each is called as ``build(config, channels, size)`` with the input channels and the image size in pixels.
BACKBONES: Registry[Callable[[BackboneConfig, int, int], Backbone]] = Registry(
    {
        "conv4": "datafree.zoo.backbones.conv4:build",
        "conv4_strided": "datafree.zoo.backbones.conv4:build_strided",
        "resnet8": "datafree.zoo.backbones.resnet:build",
        "resnet10": "datafree.zoo.backbones.few_shot_resnet:build",
        "resnet12": "datafree.zoo.backbones.few_shot_resnet:build_resnet12",
        "resnet18": "datafree.zoo.backbones.few_shot_resnet:build",
        "resnet20": "datafree.zoo.backbones.cifar_resnet:build",
        "resnet32": "datafree.zoo.backbones.cifar_resnet:build",
        "resnet44": "datafree.zoo.backbones.cifar_resnet:build",
        "resnet56": "datafree.zoo.backbones.cifar_resnet:build",
        "resnet110": "datafree.zoo.backbones.cifar_resnet:build",
        "wrn16": "datafree.zoo.backbones.wide_resnet:build",
        "wrn40": "datafree.zoo.backbones.wide_resnet:build",
        "vgg11": "datafree.zoo.backbones.vgg:build",
        "vgg13": "datafree.zoo.backbones.vgg:build",
        "vgg16": "datafree.zoo.backbones.vgg:build",
        "vgg19": "datafree.zoo.backbones.vgg:build",
        "mobilenetv2": "datafree.zoo.backbones.mobilenet_v2:build",
        "torchvision/*": "datafree.zoo.backbones.torchvision_models:build",
        "timm/*": "datafree.zoo.backbones.timm_models:build",
    }
)


def build(config: BackboneConfig, channels: int, image_size: int, seed: int) -> Backbone:
    """A freshly initialised backbone for images of [channels, image_size, image_size]; the same seed gives the same weights.

    Raises:
        UserError: unknown backbone, or one that cannot process such images.
    """
    family = backbone_family(config.name)
    if family not in BACKBONES:
        raise UserError(f"backbone: got {config.name!r}; allowed: {', '.join(BACKBONES)}")
    make = BACKBONES[family]
    return initialised(lambda: make(config, channels, image_size), channels, image_size, seed)


def initialised(make: Callable[[], Backbone], channels: int, image_size: int, seed: int) -> Backbone:
    """The backbone that ``make`` constructs, with weights determined by the seed, in channels-last memory, with its ``input`` noted."""
    with seeded_initialisation(seed):
        backbone = channels_last(make())
    backbone.input = (channels, image_size, image_size)
    return backbone


def parameter_count(module: Any) -> int:
    """Number of values in all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


__all__ = ["BACKBONES", "Backbone", "BlockBackbone", "Classifier", "Normalise", "batch_norm_layers", "build", "fitted", "parameter_count"]
