"""Fidelity of a student to its teachers on held-out images: top-1 agreement and KL divergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from datafree.distillation.joined_pools import Batch, JoinedPools
from datafree.distillation.losses import divergence


class Fidelity(NamedTuple):
    """The fidelity metrics of Stanton et al., "Does Knowledge Distillation Really Work?", NeurIPS 2021."""

    agreement: float  # share of images on which the most probable class is the teacher's
    kl: float  # mean divergence, in nats, from the teacher's softened probabilities


@torch.no_grad()
def student_fidelity(
    predict: Callable[[Batch], Tensor], pools: JoinedPools, index: Tensor, temperature: float, batch_size: int = 256
) -> Fidelity:
    """Fidelity of ``predict`` (a batch → logits [B, K]) on the images at ``index``, each to the teacher it was recovered from."""
    sums = []
    for part in index.split(batch_size):
        batch = pools.batch(part)
        logits = predict(batch)
        agreed = logits.argmax(1) == batch.soft_labels.argmax(1)
        sums.append(torch.stack([agreed.double().sum(), divergence(logits, batch.soft_labels, temperature).double().sum()]))
    agreement, kl = (sum(values) / len(index) for values in zip(*torch.stack(sums).tolist(), strict=True))  # read once: it waits for a GPU
    return Fidelity(agreement, kl)
