from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from datafree.checkpoints import Checkpoint
from datafree.errors import UserError
from datafree.nas.training import minimise


def _fit(steps: int, target: float = 3.0, clip: float = 0.0):
    weight = nn.Parameter(torch.zeros(2))
    optimiser = torch.optim.SGD([weight], 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    states = {"optimiser": optimiser, "schedule": schedule}
    curve = minimise(
        lambda step: (weight - target).square().sum(), steps, optimiser, schedule, "fit", Checkpoint(None), states, gradient_clip=clip
    )
    return weight, curve


def test_the_loss_falls_to_its_minimum():
    weight, curve = _fit(120)
    torch.testing.assert_close(weight.detach(), torch.full((2,), 3.0), rtol=0, atol=1e-3)
    assert curve[0] == {"step": 1, "loss": 18.0, "learning_rate": 0.1}
    assert curve[-1]["step"] == 120
    losses = [row["loss"] for row in curve]
    assert losses == sorted(losses, reverse=True)


def test_the_gradient_norm_is_clipped():
    weight, _ = _fit(1, clip=0.5)
    assert weight.detach().norm().item() == pytest.approx(0.1 * 0.5, rel=1e-4)
    torch.testing.assert_close(_fit(1, clip=100.0)[0], _fit(1)[0])


def test_the_rate_follows_the_schedule():
    for row in _fit(40)[1]:
        assert row["learning_rate"] == pytest.approx(0.05 * (1 + math.cos(math.pi * (row["step"] - 1) / 40)))


def test_a_diverging_loss_is_refused_by_name_and_step():
    with pytest.raises(UserError, match="fit: loss became inf at step 1; lower the learning rate"):
        _fit(5, target=1e30)
