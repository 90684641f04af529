import dataclasses
import itertools
import math

import pytest
import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionConfig, InversionLossConfig, PixelInversion
from datafree.errors import UserError
from datafree.inversion import Recovery, recover_one, rows
from datafree.inversion.label_calibration import calibrated_targets
from datafree.inversion.losses import jensen_shannon
from datafree.inversion.pixels import CompetitionStudent

SHARED = InversionConfig(images_per_class=4, shift=1, augmentation=0.0)


def method(**changes) -> PixelInversion:
    return PixelInversion(**{"steps": 6, "batch_size": 7, **changes})


def pool(teacher, settings=None, shared=SHARED, seed=0, size=32, checkpoint=None):
    return recover_one(Recovery(teacher, seed, checkpoint or Checkpoint(None)), settings or method(), shared, size=size)


@pytest.mark.parametrize("settings", [{}, {"coarse": 0.0}, {"flip": True, "competition": 1.0}])
def test_a_pool_is_complete_and_determined_by_its_seed(teachers, settings, state_of, assert_same_state):
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


def test_the_teachers_confidence_in_the_labels_rises(teachers):
    teacher = teachers[2]
    recovered = pool(teacher, method(steps=40, batch_size=20))
    chance = pool(teacher, method(steps=1, batch_size=20))
    confidences = [result.soft_labels.float().gather(1, result.labels[:, None]).mean().item() for result in (recovered, chance)]
    assert confidences[0] > 0.9
    assert confidences[0] > confidences[1] + 0.3
    assert recovered.history[-1]["batch_norm"] < 0.5 * chance.history[-1]["batch_norm"]


def test_images_of_another_size_than_the_teachers_input_are_supported(make_teacher):
    teacher = make_teacher("other", ("a", "b"), 4, size=16)
    assert pool(teacher, size=24).images.shape == (8, 3, 24, 24)


@pytest.fixture
def calls(monkeypatch):
    """Arguments of ``image_terms`` at every step: (images, weights, keyword arguments)."""
    recorded, original = [], rows.image_terms

    def record(images, teacher, labels, weights, **view):
        recorded.append((images.detach().clone(), weights, view))
        return original(images, teacher, labels, weights, **view)

    monkeypatch.setattr(rows, "image_terms", record)
    return recorded


def test_the_first_steps_are_at_half_the_resolution(teachers, calls):
    pool(teachers[0], method(steps=10, batch_size=100, coarse=0.3))
    pool(teachers[0], method(steps=4, batch_size=100, coarse=0.0))
    pool(teachers[0], method(steps=1, batch_size=100, coarse=0.9))
    assert [images.shape[-1] for images, _, _ in calls] == [16] * 3 + [32] * 7 + [32] * 4 + [32]
    assert all(len(images) == 12 for images, _, _ in calls)


def test_every_batch_keeps_its_images_and_starts_from_its_own_noise(teachers, calls):
    pool(teachers[0], method(steps=2, batch_size=6, coarse=0.0))
    first, second, other, _ = (images for images, _, _ in calls)
    assert len(first.flatten(1).unique(dim=0)) == 6
    assert 0 < (first - second).abs().mean() < 0.05  # Adam's first step at .1, times CONTRAST
    assert not torch.equal(first, other)


def test_prior_weights_are_the_methods_and_views_are_shifted(teachers, calls):
    pool(teachers[0], method(steps=40, batch_size=100, total_variation=0.7, squared_norm=0.3))
    weights = {(w.total_variation, w.squared_norm, w.batch_norm) for _, w, _ in calls}
    assert weights == {(0.7, 0.3, SHARED.loss.batch_norm)}
    assert {place for _, _, view in calls for place in view["move"]} == {-1, 0, 1}


def test_half_of_the_views_are_flipped(teachers, calls):
    settings = {"steps": 30, "batch_size": 100, "coarse": 0.0, "learning_rate": 1e-8}
    pool(teachers[0], method(**settings, flip=True))
    first = calls[0][0]
    unflipped = [bool((images - first).abs().max() < 1e-3) for images, _, _ in calls]
    assert 6 < sum(unflipped) < 24
    assert all((images.flip(3) - first).abs().max() < 1e-3 for (images, _, _), same in zip(calls, unflipped, strict=True) if not same)
    calls.clear()
    pool(teachers[0], method(**settings))
    assert all((images - calls[0][0]).abs().max() < 1e-3 for images, _, _ in calls)


def test_only_the_region_changes_in_flipped_images_too(teachers, calls):
    shared = dataclasses.replace(SHARED, region=0.5)
    pool(teachers[0], method(steps=20, batch_size=100, coarse=0.0, flip=True), shared)
    flipped = 0
    for (before, _, view), (after, _, _) in itertools.pairwise(calls):
        region = view["region"]
        outside = torch.ones(32, 32, dtype=torch.bool)
        outside[region.top : region.top + 16, region.left : region.left + 16] = False
        same = any(torch.equal(before[..., outside], other[..., outside]) for other in (after, after.flip(3)))
        assert same
        assert not torch.equal(before, after)
        flipped += torch.equal(before[..., outside], after.flip(3)[..., outside])
    assert 3 < flipped < 16


def test_later_rounds_targets_are_the_predictions_for_the_previous_images(teachers, calls):
    teacher = teachers[0]
    once = pool(teacher, method(steps=4))
    twice = pool(teacher, method(steps=4, calibration_rounds=2))
    targets = [view["targets"] for _, _, view in calls]
    assert targets[:16] == [None] * 16
    expected = calibrated_targets(once.labels, once.soft_labels, 3).split(6)
    for step, target in enumerate(targets[16:]):
        assert torch.allclose(target, expected[step // 4], atol=2e-3)
    assert len(targets) == 24
    assert not torch.equal(calls[8][0], calls[16][0])  # new noise
    assert twice.images.shape == once.images.shape
    assert len(twice.history) == 16


def test_the_competition_term_is_one_minus_the_divergence(teachers):
    teacher, images = teachers[0], torch.rand(12, 3, 32, 32, generator=devices.generator(0, "images"))
    student = CompetitionStudent([teacher], 1.0, 32, 0)
    term = student.term(images, torch.zeros(12, dtype=torch.int64), teacher, torch.Generator())
    logits = teacher.network(teacher.normalise(255 * images))
    assert torch.allclose(term, 1 - jensen_shannon(logits / 3, student(images, teacher) / 3))
    for _ in range(60):
        student.learn(images, teacher)
    assert student.term(images, torch.zeros(12, dtype=torch.int64), teacher, torch.Generator()) > term
    assert student.term(
        images[..., ::2, ::2], torch.zeros(12, dtype=torch.int64), teacher, torch.Generator()
    ).isfinite()  # at half the resolution as well


def test_the_competition_term_lowers_the_students_agreement(teachers):
    agreement = []
    for weight in (0.001, 20.0):
        agreement.append(pool(teachers[0], method(steps=60, batch_size=12, competition=weight)).history[-1]["competition"])
    assert agreement[1] < agreement[0]


def test_a_nan_loss_raises_an_error(teachers):
    shared = InversionConfig(images_per_class=2, loss=InversionLossConfig(diversity_margin=math.nan))
    with pytest.raises(UserError, match="pixels of first: diversity became nan at step 1"):
        pool(teachers[0], shared=shared)
