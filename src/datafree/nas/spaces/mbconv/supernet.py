"""The MBConv supernet: all options of every block."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from datafree.nas.slots import Slot
from datafree.nas.spaces.mbconv.genotype import Layout
from datafree.nas.spaces.mbconv.network import MbconvMacro, option_block


def supernet(layout: Layout, channels: int) -> MbconvMacro:
    return MixedChain(layout, channels, lambda number, shape: Slot({name: option_block(name, shape) for name in shape.options}))


class MixedChain(MbconvMacro):
    """A chain whose every block is a slot with all of its options."""

    def run(self, block: nn.Module, x: Tensor, number: int, *path: Any) -> Tensor:
        return block(x, path[0][number])
