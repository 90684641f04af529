import math

import pytest
import torch

from datafree import devices
from datafree.zoo.augmentation import random_affine, random_colours


def rng(seed=0):
    return devices.generator(seed, "augmentation")


@pytest.fixture
def images():
    return torch.rand(6, 3, 17, 17, generator=rng(9))


AUGMENTATIONS = [random_affine, random_colours]


def test_zero_strength_changes_nothing(images):
    assert torch.allclose(random_affine(images, rng(), degrees=0, scale=0, shift=0), images, atol=1e-5)
    assert torch.equal(random_colours(images, rng(), strength=0), images)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_the_generator_determines_the_view(images, augment):
    assert torch.equal(augment(images, rng(1)), augment(images, rng(1)))
    assert not torch.equal(augment(images, rng(1)), augment(images, rng(2)))


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_the_view_of_an_image_does_not_depend_on_the_other_images(images, augment):
    expected = augment(images, rng())
    changed = images.clone()
    changed[2] = 0
    view = augment(changed, rng())
    others = [0, 1, 3, 4, 5]
    assert torch.equal(view[others], expected[others])


NOTHING = {"degrees": 0.0, "scale": 0.0, "shift": 0.0}


@pytest.mark.parametrize("change", [{"degrees": 20.0}, {"scale": 0.3}, {"shift": 0.2}])
def test_rotation_scale_and_shift_differ_between_images(images, change):
    views = random_affine(images[:1].expand(6, -1, -1, -1), rng(), **{**NOTHING, **change})
    assert all(not torch.allclose(views[i], views[j], atol=1e-3) for i in range(6) for j in range(i))


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_the_input_is_not_changed_and_gets_a_gradient(images, augment):
    before = images.clone()
    inputs = images.requires_grad_()
    augment(inputs, rng()).sum().backward()
    assert torch.equal(images, before)
    assert inputs.grad.abs().sum() > 0


def test_the_map_is_a_rotation_a_scale_and_a_shift_within_the_limits():
    # In an image of its own coordinates, from -1 to 1, each pixel of a view holds its place in the original.
    side = torch.linspace(-16 / 17, 16 / 17, 17)
    coordinates = torch.stack(torch.meshgrid(side, side, indexing="xy")).expand(2000, -1, -1, -1)
    views = random_affine(coordinates, rng(), degrees=20, scale=0.3, shift=0.1)
    offset = views[:, :, 8, 8]
    linear = torch.stack([views[:, :, 8, 12] - views[:, :, 8, 4], views[:, :, 12, 8] - views[:, :, 4, 8]], 2) * 17 / 16
    product = linear @ linear.transpose(1, 2)
    assert torch.allclose(product, product[:, :1, :1] * torch.eye(2), atol=1e-5)  # no shear
    assert (linear.det() > 0).all()  # no mirror
    angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0]) * 180 / math.pi
    size = 1 / linear.det().sqrt()
    assert angle.abs().max() < 20.01
    assert angle.abs().max() > 19
    assert 0.69 < size.min() < 0.72
    assert 1.28 < size.max() < 1.31
    assert 0.19 < offset.abs().max() < 0.2001  # in coordinates an image is 2 wide
    assert abs(torch.corrcoef(torch.stack([angle, size]))[0, 1]) < 0.1


def test_colour_changes_are_limited_by_the_strength_and_independent_per_channel(images):
    ones, zeros = random_colours(torch.ones(500, 3, 2, 2), rng(), 0.3), random_colours(torch.zeros(500, 3, 2, 2), rng(), 0.3)
    assert (zeros == zeros[..., :1, :1]).all()
    assert zeros.abs().max() <= 0.3
    factor = ones - zeros
    assert 0.69 < factor.min() < 0.71
    assert 1.29 < factor.max() < 1.31
    assert abs(torch.corrcoef(torch.stack([factor[:, 0, 0, 0], factor[:, 1, 0, 0]]))[0, 1]) < 0.15
