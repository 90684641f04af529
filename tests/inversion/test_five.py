import itertools

import pytest
import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionConfig, InversionLossConfig, MetaGeneratorConfig, OuterUpdate
from datafree.inversion import five
from datafree.inversion.adaptation import adapt, balanced_labels
from datafree.inversion.five import train_meta_generator
from datafree.inversion.generator import new_generator
from datafree.inversion.objective import image_terms, weighted

UPDATES = list(OuterUpdate)


def config(update=OuterUpdate.reptile, **changes) -> InversionConfig:
    settings = {
        "latent": 8, "width": 8, "outer_steps": 6, "teachers_per_step": 1, "inner_steps": 2, "inner_learning_rate": 0.01,
        "batch_size": 10, "outer_learning_rate": 0.5 if update is OuterUpdate.reptile else 0.01, **changes,
    }  # fmt: skip
    loss = InversionLossConfig(cross_entropy=1.0, batch_norm=0.5, diversity=2.0, diversity_margin=0.6)
    return InversionConfig(shift=1, loss=loss, meta_generator=MetaGeneratorConfig(update=update, **settings))


def fresh():
    return new_generator(8, 8, 5, 3, 32, seed=0)


def train(teachers, settings, seed=0, checkpoint=None):
    generator = fresh()
    history = train_meta_generator(generator, teachers, settings, seed, checkpoint or Checkpoint(None))
    return generator, history


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


@pytest.mark.parametrize("update", UPDATES)
def test_a_seed_decides_the_result_and_the_teachers_are_left_alone(teachers, update, state_of, assert_same_state):
    before = [state_of(teacher.network) for teacher in teachers]
    first, history = train(teachers, config(update))
    second, again = train(teachers, config(update))
    other, _ = train(teachers, config(update), seed=1)
    assert same(first, second)
    assert history == again
    assert not same(first, other)
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6]
    for teacher, state in zip(teachers, before, strict=True):
        assert_same_state(state_of(teacher.network), state)


@pytest.mark.parametrize("per_step", [1, 2])
@pytest.mark.parametrize("update", UPDATES)
def test_one_outer_step_is_its_formula(teachers, update, per_step):
    rate = 0.5 if update is OuterUpdate.reptile else 0.01
    settings = config(update, outer_steps=1, inner_steps=1, teachers_per_step=per_step)
    found, history = train(teachers, settings)
    start = fresh()
    gradients, losses = [], []
    for index in five._teachers_of_step(3, per_step, 0, 0):
        draw = devices.generator(devices.derive_seed(0, "meta_generator", 0, index), "adapt", 0)
        labels = balanced_labels(len(teachers[index].classes), 10)
        latent = torch.randn(10, 8, generator=draw)
        move = tuple(torch.randint(-1, 2, (2,), generator=draw).tolist())
        terms = image_terms(start(latent, labels), teachers[index], labels, settings.loss, move)
        gradients.append(torch.autograd.grad(weighted(terms, settings.loss), list(start.parameters())))
        losses.append(terms["cross_entropy"].item())
    assert history[0]["cross_entropy"] == pytest.approx(sum(losses) / per_step, rel=1e-5)

    def adam_step(slope, learning_rate):  # the first step of Adam moves every weight by the rate, whatever the betas
        return learning_rate * slope / (slope.abs() + 1e-8)

    compared = []
    for slot, (before, after) in enumerate(zip(start.parameters(), found.parameters(), strict=True)):
        slopes = [gradient[slot] for gradient in gradients]
        if update is OuterUpdate.reptile:
            adapted = torch.stack([before - adam_step(slope, 0.01) for slope in slopes])
            expected = before + rate * (adapted.mean(0) - before)
        else:
            expected = before - adam_step(torch.stack(slopes).mean(0), rate)
        # Where a gradient is all but zero its sign is a matter of rounding, and so is the step.
        sure = torch.stack(slopes).abs().min(0).values > 1e-5
        assert torch.allclose(after[sure], expected[sure], atol=1e-5)
        compared.append(sure.float().flatten())
    assert torch.cat(compared).mean() > 0.9


class Interrupted(Exception):
    pass


class Interrupting(Checkpoint):
    """Saves every step, breaks off after so many, and tells where a training went on."""

    def __init__(self, path, steps=None):
        super().__init__(path, "work", seconds_between=0)
        self.steps = steps

    def save(self, step, history, **objects):
        super().save(step, history, **objects)
        if step == self.steps:
            raise Interrupted

    def restore(self, **objects):
        found = super().restore(**objects)
        self.restored = found[0]
        return found


@pytest.mark.parametrize("after", [1, 5, 6])
@pytest.mark.parametrize("update", UPDATES)
def test_a_killed_training_goes_on_to_the_same_result(teachers, update, after, tmp_path):
    whole, history = train(teachers, config(update))
    with pytest.raises(Interrupted):
        train(teachers, config(update), checkpoint=Interrupting(tmp_path / "c.pt", after))
    checkpoint = Interrupting(tmp_path / "c.pt")
    resumed, curve = train(teachers, config(update), checkpoint=checkpoint)
    assert checkpoint.restored == after
    assert same(whole, resumed)
    assert curve == history


@pytest.mark.parametrize(("count", "per_step"), [(3, 1), (5, 2), (4, 4), (3, 5), (1, 2)])
def test_teachers_are_visited_evenly_and_in_random_order(count, per_step):
    visits = [index for step in range(20) for index in five._teachers_of_step(count, per_step, step, seed=7)]
    rounds = [visits[start : start + count] for start in range(0, len(visits) - count + 1, count)]
    assert all(sorted(one) == list(range(count)) for one in rounds)
    if count > 2:
        assert len({tuple(one) for one in rounds}) > 1
    assert five._teachers_of_step(count, per_step, 11, 7) == visits[11 * per_step : 12 * per_step]


@pytest.mark.parametrize("update", UPDATES)
def test_training_makes_a_better_start(teachers, update):
    settings = config(update, outer_steps=30, inner_steps=2)

    def loss_after_adapting(start):
        found = []
        for seed, teacher in itertools.product(range(4), teachers):
            _, history = adapt(start, teacher, steps=2, learning_rate=0.01, batch_size=20, shift=1, weights=settings.loss, seed=seed)
            found.append(sum(getattr(settings.loss, name) * value for name, value in history[-1].items() if name != "step"))
        return sum(found) / len(found)

    assert loss_after_adapting(train(teachers, settings)[0]) < 0.9 * loss_after_adapting(fresh())


def test_reptiles_rate_falls_linearly_to_a_tenth(teachers, monkeypatch):
    rates = []
    monkeypatch.setattr(five, "_interpolate", lambda generator, before, target, rate: rates.append(rate))
    train(teachers, config(outer_steps=4, inner_steps=1))
    assert rates == pytest.approx([0.5, 0.35, 0.2, 0.05])
    rates.clear()
    train(teachers, config(outer_steps=1, inner_steps=1))
    assert rates == [0.5]
