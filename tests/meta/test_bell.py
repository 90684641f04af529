import dataclasses

import pytest
import torch

from datafree import devices
from datafree.config import BellArm, BellUpdate, Divergence, Queried, ReplayConfig
from datafree.distillation.losses import distillation_loss
from datafree.episode_loss import EPISODE_SCALE
from datafree.meta import bell

BELL = BellArm(steps=1, tasks_per_step=1, outer_learning_rate=1.0, inner_learning_rate=0.01, augment=True)


def test_one_task_at_full_rate_is_a_plain_adam_step(train, fresh_learner, ensemble_of, episodes):
    learner, history = train(BELL)
    start = fresh_learner().train()
    rng = devices.generator(0, "bell", 0)
    task = int(torch.randint(len(episodes), (1,), generator=rng))
    ensemble = ensemble_of(start)
    queried = episodes.teacher[task].unique().tolist()
    episode, distillation = bell.task_losses(start, ensemble, episodes, task, queried, BELL, rng)
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


def test_an_outer_rate_of_zero_changes_no_weight(train, fresh_learner):
    learner, _ = train(dataclasses.replace(BELL, steps=2, tasks_per_step=2, outer_learning_rate=0.0))
    assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), fresh_learner().parameters(), strict=True))


def test_the_outer_rate_falls_linearly_to_a_tenth():
    arm = dataclasses.replace(BELL, steps=4, outer_learning_rate=0.8)
    assert [bell.outer_learning_rate(arm, step) for step in range(4)] == pytest.approx([0.8, 0.56, 0.32, 0.08])
    assert bell.outer_learning_rate(dataclasses.replace(BELL, steps=1), 0) == 1.0


def test_a_tasks_losses_are_of_its_own_images_and_labels(fresh_learner, ensemble_of, pools, episodes):
    learner = fresh_learner().eval()
    ensemble = ensemble_of(learner)
    plain = dataclasses.replace(BELL, augment=False, relational=0.0)
    for task in range(4):
        queried = episodes.teacher[task].unique().tolist()
        episode, distillation = bell.task_losses(learner, ensemble, episodes, task, queried, plain, devices.generator(0))
        rows = zip(episodes.teacher[task].tolist(), episodes.index[task].tolist(), strict=True)
        features = torch.stack([learner.features(pools[teacher].images[positions]) for teacher, positions in rows])
        unit = features / features.norm(dim=-1, keepdim=True)
        means, queries = unit[:, :2].mean(1), unit[:, 2:].flatten(0, 1)
        scores = -EPISODE_SCALE * ((queries[:, None] - means[None]) ** 2).sum(-1)
        log_probabilities = scores.log_softmax(1)[torch.arange(6), torch.arange(3).repeat_interleave(2)]
        assert episode.item() == pytest.approx(-log_probabilities.mean().item(), rel=1e-4)
        images = torch.cat(
            [pools[t].images[p] for t, p in zip(episodes.teacher[task].tolist(), episodes.index[task].tolist(), strict=True)]
        )
        predictions = ensemble.predict(ensemble.views(images, devices.generator(0), augment=False), queried)
        logits = learner.heads(features.flatten(0, 1), queried)
        assert distillation.item() == pytest.approx(distillation_loss(logits, predictions, plain.temperature).item(), rel=1e-3)


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


# ---- options of the released code -------------------------------------------------------------------------------------------------------


def test_a_released_outer_step_is_an_optimiser_step_on_67_displacements():
    holder = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor([3.0, 1.0]))])
    outer = torch.optim.SGD(holder.parameters(), lr=0.01)
    bell.released_step(holder, [torch.tensor([1.0, 2.0])], outer)
    assert torch.allclose(holder[0], torch.tensor([1.0 + 0.67 * 2, 2.0 - 0.67]))


def test_with_adam_every_outer_step_moves_each_weight_by_about_the_rate(train, fresh_learner):
    released = dataclasses.replace(BELL, update=BellUpdate.adam, outer_learning_rate=0.001, steps=1, tasks_per_step=2)
    learner, _ = train(released)
    for (name, after), before in zip(learner.backbone.named_parameters(), fresh_learner().backbone.parameters(), strict=True):
        if not name.endswith("conv.bias"):
            assert (after - before).abs().max().item() == pytest.approx(0.001, rel=0.01), name


def test_with_own_teachers_a_teacher_is_queried_about_its_own_tasks_alone(train_recorded, teachers_of):
    ensemble = train_recorded(dataclasses.replace(BELL, queried=Queried.own, steps=5, tasks_per_step=3))
    assert len(ensemble.queries) >= 15
    assert [teachers_of(images) for images in ensemble.viewed] == [set(queried) for queried in ensemble.queries]
    assert all(len(queried) == 1 for queried in ensemble.queries)


def test_with_the_teachers_of_the_step_all_of_them_are_queried_about_each_of_its_tasks(train_recorded, teachers_of, monkeypatch):
    monkeypatch.setattr(bell.alignment, "is_measured", lambda step, steps: False)
    ensemble = train_recorded(dataclasses.replace(BELL, queried=Queried.step, steps=5, tasks_per_step=3))
    assert len(ensemble.queries) == 15
    for first in range(0, 15, 3):
        of_step = set().union(*(teachers_of(images) for images in ensemble.viewed[first : first + 3]))
        assert all(set(queried) == of_step for queried in ensemble.queries[first : first + 3])
    assert any(teachers_of(images) < set(queried) for images, queried in zip(ensemble.viewed, ensemble.queries, strict=True))


def test_by_default_all_teachers_are_queried_about_every_task(train_recorded, monkeypatch):
    monkeypatch.setattr(bell.alignment, "is_measured", lambda step, steps: False)
    assert train_recorded(dataclasses.replace(BELL, steps=2, tasks_per_step=3)).queries == [[0, 1, 2]] * 6


def test_with_one_head_all_teachers_share_its_weights(train, fresh_learner):
    learner, _ = train(dataclasses.replace(BELL, one_head=True))
    assert learner.heads.weight.shape == (1, 5, learner.backbone.feature_size)
    assert not torch.equal(learner.heads.weight, fresh_learner("bell", True).heads.weight)


def test_the_released_divergence_is_used_if_configured(train):
    kl, released = (train(dataclasses.replace(BELL, divergence=which))[1][0] for which in (Divergence.kl, Divergence.released))
    assert kl["episode"] == released["episode"]
    assert kl["distillation"] != released["distillation"]


@pytest.mark.parametrize("update", BellUpdate)
def test_replay_lowers_the_loss_of_its_tasks_and_repeats(train, update):
    # An outer rate or an inner rate of zero, so that the replay alone changes the weights.
    alone = (
        {"inner_learning_rate": 0.01, "outer_learning_rate": 0.0} if update is BellUpdate.interpolation else {"inner_learning_rate": 0.0}
    )
    arm = dataclasses.replace(BELL, update=update, steps=20, replay=ReplayConfig(2, 0, 1, 0.1))
    arm = dataclasses.replace(arm, **{"outer_learning_rate": 0.01, **alone})
    learner, history = train(arm)
    values = [row["replay"] for row in history]
    assert sum(values[-5:]) < 0.9 * sum(values[:5])
    again, repeated = train(arm)
    assert repeated == history
    assert torch.equal(again.backbone.blocks[0].conv.weight, learner.backbone.blocks[0].conv.weight)


@pytest.mark.parametrize(
    ("accuracies", "patience", "batches"),
    [([0.5], 0, 1), ([0.5, 0.4, 0.6, 0.6, 0.6], 2, 5), ([0.2, 0.3, 0.1], 1, 3), ([0.0, 0.0], 1, 2)],
)
def test_replay_stops_without_improvement(fresh_learner, ensemble_of, episodes, monkeypatch, accuracies, patience, batches):
    learner, left = fresh_learner(), list(accuracies)

    def query_loss(backbone, *others, **more):
        return backbone.blocks[0].conv.weight.sum(), torch.tensor(left.pop(0))

    monkeypatch.setattr("datafree.meta.query_loss.query_loss", query_loss)
    arm = dataclasses.replace(BELL, replay=ReplayConfig(1, patience))
    steps = []
    outer = torch.optim.SGD(learner.parameters(), lr=0.0)
    outer.register_step_post_hook(lambda *_: steps.append(1))
    bell.replay(learner, ensemble_of(learner), episodes, arm, outer, devices.generator(0))
    assert len(steps) == batches
    assert left == []
