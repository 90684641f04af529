"""VGG for small images."""

from __future__ import annotations

from torch import Tensor, nn

from datafree.config import BackboneConfig
from datafree.zoo.backbones.base import Backbone

# Convolutions per stage: Simonyan and Zisserman, ICLR 2015, table 1, configurations A, B, D and E.
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def build(config: BackboneConfig, channels: int, size: int) -> Vgg:
    """``vgg<depth>``."""
    return Vgg(int(config.name.removeprefix("vgg")), config.width, channels)


class Vgg(Backbone):
    """VGG-11/13/16/19 with BatchNorm, in the variant for CIFAR: one linear head on 8w features instead of three wide layers.

    Five stages of conv3x3 → BatchNorm → ReLU with widths w, 2w, 4w, 8w, 8w (w = 64), each followed by max-pool 2, then global average
    pooling. ``features`` numbers its modules as torchvision's ``vgg*_bn`` does. A map of one pixel is not pooled further, so
    images may have fewer than 32 pixels.
    """

    def __init__(self, depth: int, width: int, channels: int = 3) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for stage, factor in zip(STAGES[depth], (1, 2, 4, 8, 8), strict=True):
            for _ in range(stage):
                modules += [nn.Conv2d(channels, factor * width, 3, padding=1), nn.BatchNorm2d(factor * width), nn.ReLU()]
                channels = factor * width
            modules.append(PoolWhilePossible())
        self.features = nn.Sequential(*modules)
        self.feature_size = channels

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).mean((2, 3))


class PoolWhilePossible(nn.Module):
    """Max-pool 2, unless the map [B, C, H, W] has a side of one pixel."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.max_pool2d(images, 2) if min(images.shape[2:]) > 1 else images
