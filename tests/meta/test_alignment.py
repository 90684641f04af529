import math

import pytest
import torch

from datafree.config import TasksConfig
from datafree.meta import alignment
from datafree.tasks.episodes import sample_episodes


class Linear(torch.nn.Module):
    """Two weights, and a buffer that every forward pass changes."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, direction):
        self.passes += 1
        return (self.weight * torch.tensor(direction)).sum()


@pytest.mark.parametrize(
    ("directions", "expected"),
    [
        ([(1.0, 0.0), (5.0, 0.0)], 1.0),
        ([(1.0, 0.0), (0.0, 3.0)], 0.0),
        ([(1.0, 0.0), (-2.0, 0.0)], -1.0),
        ([(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)], (math.sqrt(0.5) + 0 + math.sqrt(0.5)) / 3),
        ([(1.0, 0.0), (0.0, 0.0)], 0.0),  # a gradient of zero
    ],
)
def test_the_cosine_is_the_mean_over_all_pairs(directions, expected):
    network = Linear()
    result = alignment.gradient_cosine(network, [lambda d=d: network(d) for d in directions])
    assert result == {"gradient_cosine": pytest.approx(expected)}
    assert network.passes.item() == 0
    assert network.weight.grad is None


def test_one_loss_has_no_cosine():
    network = Linear()
    assert alignment.gradient_cosine(network, [lambda: network((1.0, 1.0))]) == {}


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 40, 101])
def test_measurements_are_few_and_include_the_first_and_the_last_step(steps):
    measured = [step for step in range(steps) if alignment.is_measured(step, steps)]
    assert measured[0] == 0
    assert measured[-1] == steps - 1
    assert len(measured) <= alignment.MEASUREMENTS + 1


@pytest.mark.parametrize("mixed", [0.0, 0.5, 1.0])
def test_tasks_are_of_different_teachers(pools, mixed):
    episodes = sample_episodes(pools, [1.0] * 3, TasksConfig(way=3, shot=2, query=2, episodes=40, mixed=mixed), seed=0)
    tasks = alignment.tasks_of_different_teachers(episodes, torch.Generator().manual_seed(0))
    assert len(tasks) == 3
    assert len({int(episodes.teacher[task, 0]) for task in tasks}) == 3
    if mixed < 1:
        assert all((episodes.teacher[task] == episodes.teacher[task, 0]).all() for task in tasks)
