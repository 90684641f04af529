"""Adapting a generator to one teacher in k steps, and drawing a pool of images from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionConfig
from datafree.inversion.generator import Generator
from datafree.inversion.objective import ExtraTerm, as_row, image_terms, random_view, weighted
from datafree.progress import progress, require_finite
from datafree.zoo.teachers import Teacher

QUIET = Checkpoint(None)  # for adaptations that are part of something that keeps checkpoints itself


@dataclass(frozen=True)
class Inner:
    """How one adaptation proceeds: ``steps`` of Adam with ``batch_size`` images each; see ``GeneratorInversion``."""

    steps: int
    learning_rate: float
    batch_size: int
    latent_learning_rate: float = 0.0


@dataclass(frozen=True)
class Slots:
    """The inputs of a pool's images, and what the teacher should say of them: latents [N, D], labels [N], targets [N, K]."""

    latents: Tensor
    labels: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Adapted:
    """``latents`` and ``labels`` of the last step's batch: optimised along if ``Inner.latent_learning_rate`` says so."""

    generator: Generator
    history: list[dict[str, float]]
    latents: Tensor
    labels: Tensor


def batch_labels(classes: int, count: int, rng: torch.Generator) -> Tensor:
    """int64 [count]: balanced; where the classes do not fit twice, a random choice of them, each twice, so that diversity has a meaning."""
    if 2 * classes <= count:
        return balanced_labels(classes, count)
    chosen = torch.randperm(classes, generator=rng)[: max(1, count // 2)]
    return chosen[balanced_labels(len(chosen), count)]


def balanced_labels(classes: int, count: int) -> Tensor:
    """int64 [count]: 0, 1, …, classes − 1, 0, 1, …"""
    return torch.arange(count) % classes


def adapt(
    generator: Generator,
    teacher: Teacher,
    inner: Inner,
    shared: InversionConfig,
    *,
    seed: int,
    auxiliary_teachers: Sequence[Teacher] = (),
    labels: Tensor | None = None,
    slots: Slots | None = None,
    extras: Sequence[ExtraTerm] = (),
    each_step: Callable[[Generator], None] = lambda _: None,
    checkpoint: Checkpoint = QUIET,
) -> Adapted:
    """A copy of ``generator`` after ``inner.steps`` Adam steps on one teacher, and the terms of every step.

    FREE (CVPR 2024), FIVE's inner loop: a fresh Adam (betas .5, .999) per teacher; latents fresh at every step, or one batch of them
    optimised along.

    Args:
        auxiliary_teachers: the other teachers of the zoo, see ``inversion.auxiliary_teachers``.
        labels: int64 [B] of the batch whose latents are optimised; None draws a balanced one.
        slots: take random rows of these as batches instead.
        extras: further terms, which learn along and change.
        each_step: called with the copy after every step, its gradients still in place: first-order MAML reads them.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    adapted = copy.deepcopy(generator)
    device = next(adapted.parameters()).device
    rng = devices.generator(seed, "batch")
    labels = (batch_labels(len(teacher.classes), inner.batch_size, rng) if labels is None else labels).to(device)
    latents = nn.Parameter(torch.randn(len(labels), adapted.latent, generator=rng).to(device))
    groups: list[dict[str, Any]] = [{"params": adapted.parameters()}]
    if inner.latent_learning_rate:
        groups.append({"params": [latents], "lr": inner.latent_learning_rate})
    optimiser = torch.optim.Adam(groups, lr=inner.learning_rate, betas=(0.5, 0.999))
    kept = {"generator": adapted, "optimiser": optimiser, "latents": nn.ParameterList([latents]), **{e.name: e for e in extras}}
    start, history = checkpoint.restore(**kept)
    to_do = range(start, inner.steps)
    for step in to_do if checkpoint is QUIET else progress(to_do, len(to_do), f"adapting to {teacher.name}"):
        rng = devices.generator(seed, "adapt", step)
        targets = None
        if slots is not None:
            rows = torch.randint(len(slots.labels), (inner.batch_size,), generator=rng)
            batch, labels, targets = slots.latents[rows].to(device), slots.labels[rows].to(device), slots.targets[rows].to(device)
        elif inner.latent_learning_rate:
            batch = latents
        else:
            labels = batch_labels(len(teacher.classes), inner.batch_size, rng).to(device)
            batch = torch.randn(len(labels), adapted.latent, generator=rng).to(device)
        images = adapted(batch, labels)
        view = random_view(images.shape[-1], shared, rng, auxiliary_teachers)
        terms = image_terms(images, teacher, labels, shared.loss, targets=targets, **view)
        terms |= {extra.name: extra.term(images, labels, teacher, rng) for extra in extras}
        optimiser.zero_grad(set_to_none=True)
        weighted(terms, shared.loss, extras).backward()
        optimiser.step()
        for extra in extras:
            extra.learn(images, teacher)
        each_step(adapted)
        history.append(as_row(step + 1, terms))
        require_finite(f"inversion of {teacher.name}", **history[-1])
        checkpoint.save(step + 1, history, **kept)
    return Adapted(adapted, history, latents.detach(), labels)


@torch.no_grad()
def draw_images(generator: Generator, latents: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Images uint8 [N, C, S, S] of latents [N, D] and labels int64 [N], on the CPU."""
    device = next(generator.parameters()).device
    images = []
    # Equal parts: the generator's BatchNorm works on batch statistics, and a short last batch would look different.
    parts = max(1, round(len(labels) / batch_size))
    for latent, label in zip(latents.tensor_split(parts), labels.tensor_split(parts), strict=True):
        images.append((generator(latent.to(device), label.to(device)) * 255).round().to(torch.uint8).cpu())
    return torch.cat(images)


def draw_pool(generator: Generator, teacher: Teacher, per_class: int, batch_size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images uint8 [classes·per_class, C, H, W] and labels int64, class by class in turn, on the CPU."""
    labels = balanced_labels(len(teacher.classes), per_class * len(teacher.classes))
    return draw_images(generator, torch.randn(len(labels), generator.latent, generator=rng), labels, batch_size), labels


@torch.no_grad()
def soft_labels(teacher: Teacher, images: Tensor, batch_size: int = 500) -> Tensor:
    """The teacher's probabilities float16 [N, classes] of uint8 images [N, C, H, W], on the CPU."""
    device = teacher.normalise.mean.device
    parts = [teacher.network(teacher.normalise(part.to(device))).float().softmax(1).cpu() for part in images.split(batch_size)]
    return torch.cat(parts).to(torch.float16)
