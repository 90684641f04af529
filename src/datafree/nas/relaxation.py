"""Relaxed (gradient-based) search, shared by DARTS and ProxylessNAS: architecture weights, trajectory, early stopping, result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from datafree.config import RelaxedConfig
from datafree.devices import derive_seed, generator
from datafree.distillation.joined_pools import Batch, JoinedPools, training_batch
from datafree.nas.latency import LatencyTable
from datafree.nas.one_shot import PathEvaluator
from datafree.nas.search_result import MeasureTable, SearchResult
from datafree.nas.space import Genotype, Space
from datafree.nas.supernet import new_supernet

INITIAL_SCALE = 1e-3  # standard deviation of the initial architecture weights, as in the papers


class Alphas(nn.Module):
    """The architecture weights: a learnable float per option of every slot; their softmax over a slot gives the options' probabilities."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__()
        self.space = space
        rng = generator(seed, "alphas")
        self.slots = nn.ParameterList(INITIAL_SCALE * torch.randn(len(options), generator=rng) for options in space.choices)

    def mixture(self, values: list[Tensor]) -> list[Mapping[str, Tensor]]:
        """Values float [options] per slot as a path through the supernet."""
        return [dict(zip(options, value.unbind(), strict=True)) for options, value in zip(self.space.choices, values, strict=True)]

    def probabilities(self) -> list[Tensor]:
        """Float [options] per slot."""
        return [alpha.softmax(0) for alpha in self.slots]

    @torch.no_grad()
    def architecture(self) -> Genotype:
        """The most probable architecture."""
        values = [probability.tolist() for probability in self.probabilities()]
        return self.space.most_probable([dict(zip(o, v, strict=True)) for o, v in zip(self.space.choices, values, strict=True)])

    @torch.no_grad()
    def entropy(self) -> float:
        """The entropy of the options' probabilities in nats, averaged over slots."""
        entropies = [torch.special.entr(probability).sum() for probability in self.probabilities()]
        return float(torch.stack(entropies).mean())


class Trajectory:
    """The most probable architecture after each of some steps, with a state dict for checkpoints; ``ended`` after early stopping."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.steps: list[tuple[int, Genotype]] = []
        self.ended = False

    def add(self, step: int, genotype: Genotype) -> None:
        self.steps.append((step, genotype))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": [(step, self.space.encode(genotype)) for step, genotype in self.steps], "ended": self.ended}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.steps = [(step, self.space.decode(text)) for step, text in state_dict["steps"]]
        self.ended = state_dict["ended"]


class RelaxedSearch:
    """The state of a gradient-based search: supernet, architecture weights, trajectory, and pools split into training and held-out images.

    One half of the training images is for the network's weights, the other half for the architecture weights.
    """

    def __init__(self, space: Space, pools: JoinedPools, config: RelaxedConfig, seed: int, device: torch.device | str) -> None:
        self.space, self.config, self.seed = space, config, seed
        self.pools = pools.to(device)
        self.training, self.held_out = self.pools.split(config.validation, seed)
        for_weights, for_alphas = halves(self.training, seed)
        self.parts = {"weights": for_weights, "alphas": for_alphas}
        self.supernet = new_supernet(space, self.pools.classes, derive_seed(seed, "supernet"), device)
        self.alphas, self.trajectory = Alphas(space, seed).to(device), Trajectory(space)
        self.latency = LatencyTable()  # filled only by a search with latency as its cost

    def batch(self, part: str, step: int) -> Batch:
        """The training batch of one step; ``part`` is ``weights`` or ``alphas``."""
        return training_batch(self.pools, self.parts[part], self.config.batch_size, self.seed, part, step)

    def record(self, step: int) -> int:
        """Add the most probable architecture to the trajectory; returns the number of its skip connections.

        Early stopping (DARTS+): from the first architecture with more than ``max_skips`` skip connections on, none is added.
        """
        genotype = self.alphas.architecture()
        skips = sum(option == self.space.skip for option in genotype)
        self.trajectory.ended |= self.config.max_skips is not None and skips > self.config.max_skips
        if not self.trajectory.ended:
            self.trajectory.add(step, genotype)
        return skips

    def result(self, curve: list[dict[str, float]], facts: Mapping[str, float] | None = None) -> SearchResult:
        """The last architecture of the trajectory, with the supernet scores of all its architectures in order."""
        passed = [genotype for _, genotype in self.trajectory.steps] or [self.alphas.architecture()]
        best = passed[-1]
        measures = MeasureTable(self.space)
        evaluate = PathEvaluator(self.supernet, self.pools, self.training, self.held_out, self.config, self.seed, self.latency)
        for genotype in dict.fromkeys([*(genotype for genotype in passed if genotype != best), best]):
            measures[genotype] = evaluate(genotype)
        skips = sum(option == self.space.skip for option in best)
        changes, ended, loss = len(measures) - 1, int(self.trajectory.ended), curve[-1]["loss"]
        final = {"skips": skips, "changes": changes, "ended_early": ended, "supernet_final_loss": loss}
        return SearchResult(best, dict(measures), curve, {**final, **(facts or {})})


def halves(training: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Training indices int64 [N] in two random halves: (for the network's weights, for the architecture weights)."""
    shuffled = training[torch.randperm(len(training), generator=generator(seed, "halves"))]
    return shuffled[: (len(training) + 1) // 2], shuffled[(len(training) + 1) // 2 :]


def weight_optimiser(
    parameters: list[nn.Parameter], config: RelaxedConfig
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.CosineAnnealingLR]:
    """SGD with momentum for the network's weights; the learning rate follows a cosine to a 25th, as in DARTS."""
    optimiser = torch.optim.SGD(parameters, config.learning_rate, momentum=0.9, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.supernet_steps, eta_min=config.learning_rate / 25)
    return optimiser, schedule
