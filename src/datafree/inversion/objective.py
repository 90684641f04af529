"""Inversion objective: loss terms of a batch of images under one teacher, image priors, random views, and the weighted sum."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree.config import InversionLossConfig, InversionStepConfig
from datafree.inversion.losses import BatchNormMatch, diversity_hinge, soft_cross_entropy, squared_norm, total_variation
from datafree.inversion.regions import Region, crop, random_region
from datafree.zoo.augmentation import random_affine
from datafree.zoo.backbones import Classifier
from datafree.zoo.logits import at_least_float32
from datafree.zoo.teachers import Teacher

# Largest rotation, relative change of scale, and shift as a share of the side, at `inversion.augmentation` = 1.
DEGREES, SCALE, SHIFT = 15.0, 0.15, 0.1


class ExtraTerm(Protocol):
    """A loss term with a trainable state of its own, such as a student network; the state is saved in checkpoints.

    ``term`` gives a scalar for images float [B, 3, S, S] in [0, 1] before a step; ``learn`` trains the state after the step.
    """

    name: str
    weight: float

    def term(self, images: Tensor, labels: Tensor, teacher: Teacher, rng: torch.Generator) -> Tensor: ...

    def learn(self, images: Tensor, teacher: Teacher) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def image_terms(
    images: Tensor,
    teacher: Teacher,
    labels: Tensor,
    weights: InversionLossConfig,
    *,
    move: tuple[int, int] = (0, 0),
    region: Region | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    auxiliary_teachers: Sequence[Teacher] = (),
    targets: Tensor | None = None,
) -> dict[str, Tensor]:
    """The terms of the loss, scalars before weighting, under their names in ``InversionLossConfig``; a term of weight 0 may be absent.

    Args:
        images: float [B, C, S, S] in [0, 1], of any size.
        labels: int64 [B] in the teacher's order.
        move: circular shift (down, right) of the normalised images in pixels, before every teacher's network.
        region: the part of the images that this step uses; None for the whole images.
        augment: applied to the normalised, shifted images before the networks.
        auxiliary_teachers: other teachers whose BatchNorm statistics the images should match at this step.
        targets: float [B, K], target probabilities that replace the labels.
    """
    visible = 255 * (images if region is None else crop(images, region))
    normalised = teacher.normalise(visible)

    def query(network: Classifier, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] of an augmented view, and the distance of its statistics to the network's BatchNorm statistics."""
        with BatchNormMatch(network) as match:
            view = torch.roll(inputs, move, dims=(2, 3))
            logits = network(view if augment is None else augment(view))
            return logits, match.distance().to(logits.device)

    logits, statistics = query(teacher.network, normalised)
    entropy = F.cross_entropy(at_least_float32(logits), labels) if targets is None else soft_cross_entropy(logits, targets)
    terms = {"cross_entropy": entropy, "batch_norm": statistics}
    if auxiliary_teachers:
        # Teachers of one domain were trained on similar images: statistics that all of them share describe such images.
        distances = [query(other.network, other.normalise(visible))[1] for other in auxiliary_teachers]
        terms["auxiliary_teachers"] = torch.stack(distances).mean()
    return terms | prior_terms(normalised, labels, weights)


def prior_terms(images: Tensor, labels: Tensor, weights: InversionLossConfig) -> dict[str, Tensor]:
    """Terms of (roughly) normalised images float [B, C, H, W] that need no teacher; a term of weight 0 may be absent."""
    terms = {"diversity": diversity_hinge(images, labels, weights.diversity_margin)}
    if weights.total_variation:
        terms["total_variation"] = total_variation(images)
    if weights.squared_norm:
        terms["squared_norm"] = squared_norm(images)
    return terms


@dataclass(frozen=True)
class View:
    """Random numbers of one step: circular shift (down, right) in pixels, region, and indices of the chosen auxiliary teachers."""

    move: tuple[int, int]
    region: Region | None
    chosen: list[int]


def draw_view(size: int, shared: InversionStepConfig, rng: torch.Generator, auxiliary_teachers: int) -> View:
    """A random view; ``size`` is the height and width of the images, ``auxiliary_teachers`` the number of those to choose from."""
    down, right = torch.randint(-shared.shift, shared.shift + 1, (2,), generator=rng).tolist()
    region = random_region(size, size, shared.region, rng) if shared.region < 1 else None
    count = auxiliary_teachers if shared.auxiliary_teachers else 0  # unused teachers must not change later random numbers
    return View((down, right), region, torch.randperm(count, generator=rng)[: shared.auxiliary_teachers].tolist())


def largest_warp(shared: InversionStepConfig) -> dict[str, float]:
    """Largest rotation, scale and shift of ``affine`` for the setting ``inversion.augmentation``."""
    return {"degrees": shared.augmentation * DEGREES, "scale": shared.augmentation * SCALE, "shift": shared.augmentation * SHIFT}


def random_view(size: int, shared: InversionStepConfig, rng: torch.Generator, auxiliary_teachers: Sequence[Teacher] = ()) -> dict[str, Any]:
    """Random ``move``, ``region``, ``augment`` and ``auxiliary_teachers`` for one step, as ``image_terms`` takes them.

    ``size``: height and width of the images; ``shared`` sets the ranges; at most ``shared.auxiliary_teachers`` teachers are chosen.
    """
    view = draw_view(size, shared, rng, len(auxiliary_teachers))
    augment = functools.partial(random_affine, rng=rng, **largest_warp(shared)) if shared.augmentation else None
    chosen = [auxiliary_teachers[index] for index in view.chosen]
    return {"move": view.move, "region": view.region, "augment": augment, "auxiliary_teachers": chosen}


def weighted(terms: Mapping[str, Tensor], weights: InversionLossConfig, extras: Sequence[ExtraTerm] = ()) -> Tensor:
    """The weighted sum of the terms over all rows, a scalar; an extra term has its own weight, the others that of ``weights``."""
    extra_weights = {extra.name: extra.weight for extra in extras}
    parts = [
        (extra_weights[name] if name in extra_weights else getattr(weights, name)) * at_least_float32(value)
        for name, value in terms.items()
    ]
    return torch.stack(parts).sum()


def as_row(step: int, terms: Mapping[str, Tensor]) -> dict[str, float]:
    """One row of the history; ``step`` counts from 1."""
    values = torch.stack([value.detach().float() for value in terms.values()]).tolist()  # one synchronisation with a GPU, not one per term
    return {"step": step, **dict(zip(terms, values, strict=True))}
