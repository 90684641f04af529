"""Gradient alignment: mean cosine between the gradients of different teachers' tasks, which BELL raises implicitly."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from datafree import devices
from datafree.tasks.episodes import Episodes

TASKS = 4  # per measurement, each of another teacher
MEASUREMENTS = 5  # per training, besides the one at the last step: each costs about as much as an outer step


def is_measured(step: int, steps: int) -> bool:
    """Whether the cosine is measured at this step (0 to ``steps`` − 1): at regular intervals and at the last one."""
    return step % max(1, -(-steps // MEASUREMENTS)) == 0 or step == steps - 1


def task_gradient_cosine(
    network: nn.Module, episodes: Episodes, loss_of: Callable[[int, torch.Generator], Tensor], seed: int, step: int
) -> dict[str, float]:
    """The ``gradient_cosine`` of tasks of different teachers, sampled with a generator of its own: training is not affected.

    ``loss_of`` maps a task and an rng for its augmented views to a scalar loss.
    """
    rng = devices.generator(seed, "alignment", step)
    tasks = tasks_of_different_teachers(episodes, rng)
    return gradient_cosine(network, [functools.partial(loss_of, task, rng) for task in tasks])


def tasks_of_different_teachers(episodes: Episodes, rng: torch.Generator) -> list[int]:
    """At most ``TASKS`` episodes, each of one teacher's classes and no two of the same teacher; mixed ones only if there are no others."""
    of_one_teacher = (episodes.teacher == episodes.teacher[:, :1]).all(1)
    candidates = torch.nonzero(of_one_teacher).flatten() if of_one_teacher.any() else torch.arange(len(episodes))
    first_of: dict[int, int] = {}
    for task in candidates[torch.randperm(len(candidates), generator=rng)].tolist():
        first_of.setdefault(int(episodes.teacher[task, 0]), task)
    return list(first_of.values())[:TASKS]


def gradient_cosine(network: nn.Module, losses: Sequence[Callable[[], Tensor]]) -> dict[str, float]:
    """{"gradient_cosine": mean cosine in [−1, 1] over all pairs of the losses' gradients}; empty for fewer than two losses.

    The gradients are with respect to the network's parameters; each loss is a scalar from its own forward pass. Buffers (running
    statistics) are restored.
    """
    if len(losses) < 2:
        return {}
    parameters = list(network.parameters())
    directions = []
    with _restored_buffers(network):
        for loss in losses:
            gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
            directions.append(_unit(torch.cat([g.flatten().double() for g in gradients if g is not None])))
    pairs = torch.stack([torch.dot(first, second) for first, second in itertools.combinations(directions, 2)]).tolist()
    return {"gradient_cosine": sum(pairs) / len(pairs)}


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp_min(torch.finfo(vector.dtype).tiny)


@contextmanager
def _restored_buffers(network: nn.Module) -> Iterator[None]:
    before = [buffer.clone() for buffer in network.buffers()]
    yield
    for buffer, old in zip(network.buffers(), before, strict=True):
        buffer.copy_(old)
