"""MobileNetV2 for small images."""

from __future__ import annotations

from torch import Tensor, nn

from datafree.config import BackboneConfig
from datafree.zoo.backbones.base import Backbone

# Expansion, width at multiplier 1, blocks, stride: Sandler et al., table 2, with the first two strides of 2 replaced by 1.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def build(config: BackboneConfig, channels: int, size: int) -> MobileNetV2:
    """``mobilenetv2``."""
    return MobileNetV2(config.width, channels)


class MobileNetV2(Backbone):
    """Sandler et al., "MobileNetV2", CVPR 2018, in the variant for CIFAR: stem and second stage keep the resolution.

    ``width``: channels of the stem (32 = multiplier 1); all others scale with it, rounded to a multiple of 8; the last is at least
    1280. Modules are named as in torchvision.
    """

    def __init__(self, width: int, channels: int = 3) -> None:
        super().__init__()

        def scaled(size: int) -> int:
            rounded = max(8, (size * width + 128) // 256 * 8)
            return rounded if 32 * rounded * 10 >= 9 * size * width else rounded + 8  # rounding removes at most a tenth

        inputs = scaled(32)
        modules: list[nn.Module] = [_conv_norm(channels, inputs, 3, 1)]
        for expansion, size, blocks, stride in STAGES:
            for number in range(blocks):
                modules.append(InvertedResidual(inputs, scaled(size), stride if number == 0 else 1, expansion))
                inputs = scaled(size)
        self.feature_size = max(1280, scaled(1280))
        modules.append(_conv_norm(inputs, self.feature_size, 1, 1))
        self.features = nn.Sequential(*modules)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).mean((2, 3))


class InvertedResidual(nn.Module):
    """Expand by conv1x1, filter each channel by conv3x3, project by conv1x1 without activation; a shortcut where the shape allows it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [_conv_norm(inputs, hidden, 1, 1)] if expansion > 1 else []
        project = [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*expand, _conv_norm(hidden, hidden, 3, stride, groups=hidden), *project)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        return x + images if self.shortcut else x


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())
