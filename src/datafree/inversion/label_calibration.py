"""Recursive label calibration: the teacher predictions for one round's images are the targets of the next round."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def calibrated_targets(labels: Tensor, predictions: Tensor | None, classes: int) -> Tensor:
    """Target probabilities float [N, classes] of one round.

    Data-Free NAS (Liu et al., arXiv 2112.02086): in the first round the targets are the one-hot labels, later the teacher's probabilities
    at temperature 1 for the previous round's images, row by row. Unlike the paper, an image that the teacher classifies as another class
    keeps its one-hot target, so that labels stay correct and balanced.

    Args:
        labels: int64 [N].
        predictions: [N, classes], the teacher's probabilities; None in the first round.
    """
    hard = F.one_hot(labels, classes).float()
    if predictions is None:
        return hard
    predictions = predictions.float()
    predictions = predictions / predictions.sum(1, keepdim=True)  # float16 rounds
    return torch.where((predictions.argmax(1) == labels)[:, None], predictions, hard)
