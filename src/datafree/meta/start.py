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

IMAGES = 400  # of a pool, on which the features of the other teachers are compared


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

    An image is classified by the nearest class mean of the other images of its pool; the accuracies are averaged over pools.
    """
    candidates = ensemble.reliable
    if len(candidates) == 1:
        return candidates[0]
    accuracies = []
    for index in candidates:
        teacher = ensemble.teachers[index]
        others = [ensemble.pools[other] for other in candidates if other != index]
        of_pools = [_leave_one_out_accuracy(teacher, pool, devices.generator(seed, "start", number)) for number, pool in enumerate(others)]
        accuracies.append(sum(of_pools) / len(of_pools))
    return candidates[accuracies.index(max(accuracies))]


def _leave_one_out_accuracy(teacher: Teacher, pool: Pool, rng: torch.Generator) -> float:
    rows = balanced_rows(pool.labels, IMAGES, rng)
    features, _ = features_and_logits(teacher, pool.images[rows], teacher.normalise.mean.device)
    return leave_one_out_accuracy(features, pool.labels[rows])


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
