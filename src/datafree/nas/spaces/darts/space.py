"""The DARTS search space: about 10^18 pairs of a normal and a reduction cell; Liu et al., ICLR 2019."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from datafree.nas.costs import Layer, conv_norm, norm, total_macs, total_parameters
from datafree.nas.space import Space
from datafree.nas.spaces.darts.genotype import EDGES, NODES, OPERATIONS, CellShape, Genotype, decode, encode, layout, node_values

if TYPE_CHECKING:
    from datafree.zoo.backbones.base import Backbone


class DartsSpace(Space):
    """Fourteen edges with eight operations in each of two cells; every node uses two of its edges.

    ``channels`` is the width of a node in the first of three stages, ``cells`` the number of normal cells in each.
    """

    name = "darts"
    skip = "skip_connect"
    absent = "none"

    @property
    def choices(self) -> tuple[tuple[str, ...], ...]:
        return (OPERATIONS,) * (2 * len(EDGES))

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The edges of each node, of which exactly two are in use."""
        return _groups()

    def values_of(self, group: Sequence[int]) -> Sequence[Genotype]:
        return _values(len(group) - 2)

    def encode(self, genotype: Genotype) -> str:
        return encode(genotype)

    def decode(self, text: str) -> Genotype:
        return decode(text)

    def lines(self, genotype: Genotype) -> list[str]:
        lines = []
        for kind, part in (("normal", genotype[: len(EDGES)]), ("reduction", genotype[len(EDGES) :])):
            for (source, target), name in zip(EDGES, part, strict=True):
                if name != "none":
                    lines.append(f"{kind:<9}  node {target - 1}  ←  {name} of {_source(source)}")
        return lines

    def macs(self, genotype: Genotype) -> int:
        return total_macs(self._layers(genotype))

    def parameters(self, genotype: Genotype) -> int:
        return total_parameters(self._layers(genotype))

    def cheapest(self) -> Genotype:
        """Skip connections in the normal cell; pooling in the reduction cell, where skip connections contain convolutions."""
        return tuple((name if source < 2 else "none") for name in ("skip_connect", "max_pool_3x3") for source, _ in EDGES)

    def is_degenerate(self, genotype: Genotype) -> bool:
        """Whether the normal cell has no convolution."""
        return not any("conv" in name for name in genotype[: len(EDGES)])

    def most_probable(self, probabilities: Sequence[Mapping[str, float]]) -> Genotype:
        """For each node the two edges whose best operation other than ``none`` is the most probable, with that operation."""
        best = [max(OPERATIONS[1:], key=lambda name: slot[name]) for slot in probabilities]
        operations = ["none"] * len(best)
        for group in self.groups:
            for slot in sorted(group, key=lambda slot: probabilities[slot][best[slot]], reverse=True)[:2]:
                operations[slot] = best[slot]
        return tuple(operations)

    def network(self, genotype: Genotype) -> Backbone:
        from datafree.nas.spaces.darts.network import Darts

        return Darts(genotype, self.channels, self.cells, self.image_channels)

    def supernet(self) -> Backbone:
        from datafree.nas.spaces.darts.supernet import supernet

        return supernet(self.channels, self.cells, self.image_channels)

    def _layers(self, genotype: Genotype) -> Iterator[Layer]:
        size = self.image_size
        yield from conv_norm(self.image_channels, 3 * self.channels, 3, size)
        for shape in layout(self.channels, self.cells):
            operations = genotype[len(EDGES) :] if shape.reduction else genotype[: len(EDGES)]
            width, halved = shape.width, -(-size // 2)
            yield from _reduce(shape.before_last, width, size) if shape.after_reduction else conv_norm(shape.before_last, width, 1, size)
            yield from conv_norm(shape.last, width, 1, size)
            for (source, _), name in zip(EDGES, operations, strict=True):
                yield from _operation(name, shape, source, halved if shape.reduction else size)
            size = halved if shape.reduction else size


def _operation(name: str, shape: CellShape, source: int, size: int) -> list[Layer]:
    width = shape.width
    if name == "skip_connect":
        return _reduce(width, width, size) if shape.reduction and source < 2 else []
    if "conv" not in name:
        return []
    layers = [Layer(width, width, int(name[-1]), size, width), *conv_norm(width, width, 1, size)]
    return layers * (2 if name.startswith("sep") else 1)


def _reduce(inputs: int, outputs: int, size: int) -> list[Layer]:
    return [Layer(inputs, outputs // 2, 1, size), Layer(inputs, outputs - outputs // 2, 1, size), norm(outputs)]


@functools.cache
def _groups() -> tuple[tuple[int, ...], ...]:
    starts = [*itertools.accumulate((node + 2 for node in range(NODES)), initial=0)]
    normal = [tuple(range(first, last)) for first, last in itertools.pairwise(starts)]
    return (*normal, *(tuple(slot + len(EDGES) for slot in group) for group in normal))


@functools.cache
def _values(node: int) -> Sequence[Genotype]:
    return node_values(node)


def _source(number: int) -> str:
    return ("the cell before last", "the last cell")[number] if number < 2 else f"node {number - 1}"
