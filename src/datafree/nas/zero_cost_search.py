"""Zero-cost search: evolution of a zero-cost proxy, without images or a supernet; as in Lin et al., "Zen-NAS", ICCV 2021."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from datafree.checkpoints import Checkpoint
from datafree.config import ZeroCostConfig
from datafree.devices import derive_seed
from datafree.distillation.joined_pools import JoinedPools
from datafree.nas.candidates import Candidates, limits_of
from datafree.nas.evolution import evolve, generation_history
from datafree.nas.latency import LatencyTable
from datafree.nas.proxy_scores import proxy_measures, proxy_scores
from datafree.nas.search_result import Measures, MeasureTable, SearchResult, best_of
from datafree.nas.space import Genotype, Space
from datafree.nas.supernet import new_supernet


def search(
    space: Space, pools: JoinedPools, config: ZeroCostConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> SearchResult:
    """The architecture within the limits with the highest ``config.proxy``. Of the pools only the numbers of classes are used.

    Raises:
        UserError: no architecture is within the limits.
    """
    measured, latency = MeasureTable(space), LatencyTable()
    states = {"known": measured, "latency": latency}
    checkpoint.restore(**states)
    if config.max_latency and not latency:
        latency.measure(space, new_supernet(space, pools.classes, derive_seed(seed, "supernet"), device), device)
    candidates = Candidates(space, limits_of(config, key, space, latency.of))

    def evaluate(genotype: Genotype) -> Measures:
        if genotype not in measured:
            measures = proxy_measures(config.proxy, space, genotype, max(pools.classes), config.batch_size, seed, device)
            measured[genotype] = measures | latency.measures(genotype)
            checkpoint.save(len(measured), [], **states)
        return measured[genotype]

    def fitness(measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
        return proxy_scores(config.proxy, space, measures)

    measures, generations = evolve(evaluate, fitness, candidates, config, seed)
    values = fitness(measures)
    scored = {genotype: {**measures[genotype], "score": values[genotype]} for genotype in measures}
    return SearchResult(best_of(measures, fitness), scored, generation_history(measures, generations, fitness, space.macs))
