"""Inversion objective of many teachers of one architecture at once: the terms of ``objective.image_terms`` for every row in one pass.

On a GPU the time of a step hardly depends on the number of rows, until the arithmetic fills the device.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.config import InversionLossConfig, InversionStepConfig
from datafree.inversion.losses import class_places, stacked_total_variation, stacked_within_class_distance, statistics_distance
from datafree.inversion.objective import ExtraTerm, draw_view, largest_warp
from datafree.inversion.rows import Objective, Row, RowObjective, RowTerms
from datafree.zoo.augmentation import affine, affine_amounts
from datafree.zoo.teacher_stacks import TeacherStack, TeacherStacks
from datafree.zoo.teachers import Teacher


@dataclass(frozen=True)
class Views:
    """The random views of one step.

    On the device: ``move`` int64 [R, 2]; ``corner`` int64 [R, 2], top and left of the region, and ``extent``, its height and width;
    ``mirrored`` bool [R]; ``amounts`` float [R, 1 + A, 4, B] of the affine changes before the teacher's network and each auxiliary one.
    ``chosen``: for each row the positions of A auxiliary teachers in the zoo.
    """

    move: Tensor
    corner: Tensor | None
    extent: tuple[int, int]
    mirrored: Tensor | None
    chosen: list[list[int]]
    amounts: Tensor | None


def query(stack: TeacherStack, images: Tensor, move: Tensor, amounts: Tensor | None, warp: Mapping[str, float]) -> tuple[Tensor, Tensor]:
    """Logits [T, B, K] of views of normalised images [T, B, C, H, W], and the distance [T] of their statistics to those of each network.

    Args:
        stack: has been made with ``statistics_distance``, of which the result is the mean over the layers; 0 without BatchNorm.
        move: int64 [T, 2]; see ``rolled``.
        amounts: float [T, 4, B] of ``affine``, whose largest changes are ``warp``; None for none.
    """
    view = rolled(images, move)
    if amounts is not None:
        view = affine(view.flatten(0, 1), amounts.transpose(0, 1).flatten(1), **warp).unflatten(0, view.shape[:2])
    features, distances = stack.networks.observed(view)
    return stack.networks.head(features), torch.stack(distances).mean(0) if distances else view.new_zeros(len(view))


class StackedObjective:
    """The objective of rows whose teachers have one architecture; see ``rows.Objective`` and ``objective.image_terms``.

    All rows choose as many auxiliary teachers, from the same zoo.
    """

    def __init__(self, rows: Sequence[Row], weights: InversionLossConfig, shared: InversionStepConfig) -> None:
        self.weights, self.shared, self.warp = weights, shared, largest_warp(shared)
        teachers = list({id(row.teacher): row.teacher for row in rows}.values())
        place = {id(teacher): number for number, teacher in enumerate(teachers)}
        self.device = teachers[0].normalise.mean.device
        self.query = devices.compiled(query, "inversion.compile") if shared.compile and self.device.type == "cuda" else query
        self.teachers = TeacherStack.of(teachers, statistics_distance)
        if len(teachers) > 1:
            self.teachers = self.teachers.select(torch.tensor([place[id(row.teacher)] for row in rows], device=self.device))
        self.others = [row.auxiliary_teachers for row in rows]
        self.auxiliary = auxiliary_stacks(self.others[0].zoo) if shared.auxiliary_teachers and len(self.others[0]) else None

    def __call__(
        self, images: Tensor, labels: Tensor, rngs: Sequence[torch.Generator], *, targets: Tensor | None = None, flip: bool = False
    ) -> RowTerms:
        views = self._draw(images, rngs, flip)
        shown = images if views.mirrored is None else torch.where(views.mirrored[:, None, None, None, None], images.flip(-1), images)
        visible = 255 * (shown if views.corner is None else cut(shown, views.corner, views.extent))
        normalised = self.teachers.normalise(visible)
        amounts = None if views.amounts is None else views.amounts[:, 0]
        logits, statistics = self.query(self.teachers, normalised, views.move, amounts, self.warp)
        log_probabilities = F.log_softmax(logits, dim=-1)
        if targets is None:
            entropy = -log_probabilities.gather(-1, self._moved(labels)[..., None])[..., 0].mean(1)
        else:
            entropy = -(targets * log_probabilities).sum(-1).mean(1)
        terms = {"cross_entropy": entropy, "batch_norm": statistics}
        if self.auxiliary is not None:
            distances = [self._auxiliary_distance(visible, views, number) for number in range(len(views.chosen[0]))]
            terms["auxiliary_teachers"] = torch.stack(distances).mean(0)
        return RowTerms(terms | self._prior_terms(normalised, labels), self._changeable(images.shape[-1], views))

    def learn(self) -> None:
        """Nothing: no term has a state."""

    def _auxiliary_distance(self, visible: Tensor, views: Views, number: int) -> Tensor:
        """The distances [R] of the statistics to those of each row's chosen auxiliary teacher of this number."""
        assert self.auxiliary is not None
        # The numbers of rows of several architectures change from step to step, and each would be compiled anew.
        compute = self.query if len(self.auxiliary.stacks) == 1 else query
        distances, order = [], []
        for stack, rows in self.auxiliary.of([choice[number] for choice in views.chosen]):
            index = slice(None) if len(rows) == len(visible) else self._moved(torch.tensor(rows))
            amounts = None if views.amounts is None else views.amounts[index, 1 + number]
            distances.append(compute(stack, stack.normalise(visible[index]), views.move[index], amounts, self.warp)[1])
            order += rows
        if len(distances) == 1:
            return distances[0]
        return torch.cat(distances)[self._moved(torch.tensor(sorted(range(len(order)), key=order.__getitem__)))]

    def _prior_terms(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``objective.prior_terms`` of each row of normalised images float [R, B, C, H, W]."""
        weights, places = self.weights, (self._moved(part) for part in class_places(labels))
        terms = {"diversity": (weights.diversity_margin - stacked_within_class_distance(images, *places)).clamp_min(0)}
        if weights.total_variation:
            terms["total_variation"] = stacked_total_variation(images)
        if weights.squared_norm:
            terms["squared_norm"] = images.square().flatten(1).mean(1)
        return terms

    def _draw(self, images: Tensor, rngs: Sequence[torch.Generator], flip: bool) -> Views:
        """The same numbers as for one row after the other, in the same order from each row's generator; one transfer to the device each."""
        drawn, mirrored, amounts = [], [], []
        for others, rng in zip(self.others, rngs, strict=True):
            drawn.append(draw_view(images.shape[-1], self.shared, rng, len(others)))
            if flip:
                mirrored.append(bool(torch.rand((), generator=rng) < 0.5))
            if self.shared.augmentation:
                networks = 1 + len(drawn[-1].chosen)
                amounts.append(affine_amounts(networks * images.shape[1], rng).view(networks, 4, -1))  # those of each network in turn
        regions = [view.region for view in drawn if view.region is not None]
        return Views(
            move=self._moved(torch.tensor([view.move for view in drawn])),
            corner=self._moved(torch.tensor([(region.top, region.left) for region in regions])) if regions else None,
            extent=(regions[0].height, regions[0].width) if regions else (0, 0),
            mirrored=self._moved(torch.tensor(mirrored)) if flip else None,
            chosen=[[others.position(index) for index in view.chosen] for others, view in zip(self.others, drawn, strict=True)],
            amounts=self._moved(torch.stack(amounts)) if amounts else None,
        )

    def _moved(self, values: Tensor) -> Tensor:
        return devices.moved(values, self.device)

    def _changeable(self, size: int, views: Views) -> Tensor | None:
        if views.corner is None:
            return None
        places = torch.arange(size, device=self.device)
        inside = [
            (places >= first[:, None]) & (places < first[:, None] + length)
            for first, length in zip(views.corner.unbind(1), views.extent, strict=True)
        ]
        mask = (inside[0][:, :, None] & inside[1][:, None, :])[:, None, None]
        return mask if views.mirrored is None else torch.where(views.mirrored[:, None, None, None, None], mask.flip(-1), mask)


def objective_of(
    rows: Sequence[Row], weights: InversionLossConfig, shared: InversionStepConfig, *, together: bool, extras: Sequence[ExtraTerm] = ()
) -> Objective:
    """The objective of the rows: all in one pass if ``together``, for which their teachers must be of one architecture."""
    return StackedObjective(rows, weights, shared) if together else RowObjective(rows, weights, shared, extras)


# Rows of many batches have one zoo; a step of the meta-generator is too short to stack all of its teachers each time.
@functools.lru_cache(maxsize=2)
def auxiliary_stacks(zoo: Sequence[Teacher]) -> TeacherStacks:
    """The stacks of the zoo's teachers, for ``query``."""
    return TeacherStacks(zoo, statistics_distance)


def rolled(images: Tensor, move: Tensor) -> Tensor:
    """Images [R, B, C, H, W], those of each row rolled by its ``move`` (down, right), int64 [R, 2]; as ``torch.roll`` row by row."""
    height, width = images.shape[-2:]
    down, right = move.unbind(1)
    rows = (torch.arange(height, device=move.device) - down[:, None]) % height
    columns = (torch.arange(width, device=move.device) - right[:, None]) % width
    return picked(images, rows, columns)


def cut(images: Tensor, corner: Tensor, extent: tuple[int, int]) -> Tensor:
    """The region of images [R, B, C, H, W] at each row's ``corner`` (top, left), int64 [R, 2]; ``extent``: height and width."""
    top, left = corner.unbind(1)
    rows, columns = (first[:, None] + torch.arange(length, device=corner.device) for first, length in zip((top, left), extent, strict=True))
    return picked(images, rows, columns)


def picked(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of images [R, B, C, H, W] at ``rows`` int64 [R, H'] and ``columns`` int64 [R, W'] of each row's own."""
    places = rows[:, :, None] * images.shape[-1] + columns[:, None, :]
    index = places.flatten(1)[:, None, None].expand(-1, *images.shape[1:3], -1)
    return images.flatten(-2).gather(-1, index).unflatten(-1, places.shape[1:])
