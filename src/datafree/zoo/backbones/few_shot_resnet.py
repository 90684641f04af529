"""ResNet-10, ResNet-12 and ResNet-18 of the few-shot literature, for images of 28 to 84 pixels."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from datafree.config import BackboneConfig
from datafree.zoo.backbones.base import Backbone


def build(config: BackboneConfig, channels: int, size: int) -> FewShotResNet:
    """``resnet10`` and ``resnet18``."""
    return FewShotResNet({"resnet10": 1, "resnet18": 2}[config.name], config.width, channels)


def build_resnet12(config: BackboneConfig, channels: int, size: int) -> ResNet12:
    """``resnet12``."""
    return ResNet12(config.width, channels)


class FewShotResNet(Backbone):
    """ResNet-10 and ResNet-18: four stages of one or two basic blocks with widths w, 2w, 4w, 8w (w = 64), global average pooling.

    Chen et al., "A Closer Look at Few-shot Classification", ICLR 2019, with the stem for small images: conv3x3 of stride 1, no pooling.
    ``torchvision/resnet18`` is the variant for large images. Modules are named as in torchvision.
    """

    def __init__(self, blocks: int, width: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1)
        self.layer2 = _stage(width, 2 * width, blocks, 2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2)
        self.layer4 = _stage(4 * width, 8 * width, blocks, 2)
        self.feature_size = 8 * width

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images)).relu()
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ProjectionBlock(inputs, outputs, stride), *(ProjectionBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


class ProjectionBlock(nn.Module):
    """Two conv3x3 with BatchNorm; the shortcut is a conv1x1 with BatchNorm where the shape changes, otherwise the identity."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.downsample = None if same else _projection(inputs, outputs, stride)

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu()))
        return (x + (images if self.downsample is None else self.downsample(images))).relu()


class ResNet12(Backbone):
    """Four blocks of three conv3x3, each followed by max-pool 2, with widths w, 2.5w, 5w, 10w (w = 64), global average pooling.

    Lee et al., "Meta-Learning with Differentiable Convex Optimization", CVPR 2019, without its dropout.
    """

    def __init__(self, width: int, channels: int = 3) -> None:
        super().__init__()
        widths = [channels, width, 5 * width // 2, 5 * width, 10 * width]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            TripleBlock(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)
        )
        self.feature_size = widths[-1]

    def forward(self, images: Tensor) -> Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(images)))).mean((2, 3))


class TripleBlock(nn.Module):
    """Three conv3x3 with BatchNorm and LeakyReLU(0.1), a projected shortcut, then max-pool 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv3 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.leaky_relu(self.bn1(self.conv1(images)), 0.1)
        x = F.leaky_relu(self.bn2(self.conv2(x)), 0.1)
        x = F.leaky_relu(self.bn3(self.conv3(x)) + self.downsample(images), 0.1)
        return F.max_pool2d(x, 2)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
