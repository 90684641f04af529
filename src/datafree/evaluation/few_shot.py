"""Few-shot accuracy on real episodes of classes that nothing has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.data.images import ImageSet

Embedding = Callable[[Tensor], Tensor]  # uint8 [B, C, H, W] → float [B, D]


def nearest_centroid(support: Tensor, query: Tensor) -> Tensor:
    """Predicted class of each query by the nearest class mean of centred, unit-length features; SimpleShot (Wang et al., 2019).

    ``support`` [way, shot, D], ``query`` [Q, D] → int64 [Q]. The centre is the mean of the support alone: inductive, no query is
    looked at to classify another.
    """
    centre = support.flatten(0, 1).mean(0)
    means = F.normalize(F.normalize(support - centre, dim=-1).mean(1), dim=-1)
    # A distance rather than a product: autocast leaves it in float32, and rounding decides no tie.
    return torch.cdist(F.normalize(query - centre, dim=-1), means).argmin(1)


@torch.no_grad()
def embed(embedding: Embedding, images: Tensor, device: torch.device, batch_size: int = 500) -> Tensor:
    """Features float [N, D] on the CPU."""
    return torch.cat([embedding(part.to(device)).float().cpu() for part in images.split(batch_size)])


def episode_accuracies(features: Tensor, labels: Tensor, *, way: int, shot: int, query: int, episodes: int, seed: int) -> list[float]:
    """Accuracy in [0, 1] of every episode; features [N, D] and labels [N] of the split's images.

    The episodes depend on the labels, the counts and the seed alone, so every method meets the same ones.
    """
    members = [torch.nonzero(labels == label).flatten() for label in labels.unique().tolist()]
    draw = devices.generator(seed, "evaluation", way, shot, query)
    target = torch.arange(way).repeat_interleave(query)
    accuracies = []
    for _ in range(episodes):
        classes = torch.randperm(len(members), generator=draw)[:way].tolist()
        rows = torch.stack([members[c][torch.randperm(len(members[c]), generator=draw)[: shot + query]] for c in classes])
        chosen = features[rows]
        predicted = nearest_centroid(chosen[:, :shot], chosen[:, shot:].flatten(0, 1))
        accuracies.append((predicted == target).float().mean().item())
    return accuracies


def concatenated(embeddings: Sequence[Embedding]) -> Embedding:
    """The unit-length features of several embeddings, side by side."""
    return lambda images: torch.cat([F.normalize(one(images), dim=1) for one in embeddings], dim=1)


def enough_images(images: ImageSet, split: str, way: int, shot: int, query: int) -> str:
    """Why the split cannot serve the episodes, in one line; empty when it can."""
    smallest = int(torch.bincount(images.labels, minlength=len(images.classes)).min())
    if way > len(images.classes):
        return f"evaluation.way: got {way}; allowed: at most {len(images.classes)}, the classes of the {split} split"
    if shot + query > smallest:
        return f"evaluation.query: {query} and {shot} shots need more images than the smallest class of the {split} split has, {smallest}"
    return ""
