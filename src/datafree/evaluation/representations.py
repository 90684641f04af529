"""Representations of images: the read-outs of a network's features and of the probabilities that its heads predict."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from datafree.zoo.logits import ABSENT
from datafree.zoo.similarity import features_weight, root_of

TEMPERATURE = 4.0  # of the softmax: with 1, most probabilities of a confident head are 0 and say nothing about a new class


class JoinWeights(NamedTuple):
    """The factors of the two parts of ``joined``."""

    features: float
    probabilities: float


EQUAL = JoinWeights(1.0, 1.0)


def weights_for(classes: int) -> JoinWeights:
    """The weights for networks without recovered images whose heads have so many classes in all; see ``features_weight``."""
    return JoinWeights(features_weight(classes), 1.0)


def side_by_side_factors(features: int, classes: int, of_all: int) -> Tensor:
    """Factors of the columns of ``joined``, float32 [features + classes], of one of several networks side by side.

    They lead from the weights for its own ``classes`` to those for all networks' classes, ``of_all``.
    """
    factor = weights_for(of_all).features / weights_for(classes).features if classes else 1.0
    return torch.cat([torch.full((features,), factor), torch.ones(classes)])


def features(features: Tensor, logits: Tensor, weights: JoinWeights) -> Tensor:
    """The features [B, D] themselves."""
    return features


def root_features(features: Tensor, logits: Tensor, weights: JoinWeights) -> Tensor:
    """``root_of`` the features [B, D]."""
    return root_of(features)


def probabilities(features: Tensor, logits: Tensor, weights: JoinWeights) -> Tensor:
    """The softmax of every head at a temperature, concatenated: logits [B, T, K] → [B, number of classes of all heads].

    Logits are ``ABSENT`` beyond a head's classes.
    """
    return probabilities_at(logits, torch.nonzero((logits > ABSENT).any(0).flatten()).flatten())


def probabilities_at(logits: Tensor, columns: Tensor) -> Tensor:
    """The softmax of every head at a temperature, concatenated: logits [B, T, K] → [B, P] at the ``columns`` int64 [P] of [B, T · K]."""
    return (logits / TEMPERATURE).softmax(-1).flatten(1)[:, columns]


def joined(features: Tensor, logits: Tensor, weights: JoinWeights) -> Tensor:
    """``root_features`` and ``probabilities``, each times its weight, concatenated."""
    return join(root_features(features, logits, weights), probabilities(features, logits, weights), weights)


def join(of_features: Tensor, of_heads: Tensor, weights: JoinWeights) -> Tensor:
    """Two representations [B, D] and [B, P], each times its weight, concatenated: [B, D + P]."""
    return torch.cat([weights.features * of_features, weights.probabilities * of_heads], -1)


def join_weights(features: Tensor, logits: Tensor) -> JoinWeights:
    """The weights with which the two parts of ``joined`` have centred vectors of mean squared length 1 over these images.

    ``features`` [B, D] and ``logits`` [B, T, K] of B ≥ 2 images. A part that is the same for all images has the weight 0. With fewer than
    50 probabilities the features have a larger weight, by the factor ``features_weight``.
    """
    of_heads = probabilities(features, logits, EQUAL)
    parts = (part.double() for part in (root_features(features, logits, EQUAL), of_heads))
    lengths = [(part - part.mean(0)).square().sum(-1).mean().sqrt().item() for part in parts]
    of_features, of_probabilities = (1 / length if length > 1e-9 else 0.0 for length in lengths)
    return JoinWeights(of_features * max(1.0, weights_for(max(of_heads.shape[1], 1)).features), of_probabilities)
