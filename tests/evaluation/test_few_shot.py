import pytest
import torch

from datafree import devices
from datafree.data.images import ImageSet
from datafree.evaluation.classifiers import CLASSIFIERS
from datafree.evaluation.few_shot import Concatenated, embed, episode_accuracies, episode_rows, episodes_error, solver_accuracies
from datafree.evaluation.nearest_centroid import nearest_centroid

CPU = torch.device("cpu")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the episodes -----------------------------------------------------------------------------------------------------------------------

LABELS = torch.tensor([3, 1, 4] * 8 + [7] * 6)  # labels need not be consecutive
SETTINGS = {"way": 3, "shot": 2, "query": 4, "episodes": 25}


def evaluated(features, seed=0, labels=LABELS, **changes):
    """The episodes that ``episode_accuracies`` gives to the classifier, and its result."""
    episodes = []

    def recording(support, query):
        episodes.extend(zip(support, query, strict=True))
        return nearest_centroid(support, query)

    return episodes, accuracies(features, labels, seed=seed, classify=recording, **{**SETTINGS, **changes})


def accuracies(features, labels, *, shot, classify=nearest_centroid, **counts):
    return episode_accuracies(features, episode_rows(labels, shot=shot, **counts), shot, classify)


POSITIONS = torch.arange(float(len(LABELS)))[:, None]  # the feature of an image is its position


def test_support_and_query_are_different_images_of_the_same_classes():
    episodes, result = evaluated(POSITIONS)
    assert len(episodes) == len(result) == 25
    for support, query in episodes:
        support, query = support[..., 0].long(), query.view(3, 4).long()
        both = torch.cat([support, query], 1)
        assert len(both.unique()) == both.numel() == 18
        classes = LABELS[both]
        assert (classes == classes[:, :1]).all()
        assert len(classes[:, 0].unique()) == 3


def test_every_method_is_evaluated_on_the_same_episodes():
    first, _ = evaluated(POSITIONS)
    second, _ = evaluated(torch.cat([2 * POSITIONS, POSITIONS**2], 1))
    for (support, query), (other_support, other_query) in zip(first, second, strict=True):
        assert torch.equal(2 * support[..., 0], other_support[..., 0])
        assert torch.equal(2 * query[..., 0], other_query[..., 0])


def test_the_seed_and_the_counts_determine_the_episodes():
    first, again, other = evaluated(POSITIONS)[0], evaluated(POSITIONS)[0], evaluated(POSITIONS, seed=1)[0]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))
    longer = evaluated(POSITIONS, episodes=30)[0]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, longer, strict=False))


def test_over_many_episodes_every_image_is_support_and_query():
    episodes, _ = evaluated(POSITIONS, episodes=300)
    assert torch.cat([support.flatten() for support, _ in episodes]).unique().numel() == len(LABELS)
    assert torch.cat([query.flatten() for _, query in episodes]).unique().numel() == len(LABELS)


@pytest.mark.parametrize("classify", CLASSIFIERS.values())
def test_a_batch_of_episodes_has_the_accuracies_of_its_episodes(classify):
    features = normal(len(LABELS), 6).float()
    rows = episode_rows(LABELS, seed=1, **SETTINGS)
    batched = episode_accuracies(features, rows, 2, classify)
    assert [accuracy for episode in rows for accuracy in episode_accuracies(features, episode[None], 2, classify)] == batched
    assert len(set(batched)) > 1


def test_one_hot_features_have_accuracy_1_and_random_ones_are_at_chance():
    labels = torch.arange(20).repeat_interleave(20)
    perfect = torch.eye(20)[labels]
    settings = {"way": 5, "shot": 1, "query": 15, "episodes": 200, "seed": 0}
    assert accuracies(perfect, labels, **settings) == [1.0] * 200
    random = accuracies(normal(400, 64).float(), labels, **settings)
    assert abs(sum(random) / 200 - 0.2) < 0.015
    constant = accuracies(torch.ones(400, 8), labels, **settings)
    assert constant == [pytest.approx(0.2)] * 200


def test_an_accuracy_is_the_share_of_correct_queries():
    predicted = torch.tensor([0, 0, 1, 0, 1, 1, 1, 1, 2, 2, 0, 1])
    result = accuracies(POSITIONS, LABELS, seed=0, classify=lambda support, query: predicted.expand(len(query), -1), **SETTINGS)
    assert result == [pytest.approx(9 / 12)] * 25


def test_a_solver_is_evaluated_on_the_same_episodes_as_a_classifier_of_features(image_set):
    settings = {"way": 4, "shot": 2, "query": 3, "episodes": 10, "seed": 3}
    rows = episode_rows(image_set.labels, **settings)
    assert rows.shape == (10, 4, 5)
    assert (image_set.labels[rows] == image_set.labels[rows][..., :1]).all()
    episodes = []

    def solve(support, query):
        assert (support.shape, query.shape, support.dtype) == ((4, 2, 3, 32, 32), (12, 3, 32, 32), torch.uint8)
        episodes.append((support, query))
        return nearest_centroid(support.flatten(2).float(), query.flatten(1).float())

    noisy = ImageSet(
        torch.rand(image_set.images.shape, generator=devices.generator(0)).mul(255).byte(), image_set.labels, image_set.classes
    )
    result = solver_accuracies(solve, noisy.images, rows, 2, CPU)
    assert result == episode_accuracies(noisy.images.flatten(1).float(), rows, 2)
    assert len(set(result)) > 1
    for (support, query), positions in zip(episodes, rows, strict=True):
        assert torch.equal(support, noisy.images[positions[:, :2]])
        assert torch.equal(query, noisy.images[positions[:, 2:].flatten()])


# ---- features and checks ----------------------------------------------------------------------------------------------------------------


def test_features_do_not_depend_on_the_batch_size_and_have_no_gradient():
    images = torch.arange(7 * 12, dtype=torch.uint8).view(7, 3, 2, 2)
    weight = torch.ones(12, 4, requires_grad=True)
    features = embed(lambda part: {"features": part.flatten(1).float() @ weight}, images, CPU, batch_size=3)["features"]
    assert torch.equal(features, images.flatten(1).float() @ weight.detach())
    assert not features.requires_grad
    assert features.dtype == torch.float32


def test_each_part_of_concatenated_features_has_unit_length():
    images = torch.randint(1, 255, (5, 3, 2, 2), dtype=torch.uint8)
    parts = [
        lambda x: {"a": x.flatten(1).float(), "b": x[:, 0, 0, :1].float()},
        lambda x: {"a": 100 * x[:, :, 0, 0].float(), "b": x[:, 0, 0].float()},
    ]
    both = Concatenated(parts)(images)["a"]
    assert Concatenated(parts)(images)["b"].shape == (5, 3)
    assert both.shape == (5, 15)
    assert torch.allclose(both[:, :12].norm(dim=1), torch.ones(5))
    assert torch.allclose(both[:, 12:].norm(dim=1), torch.ones(5))


def image_set(counts):
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    return ImageSet(torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8), labels, tuple(f"c{label}" for label in range(len(counts))))


@pytest.mark.parametrize(
    ("counts", "way", "query", "reason"),
    [
        ([20, 20, 20], 3, 15, ""),
        ([20, 20, 20], 4, 15, "evaluation.way: got 4; allowed: at most 3, the classes of the test split"),
        ([20, 19, 20], 3, 15, "evaluation.query: 15 and 5 shots need more images than the smallest class of the test split has, 19"),
        ([20, 20, 0], 2, 15, "evaluation.query: 15 and 5 shots need more images than the smallest class of the test split has, 0"),
    ],
)
def test_a_split_that_is_too_small_has_an_error(counts, way, query, reason):
    assert episodes_error(image_set(counts), "test", way, 5, query) == reason
