"""Joined pools: the recovered images of all teachers as one training set, with training batches and a held-out split."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.devices import generator
from datafree.distillation.reinforced_pools import ReinforcedPools
from datafree.errors import UserError
from datafree.tasks.pools import Pool
from datafree.zoo.augmentation import random_affine
from datafree.zoo.backbones import Normalise


@dataclass(frozen=True)
class Batch:
    """``images`` float [B, C, H, W], normalised, channels last; ``soft_labels`` float [B, K], zero beyond the teacher's own classes;
    ``teacher`` int64 [B]."""

    images: Tensor
    soft_labels: Tensor
    teacher: Tensor


@dataclass(frozen=True)
class JoinedPools:
    """Several teachers' pools, concatenated; K is the largest number of classes of a teacher.

    ``images`` uint8 [N, C, H, W], ``soft_labels`` float16 [N, K], ``teacher`` int64 [N], ``classes`` the number per teacher.
    ``normalise`` is the student's. ``reinforced``: stored views of the same images, for training batches.
    """

    images: Tensor
    soft_labels: Tensor
    teacher: Tensor
    classes: tuple[int, ...]
    normalise: Normalise
    reinforced: ReinforcedPools | None = None

    @classmethod
    def join(cls, pools: Sequence[Pool], normalise: Normalise, reinforced: ReinforcedPools | None = None) -> JoinedPools:
        """Concatenate the pools, in order.

        Raises:
            UserError: images of different shapes, fewer than two images, or soft labels that do not fit a teacher's classes.
        """
        shape = list(pools[0].images.shape[1:])
        for number, pool in enumerate(pools, 1):
            here = f"recovered pool {number} of {len(pools)}"
            image_shape, labels = list(pool.images.shape[1:]), list(pool.soft_labels.shape)
            if image_shape != shape:
                raise UserError(f"{here}: expected images {shape} as in the first, got {image_shape}; use one input size per zoo")
            if len(pool.images) < 2:
                raise UserError(f"{here}: expected at least 2 images, got {len(pool.images)}; raise inversion.images_per_class")
            wanted = [len(pool.images), len(pool.classes)]
            if labels != wanted:
                raise UserError(f"{here}: expected soft labels {wanted}, got {labels}; rerun the inversion")
        classes = tuple(len(pool.classes) for pool in pools)
        counts = torch.tensor([len(pool.images) for pool in pools])
        return cls(
            images=torch.cat([pool.images for pool in pools]),
            soft_labels=torch.cat([F.pad(pool.soft_labels, (0, max(classes) - len(pool.classes))) for pool in pools]),
            teacher=torch.repeat_interleave(torch.arange(len(pools)), counts),
            classes=classes,
            normalise=normalise,
            reinforced=reinforced,
        )

    @property
    def image_channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        """Pixels of a side; images are square."""
        return self.images.shape[-1]

    def to(self, device: torch.device | str) -> JoinedPools:
        """A copy whose batches are on a device; its images stay on the CPU if they do not fit (see ``devices.fits``)."""
        device = torch.device(device)
        moved = {name: devices.moved(getattr(self, name), device) for name in ("soft_labels", "teacher")}
        normalise = copy.deepcopy(self.normalise).to(device)
        reinforced = self.reinforced.to(device) if self.reinforced else None
        return replace(self, **moved, images=devices.resident(self.images, device), normalise=normalise, reinforced=reinforced)

    def batch(self, index: Tensor) -> Batch:
        """The examples at ``index`` int64 [B] on the CPU."""
        device = self.normalise.mean.device
        images, soft_labels, teacher = (devices.rows(values, index, device) for values in (self.images, self.soft_labels, self.teacher))
        return Batch(self.normalise(images).contiguous(memory_format=torch.channels_last), soft_labels.float(), teacher)

    def split(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """Indices (training, held out), int64; ``share`` of every teacher's images is held out, at least one and never all."""
        training, held_out, teacher = [], [], self.teacher.cpu()
        for number in range(len(self.classes)):
            rows = torch.nonzero(teacher == number).flatten()
            rows = rows[torch.randperm(len(rows), generator=generator(seed, "held out", number))]
            count = min(max(round(share * len(rows)), 1), len(rows) - 1)
            held_out.append(rows[:count])
            training.append(rows[count:])
        return torch.cat(training), torch.cat(held_out)


def training_batch(pools: JoinedPools, training: Tensor, size: int, seed: int, *names: str | int) -> Batch:
    """A random batch of ``size`` of the examples at ``training`` int64 [N], under random changes; depends only on seed and names.

    From reinforced pools: a stored view of each image, with the predictions of its teacher for this view. Otherwise random affine changes,
    with the soft labels of the unchanged image.
    """
    rows, rng = sample_indices(training, size, seed, *names), generator(seed, *names, "views")
    if pools.reinforced is None:
        batch = pools.batch(rows)
        return replace(batch, images=random_affine(batch.images, rng))
    device = pools.normalise.mean.device
    views, soft_labels = pools.reinforced.own_batch(rows, rng, device)
    return Batch(pools.normalise(views), soft_labels, devices.rows(pools.teacher, rows, device))


def sample_indices(index: Tensor, size: int, seed: int, *names: str | int) -> Tensor:
    """``size`` random entries of ``index`` (or all, if fewer) without replacement; depends only on seed and names."""
    return index[torch.randperm(len(index), generator=generator(seed, *names))[:size]]
