"""A supernet trained with one uniform path per step, and the score that it gives an architecture.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020; on synthetic images and soft labels as
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
from datafree.nas.mixing import Supernet, new_supernet, recalibrate
from datafree.nas.prefilter import Prior, screen
from datafree.nas.search_result import Measures, MeasureTable, closeness, mean_rank
from datafree.nas.spaces import Genotype, Space
from datafree.nas.training import minimise

RECALIBRATION_IMAGES = 256
WEIGHT_DECAY = 4e-5


class Judge:
    """Scores one path of a supernet: BatchNorm recalibrated on training images once, then one pass over the held-out ones.

    Beside the score stands the ``latency`` where ``latency`` has measured any.
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
    """A trained supernet with what can be chosen from it; calling it scores an architecture and keeps the score on disk."""

    candidates: Candidates
    curve: list[dict[str, float]]
    judge: Judge
    prior: Prior | None
    known: MeasureTable
    checkpoint: Checkpoint
    steps: int
    states: dict[str, Any]

    def __call__(self, genotype: Genotype) -> Measures:
        if genotype not in self.known:
            self.known[genotype] = self.judge(genotype)
            self.checkpoint.save(self.steps, self.curve, **self.states)
        return self.known[genotype]

    def fitness(self, measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
        """How close architectures come to the teachers; with a prior, the mean of their rank by that and their rank by the prior."""
        if self.prior is None:
            return closeness(measures)
        return mean_rank(closeness(measures), self.prior.standings(measures))

    def merits(self, measures: Mapping[Genotype, Measures]) -> dict[Genotype, Measures]:
        """The measures as a search reports them: with a prior, the fitness is one of them."""
        if self.prior is None:
            return dict(measures)
        values = self.fitness(measures)
        return {genotype: found | {"score": values[genotype]} for genotype, found in measures.items()}


def train(
    space: Space, pools: JoinedPools, config: OneShotConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> OneShot:
    """Minimise the distillation loss of one path per step, drawn uniformly from the architectures within the limits.

    Architectures beyond a limit, or that ``screen`` leaves out, are never trained: the weights they share would serve none that can be
    chosen. A batch mixes teachers as the pools do. ``key`` is the dotted key of ``config``, for messages.

    Raises:
        UserError: no architecture meets the limits (before any training), or the training diverges.
    """
    pools = pools.to(device)
    training, held_out = pools.split(config.validation, seed)
    supernet = new_supernet(space, pools.classes, derive_seed(seed, "supernet"), device)
    optimiser = torch.optim.SGD(supernet.parameters(), config.learning_rate, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.supernet_steps)
    known, untrained, latency = MeasureTable(space), MeasureTable(space), LatencyTable()
    states = {"supernet": supernet, "optimiser": optimiser, "schedule": schedule, "known": known, "prior": untrained, "latency": latency}
    checkpoint.restore(**states)  # a resumed search goes on with what it measured before the training
    if config.max_latency and not latency:
        latency.measure(space, supernet, device)
    candidates = Candidates(space, limits_of(config, key, space, latency.of))
    prior = Prior(config.prior, untrained, max(pools.classes), seed, device) if config.prior else None
    if prior is not None and config.prefilter:
        candidates = screen(candidates, prior, config, seed)

    def loss_of(step: int) -> Tensor:
        path = candidates.sample(Random(derive_seed(seed, "path", step)))
        batch = training_batch(pools, training, config.batch_size, seed, "supernet", step)
        return distillation_loss(supernet(batch.images, path, batch.teacher), batch.soft_labels, config.temperature)

    curve = minimise(loss_of, config.supernet_steps, optimiser, schedule, "supernet", checkpoint, states)
    judge = Judge(supernet, pools, training, held_out, config, seed, latency)
    return OneShot(candidates, curve, judge, prior, known, checkpoint, config.supernet_steps, states)
