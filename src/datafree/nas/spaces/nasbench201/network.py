"""NAS-Bench-201 networks: the macro network and the stand-alone network of one cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from datafree.nas.spaces.nasbench201.genotype import EDGES, NODES, STAGES, Genotype
from datafree.zoo.backbones.base import BlockBackbone


class MacroNetwork(BlockBackbone):
    """Stem, then three stages of cells with a reduction block before the second and third, then BatchNorm, ReLU and global average pooling.

    A reduction halves the resolution (an odd size is rounded up) and doubles the channels, so ``feature_size`` is 4 * width.
    ``cell`` makes one cell for a number of channels; further arguments of ``forward`` are passed to every cell.
    """

    def __init__(self, width: int, cells: int, channels: int, cell: Callable[[int], nn.Module]) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(STAGES)]
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.stages = nn.ModuleList(nn.ModuleList(cell(w) for _ in range(cells)) for w in widths)
        self.reductions = nn.ModuleList(Reduction(w) for w in widths[:-1])
        self.norm = nn.BatchNorm2d(widths[-1])
        self.feature_size = widths[-1]

    def feature_map(self, images: Tensor, *path: Any) -> Tensor:
        x = self.stem(images)
        for number, stage in enumerate(self.stages):
            if number > 0:
                x = self.reductions[number - 1](x)
            for cell in stage:  # pyright: ignore[reportGeneralTypeIssues]  (a ModuleList of ModuleLists)
                x = cell(x, *path)
        return self.norm(x).relu()

    def sequence(self) -> list[nn.Module]:
        blocks: list[nn.Module] = [self.stem]
        for number, stage in enumerate(self.stages):
            blocks += self.reductions[number - 1 : number] if number > 0 else []
            blocks += stage  # pyright: ignore[reportOperatorIssue]  (a ModuleList of ModuleLists)
        return blocks


class NasBench201(MacroNetwork):
    """The stand-alone network of one cell: Dong and Yang, "NAS-Bench-201", ICLR 2020.

    Float [B, channels, H, W] → [B, 4 * width]; the benchmark itself has width 16, five cells per stage and images of 32 pixels.
    Every operation of the genotype is built and computed, also one that does not reach the output, as in the benchmark's own counts.
    """

    def __init__(self, genotype: Genotype, width: int, cells: int = 1, channels: int = 3) -> None:
        super().__init__(width, cells, channels, lambda w: Cell(genotype, w))


class Cell(nn.Module):
    """One operation on each of six edges; every node is the sum of its incoming edges. Keeps the shape [B, C, H, W]."""

    def __init__(self, genotype: Genotype, channels: int) -> None:
        super().__init__()
        self.genotype = genotype
        self.edges = nn.ModuleList(operation(name, channels) for name in genotype)

    def forward(self, x: Tensor) -> Tensor:
        edges = zip(self.edges, self.genotype, strict=True)
        return run_cell(x, [edge if name != "none" else _no_output for edge, name in edges])


def run_cell(x: Tensor, edges: Sequence[Callable[[Tensor], Tensor | None]]) -> Tensor:
    """The value of the output node: [B, C, H, W]. An edge that returns None is left out of the sum; a node without input is zero."""
    nodes = [x]
    for target in range(1, NODES):
        incoming = [edge(nodes[source]) for (source, end), edge in zip(EDGES, edges, strict=True) if end == target]
        present = [value for value in incoming if value is not None]
        nodes.append(reduce(torch.add, present) if present else torch.zeros_like(x))
    return nodes[-1]


def _no_output(x: Tensor) -> None:
    return None


def operation(name: str, channels: int) -> nn.Module:
    """One of ``OPERATIONS`` that keeps the shape [B, channels, H, W]. ``none`` has no parameters and is never computed."""
    return {
        "none": nn.Identity,
        "skip_connect": nn.Identity,
        "nor_conv_1x1": lambda: ReluConvNorm(channels, channels, 1),
        "nor_conv_3x3": lambda: ReluConvNorm(channels, channels, 3),
        "avg_pool_3x3": lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    }[name]()


class ReluConvNorm(nn.Module):
    """ReLU → convolution without bias → BatchNorm, the order of the benchmark."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        # Not in place: several edges of a cell read the same node.
        return self.norm(self.conv(x.relu()))


class Reduction(nn.Module):
    """The residual block between stages: [B, C, H, W] → [B, 2C, ⌈H/2⌉, ⌈W/2⌉]."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ReluConvNorm(inputs, 2 * inputs, 3, stride=2), ReluConvNorm(2 * inputs, 2 * inputs, 3))
        # ceil_mode matches the rounding of the strided convolution for odd sizes.
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(inputs, 2 * inputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)
