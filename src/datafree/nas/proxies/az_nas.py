"""AZ-NAS zero-cost proxies: expressivity, progressivity and trainability, combined by rank (Lee and Ham, "AZ-NAS", CVPR 2024).

All three are computed from the feature map of each block: the number of directions that its channels span (expressivity), the increase
of this number from block to block (progressivity), and how well the block preserves the norm of gradients (trainability). The fourth
proxy of AZ-NAS is the number of multiply-adds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree.devices import generator
from datafree.nas.proxy import Proxy
from datafree.nas.search_result import Key, Measures, relative_rank
from datafree.nas.space import Genotype, Space
from datafree.zoo.backbones import BlockBackbone, Classifier
from datafree.zoo.hooks import LayerHooks

COMPONENTS = ("expressivity", "progressivity", "trainability")  # measured on a network; ``scores`` adds the multiply-adds
TINY = 1e-6  # added to the gain in the denominator, as in AZ-NAS


def measure(network: Classifier, images: Tensor, seed: int) -> Measures:
    """The ``components`` of the backbone, whose weights this changes."""
    return components(cast(BlockBackbone, network.backbone), images, seed)


def scores(space: Space, measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
    """The combined rank of each architecture among all by the components and the multiply-adds; see ``combine``."""
    components_of = {genotype: {key: measured[key] for key in COMPONENTS} for genotype, measured in measures.items()}
    return combine({genotype: {**values, "macs": space.macs(genotype)} for genotype, values in components_of.items()})


def components(backbone: BlockBackbone, images: Tensor, seed: int) -> dict[str, float]:
    """Expressivity, progressivity and trainability, measured on normal noise images float [B, C, H, W].

    Changes ``backbone``: its convolutions are re-initialised (normal, by fan-in), it is put into training mode, and its parameters no
    longer require gradients.
    """
    initialise(backbone.train(), seed)
    maps: list[Tensor] = []
    with LayerHooks(backbone.sequence(), lambda layer, output: maps.append(output), outputs=True):
        backbone.requires_grad_(False).feature_map(images.detach().requires_grad_())
    entropies = [entropy(feature_map) for feature_map in maps]
    gains = [gain(before, after, seed, number) for number, (before, after) in enumerate(pairwise(maps))]
    return {
        "expressivity": sum(entropies),
        "progressivity": min(after - before for before, after in pairwise(entropies)),
        "trainability": sum(2 - value - 1 / (value + TINY) for value in gains) / len(gains),
    }


def combine(components_of: Mapping[Key, Mapping[str, float]]) -> dict[Key, float]:
    """Σ log(rank / n) over the components of each architecture; the largest value has rank n, equal values share their mean rank.

    Results are comparable only within one call.
    """
    names = next(iter(components_of.values()), {})
    ranks = [relative_rank({key: values[name] for key, values in components_of.items()}) for name in names]
    return {key: sum(math.log(rank[key]) for rank in ranks) for key in components_of}


def initialise(network: nn.Module, seed: int) -> None:
    """Set convolution weights to normal values of variance 2 / fan-in, determined by the seed."""
    rng = generator(seed, "az-nas weights")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            deviation = math.sqrt(2 / module.weight[0].numel())
            module.weight.data = (deviation * torch.randn(module.weight.shape, generator=rng)).to(module.weight)


def entropy(feature_map: Tensor) -> float:
    """Entropy of the normalised eigenvalues of the channels' covariance over all pixels of [B, C, H, W]: between 0 and log C."""
    pixels = feature_map.detach().double().movedim(1, -1).flatten(0, -2)
    values = torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(pixels.T, correction=0))).clamp_min(0)
    shares = values / values.sum().clamp_min(1e-30)
    return torch.special.entr(shares).sum().item()


def gain(before: Tensor, after: Tensor, seed: int, number: int) -> float:
    """The spectral norm of E[∂ε·after/∂before · εᵀ] over pixels, ε = ±1 at random: an estimate of the block's transposed Jacobian.

    1 means that the block preserves the norm of gradients. 0 where no gradient passes, and where the gradient passes unchanged: such a
    block is the identity.
    """
    if not after.requires_grad or not before.requires_grad:
        return 0.0
    signs = torch.randint(0, 2, after.shape, generator=generator(seed, "az-nas signs", number))
    sign = (2.0 * signs - 1).to(after)
    passed = torch.autograd.grad(after, before, sign, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
    if passed.shape == sign.shape and torch.equal(passed, sign):
        return 0.0
    factor = math.ceil(passed.shape[-1] / sign.shape[-1])
    if factor > 1:
        missing = [factor * small - large for small, large in zip(sign.shape[2:], passed.shape[2:], strict=True)]
        passed = F.pixel_unshuffle(F.pad(passed, (0, missing[1], 0, missing[0])), factor)
    backward, forward = (values.double().movedim(1, -1).flatten(0, -2) for values in (passed, sign))
    return torch.linalg.matrix_norm(backward.T @ forward / len(forward), 2).item()


PROXY = Proxy(measure, scores)
