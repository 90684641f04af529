"""How far the gradients of different teachers' tasks agree: what BELL raises without being told to."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from datafree import devices
from datafree.tasks.episodes import Episodes

TASKS = 4  # tasks of as many teachers that enter one measurement
MEASUREMENTS = 5  # in one training, before the last step's: each costs about as much as an outer step


def due(step: int, steps: int) -> bool:
    """Whether the agreement is measured at this step (0 to steps − 1): at regular distances, and at the last one."""
    return step % max(1, -(-steps // MEASUREMENTS)) == 0 or step == steps - 1


def of_tasks(
    network: nn.Module, episodes: Episodes, loss_of: Callable[[int, torch.Generator], Tensor], seed: int, step: int
) -> dict[str, float]:
    """The ``gradient_cosine`` of the losses of tasks of different teachers, drawn for this step alone: training does not notice.

    ``loss_of`` takes a task and a generator for its views.
    """
    rng = devices.generator(seed, "alignment", step)
    tasks = tasks_of_teachers(episodes, rng)
    return gradient_cosine(network, [functools.partial(loss_of, task, rng) for task in tasks])


def tasks_of_teachers(episodes: Episodes, rng: torch.Generator) -> list[int]:
    """At most ``TASKS`` episodes, each of classes of one teacher, of different teachers; mixed ones only where there are no others."""
    alone = (episodes.teacher == episodes.teacher[:, :1]).all(1)
    candidates = torch.nonzero(alone).flatten() if alone.any() else torch.arange(len(episodes))
    first_of: dict[int, int] = {}
    for task in candidates[torch.randperm(len(candidates), generator=rng)].tolist():
        first_of.setdefault(int(episodes.teacher[task, 0]), task)
    return list(first_of.values())[:TASKS]


def gradient_cosine(network: nn.Module, losses: Sequence[Callable[[], Tensor]]) -> dict[str, float]:
    """{"gradient_cosine": mean cosine in [−1, 1] over all pairs of the losses' gradients}; empty for fewer than two losses.

    The gradients are those of the network's parameters, each loss a scalar on its own forward pass. Buffers (running statistics) are
    left as they were.
    """
    if len(losses) < 2:
        return {}
    parameters = list(network.parameters())
    directions = []
    with _buffers_kept(network):
        for loss in losses:
            gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
            directions.append(_unit(torch.cat([g.flatten().double() for g in gradients if g is not None])))
    pairs = [torch.dot(first, second).item() for first, second in itertools.combinations(directions, 2)]
    return {"gradient_cosine": sum(pairs) / len(pairs)}


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp_min(torch.finfo(vector.dtype).tiny)


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    before = [buffer.clone() for buffer in network.buffers()]
    yield
    for buffer, old in zip(network.buffers(), before, strict=True):
        buffer.copy_(old)
