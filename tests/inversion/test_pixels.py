import dataclasses
import itertools
import math

import pytest
import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionConfig, InversionLossConfig, PixelInversion
from datafree.errors import UserError
from datafree.inversion import pixels
from datafree.inversion.label_calibration import calibrated_targets
from datafree.inversion.losses import jensen_shannon
from datafree.inversion.pixels import Competitor, recover

SHARED = InversionConfig(images_per_class=4, shift=1, augmentation=0.0)


def method(**changes) -> PixelInversion:
    return PixelInversion(**{"steps": 6, "batch_size": 7, **changes})


def pool(teacher, settings=None, shared=SHARED, seed=0, size=32, checkpoint=None):
    return recover(teacher, settings or method(), shared, size=size, start=None, seed=seed, checkpoint=checkpoint or Checkpoint(None))


@pytest.mark.parametrize("settings", [{}, {"coarse": 0.0}, {"flip": True, "competition": 1.0}])
def test_a_pool_is_whole_and_its_seed_decides_it(teachers, settings, state_of, assert_same_state):
    teacher = teachers[1]
    before = state_of(teacher.network)
    first, second = (pool(teacher, method(**settings)) for _ in range(2))
    assert first.images.shape == (16, 3, 32, 32)
    assert first.images.dtype == torch.uint8
    assert torch.bincount(first.labels).tolist() == [4] * 4
    assert first.soft_labels.shape == (16, 4)
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, pool(teacher, method(**settings), seed=1).images)
    assert_same_state(state_of(teacher.network), before)
    assert len(first.history) == 3 * 6  # batches of 6, 5 and 5 images


def test_the_teacher_believes_the_images(teachers):
    teacher = teachers[2]
    found = pool(teacher, method(steps=40, batch_size=20))
    chance = pool(teacher, method(steps=1, batch_size=20))
    believed = [result.soft_labels.float().gather(1, result.labels[:, None]).mean().item() for result in (found, chance)]
    assert believed[0] > 0.9
    assert believed[0] > believed[1] + 0.3
    assert found.history[-1]["batch_norm"] < 0.5 * chance.history[-1]["batch_norm"]


def test_another_size_and_grey_teachers_are_served(make_teacher):
    teacher = make_teacher("other", ("a", "b"), 4, size=16)
    assert pool(teacher, size=24).images.shape == (8, 3, 24, 24)


@pytest.fixture
def seen(monkeypatch):
    """What image_terms is asked about: (images, weights, its further arguments) of every step."""
    calls, original = [], pixels.image_terms

    def watch(images, teacher, labels, weights, **view):
        calls.append((images.detach().clone(), weights, view))
        return original(images, teacher, labels, weights, **view)

    monkeypatch.setattr(pixels, "image_terms", watch)
    return calls


def test_the_first_steps_are_at_half_the_resolution(teachers, seen):
    pool(teachers[0], method(steps=10, batch_size=100, coarse=0.3))
    pool(teachers[0], method(steps=4, batch_size=100, coarse=0.0))
    pool(teachers[0], method(steps=1, batch_size=100, coarse=0.9))
    assert [images.shape[-1] for images, _, _ in seen] == [16] * 3 + [32] * 7 + [32] * 4 + [32]
    assert all(len(images) == 12 for images, _, _ in seen)


def test_images_stay_and_start_from_noise_of_their_own(teachers, seen):
    pool(teachers[0], method(steps=2, batch_size=6, coarse=0.0))
    first, second, other, _ = (images for images, _, _ in seen)
    assert len(first.flatten(1).unique(dim=0)) == 6
    assert 0 < (first - second).abs().mean() < 0.05  # Adam's first step at .1, in units of a quarter of the range
    assert not torch.equal(first, other)


def test_priors_are_the_methods_own_and_views_are_moved(teachers, seen):
    pool(teachers[0], method(steps=40, batch_size=100, total_variation=0.7, squared_norm=0.3))
    weights = {(w.total_variation, w.squared_norm, w.batch_norm) for _, w, _ in seen}
    assert weights == {(0.7, 0.3, SHARED.loss.batch_norm)}
    assert {place for _, _, view in seen for place in view["move"]} == {-1, 0, 1}


def test_half_of_the_views_are_mirrored(teachers, seen):
    settings = {"steps": 30, "batch_size": 100, "coarse": 0.0, "learning_rate": 1e-8}
    pool(teachers[0], method(**settings, flip=True))
    first = seen[0][0]
    straight = [bool((images - first).abs().max() < 1e-3) for images, _, _ in seen]
    assert 6 < sum(straight) < 24
    assert all((images.flip(3) - first).abs().max() < 1e-3 for (images, _, _), same in zip(seen, straight, strict=True) if not same)
    seen.clear()
    pool(teachers[0], method(**settings))
    assert all((images - seen[0][0]).abs().max() < 1e-3 for images, _, _ in seen)


def test_only_the_region_changes_even_in_a_mirror(teachers, seen):
    shared = dataclasses.replace(SHARED, region=0.5)
    pool(teachers[0], method(steps=20, batch_size=100, coarse=0.0, flip=True), shared)
    mirrored = 0
    for (before, _, view), (after, _, _) in itertools.pairwise(seen):
        region = view["region"]
        outside = torch.ones(32, 32, dtype=torch.bool)
        outside[region.top : region.top + 16, region.left : region.left + 16] = False
        same = any(torch.equal(before[..., outside], other[..., outside]) for other in (after, after.flip(3)))
        assert same
        assert not torch.equal(before, after)
        mirrored += torch.equal(before[..., outside], after.flip(3)[..., outside])
    assert 3 < mirrored < 16


def test_later_rounds_aim_at_what_the_teacher_said_of_the_last_ones_images(teachers, seen):
    teacher = teachers[0]
    once = pool(teacher, method(steps=4))
    twice = pool(teacher, method(steps=4, calibration_rounds=2))
    targets = [view["targets"] for _, _, view in seen]
    assert targets[:16] == [None] * 16
    expected = calibrated_targets(once.labels, once.soft_labels, 3).split(6)
    for step, found in enumerate(targets[16:]):
        assert torch.allclose(found, expected[step // 4], atol=2e-3)
    assert len(targets) == 24
    assert not torch.equal(seen[8][0], seen[16][0])  # new noise
    assert twice.images.shape == once.images.shape
    assert len(twice.history) == 16


def test_the_competition_is_what_the_student_does_not_see_as_the_teacher_does(teachers):
    teacher, images = teachers[0], torch.rand(12, 3, 32, 32, generator=devices.generator(0, "images"))
    student = Competitor([teacher], 1.0, 32, 0)
    found = student.term(images, torch.zeros(12), teacher, torch.Generator())
    logits = teacher.network(teacher.normalise(255 * images))
    assert torch.allclose(found, 1 - jensen_shannon(logits / 3, student(images, teacher) / 3))
    for _ in range(60):
        student.learn(images, teacher)
    assert student.term(images, torch.zeros(12), teacher, torch.Generator()) > found
    assert student.term(images[..., ::2, ::2], torch.zeros(12), teacher, torch.Generator()).isfinite()  # half the resolution will do


def test_images_keep_ahead_of_the_student(teachers):
    agreement = []
    for weight in (0.001, 20.0):
        agreement.append(pool(teachers[0], method(steps=60, batch_size=12, competition=weight)).history[-1]["competition"])
    assert agreement[1] < agreement[0]


def test_work_that_diverges_stops(teachers):
    shared = InversionConfig(images_per_class=2, loss=InversionLossConfig(diversity_margin=math.nan))
    with pytest.raises(UserError, match="pixels of first: diversity became nan at step 1"):
        pool(teachers[0], shared=shared)
