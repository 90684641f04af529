import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree import devices
from datafree.config import InversionConfig, InversionLossConfig
from datafree.inversion.generator import new_generator
from datafree.inversion.inner_loop import InnerLoopConfig, PoolInputs, balanced_labels, batch_labels, draw_images
from datafree.inversion.objective import image_terms, weighted
from tests.single_rows import inner_loop

WEIGHTS = InversionLossConfig(cross_entropy=1.0, batch_norm=0.5, diversity=2.0, diversity_margin=0.6)
SHARED = InversionConfig(shift=2, augmentation=0.0, loss=WEIGHTS)


@pytest.fixture
def generator():
    return new_generator(8, 8, 5, 3, 32, seed=0)


def rng(name="pool"):
    return devices.generator(0, name)


def trained(generator, teacher, seed=0, **changes):
    """The trained copy and its history."""
    config = InnerLoopConfig(**{"steps": 3, "learning_rate": 0.01, "batch_size": 12, **changes})
    result = inner_loop(generator, teacher, config, SHARED, seed=seed)
    return result.generator, result.history


def values(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def draw_pool(generator, teacher, per_class, batch_size, rng):
    labels = balanced_labels(len(teacher.classes), per_class * len(teacher.classes))
    latents = torch.randn(len(labels), generator.latent, generator=rng)
    return draw_images(generator, latents, labels, batch_size, torch.device("cpu")), labels


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
    copy, _ = trained(generator, teachers[0])
    assert same(values(generator), before)
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert not {p.data_ptr() for p in generator.parameters()} & {p.data_ptr() for p in copy.parameters()}
    assert not same(values(copy), before)


def test_the_teacher_is_not_changed(generator, teachers, state_of, assert_same_state):
    teacher = teachers[0]
    before = state_of(teacher.network)
    copy, _ = trained(generator, teacher)
    draw_pool(copy, teacher, 2, 6, rng())
    assert_same_state(state_of(teacher.network), before)


def test_the_result_depends_on_the_seed_alone(generator, teachers):
    first, second = (values(trained(generator, teachers[0])[0]) for _ in range(2))
    assert same(first, second)
    assert not same(first, values(trained(generator, teachers[0], seed=1)[0]))


def test_the_inner_loop_lowers_the_loss(generator, teachers):
    losses = [trained(generator, teachers[2], steps=steps, batch_size=20)[1][-1] for steps in (1, 25)]
    first, last = (sum(getattr(WEIGHTS, name) * value for name, value in row.items() if name != "step") for row in losses)
    assert last < 0.8 * first


def test_one_step_is_adams_first_and_its_gradient_is_kept(generator, teachers):
    rate, gradients = 0.01, []
    config = InnerLoopConfig(1, rate, 12)
    result = inner_loop(
        generator, teachers[1], config, SHARED, seed=0, each_step=lambda copies: gradients.extend(p.grad[0] for p in copies.parameters())
    )
    copy, history = result.generator, result.history
    source = devices.generator(0, "adapt", 0)
    latent, labels = torch.randn(12, 8, generator=source), balanced_labels(4, 12)
    move = tuple(torch.randint(-2, 3, (2,), generator=source).tolist())
    expected = image_terms(generator(latent, labels), teachers[1], labels, WEIGHTS, move=move)
    gradient = torch.autograd.grad(weighted(expected, WEIGHTS), list(generator.parameters()))
    assert history == [{"step": 1, **{name: value.item() for name, value in expected.items()}}]
    for before, after, kept, expected_gradient in zip(generator.parameters(), copy.parameters(), gradients, gradient, strict=True):
        assert torch.allclose(kept, expected_gradient, rtol=1e-4, atol=1e-7)
        step = rate * kept / (kept.abs() + 1e-8)
        assert torch.allclose(after, before - step, atol=1e-6)


@pytest.mark.parametrize("changes", [{"shift": 2}, {"shift": 0, "region": 0.5}, {"shift": 0, "augmentation": 1.0}])
def test_views_differ_from_step_to_step(generator, teachers, changes):
    latents, labels = torch.randn(1, 8, generator=rng()), torch.zeros(1, dtype=torch.int64)
    inputs = PoolInputs(latents, labels, torch.eye(3)[:1])  # with a learning rate of 0, all steps have the same images
    views = []
    handle = teachers[0].network.register_forward_pre_hook(lambda _, arguments: views.append(arguments[0].detach().clone()))
    inner_loop(generator, teachers[0], InnerLoopConfig(12, 0.0, 4), dataclasses.replace(SHARED, **changes), seed=0, inputs=inputs)
    handle.remove()
    assert len(torch.stack(views).flatten(1).unique(dim=0)) > 6


def test_latents_are_optimised_only_with_a_learning_rate(generator, teachers):
    plain, optimised = (
        inner_loop(generator, teachers[0], InnerLoopConfig(3, 0.01, 12, rate), SHARED, seed=0, labels=balanced_labels(3, 6))
        for rate in (0.0, 0.05)
    )
    initial = inner_loop(generator, teachers[0], InnerLoopConfig(0, 0.01, 12, 0.05), SHARED, seed=0, labels=balanced_labels(3, 6)).latents
    assert initial.shape == (6, 8)
    moved = (optimised.latents - initial).abs()
    assert 0.04 < moved.max() < 0.2  # three Adam steps of 0.05
    assert optimised.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert plain.labels.tolist() == balanced_labels(3, 12).tolist()  # of the last step's batch


def test_given_inputs_are_the_batches_and_predictions_approach_their_targets(generator, teachers):
    rng = devices.generator(0, "inputs")
    targets = torch.tensor([[0.2, 0.7, 0.1]]).expand(6, 3)
    inputs = PoolInputs(torch.randn(6, 8, generator=rng), torch.ones(6, dtype=torch.int64), targets)
    result = inner_loop(generator, teachers[0], InnerLoopConfig(60, 0.01, 12), dataclasses.replace(SHARED, shift=0), seed=0, inputs=inputs)
    with torch.no_grad():
        images = result.generator(inputs.latents, inputs.labels)
        predictions = teachers[0].network(teachers[0].normalise(255 * images)).softmax(1)
    assert (predictions.mean(0) - targets[0]).abs().max() < 0.15
    entropy = -(targets[0] * targets[0].log()).sum()
    assert result.history[-1]["cross_entropy"] == pytest.approx(entropy.item(), abs=0.15)


@pytest.mark.parametrize(("per_class", "batch_size"), [(3, 5), (4, 100), (1, 2), (7, 4)])
def test_a_pool_has_per_class_images_of_every_class(generator, teachers, per_class, batch_size):
    teacher = teachers[1]
    images, labels = draw_pool(generator, teacher, per_class, batch_size, rng())
    assert images.dtype == torch.uint8
    assert images.shape == (4 * per_class, 3, 32, 32)
    assert torch.bincount(labels).tolist() == [per_class] * 4
    again, _ = draw_pool(generator, teacher, per_class, batch_size, rng())
    assert torch.equal(images, again)
    assert len(images.flatten(1).unique(dim=0)) == len(images)


def test_a_pools_images_are_the_generators_rounded(generator, teachers):
    images, labels = draw_pool(generator, teachers[0], 2, 100, rng())
    expected = generator(torch.randn(6, 8, generator=rng()), labels) * 255
    assert (images.float() - expected).abs().max() <= 0.5001


def test_batches_of_a_pool_differ_by_at_most_one_image(generator, teachers):
    sizes = []
    generator.register_forward_hook(lambda _, arguments, images: sizes.append(len(images)))
    for per_class in range(1, 30):
        sizes.clear()
        draw_pool(generator, teachers[0], per_class, 10, rng())
        assert sum(sizes) == 3 * per_class
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= 15
