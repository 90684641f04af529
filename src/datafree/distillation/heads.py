"""Teacher heads: one linear head per teacher over shared features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datafree import devices
from datafree.zoo.logits import ABSENT, at_least_float32


class TeacherHeads(nn.Module):
    """One linear head per teacher over shared features; with ``shared`` a single head, whose output k is class k of every teacher."""

    absent: Tensor

    def __init__(self, features: int, classes: Sequence[int], shared: bool = False) -> None:
        super().__init__()
        bound, count = 1 / math.sqrt(features), 1 if shared else len(classes)
        self.shared = shared
        self.weight = nn.Parameter(torch.empty(count, max(classes), features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(count, max(classes)))
        absent = torch.arange(max(classes))[None, :] >= torch.tensor(list(classes))[:, None]
        self.register_buffer("absent", absent, persistent=False)

    def forward(self, features: Tensor, queried: Sequence[int]) -> Tensor:
        """features [B, D] → logits [B, queried, most classes] of the queried teachers' heads; ``ABSENT`` beyond a teacher's classes."""
        index = devices.moved(torch.tensor(list(queried)), features.device)
        heads = torch.zeros_like(index) if self.shared else index
        logits = at_least_float32(torch.einsum("bd,tkd->btk", features, self.weight[heads])) + self.bias[heads]
        return logits.masked_fill(self.absent[index], ABSENT)

    def of_all(self, features: Tensor) -> Tensor:
        """As ``forward``, of every teacher in order: [B, D] → [B, teachers, most classes]."""
        return self(features, range(len(self.absent)))


def own_logits(heads: TeacherHeads, features: Tensor, teacher: Tensor) -> Tensor:
    """Logits of each image's own teacher's head: features [B, D], teacher int64 [B] → [B, most classes]."""
    return heads(features, range(len(heads.bias)))[torch.arange(len(teacher), device=teacher.device), teacher]
