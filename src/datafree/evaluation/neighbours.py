"""Nearest real neighbours of recovered images: whether a pool shows single training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 256  # images that are compared with all others at once


@dataclass(frozen=True)
class Neighbours:
    """Of each of N recovered images the nearest real one.

    Attributes:
        distances: float32 [N], root mean squared difference of the pixels, in grey levels of 0 to 255.
        nearest: int64 [N], its position among the real images.
        real_distances: float32 [M], the same from each real image to the nearest other real one.
    """

    distances: Tensor
    nearest: Tensor
    real_distances: Tensor

    @property
    def ratio(self) -> float:
        """Median distance of recovered images over that of real ones: at 1, a pool is as far from single real images as these are from
        each other; near 0, it holds copies."""
        return (self.distances.median() / self.real_distances.median().clamp_min(1e-6)).item()

    @property
    def closer(self) -> float:
        """The share of recovered images, in [0, 1], that are nearer to a real image than 99 % of real images are to each other."""
        return (self.distances < torch.quantile(self.real_distances, 0.01)).float().mean().item()


def neighbours(recovered: Tensor, real: Tensor) -> Neighbours:
    """The nearest real images for uint8 images [N, C, H, W] and [M, C, H, W] of one size, M ≥ 2."""
    pool, others = recovered.flatten(1).float(), real.flatten(1).float()
    scale = others.shape[1] ** 0.5
    distances, nearest = _nearest(pool, others, None)
    own, _ = _nearest(others, others, torch.arange(len(others)))
    return Neighbours(distances / scale, nearest, own / scale)


def _nearest(first: Tensor, second: Tensor, excluded: Tensor | None) -> tuple[Tensor, Tensor]:
    """Distance to and position of the nearest row of ``second`` for each row of ``first``; row i is not compared with ``excluded[i]``."""
    positions = []
    for start in range(0, len(first), ROWS):
        distances = torch.cdist(first[start : start + ROWS], second, compute_mode="use_mm_for_euclid_dist")
        if excluded is not None:
            distances.scatter_(1, excluded[start : start + ROWS, None], torch.inf)
        positions.append(distances.argmin(1))
    nearest = torch.cat(positions)
    # Products find the nearest row several times faster than differences, but would give a copy a distance above 0.
    return (first - second[nearest]).norm(dim=1), nearest
