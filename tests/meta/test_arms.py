"""Tests of every registered meta-learning method."""

import copy
import dataclasses

import pytest
import torch

from datafree import devices
from datafree.config import ARM_TYPES
from datafree.distillation.losses import distillation_loss
from datafree.meta import ARMS
from tests.interruption import Interrupted, Interrupting

GLOBAL_SEED = 1  # of PyTorch's global random numbers, of which no arm takes any


@pytest.fixture(scope="module", params=ARMS)
def arm(request):
    """The arm's default settings, with few steps and tasks."""
    settings = ARM_TYPES[request.param](steps=6)
    small = {"tasks_per_step": 2, "teachers_per_step": 2, "batch_size": 16, "inner_steps": 2}
    return dataclasses.replace(settings, **{name: value for name, value in small.items() if hasattr(settings, name)})


@pytest.fixture(scope="module")
def whole(arm, train):
    """What an uninterrupted training gives: a learner, which no test changes, and its history."""
    torch.manual_seed(GLOBAL_SEED)
    return train(arm)


@pytest.fixture(scope="module")
def shortest(arm, train):
    """As ``whole``, after one step."""
    return train(dataclasses.replace(arm, steps=1))


@pytest.fixture(scope="module")
def longer(arm, train):
    """As ``whole``, after 20 steps."""
    return train(dataclasses.replace(arm, steps=20))


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def test_every_arm_has_settings_with_its_name():
    assert set(ARMS) == set(ARM_TYPES)
    assert all(settings().method == name for name, settings in ARM_TYPES.items())


def test_the_seed_alone_determines_the_result_and_teachers_pools_and_the_global_random_state_do_not_change(
    arm, whole, shortest, train, teachers, pools, state_of, assert_same_state
):
    before = [state_of(teacher.network) for teacher in teachers]
    images = [pool.images.clone() for pool in pools]
    torch.manual_seed(GLOBAL_SEED + 1)
    state = torch.random.get_rng_state()
    second, again = train(arm)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(whole[0], second)
    assert whole[1] == again
    assert not same(shortest[0], train(dataclasses.replace(arm, steps=1), seed=1)[0])
    for teacher, state in zip(teachers, before, strict=True):
        assert_same_state(state_of(teacher.network), state)
    assert all(torch.equal(pool.images, image) for pool, image in zip(pools, images, strict=True))


def test_the_history_ends_with_the_last_step_and_is_finite(whole):
    _, history = whole
    assert [row["step"] for row in history] == sorted({row["step"] for row in history})
    assert history[-1]["step"] == 6
    assert all(value == value and abs(value) < 1e6 for row in history for value in row.values())


def distance_to_teachers(learner, ensemble_of, pools) -> float:
    """Distillation loss over all teachers on the unaugmented images of all pools."""
    learner = copy.deepcopy(learner).train()
    ensemble = ensemble_of(learner)
    with torch.no_grad():
        views = ensemble.views(torch.cat([pool.images for pool in pools]), devices.generator(0), augment=False)
        logits = learner.heads(learner.backbone(views), [0, 1, 2])
        return distillation_loss(logits, ensemble.predict(views, [0, 1, 2]), 4.0).item()


# Arms that train the heads by distillation; the others train on episodes alone.
DISTILLING = [name for name, settings in ARM_TYPES.items() if hasattr(settings(), "temperature") and getattr(settings(), "distillation", 1)]


@pytest.mark.parametrize("arm", DISTILLING, indirect=True)
def test_a_distilling_arm_comes_closer_to_its_teachers(longer, fresh_learner, ensemble_of, pools):
    assert distance_to_teachers(longer[0], ensemble_of, pools) < 0.8 * distance_to_teachers(fresh_learner(), ensemble_of, pools)


def test_every_layer_of_the_backbone_is_trained(arm, train, fresh_learner):
    learner, history = train(dataclasses.replace(arm, steps=2))
    assert history[-1]["step"] == 2
    start = fresh_learner(arm.method)
    for (name, after), before in zip(learner.backbone.named_parameters(), start.backbone.parameters(), strict=True):
        if not name.endswith("conv.bias") and not (arm.method == "dro" and "norm" in name):  # before a normalisation; equal in all teachers
            assert not torch.equal(after, before), name
    assert torch.equal(learner.heads.weight, start.heads.weight) != (arm.method in DISTILLING)
    assert all(torch.isfinite(value).all() for value in learner.state_dict().values())
    assert not torch.equal(learner.backbone.blocks[0].norm.running_mean, start.backbone.blocks[0].norm.running_mean)


def test_training_lowers_the_loss(longer):
    _, history = longer
    name = next(name for name in history[0] if name not in ("step", "gradient_cosine"))
    values = [row[name] for row in history]
    third = max(1, len(values) // 3)
    assert sum(values[-third:]) < 0.9 * sum(values[:third])


def test_the_gradient_cosine_is_measured_and_does_not_affect_training(arm, whole, train, monkeypatch):
    if arm.method == "dro":
        pytest.skip("does not train on tasks")
    learner, history = whole
    measured = [row for row in history if "gradient_cosine" in row]
    assert [row["step"] for row in measured] == [1, 3, 5, 6]
    assert all(-1 <= row["gradient_cosine"] <= 1 for row in measured)
    monkeypatch.setattr("datafree.meta.alignment.is_measured", lambda step, steps: step == steps - 1)
    monkeypatch.setattr("datafree.meta.alignment.task_gradient_cosine", lambda *_: {})
    assert same(learner, train(arm)[0])


def test_an_arm_trains_with_one_step(shortest):
    assert shortest[1][-1]["step"] == 1


@pytest.mark.parametrize("after", [4, 6])
def test_an_interrupted_training_resumes_to_the_same_result(arm, whole, train, after, tmp_path):
    learner, history = whole
    with pytest.raises(Interrupted):
        train(arm, checkpoint=Interrupting(tmp_path / "c.pt", after))
    checkpoint = Interrupting(tmp_path / "c.pt")
    resumed, resumed_history = train(arm, checkpoint=checkpoint)
    assert checkpoint.restored == after
    assert same(learner, resumed)
    assert resumed_history == history


def test_teachers_per_step_may_exceed_the_number_of_teachers(train, fresh_learner):
    learner, _ = train(dataclasses.replace(ARM_TYPES["distillation"](steps=2), teachers_per_step=50, batch_size=12))
    start = fresh_learner()
    changed = [not torch.equal(after, before) for after, before in zip(learner.heads.weight, start.heads.weight, strict=True)]
    assert changed == [True, True, True]
