"""Auxiliary teachers: other teachers whose BatchNorm statistics regularise the recovery of a teacher's images."""

from __future__ import annotations

from collections.abc import Sequence

from datafree.zoo.backbones import batch_norm_layers
from datafree.zoo.plausibility import never_trained, never_updated
from datafree.zoo.teachers import Teacher


def auxiliary_teachers_of(teacher: Teacher, zoo: Sequence[Teacher]) -> list[Teacher]:
    """The other teachers of the zoo with trained BatchNorm statistics, in the zoo's order."""
    return [other for other in zoo if other.name != teacher.name and has_trained_statistics(other)]


def has_trained_statistics(teacher: Teacher) -> bool:
    """Whether a teacher has BatchNorm layers whose weights and statistics show signs of training."""
    network = teacher.network
    return bool(batch_norm_layers(network)) and not (never_trained(network) or never_updated(network))
