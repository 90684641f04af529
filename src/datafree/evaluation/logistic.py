"""Logistic regression on the features of an episode's support."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LOGISTIC_STEPS = 100  # the objective's condition number is at most 1 + shots · way / 2: enough for any support up to a few hundred images


def logistic(support: Tensor, query: Tensor) -> Tensor:
    """Predicted class of each query by multinomial logistic regression on the same features as ``nearest_centroid``.

    ``support`` [..., way, shot, D], ``query`` [..., Q, D] → int64 [..., Q]. Tian et al., "Rethinking Few-shot Image Classification",
    ECCV 2020. No bias: all classes have the same number of images, and the features are centred.
    """
    centre = support.flatten(-3, -2).mean(-2, keepdim=True)
    with torch.autocast(support.device.type, enabled=False):
        weights = logistic_weights(F.normalize(support - centre[..., None, :], dim=-1))
        return (F.normalize(query - centre, dim=-1) @ weights.mT).argmax(-1)


def logistic_weights(support: Tensor) -> Tensor:
    """The W [..., way, D] that minimises Σ cross-entropy(W x) + ‖W‖² / 2 over features x [..., way, shot, D] of length at most 1.

    Nesterov's method with step size and momentum from the bounds of the curvature, 1 and 1 + n/2 for n images.
    """
    way, shot, size = support.shape[-3:]
    features = support.flatten(-3, -2)
    target = torch.eye(way, device=support.device, dtype=support.dtype).repeat_interleave(shot, 0)
    largest_curvature = 1 + way * shot / 2
    momentum = (math.sqrt(largest_curvature) - 1) / (math.sqrt(largest_curvature) + 1)
    weights = lookahead = torch.zeros(*support.shape[:-3], way, size, device=support.device, dtype=support.dtype)
    for _ in range(LOGISTIC_STEPS):
        gradient = ((lookahead @ features.mT).softmax(-2) - target.T) @ features + lookahead
        previous, weights = weights, lookahead - gradient / largest_curvature
        lookahead = weights + momentum * (weights - previous)
    return weights
