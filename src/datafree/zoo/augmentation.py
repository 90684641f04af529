"""Image augmentation in batches on the images' device: random affine maps and random colour changes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices


def random_affine(images: Tensor, rng: torch.Generator, degrees: float = 15.0, scale: float = 0.15, shift: float = 0.1) -> Tensor:
    """Rotate, scale and shift each float image [B, C, H, W] by separate random amounts.

    ``degrees`` is the largest rotation; ``scale`` the largest relative change of size; ``shift`` the largest move as a share of the
    image. Pixels from outside the image take the value of the nearest border pixel.
    """
    return affine(images, devices.moved(affine_amounts(len(images), rng), images.device), degrees, scale, shift)


def affine_amounts(count: int, rng: torch.Generator) -> Tensor:
    """Random amounts float [4, count], uniform in [-1, 1], of ``affine``."""
    return torch.rand(4, count, generator=rng) * 2 - 1


def affine(images: Tensor, amounts: Tensor, degrees: float, scale: float, shift: float) -> Tensor:
    """``random_affine`` of images [B, C, H, W] by given amounts [4, B] in [-1, 1]: of rotation, scale, shift to the right, shift down."""
    turn, growth, right, down = amounts.to(images.dtype)[:, :, None, None]
    angle, size = turn * math.radians(degrees), 1 + growth * scale
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    # Pixel centres in [-1, 1]. `F.affine_grid` multiplies matrices, which takes several times as long on a CPU.
    y, x = ((2 * torch.arange(count, device=images.device, dtype=images.dtype) + 1) / count - 1 for count in images.shape[2:])
    right, down = right * 2 * shift, down * 2 * shift
    grid = torch.stack([cosine * x - sine * y[:, None] + right, sine * x + cosine * y[:, None] + down], dim=-1)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def random_colours(images: Tensor, rng: torch.Generator, strength: float = 0.3) -> Tensor:
    """Multiply each channel of each normalised image [B, C, H, W] by a factor in 1 ± strength and add an offset in ± strength."""
    shape = (*images.shape[:2], 1, 1)
    factor = 1 + strength * devices.moved(torch.rand(shape, generator=rng) * 2 - 1, images.device)
    offset = strength * devices.moved(torch.rand(shape, generator=rng) * 2 - 1, images.device)
    return images * factor + offset
