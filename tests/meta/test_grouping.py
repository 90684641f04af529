import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

from datafree import devices
from datafree.config import IgrArm, Queried
from datafree.meta import igr
from datafree.meta.adaptation import fit_head
from datafree.meta.grouping import HEAD_LEARNING_RATE, HEAD_STEPS, IMAGES, dissimilar_groups, dissimilarity, grouped_tasks, task_embeddings
from datafree.tasks.pools import Pool


def kinds(each: int, of: int) -> torch.Tensor:
    """Embeddings of ``each`` teachers of each of ``of`` kinds, with small differences within a kind."""
    rng = torch.Generator().manual_seed(0)
    return torch.eye(of, 6, dtype=torch.float64).repeat_interleave(each, 0) + 0.1 * torch.rand(each * of, 6, generator=rng).double()


# ---- groups -----------------------------------------------------------------------------------------------------------------------------


def test_dissimilarity_is_one_minus_the_cosine():
    embeddings = kinds(2, 3)
    result = dissimilarity(embeddings)
    for i in range(6):
        for j in range(6):
            expected = 0 if i == j else 1 - F.cosine_similarity(embeddings[i], embeddings[j], dim=0).item()
            assert result[i, j].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_of_dissimilar_teachers_and_with_similarities_of_similar_ones(seed):
    distances = dissimilarity(kinds(6, 3))
    others = ~torch.eye(18, dtype=torch.bool)

    def within(groups):
        groups = torch.tensor(groups)
        return distances[(groups[:, None] == groups) & others].mean()

    groups = dissimilar_groups(distances, 3, seed)
    assert within(groups) > 0.8 * distances[others].mean()
    assert within(dissimilar_groups(1 - distances, 3, seed)) < 0.1 * distances[others].mean()
    assert dissimilar_groups(distances, 3, seed) == groups


def test_groups_of_equally_distant_or_equal_teachers_may_be_empty():
    groups = dissimilar_groups(torch.ones(9, 9, dtype=torch.float64).fill_diagonal_(0), 8, 0)
    assert len(groups) == 9
    assert set(groups) <= set(range(8))
    assert len(dissimilar_groups(torch.zeros(9, 9, dtype=torch.float64), 3, 0)) == 9


def test_with_at_most_as_many_teachers_as_groups_each_is_a_group():
    assert dissimilar_groups(dissimilarity(kinds(1, 3)), 3, 0) == [0, 1, 2]
    assert dissimilar_groups(dissimilarity(kinds(1, 3)), 5, 0) == [0, 1, 2]


# ---- embeddings -------------------------------------------------------------------------------------------------------------------------


def test_an_embedding_is_the_mean_of_squared_gradients_per_channel(teachers, pools):
    probe, pool = teachers[0], pools[1]
    assert len(pool.labels) <= IMAGES  # all images are used
    (result,) = task_embeddings(probe, [pool], 0, torch.device("cpu"))
    backbone = copy.deepcopy(probe.network.backbone).requires_grad_()
    views = probe.normalise(pool.images)
    features = F.normalize(backbone(views).detach(), dim=1)
    weight, bias = fit_head(features, pool.labels, len(pool.classes), HEAD_LEARNING_RATE, HEAD_STEPS)
    expected = []
    for parameter in backbone.parameters():
        squares = 0
        for view, label in zip(views, pool.labels, strict=True):
            likelihood = (F.normalize(backbone(view[None]), dim=1) @ weight.T + bias).log_softmax(1)[0, label]
            squares = squares + torch.autograd.grad(likelihood, parameter)[0] ** 2
        expected.append((squares / len(views)).reshape(len(parameter), -1).mean(1))
    assert torch.allclose(result.float(), torch.cat(expected).detach(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("architecture", ["conv4", "resnet8"])
def test_the_embedding_of_images_together_is_that_of_single_ones(architecture, make_teacher, pools):
    probe = make_teacher("probe", ("a", "b"), 0, architecture=architecture)
    exact = dataclasses.replace(probe, network=probe.network.double(), normalise=probe.normalise.double())
    single, together = (task_embeddings(exact, pools[:2], 0, torch.device("cpu"), together=flag) for flag in (False, True))
    torch.testing.assert_close(together, single, rtol=1e-9, atol=1e-9 * single.max().item())


def test_embeddings_distinguish_pools_and_do_not_change_the_probe(teachers, pools, state_of, assert_same_state):
    before = state_of(teachers[0].network)
    twice = Pool(pools[1].images.clone(), pools[1].labels, pools[1].soft_labels, pools[1].classes)
    distances = dissimilarity(task_embeddings(teachers[0], [pools[0], pools[1], twice], 0, torch.device("cpu")))
    assert_same_state(state_of(teachers[0].network), before)
    assert distances[1, 2] < distances[0, 1]


# ---- tasks ------------------------------------------------------------------------------------------------------------------------------


def test_every_task_of_one_teacher_is_in_one_group(ensemble_of, fresh_learner, episodes):
    groups = grouped_tasks(ensemble_of(fresh_learner()), episodes, 2, 0)
    of_one_teacher = torch.nonzero((episodes.teacher == episodes.teacher[:, :1]).all(1)).flatten()
    assert sorted(torch.cat(groups).tolist()) == of_one_teacher.tolist()
    owners = [set(episodes.teacher[group, 0].tolist()) for group in groups]
    assert len(groups) == 2
    assert not owners[0] & owners[1]


def test_the_probe_is_the_teacher_of_the_highest_sampling_weight(ensemble_of, fresh_learner, episodes):
    ensemble = ensemble_of(fresh_learner())
    without_network = [dataclasses.replace(teacher, network=None) for teacher in ensemble.teachers[:2]]
    weighted = dataclasses.replace(
        ensemble, teachers=[*without_network, ensemble.teachers[2]], sampling_weights=torch.tensor([0.2, 0.5, 1.0])
    )
    assert len(grouped_tasks(weighted, episodes, 2, 0)) == 2
    with pytest.raises(AttributeError, match="backbone"):
        grouped_tasks(dataclasses.replace(weighted, sampling_weights=torch.tensor([1.0, 0.5, 1.0])), episodes, 2, 0)


def test_tasks_are_of_one_group_in_proportion_to_its_size():
    groups = [torch.tensor([0, 1]), torch.tensor([4, 7, 9])]
    sampled = [igr.sample_tasks(groups, 3, devices.generator(seed)) for seed in range(300)]
    assert all(set(tasks) <= {0, 1} or set(tasks) <= {4, 7, 9} for tasks in sampled)
    assert sum(tasks[0] > 1 for tasks in sampled) / 300 == pytest.approx(0.6, abs=0.1)


def test_with_groups_the_teachers_of_a_step_are_of_one_group(train_recorded, ensemble_of, fresh_learner, episodes):
    arm = IgrArm(steps=5, tasks_per_step=3, groups=2, regularisation=0.0, queried=Queried.step)
    groups = grouped_tasks(ensemble_of(fresh_learner()), episodes, 2, 0)
    owners = [set(episodes.teacher[group, 0].tolist()) for group in groups]
    queries = train_recorded(arm).queries
    assert len(queries) >= 15
    assert all(any(set(queried) <= group for group in owners) for queried in queries)
