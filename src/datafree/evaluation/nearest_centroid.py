"""Nearest-centroid classifier of features, the default of the few-shot evaluation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nearest_centroid(support: Tensor, query: Tensor) -> Tensor:
    """Predicted class of each query by the nearest class mean of centred, unit-length features; SimpleShot (Wang et al., 2019).

    ``support`` [..., way, shot, D], ``query`` [..., Q, D] → int64 [..., Q]. The centre is the mean of the support alone: inductive, a
    prediction does not depend on the other queries.
    """
    centre = support.flatten(-3, -2).mean(-2, keepdim=True)
    means = F.normalize(F.normalize(support - centre[..., None, :], dim=-1).mean(-2), dim=-1)
    # A distance rather than a product: under autocast it stays in float32, so rounding does not decide.
    return torch.cdist(F.normalize(query - centre, dim=-1), means).argmin(-1)


def centroids(support: Tensor, labels: Tensor, way: int) -> tuple[Tensor, Tensor]:
    """The centre [D] and the class means [way, D] of unit length with which ``nearest_centroid`` classifies.

    ``support`` [N, D] with ``labels`` int64 [N] has at least one image of each of the ``way`` classes and may have more of some: every
    class counts the same for the centre. With equal counts, a query's nearest mean is what ``nearest_centroid`` predicts.
    """
    centre = class_means(support, labels, way).mean(0)
    return centre, F.normalize(class_means(F.normalize(support - centre, dim=-1), labels, way), dim=-1)


def class_means(values: Tensor, labels: Tensor, way: int) -> Tensor:
    """The mean [way, D] of the values [N, D] of each class; N ≥ 1 of each."""
    sums = values.new_zeros(way, values.shape[1]).index_add_(0, labels, values)
    return sums / torch.bincount(labels, minlength=way)[:, None].to(values)
