"""The loss of a task's queries after adaptation to its support: what MAML minimises, and BELL's replay on the pools."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree.config import AdaptationConfig
from datafree.distillation.losses import distillation_loss
from datafree.meta.adaptation import Loss, adapt
from datafree.meta.episode_losses import combined_loss
from datafree.zoo.backbones import Backbone


@dataclass(frozen=True)
class TaskSoftLabels:
    """A teacher's predictions for a task's images: ``probabilities`` [way, shot + query, way] over the task's classes.

    ``share`` is the weight of distillation in a loss, 1 − ``share`` that of the labels.
    """

    probabilities: Tensor
    share: float
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
