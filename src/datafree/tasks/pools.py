"""Pools: the recovered images of one teacher with labels and soft labels, or real images in the same form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datafree import devices
from datafree.data.images import ImageSet


@dataclass(frozen=True)
class Pool:
    """images uint8 [N, C, H, W]; labels int64 [N] in the teacher's order; soft_labels float16 [N, K]; classes: K names."""

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    classes: tuple[str, ...]


class PoolImages:
    """The images of several pools, for batches on a device.

    Attributes:
        joined: those of all pools, uint8 [N, C, H, W], on a GPU that has room for them; None if they stay with their pools.
    """

    def __init__(self, pools: Sequence[Pool], device: torch.device, joined: Tensor | None = None) -> None:
        self.pools, self.device, self.joined = pools, device, joined
        self._first = torch.tensor([0, *(len(pool.images) for pool in pools)]).cumsum(0)

    @classmethod
    def placed(cls, pools: Sequence[Pool], device: torch.device) -> PoolImages:
        """The images of the pools, on the device if it is a GPU, they are of one shape, and they fit (see ``devices.fits``)."""
        images = [pool.images for pool in pools]
        stay = devices.fits(sum(of_pool.nbytes for of_pool in images), device) and len({of_pool.shape[1:] for of_pool in images}) == 1
        return cls(pools, device, torch.cat([of_pool.to(device) for of_pool in images]) if stay else None)

    def at(self, pools: Tensor, rows: Tensor) -> Tensor:
        """Images uint8 [G · n, C, H, W] on the device: for each of ``pools`` int64 [G] those at ``rows`` int64 [G, n]; both on the CPU."""
        if self.joined is None:
            chosen = [self.pools[pool].images[of_pool] for pool, of_pool in zip(pools.tolist(), rows, strict=True)]
            return devices.moved(torch.cat(chosen), self.device)
        return devices.rows(self.joined, (self._first[pools][:, None] + rows).flatten(), self.device)


def real_pool(data: ImageSet, classes: Sequence[str] | None = None, per_class: int | None = None) -> Pool:
    """Real images as a pool, for oracles and references, with one-hot soft labels.

    Args:
        classes: names of the classes to take, for instance a teacher's; labels follow this order. None takes all in the order of ``data``.
        per_class: number of images per class, the first ones, sorted by class; None takes all, in the order of ``data``.

    Raises:
        ValueError: ``data`` lacks one of ``classes``.
    """
    if classes is not None:
        data = data.of_classes([data.classes.index(name) for name in classes])
    images, labels = data.images, data.labels
    if per_class is not None:
        rows = torch.cat([torch.nonzero(labels == label).flatten()[:per_class] for label in range(len(data.classes))])
        images, labels = images[rows], labels[rows]
    return Pool(images, labels, torch.nn.functional.one_hot(labels, len(data.classes)).half(), data.classes)


def class_rows(pool: Pool) -> list[Tensor]:
    """The positions of each class's images in the pool."""
    return [torch.nonzero(pool.labels == label).flatten() for label in range(len(pool.classes))]


def balanced_rows(labels: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """At most ``count`` random positions in ``labels`` [N], as evenly over the classes as possible."""
    shuffled = torch.randperm(len(labels), generator=rng)
    order = torch.empty(len(labels))
    for label in labels.unique():
        members = labels[shuffled] == label
        order[members] = torch.arange(int(members.sum()), dtype=order.dtype)
    order += torch.rand(len(labels), generator=rng)  # within a round over the classes their order is random
    return shuffled[order.argsort()[:count]]
