import dataclasses

import pytest
import torch

from datafree import devices
from datafree.config import IgrArm
from datafree.meta.episode_losses import joined, losses, prepare
from datafree.meta.igr import regularised_loss

ARM = IgrArm(steps=1, augment=False)


@pytest.fixture
def setting(fresh_learner, classroom_of, episodes):
    """A learner in float64 and evaluation mode, and two lessons."""
    learner = fresh_learner()
    ensemble = classroom_of(learner)
    lessons = [prepare(ensemble, episodes, task, [0, 1, 2], False, devices.generator(0)) for task in (0, 5)]
    lessons = [dataclasses.replace(lesson, views=lesson.views.double(), predictions=lesson.predictions.double()) for lesson in lessons]
    return learner.double().eval(), lessons


def gradients_of(learner, lessons):
    found = []
    for lesson in lessons:
        loss = joined(losses(learner, lesson, ARM), ARM.distillation)
        found.append((loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(learner.parameters()))])))
    return found


def test_to_first_order_it_is_the_mean_loss_and_the_variance_of_the_gradients(setting):
    learner, lessons = setting
    values, gradients = zip(*gradients_of(learner, lessons), strict=True)
    centre = sum(gradients) / 2
    variance = sum((gradient - centre).square().sum().item() for gradient in gradients) / 2
    rate = 1e-6
    found = regularised_loss(learner, lessons, dataclasses.replace(ARM, regularisation=rate)).item()
    assert (found - sum(values) / 2) / rate == pytest.approx(variance, rel=1e-3)
    assert variance > 0.01


@pytest.mark.parametrize("training", [False, True])
def test_its_gradient_is_that_of_finite_differences(setting, training):
    learner, lessons = setting
    learner.train(training)  # BatchNorm by the lesson's own statistics
    arm = dataclasses.replace(ARM, regularisation=0.01)
    parameters = list(learner.parameters())
    gradients = torch.autograd.grad(regularised_loss(learner, lessons, arm), parameters)
    rng = torch.Generator().manual_seed(2)
    directions = [torch.randn(parameter.shape, generator=rng, dtype=torch.float64) for parameter in parameters]
    width = 1e-8

    def at(distance):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += distance * direction
        return regularised_loss(learner, lessons, arm).item()

    difference = at(width) - at(-2 * width)
    claimed = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
    assert difference / (2 * width) == pytest.approx(claimed, rel=1e-4)


def test_the_regularised_step_with_one_task_is_a_plain_step(setting):
    learner, lessons = setting
    ((value, gradient),) = gradients_of(learner, lessons[:1])
    loss = regularised_loss(learner, lessons[:1], dataclasses.replace(ARM, regularisation=0.5))
    found = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(learner.parameters()))])
    assert loss.item() == pytest.approx(value)
    assert torch.allclose(found, gradient, rtol=1e-9, atol=1e-12)


def test_without_regularisation_it_is_the_mean_loss(setting):
    learner, lessons = setting
    plain = [value for value, _ in gradients_of(learner, lessons)]
    assert regularised_loss(learner, lessons, dataclasses.replace(ARM, regularisation=0.0)).item() == pytest.approx(sum(plain) / 2)
    alike = [lessons[0], lessons[0]]  # equal gradients have no variance
    assert regularised_loss(learner, alike, dataclasses.replace(ARM, regularisation=0.1)).item() == pytest.approx(plain[0])
