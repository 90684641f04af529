"""All chains of mobile blocks in one network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from datafree.nas.mixing import Slot
from datafree.zoo.backbones.mbconv import MbconvMacro, option_block
from datafree.zoo.genotypes.mbconv import Layout


def supernet(plan: Layout, channels: int) -> MbconvMacro:
    return MixedChain(plan, channels, lambda number, shape: Slot({name: option_block(name, shape) for name in shape.options}))


class MixedChain(MbconvMacro):
    """Every block has all of its options."""

    def run(self, block: nn.Module, x: Tensor, number: int, *path: Any) -> Tensor:
        return block(x, path[0][number])
