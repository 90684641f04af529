"""Losses of learners that are taught by teachers or by episodes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation_loss(logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student), mean over the batch; Hinton et al., 2015.

    ``logits`` are the student's, ``teacher_probabilities`` the teacher's softmax at temperature 1, both [B, K]; both are brought to the
    temperature here (probabilities by p^(1/T), renormalised). Zero when student and teacher agree.
    """
    log_teacher = (teacher_probabilities.float().clamp_min(1e-8).log() / temperature).log_softmax(1)
    log_student = (logits / temperature).log_softmax(1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def prototype_logits(support: Tensor, query: Tensor) -> Tensor:
    """Negative squared distances of queries to class means; Snell et al., "Prototypical Networks", NeurIPS 2017, eq. 2.

    ``support`` [way, shot, D], ``query`` [Q, D] → [Q, way].
    """
    return -torch.cdist(query, support.mean(1)).square()


def episode_loss(support: Tensor, query: Tensor, scale: float) -> Tensor:
    """Cross-entropy of the queries under ``prototype_logits`` of unit-length features, times ``scale``.

    ``support`` [way, shot, D], ``query`` [way, queries, D]: query q of class w belongs to class w.
    """
    way, queries = query.shape[:2]
    unit_support, unit_query = F.normalize(support, dim=-1), F.normalize(query, dim=-1).flatten(0, 1)
    target = torch.arange(way, device=query.device).repeat_interleave(queries)
    return F.cross_entropy(scale * prototype_logits(unit_support, unit_query), target)
