"""Prototypical networks: episodic training on recovered tasks, with optional task mixup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import ProtoNetArm
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.episode_loss import EPISODE_SCALE, episode_loss
from datafree.meta import alignment
from datafree.meta.learner import Learner
from datafree.meta.task_stacks import TaskStack
from datafree.progress import progress, require_finite
from datafree.tasks.episodes import Episodes, episode_images
from datafree.zoo.backbones import Backbone
from datafree.zoo.logits import at_least_float32


def train(
    learner: Learner, ensemble: TeacherEnsemble, episodes: Episodes, arm: ProtoNetArm, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Train the backbone of ``learner`` in place on episodes alone; Snell et al., NeurIPS 2017, on unit-length features.

    A step averages the losses of several tasks. Support and queries of a task pass through BatchNorm together. No teacher is queried.
    A share ``arm.task_mixup`` of the tasks are mixtures of two tasks' features (``mix_tasks``).
    """
    optimiser = torch.optim.AdamW(learner.backbone.parameters(), lr=arm.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arm.learning_rate, total_steps=max(arm.steps, 2))
    start, history = checkpoint.restore(learner=learner, optimiser=optimiser, schedule=schedule)
    learner.train()

    stack = TaskStack.of(learner.backbone, ensemble.together and arm.tasks_per_step > 1)

    def views_of(task: int, rng: torch.Generator) -> Tensor:
        return ensemble.views(episode_images(ensemble.images, episodes, task), rng, arm.augment)

    def loss_of(features: Tensor) -> Tensor:
        by_class = at_least_float32(features).unflatten(0, (episodes.index.shape[1], -1))
        return episode_loss(by_class[:, : episodes.shot], by_class[:, episodes.shot :], EPISODE_SCALE)

    def task_loss(task: int, rng: torch.Generator) -> Tensor:
        return loss_of(learner.backbone(views_of(task, rng)))

    def sample(task: int, rng: torch.Generator) -> SampledTask:
        views = views_of(task, rng)
        if not arm.task_mixup or torch.rand((), generator=rng) >= arm.task_mixup:
            return SampledTask([views])
        partner = int(torch.randint(len(episodes), (), generator=rng))
        return SampledTask([views, views_of(partner, rng)], mixing_share(rng))

    for step in progress(range(start, arm.steps), arm.steps - start, "protonet"):
        rng = devices.generator(seed, "protonet", step)
        row, losses = {"step": step + 1, "episode": 0.0}, []
        if alignment.is_measured(step, arm.steps):
            row |= alignment.task_gradient_cosine(learner.backbone, episodes, task_loss, seed, step)
        optimiser.zero_grad(set_to_none=True)
        tasks = (sample(task, rng) for task in torch.randint(len(episodes), (arm.tasks_per_step,), generator=rng).tolist())
        for features in features_of(learner.backbone, stack, tasks):
            of_tasks = torch.stack([loss_of(of_task) for of_task in features])
            (of_tasks.sum() / arm.tasks_per_step).backward()
            losses.append(of_tasks.detach())
        optimiser.step()
        schedule.step()
        row["episode"] = torch.cat(losses).mean().item()  # read once, because it waits for a GPU
        require_finite("protonet", step + 1, episode=row["episode"])
        history.append(row)
        checkpoint.save(step + 1, history, learner=learner, optimiser=optimiser, schedule=schedule)
    return history


@dataclass(frozen=True)
class SampledTask:
    """``views`` [way · (shot + query), C, H, W] of one task, or of two that are mixed with ``share`` of the first."""

    views: list[Tensor]
    share: float = 1.0

    def features(self, of_views: Sequence[Tensor]) -> Tensor:
        """The task's features [way · (shot + query), D], at least float32, from those of its views."""
        values = [at_least_float32(features) for features in of_views]
        return values[0] if len(values) == 1 else mix_tasks(values[0], values[1], self.share)


def features_of(backbone: Backbone, stack: TaskStack | None, tasks: Iterable[SampledTask]) -> Iterator[list[Tensor]]:
    """The features of the tasks, one after the other, or with a stack as many at once as fit into the memory of their device."""
    if stack is None:
        for task in tasks:
            yield [task.features([backbone(views) for views in task.views])]
        return
    given = list(tasks)
    for part in stack.parts(given, given[0].views[0], 2):  # views of two tasks each
        rows = stack(lambda network, images: network(images), None, torch.stack([views for task in part for views in task.views]))
        stack.update_running_statistics(task_by_task=True)
        of_views = iter(rows)
        yield [task.features([next(of_views) for _ in task.views]) for task in part]


def mixing_share(rng: torch.Generator) -> float:
    """A random share ~ Beta(½, ½), which is the arcsine distribution."""
    return math.sin(math.pi / 2 * float(torch.rand((), generator=rng, dtype=torch.float64))) ** 2


def mix_tasks(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Features of a mixed task: class w is λ · class w of the first + (1 − λ) · class w of the second, image by image.

    Both are of the same shape, class by class; λ is ``share``. TEAPOT (arXiv 2311.14756), without its selection of teachers.
    """
    return share * first + (1 - share) * second
