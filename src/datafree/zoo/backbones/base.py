"""What every network of the zoo offers: features, a head, and an input normalisation of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """A feature extractor: ``forward`` maps float [B, C, H, W] to [B, feature_size].

    ``input`` is the [channels, height, width] that ``build`` made it for. ``foreign_keys`` renames the tensors of checkpoints that
    the model's own library wrote (see ``datafree.zoo.keys``); empty for the networks of this project.
    """

    feature_size: int
    input: tuple[int, int, int]
    foreign_keys: Mapping[str, str | None] = {}
    head_bias: bool = True  # whether the linear head of this architecture has one


class Classifier(nn.Module):
    """A backbone with one linear head: float [B, C, H, W] → logits [B, classes]."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.feature_size, classes, bias=backbone.head_bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def batch_norm_layers(network: nn.Module) -> list[nn.BatchNorm2d]:
    """The layers whose running statistics tell of the training images, in order; empty for networks that normalise otherwise."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]


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
