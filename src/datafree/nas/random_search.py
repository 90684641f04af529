"""Random search: the best of a number of random candidates by their scores in a supernet; Li and Talwalkar, UAI 2019."""

from __future__ import annotations

from random import Random

import torch

from datafree.checkpoints import Checkpoint
from datafree.config import RandomConfig
from datafree.devices import derive_seed
from datafree.distillation.joined_pools import JoinedPools
from datafree.nas import one_shot
from datafree.nas.evolution import generation_history
from datafree.nas.search_result import SearchResult, best_of
from datafree.nas.space import Space
from datafree.progress import progress


def search(
    space: Space, pools: JoinedPools, config: RandomConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> SearchResult:
    """The best of ``config.candidates`` random architectures within the limits, scored in a supernet trained as for SPOS.

    Raises:
        UserError: no architecture is within the limits (before any training), or the training diverges.
    """
    trained = one_shot.train(space, pools, config, key, seed, device, checkpoint)
    sampled = trained.candidates.sample_distinct(set(), config.candidates, Random(derive_seed(seed, "random")))
    measures = {genotype: trained(genotype) for genotype in progress(sampled, len(sampled), "random search")}
    best = best_of(measures, trained.fitness)
    history = generation_history(measures, [[genotype] for genotype in sampled], trained.fitness, space.macs)
    return SearchResult(best, trained.reported_measures(measures), history, {"supernet_final_loss": trained.curve[-1]["loss"]})
