"""Recursive label calibration: each round's images aim at what the teacher said of the last round's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def calibrated_targets(labels: Tensor, predictions: Tensor | None, classes: int) -> Tensor:
    """Target probabilities float [N, classes] of one round.

    Data-Free NAS (Liu et al., arXiv 2112.02086): in the first round (``answers`` None) the labels themselves, one-hot; later the
    teacher's ``answers`` [N, classes], probabilities at temperature 1, to the images of the round before in the same places. Unlike
    there, an image that the teacher takes for another class keeps the one-hot target: labels stay what they are, and balanced.

    Args:
        labels: int64 [N].
    """
    hard = F.one_hot(labels, classes).float()
    if predictions is None:
        return hard
    predictions = predictions.float()
    predictions = predictions / predictions.sum(1, keepdim=True)  # float16 rounds
    return torch.where((predictions.argmax(1) == labels)[:, None], predictions, hard)
