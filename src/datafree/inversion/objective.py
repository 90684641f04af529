"""The loss that all engines share: what one teacher says of a batch of images, and what the images should be like by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree.config import InversionLossConfig
from datafree.inversion.losses import BatchNormMatch, diversity_hinge, squared_norm, total_variation
from datafree.zoo.teachers import Teacher


def image_terms(
    images: Tensor,
    teacher: Teacher,
    labels: Tensor,
    weights: InversionLossConfig,
    move: tuple[int, int] = (0, 0),
    further: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """The terms of the loss, scalars before weighting, by their names in ``InversionLossConfig``; those of weight 0 may be absent.

    Args:
        images: float [B, C, S, S] in [0, 1], of any size.
        labels: int64 [B] in the teacher's order.
        move: the images are rolled by so many pixels (down, right) of the teacher's input before it sees them.
        further: terms of a method's own, given what the teacher sees [B, *input] and its logits [B, K].
    """
    seen = teacher.normalise(255 * images)
    with BatchNormMatch(teacher.network) as match:
        views = torch.roll(seen, move, dims=(2, 3))
        logits = teacher.network(views)
        statistics = match.distance()
    terms = {"cross_entropy": F.cross_entropy(logits.float(), labels), "batch_norm": statistics}
    terms["diversity"] = diversity_hinge(seen, labels, weights.diversity_margin)
    if weights.total_variation:
        terms["total_variation"] = total_variation(seen)
    if weights.squared_norm:
        terms["squared_norm"] = squared_norm(seen)
    return terms | further(views, logits.float()) if further else terms


def weighted(terms: Mapping[str, Tensor], weights: InversionLossConfig) -> Tensor:
    """The sum of the terms, each times its weight."""
    return torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()


def as_row(step: int, terms: Mapping[str, Tensor]) -> dict[str, float]:
    """A line of the history; ``step`` counts from 1."""
    return {"step": step, **{name: value.item() for name, value in terms.items()}}
