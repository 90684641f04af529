"""The slim ResNet search space: the width and depth of each stage, the structured pruning of a residual network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from datafree.nas.costs import Layer, conv_norm, total_macs, total_parameters
from datafree.nas.space import Space
from datafree.nas.spaces.slim_resnet.genotype import STAGES, WIDTHS, Genotype, channels, decode, depths, encode

if TYPE_CHECKING:
    from datafree.zoo.backbones.base import Backbone


class SlimResNetSpace(Space):
    """Each stage has a share of its full width and 1 to ``cells`` blocks; ``channels`` is the full width of the first of three stages."""

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
        widths = [channels(self.channels, stage, option) for stage, option in enumerate(genotype[::2])]
        stages = enumerate(zip(widths, genotype[1::2], strict=True), 1)
        return [f"stage {stage}  {width:>4} channels  {depth[1:]} blocks" for stage, (width, depth) in stages]

    def macs(self, genotype: Genotype) -> int:
        return total_macs(self._layers(genotype))

    def parameters(self, genotype: Genotype) -> int:
        return total_parameters(self._layers(genotype))

    def cheapest(self) -> Genotype:
        return (WIDTHS[0], "d1") * STAGES

    def is_degenerate(self, genotype: Genotype) -> bool:
        """False: every stage has a block with weights."""
        return False

    def network(self, genotype: Genotype) -> Backbone:
        from datafree.nas.spaces.slim_resnet.network import SlimResNet

        return SlimResNet(genotype, self.channels, self.image_channels)

    def supernet(self) -> Backbone:
        from datafree.nas.spaces.slim_resnet.supernet import SlimSupernet

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
