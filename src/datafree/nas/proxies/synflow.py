"""Synflow: how much signal passes through an untrained network of absolute weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from datafree.nas.proxy import score_by_network
from datafree.zoo.backbones import Classifier


def synflow(network: Classifier, images: Tensor, seed: int) -> float:
    """log Σ |θ · ∂R/∂θ| over convolutions and linear layers, R the sum of outputs for an image of ones and |θ|, without BatchNorm.

    Tanaka et al., NeurIPS 2020; summed over the network as in Abdelfattah et al., ICLR 2021. Logarithm: it spans many orders of magnitude.
    """
    network = _without_norm(copy.deepcopy(network)).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    layers = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    output = network(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(output, layers, allow_unused=True, materialize_grads=True)
    total = sum((weight.detach() * gradient).abs().sum().item() for weight, gradient in zip(layers, gradients, strict=True))
    return math.log(max(total, 1e-300))


def _without_norm(network: Classifier) -> Classifier:
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return network


PROXY = score_by_network(synflow)
