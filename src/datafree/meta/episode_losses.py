"""One episode as a lesson: its images, what teachers say of them, and the losses of a network on both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datafree.config import BellArm, Divergence, IgrArm
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.losses import at_least_float32, distillation_loss, released_divergence
from datafree.episode_loss import EPISODE_SCALE, episode_loss
from datafree.tasks.episodes import Episodes, episode_images

# Normalised images [B, C, H, W] and the teachers asked → features [B, D] and their heads' logits [B, asked, most classes]: a Learner.
Network = Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Lesson:
    """``views`` [way · (shot + query), C, H, W], class by class, and the ``answers`` [B, asked, most classes] of the ``asked`` teachers."""

    views: Tensor
    queried: list[int]
    predictions: Tensor
    way: int
    shot: int


def prepare(
    ensemble: TeacherEnsemble, episodes: Episodes, task: int, queried: Sequence[int], augment: bool, rng: torch.Generator
) -> Lesson:  # fmt: skip
    """The lesson of one task."""
    views = ensemble.views(episode_images(ensemble.pools, episodes, task), rng, augment)
    return Lesson(views, list(queried), ensemble.predict(views, queried), episodes.index.shape[1], episodes.shot)


def losses(network: Network, lesson: Lesson, arm: BellArm | IgrArm) -> tuple[Tensor, Tensor]:
    """(episode loss, distillation loss from the asked teachers), both scalars, from one forward pass."""
    features, logits = network(lesson.views, lesson.queried)
    by_class = at_least_float32(features).unflatten(0, (lesson.way, -1))
    episode = episode_loss(by_class[:, : lesson.shot], by_class[:, lesson.shot :], EPISODE_SCALE)
    if isinstance(arm, BellArm) and arm.divergence is Divergence.released:
        return episode, released_divergence(logits, lesson.predictions)
    return episode, distillation_loss(logits, lesson.predictions, arm.temperature)


def joined(parts: tuple[Tensor, Tensor], share: float) -> Tensor:
    """The loss that is minimised: ``share`` of distillation, the rest the episode's own."""
    episode, distillation = parts
    return (1 - share) * episode + share * distillation
