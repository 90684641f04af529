"""The inversion objective, compared with formulas written out here."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from datafree import devices
from datafree.config import InversionConfig, InversionLossConfig
from datafree.inversion.losses import within_class_distance
from datafree.inversion.objective import as_row, image_terms, random_view, weighted
from datafree.inversion.regions import Region
from datafree.zoo.augmentation import random_affine

WEIGHTS = InversionLossConfig(cross_entropy=1.0, batch_norm=0.5, diversity=2.0, diversity_margin=0.6)


@pytest.fixture
def images():
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_terms_are_those_of_the_shifted_normalised_images(images, teachers):
    teacher, labels = teachers[1], torch.arange(8) % 4
    terms = image_terms(images, teacher, labels, WEIGHTS, move=(1, -2))
    normalised = (images - 0.4) / 0.2  # the second teacher's normalisation
    shifted = normalised.roll(1, 2).roll(-2, 3)
    assert torch.allclose(terms["cross_entropy"], F.cross_entropy(teacher.network(shifted), labels), atol=1e-5)
    spread = max(0.0, 0.6 - within_class_distance(normalised, labels).item())
    assert terms["diversity"].item() == pytest.approx(spread, abs=1e-5)
    inputs = []
    layers = [module for module in teacher.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    handles = [layer.register_forward_hook(lambda layer, args, _: inputs.append(args[0])) for layer in layers]
    teacher.network(shifted)
    for handle in handles:
        handle.remove()
    distances = []
    for layer, value in zip(layers, inputs, strict=True):
        mean, variance = value.mean((0, 2, 3)), value.var((0, 2, 3), correction=0)
        distances.append(((mean - layer.running_mean) ** 2 / layer.running_var + ((variance / layer.running_var).sqrt() - 1) ** 2).mean())
    assert torch.allclose(terms["batch_norm"], torch.stack(distances).mean(), rtol=1e-4)
    assert set(terms) == {"cross_entropy", "batch_norm", "diversity"}


def test_priors_are_of_the_normalised_images_and_present_if_weighted(images, teachers):
    weights = dataclasses.replace(WEIGHTS, total_variation=0.1, squared_norm=0.01)
    terms = image_terms(images, teachers[1], torch.arange(8) % 4, weights)
    normalised = (images - 0.4) / 0.2
    assert terms["squared_norm"].item() == pytest.approx(normalised.square().mean().item(), rel=1e-5)
    assert terms["total_variation"].item() == pytest.approx(25 * 2 / 3, rel=0.05)  # four directions, each 2 var(uniform) / 0.2²


def test_the_total_is_the_weighted_sum():
    terms = dict(zip(("cross_entropy", "batch_norm", "diversity", "squared_norm"), torch.tensor([2.0, 3.0, 5.0, 7.0]), strict=True))
    assert weighted(terms, InversionLossConfig(10, 100, 1000, 0.6, squared_norm=10000)) == 75320
    assert as_row(4, terms) == {"step": 4, "cross_entropy": 2.0, "batch_norm": 3.0, "diversity": 5.0, "squared_norm": 7.0}


def test_every_term_has_a_gradient_for_the_images(images, teachers):
    weights = InversionLossConfig(1.0, 1.0, 1.0, 9.0, 1.0, 1.0)
    images = images.requires_grad_()
    for name, value in image_terms(images, teachers[0], torch.arange(8) % 3, weights).items():
        (gradient,) = torch.autograd.grad(value, images, retain_graph=True)
        assert gradient.abs().sum() > 0, name


def test_only_the_region_is_used_resized_to_the_teachers_input(images, teachers):
    teacher, labels, region = teachers[1], torch.arange(8) % 4, Region(4, 8, 16, 16)
    weights = dataclasses.replace(WEIGHTS, total_variation=0.1)
    images = images.requires_grad_()
    terms = image_terms(images, teacher, labels, weights, region=region)
    part = F.interpolate(images[:, :, 4:20, 8:24] * 255, size=(32, 32), mode="bilinear", antialias=True)
    alone = image_terms(part / 255, teacher, labels, weights)
    assert all(torch.allclose(terms[name], alone[name], rtol=1e-4) for name in alone)
    (gradient,) = torch.autograd.grad(weighted(terms, weights), images)
    assert gradient[:, :, 4:20, 8:24].abs().min(0).values.max() > 0
    gradient[:, :, 4:20, 8:24] = 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_targets_replace_the_labels(images, teachers):
    labels, targets = torch.arange(8) % 4, torch.full((8, 4), 0.25)
    cross_entropy = image_terms(images, teachers[1], labels, WEIGHTS, targets=targets)["cross_entropy"]
    logits = teachers[1].network(teachers[1].normalise(255 * images))
    assert torch.allclose(cross_entropy, -0.25 * logits.log_softmax(1).sum(1).mean(), atol=1e-5)


def test_augmentation_affects_the_networks_input_but_not_the_priors(images, teachers):
    labels = torch.arange(8) % 4
    plain = image_terms(images, teachers[1], labels, WEIGHTS)
    dark = image_terms(images, teachers[1], labels, WEIGHTS, augment=torch.zeros_like)
    logits = teachers[1].network(torch.zeros(8, 3, 32, 32))
    assert torch.allclose(dark["cross_entropy"], F.cross_entropy(logits, labels), atol=1e-5)
    assert torch.equal(dark["diversity"], plain["diversity"])


def test_a_random_view_follows_the_settings(images):
    def view(**changes):
        shared = InversionConfig(**{"shift": 0, "augmentation": 0.0, "region": 1.0, **changes})
        return random_view(32, shared, devices.generator(0, "view"))

    assert view() == {"move": (0, 0), "region": None, "augment": None, "auxiliary_teachers": []}
    assert view(region=0.5)["region"].height == 16
    moves = [random_view(32, InversionConfig(shift=2), devices.generator(seed, "view"))["move"] for seed in range(60)]
    assert {place for move in moves for place in move} == {-2, -1, 0, 1, 2}
    augmented = view(augmentation=2.0)["augment"](images)
    rng = devices.generator(0, "view")
    torch.randint(0, 1, (2,), generator=rng)
    assert torch.equal(augmented, random_affine(images, rng, degrees=30.0, scale=0.3, shift=0.2))


def test_auxiliary_teachers_compare_the_images_statistics(teachers):
    images, labels = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    weights = InversionLossConfig()
    alone = image_terms(images, teachers[0], labels, weights)
    both = image_terms(images, teachers[0], labels, weights, auxiliary_teachers=teachers[1:])
    assert "auxiliary_teachers" not in alone
    each = [image_terms(images, teacher, labels, weights)["batch_norm"].item() for teacher in teachers[1:]]
    assert both["auxiliary_teachers"].item() == pytest.approx(sum(each) / 2, rel=1e-5)
    assert all(torch.equal(both[name], alone[name]) for name in alone)


def test_auxiliary_teachers_are_chosen_at_random_for_every_step(teachers):
    shared = InversionConfig(auxiliary_teachers=1, augmentation=0.0)
    chosen = {random_view(32, shared, torch.Generator().manual_seed(seed), teachers)["auxiliary_teachers"][0].name for seed in range(20)}
    assert chosen == {teacher.name for teacher in teachers}
    assert random_view(32, InversionConfig(auxiliary_teachers=0), torch.Generator(), teachers)["auxiliary_teachers"] == []
    assert len(random_view(32, InversionConfig(auxiliary_teachers=9), torch.Generator(), teachers)["auxiliary_teachers"]) == len(teachers)
