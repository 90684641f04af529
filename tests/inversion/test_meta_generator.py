import copy
import dataclasses
import functools
import itertools

import pytest
import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionConfig, InversionLossConfig, MetaGeneratorConfig, OuterUpdate
from datafree.inversion import meta_generator
from datafree.inversion.generator import new_generator
from datafree.inversion.inner_loop import InnerLoopConfig, balanced_labels
from datafree.inversion.meta_generator import OuterGradient, train_meta_generator
from datafree.inversion.objective import image_terms, weighted
from datafree.zoo.plausibility import has_trained_statistics
from tests.interruption import Interrupted, Interrupting
from tests.single_rows import inner_loop

UPDATES = list(OuterUpdate)


def config(update=OuterUpdate.reptile, **changes) -> InversionConfig:
    settings = {
        "latent": 8, "width": 8, "outer_steps": 6, "teachers_per_step": 1, "inner_steps": 2, "inner_learning_rate": 0.01,
        "batch_size": 10, "outer_learning_rate": 0.5 if update is OuterUpdate.reptile else 0.01, **changes,
    }  # fmt: skip
    loss = InversionLossConfig(cross_entropy=1.0, batch_norm=0.5, diversity=2.0, diversity_margin=0.6)
    return InversionConfig(
        shift=1, augmentation=0.0, auxiliary_teachers=2, loss=loss, meta_generator=MetaGeneratorConfig(update=update, **settings)
    )


def fresh():
    return new_generator(8, 8, 5, 3, 32, seed=0)


def train(teachers, settings, seed=0, checkpoint=None):
    generator = fresh()
    history = train_meta_generator(generator, teachers, settings.meta_generator, settings, seed, checkpoint or Checkpoint(None))
    return generator, history


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


@pytest.fixture(scope="module", params=UPDATES)
def update(request):
    return request.param


@pytest.fixture(scope="module")
def whole(teachers, update):
    """What an uninterrupted training gives: a generator, which no test changes, and its history."""
    return train(teachers, config(update))


def test_a_seed_determines_the_result_and_the_teachers_do_not_change(teachers, update, whole, state_of, assert_same_state):
    before = [state_of(teacher.network) for teacher in teachers]
    first, history = whole
    second, again = train(teachers, config(update))
    other, _ = train(teachers, config(update), seed=1)
    assert same(first, second)
    assert history == again
    assert not same(first, other)
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]
    for teacher, state in zip(teachers, before, strict=True):
        assert_same_state(state_of(teacher.network), state)


def others_of(index, teachers):
    """The auxiliary teachers of one teacher."""
    return [other for other in teachers if other is not teachers[index] and has_trained_statistics(other.network)]


@pytest.mark.parametrize("per_step", [1, 2])
def test_one_outer_step_is_its_formula(teachers, update, per_step):
    rate = 0.5 if update is OuterUpdate.reptile else 0.01
    settings = config(update, outer_steps=1, inner_steps=1, teachers_per_step=per_step)
    trained, history = train(teachers, settings)
    start = fresh()
    gradients, losses = [], []
    for index in meta_generator._teachers_of_step(3, per_step, 0, 0):
        rng = devices.generator(devices.derive_seed(0, "meta_generator", 0, index), "adapt", 0)
        labels = balanced_labels(len(teachers[index].classes), 10)
        latent = torch.randn(10, 8, generator=rng)
        move = tuple(torch.randint(-1, 2, (2,), generator=rng).tolist())
        others = others_of(index, teachers)
        terms = image_terms(start(latent, labels), teachers[index], labels, settings.loss, move=move, auxiliary_teachers=others)
        gradients.append(torch.autograd.grad(weighted(terms, settings.loss), list(start.parameters())))
        losses.append(terms["cross_entropy"].item())
    assert history[0]["cross_entropy"] == pytest.approx(sum(losses) / per_step, rel=1e-5)

    def adam_step(slope, learning_rate):  # Adam's first step does not depend on the betas
        return learning_rate * slope / (slope.abs() + 1e-8)

    compared = []
    for slot, (before, after) in enumerate(zip(start.parameters(), trained.parameters(), strict=True)):
        slopes = [gradient[slot] for gradient in gradients]
        if update is OuterUpdate.reptile:
            inner = torch.stack([before - adam_step(slope, 0.01) for slope in slopes])
            expected = before + rate * (inner.mean(0) - before)
        else:
            expected = before - adam_step(torch.stack(slopes).mean(0), rate)
        # Where a gradient is nearly zero, rounding decides its sign and so Adam's step.
        reliable = torch.stack(slopes).abs().min(0).values > 1e-5
        assert torch.allclose(after[reliable], expected[reliable], atol=1e-5)
        compared.append(reliable.float().flatten())
    assert torch.cat(compared).mean() > 0.9


@pytest.mark.parametrize("after", [1, 5, 6])
def test_an_interrupted_training_resumes_to_the_same_result(teachers, update, whole, after, tmp_path):
    generator, history = whole
    with pytest.raises(Interrupted):
        train(teachers, config(update), checkpoint=Interrupting(tmp_path / "c.pt", after))
    checkpoint = Interrupting(tmp_path / "c.pt")
    resumed, curve = train(teachers, config(update), checkpoint=checkpoint)
    assert checkpoint.restored == after
    assert same(generator, resumed)
    assert curve == history


@pytest.mark.parametrize(("count", "per_step"), [(3, 1), (5, 2), (4, 4), (3, 5), (1, 2)])
def test_teachers_are_visited_evenly_and_in_random_order(count, per_step):
    visits = [index for step in range(20) for index in meta_generator._teachers_of_step(count, per_step, step, seed=7)]
    rounds = [visits[start : start + count] for start in range(0, len(visits) - count + 1, count)]
    assert all(sorted(permutation) == list(range(count)) for permutation in rounds)
    if count > 2:
        assert len({tuple(permutation) for permutation in rounds}) > 1
    assert meta_generator._teachers_of_step(count, per_step, 11, 7) == visits[11 * per_step : 12 * per_step]


def test_training_improves_the_initialisation(teachers, update):
    settings = config(update, outer_steps=30, inner_steps=2)

    def loss_after_inner_loop(start):
        losses = []
        for seed, teacher in itertools.product(range(4), teachers):
            history = inner_loop(start, teacher, InnerLoopConfig(2, 0.01, 20), settings, seed=seed).history
            losses.append(sum(getattr(settings.loss, name) * value for name, value in history[-1].items() if name != "step"))
        return sum(losses) / len(losses)

    assert loss_after_inner_loop(train(teachers, settings)[0]) < 0.9 * loss_after_inner_loop(fresh())


class Recording(Checkpoint):
    """Keeps a copy of the generator after every outer step."""

    def __init__(self):
        super().__init__(None)
        self.generators = []

    def save(self, step, history, **objects):
        self.generators.append(copy.deepcopy(objects["generator"]))


@pytest.mark.parametrize(("steps", "rates"), [(4, [0.5, 0.35, 0.2, 0.05]), (1, [0.5])])
def test_reptiles_rate_falls_linearly_to_a_tenth(teachers, steps, rates):
    settings, recording = config(outer_steps=steps, inner_steps=1), Recording()
    train(teachers, settings, checkpoint=recording)
    for step, (before, after) in enumerate(itertools.pairwise([fresh(), *recording.generators])):
        (index,) = meta_generator._teachers_of_step(3, 1, step, 0)
        seed, others = devices.derive_seed(0, "meta_generator", step, index), others_of(index, teachers)
        trained = inner_loop(before, teachers[index], InnerLoopConfig(1, 0.01, 10), settings, seed=seed, auxiliary_teachers=others)
        weights = [module.expand.weight.detach() for module in (before, after, trained.generator)]
        assert torch.allclose(weights[1] - weights[0], rates[step] * (weights[2] - weights[0]), atol=1e-6)


def test_first_order_maml_uses_the_last_inner_gradient_or_the_mean(teachers):
    start, inner = fresh(), InnerLoopConfig(3, 0.01, 10)
    totals = {}
    for update in (OuterUpdate.fomaml, OuterUpdate.fomaml_mean):
        settings = config(update, teachers_per_step=2)
        gradient, recorded = OuterGradient(start, update), []
        for index in (0, 2):
            steps = []

            def record(trained, gradient=gradient, steps=steps):
                gradient.add_step(trained)
                steps.append([parameter.grad[0].clone() for parameter in trained.parameters()])

            inner_loop(start, teachers[index], inner, settings, seed=index, each_step=record)
            gradient.finish_teachers()
            recorded.append(steps)
        chosen = [[steps[-1]] if update is OuterUpdate.fomaml else steps for steps in recorded]
        for place, total in enumerate(gradient.total):
            expected = sum(torch.stack([step[place] for step in steps]).mean(0) for steps in chosen)
            assert torch.allclose(total, expected, atol=1e-6)
        totals[update] = gradient.total[0]
    assert not torch.allclose(*totals.values())


def test_a_fresh_outer_optimiser_moves_weights_by_its_learning_rate(teachers):
    moved = {}
    for fresh_optimiser in (True, False):
        settings = config(OuterUpdate.fomaml, outer_steps=3, fresh_optimiser=fresh_optimiser)
        before = train(teachers, dataclasses.replace(settings, meta_generator=dataclasses.replace(settings.meta_generator, outer_steps=2)))[
            0
        ]
        after = train(teachers, settings)[0]
        moved[fresh_optimiser] = (after.expand.weight - before.expand.weight).abs()
    assert moved[True].median().item() == pytest.approx(0.01, rel=0.01)
    assert moved[False].median().item() != pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize(
    "changes", [{"latent_learning_rate": 0.02}, {"adversarial": 0.5}, {"latent_learning_rate": 0.02, "conditional": False}]
)
def test_options_train_repeat_and_resume(teachers, changes, tmp_path):
    settings = config(outer_steps=3, **changes)
    start = functools.partial(new_generator, 8, 8, 5, 3, 32, seed=0, conditional=settings.meta_generator.conditional)
    whole = start()
    history = train_meta_generator(whole, teachers, settings.meta_generator, settings, 0, Checkpoint(None))
    plain, _ = train(teachers, config(outer_steps=3))
    assert ("adversarial" in history[0]) == ("adversarial" in changes)
    assert not torch.equal(whole.expand.weight[:1], plain.expand.weight[:1, : whole.expand.in_features])
    with pytest.raises(Interrupted):
        train_meta_generator(start(), teachers, settings.meta_generator, settings, 0, Interrupting(tmp_path / "c.pt", 2))
    resumed = start()
    curve = train_meta_generator(resumed, teachers, settings.meta_generator, settings, 0, Interrupting(tmp_path / "c.pt"))
    assert same(whole, resumed)
    assert curve == history
