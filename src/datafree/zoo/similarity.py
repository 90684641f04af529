"""What similar images have in common for teachers and learners: square roots of features, and probabilities, with the weight of the two."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

FEW, LEAST, MOST = 50, 0.25, 4.0  # number of probabilities that say as much as features; bounds of the features' weight


def root_of(features: Tensor) -> Tensor:
    """Signed square roots of features [B, D], of unit length: few large activations then do not outweigh the others."""
    return F.normalize(features.sign() * features.abs().sqrt(), dim=-1)


def features_weight(classes: int) -> float:
    """The weight of root features beside the probabilities of so many classes, of one or of several networks.

    The fewer probabilities there are, the less they say about a new class compared with the features.
    """
    return min(max(FEW / classes, LEAST), MOST)
