"""Backbones (feature extractors) by name. To add one: a file here, a line in ``BACKBONES`` and in ``datafree.config.schema.BACKBONES``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datafree.config import BackboneConfig
from datafree.config.schema import backbone_family
from datafree.devices import seeded_initialisation
from datafree.errors import UserError
from datafree.zoo.backbones.base import Backbone, BlockBackbone, Classifier, Normalise, batch_norm_layers, fitted
from datafree.zoo.backbones.cifar_resnet import CifarResNet
from datafree.zoo.backbones.conv4 import Conv4
from datafree.zoo.backbones.few_shot_resnet import FewShotResNet, ResNet12
from datafree.zoo.backbones.memory_format import channels_last
from datafree.zoo.backbones.mobilenet_v2 import MobileNetV2
from datafree.zoo.backbones.resnet import ResNet8
from datafree.zoo.backbones.timm_models import TimmModel
from datafree.zoo.backbones.torchvision_models import TorchvisionModel
from datafree.zoo.backbones.vgg import Vgg
from datafree.zoo.backbones.wide_resnet import WideResNet

# Each takes the configuration, the input channels and the image size in pixels. The part after a slash is the library's model name.
BACKBONES: dict[str, Callable[[BackboneConfig, int, int], Backbone]] = {
    "conv4": lambda config, channels, size: Conv4(config.width, channels, size),
    "conv4_strided": lambda config, channels, size: Conv4(config.width, channels, size, stride_stem=True),
    "resnet8": lambda config, channels, size: ResNet8(config.width, channels),
    "resnet10": lambda config, channels, size: FewShotResNet(1, config.width, channels),
    "resnet12": lambda config, channels, size: ResNet12(config.width, channels),
    "resnet18": lambda config, channels, size: FewShotResNet(2, config.width, channels),
    "resnet20": lambda config, channels, size: CifarResNet(20, config.width, channels),
    "resnet32": lambda config, channels, size: CifarResNet(32, config.width, channels),
    "resnet44": lambda config, channels, size: CifarResNet(44, config.width, channels),
    "resnet56": lambda config, channels, size: CifarResNet(56, config.width, channels),
    "resnet110": lambda config, channels, size: CifarResNet(110, config.width, channels),
    "wrn16": lambda config, channels, size: WideResNet(16, config.width, channels),
    "wrn40": lambda config, channels, size: WideResNet(40, config.width, channels),
    "vgg11": lambda config, channels, size: Vgg(11, config.width, channels),
    "vgg13": lambda config, channels, size: Vgg(13, config.width, channels),
    "vgg16": lambda config, channels, size: Vgg(16, config.width, channels),
    "vgg19": lambda config, channels, size: Vgg(19, config.width, channels),
    "mobilenetv2": lambda config, channels, size: MobileNetV2(config.width, channels),
    "torchvision/*": lambda config, channels, size: TorchvisionModel(config.name.partition("/")[2], channels, size),
    "timm/*": lambda config, channels, size: TimmModel(config.name.partition("/")[2], channels, size),
}


def build(config: BackboneConfig, channels: int, image_size: int, seed: int) -> Backbone:
    """A freshly initialised backbone for images of [channels, image_size, image_size]; the same seed gives the same weights.

    Raises:
        UserError: unknown backbone, or one that cannot process such images.
    """
    family = backbone_family(config.name)
    if family not in BACKBONES:
        raise UserError(f"backbone: got {config.name!r}; allowed: {', '.join(BACKBONES)}")
    return initialised(lambda: BACKBONES[family](config, channels, image_size), channels, image_size, seed)


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
