"""DARTS, differentiable architecture search (Liu et al., ICLR 2019), on recovered images and the teachers' soft labels.

Two options against its collapse to skip connections: early stopping at too many of them (Liang et al., "DARTS+", 2019), and an auxiliary
skip connection added to every mixture with a weight that decays to zero (Chu et al., "DARTS-", ICLR 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from datafree.checkpoints import Checkpoint
from datafree.config import DartsConfig
from datafree.distillation.joined_pools import JoinedPools
from datafree.distillation.losses import distillation_loss
from datafree.nas.relaxation import RelaxedSearch, weight_optimiser
from datafree.nas.search_result import SearchResult
from datafree.nas.slots import Path
from datafree.nas.space import Space
from datafree.nas.supernet import Supernet
from datafree.nas.training import minimise

ALPHA_BETAS, ALPHA_WEIGHT_DECAY = (0.5, 0.999), 1e-3

Weights = Mapping[str, Tensor]


class InnerStep(NamedTuple):
    """The virtual SGD step of second-order DARTS on the network's weights: w − rate (momentum · buffer + ∇L + decay · w)."""

    loss: Callable[[Weights], Tensor]
    rate: float
    momentum: float
    decay: float
    buffers: Mapping[str, Tensor]  # momentum buffers by the weight's name; a missing one is zero

    def __call__(self, weights: Weights) -> Weights:
        """The weights after the step, differentiable with respect to everything that ``loss`` depends on."""
        gradients = torch.autograd.grad(
            self.loss(weights), list(weights.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        moved = {}
        for (name, value), gradient in zip(weights.items(), gradients, strict=True):
            velocity = gradient + self.decay * value
            if name in self.buffers:
                velocity = velocity + self.momentum * self.buffers[name]
            moved[name] = value - self.rate * velocity
        return moved


def architecture_gradient(
    loss: Callable[[Weights], Tensor], weights: Weights, alphas: list[nn.Parameter], inner: InnerStep | None
) -> tuple[Tensor, ...]:
    """∇α of ``loss`` at ``weights`` (first order), or, with ``inner``, through that step at the weights after it (second order).

    Equations 6 and 7 of the paper; the product of the mixed second derivative with a vector is exact, not a finite difference.
    """
    weights = inner(weights) if inner else weights
    return torch.autograd.grad(loss(weights), alphas, allow_unused=True, materialize_grads=True)


def search(
    space: Space, pools: JoinedPools, config: DartsConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> SearchResult:
    """The most probable architecture after ``config.supernet_steps`` steps, or the last one with at most ``config.max_skips`` skips.

    Half of the training images train the network's weights, the other half the architecture weights; held-out images give the scores.

    Raises:
        UserError: the training diverges.
    """
    relaxed = RelaxedSearch(space, pools, config, seed, device)
    supernet, alphas, trajectory = relaxed.supernet, relaxed.alphas, relaxed.trajectory
    freeze_affine(supernet)
    weights = {name: value for name, value in supernet.named_parameters() if value.requires_grad}
    optimiser, schedule = weight_optimiser(list(weights.values()), config)
    alpha_optimiser = torch.optim.Adam(alphas.parameters(), config.alpha_learning_rate, betas=ALPHA_BETAS, weight_decay=ALPHA_WEIGHT_DECAY)
    states = {"supernet": supernet, "optimiser": optimiser, "schedule": schedule}
    states |= {"alphas": alphas, "alpha_optimiser": alpha_optimiser, "trajectory": trajectory}

    def mixture(step: int) -> Path:
        weight = 1 - step / config.supernet_steps if config.auxiliary_skip else 0.0
        slots = zip(alphas.probabilities(), space.choices, strict=True)
        return alphas.mixture([add_auxiliary_skip(probability, options, space.skip, weight) for probability, options in slots])

    def loss(part: str, step: int, values: Weights, path: Path) -> Tensor:
        batch = relaxed.batch(part, step)
        logits = functional_call(supernet, dict(values), (batch.images, path, batch.teacher))
        return distillation_loss(logits, batch.soft_labels, config.temperature)

    def alpha_step(step: int) -> None:
        inner, path = None, mixture(step)
        if config.second_order:
            rate, buffers = float(schedule.get_last_lr()[0]), momentum_buffers(weights, optimiser)
            inner = InnerStep(lambda values: loss("weights", step, values, path), rate, 0.9, config.weight_decay, buffers)
        gradients = architecture_gradient(lambda values: loss("alphas", step, values, path), weights, list(alphas.slots), inner)
        for alpha, gradient in zip(alphas.slots, gradients, strict=True):
            alpha.grad = gradient
        alpha_optimiser.step()

    def loss_of(step: int) -> Tensor:
        if step >= config.warm_up * config.supernet_steps and not trajectory.ended:
            alpha_step(step)
        with torch.no_grad():
            path = mixture(step)
        return loss("weights", step, weights, path)

    def describe(step: int) -> dict[str, float]:
        return {"entropy": alphas.entropy(), "skips": relaxed.record(step)}

    curve = minimise(loss_of, config.supernet_steps, optimiser, schedule, "DARTS", checkpoint, states, describe, config.gradient_clip)
    return relaxed.result(curve)


def add_auxiliary_skip(probabilities: Tensor, options: tuple[str, ...], skip: str, weight: float) -> Tensor:
    """Probabilities [options] with ``weight`` added to that of the skip connection, where there is one."""
    if not weight or skip not in options:
        return probabilities
    return probabilities + weight * torch.eye(len(options), device=probabilities.device)[options.index(skip)]


def freeze_affine(supernet: Supernet) -> None:
    """Freeze the scale and shift of all options' BatchNorms: if they were trained, they could compensate for the weights of the mixture."""
    for slot in supernet.slots:
        for module in slot.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                module.weight.requires_grad_(False)
                module.bias.requires_grad_(False)


def momentum_buffers(weights: Mapping[str, Tensor], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """SGD's momentum buffer of each weight by name; weights that it has not updated yet have none."""
    buffers = {name: optimiser.state[value].get("momentum_buffer") for name, value in weights.items()}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}
