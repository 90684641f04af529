"""What tells the classes of a new task apart, given features of its few support images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Of many episodes at once: support [..., way, shot, D], query [..., Q, D] → predicted class int64 [..., Q].
Classifier = Callable[[Tensor, Tensor], Tensor]

LOGISTIC_STEPS = 100  # the objective's condition number is at most 1 + shots · way / 2: enough for any support up to a few hundred images


def nearest_centroid(support: Tensor, query: Tensor) -> Tensor:
    """Predicted class of each query by the nearest class mean of centred, unit-length features; SimpleShot (Wang et al., 2019).

    ``support`` [..., way, shot, D], ``query`` [..., Q, D] → int64 [..., Q]. The centre is the mean of the support alone: inductive, no
    query is looked at to classify another.
    """
    centre = support.flatten(-3, -2).mean(-2, keepdim=True)
    means = F.normalize(F.normalize(support - centre[..., None, :], dim=-1).mean(-2), dim=-1)
    # A distance rather than a product: autocast leaves it in float32, and rounding decides no tie.
    return torch.cdist(F.normalize(query - centre, dim=-1), means).argmin(-1)


def logistic(support: Tensor, query: Tensor) -> Tensor:
    """Predicted class of each query by multinomial logistic regression on the same features as ``nearest_centroid``.

    ``support`` [..., way, shot, D], ``query`` [..., Q, D] → int64 [..., Q]. Tian et al., "Rethinking Few-shot Image Classification",
    ECCV 2020. No bias: every class has as many images, and the features are centred.
    """
    centre = support.flatten(-3, -2).mean(-2, keepdim=True)
    with torch.autocast(support.device.type, enabled=False):
        weights = logistic_weights(F.normalize(support - centre[..., None, :], dim=-1))
        return (F.normalize(query - centre, dim=-1) @ weights.mT).argmax(-1)


def logistic_weights(support: Tensor) -> Tensor:
    """The W [..., way, D] that minimises Σ cross-entropy(W x) + ‖W‖² / 2 over features x [..., way, shot, D] of length at most 1.

    Nesterov's method with the step sizes that the curvature's bounds give: between 1 and 1 + n/2 for n images.
    """
    way, shot, size = support.shape[-3:]
    features = support.flatten(-3, -2)
    target = torch.eye(way, device=support.device, dtype=support.dtype).repeat_interleave(shot, 0)
    steepest = 1 + way * shot / 2
    momentum = (math.sqrt(steepest) - 1) / (math.sqrt(steepest) + 1)
    weights = ahead = torch.zeros(*support.shape[:-3], way, size, device=support.device, dtype=support.dtype)
    for _ in range(LOGISTIC_STEPS):
        gradient = ((ahead @ features.mT).softmax(-2) - target.T) @ features + ahead
        before, weights = weights, ahead - gradient / steepest
        ahead = weights + momentum * (weights - before)
    return weights


def vote(sizes: Sequence[int], classify: Classifier) -> Classifier:
    """A classifier of features of several networks side by side, ``sizes`` long each: each network names a class, and most votes win.

    Of classes with equal votes the first wins; an episode's classes come in random order.
    """

    def voted(support: Tensor, query: Tensor) -> Tensor:
        ballots = [classify(*parts) for parts in zip(support.split(list(sizes), -1), query.split(list(sizes), -1), strict=True)]
        return F.one_hot(torch.stack(ballots), support.shape[-3]).sum(0).argmax(-1)

    return voted


CLASSIFIERS: dict[str, Classifier] = {"nearest_centroid": nearest_centroid, "logistic": logistic}
