"""One-shot supernet training with uniformly sampled paths (SPOS), and the scores of architectures in the trained supernet.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020; on recovered images and soft labels as
in Liu et al., "Data-Free Neural Architecture Search via Recursive Label Calibration", ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from datafree.checkpoints import Checkpoint
from datafree.config import AlgorithmConfig, OneShotConfig
from datafree.devices import derive_seed
from datafree.distillation.fidelity import student_fidelity
from datafree.distillation.joined_pools import JoinedPools, sample_indices, training_batch
from datafree.distillation.losses import distillation_loss
from datafree.nas.candidates import Candidates, limits_of
from datafree.nas.latency import LatencyTable
from datafree.nas.prefilter import Prior, prefilter
from datafree.nas.search_result import Measures, MeasureTable, mean_rank, negative_kl
from datafree.nas.space import Genotype, Space
from datafree.nas.supernet import Supernet, new_supernet, recalibrate
from datafree.nas.training import minimise

RECALIBRATION_IMAGES = 256
WEIGHT_DECAY = 4e-5


class PathEvaluator:
    """Scores one path of a supernet: BatchNorm recalibration on training images, then one pass over the held-out images.

    The measures are ``agreement`` and ``kl``, and ``latency`` where ``latency`` holds measured times.
    """

    def __init__(
        self, supernet: Supernet, pools: JoinedPools, training: Tensor, held_out: Tensor, config: AlgorithmConfig, seed: int,
        latency: LatencyTable,
    ) -> None:  # fmt: skip
        self.supernet, self.pools, self.held_out, self.temperature = supernet, pools, held_out, config.temperature
        self.latency = latency
        parts = sample_indices(training, RECALIBRATION_IMAGES, seed, "recalibration").split(config.batch_size)
        self.batches = [pools.batch(part).images for part in parts]

    def __call__(self, genotype: Genotype) -> Measures:
        recalibrate(self.supernet, genotype, self.batches)

        def predict(batch: Any) -> Tensor:
            return self.supernet(batch.images, genotype, batch.teacher)

        return student_fidelity(predict, self.pools, self.held_out, self.temperature)._asdict() | self.latency.measures(genotype)


@dataclass(frozen=True)
class OneShot:
    """A trained supernet and its candidates; a call scores an architecture, or returns its earlier score, and saves the checkpoint."""

    candidates: Candidates
    curve: list[dict[str, float]]
    evaluator: PathEvaluator
    prior: Prior | None
    scored: MeasureTable
    checkpoint: Checkpoint
    steps: int
    states: dict[str, Any]

    def __call__(self, genotype: Genotype) -> Measures:
        if genotype not in self.scored:
            self.scored[genotype] = self.evaluator(genotype)
            self.checkpoint.save(self.steps, self.curve, **self.states)
        return self.scored[genotype]

    def fitness(self, measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
        """The negative KL divergence from the teachers; with a prior, the mean of an architecture's ranks by it and by the prior."""
        if self.prior is None:
            return negative_kl(measures)
        return mean_rank(negative_kl(measures), self.prior.scores(measures))

    def reported_measures(self, measures: Mapping[Genotype, Measures]) -> dict[Genotype, Measures]:
        """The measures for the search result; with a prior, the fitness is added as ``score``."""
        if self.prior is None:
            return dict(measures)
        values = self.fitness(measures)
        return {genotype: {**measures[genotype], "score": values[genotype]} for genotype in measures}


def train(
    space: Space, pools: JoinedPools, config: OneShotConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> OneShot:
    """Minimise the distillation loss of one path per step, sampled uniformly from the candidates.

    Architectures beyond a limit or rejected by the pre-filter are never trained: updates of shared weights for them would not help any
    candidate. A batch mixes images of all teachers. ``key`` is the dotted key of ``config``, for error messages.

    Raises:
        UserError: no architecture is within the limits (before any training), or the training diverges.
    """
    pools = pools.to(device)
    training, held_out = pools.split(config.validation, seed)
    supernet = new_supernet(space, pools.classes, derive_seed(seed, "supernet"), device)
    optimiser = torch.optim.SGD(supernet.parameters(), config.learning_rate, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.supernet_steps)
    scored, proxies, latency = MeasureTable(space), MeasureTable(space), LatencyTable()
    states = {"supernet": supernet, "optimiser": optimiser, "schedule": schedule, "known": scored, "prior": proxies, "latency": latency}
    checkpoint.restore(**states)  # latencies and proxies measured before an interruption are not measured again
    if config.max_latency and not latency:
        latency.measure(space, supernet, device)
    candidates = Candidates(space, limits_of(config, key, space, latency.of))
    prior = Prior(config.prior, proxies, max(pools.classes), seed, device) if config.prior else None
    if prior is not None and config.prefilter:
        candidates = prefilter(candidates, prior, config, seed)

    def loss_of(step: int) -> Tensor:
        path = candidates.sample(Random(derive_seed(seed, "path", step)))
        batch = training_batch(pools, training, config.batch_size, seed, "supernet", step)
        return distillation_loss(supernet(batch.images, path, batch.teacher), batch.soft_labels, config.temperature)

    curve = minimise(loss_of, config.supernet_steps, optimiser, schedule, "supernet", checkpoint, states)
    evaluator = PathEvaluator(supernet, pools, training, held_out, config, seed, latency)
    return OneShot(candidates, curve, evaluator, prior, scored, checkpoint, config.supernet_steps, states)
