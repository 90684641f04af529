"""Input and result of an inversion method: one teacher's recovery, and the recovered images with labels, soft labels and loss history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from datafree.checkpoints import Checkpoint
from datafree.errors import UserError
from datafree.inversion.rows import NO_TEACHERS, OtherTeachers
from datafree.zoo.teachers import Teacher


@dataclass(frozen=True)
class Recovery:
    """The recovery of one teacher's images.

    Attributes:
        teacher: frozen, on the device to compute on; never changed.
        seed: determines every random number; global random state is neither read nor changed.
        checkpoint: saves and restores progress; an interrupted recovery continues to the same result.
        auxiliary_teachers: other teachers of the zoo whose BatchNorm statistics regularise the images, on the same device.
    """

    teacher: Teacher
    seed: int
    checkpoint: Checkpoint
    auxiliary_teachers: OtherTeachers = NO_TEACHERS


@dataclass(frozen=True)
class Recovered:
    """One teacher's recovered images, on the CPU.

    Attributes:
        images: uint8 [N, 3, S, S] in 0..255.
        labels: int64 [N] in the teacher's order, every class equally often.
        soft_labels: float16 [N, K], the teacher's probabilities for these uint8 images.
        history: one row per step: ``step`` from 1, and the terms of the loss before weighting.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    history: list[dict[str, float]]


Outcome = Recovered | UserError  # the error of a recovery that failed
Outcomes = Iterator[tuple[int, Outcome]]  # with the index of the recovery


def one_by_one(recoveries: Sequence[Recovery], recover: Callable[[Recovery], Recovered]) -> Outcomes:
    """Recover one teacher after the other; an error of one does not stop the others."""
    for index, recovery in enumerate(recoveries):
        try:
            yield index, recover(recovery)
        except UserError as error:
            yield index, error
