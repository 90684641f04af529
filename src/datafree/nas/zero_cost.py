"""Zero-cost proxies: synflow, jacob_cov, NWOT and Zen scores of untrained networks on noise images. Larger is better.

A network is a ``Classifier`` with a ``BlockBackbone``. See ``az_nas`` for the proxies of AZ-NAS and ``proxy_scores`` for the comparison of
architectures.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from datafree.devices import generator
from datafree.zoo.backbones import BlockBackbone, Classifier
from datafree.zoo.hooks import LayerHooks

ACTIVATIONS = {"relu", "relu_", "relu6", "leaky_relu"}
ZEN_REPEATS, ZEN_STEP = 4, 0.01
RIDGE = 1e-5  # smallest eigenvalue


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


def jacob_cov(network: Classifier, images: Tensor, seed: int) -> float:
    """−Σ (log(λ + k) + 1 / (λ + k)) over the eigenvalues λ of the correlation matrix of the images' gradients, k = 1e-5.

    Mellor et al., "Neural Architecture Search without Training", first version (2020), as in Abdelfattah et al., ICLR 2021.
    """
    images = images.detach().clone().requires_grad_()
    gradient = torch.autograd.grad(network.train()(images).sum(), images, allow_unused=True, materialize_grads=True)[0].flatten(1).double()
    centred = gradient - gradient.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-30)
    values = torch.linalg.eigvalsh(unit @ unit.T).clamp_min(0) + RIDGE
    return -(values.log() + 1 / values).sum().item()


def nwot(network: Classifier, images: Tensor, seed: int) -> float:
    """log |K|, K_ij the number of ReLUs in the same state for images i and j: Mellor et al., ICML 2021."""
    count = len(images)
    kernel = torch.zeros(count, count, dtype=torch.float64, device=images.device)
    with torch.no_grad(), _ActivationRecorder() as recorder:
        network.train()(images)
    for activation in recorder.outputs:
        active = (activation.flatten(1) > 0).double()
        kernel += active @ active.T + (1 - active) @ (1 - active).T
    return torch.linalg.eigvalsh(kernel).clamp_min(RIDGE).log().sum().item()


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


Proxy = Callable[[Classifier, Tensor, int], float]  # network, noise images, seed → score
PROXIES: dict[str, Proxy] = {"synflow": synflow, "jacob_cov": jacob_cov, "nwot": nwot, "zen": zen}


def noise(count: int, channels: int, size: int, seed: int) -> Tensor:
    """Standard normal noise float [count, channels, size, size], on the scale of normalised images."""
    return torch.randn(count, channels, size, size, generator=generator(seed, "zero-cost noise"))


def _map_and_variances(backbone: BlockBackbone, images: Tensor) -> tuple[Tensor, list[float]]:
    """The feature map of images, and for each BatchNorm the variance of its input, averaged over channels."""
    variances: list[float] = []

    def observe(layer: nn.Module, maps: Tensor) -> None:
        variances.append(maps.double().var((0, 2, 3), correction=0).mean().item())

    with LayerHooks((module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)), observe):
        return backbone.feature_map(images), variances


def _without_norm(network: Classifier) -> Classifier:
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return network


class _ActivationRecorder(TorchFunctionMode):
    """Collects the outputs of ReLUs in a ``with`` block, both of modules and of function calls (which module hooks would miss)."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ACTIVATIONS:
            self.outputs.append(result)
        return result
