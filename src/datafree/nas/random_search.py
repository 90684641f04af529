"""Random search: as many architectures as a search may score, drawn at random, the best of them kept; Li and Talwalkar, UAI 2019."""

from __future__ import annotations

from random import Random

import torch

from datafree.checkpoints import Checkpoint
from datafree.config import RandomConfig
from datafree.devices import derive_seed
from datafree.distillation.joined_pools import JoinedPools
from datafree.nas import one_shot
from datafree.nas.evolution import course
from datafree.nas.search_result import SearchResult, best_of
from datafree.nas.spaces import Space
from datafree.progress import progress


def search(
    space: Space, pools: JoinedPools, config: RandomConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> SearchResult:
    """The best of ``config.candidates`` random architectures within the limits, by their scores in a supernet trained as for SPOS.

    Raises:
        UserError: no architecture meets the limits (before any training), or the training diverges.
    """
    trained = one_shot.train(space, pools, config, key, seed, device, checkpoint)
    chosen = trained.candidates.others(set(), config.candidates, Random(derive_seed(seed, "random")))
    measures = {genotype: trained(genotype) for genotype in progress(chosen, len(chosen), "random search")}
    best = best_of(measures, trained.fitness)
    rows = course(measures, [[genotype] for genotype in chosen], trained.fitness, space.macs)
    return SearchResult(best, trained.merits(measures), rows, {"supernet_final_loss": trained.curve[-1]["loss"]})
