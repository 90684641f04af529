"""The objective of distillation as a sum of terms: the divergence of predictions, and relations between images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree.distillation.losses import distillation_loss
from datafree.zoo.logits import at_least_float32


def distillation_terms(
    features: Tensor, logits: Tensor, predictions: Tensor, temperature: float, relational: float, relations: Tensor | None = None
) -> dict[str, Tensor]:
    """The terms of the objective, scalars by name, whose sum is minimised: ``distillation``, and ``relational`` times its weight, if any.

    ``features`` [B, D] and ``logits`` [B, T, K] are the student's; ``predictions`` [B, T, K] the probabilities of the T queried teachers,
    ``relations`` [B, F] what their features say in addition, for the relational term.
    """
    terms = {"distillation": distillation_loss(logits, predictions, temperature)}
    if relational:
        target = zoo_representation(predictions, temperature)
        target = target if relations is None else torch.cat([relations.to(target.dtype), target], 1)
        terms["relational"] = relational * relational_loss(features, target)
    return terms


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum of the terms, a scalar."""
    return torch.stack(list(terms.values())).sum()


def zoo_representation(probabilities: Tensor, temperature: float) -> Tensor:
    """What all queried teachers say about each image, as one vector: their softmax at a temperature, concatenated.

    ``probabilities`` [B, T, K] are those at temperature 1, 0 for an absent class; the result is [B, T · K], at least float32.
    """
    softened = at_least_float32(probabilities).pow(1 / temperature)
    return (softened / softened.sum(-1, keepdim=True)).flatten(1)


def relational_loss(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of the pairwise cosines of a batch, a scalar, between the student's features [B, D] and a target [B, P].

    Both are centred by their mean over the batch; an image is not compared with itself. Zero if the features are the target, rotated or
    scaled. Related: Park et al., "Relational Knowledge Distillation", CVPR 2019; Tung and Mori, "Similarity-Preserving Knowledge
    Distillation", ICCV 2019.
    """
    difference = pairwise_cosines(features) - pairwise_cosines(target)
    count = len(features)
    return (difference.square().sum() - difference.diagonal().square().sum()) / max(count * (count - 1), 1)


def pairwise_cosines(vectors: Tensor) -> Tensor:
    """The cosines [B, B], in [−1, 1], of all pairs of vectors [B, D], centred by their mean; float32 products at least."""
    with torch.autocast(vectors.device.type, enabled=False):
        vectors = at_least_float32(vectors)
        unit = F.normalize(vectors - vectors.mean(0), dim=1)
        return unit @ unit.T
