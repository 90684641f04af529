"""Zero-cost proxy scores of architectures: measure their untrained networks, then compare them by one of ``datafree.config.PROXIES``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from datafree.devices import derive_seed, generator, seeded_initialisation
from datafree.nas.networks import stand_alone
from datafree.nas.proxies import PROXIES
from datafree.nas.proxy import measured_scores
from datafree.nas.search_result import Measures
from datafree.nas.space import Genotype, Space
from datafree.zoo.backbones import Classifier

COSTS = ("macs", "parameters")  # proxies that need no network


def proxy_measures(
    name: str, space: Space, genotype: Genotype, classes: int, batch_size: int, seed: int, device: torch.device | str
) -> Measures:
    """The measurements of one architecture for the proxy ``name``; all architectures are measured on the same noise images."""
    if name in COSTS:
        return {"score": float(getattr(space, name)(genotype))}
    network_seed = derive_seed(seed, "zero-cost", space.encode(genotype))
    backbone = stand_alone(space, genotype, network_seed)
    with seeded_initialisation(derive_seed(network_seed, "head")):
        network = Classifier(backbone, classes).to(device)
    images = noise(batch_size, space.image_channels, space.image_size, seed).to(device).contiguous(memory_format=torch.channels_last)
    # Half precision would round away the small differences that some proxies measure.
    with torch.autocast(torch.device(device).type, enabled=False):
        return PROXIES[name].measure(network, images, network_seed)


def proxy_scores(name: str, space: Space, measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
    """The score of each architecture from its ``proxy_measures``; larger is better. ``az_nas`` and ``az_synflow`` rank each among all."""
    return measured_scores(measures) if name in COSTS else PROXIES[name].scores(space, measures)


def noise(count: int, channels: int, size: int, seed: int) -> Tensor:
    """Standard normal noise float [count, channels, size, size], on the scale of normalised images."""
    return torch.randn(count, channels, size, size, generator=generator(seed, "zero-cost noise"))
