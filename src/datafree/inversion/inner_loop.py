"""Inner loop of FIVE: train a copy of a generator on one teacher for k steps; draw images from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionStepConfig
from datafree.inversion.generator import Generator
from datafree.inversion.objective import ExtraTerm, as_row, image_terms, random_view, weighted
from datafree.progress import progress, require_finite
from datafree.zoo.teachers import Teacher


@dataclass(frozen=True)
class InnerLoopConfig:
    """``steps`` of Adam with ``batch_size`` images each; without ``latent_learning_rate`` the latents are new at every step."""

    steps: int
    learning_rate: float
    batch_size: int
    latent_learning_rate: float | None = None


@dataclass(frozen=True)
class PoolInputs:
    """Generator inputs and target probabilities of all images of a pool: latents [N, D], labels [N], targets [N, K]."""

    latents: Tensor
    labels: Tensor
    targets: Tensor


@dataclass(frozen=True)
class InnerLoopResult:
    """The trained copy, its loss terms per step, and the inputs of the last step: ``latents`` [B, D] and ``labels`` [B]."""

    generator: Generator
    history: list[dict[str, float]]
    latents: Tensor
    labels: Tensor


def batch_labels(classes: int, count: int, rng: torch.Generator) -> Tensor:
    """int64 [count]: balanced over all classes if each occurs twice, else over ``count // 2`` random classes (diversity needs pairs)."""
    if 2 * classes <= count:
        return balanced_labels(classes, count)
    chosen = torch.randperm(classes, generator=rng)[: max(1, count // 2)]
    return chosen[balanced_labels(len(chosen), count)]


def balanced_labels(classes: int, count: int) -> Tensor:
    """int64 [count]: 0, 1, …, classes − 1, 0, 1, …"""
    return torch.arange(count) % classes


def run_inner_loop(
    generator: Generator,
    teacher: Teacher,
    config: InnerLoopConfig,
    shared: InversionStepConfig,
    *,
    seed: int,
    auxiliary_teachers: Sequence[Teacher] = (),
    labels: Tensor | None = None,
    inputs: PoolInputs | None = None,
    extras: Sequence[ExtraTerm] = (),
    each_step: Callable[[Generator], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
) -> InnerLoopResult:
    """Train a copy of ``generator`` for ``config.steps`` Adam steps on one teacher.

    FREE (CVPR 2024), FIVE's inner loop: a fresh Adam (betas .5, .999) per teacher; new latents at every step, or one batch of latents
    that is optimised together with the weights.

    Args:
        auxiliary_teachers: see ``inversion.auxiliary_teachers``.
        labels: int64 [B] of the batch whose latents are optimised; None gives a balanced batch.
        inputs: take random rows of these as batches.
        extras: additional terms; their own training state changes in place.
        each_step: called with the copy after every step, when its gradients are still set; first-order MAML reads them.
        checkpoint: None if the caller saves checkpoints and shows progress.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    trained = copy.deepcopy(generator)
    device = next(trained.parameters()).device
    rng = devices.generator(seed, "batch")
    labels = (batch_labels(len(teacher.classes), config.batch_size, rng) if labels is None else labels).to(device)
    latents = nn.Parameter(torch.randn(len(labels), trained.latent, generator=rng).to(device))
    groups: list[dict[str, Any]] = [{"params": trained.parameters()}]
    if config.latent_learning_rate:
        groups.append({"params": [latents], "lr": config.latent_learning_rate})
    optimiser = torch.optim.Adam(groups, lr=config.learning_rate, betas=(0.5, 0.999))
    state = {"generator": trained, "optimiser": optimiser, "latents": nn.ParameterList([latents]), **{e.name: e for e in extras}}
    first, history = checkpoint.restore(**state) if checkpoint else (0, [])
    steps = range(first, config.steps)
    for step in progress(steps, len(steps), f"inversion of {teacher.name}") if checkpoint else steps:
        rng = devices.generator(seed, "adapt", step)
        targets = None
        if inputs is not None:
            rows = torch.randint(len(inputs.labels), (config.batch_size,), generator=rng)
            batch, labels, targets = inputs.latents[rows].to(device), inputs.labels[rows].to(device), inputs.targets[rows].to(device)
        elif config.latent_learning_rate:
            batch = latents
        else:
            labels = batch_labels(len(teacher.classes), config.batch_size, rng).to(device)
            batch = torch.randn(len(labels), trained.latent, generator=rng).to(device)
        images = trained(batch, labels)
        view = random_view(images.shape[-1], shared, rng, auxiliary_teachers)
        terms = image_terms(images, teacher, labels, shared.loss, targets=targets, **view)
        terms |= {extra.name: extra.term(images, labels, teacher, rng) for extra in extras}
        optimiser.zero_grad(set_to_none=True)
        weighted(terms, shared.loss, extras).backward()
        optimiser.step()
        for extra in extras:
            extra.learn(images, teacher)
        each_step(trained)
        history.append(as_row(step + 1, terms))
        require_finite(f"inversion of {teacher.name}", **history[-1])
        if checkpoint:
            checkpoint.save(step + 1, history, **state)
    return InnerLoopResult(trained, history, latents.detach(), labels)


@torch.no_grad()
def draw_images(generator: Generator, latents: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Generated images uint8 [N, C, S, S] for latents [N, D] and labels int64 [N], on the CPU."""
    device = next(generator.parameters()).device
    images = []
    # Equal parts: the generator's BatchNorm uses batch statistics, so images of a short last batch would differ from the others.
    parts = max(1, round(len(labels) / batch_size))
    for latent, label in zip(latents.tensor_split(parts), labels.tensor_split(parts), strict=True):
        images.append((generator(latent.to(device), label.to(device)) * 255).round().to(torch.uint8).cpu())
    return torch.cat(images)
