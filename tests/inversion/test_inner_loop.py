import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree import devices
from datafree.config import InversionConfig, InversionLossConfig
from datafree.inversion import inner_loop
from datafree.inversion.generator import new_generator
from datafree.inversion.inner_loop import Inner, Slots, adapt, balanced_labels, batch_labels, draw_pool, soft_labels
from datafree.inversion.objective import image_terms, weighted

INNER = ("learning_rate", "batch_size", "latent_learning_rate")
WEIGHTS = InversionLossConfig(cross_entropy=1.0, batch_norm=0.5, diversity=2.0, diversity_margin=0.6)
SHARED = InversionConfig(shift=2, augmentation=0.0, loss=WEIGHTS)


@pytest.fixture
def generator():
    return new_generator(8, 8, 5, 3, 32, seed=0)


def rng(name="draw"):
    return devices.generator(0, name)


def adapted(generator, teacher, steps=3, **changes):
    inner = {"learning_rate": 0.01, "batch_size": 12, **{name: changes.pop(name) for name in INNER if name in changes}}
    found = adapt(generator, teacher, Inner(steps, **inner), SHARED, **{"seed": 0, **changes})
    return found.generator, found.history


def values(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_labels_are_balanced():
    assert balanced_labels(3, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert balanced_labels(3, 7).dtype == torch.int64


@given(st.integers(1, 12), st.integers(2, 30))
def test_a_batch_has_every_class_or_some_classes_twice(classes, count):
    labels = batch_labels(classes, count, rng())
    numbers = torch.bincount(labels, minlength=classes)
    assert len(labels) == count
    if 2 * classes <= count:
        assert numbers.max() - numbers.min() <= 1
        assert numbers.min() >= 2
    else:  # diversity within a class needs two images of it
        assert set(numbers[numbers > 0].tolist()) <= {2, 3}


def test_the_given_generator_is_neither_changed_nor_shared(generator, teachers):
    before = values(generator)
    copy, _ = adapted(generator, teachers[0])
    assert same(values(generator), before)
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert not {p.data_ptr() for p in generator.parameters()} & {p.data_ptr() for p in copy.parameters()}
    assert not same(values(copy), before)


def test_the_teacher_is_never_changed(generator, teachers, state_of, assert_same_state):
    teacher = teachers[0]
    before = state_of(teacher.network)
    copy, _ = adapted(generator, teacher)
    images, _ = draw_pool(copy, teacher, 2, 6, rng())
    soft_labels(teacher, images)
    assert_same_state(state_of(teacher.network), before)


def test_adapting_repeats_with_its_draw_and_differs_with_another(generator, teachers):
    first, second = (values(adapted(generator, teachers[0])[0]) for _ in range(2))
    assert same(first, second)
    assert not same(first, values(adapted(generator, teachers[0], seed=1)[0]))


def test_adapting_lowers_the_loss(generator, teachers):
    losses = [adapted(generator, teachers[2], steps=steps, batch_size=20)[1][-1] for steps in (1, 25)]
    first, last = (sum(getattr(WEIGHTS, name) * value for name, value in row.items() if name != "step") for row in losses)
    assert last < 0.8 * first


def test_one_step_is_adams_first_and_its_gradient_stays(generator, teachers):
    rate = 0.01
    copy, history = adapted(generator, teachers[1], steps=1, learning_rate=rate)
    source = devices.generator(0, "adapt", 0)
    latent, labels = torch.randn(12, 8, generator=source), balanced_labels(4, 12)
    move = tuple(torch.randint(-2, 3, (2,), generator=source).tolist())
    expected = image_terms(generator(latent, labels), teachers[1], labels, WEIGHTS, move=move)
    gradient = torch.autograd.grad(weighted(expected, WEIGHTS), list(generator.parameters()))
    assert history == [{"step": 1, **{name: value.item() for name, value in expected.items()}}]
    for before, after, slope in zip(generator.parameters(), copy.parameters(), gradient, strict=True):
        assert torch.allclose(after.grad, slope, rtol=1e-4, atol=1e-7)
        step = rate * after.grad / (after.grad.abs() + 1e-8)
        assert torch.allclose(after, before - step, atol=1e-6)


def test_views_differ_from_step_to_step(generator, teachers, monkeypatch):
    seen = []
    real = inner_loop.image_terms
    monkeypatch.setattr(inner_loop, "image_terms", lambda *a, **k: seen.append((k["move"], k["region"])) or real(*a, **k))
    adapt(generator, teachers[0], Inner(12, 0.01, 4), dataclasses.replace(SHARED, region=0.5), seed=0)
    assert len({move for move, _ in seen}) > 6
    assert len({region for _, region in seen}) > 6


def test_latents_are_optimised_along_only_if_asked(generator, teachers):
    plain, optimised = (
        adapt(generator, teachers[0], Inner(3, 0.01, 12, rate), SHARED, seed=0, labels=balanced_labels(3, 6)) for rate in (0.0, 0.05)
    )
    start = adapt(generator, teachers[0], Inner(0, 0.01, 12, 0.05), SHARED, seed=0, labels=balanced_labels(3, 6)).latents
    assert start.shape == (6, 8)
    moved = (optimised.latents - start).abs()
    assert 0.04 < moved.max() < 0.2  # three Adam steps of 0.05
    assert optimised.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert plain.labels.tolist() == balanced_labels(3, 12).tolist()  # of the last step's batch


def test_slots_are_the_batches_and_their_targets_are_aimed_at(generator, teachers):
    rng = devices.generator(0, "slots")
    targets = torch.tensor([[0.2, 0.7, 0.1]]).expand(6, 3)
    slots = Slots(torch.randn(6, 8, generator=rng), torch.ones(6, dtype=torch.int64), targets)
    found = adapt(generator, teachers[0], Inner(60, 0.01, 12), dataclasses.replace(SHARED, shift=0), seed=0, slots=slots)
    with torch.no_grad():
        images = found.generator(slots.latents, slots.labels)
        predictions = teachers[0].network(teachers[0].normalise(255 * images)).softmax(1)
    assert (predictions.mean(0) - targets[0]).abs().max() < 0.15
    entropy = -(targets[0] * targets[0].log()).sum()
    assert found.history[-1]["cross_entropy"] == pytest.approx(entropy.item(), abs=0.15)


@pytest.mark.parametrize(("per_class", "batch_size"), [(3, 5), (4, 100), (1, 2), (7, 4)])
def test_a_pool_holds_so_many_images_of_every_class(generator, teachers, per_class, batch_size):
    teacher = teachers[1]
    images, labels = draw_pool(generator, teacher, per_class, batch_size, rng())
    assert images.dtype == torch.uint8
    assert images.shape == (4 * per_class, 3, 32, 32)
    assert torch.bincount(labels).tolist() == [per_class] * 4
    again, _ = draw_pool(generator, teacher, per_class, batch_size, rng())
    assert torch.equal(images, again)
    assert len(images.flatten(1).unique(dim=0)) == len(images)


def test_a_pools_image_is_the_generators_rounded(generator, teachers):
    images, labels = draw_pool(generator, teachers[0], 2, 100, rng())
    expected = generator(torch.randn(6, 8, generator=rng()), labels) * 255
    assert (images.float() - expected).abs().max() <= 0.5001


def test_no_part_of_a_pool_is_much_smaller_than_the_others(generator, teachers, monkeypatch):
    sizes = []
    monkeypatch.setattr(generator, "forward", lambda latent, labels: sizes.append(len(labels)) or torch.zeros(len(labels), 3, 32, 32))
    for per_class in range(1, 30):
        sizes.clear()
        draw_pool(generator, teachers[0], per_class, 10, rng())
        assert sum(sizes) == 3 * per_class
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= 15


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_soft_labels_are_the_teachers_probabilities(teachers, pools, precision):
    teacher, images = teachers[2], pools[2].images
    with devices.autocast(torch.device("cpu"), precision):
        found = soft_labels(teacher, images, batch_size=7)
        logits = teacher.network(teacher.normalise(images)).double()
    assert found.dtype == torch.float16
    assert found.shape == (len(images), 5)
    # float16 keeps eleven bits; the products may have fewer, the probabilities not.
    assert (found.double().sum(1) - 1).abs().max() < 1e-3
    if precision == "float32":
        expected = logits.exp() / logits.exp().sum(1, keepdim=True)
        assert (found.double() - expected).abs().max() < 1e-3
