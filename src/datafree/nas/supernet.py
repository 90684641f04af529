"""Supernets: one network with shared weights for all architectures of a space, and the BatchNorm recalibration of one path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datafree.devices import seeded_initialisation
from datafree.distillation.heads import TeacherHeads, own_logits
from datafree.nas.slots import Path, Slot
from datafree.nas.space import Space
from datafree.zoo.backbones import Backbone
from datafree.zoo.backbones.memory_format import channels_last


class Supernet(nn.Module):
    """The supernet of a space with one head per teacher.

    With a path of option names ``forward`` computes only these options: time and memory are those of the stand-alone network. With
    weights it computes every option that has one and sums them.
    """

    def __init__(self, backbone: Backbone, classes: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = TeacherHeads(backbone.feature_size, classes)

    def forward(self, images: Tensor, path: Path, teacher: Tensor) -> Tensor:
        """Images float [B, C, H, W], a path, teacher indices int64 [B] → logits [B, most classes], see ``own_logits``."""
        return own_logits(self.heads, self.backbone(images, path), teacher)

    @property
    def slots(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, Slot)]


def new_supernet(space: Space, classes: Sequence[int], seed: int, device: torch.device | str) -> Supernet:
    """A freshly initialised supernet on a device; its weights depend only on space and seed. ``classes``: the number per teacher."""
    with seeded_initialisation(seed):
        supernet = channels_last(Supernet(space.supernet(), classes))
    return supernet.to(device)


@torch.no_grad()
def recalibrate(supernet: Supernet, path: Path, batches: Sequence[Tensor]) -> None:
    """Re-estimate BatchNorm's running statistics for one path as the mean over ``batches`` of images float [B, C, H, W].

    The shared statistics average over all paths and fit none of them. Weights do not change; the supernet is left in evaluation mode.
    """
    norms = [module for module in supernet.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    supernet.train()
    for images in batches:
        supernet.backbone(images, path)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    supernet.eval()
