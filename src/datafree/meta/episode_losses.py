"""Losses of one episode: cross-entropy to class prototypes, and distillation from queried teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datafree.config import BellArm, Divergence, IgrArm, Queried
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.losses import released_divergence
from datafree.distillation.objectives import distillation_terms, total
from datafree.episode_loss import EPISODE_SCALE, episode_loss
from datafree.tasks.episodes import Episodes, episode_images
from datafree.zoo.logits import at_least_float32

# As a Learner: views [B, C, H, W] and the queried teachers → features [B, D] and the logits of their heads [B, queried, most classes].
Network = Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class EpisodeBatch:
    """``views`` [B = way · (shot + query), C, H, W], class by class; ``predictions`` [B, queried, most classes] of the queried teachers;
    ``relations`` [B, F] as in ``ReinforcedPools``, if there are any."""

    views: Tensor
    queried: list[int]
    predictions: Tensor
    way: int
    shot: int
    relations: Tensor | None = None


def episode_batch(
    ensemble: TeacherEnsemble, episodes: Episodes, task: int, queried: Sequence[int], augment: bool, rng: torch.Generator
) -> EpisodeBatch:  # fmt: skip
    """The views of episode ``task`` with the predictions of the queried teachers for them."""
    views, predictions, relations = ensemble.queried_views(episodes.teacher[task], episodes.index[task], queried, rng, augment=augment)
    return EpisodeBatch(views, list(queried), predictions, episodes.index.shape[1], episodes.shot, relations)


def queried_teachers(ensemble: TeacherEnsemble, episodes: Episodes, tasks: Sequence[int], queried: Queried) -> list[list[int]]:
    """The teachers to query about each of the tasks of a step: all reliable ones, those of all its tasks, or those of the task itself."""
    if queried is Queried.all:
        return [ensemble.reliable] * len(tasks)
    if queried is Queried.step:
        return [episodes.teacher[tasks].unique().tolist()] * len(tasks)
    return [episodes.teacher[task].unique().tolist() for task in tasks]


def episode_batches(
    ensemble: TeacherEnsemble, episodes: Episodes, tasks: Sequence[int], queried: Sequence[list[int]], augment: bool, rng: torch.Generator
) -> Iterator[EpisodeBatch]:  # fmt: skip
    """``episode_batch`` of each task with its ``queried`` teachers, when it is used; of an ensemble whose teachers are queried together,
    those of all tasks are queried at once if they are the same."""
    if not ensemble.together or ensemble.reinforced is not None or any(of_task != queried[0] for of_task in queried):
        for task, of_task in zip(tasks, queried, strict=True):
            yield episode_batch(ensemble, episodes, task, of_task, augment, rng)
        return
    views = [ensemble.views(episode_images(ensemble.images, episodes, task), rng, augment) for task in tasks]
    predictions = ensemble.predict(torch.cat(views), queried[0]).split([len(of_task) for of_task in views])
    for of_task, predicted in zip(views, predictions, strict=True):
        yield EpisodeBatch(of_task, queried[0], predicted, episodes.index.shape[1], episodes.shot)


def episode_losses(network: Network, batch: EpisodeBatch, arm: BellArm | IgrArm) -> tuple[Tensor, Tensor]:
    """(episode loss, sum of the terms of distillation from the queried teachers), both scalars, from one forward pass."""
    features, logits = network(batch.views, batch.queried)
    by_class = at_least_float32(features).unflatten(0, (batch.way, -1))
    episode = episode_loss(by_class[:, : batch.shot], by_class[:, batch.shot :], EPISODE_SCALE)
    if isinstance(arm, BellArm) and arm.divergence is Divergence.released:
        return episode, released_divergence(logits, batch.predictions)
    terms = distillation_terms(features, logits, batch.predictions, arm.temperature, arm.relational, batch.relations)
    return episode, total(terms)


def combined_loss(parts: tuple[Tensor, Tensor], share: float | Tensor) -> Tensor:
    """(1 − ``share``) · episode loss + ``share`` · distillation loss, a scalar; ``parts`` are the two."""
    episode, distillation = parts
    return (1 - share) * episode + share * distillation
