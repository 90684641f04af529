"""Adapting a generator to one teacher in k steps, and drawing a pool of images from it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree.config import InversionLossConfig
from datafree.inversion.generator import Generator
from datafree.inversion.losses import BatchNormMatch, diversity_hinge
from datafree.zoo.teachers import Teacher


@dataclass(frozen=True)
class Terms:
    """The parts of an inversion loss, each a scalar tensor before weighting."""

    cross_entropy: Tensor
    batch_norm: Tensor
    diversity: Tensor

    def total(self, weights: InversionLossConfig) -> Tensor:
        return weights.cross_entropy * self.cross_entropy + weights.batch_norm * self.batch_norm + weights.diversity * self.diversity


def inversion_terms(
    generator: Generator, teacher: Teacher, latent: Tensor, labels: Tensor, weights: InversionLossConfig, move: tuple[int, int]
) -> Terms:
    """The terms for one batch; ``move`` rolls the images by so many pixels (down, right) before the teacher sees them."""
    images = teacher.normalise(255 * generator(latent, labels))
    with BatchNormMatch(teacher.network) as match:
        logits = teacher.network(torch.roll(images, move, dims=(2, 3)))
        batch_norm = match.distance()
    return Terms(F.cross_entropy(logits.float(), labels), batch_norm, diversity_hinge(images, labels, weights.diversity_margin))


def batch_labels(classes: int, count: int, draw: torch.Generator) -> Tensor:
    """int64 [count]: balanced; a random choice of the classes where there are more of them than places."""
    return balanced_labels(classes, count) if classes <= count else torch.randperm(classes, generator=draw)[:count]


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
    draw: torch.Generator,
) -> tuple[Generator, Terms]:
    """A copy of ``generator`` after ``steps`` Adam steps on one teacher, and the terms of the last step.

    FREE (CVPR 2024), FIVE's inner loop: fresh latents and a fresh Adam (betas .5, .999) per teacher. Gradients of the last step stay in
    the copy's ``.grad``: first-order MAML reads them.
    """
    adapted = copy.deepcopy(generator)
    device = next(adapted.parameters()).device
    optimiser = torch.optim.Adam(adapted.parameters(), lr=learning_rate, betas=(0.5, 0.999))
    terms = None
    for _ in range(steps):
        labels = batch_labels(len(teacher.classes), batch_size, draw).to(device)
        latent = torch.randn(batch_size, adapted.latent, generator=draw).to(device)
        down, right = torch.randint(-shift, shift + 1, (2,), generator=draw).tolist()
        terms = inversion_terms(adapted, teacher, latent, labels, weights, (down, right))
        optimiser.zero_grad(set_to_none=True)
        terms.total(weights).backward()
        optimiser.step()
    assert terms is not None
    return adapted, terms


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
