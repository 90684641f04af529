"""Image augmentation in batches on the images' device: random affine maps and random colour changes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def random_affine(images: Tensor, rng: torch.Generator, degrees: float = 15.0, scale: float = 0.15, shift: float = 0.1) -> Tensor:
    """Rotate, scale and shift each float image [B, C, H, W] by separate random amounts.

    ``degrees`` is the largest rotation; ``scale`` the largest relative change of size; ``shift`` the largest move as a share of the
    image. Pixels from outside the image take the value of the nearest border pixel.
    """
    batch, device = images.shape[0], images.device

    def uniform() -> Tensor:
        return (torch.rand(batch, generator=rng) * 2 - 1).to(device)

    angle = uniform() * math.radians(degrees)
    size = 1 + uniform() * scale
    theta = torch.zeros(batch, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 1], theta[:, 0, 2] = torch.cos(angle) / size, -torch.sin(angle) / size, uniform() * 2 * shift
    theta[:, 1, 0], theta[:, 1, 1], theta[:, 1, 2] = torch.sin(angle) / size, torch.cos(angle) / size, uniform() * 2 * shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def random_colours(images: Tensor, rng: torch.Generator, strength: float = 0.3) -> Tensor:
    """Multiply each channel of each normalised image [B, C, H, W] by a factor in 1 ± strength and add an offset in ± strength."""
    shape = (*images.shape[:2], 1, 1)
    factor = 1 + strength * (torch.rand(shape, generator=rng) * 2 - 1).to(images.device)
    offset = strength * (torch.rand(shape, generator=rng) * 2 - 1).to(images.device)
    return images * factor + offset
