"""Regional updates: every step uses and changes one random rectangle of the images.

Data-Free NAS (Liu et al., arXiv 2112.02086) gives the teacher a random crop of a larger image at each step. Here the larger image is the
recovered image itself, and ``Normalise`` resizes the crop to the teacher's input: images of 256 pixels, a teacher of 224 and a share of
0.875 are the published setting; at 32 pixels the crop is enlarged, as in SRe2L.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Region:
    """A rectangle of pixels: rows ``top`` to ``top + height``, columns ``left`` to ``left + width``."""

    top: int
    left: int
    height: int
    width: int


def random_region(height: int, width: int, share: float, rng: torch.Generator) -> Region:
    """A uniformly random region of ``height`` × ``width`` images: ``share`` in (0, 1] of each side, at least one pixel."""
    region_height, region_width = max(1, round(share * height)), max(1, round(share * width))
    top = int(torch.randint(height - region_height + 1, (), generator=rng))
    left = int(torch.randint(width - region_width + 1, (), generator=rng))
    return Region(top, left, region_height, region_width)


def crop(images: Tensor, region: Region) -> Tensor:
    """The region of images [B, C, H, W], a view; pixels outside it get no gradient."""
    return images[:, :, region.top : region.top + region.height, region.left : region.left + region.width]


def region_mask(height: int, width: int, region: Region) -> Tensor:
    """float [1, 1, H, W]: 1 inside the region, 0 outside; for optimisers with momentum, which also move pixels without a gradient."""
    mask = torch.zeros(1, 1, height, width)
    crop(mask, region).fill_(1.0)
    return mask
