import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

from datafree import devices
from datafree.config import IgrArm
from datafree.meta import igr
from datafree.meta.adaptation import fit_head
from datafree.meta.grouping import HEAD_RATE, HEAD_STEPS, dissimilarity, grouped_tasks, task_embeddings, unlike_groups
from datafree.tasks.pools import Pool


def kinds(each: int, of: int) -> torch.Tensor:
    """Embeddings of several teachers of several kinds, which differ a little within a kind."""
    rng = torch.Generator().manual_seed(0)
    return torch.eye(of, 6, dtype=torch.float64).repeat_interleave(each, 0) + 0.1 * torch.rand(each * of, 6, generator=rng).double()


# ---- groups -----------------------------------------------------------------------------------------------------------------------------


def test_dissimilarity_is_one_minus_the_cosine():
    embeddings = kinds(2, 3)
    found = dissimilarity(embeddings)
    for i in range(6):
        for j in range(6):
            expected = 0 if i == j else 1 - F.cosine_similarity(embeddings[i], embeddings[j], dim=0).item()
            assert found[i, j].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_group_holds_several_kinds_where_groups_of_like_teachers_hold_one(seed):
    distances = dissimilarity(kinds(6, 3))
    others = ~torch.eye(18, dtype=torch.bool)

    def within(groups):
        groups = torch.tensor(groups)
        return distances[(groups[:, None] == groups) & others].mean()

    groups = unlike_groups(distances, 3, seed)
    assert within(groups) > 0.8 * distances[others].mean()
    assert within(unlike_groups(1 - distances, 3, seed)) < 0.1 * distances[others].mean()
    assert unlike_groups(distances, 3, seed) == groups


def test_alike_teachers_leave_groups_empty():
    groups = unlike_groups(torch.ones(9, 9, dtype=torch.float64).fill_diagonal_(0), 8, 0)
    assert len(groups) == 9
    assert set(groups) <= set(range(8))
    assert len(unlike_groups(torch.zeros(9, 9, dtype=torch.float64), 3, 0)) == 9


def test_few_teachers_are_a_group_each():
    assert unlike_groups(dissimilarity(kinds(1, 3)), 3, 0) == [0, 1, 2]
    assert unlike_groups(dissimilarity(kinds(1, 3)), 5, 0) == [0, 1, 2]


# ---- embeddings -------------------------------------------------------------------------------------------------------------------------


def test_an_embedding_is_the_mean_of_squared_gradients_per_channel(teachers, pools, monkeypatch):
    probe, pool = teachers[0], pools[1]
    monkeypatch.setattr("datafree.meta.grouping.IMAGES", len(pool.labels))  # all of them, in any order
    (found,) = task_embeddings(probe, [pool], 0, torch.device("cpu"))
    backbone = copy.deepcopy(probe.network.backbone).requires_grad_()
    views = probe.normalise(pool.images)
    features = F.normalize(backbone(views).detach(), dim=1)
    weight, bias = fit_head(features, pool.labels, len(pool.classes), HEAD_RATE, HEAD_STEPS)
    expected = []
    for parameter in backbone.parameters():
        squares = 0
        for view, label in zip(views, pool.labels, strict=True):
            likelihood = (F.normalize(backbone(view[None]), dim=1) @ weight.T + bias).log_softmax(1)[0, label]
            squares = squares + torch.autograd.grad(likelihood, parameter)[0] ** 2
        expected.append((squares / len(views)).reshape(len(parameter), -1).mean(1))
    assert torch.allclose(found.float(), torch.cat(expected).detach(), rtol=1e-3, atol=1e-9)


def test_embeddings_tell_pools_apart_and_leave_the_probe_alone(teachers, pools, state_of, assert_same_state):
    before = state_of(teachers[0].network)
    twice = Pool(pools[1].images.clone(), pools[1].labels, pools[1].soft_labels, pools[1].classes)
    distances = dissimilarity(task_embeddings(teachers[0], [pools[0], pools[1], twice], 0, torch.device("cpu")))
    assert_same_state(state_of(teachers[0].network), before)
    assert distances[1, 2] < distances[0, 1]


# ---- tasks ------------------------------------------------------------------------------------------------------------------------------


def test_every_task_of_one_teacher_is_in_one_group(classroom_of, fresh_learner, episodes):
    groups = grouped_tasks(classroom_of(fresh_learner()), episodes, 2, 0)
    alone = torch.nonzero((episodes.teacher == episodes.teacher[:, :1]).all(1)).flatten()
    assert sorted(torch.cat(groups).tolist()) == alone.tolist()
    owners = [set(episodes.teacher[group, 0].tolist()) for group in groups]
    assert len(groups) == 2
    assert not owners[0] & owners[1]


def test_the_most_trusted_teacher_is_the_probe(classroom_of, fresh_learner, episodes, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "datafree.meta.grouping.task_embeddings", lambda probe, pools, *_: seen.append(probe.name) or torch.rand(len(pools), 4)
    )
    ensemble = dataclasses.replace(classroom_of(fresh_learner()), sampling_weights=torch.tensor([0.2, 0.5, 1.0]))
    grouped_tasks(ensemble, episodes, 2, 0)
    assert seen == [ensemble.teachers[2].name]


def test_a_step_takes_tasks_of_one_group(train, monkeypatch):
    groups = [torch.tensor([0, 1]), torch.tensor([4, 7, 9])]
    monkeypatch.setattr(igr, "grouped_tasks", lambda *_: groups)
    steps, draw_tasks = [], igr.draw_tasks
    monkeypatch.setattr(igr, "draw_tasks", lambda *given: steps.append(draw_tasks(*given)) or steps[-1])
    train(IgrArm(steps=5, tasks_per_step=3, groups=2, regularisation=0.0))
    assert len(steps) == 5
    assert all(set(step) <= {0, 1} or set(step) <= {4, 7, 9} for step in steps)
    counts = [draw_tasks(groups, 1, devices.generator(seed))[0] > 1 for seed in range(300)]
    assert sum(counts) / 300 == pytest.approx(0.6, abs=0.1)
