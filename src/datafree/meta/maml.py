"""MAML and ANIL: learn the weights from which a few gradient steps solve a task."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import AdaptationConfig, MamlArm
from datafree.meta import alignment
from datafree.meta.adaptation import adapt
from datafree.meta.classroom import Classroom
from datafree.meta.learner import Learner
from datafree.progress import progress, require_finite
from datafree.tasks.episodes import Episodes, episode_images
from datafree.zoo.backbones import Backbone


def train(
    learner: Learner, classroom: Classroom, episodes: Episodes, arm: MamlArm, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Train the backbone of ``learner`` in place; Finn et al., ICML 2017, and Raghu et al. (ANIL), ICLR 2020.

    A step averages the query losses of several tasks, each after its own inner steps, and differentiates them with respect to the
    initialisation: through the inner steps, or as if these were constant (``second_order: false``). Support and queries pass through
    BatchNorm separately, each normalised by its own statistics; the running statistics gather both for use without them.
    """
    optimiser = torch.optim.AdamW(learner.backbone.parameters(), lr=arm.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arm.learning_rate, total_steps=max(arm.steps, 2))
    start, history = checkpoint.restore(learner=learner, optimiser=optimiser, schedule=schedule)
    learner.train()

    def of_task(task: int, draw: torch.Generator) -> tuple[Tensor, float]:
        views = classroom.views(episode_images(classroom.pools, episodes, task), draw, arm.augment)
        way = episodes.index.shape[1]
        return query_loss(learner.backbone, views.unflatten(0, (way, -1)), episodes.shot, arm.adaptation, arm.inner_steps, arm.second_order)

    for step in progress(range(start, arm.steps), arm.steps - start, arm.method):
        draw = devices.generator(seed, arm.method, step)
        row = {"step": step + 1, "query_loss": 0.0, "query_accuracy": 0.0}
        if alignment.due(step, arm.steps):
            row |= alignment.of_tasks(learner.backbone, episodes, lambda task, views: of_task(task, views)[0], seed, step)
        optimiser.zero_grad(set_to_none=True)
        for task in torch.randint(len(episodes), (arm.tasks_per_step,), generator=draw).tolist():
            loss, right = of_task(task, draw)
            (loss / arm.tasks_per_step).backward()
            row["query_loss"] += loss.item() / arm.tasks_per_step
            row["query_accuracy"] += right / arm.tasks_per_step
        optimiser.step()
        schedule.step()
        require_finite(arm.method, step + 1, query_loss=row["query_loss"])
        history.append(row)
        checkpoint.save(step + 1, history, learner=learner, optimiser=optimiser, schedule=schedule)
    return history


def query_loss(
    backbone: Backbone, views: Tensor, shot: int, rule: AdaptationConfig, steps: int, second_order: bool
) -> tuple[Tensor, float]:
    """Cross-entropy of a task's queries after adaptation to its support, and their accuracy in [0, 1].

    ``views`` are normalised images [way, shot + query, C, H, W]. Each class is as likely to stand at any place: the head of zeros
    knows none. Backward of the loss gives the meta-gradient on the backbone's parameters.
    """
    way, weights = views.shape[0], dict(backbone.named_parameters())
    support, query = views[:, :shot].flatten(0, 1), views[:, shot:].flatten(0, 1)
    target = torch.arange(way, device=views.device)
    adapted = adapt(
        backbone, weights, support, target.repeat_interleave(shot), way, rule, steps=steps, create_graph=second_order
    )  # fmt: skip
    logits, target = adapted.logits(backbone, query), target.repeat_interleave(views.shape[1] - shot)
    return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean().item()
