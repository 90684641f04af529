"""The slim ResNet supernet: a narrower stage uses the first channels, a shallower stage the first blocks of the full network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datafree.nas.slots import Choice, Path
from datafree.nas.spaces.slim_resnet.genotype import STAGES, channels, full_width
from datafree.nas.spaces.slim_resnet.network import new_stage
from datafree.zoo.backbones.base import Backbone


class SlimSupernet(Backbone):
    """The full network; a path masks channels and skips blocks. With weights, channels and blocks are scaled by their total weight.

    Masked channels are still computed: time and memory are those of the full width.
    """

    def __init__(self, width: int, cells: int, image_channels: int) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Conv2d(image_channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        widths = [width, *(full_width(width, stage) for stage in range(STAGES))]
        self.stages = nn.ModuleList(new_stage(widths[stage], widths[stage + 1], cells, stage) for stage in range(STAGES))
        self.feature_size = widths[-1]

    def forward(self, images: Tensor, path: Path) -> Tensor:
        x = self.norm(self.stem(images)).relu()
        for number, stage in enumerate(self.stages):
            mask = self.mask(path[2 * number], number, x)
            for place, block in enumerate(stage):  # pyright: ignore[reportArgumentType]  (a ModuleList of ModuleLists)
                share = presence(path[2 * number + 1], place)
                if isinstance(share, Tensor) and place > 0:
                    x = x + share * (block(x, mask) - x)
                elif share:
                    x = block(x, mask)
        return x.mean((2, 3))

    def mask(self, choice: Choice, stage: int, x: Tensor) -> Tensor:
        """[channels, 1, 1]: 1 for the channels of a width; of a mixture, for each channel the total weight of the widths that have it."""
        count = full_width(self.width, stage)
        place = torch.arange(count, device=x.device)
        weights = {choice: 1.0} if isinstance(choice, str) else choice
        mask = torch.zeros(count, device=x.device)
        for option, weight in weights.items():
            mask = mask + weight * (place < channels(self.width, stage, option))
        return mask[:, None, None]


def presence(choice: Choice, place: int) -> bool | Tensor:
    """Whether the block at position ``place`` of its stage is in use; of a mixture, the total weight of the depths that include it."""
    if isinstance(choice, str):
        return place < int(choice[1:])
    return sum((weight for option, weight in choice.items() if place < int(option[1:])), start=torch.zeros(()))
