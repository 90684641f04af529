"""Prototypical-network loss of one episode: cross-entropy of the queries' distances to class means (Snell et al., NeurIPS 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPISODE_SCALE = 10.0  # inverse temperature of distances between unit-length features


def prototype_logits(support: Tensor, query: Tensor) -> Tensor:
    """Negative squared distances of queries to class means; Snell et al., "Prototypical Networks", NeurIPS 2017, eq. 2.

    ``support`` [way, shot, D], ``query`` [Q, D] → [Q, way].
    """
    # Plain differences: `torch.cdist` has no second derivative.
    return -(query[:, None] - support.mean(1)).square().sum(-1)


def episode_loss(support: Tensor, query: Tensor, scale: float) -> Tensor:
    """Cross-entropy of the queries under ``episode_logits``; ``support`` [way, shot, D], ``query`` [way, queries, D]."""
    return F.cross_entropy(*episode_logits(support, query, scale))


def episode_logits(support: Tensor, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """``prototype_logits`` of unit-length features times ``scale``, [way · queries, way], and the classes of the queries, int64.

    ``support`` [way, shot, D], ``query`` [way, queries, D]: query q of class w belongs to class w.
    """
    way, queries = query.shape[:2]
    unit_support, unit_query = F.normalize(support, dim=-1), F.normalize(query, dim=-1).flatten(0, 1)
    target = torch.arange(way, device=query.device).repeat_interleave(queries)
    return scale * prototype_logits(unit_support, unit_query), target
