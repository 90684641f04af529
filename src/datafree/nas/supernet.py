"""One network that holds every cell of the space: all operations on all edges, weights shared by all cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datafree.meta.learner import TeacherHeads
from datafree.nas.distillation import own_logits
from datafree.nas.space import EDGES, OPERATIONS, Genotype
from datafree.zoo.backbones.nasbench201 import MacroNetwork, operation, run_cell


class Supernet(nn.Module):
    """The macro network of ``NasBench201`` with five operations on every edge, and one head per teacher.

    Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020. ``forward`` computes the operations of
    one genotype only, so time and memory are those of the stand-alone network of that cell.
    """

    def __init__(self, width: int, cells: int, channels: int, classes: Sequence[int]) -> None:
        super().__init__()
        self.backbone = MacroNetwork(width, cells, channels, MixedCell)
        self.heads = TeacherHeads(self.backbone.feature_size, classes)

    def forward(self, images: Tensor, genotype: Genotype, teacher: Tensor) -> Tensor:
        """float [B, C, H, W], the path, int64 [B] → logits [B, most classes], see ``own_logits``."""
        return own_logits(self.heads, self.backbone(images, genotype), teacher)


class MixedCell(nn.Module):
    """All operations on all six edges: x [B, channels, H, W] and a genotype → the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(nn.ModuleDict({name: operation(name, channels) for name in OPERATIONS}) for _ in EDGES)

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        chosen = [edge[name] for edge, name in zip(self.edges, genotype, strict=True)]  # pyright: ignore[reportIndexIssue]
        return run_cell(x, genotype, chosen)


@torch.no_grad()
def recalibrate(supernet: Supernet, genotype: Genotype, batches: Sequence[Tensor]) -> None:
    """Re-estimate BatchNorm's running statistics for one path as the mean over ``batches`` of images float [B, C, H, W].

    The shared statistics are a mixture over all paths and fit none. Weights stay as they are; the supernet is left in evaluation mode.
    """
    norms = [module for module in supernet.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    supernet.train()
    for images in batches:
        supernet.backbone(images, genotype)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    supernet.eval()
