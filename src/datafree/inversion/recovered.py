"""Result of an inversion method: recovered images, labels, soft labels and loss history."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Recovered:
    """One teacher's recovered images, on the CPU.

    Attributes:
        images: uint8 [N, 3, S, S] in 0..255.
        labels: int64 [N] in the teacher's order, every class equally often.
        soft_labels: float16 [N, K], the teacher's probabilities for these uint8 images.
        history: one row per step: ``step`` from 1, and the terms of the loss before weighting.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    history: list[dict[str, float]]
