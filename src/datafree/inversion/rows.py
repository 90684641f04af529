"""Rows: batches of images that are optimised independently of each other, each for one teacher, and their loss terms row by row.

The tensors of all rows have the same shape and are stacked on a first dimension R. ``StackedObjective`` computes the same terms for all
rows in one pass; ``RowObjective``, one row after the other, is the faster one on a CPU and takes terms with a state of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from datafree.config import InversionLossConfig, InversionStepConfig
from datafree.inversion.objective import ExtraTerm, image_terms, random_view
from datafree.inversion.regions import region_mask
from datafree.zoo.teachers import Teacher, TeacherSequence


class OtherTeachers(TeacherSequence):
    """The teachers of a zoo except one, in the zoo's order; ``place`` is the position of that one, None if it is not among them.

    ``zoo`` is shared by all rows, and its teachers may be read when they are used.
    """

    def __init__(self, zoo: Sequence[Teacher], place: int | None) -> None:
        self.zoo, self.place = zoo, place

    def __len__(self) -> int:
        return len(self.zoo) - (self.place is not None)

    def at(self, position: int) -> Teacher:
        return self.zoo[self.position(position)]

    def position(self, index: int) -> int:
        """The position in the zoo of the teacher at ``index``, which is not negative."""
        return index if self.place is None or index < self.place else index + 1


NO_TEACHERS = OtherTeachers((), None)


@dataclass(frozen=True)
class Row:
    """One batch of images: its teacher, on the device to compute on, the seed of its random numbers, and the auxiliary teachers."""

    teacher: Teacher
    seed: int
    auxiliary_teachers: OtherTeachers = NO_TEACHERS


@dataclass(frozen=True)
class RowTerms:
    """``terms``: the loss terms before weighting, float [R] each. ``changeable``: bool [R, 1, 1, S, S], the pixels that the step may
    change; None for all."""

    terms: Mapping[str, Tensor]
    changeable: Tensor | None = None


class Objective(Protocol):
    """The loss terms of the rows for images float [R, B, C, S, S] in [0, 1] and labels int64 [R, B] on the CPU, differentiable.

    ``rngs``, one per row, draw the random view; with ``flip`` the images are mirrored with probability ½. ``targets`` float [R, B, K],
    zero beyond a teacher's classes, replace the labels.
    """

    def __call__(
        self, images: Tensor, labels: Tensor, rngs: Sequence[torch.Generator], *, targets: Tensor | None = None, flip: bool = False
    ) -> RowTerms: ...

    def learn(self) -> None:
        """Train the states of the terms that have one, after a step."""


class RowObjective:
    """The objective of the rows, one after the other; see ``Objective`` and ``objective.image_terms``."""

    def __init__(
        self, rows: Sequence[Row], weights: InversionLossConfig, shared: InversionStepConfig, extras: Sequence[ExtraTerm] = ()
    ) -> None:
        self.rows, self.weights, self.shared, self.extras = rows, weights, shared, extras
        self._learn: list[Callable[[], None]] = []

    def __call__(
        self, images: Tensor, labels: Tensor, rngs: Sequence[torch.Generator], *, targets: Tensor | None = None, flip: bool = False
    ) -> RowTerms:
        terms, masks = [], []
        self._learn, labels = [], labels.to(images.device)
        for place, (row, rng) in enumerate(zip(self.rows, rngs, strict=True)):
            size = images.shape[-1]
            view = random_view(size, self.shared, rng, row.auxiliary_teachers)
            mirrored = flip and bool(torch.rand((), generator=rng) < 0.5)
            shown = images[place].flip(3) if mirrored else images[place]
            wanted = None if targets is None else targets[place, :, : len(row.teacher.classes)]
            of_row = image_terms(shown, row.teacher, labels[place], self.weights, targets=wanted, **view)
            terms.append(of_row | {extra.name: extra.term(shown, labels[place], row.teacher, rng) for extra in self.extras})
            self._learn += [functools.partial(extra.learn, shown, row.teacher) for extra in self.extras]
            if view["region"] is not None:
                mask = region_mask(size, size, view["region"]).to(images.device) > 0
                masks.append(mask.flip(3) if mirrored else mask)
        return RowTerms({name: torch.stack([of_row[name] for of_row in terms]) for name in terms[0]}, torch.stack(masks) if masks else None)

    def learn(self) -> None:
        """Train the states of the extra terms, after a step."""
        for learn in self._learn:
            learn()
