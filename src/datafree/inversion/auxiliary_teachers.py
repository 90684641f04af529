"""Which other teachers say what images of a domain are like."""

from __future__ import annotations

from collections.abc import Sequence

from datafree.zoo.backbones import batch_norm_layers
from datafree.zoo.plausibility import never_trained, never_updated
from datafree.zoo.teachers import Teacher


def auxiliary_teachers_of(teacher: Teacher, zoo: Sequence[Teacher]) -> list[Teacher]:
    """The other teachers of the zoo that remember statistics: with BatchNorm layers, and neither untrained nor never updated."""
    return [other for other in zoo if other.name != teacher.name and remembers(other)]


def remembers(teacher: Teacher) -> bool:
    """Whether the BatchNorm layers of a teacher hold statistics of images that it was trained on, as far as the weights tell."""
    network = teacher.network
    return bool(batch_norm_layers(network)) and not (never_trained(network) or never_updated(network))
