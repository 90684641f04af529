"""SPOS, single-path one-shot search: a supernet trained with uniform paths, then evolution of architectures scored in it."""

from __future__ import annotations

import torch

from datafree.checkpoints import Checkpoint
from datafree.config import SposConfig
from datafree.distillation.joined_pools import JoinedPools
from datafree.nas import one_shot
from datafree.nas.evolution import evolve, generation_history
from datafree.nas.search_result import Measures, SearchResult, best_of
from datafree.nas.space import Genotype, Space


def search(
    space: Space, pools: JoinedPools, config: SposConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> SearchResult:
    """The scored candidate with the lowest KL divergence from the teachers on held-out images or, with a prior, the best mean rank.

    Raises:
        UserError: no architecture is within the limits (before any training), or the training diverges.
    """
    trained = one_shot.train(space, pools, config, key, seed, device, checkpoint)
    measures, generations = evolve(trained, trained.fitness, trained.candidates, config, seed)
    best = best_of(measures, trained.fitness)
    history = generation_history(measures, generations, trained.fitness, space.macs)
    return SearchResult(best, trained.reported_measures(measures), history, random_baseline(space, measures, generations, trained.curve))


def random_baseline(
    space: Space, measures: dict[Genotype, Measures], generations: list[list[Genotype]], curve: list[dict[str, float]]
) -> dict[str, float]:
    """Metrics of the random first generation, to compare the best architecture with, and of the search as a whole."""
    first = [measures[genotype] for genotype in generations[0]]
    return {
        "random_mean_agreement": sum(values["agreement"] for values in first) / len(first),
        "random_mean_kl": sum(values["kl"] for values in first) / len(first),
        "random_best_kl": min(values["kl"] for values in first),
        "distinct_cells_scored": len({space.canonical(genotype) for genotype in measures}),
        "supernet_final_loss": curve[-1]["loss"],
    }
