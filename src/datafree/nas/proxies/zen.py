"""Zen score: how much the feature map of a random network changes with its input."""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn

from datafree.devices import generator
from datafree.nas.proxy import score_by_network
from datafree.zoo.backbones import BlockBackbone, Classifier
from datafree.zoo.hooks import LayerHooks

ZEN_REPEATS, ZEN_STEP = 4, 0.01


def zen(network: Classifier, images: Tensor, seed: int) -> float:
    """log of the mean ‖f(x) − f(x + .01 ε)‖₁ of feature maps with normal weights and images, plus Σ log of BatchNorm's input deviations.

    Lin et al., "Zen-NAS", ICCV 2021; residual connections are kept. The mean over ``ZEN_REPEATS`` random initialisations.
    """
    backbone, scores = cast(BlockBackbone, copy.deepcopy(network.backbone)).train(), []
    for repeat in range(ZEN_REPEATS):
        rng = generator(seed, "zen", repeat)
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = torch.randn(module.weight.shape, generator=rng).to(module.weight)
        first, other = (torch.randn(images.shape, generator=rng).to(images) for _ in range(2))
        with torch.no_grad():
            maps, variances = _map_and_variances(backbone, first)
            moved = backbone.feature_map(first + ZEN_STEP * other)
        difference = (maps - moved).double().abs().flatten(1).sum(1).mean().item()
        scores.append(math.log(max(difference, 1e-300)) + sum(0.5 * math.log(max(value, 1e-30)) for value in variances))
    return sum(scores) / len(scores)


def _map_and_variances(backbone: BlockBackbone, images: Tensor) -> tuple[Tensor, list[float]]:
    """The feature map of images, and for each BatchNorm the variance of its input, averaged over channels."""
    variances: list[float] = []

    def observe(layer: nn.Module, maps: Tensor) -> None:
        variances.append(maps.double().var((0, 2, 3), correction=0).mean().item())

    with LayerHooks((module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)), observe):
        return backbone.feature_map(images), variances


PROXY = score_by_network(zen)
