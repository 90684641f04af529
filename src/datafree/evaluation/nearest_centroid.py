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
