"""Regional updates: at every step the teacher sees one part of the images, and only that part changes.

Data-Free NAS (Liu et al., arXiv 2112.02086) shows the teacher a random crop of a larger canvas at each step. Here the canvas is the
recovered image itself, and ``Normalise`` brings the crop to the size that the teacher expects: with images of 256 pixels, a teacher of
224 and a share of 0.875 it is the published setting; at 32 pixels the crop is enlarged instead, as in SRe2L.
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
    """A uniformly random region with ``share`` (0 to 1] of each side of images of that size; at least one pixel."""
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    top = int(torch.randint(height - tall + 1, (), generator=rng))
    left = int(torch.randint(width - wide + 1, (), generator=rng))
    return Region(top, left, tall, wide)


def crop(images: Tensor, region: Region) -> Tensor:
    """The region of images [B, C, H, W]; a gradient reaches no pixel outside it."""
    return images[:, :, region.top : region.top + region.height, region.left : region.left + region.width]


def region_mask(height: int, width: int, region: Region) -> Tensor:
    """float [1, 1, H, W]: 1 inside the region, 0 outside; for optimisers that would move a pixel without a gradient, as Adam does."""
    mask = torch.zeros(1, 1, height, width)
    crop(mask, region).fill_(1.0)
    return mask
