"""MBConv networks: the macro network, the inverted residual block, and the stand-alone network of one chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from datafree.nas.spaces.mbconv.genotype import SKIP, BlockShape, Genotype, Layout, kernel_and_expansion
from datafree.zoo.backbones.base import BlockBackbone


class MbconvMacro(BlockBackbone):
    """Stem, the blocks of a ``Layout``, conv1x1, then global average pooling: float [B, channels, H, W] → [B, head].

    ``block`` makes one block from its number and shape; ``run`` computes a block and gets further arguments of ``forward``.
    """

    def __init__(self, layout: Layout, channels: int, block: Callable[[int, BlockShape], nn.Module]) -> None:
        super().__init__()
        self.stem = ConvNorm(channels, layout.stem, 3, layout.stem_stride)
        self.first = MobileBlock(BlockShape(layout.stem, layout.first, 1), 3, 1) if layout.first else nn.Identity()
        self.blocks = nn.ModuleList(block(number, shape) for number, shape in enumerate(layout.blocks))
        self.head = ConvNorm(layout.blocks[-1].outputs, layout.head, 1)
        self.feature_size = layout.head

    def feature_map(self, images: Tensor, *path: Any) -> Tensor:
        x = self.first(self.stem(images))
        for number, block in enumerate(self.blocks):
            x = self.run(block, x, number, *path)
        return self.head(x)

    def sequence(self) -> list[nn.Module]:
        return [module for module in (self.stem, self.first, *self.blocks) if not isinstance(module, nn.Identity)]

    def run(self, block: nn.Module, x: Tensor, number: int, *path: Any) -> Tensor:
        return block(x)


class Mbconv(MbconvMacro):
    """The stand-alone network of one chain: Cai et al., "ProxylessNAS", ICLR 2019."""

    def __init__(self, genotype: Genotype, layout: Layout, channels: int = 3) -> None:
        super().__init__(layout, channels, lambda number, shape: option_block(genotype[number], shape))


def option_block(option: str, shape: BlockShape) -> nn.Module:
    """The block of one option; the identity for ``skip``."""
    return nn.Identity() if option == SKIP else MobileBlock(shape, *kernel_and_expansion(option))


class MobileBlock(nn.Module):
    """Inverted residual block: conv1x1 expansion, depthwise convolution, linear conv1x1 projection; a shortcut if the shape is kept."""

    def __init__(self, shape: BlockShape, kernel: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * shape.inputs
        self.expand = ConvNorm(shape.inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.filter = ConvNorm(hidden, hidden, kernel, shape.stride, groups=hidden)
        self.project = nn.Conv2d(hidden, shape.outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(shape.outputs)
        self.shortcut = shape.inputs == shape.outputs and shape.stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.project(self.filter(self.expand(x))))
        return x + y if self.shortcut else y


class ConvNorm(nn.Module):
    """Convolution without bias → BatchNorm → ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.norm(self.conv(x)))
