"""Contrastive diversity: every image must be told apart from all others, earlier ones included.

CMI, Contrastive Model Inversion (Fang et al., IJCAI 2021).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree.devices import seeded_initialisation
from datafree.inversion.regions import crop, random_region
from datafree.zoo.teachers import Teacher

PROJECTION = 128  # dimension in which images are compared
SHARE = 0.75  # of each side of an image, in a view
LEARNING_RATE = 1e-3  # of the projection


class ContrastiveMemory(nn.Module):
    """The contrastive term of one teacher's inversion, and its memory: the teacher's features of earlier batches.

    Two random crops of an image are its views. Their features, projected by a small network that learns along, must be more alike than
    a view's are to those of the other images of the batch and of the memory.
    """

    name = "contrastive"
    bank: Tensor
    filled: Tensor

    def __init__(self, teacher: Teacher, weight: float, temperature: float, memory: int, seed: int) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature
        features = teacher.network.backbone.feature_size
        with seeded_initialisation(seed):
            self.projection = nn.Sequential(nn.Linear(features, PROJECTION), nn.ReLU(), nn.Linear(PROJECTION, PROJECTION))
        self.register_buffer("bank", torch.zeros(memory, features))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))  # places of the bank that were written, ever
        self.to(teacher.normalise.mean.device)
        self.optimiser = torch.optim.Adam(self.projection.parameters(), lr=LEARNING_RATE)

    def term(self, images: Tensor, labels: Tensor, teacher: Teacher, rng: torch.Generator) -> Tensor:
        """The loss of images float [B, C, S, S] in [0, 1]; remembers their features."""
        height, width = images.shape[2:]
        views = [crop(images, random_region(height, width, SHARE, rng)) for _ in range(2)]
        # Crops are brought back to one size: a teacher need not care for the size of its input by itself.
        first, second = (teacher.features(255 * F.interpolate(view, size=(height, width), mode="bilinear")).float() for view in views)
        loss = contrastive_loss(self.projection(first), self.projection(torch.cat([second, self.remembered()])), self.temperature)
        self._remember(first.detach())
        return loss

    def learn(self, images: Tensor, teacher: Teacher) -> None:
        """A step of the projection, along the gradient that the term has left."""
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def remembered(self) -> Tensor:
        return self.bank[: min(int(self.filled), len(self.bank))].clone()

    def _remember(self, features: Tensor) -> None:
        places = (int(self.filled) + torch.arange(len(features), device=features.device)) % len(self.bank)
        self.bank[places] = features
        self.filled += len(features)

    def get_extra_state(self) -> dict[str, Any]:
        return self.optimiser.state_dict()

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.optimiser.load_state_dict(copy.deepcopy(dict(state)))  # it would keep the given tensors


def contrastive_loss(views: Tensor, others: Tensor, temperature: float) -> Tensor:
    """−mean_i log softmax_j(cos(v_i, o_j) / temperature)_i of views [B, D] and others [B + M, D], of which the i-th is v_i's partner."""
    likeness = F.normalize(views, dim=1) @ F.normalize(others, dim=1).T
    return F.cross_entropy(likeness.float() / temperature, torch.arange(len(views), device=views.device))
