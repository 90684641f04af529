"""Contrastive diversity term with a memory bank: CMI, Contrastive Model Inversion (Fang et al., IJCAI 2021)."""

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

PROJECTION = 128  # dimension of the projected features
SHARE = 0.75  # side of a view as a share of the image's side
LEARNING_RATE = 1e-3  # Adam, of the projection


class ContrastiveMemory(nn.Module):
    """The contrastive term of one teacher's inversion with its memory bank: the teacher's features of earlier batches.

    Two random crops of an image are its views. The term trains images and a small projection network so that the projected features of the
    two views are more similar than those of a view and any other image of the batch or the memory bank.
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
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))  # features written to the bank so far, overwritten ones included
        self.to(teacher.normalise.mean.device)
        self.optimiser = torch.optim.Adam(self.projection.parameters(), lr=LEARNING_RATE)

    def term(self, images: Tensor, labels: Tensor, teacher: Teacher, rng: torch.Generator) -> Tensor:
        """The loss of images float [B, C, S, S] in [0, 1], a scalar; stores their features in the memory bank."""
        height, width = images.shape[2:]
        views = [crop(images, random_region(height, width, SHARE, rng)) for _ in range(2)]
        # Crops are resized to the images' size, for teachers that do not resize their input themselves.
        first, second = (teacher.features(255 * F.interpolate(view, size=(height, width), mode="bilinear")).float() for view in views)
        loss = contrastive_loss(self.projection(first), self.projection(torch.cat([second, self.memory_features()])), self.temperature)
        self._store(first.detach())
        return loss

    def learn(self, images: Tensor, teacher: Teacher) -> None:
        """One optimiser step of the projection, with the gradients that ``term`` has accumulated."""
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def memory_features(self) -> Tensor:
        """The features in the memory bank, float [at most its size, D]."""
        return self.bank[: min(int(self.filled), len(self.bank))].clone()

    def _store(self, features: Tensor) -> None:
        places = (int(self.filled) + torch.arange(len(features), device=features.device)) % len(self.bank)
        self.bank[places] = features
        self.filled += len(features)

    def get_extra_state(self) -> dict[str, Any]:
        return self.optimiser.state_dict()

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.optimiser.load_state_dict(copy.deepcopy(dict(state)))  # the optimiser would keep the given tensors


def contrastive_loss(views: Tensor, others: Tensor, temperature: float) -> Tensor:
    """−mean_i log softmax_j(cos(v_i, o_j) / temperature)_i of views [B, D] and others [B + M, D]; o_i is the second view of image i."""
    similarity = F.normalize(views, dim=1) @ F.normalize(others, dim=1).T
    return F.cross_entropy(similarity.float() / temperature, torch.arange(len(views), device=views.device))
