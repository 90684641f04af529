"""Explicit gradient regularisation (TGR): a penalty on the variance of the tasks' gradients, to compare with BELL's implicit alignment."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import IgrArm
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.meta import alignment
from datafree.meta.episode_losses import (
    EpisodeBatch,
    Network,
    combined_loss,
    episode_batch,
    episode_batches,
    episode_losses,
    queried_teachers,
)
from datafree.meta.grouping import grouped_tasks
from datafree.meta.learner import Learner
from datafree.meta.task_stacks import TaskStack
from datafree.progress import progress, require_finite
from datafree.tasks.episodes import Episodes


def train(
    learner: Learner, ensemble: TeacherEnsemble, episodes: Episodes, arm: IgrArm, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Train ``learner`` in place; the regulariser of TGR (Wei et al., ICML 2024, arXiv 2405.16560).

    A step minimises mean_i L_i(φ − λ (ḡ − g_i)) over its tasks, differentiated through the displacement. To first order in λ that is
    the mean loss plus λ times the variance of the gradients, mean_i ‖g_i − ḡ‖². With λ = 0 it is plain joint training on BELL's
    losses: the control for the effect of alignment. With ``arm.groups`` a step's tasks are of one group of dissimilar teachers, and each
    task is of one teacher.
    """
    optimiser = torch.optim.AdamW(learner.parameters(), lr=arm.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arm.learning_rate, total_steps=max(arm.steps, 2))
    start, history = checkpoint.restore(learner=learner, optimiser=optimiser, schedule=schedule)
    learner.train()
    stack = TaskStack.of(learner, ensemble.together and arm.tasks_per_step > 1)
    groups = grouped_tasks(ensemble, episodes, arm.groups, seed) if arm.groups else [torch.arange(len(episodes))]

    def task_loss(task: int, rng: torch.Generator) -> Tensor:
        teachers = episodes.teacher[task].unique().tolist()
        return combined_loss(
            episode_losses(learner, episode_batch(ensemble, episodes, task, teachers, arm.augment, rng), arm), arm.distillation
        )

    for step in progress(range(start, arm.steps), arm.steps - start, "igr"):
        rng = devices.generator(seed, "igr", step)
        measured = alignment.is_measured(step, arm.steps)
        cosine = alignment.task_gradient_cosine(learner.backbone, episodes, task_loss, seed, step) if measured else {}
        tasks = sample_tasks(groups, arm.tasks_per_step, rng)
        queried = queried_teachers(ensemble, episodes, tasks, arm.queried)
        batches = list(episode_batches(ensemble, episodes, tasks, queried, arm.augment, rng))
        loss = regularised_loss(learner, batches, arm) if stack is None else regularised_loss_together(stack, batches, arm)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        row = {"step": step + 1, "loss": loss.item(), **cosine}
        require_finite("igr", step + 1, loss=row["loss"])
        history.append(row)
        checkpoint.save(step + 1, history, learner=learner, optimiser=optimiser, schedule=schedule)
    return history


def sample_tasks(groups: Sequence[Tensor], count: int, rng: torch.Generator) -> list[int]:
    """``count`` tasks of one group, with replacement; a group's probability is proportional to its number of tasks."""
    if len(groups) > 1:
        group = groups[int(torch.multinomial(torch.tensor([float(len(tasks)) for tasks in groups]), 1, generator=rng))]
    else:
        (group,) = groups
    return group[torch.randint(len(group), (count,), generator=rng)].tolist()


def regularised_loss(learner: Learner, batches: list[EpisodeBatch], arm: IgrArm) -> Tensor:
    """mean_i L_i(φ − λ (ḡ − g_i)), a scalar; each L_i uses the same views at φ and at the displaced weights."""
    losses = torch.stack([combined_loss(episode_losses(learner, batch, arm), arm.distillation) for batch in batches])
    if arm.regularisation == 0:
        return losses.mean()
    names, values = zip(*learner.named_parameters(), strict=True)
    gradients = [torch.autograd.grad(loss, values, create_graph=True) for loss in losses]
    mean = [torch.stack(parts).mean(0) for parts in zip(*gradients, strict=True)]
    total = torch.zeros_like(losses[0])
    for batch, gradient in zip(batches, gradients, strict=True):
        displaced = {
            name: value - arm.regularisation * (m - g) for name, value, m, g in zip(names, values, mean, gradient, strict=True)
        }  # fmt: skip
        parts = episode_losses(
            lambda views, queried, displaced=displaced: functional_call(learner, displaced, (views, queried)), batch, arm
        )
        total = total + combined_loss(parts, arm.distillation) / len(batches)
    return total


def regularised_loss_together(stack: TaskStack, batches: Sequence[EpisodeBatch], arm: IgrArm) -> Tensor:
    """``regularised_loss`` with the losses of all tasks in one pass; the same teachers are queried about every batch."""
    first = batches[0]
    inputs = torch.stack([batch.views for batch in batches]), torch.stack([batch.predictions for batch in batches])

    def loss(network: Network, views: Tensor, predictions: Tensor) -> Tensor:
        batch = EpisodeBatch(views, first.queried, predictions, first.way, first.shot)
        return combined_loss(episode_losses(network, batch, arm), arm.distillation)

    if arm.regularisation == 0:
        losses = stack(loss, None, *inputs)
    else:
        weights = stack.weights(len(batches))
        gradients = torch.autograd.grad(stack(loss, weights, *inputs).sum(), list(weights.values()), create_graph=True)
        displaced = {
            name: value - arm.regularisation * (gradient.mean(0) - gradient)
            for (name, value), gradient in zip(weights.items(), gradients, strict=True)
        }
        losses = stack(loss, displaced, *inputs)
    stack.update_running_statistics(task_by_task=False)
    return losses.mean()
