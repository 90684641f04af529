"""Chains of mobile blocks: kernel 3, 5 or 7, expansion 3 or 6, or none where the shape allows; Cai et al., "ProxylessNAS", ICLR 2019."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from datafree.nas.spaces.base import Space
from datafree.nas.spaces.costs import Layer, conv_norm, total_macs, total_parameters
from datafree.zoo.genotypes.mbconv import SKIP, BlockShape, Genotype, Layout, decode, encode, kernel_and_expansion, layout

if TYPE_CHECKING:
    from datafree.zoo.backbones import Backbone


class MbconvSpace(Space):
    """For images of about 32 pixels: three stages of ``cells`` blocks, ``channels`` wide at first."""

    name = "mbconv"
    skip = SKIP
    imagenet: ClassVar[bool] = False

    @property
    def plan(self) -> Layout:
        return layout(self.channels, self.cells, self.imagenet)

    @property
    def choices(self) -> tuple[tuple[str, ...], ...]:
        return tuple(block.options for block in self.plan.blocks)

    def encode(self, genotype: Genotype) -> str:
        return encode(genotype)

    def decode(self, text: str) -> Genotype:
        return decode(text, self.plan.blocks)

    def lines(self, genotype: Genotype) -> list[str]:
        shapes = zip(self.plan.blocks, genotype, strict=True)
        return [f"{shape.inputs:>4} → {shape.outputs:<4} {'÷2' if shape.stride == 2 else '  '}  {option}" for shape, option in shapes]

    def macs(self, genotype: Genotype) -> int:
        return total_macs(self._layers(genotype))

    def parameters(self, genotype: Genotype) -> int:
        return total_parameters(self._layers(genotype))

    def cheapest(self) -> Genotype:
        return tuple(SKIP if SKIP in options else "k3e3" for options in self.choices)

    def is_degenerate(self, genotype: Genotype) -> bool:
        """Whether every block that can be left out is."""
        return all(option == SKIP for option, options in zip(genotype, self.choices, strict=True) if SKIP in options)

    def supernet(self) -> Backbone:
        from datafree.nas.supernets.mbconv import supernet

        return supernet(self.plan, self.image_channels)

    def _layers(self, genotype: Genotype) -> Iterator[Layer]:
        plan = self.plan
        size = -(-self.image_size // plan.stem_stride)
        yield from conv_norm(self.image_channels, plan.stem, 3, size)
        if plan.first:
            yield from _block(BlockShape(plan.stem, plan.first, 1), 3, 1, size)
        for shape, option in zip(plan.blocks, genotype, strict=True):
            if option != SKIP:
                yield from _block(shape, *kernel_and_expansion(option), size)
            size = -(-size // shape.stride)
        yield from conv_norm(plan.blocks[-1].outputs, plan.head, 1, size)


class MbconvImagenetSpace(MbconvSpace):
    """For images of ImageNet: the stages of the paper, its own network with 32 ``channels`` and four ``cells``."""

    name = "mbconv_imagenet"
    imagenet = True


def _block(shape: BlockShape, kernel: int, expansion: int, size: int) -> Iterator[Layer]:
    hidden, out = expansion * shape.inputs, -(-size // shape.stride)
    if expansion > 1:
        yield from conv_norm(shape.inputs, hidden, 1, size)
    yield from conv_norm(hidden, hidden, kernel, out, hidden)
    yield from conv_norm(hidden, shape.outputs, 1, out)
