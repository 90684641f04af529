"""Networks that hold every architecture of a space: paths through them, mixtures of paths, and the statistics of one path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from datafree.devices import seeded_initialisation
from datafree.distillation.heads import TeacherHeads, own_logits
from datafree.nas.spaces import Space
from datafree.zoo.backbones import Backbone
from datafree.zoo.backbones.memory_format import channels_last

Choice = str | Mapping[str, Tensor]  # one option, or the weight (a scalar tensor) of each option that takes part
Path = Sequence[Choice]  # one choice per slot


class Slot(nn.ModuleDict):
    """The options of one place: x and a choice → what the chosen option makes of x, or the weighted sum of several.

    Only the options of the choice are computed. None where nothing but ``absent`` is chosen: it adds zero.
    """

    def __init__(self, options: Mapping[str, nn.Module], absent: str = "") -> None:
        super().__init__(dict(options))
        self.absent = absent

    def forward(self, x: Tensor, choice: Choice) -> Tensor | None:
        if isinstance(choice, str):
            return None if choice == self.absent else self[choice](x)
        return total(weight * self[name](x) for name, weight in choice.items() if name != self.absent)


def total(terms: Iterable[Tensor | None]) -> Tensor | None:
    """The sum of the terms that are there; None without any."""
    present = [term for term in terms if term is not None]
    return reduce(torch.add, present) if present else None


class Supernet(nn.Module):
    """The supernet of a space with one head per teacher.

    With a path of option names ``forward`` computes these alone, so time and memory are those of the stand-alone network; with weights it
    mixes the options they name.
    """

    def __init__(self, backbone: Backbone, classes: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = TeacherHeads(backbone.feature_size, classes)

    def forward(self, images: Tensor, path: Path, teacher: Tensor) -> Tensor:
        """float [B, C, H, W], the path, int64 [B] → logits [B, most classes], see ``own_logits``."""
        return own_logits(self.heads, self.backbone(images, path), teacher)

    @property
    def slots(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, Slot)]


def new_supernet(space: Space, classes: Sequence[int], seed: int, device: torch.device | str) -> Supernet:
    """A freshly initialised supernet on a device; a function of space and seed."""
    with seeded_initialisation(seed):
        supernet = channels_last(Supernet(space.supernet(), classes))
    return supernet.to(device)


@torch.no_grad()
def recalibrate(supernet: Supernet, path: Path, batches: Sequence[Tensor]) -> None:
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
        supernet.backbone(images, path)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    supernet.eval()
