"""Differentiable architecture search: Liu et al., "DARTS", ICLR 2019, on synthetic images and the teachers' soft labels.

Guards against its collapse to skip connections: an end before too many of them (Liang et al., "DARTS+", 2019), and an auxiliary skip
beside every mixture, which fades out (Chu et al., "DARTS-", ICLR 2021).
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
from datafree.nas.mixing import Path, Supernet
from datafree.nas.relaxation import Relaxed, conclude, weight_optimiser
from datafree.nas.search_result import SearchResult
from datafree.nas.spaces import Space
from datafree.nas.training import minimise

ALPHA_BETAS, ALPHA_WEIGHT_DECAY = (0.5, 0.999), 1e-3

Weights = Mapping[str, Tensor]


class InnerStep(NamedTuple):
    """The step of SGD on the network's weights that second order looks through: w − rate (momentum · buffer + ∇L + decay · w)."""

    loss: Callable[[Weights], Tensor]
    rate: float
    momentum: float
    decay: float
    buffers: Mapping[str, Tensor]  # momentum's, by the weight's name; absent = zero

    def __call__(self, weights: Weights) -> Weights:
        """The weights after the step, as a function of what ``loss`` depends on."""
        gradients = torch.autograd.grad(
            self.loss(weights), list(weights.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        moved = {}
        for (name, value), gradient in zip(weights.items(), gradients, strict=True):
            speed = gradient + self.decay * value
            if name in self.buffers:
                speed = speed + self.momentum * self.buffers[name]
            moved[name] = value - self.rate * speed
        return moved


def architecture_gradient(
    loss: Callable[[Weights], Tensor], weights: Weights, alphas: list[nn.Parameter], inner: InnerStep | None
) -> tuple[Tensor, ...]:
    """∇α of ``loss`` at the weights: first order; with ``inner``, at the weights after that step, through which it differentiates.

    Equations 6 and 7 of the paper; the product of the mixed second derivative with a vector is exact here, not a finite difference.
    """
    weights = inner(weights) if inner else weights
    return torch.autograd.grad(loss(weights), alphas, allow_unused=True, materialize_grads=True)


def search(
    space: Space, pools: JoinedPools, config: DartsConfig, key: str, seed: int, device: torch.device | str, checkpoint: Checkpoint
) -> SearchResult:
    """The architecture with the largest weights after ``config.supernet_steps`` steps, or before it has too many skip connections.

    Half of the training images serve the weights of the network, half those of the architecture; scores come from the held-out ones.

    Raises:
        UserError: the training diverges.
    """
    relaxed = Relaxed(space, pools, config, seed, device)
    supernet, alphas, trajectory = relaxed.supernet, relaxed.alphas, relaxed.trajectory
    freeze_affine(supernet)
    weights = {name: value for name, value in supernet.named_parameters() if value.requires_grad}
    optimiser, schedule = weight_optimiser(list(weights.values()), config)
    alpha_optimiser = torch.optim.Adam(alphas.parameters(), config.alpha_learning_rate, betas=ALPHA_BETAS, weight_decay=ALPHA_WEIGHT_DECAY)
    states = {"supernet": supernet, "optimiser": optimiser, "schedule": schedule}
    states |= {"alphas": alphas, "alpha_optimiser": alpha_optimiser, "trajectory": trajectory}

    def mixture(step: int) -> Path:
        extra = 1 - step / config.supernet_steps if config.auxiliary_skip else 0.0
        slots = zip(alphas.probabilities(), space.choices, strict=True)
        return alphas.mixture([with_skip(probability, options, space.skip, extra) for probability, options in slots])

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
        return {"entropy": alphas.entropy(), "skips": relaxed.note(step)}

    curve = minimise(loss_of, config.supernet_steps, optimiser, schedule, "DARTS", checkpoint, states, describe, config.gradient_clip)
    return conclude(relaxed, curve, {})


def with_skip(probabilities: Tensor, options: tuple[str, ...], skip: str, extra: float) -> Tensor:
    """Probabilities [options] with ``extra`` added to that of the skip connection, where there is one."""
    if not extra or skip not in options:
        return probabilities
    return probabilities + extra * torch.eye(len(options), device=probabilities.device)[options.index(skip)]


def freeze_affine(supernet: Supernet) -> None:
    """Take scale and shift from the BatchNorms of all options: they could undo the weights of the mixture."""
    for slot in supernet.slots:
        for module in slot.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                module.weight.requires_grad_(False)
                module.bias.requires_grad_(False)


def momentum_buffers(weights: Mapping[str, Tensor], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What SGD keeps of each weight, by name; nothing for weights that it has not moved yet."""
    found = {name: optimiser.state[value].get("momentum_buffer") for name, value in weights.items()}
    return {name: buffer for name, buffer in found.items() if buffer is not None}
