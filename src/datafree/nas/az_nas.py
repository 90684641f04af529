"""Four views of an untrained network that are combined by rank: Lee and Ham, "AZ-NAS", CVPR 2024.

Each block's output map is looked at: how many directions its channels span (expressivity), how much every block adds to that
(progressivity), and how far the block keeps the norm of gradients that pass back through it (trainability). Multiply-adds are the fourth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree.devices import generator
from datafree.nas.search_result import Key, relative_rank
from datafree.zoo.backbones.base import BlockBackbone

VIEWS = ("expressivity", "progressivity", "trainability")  # of a network; multiply-adds join them
TINY = 1e-6  # the least gain of a block; AZ-NAS has it in the denominator


def views(backbone: BlockBackbone, images: Tensor, seed: int) -> dict[str, float]:
    """Expressivity, progressivity and trainability of normal images float [B, C, H, W].

    ``backbone`` is initialised anew (normal, by fan-in), put into training mode, and its parameters take no gradient from then on.
    """
    initialise(backbone.train(), seed)
    with _outputs(backbone.sequence()) as maps:
        backbone.requires_grad_(False).feature_map(images.detach().requires_grad_())
    entropies = [entropy(one) for one in maps]
    gains = [gain(before, after, seed, number) for number, (before, after) in enumerate(pairwise(maps))]
    return {
        "expressivity": sum(entropies),
        "progressivity": min(after - before for before, after in pairwise(entropies)),
        "trainability": sum(2 - value - 1 / (value + TINY) for value in gains) / len(gains),
    }


def combined(views_of: Mapping[Key, Mapping[str, float]]) -> dict[Key, float]:
    """Σ log(rank / n) over the views, the largest value having rank n and equal ones their mean rank.

    The values of different architectures compare only within one call.
    """
    names = next(iter(views_of.values()), {})
    ranks = [relative_rank({key: views[name] for key, views in views_of.items()}) for name in names]
    return {key: sum(math.log(rank[key]) for rank in ranks) for key in views_of}


def initialise(network: nn.Module, seed: int) -> None:
    """Normal weights of variance 2 / fan-in for convolutions, as a function of the seed."""
    rng = generator(seed, "az-nas weights")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            deviation = math.sqrt(2 / module.weight[0].numel())
            module.weight.data = (deviation * torch.randn(module.weight.shape, generator=rng)).to(module.weight)


def entropy(feature_map: Tensor) -> float:
    """Of the eigenvalues' shares of the covariance of the pixels' channels, [B, C, H, W]: between 0 and log C."""
    pixels = feature_map.detach().double().movedim(1, -1).flatten(0, -2)
    values = torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(pixels.T, correction=0))).clamp_min(0)
    shares = values / values.sum().clamp_min(1e-30)
    return torch.special.entr(shares).sum().item()


def gain(before: Tensor, after: Tensor, seed: int, number: int) -> float:
    """The spectral norm of E[∂ε·after/∂before · εᵀ] over pixels, ε = ±1 at random: an estimate of the block's Jacobian, transposed.

    1 keeps gradients as large as they are. 0 where no gradient passes, and where all of it passes unchanged: such a block does nothing.
    """
    if not after.requires_grad or not before.requires_grad:
        return 0.0
    rng = torch.randint(0, 2, after.shape, generator=generator(seed, "az-nas signs", number))
    sign = (2.0 * rng - 1).to(after)
    passed = torch.autograd.grad(after, before, sign, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
    if passed.shape == sign.shape and torch.equal(passed, sign):
        return 0.0
    factor = math.ceil(passed.shape[-1] / sign.shape[-1])
    if factor > 1:
        missing = [factor * small - large for small, large in zip(sign.shape[2:], passed.shape[2:], strict=True)]
        passed = F.pixel_unshuffle(F.pad(passed, (0, missing[1], 0, missing[0])), factor)
    backward, forward = (one.double().movedim(1, -1).flatten(0, -2) for one in (passed, sign))
    return torch.linalg.matrix_norm(backward.T @ forward / len(forward), 2).item()


@contextmanager
def _outputs(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """The output of each module, in the order in which they run."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(output)

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
