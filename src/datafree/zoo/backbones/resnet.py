"""ResNet-8: a small residual network, used as the independent classifier of recovered images because it differs from Conv4."""

from __future__ import annotations

from torch import Tensor, nn

from datafree.config import BackboneConfig
from datafree.zoo.backbones.base import Backbone


def build(config: BackboneConfig, channels: int, size: int) -> ResNet8:
    """``resnet8``."""
    return ResNet8(config.width, channels)


class ResNet8(Backbone):
    """Stem, then three basic blocks of widths w, 2w, 4w with strides 1, 2, 2, then global average pooling; He et al., CVPR 2016."""

    def __init__(self, width: int, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 4 * width, 2))
        self.feature_size = 4 * width

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(self.stem(images)).mean((2, 3))


class BasicBlock(nn.Module):
    """Two conv3x3 with BatchNorm and a shortcut, projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, images: Tensor) -> Tensor:
        return (self.body(images) + self.shortcut(images)).relu()
