"""Single path one-shot search: train a supernet with uniform paths, then breed architectures that score well in it."""

from __future__ import annotations

import torch

from datafree.checkpoints import Checkpoint
from datafree.config import SposConfig
from datafree.distillation.joined_pools import JoinedPools
from datafree.nas import one_shot
from datafree.nas.evolution import course, evolve
from datafree.nas.search_result import Measures, SearchResult, best_of
from datafree.nas.spaces import Genotype, Space


def search(
    space: Space, pools: JoinedPools, config: SposConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> SearchResult:
    """The architecture that best follows the teachers on held-out synthetic images, among those within the limits.

    Raises:
        UserError: no architecture meets the limits (before any training), or the training diverges.
    """
    trained = one_shot.train(space, pools, config, key, seed, device, checkpoint)
    measures, generations = evolve(trained, trained.fitness, trained.candidates, config, seed)
    best = best_of(measures, trained.fitness)
    rows = course(measures, generations, trained.fitness, space.macs)
    return SearchResult(best, trained.merits(measures), rows, comparison(space, measures, generations, trained.curve))


def comparison(
    space: Space, measures: dict[Genotype, Measures], generations: list[list[Genotype]], curve: list[dict[str, float]]
) -> dict[str, float]:
    """What the search gained: the scores of the random first generation beside those of the best architecture."""
    first = [measures[genotype] for genotype in generations[0]]
    return {
        "random_mean_agreement": sum(values["agreement"] for values in first) / len(first),
        "random_mean_kl": sum(values["kl"] for values in first) / len(first),
        "random_best_kl": min(values["kl"] for values in first),
        "distinct_cells_scored": len({space.canonical(genotype) for genotype in measures}),
        "supernet_final_loss": curve[-1]["loss"],
    }
