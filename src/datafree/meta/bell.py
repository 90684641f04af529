"""BELL: meta-learning whose sequential steps align the gradients of different teachers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import BellArm
from datafree.meta.classroom import Classroom
from datafree.meta.learner import Learner
from datafree.meta.losses import EPISODE_SCALE, distillation_loss, episode_loss
from datafree.progress import progress, require_finite
from datafree.tasks.episodes import Episodes, episode_images


def train(
    learner: Learner, classroom: Classroom, episodes: Episodes, arm: BellArm, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Train ``learner`` in place by implicit gradient alignment; FREE (CVPR 2024), BELL.

    An outer step takes tasks of several teachers one after the other, an Adam step each, and then moves the weights φ along the whole
    displacement: φ ← φ + rate · (φ_n − φ). In expectation this follows Σ g_i − β/2 · Σ_{i<j} ∇(g_i · g_j): beside lowering every task's
    loss it raises the inner products of the tasks' gradients, without second derivatives. A task's loss joins the episode's own
    (prototypes of its support, queries) with distillation across tasks: every teacher of the outer step is asked about every task's
    images, by a true KL divergence.
    """
    inner = torch.optim.Adam(learner.parameters(), lr=arm.inner_learning_rate)
    start, history = checkpoint.restore(learner=learner, inner=inner)
    learner.train()
    for step in progress(range(start, arm.steps), arm.steps - start, "BELL"):
        draw = devices.generator(seed, "bell", step)
        before = [parameter.detach().clone() for parameter in learner.parameters()]
        row = {"step": step + 1, "episode": 0.0, "distillation": 0.0}
        tasks = torch.randint(len(episodes), (arm.tasks_per_step,), generator=draw).tolist()
        asked = episodes.teacher[tasks].unique().tolist()
        for task in tasks:
            episode, distillation = task_losses(learner, classroom, episodes, task, asked, arm, draw)
            inner.zero_grad(set_to_none=True)
            ((1 - arm.distillation) * episode + arm.distillation * distillation).backward()
            inner.step()
            row["episode"] += episode.item() / len(tasks)
            row["distillation"] += distillation.item() / len(tasks)
        outer_step(learner, before, arm.outer_learning_rate * (1 - 0.9 * step / max(1, arm.steps - 1)))
        require_finite("BELL", step + 1, episode=row["episode"], distillation=row["distillation"])
        history.append(row)
        checkpoint.save(step + 1, history, learner=learner, inner=inner)
    return history


def task_losses(
    learner: Learner, classroom: Classroom, episodes: Episodes, task: int, asked: Sequence[int], arm: BellArm, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(episode loss, distillation loss from the asked teachers) of one episode, both scalars, from one forward pass."""
    views = classroom.views(episode_images(classroom.pools, episodes, task), draw, arm.augment)
    features = learner.backbone(views).float()
    by_class = features.view(*episodes.index.shape[1:], -1)
    episode = episode_loss(by_class[:, : episodes.shot], by_class[:, episodes.shot :], EPISODE_SCALE)
    distillation = distillation_loss(learner.heads(features, asked), classroom.ask(views, asked), arm.temperature)
    return episode, distillation


@torch.no_grad()
def outer_step(learner: Learner, before: list[Tensor], rate: float) -> None:
    """φ ← φ + rate · (φ_n − φ); with rate 1 and one task this is a plain step."""
    for parameter, old in zip(learner.parameters(), before, strict=True):
        parameter.copy_(old + rate * (parameter - old))
