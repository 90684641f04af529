"""BELL (FREE, CVPR 2024): meta-learning by sequential steps, with implicit gradient alignment across teachers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import AdaptationConfig, AdaptedPart, BellArm, BellUpdate, Queried
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.meta import alignment
from datafree.meta.episode_losses import combined_loss, episode_batch, episode_batches, episode_losses, queried_teachers
from datafree.meta.learner import Learner
from datafree.meta.query_loss import add_query_gradients
from datafree.meta.task_stacks import TaskStack
from datafree.progress import progress, require_finite
from datafree.tasks.episodes import Episodes, episode_images

RELEASED_SCALE = 67.0  # of the displacement as a gradient; matters only relative to the replay's gradients, which share the Adam


def train(
    learner: Learner, ensemble: TeacherEnsemble, episodes: Episodes, arm: BellArm, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Train ``learner`` in place by implicit gradient alignment; FREE (CVPR 2024), BELL.

    An outer step takes one Adam step on each of several teachers' tasks in sequence, and then moves the weights φ along the total
    displacement: φ ← φ + rate · (φ_n − φ). In expectation the displacement follows Σ g_i − β/2 · Σ_{i<j} ∇(g_i · g_j): besides lowering
    every task's loss it raises the inner products of the tasks' gradients, without second derivatives. A task's loss combines the episode
    loss (queries against prototypes of the support) with distillation across tasks: all teachers, or every teacher of the outer step,
    predict every task's images, with a true KL divergence. With one task per step it is Reptile: no other gradients to align with.

    ``arm.update: adam``, ``divergence: released``, ``queried: own``, ``one_head`` and ``replay`` reproduce the released code.
    """
    released = arm.update is BellUpdate.adam
    inner = torch.optim.Adam(learner.parameters(), lr=arm.inner_learning_rate)
    outer = torch.optim.Adam(learner.parameters(), lr=arm.outer_learning_rate if released else arm.inner_learning_rate)
    start, history = checkpoint.restore(learner=learner, inner=inner, outer=outer)
    learner.train()
    candidates = torch.arange(len(episodes)) if arm.queried is not Queried.own else tasks_of_one_teacher(episodes)

    def task_loss(task: int, rng: torch.Generator) -> Tensor:
        teachers = episodes.teacher[task].unique().tolist()
        return combined_loss(task_losses(learner, ensemble, episodes, task, teachers, arm, rng), arm.distillation)

    for step in progress(range(start, arm.steps), arm.steps - start, "BELL"):
        rng = devices.generator(seed, "bell", step)
        before = [parameter.detach().clone() for parameter in learner.parameters()]
        row, losses = {"step": step + 1, "episode": 0.0, "distillation": 0.0}, []
        if alignment.is_measured(step, arm.steps):
            row |= alignment.task_gradient_cosine(learner.backbone, episodes, task_loss, seed, step)
        if released:
            inner = torch.optim.Adam(learner.parameters(), lr=arm.inner_learning_rate)
        tasks = candidates[torch.randint(len(candidates), (arm.tasks_per_step,), generator=rng)].tolist()
        queried = queried_teachers(ensemble, episodes, tasks, arm.queried)
        for batch in episode_batches(ensemble, episodes, tasks, queried, arm.augment, rng):
            parts = episode_losses(learner, batch, arm)
            inner.zero_grad(set_to_none=True)
            combined_loss(parts, arm.distillation).backward()
            inner.step()
            losses.append(torch.stack(parts).detach())
        if released:
            released_step(learner, before, outer)
        else:
            outer_step(learner, before, outer_learning_rate(arm, step))
        if arm.replay.episodes:
            row |= replay(learner, ensemble, episodes, arm, outer, rng)
        row["episode"], row["distillation"] = torch.stack(losses).mean(0).tolist()  # read once, because it waits for a GPU
        require_finite("BELL", step + 1, **{name: row[name] for name in row if name != "step"})
        history.append(row)
        checkpoint.save(step + 1, history, learner=learner, inner=inner, outer=outer)
    return history


def task_losses(
    learner: Learner, ensemble: TeacherEnsemble, episodes: Episodes, task: int, queried: Sequence[int], arm: BellArm, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """``episode_losses`` of one episode with the predictions of the queried teachers."""
    return episode_losses(learner, episode_batch(ensemble, episodes, task, queried, arm.augment, rng), arm)


def tasks_of_one_teacher(episodes: Episodes) -> Tensor:
    """The indices of the episodes whose classes are of one teacher, int64."""
    return torch.nonzero((episodes.teacher == episodes.teacher[:, :1]).all(1)).flatten()


def outer_learning_rate(arm: BellArm, step: int) -> float:
    """The share of the displacement that is kept at a step (0 to ``arm.steps`` − 1): falls linearly to a tenth."""
    return arm.outer_learning_rate * (1 - 0.9 * step / max(1, arm.steps - 1))


@torch.no_grad()
def outer_step(learner: nn.Module, before: list[Tensor], rate: float) -> None:
    """φ ← φ + rate · (φ_n − φ), where ``before`` is φ; with rate 1 and one task this is a plain step."""
    for parameter, old in zip(learner.parameters(), before, strict=True):
        parameter.copy_(old + rate * (parameter - old))


@torch.no_grad()
def released_step(learner: nn.Module, before: list[Tensor], outer: torch.optim.Optimizer) -> None:
    """Restore φ (``before``) and take one step of ``outer`` with the gradient 67 · (φ − φ_n)."""
    for parameter, old in zip(learner.parameters(), before, strict=True):
        parameter.grad = RELEASED_SCALE * (old - parameter)
        parameter.copy_(old)
    outer.step()


def replay(
    learner: Learner, ensemble: TeacherEnsemble, episodes: Episodes, arm: BellArm, outer: torch.optim.Optimizer, rng: torch.Generator
) -> dict[str, float]:
    """Second-order MAML on episodes of the pools, at least one meta-batch, until ``patience`` in a row bring no better accuracy.

    Returns {"replay": mean query loss of the last meta-batch}. Only the backbone is trained: a task's head starts at zero.
    """
    rule = AdaptationConfig(AdaptedPart.network, arm.replay.inner_steps, arm.replay.learning_rate)
    stack = TaskStack.of(learner.backbone, ensemble.together and arm.replay.episodes > 1)
    best, without_gain, mean_loss = -1.0, 0, 0.0

    def views_of(task: int) -> Tensor:
        views = ensemble.views(episode_images(ensemble.images, episodes, task), rng, arm.augment)
        return views.unflatten(0, (episodes.index.shape[1], -1))

    while best < 0 or without_gain < arm.replay.patience:
        outer.zero_grad(set_to_none=True)
        tasks = torch.randint(len(episodes), (arm.replay.episodes,), generator=rng).tolist()
        given = ((views_of(task), None) for task in tasks)
        results = add_query_gradients(learner.backbone, stack, given, episodes.shot, rule, rule.steps, second_order=True, divisor=1)
        outer.step()
        mean_loss, mean_accuracy = results.mean(0).tolist()
        without_gain = 0 if mean_accuracy > best else without_gain + 1
        best = max(best, mean_accuracy)
    return {"replay": mean_loss}
