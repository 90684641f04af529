"""What searches by gradient share: a weight per option and slot, and the architectures that they stood for along the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from datafree.config import RelaxedConfig
from datafree.devices import derive_seed, generator
from datafree.distillation.joined_pools import Batch, JoinedPools, training_batch
from datafree.nas.latency import LatencyTable
from datafree.nas.mixing import new_supernet
from datafree.nas.one_shot import Judge
from datafree.nas.search_result import MeasureTable, SearchResult
from datafree.nas.spaces import Genotype, Space

INITIAL_SCALE = 1e-3  # deviation of the first weights, as in the papers


class Alphas(nn.Module):
    """A learnable float per option of every slot of a space; their softmax over a slot is the options' probability."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__()
        self.space = space
        rng = generator(seed, "alphas")
        self.slots = nn.ParameterList(INITIAL_SCALE * torch.randn(len(options), generator=rng) for options in space.choices)

    def mixture(self, values: list[Tensor]) -> list[Mapping[str, Tensor]]:
        """One value per option of every slot as the path of a supernet."""
        return [dict(zip(options, value.unbind(), strict=True)) for options, value in zip(self.space.choices, values, strict=True)]

    def probabilities(self) -> list[Tensor]:
        """float [options] per slot."""
        return [alpha.softmax(0) for alpha in self.slots]

    @torch.no_grad()
    def architecture(self) -> Genotype:
        """The one that the weights stand for now."""
        values = [probability.tolist() for probability in self.probabilities()]
        return self.space.most_probable([dict(zip(o, v, strict=True)) for o, v in zip(self.space.choices, values, strict=True)])

    @torch.no_grad()
    def entropy(self) -> float:
        """Mean over slots, in nats: it falls as the search decides."""
        each = [torch.special.entr(probability).sum() for probability in self.probabilities()]
        return float(torch.stack(each).mean())


class Trajectory:
    """The architecture after each of some steps, as a checkpoint can keep them; ``ended`` once nothing more is to be decided."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.steps: list[tuple[int, Genotype]] = []
        self.ended = False

    def note(self, step: int, genotype: Genotype) -> None:
        self.steps.append((step, genotype))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": [(step, self.space.encode(genotype)) for step, genotype in self.steps], "ended": self.ended}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.steps = [(step, self.space.decode(text)) for step, text in state_dict["steps"]]
        self.ended = state_dict["ended"]


class Relaxed:
    """What a search by gradient works on: a supernet, a weight for each of its options, and the pools, of whose training images half serve
    the weights of the network and half those of the architecture."""

    def __init__(self, space: Space, pools: JoinedPools, config: RelaxedConfig, seed: int, device: torch.device | str) -> None:
        self.space, self.config, self.seed = space, config, seed
        self.pools = pools.to(device)
        self.training, self.held_out = self.pools.split(config.validation, seed)
        for_weights, for_alphas = halves(self.training, seed)
        self.parts = {"weights": for_weights, "alphas": for_alphas}
        self.supernet = new_supernet(space, self.pools.classes, derive_seed(seed, "supernet"), device)
        self.alphas, self.trajectory = Alphas(space, seed).to(device), Trajectory(space)
        self.latency = LatencyTable()  # for a search that charges for it

    def batch(self, part: str, step: int) -> Batch:
        """The images of one step for ``weights`` or ``alphas``."""
        return training_batch(self.pools, self.parts[part], self.config.batch_size, self.seed, part, step)

    def note(self, step: int) -> int:
        """Keep the present architecture as one that the search passed through; the number of its skip connections.

        With more of them than ``max_skips`` allows the search has ended, and this one and those after it do not count (DARTS+).
        """
        genotype = self.alphas.architecture()
        skips = sum(option == self.space.skip for option in genotype)
        self.trajectory.ended |= self.config.max_skips is not None and skips > self.config.max_skips
        if not self.trajectory.ended:
            self.trajectory.note(step, genotype)
        return skips

    def judge(self) -> Judge:
        return Judge(self.supernet, self.pools, self.training, self.held_out, self.config, self.seed, self.latency)


def halves(training: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Training examples int64 [N] in two random halves: one for the weights, one for the architecture."""
    shuffled = training[torch.randperm(len(training), generator=generator(seed, "halves"))]
    return shuffled[: (len(training) + 1) // 2], shuffled[(len(training) + 1) // 2 :]


def conclude(relaxed: Relaxed, curve: list[dict[str, float]], facts: dict[str, float]) -> SearchResult:
    """The last architecture that the search passed through, with the score in the supernet of every one of them, in order."""
    passed = [found for _, found in relaxed.trajectory.steps] or [relaxed.alphas.architecture()]
    best = passed[-1]
    measures, judge = MeasureTable(relaxed.space), relaxed.judge()
    for genotype in dict.fromkeys([*(found for found in passed if found != best), best]):
        measures[genotype] = judge(genotype)
    skips = sum(option == relaxed.space.skip for option in best)
    changes, ended, loss = len(measures) - 1, int(relaxed.trajectory.ended), curve[-1]["loss"]
    final = {"skips": skips, "changes": changes, "ended_early": ended, "supernet_final_loss": loss}
    return SearchResult(best, dict(measures), curve, {**final, **facts})


def weight_optimiser(
    parameters: list[nn.Parameter], config: RelaxedConfig
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.CosineAnnealingLR]:
    """SGD with momentum for the weights of the supernet, the rate along a cosine to a 25th, as DARTS has it."""
    optimiser = torch.optim.SGD(parameters, config.learning_rate, momentum=0.9, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.supernet_steps, eta_min=config.learning_rate / 25)
    return optimiser, schedule
