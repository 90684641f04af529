"""Single path one-shot search: train a supernet with uniform paths, then breed cells that score well in it.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020; on synthetic images and soft labels as
in Liu et al., "Data-Free Neural Architecture Search via Recursive Label Calibration", ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from datafree.checkpoints import Checkpoint
from datafree.config import SposConfig
from datafree.devices import derive_seed, seeded_initialisation
from datafree.meta.losses import distillation_loss
from datafree.nas import space
from datafree.nas.distillation import Score, score
from datafree.nas.pools import Pools, draw, training_batch
from datafree.nas.space import Genotype
from datafree.nas.supernet import Supernet, recalibrate
from datafree.nas.training import minimise
from datafree.progress import progress

RECALIBRATION_IMAGES = 256
WEIGHT_DECAY = 4e-5
TRIES = 10  # children bred per child wanted, before the rest is drawn at random


class ScoreTable(dict[Genotype, Score]):
    """Scored cells in the order of scoring, as a checkpoint can keep them."""

    def state_dict(self) -> dict[str, Any]:
        return {space.encode(genotype): tuple(values) for genotype, values in self.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.clear()
        self.update({space.decode(text): Score(*values) for text, values in state_dict.items()})


@dataclass(frozen=True)
class Found:
    """A finished search: every scored cell in the order of scoring, the cells of each generation, and the supernet's training curve."""

    scores: dict[Genotype, Score]
    generations: list[list[Genotype]]
    training: list[dict[str, float]]

    @property
    def best(self) -> Genotype:
        return max(self.scores, key=lambda genotype: fitness(self.scores[genotype]))


def search(pools: Pools, config: SposConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint) -> Found:
    """The cell that best follows the teachers on held-out synthetic images, among those within ``config.max_macs``.

    ``key`` is the dotted configuration key of this algorithm, for messages.

    Raises:
        UserError: no cell meets the limit (before any training), or the training diverges.
    """
    candidates = space.candidates(config.max_macs, lambda genotype: cost(genotype, pools, config), f"{key}.max_macs")
    pools = pools.to(device)
    training, held_out = pools.split(config.validation, seed)
    known = ScoreTable()
    trained = train_supernet(pools, training, candidates, config, seed, device, checkpoint, known)
    supernet = trained.supernet
    calibration = draw(training, RECALIBRATION_IMAGES, seed, "recalibration").split(config.batch_size)
    batches = [pools.batch(part).images for part in calibration]

    def evaluate(genotype: Genotype) -> Score:
        if genotype not in known:
            recalibrate(supernet, genotype, batches)
            known[genotype] = score(lambda batch: supernet(batch.images, genotype, batch.teacher), pools, held_out, config.temperature)
            trained.keep()
        return known[genotype]

    scores, generations = evolve(evaluate, candidates, config, seed)
    return Found(scores, generations, trained.curve)


def cost(genotype: Genotype, pools: Pools, config: SposConfig) -> int:
    """Multiply-adds of the cell's backbone for one image of the pools; heads come and go with tasks and are left out."""
    return space.macs(genotype, config.channels, config.cells, pools.image_size, 0, pools.image_channels)


def fitness(values: Score) -> float:
    """What evolution maximises: the divergence, negated.

    It orders cells more like their stand-alone training does than agreement, of which many cells share a value.
    """
    return -values.kl


@dataclass(frozen=True)
class Trained:
    """A trained supernet, its training curve, and how to keep the state of the whole search on disk."""

    supernet: Supernet
    curve: list[dict[str, float]]
    keep: Callable[[], None]


def train_supernet(
    pools: Pools,
    training: Tensor,
    candidates: Sequence[Genotype],
    config: SposConfig,
    seed: int,
    device: torch.device | str,
    checkpoint: Checkpoint,
    scores: ScoreTable,
) -> Trained:
    """Minimise the distillation loss of one path per step, drawn uniformly from ``candidates``.

    ``training`` int64 [N] indexes ``pools``, which lie on ``device``; a batch mixes teachers as the pools do. Cells beyond the limit are
    never trained: the weights they share would serve none that can be chosen. The checkpoint also keeps ``scores``, filled later.
    """
    with seeded_initialisation(derive_seed(seed, "supernet")):
        supernet = Supernet(config.channels, config.cells, pools.image_channels, pools.classes)
    supernet.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.SGD(supernet.parameters(), config.learning_rate, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.supernet_steps)
    states = {"supernet": supernet, "optimiser": optimiser, "schedule": schedule, "scores": scores}

    def loss_of(step: int) -> Tensor:
        path = Random(derive_seed(seed, "path", step)).choice(candidates)
        batch = training_batch(pools, training, config.batch_size, seed, "supernet", step)
        return distillation_loss(supernet(batch.images, path, batch.teacher), batch.soft_labels, config.temperature)

    curve = minimise(loss_of, config.supernet_steps, optimiser, schedule, "supernet", checkpoint, states)
    return Trained(supernet, curve, lambda: checkpoint.save(config.supernet_steps, curve, **states))


def evolve(
    evaluate: Callable[[Genotype], Score], candidates: Sequence[Genotype], config: SposConfig, seed: int
) -> tuple[dict[Genotype, Score], list[list[Genotype]]]:
    """Evolution over ``candidates``: (scores in the order of scoring, cells of each generation). No cell is scored twice.

    The first generation is random; of each later one, half are mutations and half crossovers of the best ``parents`` so far, and what
    breeding does not yield is drawn at random. Ends early when every candidate has a score. Breeding depends on seed and scores alone,
    so a run that looks up what it scored before it was killed takes the same course.
    """
    scores: dict[Genotype, Score] = {}
    generations: list[list[Genotype]] = []
    for number in range(config.generations):
        cells = _breed(scores, candidates, config, Random(derive_seed(seed, "generation", number)))
        if not cells:
            break
        for genotype in progress(cells, len(cells), f"generation {number + 1}/{config.generations}"):
            scores[genotype] = evaluate(genotype)
        generations.append(cells)
    return scores, generations


def _breed(scores: dict[Genotype, Score], candidates: Sequence[Genotype], config: SposConfig, random: Random) -> list[Genotype]:
    """The next generation: up to ``population`` candidates without a score, each once."""
    allowed = set(candidates) - set(scores)
    parents = sorted(scores, key=lambda genotype: fitness(scores[genotype]), reverse=True)[: config.parents]
    children: list[Genotype] = []

    def add(make: Callable[[], Genotype], limit: int) -> None:
        for _ in range(TRIES * config.population):
            if len(children) >= limit:
                return
            child = make()
            if child in allowed:
                allowed.remove(child)
                children.append(child)

    if parents:
        add(lambda: space.mutate(random.choice(parents), config.mutation, random), config.population // 2)
        add(lambda: space.cross_over(random.choice(parents), random.choice(parents), random), config.population)
    rest = [genotype for genotype in candidates if genotype in allowed]
    return children + random.sample(rest, min(config.population - len(children), len(rest)))


def history(found: Found, macs: Callable[[Genotype], int]) -> list[dict[str, float]]:
    """One row per generation: the best cell so far, and the mean over the generation's own cells."""
    rows = []
    seen: list[Genotype] = []
    for number, cells in enumerate(found.generations, 1):
        seen += cells
        best = max(seen, key=lambda genotype: fitness(found.scores[genotype]))
        rows.append(
            {
                "step": number,
                "best_kl": found.scores[best].kl,
                "best_agreement": found.scores[best].agreement,
                "best_macs": macs(best),
                "mean_kl": sum(found.scores[g].kl for g in cells) / len(cells),
                "mean_agreement": sum(found.scores[g].agreement for g in cells) / len(cells),
            }
        )
    return rows


def comparison(found: Found) -> dict[str, float]:
    """What the search gained: the scores of the random first generation beside those of the best cell."""
    first = [found.scores[genotype] for genotype in found.generations[0]]
    return {
        "random_mean_agreement": sum(values.agreement for values in first) / len(first),
        "random_mean_kl": sum(values.kl for values in first) / len(first),
        "random_best_kl": min(values.kl for values in first),
        "candidates_scored": len(found.scores),
        "distinct_cells_scored": len({space.canonical(genotype) for genotype in found.scores}),
        "supernet_final_loss": found.training[-1]["loss"],
    }
