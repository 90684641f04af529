"""Adversarial term: a student network is distilled during the inversion, and images move to where it differs from the teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree.config import BackboneConfig
from datafree.devices import seeded_initialisation
from datafree.inversion.losses import boundary
from datafree.zoo.backbones import Normalise, build
from datafree.zoo.teachers import Teacher

BACKBONE = BackboneConfig("conv4_strided", 16)
LEARNING_RATE = 1e-3


class Student(nn.Module):
    """A small network with a head per teacher, distilled on the images of every step; ``term`` is the adversarial loss on it.

    The boundary term of CMI and FREE: on images where teacher and student predict the same class, increase their divergence.
    """

    name = "adversarial"

    def __init__(self, teachers: Sequence[Teacher], weight: float, size: int, seed: int) -> None:
        super().__init__()
        self.weight = weight
        self.backbone = build(BACKBONE, 3, size, seed)
        with seeded_initialisation(seed):
            self.heads = nn.ModuleDict({teacher.name: nn.Linear(self.backbone.feature_size, len(teacher.classes)) for teacher in teachers})
        self.normalise = Normalise([0.5] * 3, [0.25] * 3, [3, size, size])
        self.to(teachers[0].normalise.mean.device)
        self.optimiser = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)

    def forward(self, images: Tensor, teacher: Teacher) -> Tensor:
        """Logits [B, classes] of images float [B, 3, S, S] in [0, 1] for one teacher's classes."""
        return self.heads[teacher.name](self.backbone(self.normalise(255 * images)))

    def term(self, images: Tensor, labels: Tensor, teacher: Teacher, rng: torch.Generator) -> Tensor:
        """The ``boundary`` loss of images float [B, 3, S, S] in [0, 1], a scalar, at most 0."""
        return boundary(teacher.network(teacher.normalise(255 * images)), self(images, teacher))

    def learn(self, images: Tensor, teacher: Teacher) -> None:
        """One step of distillation on images float [B, 3, S, S] in [0, 1]."""
        images = images.detach()
        with torch.no_grad():
            predictions = teacher.network(teacher.normalise(255 * images)).float().softmax(1)
        self.optimiser.zero_grad(set_to_none=True)  # the gradients of ``term``
        F.kl_div(F.log_softmax(self(images, teacher).float(), dim=1), predictions, reduction="batchmean").backward()
        self.optimiser.step()

    def get_extra_state(self) -> dict[str, Any]:
        return self.optimiser.state_dict()

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.optimiser.load_state_dict(copy.deepcopy(dict(state)))  # the optimiser would keep the given tensors
