"""The NAS-Bench-201 search space: enumeration of its cells, their canonical form, multiply-adds and parameters.

Dong and Yang, "NAS-Bench-201", ICLR 2020: 5^6 = 15,625 cells with 6,466 different canonical forms.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from datafree.nas.space import Space
from datafree.nas.spaces.nasbench201.genotype import EDGES, NODES, OPERATIONS, STAGES, Genotype, decode, encode

if TYPE_CHECKING:
    from PIL import Image

    from datafree.zoo.backbones.base import Backbone


@functools.cache
def enumerate_all() -> tuple[Genotype, ...]:
    """All 15,625 cells; the first edge varies slowest."""
    return tuple(itertools.product(OPERATIONS, repeat=len(EDGES)))


def trim(genotype: Genotype) -> Genotype:
    """The cell with ``none`` on every edge outside all paths from input to output: such an edge does not affect the output."""
    present = [edge for edge, name in zip(EDGES, genotype, strict=True) if name != "none"]
    reached = {0}
    for source, target in sorted(present):
        if source in reached:
            reached.add(target)
    useful = {NODES - 1}
    for source, target in sorted(present, reverse=True):
        if target in useful:
            useful.add(source)
    on_path = [source in reached and target in useful for source, target in EDGES]
    return tuple(name if used else "none" for name, used in zip(genotype, on_path, strict=True))


def is_connected(genotype: Genotype) -> bool:
    """Whether a path of operations other than ``none`` leads from the input to the output."""
    return any(name != "none" for name in trim(genotype))


def canonical(genotype: Genotype) -> str:
    """A string that is equal for cells which the benchmark counts as one: 6,466 values over the space.

    A node is written as the sorted sum of its incoming edges, skip_connect as its source node, and none, or any operation on a node that
    is written as zero, as zero. Zero terms stay in a sum and nested sums keep their brackets, so some equal functions have two forms,
    as in the benchmark (``to_unique_str`` with zero considered).
    """
    written = ["0"]
    for target in range(1, NODES):
        terms = []
        for (source, end), name in zip(EDGES, genotype, strict=True):
            if end != target:
                continue
            if name == "none" or written[source] == "#":
                terms.append("#")
            else:
                terms.append(written[source] if name == "skip_connect" else f"({written[source]})@{name}")
        written.append("+".join(sorted(terms)))
    return written[-1]


def macs(genotype: Genotype, channels: int, cells: int, image_size: int, classes: int, image_channels: int = 3) -> int:
    """Multiply-adds of convolutions and the linear head for one square image; 0 classes = the backbone without a head.

    ``channels`` is the width of the first of three stages and ``cells`` the number of cells in each. BatchNorm, pooling and sums
    are not counted, as in the benchmark (220.12 M for the cell with six 3x3 convolutions).
    """
    sizes = _sizes(image_size)
    total = sizes[0] ** 2 * image_channels * channels * 9
    for stage, size in enumerate(sizes):
        width = channels * 2**stage
        total += cells * size**2 * sum(_kernel_area(name) for name in genotype) * width**2
        if stage > 0:
            total += size**2 * width * ((width // 2) * 9 + width * 9 + width // 2)
    return total + _feature_size(channels) * classes


def parameters(genotype: Genotype, channels: int, cells: int, classes: int, image_channels: int = 3) -> int:
    """Trainable values of the network; 0 classes = the backbone without a head.

    With channels 16, cells 5 and 10 classes: 73,306 + 243,040 per nor_conv_3x3 + 28,000 per nor_conv_1x1.
    """
    total = image_channels * channels * 9 + 2 * channels
    for stage in range(STAGES):
        width = channels * 2**stage
        areas = [area for area in map(_kernel_area, genotype) if area]
        total += cells * sum(area * width**2 + 2 * width for area in areas)
        if stage > 0:
            total += width * ((width // 2) * 9 + width * 9 + width // 2) + 4 * width
    features = _feature_size(channels)
    return total + 2 * features + (features + 1) * classes


@functools.cache
def _connected() -> tuple[Genotype, ...]:
    return tuple(filter(is_connected, enumerate_all()))


class NasBench201Space(Space):
    """Six edges of five operations; ``channels`` is the width of the first of three stages, doubled twice, each of ``cells`` cells."""

    name = "nasbench201"
    skip = "skip_connect"
    absent = "none"

    @property
    def choices(self) -> tuple[tuple[str, ...], ...]:
        return (OPERATIONS,) * len(EDGES)

    def encode(self, genotype: Genotype) -> str:
        return encode(genotype)

    def decode(self, text: str) -> Genotype:
        return decode(text)

    def macs(self, genotype: Genotype) -> int:
        return macs(genotype, self.channels, self.cells, self.image_size, 0, self.image_channels)

    def parameters(self, genotype: Genotype) -> int:
        return parameters(genotype, self.channels, self.cells, 0, self.image_channels)

    def cheapest(self) -> Genotype:
        return (self.skip,) * len(EDGES)

    def is_useful(self, genotype: Genotype) -> bool:
        """Whether the cell is connected and ``trim`` changes nothing."""
        return is_connected(genotype) and trim(genotype) == genotype

    def is_degenerate(self, genotype: Genotype) -> bool:
        return not any(_kernel_area(name) for name in trim(genotype))

    def canonical(self, genotype: Genotype) -> str:
        return canonical(genotype)

    def most_probable(self, probabilities: Sequence[Mapping[str, float]]) -> Genotype:
        """The most probable connected cell, trimmed: the most probable operation of every edge if these form a connected cell."""
        return trim(max(_connected(), key=lambda cell: math.prod(edge[name] for edge, name in zip(probabilities, cell, strict=True))))

    def draw(self, genotype: Genotype) -> Image.Image:
        """The cell as a graph."""
        from datafree.nas.spaces.nasbench201.drawing import draw_cell

        return draw_cell(genotype)

    def network(self, genotype: Genotype) -> Backbone:
        from datafree.nas.spaces.nasbench201.network import NasBench201

        return NasBench201(genotype, self.channels, self.cells, self.image_channels)

    def supernet(self) -> Backbone:
        from datafree.nas.spaces.nasbench201.supernet import supernet

        return supernet(self.channels, self.cells, self.image_channels)


def _kernel_area(name: str) -> int:
    return {"nor_conv_1x1": 1, "nor_conv_3x3": 9}.get(name, 0)


def _sizes(image_size: int) -> list[int]:
    return [math.ceil(image_size / 2**stage) for stage in range(STAGES)]


def _feature_size(channels: int) -> int:
    return channels * 2 ** (STAGES - 1)
