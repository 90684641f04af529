"""Recoveries of several teachers in one pass equal those of one teacher after the other; in float64, on the CPU."""

import dataclasses
import math

import pytest
import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import (
    BackboneConfig,
    GeneratorInversion,
    Initialisation,
    InversionConfig,
    InversionLossConfig,
    MetaGeneratorConfig,
    OuterUpdate,
    PixelInversion,
    starts_from_meta,
)
from datafree.errors import UserError
from datafree.inversion import METHODS, Recovered, Recovery
from datafree.inversion.generator import new_generator
from datafree.inversion.generator_copies import GeneratorCopies
from datafree.inversion.meta_generator import train_meta_generator
from datafree.inversion.rows import NO_TEACHERS, OtherTeachers, Row, RowObjective
from datafree.inversion.stacked_objective import StackedObjective
from datafree.zoo.backbones import Classifier, Normalise, batch_norm_layers, build
from datafree.zoo.teachers import Teacher, freeze

SIZE = 16
LOSS = InversionLossConfig(total_variation=0.3, squared_norm=0.2, diversity_margin=2.0)
SHARED = InversionConfig(images_per_class=3, shift=2, region=0.75, auxiliary_teachers=2, loss=LOSS)
CLASSES = [3, 5, 4]


@pytest.fixture(scope="module", autouse=True)
def _float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def _float32(_float64):
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


def make(name, classes, seed, *, architecture="conv4", width=4, channels=3, size=SIZE):
    torch.manual_seed(seed)
    network = Classifier(build(BackboneConfig(architecture, width), channels, size, seed), classes)
    rng = torch.Generator().manual_seed(seed)
    for layer in batch_norm_layers(network):
        layer.running_mean.normal_(0, 0.3, generator=rng)
        layer.running_var.uniform_(0.5, 2, generator=rng)
    mean = [0.4 + 0.05 * seed] * channels
    shape = (channels, size, size)
    return Teacher(name, freeze(network), Normalise(mean, [0.25] * channels, shape), tuple(map(str, range(classes))), shape)


def zoo(counts=CLASSES, **settings):
    return [make(f"teacher-{seed}", classes, seed, **settings) for seed, classes in enumerate(counts)]


def others(teachers, teacher):
    return OtherTeachers(tuple(teachers), next((place for place, other in enumerate(teachers) if other is teacher), None))


# ---- objective --------------------------------------------------------------------------------------------------------------------------

VARIANTS = {
    "all": {},
    "plain": {"shift": 0, "region": 1.0, "augmentation": 0.0, "auxiliary_teachers": 0},
    "whole images": {"region": 1.0},
    "no augmentation": {"augmentation": 0.0, "auxiliary_teachers": 1},
    "no shift": {"shift": 0},
}


def both(teachers, auxiliary, images, labels, settings, *, targets=None, flip=False):
    """Terms, gradients and masks of the images' rows, one after the other and in one pass."""
    rows = [Row(teacher, seed, auxiliary(teacher)) for seed, teacher in enumerate(teachers)]
    results = []
    for objective in (RowObjective(rows, LOSS, settings), StackedObjective(rows, LOSS, settings)):
        pixels = images.clone().requires_grad_()
        rngs = [devices.generator(row.seed, "step") for row in rows]
        result = objective(pixels, labels, rngs, targets=targets, flip=flip)
        total = sum((place + 1) * value.square().sum() for place, value in enumerate(result.terms.values()))
        results.append((result, torch.autograd.grad(total, pixels)[0], [rng.get_state() for rng in rngs]))
    return results


def assert_equal_results(results):
    (single, gradient, states), (stacked, stacked_gradient, stacked_states) = results
    assert list(single.terms) == list(stacked.terms)
    for name, value in single.terms.items():
        assert value.shape == stacked.terms[name].shape
        assert torch.allclose(value, stacked.terms[name], rtol=1e-9, atol=1e-11), name
    assert torch.allclose(gradient, stacked_gradient, rtol=1e-8, atol=1e-11)
    assert (single.changeable is None) == (stacked.changeable is None)
    if single.changeable is not None:
        assert torch.equal(single.changeable, stacked.changeable)
    assert all(map(torch.equal, states, stacked_states))  # both drew the same random numbers


def batch(rows, count=8, size=SIZE):
    images = torch.rand(rows, count, 3, size, size, generator=torch.Generator().manual_seed(5))
    return images, torch.stack([torch.arange(count) % (row + 2) for row in range(rows)])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("flip", [False, True])
def test_terms_gradients_and_random_numbers_equal_those_of_single_rows(variant, flip):
    teachers = zoo()
    settings = dataclasses.replace(SHARED, **VARIANTS[variant])
    results = both(teachers, lambda teacher: others(teachers, teacher), *batch(3), settings, flip=flip)
    assert_equal_results(results)
    assert ("auxiliary_teachers" in results[0][0].terms) == (variant != "plain")


@pytest.mark.parametrize("architecture", ["conv4_strided", "resnet8"])
def test_every_architecture(architecture):
    teachers = zoo(architecture=architecture, size=32)
    assert_equal_results(both(teachers, lambda teacher: others(teachers, teacher), *batch(3, size=32), SHARED))


@pytest.mark.parametrize("shape", [{"channels": 1}, {"size": 24}])
def test_images_are_converted_to_the_input_of_the_teachers(shape):
    teachers = zoo(**shape)
    assert_equal_results(both(teachers, lambda teacher: others(teachers, teacher), *batch(3), SHARED))


def test_rows_share_teachers_and_auxiliary_teachers_have_several_architectures():
    teachers = zoo()
    mixed = [*teachers, make("strided", 3, 7, architecture="conv4_strided"), make("grey", 2, 8, channels=1)]
    results = both([teachers[1], teachers[2], teachers[1]], lambda teacher: others(mixed, teacher), *batch(3), SHARED)
    assert_equal_results(results)


def test_all_rows_of_one_teacher():
    teachers = zoo()
    results = both([teachers[1]] * 3, lambda teacher: others(teachers, teacher), *batch(3), SHARED)
    assert_equal_results(results)


def test_target_probabilities_of_different_class_counts():
    teachers = zoo()
    targets = torch.zeros(3, 8, max(CLASSES))
    for row, classes in enumerate(CLASSES):
        targets[row, :, :classes] = torch.rand(8, classes, generator=torch.Generator().manual_seed(row)).softmax(1)
    assert_equal_results(
        both(teachers, lambda _: NO_TEACHERS, *batch(3), dataclasses.replace(SHARED, auxiliary_teachers=0), targets=targets)
    )


def test_teachers_without_batch_norm_layers():
    teachers = zoo()
    for teacher in teachers:
        for module in teacher.network.modules():
            for name, layer in module.named_children():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    setattr(module, name, torch.nn.GroupNorm(1, layer.num_features))
    results = both(teachers, lambda _: NO_TEACHERS, *batch(3), dataclasses.replace(SHARED, auxiliary_teachers=0))
    assert_equal_results(results)
    assert results[1][0].terms["batch_norm"].eq(0).all()


@pytest.mark.usefixtures("_float32")
def test_autocast_has_the_effect_that_it_has_on_single_rows():
    teachers = zoo(width=8)
    images, labels = batch(3, size=SIZE)
    rows = [Row(teacher, seed, others(teachers, teacher)) for seed, teacher in enumerate(teachers)]
    with devices.autocast(torch.device("cpu"), "bfloat16"):
        single, stacked, plain = (
            objective(rows, LOSS, SHARED)(images, labels, [devices.generator(row.seed, "step") for row in rows]).terms
            for objective in (RowObjective, StackedObjective, StackedObjective)
        )
        generators = [new_generator(6, 8, 5, 3, SIZE, seed=seed) for seed in range(3)]
        copies = GeneratorCopies(generators, torch.randn(3, 4, 6), 0.01, None, together=True)
        drawn = copies(copies.latents, labels[:, :4])
    for name, value in single.items():
        assert torch.allclose(value, stacked[name], rtol=0.01, atol=0.01), name
        assert torch.equal(plain[name], stacked[name])
    assert drawn.dtype == torch.float32
    assert (drawn - copies(copies.latents, labels[:, :4])).abs().max() < 0.1


# ---- methods ----------------------------------------------------------------------------------------------------------------------------

SMALL = {"steps": 2, "batch_size": 6}
CASES = {
    "pixels": PixelInversion(**SMALL, flip=True),
    "pixels in two calibration rounds": PixelInversion(**SMALL, calibration_rounds=2),
    "generator": GeneratorInversion(**SMALL),
    "generator in three calibration rounds": GeneratorInversion(**SMALL, calibration_rounds=3),
    "new generators": GeneratorInversion(**SMALL, initialisation=Initialisation.random, latent=6, width=8, conditional=True),
    "latents": GeneratorInversion(**SMALL, latent_learning_rate=0.05),
    "student": GeneratorInversion(**SMALL, adversarial=0.5),
}


@pytest.fixture(scope="module", params=CASES)
def method(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def whole(_float64, method):
    """What an uninterrupted recovery of all teachers in one pass gives."""
    return recover(zoo(), method, together=True)


def recover(teachers, method, *, together, folder=None, checkpoint=Checkpoint):
    start = new_generator(6, 8, 5, 3, SIZE, seed=0) if starts_from_meta(method) else None
    path = (lambda number: folder / f"{number}.pt") if folder else (lambda _: None)
    recoveries = [
        Recovery(teacher, 10 + number, checkpoint(path(number), "work", 0.0), others(teachers, teacher))
        for number, teacher in enumerate(teachers)
    ]
    return dict(METHODS[method.method](recoveries, method, SHARED, size=SIZE, start=start, together=together))


def assert_same_pool(first, second):
    assert isinstance(first, Recovered) and isinstance(second, Recovered)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert torch.allclose(first.soft_labels, second.soft_labels, atol=1e-3)
    assert [row.keys() for row in first.history] == [row.keys() for row in second.history]
    for row, other in zip(first.history, second.history, strict=True):
        assert all(math.isclose(row[name], other[name], rel_tol=1e-5, abs_tol=1e-6) for name in row)


def test_pools_equal_those_of_single_recoveries_also_in_a_zoo_of_several_architectures(method):
    teachers = [*zoo(), make("strided", 3, 9, architecture="conv4_strided")]
    single, together = (recover(teachers, method, together=flag) for flag in (False, True))
    assert single.keys() == together.keys() == {0, 1, 2, 3}
    for number in single:
        assert_same_pool(single[number], together[number])


def test_a_single_pool_does_not_depend_on_the_others(method):
    teachers = zoo()
    one = recover(teachers[:1], dataclasses.replace(method), together=False)
    alone = Recovery(teachers[0], 10, Checkpoint(None))
    start = new_generator(6, 8, 5, 3, SIZE, seed=0) if starts_from_meta(method) else None
    both_ways = [
        dict(METHODS[method.method]([alone, *rest], method, SHARED, size=SIZE, start=start, together=False))[0]
        for rest in ([], [Recovery(teachers[1], 3, Checkpoint(None))])
    ]
    assert torch.equal(both_ways[0].images, both_ways[1].images)
    assert torch.equal(one[0].images, both_ways[0].images)


@pytest.mark.parametrize("case", ["pixels", "generator"])
def test_a_teacher_without_auxiliary_teachers_has_no_such_term_and_the_others_do(case):
    teachers, method = zoo([4, 4, 4]), CASES[case]
    only = (teachers[0],)  # the only one with trained statistics
    start = new_generator(6, 8, 5, 3, SIZE, seed=0) if starts_from_meta(method) else None
    recoveries = [
        Recovery(teacher, place, Checkpoint(None), OtherTeachers(only, None if place else 0)) for place, teacher in enumerate(teachers)
    ]
    single, together = (
        dict(METHODS[method.method](recoveries, method, SHARED, size=SIZE, start=start, together=flag)) for flag in (False, True)
    )
    for place in range(3):
        assert_same_pool(single[place], together[place])
        assert ("auxiliary_teachers" in together[place].history[0]) == (place > 0)


def test_a_teacher_whose_loss_is_not_finite_costs_the_others_nothing(method, whole):
    teachers = zoo()
    broken = make("teacher-1", CLASSES[1], 1)
    broken.network.head.weight.data.fill_(math.nan)
    for together in (False, True):
        mixed = [teachers[0], broken, teachers[2]]
        found = recover(mixed, method, together=together)
        assert isinstance(found[1], UserError)
        assert "teacher-1: cross_entropy became nan at step 1; lower the learning rate" in str(found[1])
        for number in (0, 2):
            assert torch.equal(found[number].images, whole[number].images)


class Interrupted(Exception):
    pass


def test_an_interrupted_stack_resumes_to_the_same_pools(method, whole, tmp_path):
    teachers = zoo()
    left = [4]

    class Interrupting(Checkpoint):
        def write(self, *args, **objects):
            super().write(*args, **objects)
            left[0] -= 1
            if left[0] == 0:  # one teacher's checkpoint is one step ahead of the others
                raise Interrupted

    with pytest.raises(Interrupted):
        recover(teachers, method, together=True, folder=tmp_path, checkpoint=Interrupting)
    assert list(tmp_path.iterdir())
    resumed = recover(teachers, method, together=True, folder=tmp_path)
    for number in whole:
        assert_same_pool(whole[number], resumed[number])


@pytest.mark.parametrize("case", ["pixels", "generator", "latents"])
def test_if_the_memory_runs_out_the_stack_is_halved_with_the_same_result(case, monkeypatch):
    teachers, method, sizes = zoo([4, 4, 4]), CASES[case], []
    whole = recover(teachers, method, together=True)

    class Limited(StackedObjective):
        def __call__(self, images, *args, **kwargs):
            sizes.append(len(images))
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
            return super().__call__(images, *args, **kwargs)

    monkeypatch.setattr("datafree.inversion.stacked_objective.StackedObjective", Limited)
    halved = recover(teachers, method, together=True)
    assert max(sizes) > 2
    for number in whole:
        assert_same_pool(whole[number], halved[number])

    def never_enough(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    monkeypatch.setattr(Limited, "__call__", never_enough)
    outcomes = recover(teachers, method, together=True)
    assert sorted(outcomes) == [0, 1, 2]
    message = "a single batch does not fit into the memory of the device (CUDA out of memory.); lower `batch_size`"
    assert all(isinstance(outcome, UserError) and message in str(outcome) for outcome in outcomes.values())


# ---- meta-generator ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", list(OuterUpdate))
def test_the_meta_generator_of_stacked_inner_loops_equals_that_of_single_ones(update):
    teachers = [*zoo(), make("strided", 3, 9, architecture="conv4_strided")]
    settings = MetaGeneratorConfig(outer_steps=3, inner_steps=2, teachers_per_step=3, batch_size=6, update=update)
    if update is not OuterUpdate.reptile:
        settings = dataclasses.replace(settings, outer_learning_rate=0.01)
    found = []
    for together in (False, True):
        generator = new_generator(6, 8, 5, 3, SIZE, seed=0)
        history = train_meta_generator(generator, teachers, settings, SHARED, 3, Checkpoint(None), together=together)
        found.append((generator.state_dict(), history))
    (single, history), (stacked, stacked_history) = found
    for name in single:
        assert torch.allclose(single[name], stacked[name], rtol=1e-6, atol=1e-9), name
    for row, other in zip(history, stacked_history, strict=True):
        assert row.keys() == other.keys()
        assert all(math.isclose(row[name], other[name], rel_tol=1e-5, abs_tol=1e-6) for name in row)
