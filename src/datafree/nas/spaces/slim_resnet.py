"""Widths and depths of a residual network: what can be taken away from a teacher of that family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from datafree.nas.spaces.base import Space
from datafree.nas.spaces.costs import Layer, conv_norm, total_macs, total_parameters
from datafree.zoo.genotypes.slim_resnet import STAGES, WIDTHS, Genotype, channels, decode, depths, encode

if TYPE_CHECKING:
    from datafree.zoo.backbones import Backbone


class SlimResNetSpace(Space):
    """Per stage a share of its full width, and 1 to ``cells`` blocks; ``channels`` is the full width of the first of three stages."""

    name = "slim_resnet"
    skip = "d1"  # as few blocks as possible

    @property
    def choices(self) -> tuple[tuple[str, ...], ...]:
        return (WIDTHS, depths(self.cells)) * STAGES

    def encode(self, genotype: Genotype) -> str:
        return encode(genotype)

    def decode(self, text: str) -> Genotype:
        return decode(text, self.cells)

    def lines(self, genotype: Genotype) -> list[str]:
        wide = [channels(self.channels, stage, option) for stage, option in enumerate(genotype[::2])]
        stages = enumerate(zip(wide, genotype[1::2], strict=True), 1)
        return [f"stage {stage}  {width:>4} channels  {depth[1:]} blocks" for stage, (width, depth) in stages]

    def macs(self, genotype: Genotype) -> int:
        return total_macs(self._layers(genotype))

    def parameters(self, genotype: Genotype) -> int:
        return total_parameters(self._layers(genotype))

    def cheapest(self) -> Genotype:
        return (WIDTHS[0], "d1") * STAGES

    def is_degenerate(self, genotype: Genotype) -> bool:
        """Never: every stage has a block that learns."""
        return False

    def supernet(self) -> Backbone:
        from datafree.nas.supernets.slim_resnet import SlimSupernet

        return SlimSupernet(self.channels, self.cells, self.image_channels)

    def _layers(self, genotype: Genotype) -> Iterator[Layer]:
        size, inputs = self.image_size, self.channels
        yield from conv_norm(self.image_channels, inputs, 3, size)
        for stage, (width, depth) in enumerate(zip(genotype[::2], genotype[1::2], strict=True)):
            outputs = channels(self.channels, stage, width)
            size = size if stage == 0 else -(-size // 2)
            yield from conv_norm(inputs, outputs, 1, size)
            for _ in range(int(depth[1:])):
                yield from conv_norm(inputs, outputs, 3, size)
                yield from conv_norm(outputs, outputs, 3, size)
                inputs = outputs
