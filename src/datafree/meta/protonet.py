"""Prototypical networks: episodic training on recovered tasks, with optional task mixup."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import ProtoNetArm
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.episode_loss import EPISODE_SCALE, episode_loss
from datafree.meta import alignment
from datafree.meta.learner import Learner
from datafree.progress import progress, require_finite
from datafree.tasks.episodes import Episodes, episode_images
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

    def features_of(task: int, rng: torch.Generator) -> Tensor:
        views = ensemble.views(episode_images(ensemble.images, episodes, task), rng, arm.augment)
        return at_least_float32(learner.backbone(views)).unflatten(0, (episodes.index.shape[1], -1))

    def loss_of(features: Tensor) -> Tensor:
        return episode_loss(features[:, : episodes.shot], features[:, episodes.shot :], EPISODE_SCALE)

    for step in progress(range(start, arm.steps), arm.steps - start, "protonet"):
        rng = devices.generator(seed, "protonet", step)
        row, losses = {"step": step + 1, "episode": 0.0}, []
        if alignment.is_measured(step, arm.steps):
            row |= alignment.task_gradient_cosine(learner.backbone, episodes, lambda task, rng: loss_of(features_of(task, rng)), seed, step)
        optimiser.zero_grad(set_to_none=True)
        for task in torch.randint(len(episodes), (arm.tasks_per_step,), generator=rng).tolist():
            features = features_of(task, rng)
            if arm.task_mixup and torch.rand((), generator=rng) < arm.task_mixup:
                partner = int(torch.randint(len(episodes), (), generator=rng))
                features = mix_tasks(features, features_of(partner, rng), rng)
            loss = loss_of(features)
            (loss / arm.tasks_per_step).backward()
            losses.append(loss.detach())
        optimiser.step()
        schedule.step()
        row["episode"] = torch.stack(losses).mean().item()  # read once, because it waits for a GPU
        require_finite("protonet", step + 1, episode=row["episode"])
        history.append(row)
        checkpoint.save(step + 1, history, learner=learner, optimiser=optimiser, schedule=schedule)
    return history


def mix_tasks(first: Tensor, second: Tensor, rng: torch.Generator) -> Tensor:
    """Features of a mixed task: class w is λ · class w of the first + (1 − λ) · class w of the second, image by image.

    All [way, shot + query, D]; one λ ~ Beta(½, ½) per task. TEAPOT (arXiv 2311.14756), without its selection of teachers.
    """
    share = math.sin(math.pi / 2 * float(torch.rand((), generator=rng, dtype=torch.float64))) ** 2  # the arcsine distribution is Beta(½, ½)
    return share * first + (1 - share) * second
