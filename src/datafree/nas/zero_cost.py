"""Scores of untrained networks that need no data: what a search has to beat. Larger is meant to be better.

A network is a ``Classifier`` with a ``BlockBackbone``. Parameters and multiply-adds are scores, too; the space counts them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from datafree.devices import derive_seed, generator, seeded_initialisation
from datafree.nas import az_nas
from datafree.nas.search_result import Measures, mean_rank
from datafree.nas.spaces import Genotype, Space
from datafree.zoo.backbones import BlockBackbone, Classifier, build

ACTIVATIONS = {"relu", "relu_", "relu6", "leaky_relu"}
ZEN_REPEATS, ZEN_STEP = 4, 0.01
RIDGE = 1e-5  # keeps eigenvalues from zero


def synflow(network: Classifier, images: Tensor, seed: int) -> float:
    """log Σ |θ · ∂R/∂θ| over convolutions and linear layers, R the sum of outputs for an image of ones and |θ|, without BatchNorm.

    Tanaka et al., NeurIPS 2020; the sum over the network as in Abdelfattah et al., ICLR 2021. It spans many orders of magnitude.
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
    """log |K|, K_ij the number of rectifiers that are alike for images i and j: Mellor et al., ICML 2021."""
    count = len(images)
    alike = torch.zeros(count, count, dtype=torch.float64, device=images.device)
    with torch.no_grad(), _activations() as seen:
        network.train()(images)
    for activation in seen:
        active = (activation.flatten(1) > 0).double()
        alike += active @ active.T + (1 - active) @ (1 - active).T
    return torch.linalg.eigvalsh(alike).clamp_min(RIDGE).log().sum().item()


def zen(network: Classifier, images: Tensor, seed: int) -> float:
    """log of the mean ‖f(x) − f(x + .01 ε)‖₁ of feature maps, weights and images normal, plus Σ log of BatchNorm's deviations.

    Lin et al., "Zen-NAS", ICCV 2021. Residual connections stay. The mean of a few draws.
    """
    backbone, scores = cast(BlockBackbone, copy.deepcopy(network.backbone)).train(), []
    for repeat in range(ZEN_REPEATS):
        rng = generator(seed, "zen", repeat)
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = torch.randn(module.weight.shape, generator=rng).to(module.weight)
        first, other = (torch.randn(images.shape, generator=rng).to(images) for _ in range(2))
        with torch.no_grad(), _norm_inputs(backbone) as variances:
            maps = backbone.feature_map(first)
        with torch.no_grad():
            moved = backbone.feature_map(first + ZEN_STEP * other)
        difference = (maps - moved).double().abs().flatten(1).sum(1).mean().item()
        scores.append(math.log(max(difference, 1e-300)) + sum(0.5 * math.log(max(value, 1e-30)) for value in variances))
    return sum(scores) / len(scores)


Score = Callable[[Classifier, Tensor, int], float]
PROXIES: dict[str, Score] = {"synflow": synflow, "jacob_cov": jacob_cov, "nwot": nwot, "zen": zen}


def untrained(
    name: str, space: Space, genotype: Genotype, classes: int, batch_size: int, seed: int, device: torch.device | str
) -> Measures:
    """What one of ``datafree.config.PROXIES`` looks at in an architecture's untrained network, on noise that is the same for all.

    That is the ``score`` itself, save for ``az_nas``, which combines several views, and ``az_synflow``, which adds ``synflow`` to them.
    """
    if name in ("macs", "parameters"):
        return {"score": float(getattr(space, name)(genotype))}
    own = derive_seed(seed, "zero-cost", space.encode(genotype))
    backbone = build(space.backbone(genotype), space.image_channels, space.image_size, own)
    with seeded_initialisation(derive_seed(own, "head")):
        network = Classifier(backbone, classes).to(device)
    images = noise(batch_size, space.image_channels, space.image_size, seed).to(device).contiguous(memory_format=torch.channels_last)
    # Half precision would drown the small differences that some scores take.
    with torch.autocast(torch.device(device).type, enabled=False):
        if name in PROXIES:
            return {"score": PROXIES[name](network, images, own)}
        found = {"synflow": synflow(network, images, own)} if name == "az_synflow" else {}
        return found | az_nas.views(cast(BlockBackbone, backbone), images, own)  # which takes the network's weights


def standings(name: str, space: Space, measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
    """The score of each architecture from what ``untrained`` found in it; ``az_nas`` and ``az_synflow`` depend on the others.

    ``az_synflow`` is the mean of the ranks by AZ-NAS, which tells bad architectures from good ones, and by synflow, which orders the good.
    """
    if name == "az_synflow":
        by_synflow = {genotype: found["synflow"] for genotype, found in measures.items()}
        return mean_rank(standings("az_nas", space, measures), by_synflow)
    if name == "az_nas":
        views = {genotype: {view: found[view] for view in az_nas.VIEWS} for genotype, found in measures.items()}
        return az_nas.combined({genotype: {**found, "macs": space.macs(genotype)} for genotype, found in views.items()})
    return {genotype: found["score"] for genotype, found in measures.items()}


def noise(count: int, channels: int, size: int, seed: int) -> Tensor:
    """Normal noise float [count, channels, size, size], as normalised images have it."""
    return torch.randn(count, channels, size, size, generator=generator(seed, "zero-cost noise"))


def _without_norm(network: Classifier) -> Classifier:
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return network


class _Recorder(TorchFunctionMode):
    """Keeps the results of rectifiers, whether they are modules or called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ACTIVATIONS:
            self.seen.append(result)
        return result


@contextmanager
def _activations() -> Iterator[list[Tensor]]:
    with _Recorder() as recorder:
        yield recorder.seen


@contextmanager
def _norm_inputs(network: nn.Module) -> Iterator[list[float]]:
    """The mean variance over the channels of what each BatchNorm gets."""
    found: list[float] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].double().var((0, 2, 3), correction=0).mean().item())

    handles = [module.register_forward_pre_hook(note) for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
