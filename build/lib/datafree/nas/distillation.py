"""Learning from stored soft labels of several teachers, each with classes of its own; and how well that went."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from datafree.meta.learner import ABSENT
from datafree.nas.pools import Batch, Pools

SMALLEST_PROBABILITY = 2.0**-24  # the smallest positive float16: what a stored probability of zero may have been
SCORING_BATCH = 256


class Score(NamedTuple):
    """How well a network follows its teachers on held-out images."""

    agreement: float  # share of images on which the most probable class is the teacher's
    kl: float  # mean divergence, in nats, from the teacher's softened probabilities


def distillation_loss(logits: Tensor, soft_labels: Tensor, temperature: float) -> Tensor:
    """T² · mean ``divergence``; Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.

    The factor keeps the gradient's size independent of the temperature.
    """
    return temperature**2 * divergence(logits, soft_labels, temperature).mean()


def divergence(logits: Tensor, soft_labels: Tensor, temperature: float) -> Tensor:
    """KL(softmax(log p / T) ‖ softmax(z / T)) of every example, in nats: [B].

    ``logits`` z [B, K] are ``ABSENT`` where the teacher has no class; ``soft_labels`` p [B, K] are its probabilities at temperature 1.
    """
    absent = logits <= ABSENT
    log_target = (soft_labels.float().clamp_min(SMALLEST_PROBABILITY).log() / temperature).masked_fill(absent, ABSENT).log_softmax(1)
    log_prediction = (logits.float() / temperature).masked_fill(absent, ABSENT).log_softmax(1)
    return (log_target.exp() * (log_target - log_prediction)).sum(1)


@torch.no_grad()
def score(predict: Callable[[Batch], Tensor], pools: Pools, index: Tensor, temperature: float) -> Score:
    """Agreement and divergence of ``predict`` (a batch → logits [B, K]) over the images at ``index``."""
    agreed = divergences = 0.0
    for part in index.split(SCORING_BATCH):
        batch = pools.batch(part)
        logits = predict(batch)
        agreed += (logits.argmax(1) == batch.soft_labels.argmax(1)).sum().item()
        divergences += divergence(logits, batch.soft_labels, temperature).double().sum().item()
    return Score(agreed / len(index), divergences / len(index))
