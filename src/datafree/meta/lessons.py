"""One episode as a lesson: its images, what teachers say of them, and the losses of a network on both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datafree.config import BellArm, Divergence, IgrArm
from datafree.meta.classroom import Classroom
from datafree.meta.losses import EPISODE_SCALE, at_least_float32, distillation_loss, episode_loss, released_divergence
from datafree.tasks.episodes import Episodes, episode_images

# Normalised images [B, C, H, W] and the teachers asked → features [B, D] and their heads' logits [B, asked, most classes]: a Learner.
Network = Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Lesson:
    """``views`` [way · (shot + query), C, H, W], class by class, and the ``answers`` [B, asked, most classes] of the ``asked`` teachers."""

    views: Tensor
    asked: list[int]
    answers: Tensor
    way: int
    shot: int


def prepare(
    classroom: Classroom, episodes: Episodes, task: int, asked: Sequence[int], augment: bool, draw: torch.Generator
) -> Lesson:  # fmt: skip
    """The lesson of one task."""
    views = classroom.views(episode_images(classroom.pools, episodes, task), draw, augment)
    return Lesson(views, list(asked), classroom.ask(views, asked), episodes.index.shape[1], episodes.shot)


def losses(network: Network, lesson: Lesson, arm: BellArm | IgrArm) -> tuple[Tensor, Tensor]:
    """(episode loss, distillation loss from the asked teachers), both scalars, from one forward pass."""
    features, logits = network(lesson.views, lesson.asked)
    by_class = at_least_float32(features).unflatten(0, (lesson.way, -1))
    episode = episode_loss(by_class[:, : lesson.shot], by_class[:, lesson.shot :], EPISODE_SCALE)
    if isinstance(arm, BellArm) and arm.divergence is Divergence.released:
        return episode, released_divergence(logits, lesson.answers)
    return episode, distillation_loss(logits, lesson.answers, arm.temperature)


def joined(parts: tuple[Tensor, Tensor], share: float) -> Tensor:
    """The loss that is minimised: ``share`` of distillation, the rest the episode's own."""
    episode, distillation = parts
    return (1 - share) * episode + share * distillation
