"""How a network follows several teachers, each asked only about the images recovered from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from datafree.distillation.joined_pools import Batch, JoinedPools
from datafree.distillation.losses import divergence

SCORING_BATCH = 256


class Score(NamedTuple):
    """How well a network follows its teachers on held-out images."""

    agreement: float  # share of images on which the most probable class is the teacher's
    kl: float  # mean divergence, in nats, from the teacher's softened probabilities


@torch.no_grad()
def score(predict: Callable[[Batch], Tensor], pools: JoinedPools, index: Tensor, temperature: float) -> Score:
    """Agreement and divergence of ``predict`` (a batch → logits [B, K]) over the images at ``index``."""
    agreed = divergences = 0.0
    for part in index.split(SCORING_BATCH):
        batch = pools.batch(part)
        logits = predict(batch)
        agreed += (logits.argmax(1) == batch.soft_labels.argmax(1)).sum().item()
        divergences += divergence(logits, batch.soft_labels, temperature).double().sum().item()
    return Score(agreed / len(index), divergences / len(index))
