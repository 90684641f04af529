"""Agreement of several independent classifiers (judges) on the classes of recovered images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from datafree.evaluation.inversion_quality import Judge, judge_logits


def jury(judges: Sequence[Judge], classes: Sequence[str], images: Tensor, labels: Tensor, device: torch.device) -> dict[str, float]:
    """Joint measures of several judges, all trained on ``classes``; shares in [0, 1] of images uint8 [N, C, H, W].

    ``jury_accuracy``: the judges' mean accuracy; ``jury_unanimous``: images that every judge assigns to their label; ``jury_agreement``:
    images that two judges assign to the same class, right or wrong, the mean over pairs of judges (1 for a single judge).
    """
    predicted = torch.stack([judge_logits(judge, classes, images, device).argmax(1) for judge in judges])
    right = predicted == labels
    pairs = [(predicted[i] == predicted[j]).float().mean().item() for i, j in itertools.combinations(range(len(judges)), 2)]
    return {
        "jury_accuracy": right.float().mean().item(),
        "jury_unanimous": right.all(0).float().mean().item(),
        "jury_agreement": sum(pairs) / len(pairs) if pairs else 1.0,
    }
