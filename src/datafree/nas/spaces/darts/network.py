"""DARTS networks: the macro network, and the stand-alone network of a normal and a reduction cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree.nas.spaces.darts.genotype import EDGES, NODES, CellShape, Genotype, layout
from datafree.zoo.backbones.base import BlockBackbone


class DartsMacro(BlockBackbone):
    """Stem, then the cells of ``layout``, then global average pooling: float [B, channels, H, W] → [B, 16 · width].

    ``cell`` makes one cell for its shape; further arguments of ``forward`` are passed to every cell.
    """

    def __init__(self, width: int, cells: int, channels: int, cell: Callable[[CellShape], nn.Module]) -> None:
        super().__init__()
        shapes = layout(width, cells)
        self.stem = nn.Sequential(nn.Conv2d(channels, 3 * width, 3, padding=1, bias=False), nn.BatchNorm2d(3 * width))
        self.cells = nn.ModuleList(cell(shape) for shape in shapes)
        self.feature_size = NODES * shapes[-1].width

    def feature_map(self, images: Tensor, *path: Any) -> Tensor:
        before_last = last = self.stem(images)
        for cell in self.cells:
            before_last, last = last, cell(before_last, last, *path)
        return last

    def sequence(self) -> list[nn.Module]:
        return [self.stem, *self.cells]


class Darts(DartsMacro):
    """The stand-alone network of a pair of cells: Liu et al., "DARTS", ICLR 2019, without drop path and auxiliary head."""

    def __init__(self, genotype: Genotype, width: int, cells: int = 1, channels: int = 3) -> None:
        super().__init__(width, cells, channels, lambda shape: Cell(genotype, shape))


class Cell(nn.Module):
    """Two operations per node, those of the genotype's normal or reduction cell."""

    def __init__(self, genotype: Genotype, shape: CellShape) -> None:
        super().__init__()
        operations = genotype[len(EDGES) :] if shape.reduction else genotype[: len(EDGES)]
        self.inputs = CellInputs(shape)
        present = [(edge, name) for edge, name in zip(EDGES, operations, strict=True) if name != "none"]
        self.edges = nn.ModuleDict({f"{source}-{target}": operation(name, shape, source) for (source, target), name in present})

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        present = dict(self.edges.items())
        edges = [present.get(f"{source}-{target}", _no_output) for source, target in EDGES]
        return run_cell(self.inputs(before_last, last), self.inputs.shape, edges)


class CellInputs(nn.Module):
    """Brings the outputs of the two previous cells to the width and resolution of this cell."""

    def __init__(self, shape: CellShape) -> None:
        super().__init__()
        self.shape = shape
        halve = FactorizedReduce if shape.after_reduction else PointwiseNorm
        self.before_last = halve(shape.before_last, shape.width)
        self.last = PointwiseNorm(shape.last, shape.width)

    def forward(self, before_last: Tensor, last: Tensor) -> list[Tensor]:
        return [self.before_last(before_last), self.last(last)]


def run_cell(inputs: list[Tensor], shape: CellShape, edges: Sequence[Callable[[Tensor], Tensor | None]]) -> Tensor:
    """All nodes concatenated: [B, 4 · width, H', W']. An edge that returns None is left out of its node's sum; a node without input is
    zero."""
    nodes, (batch, width, height, breadth) = list(inputs), inputs[1].shape
    stride = 2 if shape.reduction else 1
    for node in range(2, NODES + 2):
        incoming = [edge(nodes[source]) for (source, target), edge in zip(EDGES, edges, strict=True) if target == node]
        present = [value for value in incoming if value is not None]
        empty = (batch, width, -(-height // stride), -(-breadth // stride))
        nodes.append(reduce(torch.add, present) if present else inputs[1].new_zeros(empty))
    return torch.cat(nodes[2:], 1)


def _no_output(x: Tensor) -> None:
    return None


def operation(name: str, shape: CellShape, source: int) -> nn.Module:
    """One of ``OPERATIONS``; on an input of a reduction cell it halves the resolution. ``none`` is never computed."""
    width, stride = shape.width, 2 if shape.reduction and source < 2 else 1
    kernel = int(name[-1]) if name[-1].isdigit() else 0
    if name.startswith("sep_conv"):
        return nn.Sequential(DepthwiseNorm(width, kernel, stride, 1), DepthwiseNorm(width, kernel, 1, 1))
    if name.startswith("dil_conv"):
        return DepthwiseNorm(width, kernel, stride, 2)
    if name == "skip_connect" and stride == 2:
        return FactorizedReduce(width, width)
    pools = {"max_pool_3x3": nn.MaxPool2d(3, stride, 1), "avg_pool_3x3": nn.AvgPool2d(3, stride, 1, count_include_pad=False)}
    if name in pools:
        # The authors normalise after pooling only in the search; here a path through the supernet equals the stand-alone network.
        return nn.Sequential(pools[name], nn.BatchNorm2d(width, affine=False))
    return nn.Identity()


class DepthwiseNorm(nn.Module):
    """ReLU → depthwise convolution → conv1x1 → BatchNorm."""

    def __init__(self, width: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.depthwise = nn.Conv2d(width, width, kernel, stride, padding, dilation, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.pointwise(self.depthwise(x.relu())))


class PointwiseNorm(nn.Module):
    """ReLU → conv1x1 → BatchNorm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.relu()))


class FactorizedReduce(nn.Module):
    """Halves the resolution (an odd size is rounded up): half of the channels from even pixels, the others from odd pixels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.even(x), self.odd(shifted)], 1))
