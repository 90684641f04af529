"""The loss that the engines share, by formulas of its own."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from datafree.config import InversionLossConfig
from datafree.inversion.losses import within_class_distance
from datafree.inversion.objective import as_row, image_terms, weighted

WEIGHTS = InversionLossConfig(cross_entropy=1.0, batch_norm=0.5, diversity=2.0, diversity_margin=0.6)


@pytest.fixture
def images():
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_terms_are_those_of_what_the_teacher_sees(images, teachers):
    teacher, labels = teachers[1], torch.arange(8) % 4
    terms = image_terms(images, teacher, labels, WEIGHTS, (1, -2))
    seen = (images - 0.4) / 0.2  # the second teacher's normalisation
    moved = seen.roll(1, 2).roll(-2, 3)
    assert torch.allclose(terms["cross_entropy"], F.cross_entropy(teacher.network(moved), labels), atol=1e-5)
    spread = max(0.0, 0.6 - within_class_distance(seen, labels).item())
    assert terms["diversity"].item() == pytest.approx(spread, abs=1e-5)
    inputs = []
    layers = [module for module in teacher.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    handles = [layer.register_forward_hook(lambda layer, args, _: inputs.append(args[0])) for layer in layers]
    teacher.network(moved)
    for handle in handles:
        handle.remove()
    distances = []
    for layer, value in zip(layers, inputs, strict=True):
        mean, variance = value.mean((0, 2, 3)), value.var((0, 2, 3), correction=0)
        distances.append(((mean - layer.running_mean) ** 2 / layer.running_var + ((variance / layer.running_var).sqrt() - 1) ** 2).mean())
    assert torch.allclose(terms["batch_norm"], torch.stack(distances).mean(), rtol=1e-4)
    assert set(terms) == {"cross_entropy", "batch_norm", "diversity"}


def test_the_priors_are_of_the_normalised_images_and_come_with_their_weights(images, teachers):
    weights = dataclasses.replace(WEIGHTS, total_variation=0.1, squared_norm=0.01)
    terms = image_terms(images, teachers[1], torch.arange(8) % 4, weights)
    seen = (images - 0.4) / 0.2
    assert terms["squared_norm"].item() == pytest.approx(seen.square().mean().item(), rel=1e-5)
    assert terms["total_variation"].item() == pytest.approx(25 * 2 / 3, rel=0.05)  # four directions, each 2 var(uniform) / 0.2²


def test_the_total_is_the_weighted_sum():
    terms = dict(zip(("cross_entropy", "batch_norm", "diversity", "squared_norm"), torch.tensor([2.0, 3.0, 5.0, 7.0]), strict=True))
    assert weighted(terms, InversionLossConfig(10, 100, 1000, 0.6, squared_norm=10000)) == 75320
    assert as_row(4, terms) == {"step": 4, "cross_entropy": 2.0, "batch_norm": 3.0, "diversity": 5.0, "squared_norm": 7.0}


def test_every_term_reaches_the_images(images, teachers):
    weights = InversionLossConfig(1.0, 1.0, 1.0, 9.0, 1.0, 1.0)
    images = images.requires_grad_()
    for name, value in image_terms(images, teachers[0], torch.arange(8) % 3, weights).items():
        (gradient,) = torch.autograd.grad(value, images, retain_graph=True)
        assert gradient.abs().sum() > 0, name
