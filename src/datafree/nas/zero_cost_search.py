"""Search by a score of untrained networks: no data, no supernet; as in Lin et al., "Zen-NAS", ICCV 2021."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from datafree.checkpoints import Checkpoint
from datafree.config import ZeroCostConfig
from datafree.devices import derive_seed
from datafree.distillation.joined_pools import JoinedPools
from datafree.nas.candidates import Candidates, limits_of
from datafree.nas.evolution import course, evolve
from datafree.nas.latency import LatencyTable
from datafree.nas.mixing import new_supernet
from datafree.nas.search_result import Measures, MeasureTable, SearchResult, best_of
from datafree.nas.spaces import Genotype, Space
from datafree.nas.zero_cost import standings, untrained


def search(
    space: Space, pools: JoinedPools, config: ZeroCostConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> SearchResult:
    """The architecture of the highest ``config.proxy`` that evolution finds within the limits. Of the pools only the images' shape counts.

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
            found = untrained(config.proxy, space, genotype, max(pools.classes), config.batch_size, seed, device)
            known[genotype] = found | latency.measures(genotype)
            checkpoint.save(len(known), [], **states)
        return known[genotype]

    def fitness(measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
        return standings(config.proxy, space, measures)

    measures, generations = evolve(evaluate, fitness, candidates, config, seed)
    values = fitness(measures)
    scored = {genotype: found | {"score": values[genotype]} for genotype, found in measures.items()}
    return SearchResult(best_of(measures, fitness), scored, course(measures, generations, fitness, space.macs))
