"""Slim ResNets: residual networks with a width and depth for each stage."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from datafree.nas.spaces.slim_resnet.genotype import STAGES, Genotype, channels
from datafree.zoo.backbones.base import BlockBackbone


class SlimResNet(BlockBackbone):
    """Stem and three stages of basic blocks, then global average pooling: float [B, image_channels, H, W] → [B, width of the last].

    A variant of the CIFAR ResNets of He et al., CVPR 2016: the second and third stage halve the resolution and at full width double the
    channels; the first block of a stage has a projected shortcut.
    """

    def __init__(self, genotype: Genotype, width: int, image_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(image_channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.stages, inputs = nn.ModuleList(), width
        for stage in range(STAGES):
            outputs, depth = channels(width, stage, genotype[2 * stage]), int(genotype[2 * stage + 1][1:])
            self.stages.append(new_stage(inputs, outputs, depth, stage))
            inputs = outputs
        self.feature_size = inputs

    def feature_map(self, images: Tensor, *path: Any) -> Tensor:
        x = self.norm(self.stem(images)).relu()
        for stage in self.stages:
            for block in stage:  # pyright: ignore[reportGeneralTypeIssues]  (a ModuleList of ModuleLists)
                x = block(x)
        return x

    def sequence(self) -> list[nn.Module]:
        return [self.stem, *(block for stage in self.stages for block in stage)]  # pyright: ignore[reportGeneralTypeIssues]


def new_stage(inputs: int, outputs: int, depth: int, stage: int) -> nn.ModuleList:
    """The blocks of a stage; the first has a projected shortcut and, from the second stage on, stride 2."""
    first = SlimBlock(inputs, outputs, 1 if stage == 0 else 2, project=True)
    return nn.ModuleList([first, *(SlimBlock(outputs, outputs, 1, project=False) for _ in range(depth - 1))])


class SlimBlock(nn.Module):
    """Two conv3x3 with BatchNorm and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = projection if project else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, inputs, H, W] → [B, outputs, …]; ``mask`` [outputs, 1, 1] scales the channels of both layers."""
        hidden = self.norm1(self.conv1(x)).relu()
        hidden = hidden if mask is None else hidden * mask
        out = (self.norm2(self.conv2(hidden)) + self.shortcut(x)).relu()
        return out if mask is None else out * mask
