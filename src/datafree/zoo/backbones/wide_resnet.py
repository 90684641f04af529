"""Wide residual networks (WRN-16-k, WRN-40-k)."""

from __future__ import annotations

from torch import Tensor, nn

from datafree.config import BackboneConfig
from datafree.zoo.backbones.base import Backbone


def build(config: BackboneConfig, channels: int, size: int) -> WideResNet:
    """``wrn<depth>``."""
    return WideResNet(int(config.name.removeprefix("wrn")), config.width, channels)


class WideResNet(Backbone):
    """WRN-16-k and WRN-40-k: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016; ``depth`` is 6n + 4.

    A stem of 16 channels, three stages of n pre-activation blocks with widths w, 2w, 4w (w = 16k) and strides 1, 2, 2, then BatchNorm,
    ReLU and global average pooling. No dropout.
    """

    def __init__(self, depth: int, width: int, channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth: got {depth}; expected 6n + 4")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, width, blocks, 1)
        self.layer2 = _stage(width, 2 * width, blocks, 2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2)
        self.bn = nn.BatchNorm2d(4 * width)
        self.feature_size = 4 * width

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return self.bn(x).relu().mean((2, 3))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(PreActivationBlock(inputs, outputs, stride), *(PreActivationBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


class PreActivationBlock(nn.Module):
    """BatchNorm → ReLU → conv3x3, twice; where the shape changes, the shortcut is a conv1x1 of the first activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs and stride == 1 else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        active = self.bn1(images).relu()
        x = self.conv2(self.bn2(self.conv1(active)).relu())
        return x + (images if self.shortcut is None else self.shortcut(active))
