"""Search by a score of untrained networks: no data, no supernet; as in Lin et al., "Zen-NAS", ICCV 2021."""

from __future__ import annotations

import torch

from datafree.checkpoints import Checkpoint
from datafree.config import ZeroCostConfig
from datafree.devices import derive_seed, seeded_initialisation
from datafree.nas.candidates import Candidates, limits_of
from datafree.nas.evolution import course, evolve
from datafree.nas.found import Found, Measures, MeasureTable
from datafree.nas.latency import LatencyTable
from datafree.nas.mixing import new_supernet
from datafree.nas.pools import Pools
from datafree.nas.spaces import Genotype, Space
from datafree.nas.zero_cost import SCORES, noise
from datafree.zoo.backbones import Classifier, build


def search(
    space: Space, pools: Pools, config: ZeroCostConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> Found:
    """The architecture of the highest ``config.score`` that evolution finds within the limits. Of the pools only the images' shape counts.

    Raises:
        UserError: no architecture meets the limits.
    """
    known, latency = MeasureTable(space), LatencyTable()
    states = {"known": known, "latency": latency}
    checkpoint.restore(**states)
    if config.max_latency and not latency:
        latency.measure(space, new_supernet(space, pools.classes, derive_seed(seed, "supernet"), device), device)
    candidates = Candidates(space, limits_of(config, key, space, latency.of))

    def evaluate(genotype: Genotype) -> Measures:
        if genotype not in known:
            found = zero_cost_score(config.score, space, genotype, max(pools.classes), config.batch_size, seed, device)
            known[genotype] = {"score": found, **latency.measures(genotype)}
            checkpoint.save(len(known), [], **states)
        return known[genotype]

    def fitness(measures: Measures) -> float:
        return measures["score"]

    measures, generations = evolve(evaluate, fitness, candidates, config, seed)
    best = max(measures, key=lambda genotype: fitness(measures[genotype]))
    return Found(best, measures, course(measures, generations, fitness, space.macs))


def zero_cost_score(
    name: str, space: Space, genotype: Genotype, classes: int, batch_size: int, seed: int, device: torch.device | str
) -> float:
    """One of ``datafree.config.SCORES`` of one architecture's untrained network, on a batch of noise that is the same for all."""
    if name in ("macs", "parameters"):
        return float(getattr(space, name)(genotype))
    own = derive_seed(seed, "zero-cost", space.encode(genotype))
    backbone = build(space.backbone(genotype), space.image_channels, space.image_size, own)
    with seeded_initialisation(derive_seed(own, "head")):
        network = Classifier(backbone, classes).to(device)
    images = noise(batch_size, space.image_channels, space.image_size, seed).to(device)
    # Half precision would drown the small differences that some scores take.
    with torch.autocast(torch.device(device).type, enabled=False):
        return SCORES[name](network, images.contiguous(memory_format=torch.channels_last), own)
