"""Chains of mobile blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from datafree.zoo.backbones.base import BlockBackbone
from datafree.zoo.genotypes.mbconv import SKIP, BlockShape, Layout, decode, kernel_and_expansion, layout


class MbconvMacro(BlockBackbone):
    """Stem, the blocks of a ``Layout``, conv1x1, then global average pooling: float [B, channels, H, W] → [B, head].

    ``block`` makes one block from its number and shape; ``run`` takes a block, its input and what else ``forward`` gets, by number.
    """

    def __init__(self, plan: Layout, channels: int, block: Callable[[int, BlockShape], nn.Module]) -> None:
        super().__init__()
        self.stem = ConvNorm(channels, plan.stem, 3, plan.stem_stride)
        self.first = MobileBlock(BlockShape(plan.stem, plan.first, 1), 3, 1) if plan.first else nn.Identity()
        self.blocks = nn.ModuleList(block(number, shape) for number, shape in enumerate(plan.blocks))
        self.head = ConvNorm(plan.blocks[-1].outputs, plan.head, 1)
        self.feature_size = plan.head

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
    """The stand-alone network of one chain: Cai et al., "ProxylessNAS", ICLR 2019; ``imagenet`` its own, otherwise one for small images.

    Raises:
        UserError: a malformed genotype string.
    """

    def __init__(self, genotype: str, width: int, cells: int, channels: int = 3, imagenet: bool = False) -> None:
        plan = layout(width, cells, imagenet)
        options = decode(genotype, plan.blocks)
        super().__init__(plan, channels, lambda number, shape: option_block(options[number], shape))


def option_block(option: str, shape: BlockShape) -> nn.Module:
    """What one option makes of a block."""
    return nn.Identity() if option == SKIP else MobileBlock(shape, *kernel_and_expansion(option))


class MobileBlock(nn.Module):
    """Expand by conv1x1, filter each channel, project by conv1x1 without activation; a shortcut where the shape allows it."""

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
