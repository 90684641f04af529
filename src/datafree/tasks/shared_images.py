"""What every teacher computes for the images of all pools: features, logits, statistics distances; one by one, or in stacks on a GPU."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from datafree import devices
from datafree.inversion.losses import BatchNormMatch, statistics_distance
from datafree.tasks.reliability_measures import features_and_logits
from datafree.zoo.logits import at_least_float32
from datafree.zoo.teacher_passes import passes
from datafree.zoo.teacher_stacks import TeacherStack
from datafree.zoo.teachers import Teacher


@dataclass(frozen=True)
class Computed:
    """What one teacher computes for the images of all pools, in their order, and for images of its own pool; on the CPU.

    Attributes:
        features: [N, D], at least float32, of the images of all pools.
        logits: [N, K], at least float32.
        distances: for each pool the ``BatchNormMatch.distance`` of its images; empty without BatchNorm layers.
        own_features: as ``features``, of the images of the teacher's own pool.
        own_logits: as ``logits``.
    """

    features: Tensor
    logits: Tensor
    distances: list[float]
    own_features: Tensor
    own_logits: Tensor


@torch.no_grad()
def one_by_one(teachers: Sequence[Teacher], shared: Sequence[Tensor], own: Sequence[Tensor], device: torch.device | str) -> list[Computed]:
    """What each teacher computes for ``shared``, the uint8 images [n, C, H, W] of each pool, and for ``own``, those of its own pool."""
    computed = []
    for teacher, images_of_own in zip(teachers, own, strict=True):
        with BatchNormMatch(teacher.network) as match:
            outputs, distances = [], []
            for images in shared:
                outputs.append(features_and_logits(teacher, images, device))
                distances.append(match.distance())
        features, logits = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        found = torch.stack(distances).tolist() if match.layers else []
        computed.append(Computed(features, logits, found, *features_and_logits(teacher, images_of_own, device)))
    return computed


@torch.no_grad()
def in_stacks(teachers: Sequence[Teacher], shared: Sequence[Tensor], own: Sequence[Tensor], rows: int | None = None) -> list[Computed]:
    """As ``one_by_one``, with all teachers of one architecture in one pass per part of the images; ``rows`` as for ``passes``."""
    computed: dict[int, Computed] = {}
    observer = PoolDistances()
    for members, stack, size in passes(teachers, max(map(len, shared)), rows, observer):
        parts = [of_pools(stack, part, observer) for part in equal_parts(shared, size)]
        features, logits, distances = (torch.cat(values, 1).cpu() for values in zip(*parts, strict=True))
        observer.pools = 1
        own_features, own_logits = of_own_images(stack, [teachers[member] for member in members], [own[member] for member in members], size)
        for place, member in enumerate(members):
            classes, count = len(teachers[member].classes), len(own[member])
            computed[member] = Computed(
                features[place], logits[place, :, :classes], distances[place].tolist(),
                own_features[place, :count], own_logits[place, :count, :classes],
            )  # fmt: skip
    return [computed[index] for index in range(len(teachers))]


def equal_parts(shared: Sequence[Tensor], size: int) -> list[Tensor]:
    """Images [n, C, H, W] of consecutive pools as uint8 [P, n, C, H, W], with P the largest number such that P · n is at most ``size``.

    Only pools of equal shapes are in one part; a part has at least one pool.
    """
    parts = []
    for shape, group in itertools.groupby(shared, key=lambda images: images.shape):
        parts += torch.stack(list(group)).split(max(1, size // shape[0]))
    return parts


class PoolDistances:
    """Observes the distance of each pool's statistics to a BatchNorm layer's running ones: [pools] for inputs [pools · n, C, H, W]."""

    def __init__(self) -> None:
        self.pools = 1  # of the pass that is computed

    def __call__(self, layer: nn.Module, inputs: Tensor) -> Tensor:
        return torch.vmap(functools.partial(statistics_distance, layer))(inputs.unflatten(0, (self.pools, -1)))


def of_pools(stack: TeacherStack, images: Tensor, observer: PoolDistances) -> tuple[Tensor, Tensor, Tensor]:
    """Features [T, P · n, D], logits [T, P · n, K] and statistics distances [T, P] (or [T, 0]) for uint8 images [P, n, C, H, W].

    The stack was made with ``observer``.
    """
    observer.pools = len(images)
    features, distances = stack.networks.observed(stack.normalise(devices.moved(images.flatten(0, 1), stack.mean.device)))
    of_pools = torch.stack(distances).mean(0) if distances else features.new_zeros(len(features), 0)
    return at_least_float32(features), stack.networks.head(features), of_pools


def of_own_images(stack: TeacherStack, teachers: Sequence[Teacher], images: Sequence[Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Features [T, N, D] and logits [T, N, K], on the CPU, of each teacher for its own uint8 images [n, C, H, W], n at most N.

    ``size`` images of each teacher are computed at once. Rows of a teacher with fewer images than others have no meaning at the end.
    """
    features, logits = [], []
    for first in range(0, max(map(len, images)), size):
        inputs = [
            teacher.normalise(devices.moved(own[first : first + size], stack.mean.device))
            for teacher, own in zip(teachers, images, strict=True)
        ]
        computed = stack.networks.features(pad_sequence(inputs, batch_first=True))
        features.append(at_least_float32(computed).cpu())
        logits.append(stack.networks.head(computed).cpu())
    return torch.cat(features, 1), torch.cat(logits, 1)
