"""Base classes of the zoo's networks: backbone, block backbone, classifier with a linear head, input normalisation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree.zoo.logits import at_least_float32


class Backbone(nn.Module):
    """A feature extractor: ``forward`` maps float [B, C, H, W] to [B, feature_size].

    ``input`` is the [channels, height, width] given to ``build``. ``foreign_keys`` renames the tensors of checkpoints in the format of
    the model's library (see ``datafree.zoo.keys``); empty for the networks of this project.
    """

    feature_size: int
    input: tuple[int, int, int]
    foreign_keys: Mapping[str, str | None] = {}
    head_bias: bool = True  # whether the linear head of this architecture has a bias


class BlockBackbone(Backbone):
    """A backbone of consecutive blocks whose features are the global average of the last feature map.

    ``path`` is the path through a supernet; empty for a single network.
    """

    @abstractmethod
    def feature_map(self, images: Tensor, *path: Any) -> Tensor:
        """The last feature map [B, feature_size, H', W'], before global average pooling."""

    @abstractmethod
    def sequence(self) -> list[nn.Module]:
        """The stem and all blocks in order of execution, without identity blocks and without the layers after the last block."""

    def forward(self, images: Tensor, *path: Any) -> Tensor:
        return self.feature_map(images, *path).mean((2, 3))


class Classifier(nn.Module):
    """A backbone with one linear head: float [B, C, H, W] → logits [B, classes]."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.feature_size, classes, bias=backbone.head_bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def batch_norm_layers(network: nn.Module) -> list[nn.BatchNorm2d]:
    """The BatchNorm layers with running statistics (of the training images), in module order; empty for networks without any."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]


def fitted(images: Tensor, shape: Sequence[int]) -> Tensor:
    """Images [B, C, H, W] converted to [B, *shape] by averaging or repeating channels and resizing; differentiable.

    Returns the images themselves if they have this shape.
    """
    if images.shape[1] != shape[0]:
        images = at_least_float32(images).mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    if list(images.shape[2:]) != list(shape[1:]):
        images = F.interpolate(at_least_float32(images), size=tuple(shape[1:]), mode="bilinear", antialias=True, align_corners=False)
    return images


class Normalise(nn.Module):
    """uint8 or [0, 255] float [B, C, H, W] → (x / 255 − mean) / std, per channel, in channels-last memory (faster convolutions).

    With a ``shape`` [C, H, W], images of any size and of one or three channels are first converted to it; see ``fitted``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape = None if shape is None else tuple(shape)
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.shape is not None:
            images = fitted(images, self.shape)
        return ((at_least_float32(images) / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
