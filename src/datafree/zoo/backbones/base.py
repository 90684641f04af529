"""What every network of the zoo offers: features, a head, and an input normalisation of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Backbone(nn.Module):
    """A feature extractor: ``forward`` maps float [B, C, H, W] to [B, feature_size].

    ``input`` is the [channels, height, width] that ``build`` made it for. ``foreign_keys`` renames the tensors of checkpoints that
    the model's own library wrote (see ``datafree.zoo.keys``); empty for the networks of this project.
    """

    feature_size: int
    input: tuple[int, int, int]
    foreign_keys: Mapping[str, str | None] = {}
    head_bias: bool = True  # whether the linear head of this architecture has one


class BlockBackbone(Backbone):
    """A backbone of blocks one after the other, whose features are the last map's mean over the image.

    What ``forward`` gets beside the images is the path through a supernet, nothing for a network that stands alone.
    """

    @abstractmethod
    def feature_map(self, images: Tensor, *path: Any) -> Tensor:
        """What is averaged over the image to make the features: [B, feature_size, H', W']."""

    @abstractmethod
    def sequence(self) -> list[nn.Module]:
        """The stem and all blocks in the order in which they run, without what follows the last one and without those that do nothing."""

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
    """The layers whose running statistics tell of the training images, in order; empty for networks that normalise otherwise."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]


def fitted(images: Tensor, shape: Sequence[int]) -> Tensor:
    """Images [B, C, H, W] as [B, *shape]: averaged to grey, grey repeated, resized. Differentiable; the images themselves if they fit."""
    if images.shape[1] != shape[0]:
        images = images.float().mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    if list(images.shape[2:]) != list(shape[1:]):
        images = F.interpolate(images.float(), size=tuple(shape[1:]), mode="bilinear", antialias=True, align_corners=False)
    return images


class Normalise(nn.Module):
    """uint8 or [0, 255] float [B, C, H, W] → (x / 255 − mean) / std, per channel, in channels-last memory (faster convolutions).

    With a ``shape`` [C, H, W] images of any size and of one or three channels are brought to it first; see ``fitted``.
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
        return ((images.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
