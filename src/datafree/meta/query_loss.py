"""The loss of a task's queries after adaptation to its support: what MAML minimises, and BELL's replay on the pools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.config import AdaptationConfig
from datafree.distillation.losses import distillation_loss
from datafree.meta.adaptation import Loss, adapt, adapt_together, linear
from datafree.meta.episode_losses import combined_loss
from datafree.meta.task_stacks import TaskStack
from datafree.zoo.backbones import Backbone


@dataclass(frozen=True)
class TaskSoftLabels:
    """A teacher's predictions for a task's images: ``probabilities`` [way, shot + query, way] over the task's classes.

    ``share`` is the weight of distillation in a loss, 1 − ``share`` that of the labels; in a stack of tasks a scalar tensor.
    """

    probabilities: Tensor
    share: float | Tensor
    temperature: float

    def loss_of(self, part: slice) -> Loss:
        """The loss function for the images ``part`` of every class."""
        predictions = self.probabilities[:, part].flatten(0, 1)

        def loss(logits: Tensor, target: Tensor) -> Tensor:
            return combined_loss((F.cross_entropy(logits, target), distillation_loss(logits, predictions, self.temperature)), self.share)

        return loss


def query_loss(
    backbone: Backbone, views: Tensor, shot: int, rule: AdaptationConfig, steps: int, second_order: bool, soft: TaskSoftLabels | None = None
) -> tuple[Tensor, Tensor]:
    """(loss of a task's queries after adaptation to its support; their accuracy in [0, 1]), both scalars.

    The loss is cross-entropy, combined with distillation if ``soft`` is given; its backward pass gives the meta-gradient of the
    backbone's parameters. ``views`` are normalised images [way, shot + query, C, H, W]. The order of the classes does not matter, because
    the head starts at zero.
    """
    way, weights = views.shape[0], dict(backbone.named_parameters())
    support, query = views[:, :shot].flatten(0, 1), views[:, shot:].flatten(0, 1)
    target = torch.arange(way, device=views.device)
    inner, outer = (soft.loss_of(slice(shot)), soft.loss_of(slice(shot, None))) if soft else (F.cross_entropy, F.cross_entropy)
    adapted = adapt(
        backbone, weights, support, target.repeat_interleave(shot), way, rule, steps=steps, create_graph=second_order, loss_of=inner
    )  # fmt: skip
    logits, target = adapted.logits(backbone, query), target.repeat_interleave(views.shape[1] - shot)
    return outer(logits, target), (logits.argmax(1) == target).float().mean()


def query_losses(
    stack: TaskStack,
    views: Tensor,
    shot: int,
    rule: AdaptationConfig,
    steps: int,
    second_order: bool,
    soft: Sequence[TaskSoftLabels | None] = (),
) -> tuple[Tensor, Tensor]:
    """``query_loss`` of T tasks in one pass: (losses [T], accuracies [T]), of views [T, way, shot + query, C, H, W].

    ``soft`` has an entry for each task, or none. The running statistics are left to ``stack.update_running_statistics``.
    """
    way = views.shape[1]
    support, query = views[:, :, :shot].flatten(1, 2), views[:, :, shot:].flatten(1, 2)
    target = torch.arange(way, device=views.device)
    support_target, query_target = target.repeat_interleave(shot), target.repeat_interleave(views.shape[2] - shot)
    labels = stacked_soft_labels(soft)

    def inner(logits: Tensor, *task: Tensor) -> Tensor:
        return labels.loss_of(slice(shot), task)(logits, support_target)

    weights, head = adapt_together(stack, support, way, rule, inner, labels.values, steps=steps, create_graph=second_order)

    def evaluate(network: Callable[..., Tensor], images: Tensor, weight: Tensor, bias: Tensor, *task: Tensor) -> tuple[Tensor, Tensor]:
        logits = linear(network(images), (weight, bias))
        loss = labels.loss_of(slice(shot, None), task)(logits, query_target)
        return loss, (logits.argmax(1) == query_target).float().mean()

    return stack(evaluate, weights, query, *head, *labels.values)


def add_query_gradients(
    backbone: Backbone,
    stack: TaskStack | None,
    tasks: Iterable[tuple[Tensor, TaskSoftLabels | None]],
    shot: int,
    rule: AdaptationConfig,
    steps: int,
    second_order: bool,
    divisor: int,
) -> Tensor:
    """Add the meta-gradient of the tasks' query losses, divided by ``divisor``, to the gradients of the backbone's parameters.

    Returns loss and accuracy of each task, [T, 2]. ``tasks`` are the views [way, shot + query, C, H, W] of each with its soft labels.
    With a ``stack`` of the backbone as many tasks are computed at once as fit into the memory of their device.
    """
    results = []
    if stack is None:
        for views, soft in tasks:
            loss, accuracy = query_loss(backbone, views, shot, rule, steps, second_order, soft)
            (loss / divisor).backward()
            results.append(torch.stack([loss.detach(), accuracy]))
        return torch.stack(results)
    given = list(tasks)
    for part in stack.parts(given, given[0][0].flatten(0, 1), steps + 1):
        views, soft = torch.stack([views for views, _ in part]), [soft for _, soft in part]
        losses, accuracies = query_losses(stack, views, shot, rule, steps, second_order, soft)
        (losses.sum() / divisor).backward()
        stack.update_running_statistics(task_by_task=True)
        results.append(torch.stack([losses.detach(), accuracies], 1))
    return torch.cat(results)


class StackedSoftLabels(NamedTuple):
    """``values``: probabilities [T, way, shot + query, way] and shares [T], or nothing for tasks without soft labels."""

    values: tuple[Tensor, ...]
    temperature: float

    def loss_of(self, part: slice, task: tuple[Tensor, ...]) -> Loss:
        """``TaskSoftLabels.loss_of`` for one task, whose part of ``values`` is ``task``; cross-entropy if it is empty."""
        return TaskSoftLabels(*task, temperature=self.temperature).loss_of(part) if task else F.cross_entropy


def stacked_soft_labels(soft: Sequence[TaskSoftLabels | None]) -> StackedSoftLabels:
    """The soft labels of all tasks; a task without any gets arbitrary ones of share 0."""
    known = next((labels for labels in soft if labels), None)
    if known is None:
        return StackedSoftLabels((), 1.0)
    probabilities = torch.stack([labels.probabilities if labels else torch.full_like(known.probabilities, 1.0) for labels in soft])
    shares = torch.tensor([labels.share if labels else 0.0 for labels in soft], dtype=probabilities.dtype)
    return StackedSoftLabels((probabilities, devices.moved(shares, probabilities.device)), known.temperature)
