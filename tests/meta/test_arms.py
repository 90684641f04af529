"""One suite for every meta-learning arm, because it is registered."""

import copy
import dataclasses

import pytest
import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import ARM_TYPES, BackboneConfig, BellArm, TasksConfig
from datafree.meta import ARMS, bell
from datafree.meta.classroom import Classroom
from datafree.meta.learner import Learner, TeacherHeads
from datafree.meta.losses import distillation_loss
from datafree.tasks.episodes import sample_episodes
from datafree.zoo.backbones import Normalise, build

CPU = torch.device("cpu")
TASKS = TasksConfig(way=3, shot=2, query=2, episodes=12, mixed=0.5)


@pytest.fixture(params=ARMS)
def arm(request):
    """The arm's own settings with little work."""
    settings = ARM_TYPES[request.param](steps=6)
    small = {"tasks_per_step": 2, "teachers_per_step": 2, "images_per_teacher": 8}
    return dataclasses.replace(settings, **{name: value for name, value in small.items() if hasattr(settings, name)})


@pytest.fixture(scope="module")
def episodes(pools):
    return sample_episodes(pools, [1.0] * len(pools), TASKS, seed=0)


def fresh_learner() -> Learner:
    backbone = build(BackboneConfig("conv4_strided", 8), 3, 32, seed=0)
    with devices.seeded_initialisation(0):
        heads = TeacherHeads(backbone.feature_size, [3, 4, 5])
    return Learner(backbone, heads, Normalise([0.45] * 3, [0.22] * 3))


@pytest.fixture
def train(teachers, pools, episodes):
    def run(arm, seed=0, checkpoint=None):
        learner = fresh_learner()
        classroom = Classroom(teachers, pools, learner.normalise, CPU, torch.ones(len(teachers)))
        history = ARMS[arm.method](learner, classroom, episodes, arm, seed, checkpoint or Checkpoint(None))
        return learner, history

    return run


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def test_every_arm_has_settings_that_name_it():
    assert set(ARMS) == set(ARM_TYPES)
    assert all(settings().method == name for name, settings in ARM_TYPES.items())


def test_a_seed_decides_the_result_and_the_teachers_are_left_alone(arm, train, teachers, pools, state_of, assert_same_state):
    before = [state_of(teacher.network) for teacher in teachers]
    images = [pool.images.clone() for pool in pools]
    first, history = train(arm)
    second, again = train(arm)
    assert same(first, second)
    assert history == again
    assert not same(first, train(arm, seed=1)[0])
    for teacher, state in zip(teachers, before, strict=True):
        assert_same_state(state_of(teacher.network), state)
    assert all(torch.equal(pool.images, image) for pool, image in zip(pools, images, strict=True))


def test_the_global_random_state_plays_no_part(arm, train):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, _ = train(arm)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, train(arm)[0])


def test_the_curve_ends_with_the_last_step_and_is_finite(arm, train):
    _, history = train(arm)
    assert [row["step"] for row in history] == sorted({row["step"] for row in history})
    assert history[-1]["step"] == 6
    assert all(value == value and abs(value) < 1e6 for row in history for value in row.values())


def teachers_loss(learner, teachers, pools) -> float:
    """How far the learner is from all teachers on the plain images of all pools."""
    learner = copy.deepcopy(learner).train()
    classroom = Classroom(teachers, pools, learner.normalise, CPU, torch.ones(len(teachers)))
    with torch.no_grad():
        views = classroom.views(torch.cat([pool.images for pool in pools]), devices.generator(0), augment=False)
        logits = learner.heads(learner.backbone(views), [0, 1, 2])
        return distillation_loss(logits, classroom.ask(views, [0, 1, 2]), 4.0).item()


def test_the_learner_comes_closer_to_its_teachers(arm, train, teachers, pools):
    longer = dataclasses.replace(arm, steps=30)
    learner, _ = train(longer)
    assert teachers_loss(learner, teachers, pools) < 0.8 * teachers_loss(fresh_learner(), teachers, pools)


def test_the_backbone_learns_all_the_way_down(arm, train):
    learner, _ = train(dataclasses.replace(arm, steps=2))
    start = fresh_learner()
    for (name, after), before in zip(learner.named_parameters(), start.parameters(), strict=True):
        if not name.endswith("conv.bias"):  # before a normalisation
            assert not torch.equal(after, before), name
    assert all(torch.isfinite(value).all() for value in learner.state_dict().values())
    assert not torch.equal(learner.backbone.blocks[0].norm.running_mean, start.backbone.blocks[0].norm.running_mean)


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps_are_steps_too(arm, train, steps):
    _, history = train(dataclasses.replace(arm, steps=steps))
    assert history[-1]["step"] == steps


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


@pytest.mark.parametrize("after", [1, 4, 6])
def test_a_killed_training_goes_on_to_the_same_result(arm, train, after, tmp_path):
    whole, history = train(arm)
    with pytest.raises(Interrupted):
        train(arm, checkpoint=Interrupting(tmp_path / "c.pt", after))
    checkpoint = Interrupting(tmp_path / "c.pt")
    resumed, curve = train(arm, checkpoint=checkpoint)
    assert checkpoint.restored == after
    assert same(whole, resumed)
    assert curve == history


def test_more_teachers_than_there_are_may_be_asked_for(train):
    learner, _ = train(dataclasses.replace(ARM_TYPES["distillation"](steps=2), teachers_per_step=50, images_per_teacher=4))
    start = fresh_learner()
    changed = [not torch.equal(after, before) for after, before in zip(learner.heads.weight, start.heads.weight, strict=True)]
    assert changed == [True, True, True]


# ---- BELL -------------------------------------------------------------------------------------------------------------------------------

BELL = BellArm(steps=1, tasks_per_step=1, outer_learning_rate=1.0, inner_learning_rate=0.01, augment=True)


def test_one_task_at_full_rate_is_a_plain_adam_step(train, teachers, pools, episodes):
    learner, history = train(BELL)
    start = fresh_learner().train()
    draw = devices.generator(0, "bell", 0)
    task = int(torch.randint(len(episodes), (1,), generator=draw))
    classroom = Classroom(teachers, pools, start.normalise, CPU, torch.ones(len(teachers)))
    asked = episodes.teacher[task].unique().tolist()
    episode, distillation = bell.task_losses(start, classroom, episodes, task, asked, BELL, draw)
    assert history[0]["episode"] == pytest.approx(episode.item())
    assert history[0]["distillation"] == pytest.approx(distillation.item())
    optimiser = torch.optim.Adam(start.parameters(), lr=0.01)
    ((1 - BELL.distillation) * episode + BELL.distillation * distillation).backward()
    optimiser.step()
    for (name, after), expected in zip(learner.named_parameters(), start.parameters(), strict=True):
        assert torch.allclose(after, expected, atol=1e-6), name


@pytest.mark.parametrize(("rate", "expected"), [(0.0, [1.0, 2.0]), (0.25, [1.5, 1.75]), (1.0, [3.0, 1.0])])
def test_an_outer_step_keeps_a_share_of_the_displacement(rate, expected):
    holder = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(3.0)), torch.nn.Parameter(torch.tensor(1.0))])
    bell.outer_step(holder, [torch.tensor(1.0), torch.tensor(2.0)], rate)
    assert [parameter.item() for parameter in holder] == expected
    assert all(parameter.requires_grad for parameter in holder)


def test_no_rate_changes_no_weight(train, monkeypatch):
    learner, _ = train(dataclasses.replace(BELL, steps=2, tasks_per_step=2, outer_learning_rate=0.0))
    assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), fresh_learner().parameters(), strict=True))


def test_the_outer_rate_falls_linearly_to_a_tenth(train, monkeypatch):
    rates = []
    monkeypatch.setattr(bell, "outer_step", lambda learner, before, rate: rates.append(rate))
    train(dataclasses.replace(BELL, steps=4, outer_learning_rate=0.8))
    assert rates == pytest.approx([0.8, 0.56, 0.32, 0.08])


def test_a_tasks_losses_are_of_its_own_images_and_labels(teachers, pools, episodes):
    learner = fresh_learner().eval()
    classroom = Classroom(teachers, pools, learner.normalise, CPU, torch.ones(len(teachers)))
    plain = dataclasses.replace(BELL, augment=False)
    for task in range(4):
        asked = episodes.teacher[task].unique().tolist()
        found, taught = bell.task_losses(learner, classroom, episodes, task, asked, plain, devices.generator(0))
        rows = zip(episodes.teacher[task].tolist(), episodes.index[task].tolist(), strict=True)
        features = torch.stack([learner.features(pools[teacher].images[places]) for teacher, places in rows])
        unit = features / features.norm(dim=-1, keepdim=True)
        means, queries = unit[:, :2].mean(1), unit[:, 2:].flatten(0, 1)
        scores = -bell.EPISODE_SCALE * ((queries[:, None] - means[None]) ** 2).sum(-1)
        picked = scores.log_softmax(1)[torch.arange(6), torch.arange(3).repeat_interleave(2)]
        assert found.item() == pytest.approx(-picked.mean().item(), rel=1e-4)
        images = torch.cat(
            [pools[t].images[p] for t, p in zip(episodes.teacher[task].tolist(), episodes.index[task].tolist(), strict=True)]
        )
        answers = classroom.ask(classroom.views(images, devices.generator(0), augment=False), asked)
        logits = learner.heads(features.flatten(0, 1), asked)
        assert taught.item() == pytest.approx(distillation_loss(logits, answers, plain.temperature).item(), rel=1e-3)


def test_sequential_steps_align_gradients_as_the_expansion_says():
    """Two quadratic tasks, plain gradient steps in both orders: their mean displacement is the claimed one up to the third order."""
    torch.manual_seed(0)
    curvatures = [(lambda m: m @ m.T)(torch.randn(3, 3, dtype=torch.float64)) for _ in range(2)]
    minima = torch.randn(2, 3, dtype=torch.float64)
    start = torch.randn(3, dtype=torch.float64)

    def gradient(task, at):
        return curvatures[task] @ (at - minima[task])

    def error(rate: float) -> float:
        displacement = torch.zeros(3, dtype=torch.float64)
        for order in ((0, 1), (1, 0)):
            at = torch.nn.ParameterList([torch.nn.Parameter(start.clone())])
            for task in order:
                at[0].data -= rate * gradient(task, at[0].data)
            bell.outer_step(at, [start], 1.0)
            displacement += (at[0].data - start) / 2
        g = [gradient(task, start) for task in range(2)]
        inner_product_slope = curvatures[0] @ g[1] + curvatures[1] @ g[0]
        claimed = -rate * (g[0] + g[1] - rate / 2 * inner_product_slope)
        return (displacement - claimed).norm().item()

    # For quadratics the expansion is exact; leaving the alignment out would leave an error of the second order.
    assert error(0.01) < 1e-12
    assert error(0.1) < 1e-11
