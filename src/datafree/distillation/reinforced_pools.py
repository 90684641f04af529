"""Reinforced pools: stored views of recovered images with the predictions of all reliable teachers (dataset reinforcement).

Faghri et al., "Reinforce Data, Multiply Impact", ICCV 2023: teachers are queried once about augmented and mixed views; every learner, seed
and search then reads their predictions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices


@dataclass(frozen=True)
class ReinforcedPools:
    """R views of each of N recovered images: those of the used teachers' pools, in the order of the zoo.

    Attributes:
        views: uint8 [R, N, C, H, W]; the first ``plain`` of the R are augmented views of one image, the others mix two images (mixup).
        predictions: float16 [R, N, Σ classes], the log-probabilities of all used teachers' classes, teacher by teacher.
        plain: number of unmixed views of an image.
        images: number of images of each teacher of the zoo, 0 for one that is not used.
        classes: number of classes of each teacher of the zoo, 0 for one that is not used.
        relations: float16 [R, N, F], what a few teachers' features say about how similar views are; None with many classes, whose
            probabilities say it better (see ``datafree.distillation.reinforcement``).
    """

    views: Tensor
    predictions: Tensor
    plain: int
    images: tuple[int, ...]
    classes: tuple[int, ...]
    relations: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as they are stored."""
        found = {"views": self.views, "predictions": self.predictions, "relations": self.relations}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to(self, device: torch.device) -> ReinforcedPools:
        """A copy whose tensors are on the device, as far as they fit (see ``devices.resident``)."""
        return replace(self, **{name: devices.resident(tensor, device) for name, tensor in self.tensors.items()})

    @functools.cached_property
    def _first(self) -> Tensor:
        """The position of each teacher's first image, int64 [teachers]."""
        return torch.tensor([0, *self.images[:-1]]).cumsum(0)

    @functools.cached_property
    def _columns(self) -> Tensor:
        """The columns of each teacher's classes in ``predictions``, int64 [teachers, most classes]; the one behind the last if absent."""
        total, most = sum(self.classes), max(self.classes)
        columns = torch.full((len(self.classes), most), total)
        first = 0
        for teacher, count in enumerate(self.classes):
            columns[teacher, :count] = torch.arange(first, first + count)
            first += count
        return columns

    def positions(self, teachers: Tensor, rows: Tensor) -> Tensor:
        """The positions among the N images of those at ``rows`` int64 [G, n] of the pools of ``teachers`` int64 [G]: int64 [G · n]."""
        return (self._first[teachers][:, None] + rows).flatten()

    def batch(
        self, positions: Tensor, queried: Sequence[int], rng: torch.Generator, device: torch.device, *, mixed: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """A random stored view of each image at ``positions`` int64 [B], with the predictions of the queried teachers.

        Returns views uint8 [B, C, H, W], probabilities float32 [B, queried, most classes], 0 beyond a teacher's classes, and their
        ``relations`` float32 [B, F], if there are any, all on ``device``. ``mixed``: views that mix the image with another one.
        """
        chosen = self._choose(positions, rng, mixed)
        views, probabilities = self._stored(chosen, device)
        relations = None if self.relations is None else devices.rows(self.relations.flatten(0, 1), chosen, device).float()
        return views, probabilities[:, devices.moved(self._columns[list(queried)], device)], relations

    def own_batch(self, positions: Tensor, rng: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """As ``batch``, unmixed, with the predictions of the teacher of each image: float32 [B, most classes]."""
        views, probabilities = self._stored(self._choose(positions, rng, mixed=False), device)
        teachers = torch.bucketize(positions, self._first + torch.tensor(self.images) - 1)
        return views, probabilities.gather(1, devices.moved(self._columns[teachers], device))

    def _choose(self, positions: Tensor, rng: torch.Generator, mixed: bool) -> Tensor:
        """A random view of each image, as a position among all R · N views: int64 [B]."""
        low, high = (self.plain, len(self.views)) if mixed else (0, self.plain)
        return torch.randint(low, high, (len(positions),), generator=rng) * self.views.shape[1] + positions

    def _stored(self, chosen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """The chosen views, and the probabilities [B, Σ classes + 1] of all used teachers' classes; the last column is 0."""
        probabilities = devices.rows(self.predictions.flatten(0, 1), chosen, device).float().exp()
        return devices.rows(self.views.flatten(0, 1), chosen, device), F.pad(probabilities, (0, 1))
