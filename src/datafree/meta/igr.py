"""Explicit gradient regularisation: tasks whose gradients differ cost extra; the rival of BELL's implicit alignment."""

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
from datafree.meta.episode_losses import Lesson, joined, losses, prepare
from datafree.meta.grouping import grouped_tasks
from datafree.meta.learner import Learner
from datafree.progress import progress, require_finite
from datafree.tasks.episodes import Episodes


def train(
    learner: Learner, ensemble: TeacherEnsemble, episodes: Episodes, arm: IgrArm, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Train ``learner`` in place; the regulariser of TGR (Wei et al., ICML 2024, arXiv 2405.16560).

    A step minimises mean_i L_i(φ − λ (ḡ − g_i)) over its tasks, differentiated through the displacement. To first order in λ that is
    the mean loss plus λ times the variance of the gradients, mean_i ‖g_i − ḡ‖². With λ = 0 it is plain joint training on BELL's
    losses: the control that tells what alignment adds. With ``arm.groups`` a step's tasks are of one group of unlike teachers, each of one
    teacher alone.
    """
    optimiser = torch.optim.AdamW(learner.parameters(), lr=arm.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arm.learning_rate, total_steps=max(arm.steps, 2))
    start, history = checkpoint.restore(learner=learner, optimiser=optimiser, schedule=schedule)
    learner.train()
    groups = grouped_tasks(ensemble, episodes, arm.groups, seed) if arm.groups else [torch.arange(len(episodes))]

    def own_loss(task: int, rng: torch.Generator) -> Tensor:
        own = episodes.teacher[task].unique().tolist()
        return joined(losses(learner, prepare(ensemble, episodes, task, own, arm.augment, rng), arm), arm.distillation)

    for step in progress(range(start, arm.steps), arm.steps - start, "igr"):
        rng = devices.generator(seed, "igr", step)
        agreement = alignment.of_tasks(learner.backbone, episodes, own_loss, seed, step) if alignment.due(step, arm.steps) else {}
        tasks = draw_tasks(groups, arm.tasks_per_step, rng)
        queried = episodes.teacher[tasks].unique().tolist()
        loss = regularised_loss(learner, [prepare(ensemble, episodes, task, queried, arm.augment, rng) for task in tasks], arm)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        require_finite("igr", step + 1, loss=loss.item())
        history.append({"step": step + 1, "loss": loss.item(), **agreement})
        checkpoint.save(step + 1, history, learner=learner, optimiser=optimiser, schedule=schedule)
    return history


def draw_tasks(groups: Sequence[Tensor], count: int, rng: torch.Generator) -> list[int]:
    """Tasks of one group, which comes up as often as it has tasks."""
    if len(groups) > 1:
        chosen = groups[int(torch.multinomial(torch.tensor([float(len(group)) for group in groups]), 1, generator=rng))]
    else:
        (chosen,) = groups
    return chosen[torch.randint(len(chosen), (count,), generator=rng)].tolist()


def regularised_loss(learner: Learner, lessons: list[Lesson], arm: IgrArm) -> Tensor:
    """mean_i L_i(φ − λ (ḡ − g_i)), a scalar; each L_i on the same views at both places."""
    here = torch.stack([joined(losses(learner, lesson, arm), arm.distillation) for lesson in lessons])
    if arm.regularisation == 0:
        return here.mean()
    names, values = zip(*learner.named_parameters(), strict=True)
    gradients = [torch.autograd.grad(loss, values, create_graph=True) for loss in here]
    mean = [torch.stack(parts).mean(0) for parts in zip(*gradients, strict=True)]
    total = torch.zeros_like(here[0])
    for lesson, gradient in zip(lessons, gradients, strict=True):
        moved = {
            name: value - arm.regularisation * (m - g) for name, value, m, g in zip(names, values, mean, gradient, strict=True)
        }  # fmt: skip
        there = losses(lambda views, queried, moved=moved: functional_call(learner, moved, (views, queried)), lesson, arm)
        total = total + joined(there, arm.distillation) / len(lessons)
    return total
