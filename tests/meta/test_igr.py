import dataclasses

import pytest
import torch

from datafree import devices
from datafree.config import IgrArm
from datafree.meta.episode_losses import combined_loss, episode_batch, episode_losses
from datafree.meta.igr import regularised_loss

ARM = IgrArm(steps=1, augment=False)


@pytest.fixture
def setting(fresh_learner, ensemble_of, episodes):
    """A learner in float64 and evaluation mode, and two episode batches."""
    learner = fresh_learner()
    ensemble = ensemble_of(learner)
    batches = [episode_batch(ensemble, episodes, task, [0, 1, 2], False, devices.generator(0)) for task in (0, 5)]
    batches = [dataclasses.replace(batch, views=batch.views.double(), predictions=batch.predictions.double()) for batch in batches]
    return learner.double().eval(), batches


def gradients_of(learner, batches):
    results = []
    for batch in batches:
        loss = combined_loss(episode_losses(learner, batch, ARM), ARM.distillation)
        results.append((loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(learner.parameters()))])))
    return results


def test_to_first_order_it_is_the_mean_loss_plus_the_variance_of_the_gradients(setting):
    learner, batches = setting
    values, gradients = zip(*gradients_of(learner, batches), strict=True)
    centre = sum(gradients) / 2
    variance = sum((gradient - centre).square().sum().item() for gradient in gradients) / 2
    rate = 1e-6
    result = regularised_loss(learner, batches, dataclasses.replace(ARM, regularisation=rate)).item()
    assert (result - sum(values) / 2) / rate == pytest.approx(variance, rel=1e-3)
    assert variance > 0.01


@pytest.mark.parametrize("training", [False, True])
def test_the_gradient_is_that_of_finite_differences(setting, training):
    learner, batches = setting
    learner.train(training)  # BatchNorm by the batch's own statistics
    arm = dataclasses.replace(ARM, regularisation=0.01)
    parameters = list(learner.parameters())
    gradients = torch.autograd.grad(regularised_loss(learner, batches, arm), parameters)
    rng = torch.Generator().manual_seed(2)
    directions = [torch.randn(parameter.shape, generator=rng, dtype=torch.float64) for parameter in parameters]
    width = 1e-8

    def at(distance):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += distance * direction
        return regularised_loss(learner, batches, arm).item()

    difference = at(width) - at(-2 * width)
    claimed = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
    assert difference / (2 * width) == pytest.approx(claimed, rel=1e-4)


def test_the_regularised_step_with_one_task_is_a_plain_step(setting):
    learner, batches = setting
    ((value, gradient),) = gradients_of(learner, batches[:1])
    loss = regularised_loss(learner, batches[:1], dataclasses.replace(ARM, regularisation=0.5))
    result = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(learner.parameters()))])
    assert loss.item() == pytest.approx(value)
    assert torch.allclose(result, gradient, rtol=1e-9, atol=1e-12)


def test_without_regularisation_it_is_the_mean_loss(setting):
    learner, batches = setting
    plain = [value for value, _ in gradients_of(learner, batches)]
    assert regularised_loss(learner, batches, dataclasses.replace(ARM, regularisation=0.0)).item() == pytest.approx(sum(plain) / 2)
    equal = [batches[0], batches[0]]  # the variance of their gradients is zero
    assert regularised_loss(learner, equal, dataclasses.replace(ARM, regularisation=0.1)).item() == pytest.approx(plain[0])
