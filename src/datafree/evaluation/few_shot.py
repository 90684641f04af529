"""Few-shot accuracy on real episodes of classes that nothing has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.data.images import ImageSet
from datafree.evaluation.classifiers import Classifier, nearest_centroid

Embedding = Callable[[Tensor], Tensor]  # uint8 [B, C, H, W] → float [B, D]
Solver = Callable[[Tensor, Tensor], Tensor]  # support uint8 [way, shot, C, H, W], query uint8 [Q, C, H, W] → int64 [Q]


@torch.no_grad()
def embed(embedding: Embedding, images: Tensor, device: torch.device, batch_size: int = 100) -> Tensor:
    """Features float [N, D] on the CPU."""
    return torch.cat([embedding(part.to(device)).float().cpu() for part in images.split(batch_size)])


def episode_rows(labels: Tensor, *, way: int, shot: int, query: int, episodes: int, seed: int) -> Tensor:
    """The images of every episode, int64 [episodes, way, shot + query], as positions in ``labels`` [N]: the first ``shot`` are support.

    The episodes depend on the labels, the counts and the seed alone, so every method meets the same ones.
    """
    members = [torch.nonzero(labels == label).flatten() for label in labels.unique().tolist()]
    draw = devices.generator(seed, "evaluation", way, shot, query)
    chosen = []
    for _ in range(episodes):
        classes = torch.randperm(len(members), generator=draw)[:way].tolist()
        chosen.append(torch.stack([members[c][torch.randperm(len(members[c]), generator=draw)[: shot + query]] for c in classes]))
    return torch.stack(chosen)


def episode_accuracies(
    features: Tensor, labels: Tensor, *, way: int, shot: int, query: int, episodes: int, seed: int,
    classify: Classifier = nearest_centroid,
) -> list[float]:  # fmt: skip
    """Accuracy in [0, 1] of every episode; features [N, D] and labels [N] of the split's images."""
    rows = episode_rows(labels, way=way, shot=shot, query=query, episodes=episodes, seed=seed)
    return [_share_right(classify, features[chosen], shot) for chosen in rows]


def solved_episodes(
    solve: Solver, images: ImageSet, *, way: int, shot: int, query: int, episodes: int, seed: int, device: torch.device
) -> list[float]:
    """As ``episode_accuracies``, for a method that must see an episode's images together: it adapts to them, or takes their statistics."""
    rows = episode_rows(images.labels, way=way, shot=shot, query=query, episodes=episodes, seed=seed)
    return [_share_right(solve, images.images[chosen].to(device), shot) for chosen in rows]


def _share_right(solve: Solver, chosen: Tensor, shot: int) -> float:
    """``chosen`` [way, shot + query, ...]: images or features, class by class."""
    target = torch.arange(chosen.shape[0]).repeat_interleave(chosen.shape[1] - shot)
    return (solve(chosen[:, :shot], chosen[:, shot:].flatten(0, 1)).cpu() == target).float().mean().item()


class Concatenated:
    """The unit-length features of several embeddings, side by side: an embedding itself."""

    def __init__(self, parts: Sequence[Embedding]) -> None:
        self.parts = tuple(parts)

    def __call__(self, images: Tensor) -> Tensor:
        return self.join([part(images) for part in self.parts])

    @staticmethod
    def join(features: Sequence[Tensor]) -> Tensor:
        """Of the parts' features [B, D_i] for the same images: [B, Σ D_i]."""
        return torch.cat([F.normalize(one, dim=1) for one in features], dim=1)


def enough_images(images: ImageSet, split: str, way: int, shot: int, query: int) -> str:
    """Why the split cannot serve the episodes, in one line; empty when it can."""
    smallest = int(torch.bincount(images.labels, minlength=len(images.classes)).min())
    if way > len(images.classes):
        return f"evaluation.way: got {way}; allowed: at most {len(images.classes)}, the classes of the {split} split"
    if shot + query > smallest:
        return f"evaluation.query: {query} and {shot} shots need more images than the smallest class of the {split} split has, {smallest}"
    return ""
