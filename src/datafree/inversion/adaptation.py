"""Adapting a generator to one teacher in k steps, and drawing a pool of images from it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionLossConfig
from datafree.inversion.generator import Generator
from datafree.inversion.objective import as_row, image_terms, weighted
from datafree.progress import progress, require_finite
from datafree.zoo.teachers import Teacher

QUIET = Checkpoint(None)  # for adaptations that are part of something that keeps checkpoints itself


def batch_labels(classes: int, count: int, draw: torch.Generator) -> Tensor:
    """int64 [count]: balanced; where the classes do not fit twice, a random choice of them, each twice, so that diversity has a meaning."""
    if 2 * classes <= count:
        return balanced_labels(classes, count)
    chosen = torch.randperm(classes, generator=draw)[: max(1, count // 2)]
    return chosen[balanced_labels(len(chosen), count)]


def balanced_labels(classes: int, count: int) -> Tensor:
    """int64 [count]: 0, 1, …, classes − 1, 0, 1, …"""
    return torch.arange(count) % classes


def adapt(
    generator: Generator,
    teacher: Teacher,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int,
    shift: int,
    weights: InversionLossConfig,
    seed: int,
    checkpoint: Checkpoint = QUIET,
) -> tuple[Generator, list[dict[str, float]]]:
    """A copy of ``generator`` after ``steps`` Adam steps on one teacher, and the terms of every step.

    FREE (CVPR 2024), FIVE's inner loop: fresh latents and a fresh Adam (betas .5, .999) per teacher. Gradients of the last step stay in
    the copy's ``.grad``: first-order MAML reads them.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    adapted = copy.deepcopy(generator)
    device = next(adapted.parameters()).device
    optimiser = torch.optim.Adam(adapted.parameters(), lr=learning_rate, betas=(0.5, 0.999))
    start, history = checkpoint.restore(generator=adapted, optimiser=optimiser)
    steps_to_do = range(start, steps)
    for step in steps_to_do if checkpoint is QUIET else progress(steps_to_do, len(steps_to_do), f"adapting to {teacher.name}"):
        draw = devices.generator(seed, "adapt", step)
        labels = batch_labels(len(teacher.classes), batch_size, draw).to(device)
        latent = torch.randn(batch_size, adapted.latent, generator=draw).to(device)
        down, right = torch.randint(-shift, shift + 1, (2,), generator=draw).tolist()
        terms = image_terms(adapted(latent, labels), teacher, labels, weights, (down, right))
        optimiser.zero_grad(set_to_none=True)
        weighted(terms, weights).backward()
        optimiser.step()
        history.append(as_row(step + 1, terms))
        require_finite(f"inversion of {teacher.name}", **history[-1])
        checkpoint.save(step + 1, history, generator=adapted, optimiser=optimiser)
    return adapted, history


@torch.no_grad()
def draw_pool(generator: Generator, teacher: Teacher, per_class: int, batch_size: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images uint8 [classes·per_class, C, H, W] and labels int64, class by class in turn, on the CPU."""
    device = next(generator.parameters()).device
    labels = balanced_labels(len(teacher.classes), per_class * len(teacher.classes))
    images = []
    # Equal parts: the generator's BatchNorm works on batch statistics, and a short last batch would look different.
    for part in labels.tensor_split(max(1, round(len(labels) / batch_size))):
        latent = torch.randn(len(part), generator.latent, generator=draw).to(device)
        images.append((generator(latent, part.to(device)) * 255).round().to(torch.uint8).cpu())
    return torch.cat(images), labels


@torch.no_grad()
def soft_labels(teacher: Teacher, images: Tensor, batch_size: int = 500) -> Tensor:
    """The teacher's probabilities float16 [N, classes] of uint8 images [N, C, H, W], on the CPU."""
    device = teacher.normalise.mean.device
    parts = [teacher.network(teacher.normalise(part.to(device))).float().softmax(1).cpu() for part in images.split(batch_size)]
    return torch.cat(parts).to(torch.float16)
