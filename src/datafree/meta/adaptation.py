"""Task adaptation (inner loop of MAML and ANIL): gradient steps on the support from a head of zeros; Finn et al., ICML 2017."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from datafree.config import AdaptationConfig, AdaptedPart
from datafree.meta.task_stacks import TaskStack
from datafree.zoo.backbones import Backbone
from datafree.zoo.logits import at_least_float32

Loss = Callable[[Tensor, Tensor], Tensor]  # logits [B, way] and target int64 [B] → scalar


@dataclass(frozen=True)
class TaskNetwork:
    """A backbone's adapted weights by name, and the head of the task: weight [way, D] and bias [way]."""

    weights: Mapping[str, Tensor]
    head: tuple[Tensor, Tensor]

    def logits(self, backbone: nn.Module, views: Tensor) -> Tensor:
        """Normalised images [B, C, H, W] → [B, way]; BatchNorm in the backbone's current mode."""
        return linear(functional_call(backbone, dict(self.weights), (views,)), self.head)


def adapt(
    backbone: Backbone, weights: Mapping[str, Tensor], views: Tensor, target: Tensor, way: int, rule: AdaptationConfig, *,
    steps: int, create_graph: bool, loss_of: Loss = F.cross_entropy,
) -> TaskNetwork:  # fmt: skip
    """Fit a task's support: normalised images ``views`` [B, C, H, W] with ``target`` int64 [B] in [0, way).

    ``weights`` are the backbone's parameters by name; each must require a gradient if the whole network adapts. The head starts at
    zero for every task (Kao et al., "MAML is a Noisy Contrastive Learner", ICLR 2022): any number of classes can be learned, and
    permuted labels permute the predictions. The first step therefore changes only the head. With ``create_graph`` the result is
    differentiable through the steps (second order); without it, they count as constant displacements (first order). The steps minimise
    ``loss_of``.
    """
    if rule.part is AdaptedPart.head:
        features = functional_call(backbone, dict(weights), (views,))
        return TaskNetwork(weights, fit_head(features, target, way, rule.learning_rate, steps, create_graph, loss_of))
    head = zero_head(way, backbone.feature_size, views)
    names, values = list(weights), list(weights.values())
    for _ in range(steps):
        features = functional_call(backbone, dict(zip(names, values, strict=True)), (views,))
        loss = loss_of(linear(features, head), target)
        updated = _gradient_step([*head, *values], loss, rule.learning_rate, create_graph)
        head, values = (updated[0], updated[1]), updated[2:]
    return TaskNetwork(dict(zip(names, values, strict=True)), head)


def adapt_together(
    stack: TaskStack, views: Tensor, way: int, rule: AdaptationConfig, loss_of: Callable[..., Tensor], inputs: Sequence[Tensor], *,
    steps: int, create_graph: bool,
) -> tuple[dict[str, Tensor] | None, tuple[Tensor, Tensor]]:  # fmt: skip
    """``adapt`` for T tasks at once, of support images ``views`` [T, B, C, H, W].

    Returns the weights by name, each [T, ...], or None for those of the network, and the heads: [T, way, D] and [T, way]. The steps
    minimise ``loss_of(logits, *inputs)``, a scalar for one task: logits [B, way] and the task's part of ``inputs``, each [T, ...].
    """

    def loss(network: Callable[[Tensor], Tensor], images: Tensor, weight: Tensor, bias: Tensor, *given: Tensor) -> Tensor:
        return loss_of(linear(network(images), (weight, bias)), *given)

    head = [value.expand(len(views), *value.shape) for value in zero_head(way, stack.backbone.feature_size, views)]
    if rule.part is AdaptedPart.head:
        features = stack(lambda network, images: network(images), None, views)
        fixed = torch.vmap(lambda features, *rest: loss(lambda images: features, features, *rest))
        for _ in range(steps):
            head = _gradient_step(head, fixed(features, *head, *inputs).sum(), rule.learning_rate, create_graph)
        return None, (head[0], head[1])
    names, values = zip(*stack.weights(len(views)).items(), strict=True)
    for _ in range(steps):
        losses = stack(loss, dict(zip(names, values, strict=True)), views, *head, *inputs)
        head_0, head_1, *values = _gradient_step([*head, *values], losses.sum(), rule.learning_rate, create_graph)
        head = [head_0, head_1]
    return dict(zip(names, values, strict=True)), (head[0], head[1])


def fit_head(
    features: Tensor, target: Tensor, way: int, learning_rate: float, steps: int, create_graph: bool = False,
    loss_of: Loss = F.cross_entropy,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The head after ``steps`` on fixed features [B, D]; Raghu et al., "Rapid Learning or Feature Reuse?" (ANIL), ICLR 2020."""
    head = zero_head(way, features.shape[1], features)
    for _ in range(steps):
        loss = loss_of(linear(features, head), target)
        updated = _gradient_step(list(head), loss, learning_rate, create_graph)
        head = (updated[0], updated[1])
    return head


def describe(rule: AdaptationConfig) -> str:
    """How a learner classifies at test time, for its card and the table."""
    if rule.part is AdaptedPart.nothing:
        return "nearest centroid"
    return f"{rule.steps} gradient steps of {rule.learning_rate:g} on the {'whole network' if rule.part is AdaptedPart.network else 'head'}"


def zero_head(way: int, features: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [way, features] and bias [way] of zeros, on the device of ``like`` and at least float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    weight, bias = torch.zeros(way, features, device=like.device, dtype=dtype), torch.zeros(way, device=like.device, dtype=dtype)
    return weight.requires_grad_(), bias.requires_grad_()


def linear(features: Tensor, head: tuple[Tensor, Tensor]) -> Tensor:
    """Logits [B, way], at least float32: a few gradient steps on a few images are sensitive to rounding."""
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(at_least_float32(features), *head)


def _gradient_step(values: list[Tensor], loss: Tensor, rate: float, create_graph: bool) -> list[Tensor]:
    gradients = torch.autograd.grad(loss, values, create_graph=create_graph)
    return [value - rate * gradient for value, gradient in zip(values, gradients, strict=True)]
