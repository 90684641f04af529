"""The meta-learner: one backbone, and while it learns one head per teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datafree.meta.losses import ABSENT
from datafree.zoo.backbones import Backbone, Normalise


class TeacherHeads(nn.Module):
    """One linear head per teacher over shared features."""

    absent: Tensor

    def __init__(self, features: int, classes: Sequence[int]) -> None:
        super().__init__()
        bound = 1 / math.sqrt(features)
        self.weight = nn.Parameter(torch.empty(len(classes), max(classes), features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(len(classes), max(classes)))
        absent = torch.arange(max(classes))[None, :] >= torch.tensor(list(classes))[:, None]
        self.register_buffer("absent", absent, persistent=False)

    def forward(self, features: Tensor, asked: Sequence[int]) -> Tensor:
        """features [B, D] → logits [B, asked, most classes] of the asked teachers' heads; ``ABSENT`` where a teacher has fewer."""
        heads = list(asked)
        logits = torch.einsum("bd,tkd->btk", features, self.weight[heads]).float() + self.bias[heads]
        return logits.masked_fill(self.absent[heads], ABSENT)


class Learner(nn.Module):
    """Backbone, heads, and the normalisation of its inputs. The heads serve training; a new task is learned from features."""

    def __init__(self, backbone: Backbone, heads: TeacherHeads, normalise: Normalise) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        self.normalise = normalise

    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] → [B, D]."""
        return self.backbone(self.normalise(images))
