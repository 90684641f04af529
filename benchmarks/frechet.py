"""Fréchet distance between the features of two sets of images, in the feature space of a teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from datafree.zoo.teachers import Teacher


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Fréchet distance of normal distributions fitted to two sets of features [N, D] and [M, D], N and M at least 2.

    ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½), in float64; Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017,
    whose FID uses the features of an Inception network. The estimate grows as the sets get smaller: compare sets of equal size only.
    """
    first, second = first.double(), second.double()
    covariances = [features.T.cov().view(features.shape[1], -1) for features in (first, second)]
    root = _square_root(covariances[0])
    # Σ₁ Σ₂ has the eigenvalues of the symmetric Σ₁^½ Σ₂ Σ₁^½.
    product = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0).sqrt().sum()
    shift = (first.mean(0) - second.mean(0)).square().sum()
    return (shift + covariances[0].trace() + covariances[1].trace() - 2 * product).clamp_min(0).item()


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


@torch.no_grad()
def teacher_features(teacher: Teacher, images: Tensor, device: torch.device, batch_size: int = 500) -> Tensor:
    """The teacher's features float [N, D], on the CPU, for uint8 images [N, C, H, W]; the teacher is on ``device``."""
    return torch.cat([teacher.features(part.to(device)).float().cpu() for part in images.split(batch_size)])
