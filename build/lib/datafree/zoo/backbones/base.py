"""What every network of the zoo offers: features, a head, and an input normalisation of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """A feature extractor: ``forward`` maps float [B, C, H, W] to [B, feature_size]."""

    feature_size: int


class Classifier(nn.Module):
    """A backbone with one linear head: float [B, C, H, W] → logits [B, classes]."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.feature_size, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


class Normalise(nn.Module):
    """uint8 or [0, 255] float [B, C, H, W] → (x / 255 − mean) / std, per channel, in channels-last memory (faster convolutions)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return ((images.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
