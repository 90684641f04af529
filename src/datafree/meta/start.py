"""A learner that starts as a copy of a teacher, and the choice of that teacher without real data."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.heads import TeacherHeads
from datafree.errors import UserError
from datafree.meta.learner import Learner
from datafree.tasks.pools import Pool, balanced_rows
from datafree.tasks.reliability_measures import features_and_logits
from datafree.zoo.teachers import Teacher

# By which teachers are compared: pools, and images of each. The cost of the choice then grows with the number of teachers, not its square.
POOLS, IMAGES = 16, 200


def learner_from_teacher(ensemble: TeacherEnsemble, index: int, classes: Sequence[int], seed: int) -> Learner:
    """A learner with the backbone, the head and the input normalisation of a teacher; the other heads are random.

    Raises:
        UserError: the teacher's input is not of the size of the recovered images.
    """
    teacher, shape = ensemble.teachers[index], tuple(ensemble.pools[index].images.shape[1:])
    if teacher.input != shape:
        raise UserError(f"start: teacher {teacher.name} has an input of {list(teacher.input)}; allowed: that of the images, {list(shape)}")
    backbone = copy.deepcopy(teacher.network.backbone).requires_grad_()
    with devices.seeded_initialisation(seed):
        heads = TeacherHeads(backbone.feature_size, classes)
    with torch.no_grad():
        own = teacher.network.head
        heads.weight[index, : len(own.weight)] = own.weight.to(heads.weight.device)
        heads.bias[index, : len(own.weight)] = 0 if own.bias is None else own.bias.to(heads.bias.device)
    return Learner(backbone, heads, copy.deepcopy(teacher.normalise))


@torch.no_grad()
def best_start(ensemble: TeacherEnsemble, seed: int) -> int:
    """The reliable teacher whose features separate the classes of the other teachers' pools best; the only one, if there is no other.

    An image is classified by the nearest class mean of the other images of its pool; the accuracies are averaged over at most ``POOLS``
    pools. All teachers see the same images, except that none is judged by its own pool.
    """
    candidates = ensemble.reliable
    if len(candidates) == 1:
        return candidates[0]
    rng = devices.generator(seed, "start")
    judged = [candidates[place] for place in torch.randperm(len(candidates), generator=rng)[:POOLS].tolist()]
    parts = {index: _part(ensemble.pools[index], rng) for index in judged}
    accuracies = []
    for index in candidates:
        of_pools = [_leave_one_out_accuracy(ensemble.teachers[index], *part) for other, part in parts.items() if other != index]
        accuracies.append(sum(of_pools) / len(of_pools))
    return candidates[accuracies.index(max(accuracies))]


def _part(pool: Pool, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most ``IMAGES`` images and labels of a pool, of all its classes."""
    rows = balanced_rows(pool.labels, IMAGES, rng)
    return pool.images[rows], pool.labels[rows]


def _leave_one_out_accuracy(teacher: Teacher, images: Tensor, labels: Tensor) -> float:
    features, _ = features_and_logits(teacher, images, teacher.normalise.mean.device)
    return leave_one_out_accuracy(features, labels)


def leave_one_out_accuracy(features: Tensor, labels: Tensor) -> float:
    """The share of centred, unit-length features [N, D] that are nearest to the mean of their class, without the image itself."""
    unit = F.normalize(features - features.mean(0), dim=1)
    members = F.one_hot(labels).to(unit.dtype)
    sums, counts = members.T @ unit, members.sum(0)
    scores = unit @ F.normalize(sums, dim=1).T
    without = F.normalize(sums[labels] - unit, dim=1)
    scores[torch.arange(len(labels)), labels] = (unit * without).sum(1)
    scores[:, counts == 0] = -torch.inf
    return (scores.argmax(1) == labels).float().mean().item()
