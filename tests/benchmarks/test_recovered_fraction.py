import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recovered_fraction import downstream_accuracies, noise_pool, recovered_fraction, smooth_noise, with_soft_labels

from datafree import devices
from datafree.config import BackboneConfig, DistillationArm, EvaluationConfig
from datafree.data.images import ImageSet
from datafree.tasks.pools import real_pool
from datafree.zoo.backbones import Normalise
from datafree.zoo.teachers import soft_labels

CPU = torch.device("cpu")
ARM = DistillationArm(backbone=BackboneConfig("conv4_strided", 8), steps=6, teachers_per_step=2, batch_size=8)
EVALUATION = EvaluationConfig(way=3, shots=[1, 2], query=4, episodes=10)


@given(st.floats(0, 1), st.floats(0.01, 1), st.floats(0, 1))
def test_the_fraction_is_relative_to_noise_and_real_images(noise, gain, share):
    assert recovered_fraction(noise, noise + share * gain, noise + gain) == pytest.approx(share, abs=1e-6)


def test_real_images_no_better_than_noise_are_refused():
    for real in (0.3, 0.2):
        with pytest.raises(ValueError, match="real images to be better than noise"):
            recovered_fraction(0.3, 0.5, real)


def test_noise_is_smooth_with_mean_grey_and_determined_by_its_seed():
    images = smooth_noise(40, 32, devices.generator(0, "noise"))
    assert images.shape == (40, 3, 32, 32)
    assert images.dtype == torch.uint8
    values = images.float() / 255
    assert values.mean().item() == pytest.approx(0.5, abs=0.03)
    assert values.std().item() == pytest.approx(0.25, abs=0.03)
    assert (values[..., 1:] - values[..., :-1]).abs().mean() < 0.5 * (values[1:] - values[:-1]).abs().mean()
    assert torch.equal(images, smooth_noise(40, 32, devices.generator(0, "noise")))
    assert not torch.equal(images, smooth_noise(40, 32, devices.generator(1, "noise")))


def test_pools_of_noise_and_real_images_have_the_teachers_soft_labels(teachers):
    teacher = teachers[1]
    noise = noise_pool(teacher, 3, 16, seed=0)
    assert noise.images.shape == (12, 3, 16, 16)
    assert torch.bincount(noise.labels).tolist() == [3] * 4
    assert not torch.equal(noise.images, noise_pool(dataclasses.replace(teacher, name="other"), 3, 16, seed=0).images)
    names = ("yak", *reversed(teacher.classes))
    images = torch.arange(5 * 4).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).to(torch.uint8).contiguous()
    data = ImageSet(images, torch.arange(5).repeat_interleave(4), names)
    real = with_soft_labels(real_pool(data, teacher.classes, 2), teacher)
    assert real.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert real.images[:, 0, 0, 0].tolist() == [16, 17, 12, 13, 8, 9, 4, 5]
    for pool in (noise, real):
        assert torch.equal(pool.soft_labels, soft_labels(teacher, pool.images))
        assert pool.classes == teacher.classes


def test_downstream_accuracies_depend_on_the_pools_and_repeat(teachers, pools, make_images):
    images, labels = make_images(12, 10, 32, seed=5, noise=1.0)  # hard to classify, so that accuracies differ
    image_set = ImageSet(images, labels, tuple(map(str, range(12))))
    settings = {"normalise": Normalise([0.5] * 3, [0.25] * 3), "seed": 0, "device": CPU}
    first = downstream_accuracies(teachers, pools, ARM, image_set, EVALUATION, **settings)
    assert {shot: len(values) for shot, values in first.items()} == {1: 10, 2: 10}
    assert all(0 <= value <= 1 for values in first.values() for value in values)
    assert first == downstream_accuracies(teachers, pools, ARM, image_set, EVALUATION, **settings)
    noise = [noise_pool(teacher, 8, 32, seed=0) for teacher in teachers]
    assert first != downstream_accuracies(teachers, noise, ARM, image_set, EVALUATION, **settings)
