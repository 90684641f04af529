"""Few-shot accuracy on real episodes of held-out classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.data.images import ImageSet
from datafree.evaluation.classifiers import Classifier
from datafree.evaluation.nearest_centroid import nearest_centroid

Embedding = Callable[[Tensor], Mapping[str, Tensor]]  # uint8 [B, C, H, W] → by read-out the representations, float [B, R]
Solver = Callable[[Tensor, Tensor], Tensor]  # support uint8 [way, shot, C, H, W], query uint8 [Q, C, H, W] → int64 [Q]
LARGEST_BATCH = 2**20  # feature values of the episodes that are classified together


@runtime_checkable
class EpisodesSolver(Protocol):
    """A solver of several episodes at once."""

    def episodes_that_fit(self, images: Tensor) -> int:
        """How many episodes of ``images`` uint8 [B, C, H, W] the memory of their device holds, at least one."""
        ...

    def __call__(self, support: Tensor, query: Tensor) -> Tensor:
        """Predicted classes int64 [E, Q] for support uint8 [E, way, shot, C, H, W] and query uint8 [E, Q, C, H, W]."""
        ...


@torch.no_grad()
def embed(embedding: Embedding, images: Tensor, device: torch.device, batch_size: int = 100) -> dict[str, Tensor]:
    """By read-out the representations float32 [N, R], on the CPU, of uint8 images [N, C, H, W]."""
    parts = [embedding(devices.moved(part, device)) for part in images.split(batch_size)]
    return {name: torch.cat([part[name].float() for part in parts]).cpu() for name in parts[0]}


def episode_rows(labels: Tensor, *, way: int, shot: int, query: int, episodes: int, seed: int) -> Tensor:
    """The images of every episode, int64 [episodes, way, shot + query], as positions in ``labels`` [N]: the first ``shot`` are support.

    The episodes depend only on the labels, the counts and the seed, so every method is evaluated on the same ones.
    """
    members = [torch.nonzero(labels == label).flatten() for label in labels.unique().tolist()]
    rng = devices.generator(seed, "evaluation", way, shot, query)
    rows = []
    for _ in range(episodes):
        classes = torch.randperm(len(members), generator=rng)[:way].tolist()
        rows.append(torch.stack([members[c][torch.randperm(len(members[c]), generator=rng)[: shot + query]] for c in classes]))
    return torch.stack(rows)


def episode_accuracies(features: Tensor, rows: Tensor, shot: int, classify: Classifier = nearest_centroid) -> list[float]:
    """Accuracy in [0, 1] of every episode, from representations [N, D] of the split's images and the ``episode_rows``."""
    way, images = rows.shape[1:]
    target = torch.arange(way).repeat_interleave(images - shot)
    accuracies = []
    for part in rows.split(max(1, LARGEST_BATCH // (way * images * features.shape[1]))):
        predicted = classify(features[part[:, :, :shot]], features[part[:, :, shot:].flatten(1)])
        accuracies += (predicted == target).float().mean(1).tolist()
    return accuracies


def solver_accuracies(solve: Solver | EpisodesSolver, images: Tensor, rows: Tensor, shot: int, device: torch.device) -> list[float]:
    """As ``episode_accuracies`` from images uint8 [N, C, H, W], for a solver that adapts to an episode or uses its statistics."""
    target = torch.arange(rows.shape[1], device=device).repeat_interleave(rows.shape[2] - shot)
    several = isinstance(solve, EpisodesSolver)
    size = solve.episodes_that_fit(devices.rows(images, rows[0].flatten(), device)) if several else 1
    accuracies = []
    for part in rows.split(size):
        of_part = devices.rows(images, part, device)
        support, query = of_part[:, :, :shot], of_part[:, :, shot:].flatten(1, 2)
        predicted = solve(support, query) if several else solve(support[0], query[0])
        accuracies.append((predicted == target).float().mean(-1).flatten())
    return torch.cat(accuracies).tolist()


class Concatenated:
    """An embedding: the representations of several embeddings, each of unit length, concatenated.

    ``all_parts``, if given, computes those of all parts, on the CPU, for uint8 images [N, C, H, W] in fewer passes.
    """

    def __init__(self, parts: Sequence[Embedding], all_parts: Callable[[Tensor], Sequence[Mapping[str, Tensor]]] | None = None) -> None:
        self.parts = tuple(parts)
        self.all_parts = all_parts

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return self.join([part(images) for part in self.parts])

    @staticmethod
    def join(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """By read-out the parts' representations [B, R_i] of the same images → [B, Σ R_i]."""
        return {name: torch.cat([F.normalize(part[name], dim=1) for part in parts], dim=1) for name in parts[0]}


def episodes_error(images: ImageSet, split: str, way: int, shot: int, query: int) -> str:
    """Why the split is too small for the episodes, in one line; empty if it is not."""
    smallest = int(torch.bincount(images.labels, minlength=len(images.classes)).min())
    if way > len(images.classes):
        return f"evaluation.way: got {way}; allowed: at most {len(images.classes)}, the classes of the {split} split"
    if shot + query > smallest:
        return f"evaluation.query: {query} and {shot} shots need more images than the smallest class of the {split} split has, {smallest}"
    return ""
