"""Genotypes of MBConv chains: one option per block, their encoding as a string, and the layout of the blocks.

After Cai et al., "ProxylessNAS", ICLR 2019.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from datafree.errors import UserError

Genotype = tuple[str, ...]  # one option per block

SKIP = "skip"
BLOCKS = tuple(f"k{kernel}e{expansion}" for kernel, expansion in itertools.product((3, 5, 7), (3, 6)))  # kernel and expansion


class BlockShape(NamedTuple):
    """One block: input and output channels, and stride. A block that keeps channels and resolution can be skipped."""

    inputs: int
    outputs: int
    stride: int

    @property
    def options(self) -> tuple[str, ...]:
        same = self.inputs == self.outputs and self.stride == 1
        return (*BLOCKS, SKIP) if same else BLOCKS


class Layout(NamedTuple):
    """The chain: stride and channels of the stem, channels of the fixed first block (0 = none), the blocks, channels of the head."""

    stem_stride: int
    stem: int
    first: int
    blocks: list[BlockShape]
    head: int


def layout(width: int, cells: int, imagenet: bool) -> Layout:
    """For images of about 32 pixels: stages of ``width`` times 1, 3/2 and 5/2; the last two halve the resolution.

    For ImageNet: the stages of the paper, which has a ``width`` of 32 and four ``cells``.
    """

    def scaled(size: int) -> int:
        return max(4, size * width // 32)

    if imagenet:
        first = scaled(16)
        widths, strides, counts = [scaled(s) for s in (24, 40, 80, 96, 192, 320)], (2, 2, 2, 1, 2, 1), [cells] * 5 + [1]
        return Layout(2, scaled(32), first, _chain(first, widths, strides, counts), scaled(1280))
    widths = [width, 3 * width // 2, 5 * width // 2]
    return Layout(1, width, 0, _chain(width, widths, (1, 2, 2), [cells] * 3), 8 * width)


def _chain(inputs: int, widths: list[int], strides: tuple[int, ...], counts: list[int]) -> list[BlockShape]:
    blocks = []
    for outputs, stride, count in zip(widths, strides, counts, strict=True):
        for number in range(count):
            blocks.append(BlockShape(inputs, outputs, stride if number == 0 else 1))
            inputs = outputs
    return blocks


def kernel_and_expansion(option: str) -> tuple[int, int]:
    """(5, 3) for ``k5e3``."""
    return int(option[1]), int(option[3])


def encode(genotype: Genotype) -> str:
    """The options of the blocks in order, joined by hyphens: ``k3e3-skip-k5e6``."""
    return "-".join(genotype)


def decode(text: str, blocks: list[BlockShape]) -> Genotype:
    """The options of a string from ``encode``.

    Raises:
        UserError: another number of blocks, or an option that a block does not have.
    """
    genotype = tuple(text.split("-"))
    if len(genotype) != len(blocks):
        raise UserError(f"genotype: expected {len(blocks)} blocks joined by hyphens, such as k3e3-skip, got {text!r}")
    for number, (option, block) in enumerate(zip(genotype, blocks, strict=True), 1):
        if option not in block.options:
            raise UserError(f"genotype: got {option!r} for block {number} in {text!r}; allowed: {', '.join(block.options)}")
    return genotype
