"""Zero-cost proxy scores of architectures: measure their untrained networks, then compare them by one of ``datafree.config.PROXIES``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch

from datafree.devices import derive_seed, seeded_initialisation
from datafree.nas import az_nas
from datafree.nas.networks import stand_alone
from datafree.nas.search_result import Measures, mean_rank
from datafree.nas.space import Genotype, Space
from datafree.nas.zero_cost import PROXIES, noise, synflow
from datafree.zoo.backbones import BlockBackbone, Classifier


def proxy_measures(
    name: str, space: Space, genotype: Genotype, classes: int, batch_size: int, seed: int, device: torch.device | str
) -> Measures:
    """The measurements of one architecture for the proxy ``name``; all architectures are measured on the same noise images.

    ``score`` for most proxies, the components of AZ-NAS for ``az_nas``, these and ``synflow`` for ``az_synflow``.
    """
    if name in ("macs", "parameters"):
        return {"score": float(getattr(space, name)(genotype))}
    network_seed = derive_seed(seed, "zero-cost", space.encode(genotype))
    backbone = stand_alone(space, genotype, network_seed)
    with seeded_initialisation(derive_seed(network_seed, "head")):
        network = Classifier(backbone, classes).to(device)
    images = noise(batch_size, space.image_channels, space.image_size, seed).to(device).contiguous(memory_format=torch.channels_last)
    # Half precision would round away the small differences that some proxies measure.
    with torch.autocast(torch.device(device).type, enabled=False):
        if name in PROXIES:
            return {"score": PROXIES[name](network, images, network_seed)}
        measures = {"synflow": synflow(network, images, network_seed)} if name == "az_synflow" else {}
        return measures | az_nas.components(cast(BlockBackbone, backbone), images, network_seed)  # last: it changes the weights


def proxy_scores(name: str, space: Space, measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
    """The score of each architecture from its ``proxy_measures``; larger is better. ``az_nas`` and ``az_synflow`` rank each among all.

    ``az_synflow`` is the mean of the ranks by AZ-NAS, which separates bad architectures from good ones, and by synflow, which orders the
    good ones.
    """
    if name == "az_synflow":
        by_synflow = {genotype: measured["synflow"] for genotype, measured in measures.items()}
        return mean_rank(proxy_scores("az_nas", space, measures), by_synflow)
    if name == "az_nas":
        components = {genotype: {key: measured[key] for key in az_nas.COMPONENTS} for genotype, measured in measures.items()}
        return az_nas.combine({genotype: {**values, "macs": space.macs(genotype)} for genotype, values in components.items()})
    return {genotype: measured["score"] for genotype, measured in measures.items()}
