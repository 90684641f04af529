from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from datafree.checkpoints import Checkpoint
from datafree.config import DartsConfig
from datafree.nas import darts
from datafree.nas.relaxation import Alphas, Trajectory, halves
from datafree.nas.spaces.nasbench201.space import NasBench201Space
from datafree.nas.supernet import new_supernet

SPACE = NasBench201Space(4, 1, 8)
SMALL = DartsConfig(channels=4, supernet_steps=30, batch_size=16, validation=0.2, alpha_learning_rate=0.3, warm_up=0.0)


@pytest.fixture
def double():
    """A supernet and its architecture weights in float64, and its loss as a function of weights for training and validation images."""
    supernet = new_supernet(SPACE, [3], 0, "cpu").double()
    darts.freeze_affine(supernet)
    alphas = Alphas(SPACE, 0).double()
    with torch.no_grad():
        for alpha in alphas.slots:
            alpha.add_(torch.randn(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    rng = torch.Generator().manual_seed(1)
    images = {part: torch.randn(6, 3, 8, 8, generator=rng, dtype=torch.float64) for part in ("weights", "alphas")}
    target, teacher = torch.tensor([0, 1, 2, 0, 1, 2]), torch.zeros(6, dtype=torch.int64)

    def loss(part, values):
        path = alphas.mixture(alphas.probabilities())
        return nn.functional.cross_entropy(functional_call(supernet, dict(values), (images[part], path, teacher)), target)

    weights = {name: value for name, value in supernet.named_parameters() if value.requires_grad}
    return alphas, weights, loss


def _inner(weights, loss, rate=0.1) -> darts.InnerStep:
    rng = torch.Generator().manual_seed(2)
    buffers = {name: 0.01 * torch.randn(value.shape, generator=rng, dtype=torch.float64) for name, value in list(weights.items())[::2]}
    return darts.InnerStep(lambda values: loss("weights", values), rate, 0.9, 3e-4, buffers)


def _finite_differences(alphas, objective, step: float = 1e-7) -> list[torch.Tensor]:
    """The gradient of ``objective()`` with respect to every architecture weight, by central differences."""
    gradients = []
    for alpha in alphas.slots:
        gradient = torch.zeros_like(alpha)
        for place in range(len(alpha)):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    alpha[place] += sign * step
                values.append(objective().item())
                with torch.no_grad():
                    alpha[place] -= sign * step
            gradient[place] = (values[0] - values[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


def test_the_second_order_gradient_equals_finite_differences(double):
    alphas, weights, loss = double
    inner = _inner(weights, loss)
    gradients = darts.architecture_gradient(lambda values: loss("alphas", values), weights, list(alphas.slots), inner)
    expected = _finite_differences(alphas, lambda: loss("alphas", inner(weights)))
    for got, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-8)


def test_the_second_order_term_equals_the_papers_difference_of_gradients(double):
    """Equation 8: the mixed second derivative times v as a difference of two gradients at w ± εv."""
    alphas, weights, loss = double
    inner = _inner(weights, loss)
    slots = list(alphas.slots)
    moved = {name: value.detach().requires_grad_() for name, value in inner(weights).items()}
    at_moved = loss("alphas", moved)
    direct = torch.autograd.grad(at_moved, slots, retain_graph=True)
    v = torch.autograd.grad(at_moved, list(moved.values()), allow_unused=True, materialize_grads=True)
    epsilon = 1e-6 / torch.cat([part.flatten() for part in v]).norm()
    sides = []
    for sign in (1, -1):
        shifted = {name: value.detach() + sign * epsilon * part for (name, value), part in zip(weights.items(), v, strict=True)}
        sides.append(torch.autograd.grad(loss("weights", shifted), slots))
    gradients = darts.architecture_gradient(lambda values: loss("alphas", values), weights, slots, inner)
    for got, first, plus, minus in zip(gradients, direct, *sides, strict=True):
        torch.testing.assert_close(got, first - inner.rate * (plus - minus) / (2 * epsilon), rtol=1e-3, atol=1e-7)
        assert not torch.allclose(got, first)


def test_first_order_is_the_gradient_at_the_current_weights(double):
    alphas, weights, loss = double
    gradients = darts.architecture_gradient(lambda values: loss("alphas", values), weights, list(alphas.slots), None)
    expected = _finite_differences(alphas, lambda: loss("alphas", weights))
    for got, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-8)


def test_the_inner_step_equals_a_step_of_sgd(double):
    _, weights, loss = double
    optimiser = torch.optim.SGD(weights.values(), 0.1, momentum=0.9, weight_decay=3e-4)
    for _ in range(2):
        inner = darts.InnerStep(lambda values: loss("weights", values), 0.1, 0.9, 3e-4, darts.momentum_buffers(weights, optimiser))
        expected = {name: value.detach().clone() for name, value in inner(weights).items()}
        optimiser.zero_grad()
        loss("weights", weights).backward()
        optimiser.step()
        for name, value in weights.items():
            torch.testing.assert_close(value.detach(), expected[name])
    assert darts.momentum_buffers(weights, optimiser)


def test_only_scale_and_shift_of_the_options_are_frozen():
    supernet = new_supernet(SPACE, [3], 0, "cpu")
    darts.freeze_affine(supernet)
    for name, parameter in supernet.named_parameters():
        assert parameter.requires_grad == (not ("edges" in name and "norm" in name)), name


def test_an_auxiliary_skip_raises_the_skip_probability_only():
    options, probability = SPACE.choices[0], torch.full((5,), 0.2)
    raised = darts.add_auxiliary_skip(probability, options, "skip_connect", 0.5)
    assert raised.tolist() == pytest.approx([0.2, 0.7, 0.2, 0.2, 0.2])
    assert darts.add_auxiliary_skip(probability, options, "other", 0.5) is probability


def _search(pools, config):
    space = NasBench201Space(config.channels, config.cells, pools.image_size, pools.image_channels)
    return darts.search(space, pools, config, "key", 0, "cpu", Checkpoint(None))


def test_the_search_lowers_the_entropy_and_the_loss(joined):
    result = _search(joined, SMALL)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert result.history[-1]["entropy"] < 1.5 < result.history[0]["entropy"]  # log 5 = 1.609
    assert list(result.measures)[-1] == result.best
    assert result.facts["skips"] == result.best.count("skip_connect")


def test_halves_share_no_example():
    first, second = halves(torch.arange(100, 121), 0)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(100, 121))
    assert len(first) == 11


def test_a_trajectory_is_restored_from_its_state_dict():
    first, second = Trajectory(SPACE), Trajectory(SPACE)
    first.add(3, SPACE.cheapest())
    first.ended = True
    second.load_state_dict(first.state_dict())
    assert (second.steps, second.ended) == (first.steps, True)
