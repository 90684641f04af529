"""Label-conditional image generator (convolutional), small enough to train for a few steps on a CPU."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from datafree.devices import seeded_initialisation
from datafree.errors import UserError
from datafree.zoo.backbones.memory_format import channels_last
from datafree.zoo.logits import at_least_float32


class Generator(nn.Module):
    """(latent [B, latent], label [B]) → images float [B, channels, size, size] in [0, 1].

    The label selects an embedding by its index. Classes of different teachers share embeddings; the inner loop adapts them
    to one teacher. BatchNorm always uses batch statistics, as in FREE's generator.

    If not ``conditional`` the label is ignored, as in FREE's generator: only optimised latents can then distinguish classes.

    Raises:
        UserError: ``size`` is not a multiple of 8.
    """

    def __init__(self, latent: int, width: int, classes: int, channels: int, size: int, conditional: bool = True) -> None:
        super().__init__()
        if size % 8:
            raise UserError(f"data.image_size: got {size}; the generator doubles the resolution three times, use a multiple of 8")
        self.channels_last = True  # memory format of the feature maps, faster on a CPU; vmap does not know it
        self.latent = latent
        self.size = size
        self.classes = classes
        self.initial_size = size // 8
        self.width = width
        self.embedding = nn.Embedding(classes, latent) if conditional else None
        self.expand = nn.Linear(2 * latent if conditional else latent, width * self.initial_size**2)
        widths = [width, width, 3 * width // 4, 3 * width // 8]
        self.normalise = nn.BatchNorm2d(width, track_running_stats=False)
        self.blocks = nn.ModuleList(UpBlock(i, o) for i, o in pairwise(widths))
        self.paint = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.spread = nn.BatchNorm2d(channels, track_running_stats=False)

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        code = latent if self.embedding is None else torch.cat([latent, self.embedding(labels)], dim=1)
        maps = self.normalise(self.expand(code).view(-1, self.width, self.initial_size, self.initial_size))
        if self.channels_last:
            maps = maps.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            maps = block(maps)
        return torch.sigmoid(2 * at_least_float32(self.spread(self.paint(maps))))


class UpBlock(nn.Module):
    """Double the resolution (nearest neighbour), then conv3x3 → BatchNorm → LeakyReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs, track_running_stats=False)

    def forward(self, maps: Tensor) -> Tensor:
        maps = nn.functional.interpolate(maps, scale_factor=2.0, mode="nearest")
        return nn.functional.leaky_relu(self.norm(self.conv(maps)), 0.2)


def new_generator(latent: int, width: int, classes: int, channels: int, size: int, seed: int, conditional: bool = True) -> Generator:
    """A newly initialised generator for teachers with at most ``classes`` classes, in channels-last memory format."""
    with seeded_initialisation(seed):
        return channels_last(Generator(latent, width, classes, channels, size, conditional))
