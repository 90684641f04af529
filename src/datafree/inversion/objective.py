"""The loss that all engines share: what one teacher says of a batch of images, and what the images should be like by themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree.config import InversionConfig, InversionLossConfig
from datafree.inversion.losses import BatchNormMatch, diversity_hinge, soft_cross_entropy, squared_norm, total_variation
from datafree.inversion.regions import Region, crop, random_region
from datafree.zoo.augmentation import random_affine
from datafree.zoo.teachers import Teacher

# Largest rotation, relative change of size, and move as a share of the side, at `inversion.augmentation` = 1.
DEGREES, SCALE, SHIFT = 15.0, 0.15, 0.1


class ExtraTerm(Protocol):
    """A term that learns along with the images, such as a memory or a student; its state is part of a checkpoint.

    ``term`` gives a scalar for images float [B, 3, S, S] in [0, 1] before a step, ``learn`` follows the step.
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
    """The terms of the loss, scalars before weighting, by their names in ``InversionLossConfig``; those of weight 0 may be absent.

    Args:
        images: float [B, C, S, S] in [0, 1], of any size.
        labels: int64 [B] in the teacher's order.
        move: the images are rolled by so many pixels (down, right) of the teacher's input before it sees them.
        region: the part of the images that counts at this step; None for all of them.
        augment: what else happens to the normalised images before the teacher sees them.
        auxiliary_teachers: other teachers that see the images at this step, and whose statistics should fit them, too.
        targets: float [B, K], probabilities to aim at instead of the labels.
    """
    shown = 255 * (images if region is None else crop(images, region))
    seen = teacher.normalise(shown)

    def ask(one: Teacher, normalised: Tensor) -> tuple[Tensor, Tensor]:
        with BatchNormMatch(one.network) as match:
            view = torch.roll(normalised, move, dims=(2, 3))
            logits = one.network(view if augment is None else augment(view))
            return logits, match.distance().to(logits.device)

    logits, statistics = ask(teacher, seen)
    entropy = F.cross_entropy(logits.float(), labels) if targets is None else soft_cross_entropy(logits, targets)
    terms = {"cross_entropy": entropy, "batch_norm": statistics}
    if auxiliary_teachers:
        # Teachers of one domain remember the same kind of images: what all of them remember is what such images are like.
        terms["auxiliary_teachers"] = torch.stack([ask(one, one.normalise(shown))[1] for one in auxiliary_teachers]).mean()
    return terms | prior_terms(seen, labels, weights)


def prior_terms(images: Tensor, labels: Tensor, weights: InversionLossConfig) -> dict[str, Tensor]:
    """What images float [B, C, H, W], about normalised, should be like by themselves; terms of weight 0 may be absent."""
    terms = {"diversity": diversity_hinge(images, labels, weights.diversity_margin)}
    if weights.total_variation:
        terms["total_variation"] = total_variation(images)
    if weights.squared_norm:
        terms["squared_norm"] = squared_norm(images)
    return terms


def random_view(size: int, shared: InversionConfig, rng: torch.Generator, auxiliary_teachers: Sequence[Teacher] = ()) -> dict[str, Any]:
    """``move``, ``region``, ``augment`` and ``auxiliary_teachers`` for one step on square images of ``size`` pixels, as ``inversion`` says."""
    down, right = torch.randint(-shared.shift, shared.shift + 1, (2,), generator=rng).tolist()
    region = random_region(size, size, shared.region, rng) if shared.region < 1 else None
    strength = shared.augmentation
    warp = {"degrees": strength * DEGREES, "scale": strength * SCALE, "shift": strength * SHIFT}
    augment = functools.partial(random_affine, rng=rng, **warp) if strength else None
    asked = auxiliary_teachers if shared.auxiliary_teachers else ()  # who is not asked must not change what else is drawn
    places = torch.randperm(len(asked), generator=rng)[: shared.auxiliary_teachers].tolist()
    return {
        "move": (down, right),
        "region": region,
        "augment": augment,
        "auxiliary_teachers": [auxiliary_teachers[place] for place in places],
    }


def weighted(terms: Mapping[str, Tensor], weights: InversionLossConfig, extras: Sequence[ExtraTerm] = ()) -> Tensor:
    """The sum of the terms, each times its weight: of ``weights``, or its own for an extra term."""
    own = {extra.name: extra.weight for extra in extras}
    return torch.stack([(own[name] if name in own else getattr(weights, name)) * value.float() for name, value in terms.items()]).sum()


def as_row(step: int, terms: Mapping[str, Tensor]) -> dict[str, float]:
    """A line of the history; ``step`` counts from 1."""
    values = torch.stack([value.detach().float() for value in terms.values()]).tolist()  # a GPU is waited for once
    return {"step": step, **dict(zip(terms, values, strict=True))}
