"""ResNet-20/32/44/56/110: the residual networks of He et al. for CIFAR."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from datafree.config import BackboneConfig
from datafree.zoo.backbones.base import Backbone


def build(config: BackboneConfig, channels: int, size: int) -> CifarResNet:
    """``resnet<depth>``."""
    return CifarResNet(int(config.name.removeprefix("resnet")), config.width, channels)


class CifarResNet(Backbone):
    """ResNet-20/32/44/56/110: He et al., "Deep Residual Learning", CVPR 2016, section 4.2; ``depth`` is 6n + 2.

    A stem and three stages of n basic blocks with widths w, 2w, 4w (w = 16 in the paper) and strides 1, 2, 2, then global average
    pooling. Shortcuts have no parameters (the paper's option A). Modules are named as in most published checkpoints.
    """

    def __init__(self, depth: int, width: int, channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth: got {depth}; expected 6n + 2")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1)
        self.layer2 = _stage(width, 2 * width, blocks, 2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2)
        self.feature_size = 4 * width

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images)).relu()
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (PlainShortcutBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(PlainShortcutBlock(inputs, outputs, stride), *rest)


class PlainShortcutBlock(nn.Module):
    """Two conv3x3 with BatchNorm; the shortcut takes every ``stride``-th pixel and pads new channels with zeros, equally on both sides."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu()))
        shortcut = images[:, :, :: self.stride, :: self.stride]
        return (x + F.pad(shortcut, (0, 0, 0, 0, self.before, self.after))).relu()
