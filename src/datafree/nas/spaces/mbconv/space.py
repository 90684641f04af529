"""The MBConv search spaces: each block has kernel 3, 5 or 7 and expansion 3 or 6, or is skipped where its shape allows.

Cai et al., "ProxylessNAS", ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from datafree.nas.costs import Layer, conv_norm, total_macs, total_parameters
from datafree.nas.space import Space
from datafree.nas.spaces.mbconv.genotype import SKIP, BlockShape, Genotype, Layout, decode, encode, kernel_and_expansion, layout

if TYPE_CHECKING:
    from datafree.zoo.backbones.base import Backbone


class MbconvSpace(Space):
    """For images of about 32 pixels: three stages of ``cells`` blocks; the first has ``channels`` channels."""

    name = "mbconv"
    skip = SKIP
    imagenet: ClassVar[bool] = False

    @property
    def layout(self) -> Layout:
        return layout(self.channels, self.cells, self.imagenet)

    @property
    def choices(self) -> tuple[tuple[str, ...], ...]:
        return tuple(block.options for block in self.layout.blocks)

    def encode(self, genotype: Genotype) -> str:
        return encode(genotype)

    def decode(self, text: str) -> Genotype:
        return decode(text, self.layout.blocks)

    def lines(self, genotype: Genotype) -> list[str]:
        shapes = zip(self.layout.blocks, genotype, strict=True)
        return [f"{shape.inputs:>4} → {shape.outputs:<4} {'÷2' if shape.stride == 2 else '  '}  {option}" for shape, option in shapes]

    def macs(self, genotype: Genotype) -> int:
        return total_macs(self._layers(genotype))

    def parameters(self, genotype: Genotype) -> int:
        return total_parameters(self._layers(genotype))

    def cheapest(self) -> Genotype:
        return tuple(SKIP if SKIP in options else "k3e3" for options in self.choices)

    def is_degenerate(self, genotype: Genotype) -> bool:
        """Whether every block that can be skipped is skipped."""
        return all(option == SKIP for option, options in zip(genotype, self.choices, strict=True) if SKIP in options)

    def network(self, genotype: Genotype) -> Backbone:
        from datafree.nas.spaces.mbconv.network import Mbconv

        return Mbconv(genotype, self.layout, self.image_channels)

    def supernet(self) -> Backbone:
        from datafree.nas.spaces.mbconv.supernet import supernet

        return supernet(self.layout, self.image_channels)

    def _layers(self, genotype: Genotype) -> Iterator[Layer]:
        chain = self.layout
        size = -(-self.image_size // chain.stem_stride)
        yield from conv_norm(self.image_channels, chain.stem, 3, size)
        if chain.first:
            yield from _block(BlockShape(chain.stem, chain.first, 1), 3, 1, size)
        for shape, option in zip(chain.blocks, genotype, strict=True):
            if option != SKIP:
                yield from _block(shape, *kernel_and_expansion(option), size)
            size = -(-size // shape.stride)
        yield from conv_norm(chain.blocks[-1].outputs, chain.head, 1, size)


class MbconvImagenetSpace(MbconvSpace):
    """For ImageNet: the stages of the paper, which has 32 ``channels`` and four ``cells``."""

    name = "mbconv_imagenet"
    imagenet = True


def _block(shape: BlockShape, kernel: int, expansion: int, size: int) -> Iterator[Layer]:
    hidden, out = expansion * shape.inputs, -(-size // shape.stride)
    if expansion > 1:
        yield from conv_norm(shape.inputs, hidden, 1, size)
    yield from conv_norm(hidden, hidden, kernel, out, hidden)
    yield from conv_norm(hidden, shape.outputs, 1, out)
