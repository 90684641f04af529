import copy

import pytest
import torch

from datafree.config import AdaptationConfig, AdaptedPart, BackboneConfig
from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.few_shot import episode_rows, solver_accuracies
from datafree.evaluation.nearest_centroid import nearest_centroid
from datafree.evaluation.readouts import FEATURES_ONLY, Reader
from datafree.evaluation.task_adaptation import (
    StackedAdaptation,
    StackedTransduction,
    adaptation_solver,
    head_classifier,
    transductive_solver,
    without_running_statistics,
)
from datafree.meta.adaptation import adapt
from datafree.zoo.backbones import Normalise, build

CPU = torch.device("cpu")
RULES = {part: AdaptationConfig(part, 4, 0.05) for part in (AdaptedPart.network, AdaptedPart.head)}
NORMALISE = Normalise([0.5] * 3, [0.25] * 3)
PARTS = pytest.mark.parametrize("part", RULES)
INFERENCE = pytest.mark.parametrize("transductive", [False, True], ids=["inductive", "transductive"])


@pytest.fixture(scope="module")
def backbone():
    """With running statistics that fit no image."""
    network = build(BackboneConfig("conv4_strided", 8), 3, 32, seed=0).eval()
    for block in network.blocks:
        block.norm.running_mean.fill_(3.0)
        block.norm.running_var.fill_(0.1)
    return network


@pytest.fixture(scope="module")
def episode(image_set):
    """support [4, 2, ...], query [12, ...] in the order of the classes."""
    rows = torch.stack([torch.nonzero(image_set.labels == label).flatten()[:5] for label in (3, 1, 8, 6)])
    images = image_set.images[rows]
    return images[:, :2], images[:, 2:].flatten(0, 1)


def unchanged(before, network):
    return all(torch.equal(a, b) for a, b in zip(before.state_dict().values(), network.state_dict().values(), strict=True))


@PARTS
@INFERENCE
def test_episodes_of_distinct_classes_are_solved_and_the_network_does_not_change(backbone, image_set, part, transductive):
    before = copy.deepcopy(backbone)
    solve = adaptation_solver(backbone, NORMALISE, RULES[part], transductive=transductive)
    rows = episode_rows(image_set.labels, way=4, shot=2, query=3, episodes=10, seed=0)
    accuracies = solver_accuracies(solve, image_set.images, rows, 2, CPU)
    assert sum(accuracies) / 10 > 0.7
    assert accuracies == solver_accuracies(solve, image_set.images, rows, 2, CPU)  # an episode does not affect the next
    assert unchanged(before, backbone)
    assert not backbone.training


@PARTS
def test_an_inductive_prediction_does_not_depend_on_the_other_queries(backbone, episode, part):
    support, query = episode
    solve = adaptation_solver(backbone, NORMALISE, RULES[part], transductive=False)
    assert torch.equal(torch.cat([solve(support, image[None]) for image in query]), solve(support, query))


@PARTS
@INFERENCE
def test_permuted_classes_permute_the_predictions(backbone, episode, part, transductive):
    support, query = episode
    solve = adaptation_solver(backbone, NORMALISE, RULES[part], transductive=transductive)
    order = torch.tensor([2, 3, 0, 1])
    assert torch.equal(order[solve(support[order], query)], solve(support, query))


# ---- several episodes at once -----------------------------------------------------------------------------------------------------------


def exact(backbone):
    """In float64, with its normalisation."""
    return copy.deepcopy(backbone).double(), copy.deepcopy(NORMALISE).double()


def solved_together(loop, stacked, image_set, monkeypatch):
    """Accuracies of episodes of noise, one by one, in one pass and three at once."""
    images = torch.randint(0, 256, image_set.images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = episode_rows(image_set.labels, way=4, shot=2, query=3, episodes=8, seed=0)
    accuracies = [solver_accuracies(solve, images, rows, 2, CPU) for solve in (loop, stacked)]
    monkeypatch.setattr(type(stacked), "episodes_that_fit", lambda self, images: 3)
    return [*accuracies, solver_accuracies(stacked, images, rows, 2, CPU)]


@PARTS
@INFERENCE
def test_adaptation_to_several_episodes_is_that_to_each(backbone, image_set, monkeypatch, part, transductive):
    network, normalise = exact(backbone)
    before = copy.deepcopy(network)
    solvers = [make(network, normalise, RULES[part], transductive=transductive) for make in (adaptation_solver, StackedAdaptation)]
    one_by_one, together, in_parts = solved_together(*solvers, image_set, monkeypatch)
    assert one_by_one == together == in_parts
    assert len(set(one_by_one)) > 1
    assert unchanged(before, network)


def test_the_logits_of_stacked_adaptation_are_those_of_each_episode(backbone, image_set, monkeypatch):
    """Of an inductive episode, whose queries are normalised by the statistics of the support."""
    network, normalise = exact(backbone)
    monkeypatch.setattr(torch.Tensor, "argmax", lambda values, _: values)
    rows = episode_rows(image_set.labels, way=4, shot=2, query=3, episodes=3, seed=0)
    support, query = image_set.images[rows[:, :, :2]], image_set.images[rows[:, :, 2:].flatten(1)]
    single, stacked = (
        make(network, normalise, RULES[AdaptedPart.network], transductive=False) for make in (adaptation_solver, StackedAdaptation)
    )
    logits = torch.stack([single(*episode) for episode in zip(support, query, strict=True)])
    torch.testing.assert_close(stacked(support, query), logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mirrored", [False, True])
def test_transduction_over_several_episodes_is_that_over_each(backbone, image_set, monkeypatch, mirrored):
    network, normalise = exact(backbone)
    heads = TeacherHeads(network.feature_size, [3, 2]).double()
    settings = {"classify": nearest_centroid, "reader": Reader(("joined",), heads.of_all), "mirrored": mirrored}
    loop = transductive_solver(without_running_statistics(network), normalise, **settings)
    one_by_one, together, in_parts = solved_together(loop, StackedTransduction(network, normalise, **settings), image_set, monkeypatch)
    assert one_by_one == together == in_parts
    assert len(set(one_by_one)) > 1


# ---- one episode ------------------------------------------------------------------------------------------------------------------------


def test_transductive_steps_are_those_of_training(backbone, episode):
    support, query = episode
    rule, network = RULES[AdaptedPart.network], copy.deepcopy(backbone).train()
    weights = dict(network.named_parameters())
    target = torch.arange(4).repeat_interleave(2)
    adapted = adapt(network, weights, NORMALISE(support.flatten(0, 1)), target, 4, rule, steps=4, create_graph=False)
    expected = adapted.logits(network, NORMALISE(query)).argmax(1)
    assert torch.equal(adaptation_solver(backbone, NORMALISE, rule, transductive=True)(support, query), expected)


def test_the_head_classifier_is_head_adaptation_on_features(backbone, episode):
    support, query = episode
    rule = RULES[AdaptedPart.head]
    with torch.no_grad():
        features = backbone(NORMALISE(support.flatten(0, 1))).unflatten(0, (4, 2)), backbone(NORMALISE(query))
    target = torch.arange(4).repeat_interleave(2)
    adapted = adapt(
        backbone, dict(backbone.named_parameters()), NORMALISE(support.flatten(0, 1)), target, 4, rule, steps=4, create_graph=False
    )
    assert torch.equal(head_classifier(rule)(*features), adapted.logits(backbone, NORMALISE(query)).argmax(1))


def test_without_running_statistics_every_batch_is_normalised_by_its_own(backbone, episode):
    _, query = episode
    copied = without_running_statistics(backbone)
    training = copy.deepcopy(backbone).train()
    with torch.no_grad():
        assert torch.allclose(copied(NORMALISE(query)), training(NORMALISE(query)), atol=1e-5)
        assert not torch.allclose(copied(NORMALISE(query)), backbone(NORMALISE(query)), atol=1e-2)
    assert backbone.blocks[0].norm.running_mean is not None


def test_transductive_features_use_the_statistics_of_the_whole_episode(backbone, episode):
    support, query = episode
    received = []

    def classify(support_features, query_features):
        received.extend([support_features, query_features])
        return nearest_centroid(support_features, query_features)

    transductive_solver(without_running_statistics(backbone), NORMALISE, classify, FEATURES_ONLY, mirrored=False)(support, query)
    with torch.no_grad():
        together = copy.deepcopy(backbone).train()(NORMALISE(torch.cat([support.flatten(0, 1), query])))
    assert torch.allclose(received[0], together[:8].unflatten(0, (4, 2)), atol=1e-5)
    assert torch.allclose(received[1], together[8:], atol=1e-5)
