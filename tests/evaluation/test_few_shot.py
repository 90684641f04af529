import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.data.images import ImageSet
from datafree.evaluation import few_shot
from datafree.evaluation.few_shot import concatenated, embed, enough_images, episode_accuracies, nearest_centroid

CPU = torch.device("cpu")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the classifier ---------------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 99))
def test_predictions_are_those_of_a_plain_loop(way, shot, seed):
    support, query = normal(way, shot, 4, seed=seed) + 2, normal(9, 4, seed=seed + 100) + 2
    centre = sum(support[w, s] for w in range(way) for s in range(shot)) / (way * shot)

    def unit(vector):
        return vector / vector.norm()

    expected = []
    for q in query:
        scores = []
        for w in range(way):
            mean = sum(unit(support[w, s] - centre) for s in range(shot)) / shot
            scores.append(float(unit(q - centre) @ unit(mean)))
        expected.append(scores.index(max(scores)))
    assert nearest_centroid(support, query).tolist() == expected


def test_separable_classes_are_told_apart():
    centres = 5 * torch.eye(6, dtype=torch.float64)
    support = centres[:, None] + 0.1 * normal(6, 3, 6)
    query = centres.repeat_interleave(4, 0) + 0.1 * normal(24, 6, seed=1)
    assert nearest_centroid(support, query).tolist() == torch.arange(6).repeat_interleave(4).tolist()


@given(st.permutations(range(4)), st.floats(0.01, 100))
def test_scale_shift_and_the_order_of_classes_do_not_matter(order, scale):
    support, query = normal(4, 3, 5), normal(12, 5, seed=1)
    plain = nearest_centroid(support, query)
    assert torch.equal(nearest_centroid(scale * support, scale * query), plain)
    assert torch.equal(nearest_centroid(support + scale, query + scale), plain)
    permuted = nearest_centroid(support[order], query)
    assert [order[place] for place in permuted.tolist()] == plain.tolist()


def test_a_query_is_classified_without_regard_to_the_others():
    support, query = normal(4, 3, 5), normal(12, 5, seed=1)
    alone = torch.cat([nearest_centroid(support, one[None]) for one in query])
    assert torch.equal(nearest_centroid(support, query), alone)


def test_the_precision_of_the_products_does_not_decide():
    support, query = normal(5, 5, 64).float() * 0.2, normal(400, 64, seed=1).float() * 0.2
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest_centroid(support, query)
    assert torch.equal(found, nearest_centroid(support, query))


# ---- the episodes -----------------------------------------------------------------------------------------------------------------------

LABELS = torch.tensor([3, 1, 4] * 8 + [7] * 6)  # labels need not be consecutive
SETTINGS = {"way": 3, "shot": 2, "query": 4, "episodes": 25}


def met(features, seed=0, labels=LABELS, **changes):
    """What ``episode_accuracies`` hands to the classifier, and its result."""
    seen = []

    def watch(support, query):
        seen.append((support.clone(), query.clone()))
        return real(support, query)

    real, few_shot.nearest_centroid = few_shot.nearest_centroid, watch
    try:
        return seen, episode_accuracies(features, labels, seed=seed, **{**SETTINGS, **changes})
    finally:
        few_shot.nearest_centroid = real


PLACES = torch.arange(float(len(LABELS)))[:, None]  # features that tell which image they are of


def test_support_and_query_are_other_images_of_the_same_classes():
    seen, accuracies = met(PLACES)
    assert len(seen) == len(accuracies) == 25
    for support, query in seen:
        support, query = support[..., 0].long(), query.view(3, 4).long()
        both = torch.cat([support, query], 1)
        assert len(both.unique()) == both.numel() == 18
        classes = LABELS[both]
        assert (classes == classes[:, :1]).all()
        assert len(classes[:, 0].unique()) == 3


def test_every_method_meets_the_same_episodes():
    first, _ = met(PLACES)
    second, _ = met(torch.cat([2 * PLACES, PLACES**2], 1))
    for (support, query), (other_support, other_query) in zip(first, second, strict=True):
        assert torch.equal(2 * support[..., 0], other_support[..., 0])
        assert torch.equal(2 * query[..., 0], other_query[..., 0])


def test_a_seed_and_the_counts_decide_the_episodes():
    first, again, other = met(PLACES)[0], met(PLACES)[0], met(PLACES, seed=1)[0]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))
    longer = met(PLACES, episodes=30)[0]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, longer, strict=False))


def test_over_many_episodes_every_image_serves_as_both():
    seen, _ = met(PLACES, episodes=300)
    assert torch.cat([support.flatten() for support, _ in seen]).unique().numel() == len(LABELS)
    assert torch.cat([query.flatten() for _, query in seen]).unique().numel() == len(LABELS)


def test_features_that_tell_the_class_are_right_and_random_ones_at_chance():
    labels = torch.arange(20).repeat_interleave(20)
    perfect = torch.eye(20)[labels]
    settings = {"way": 5, "shot": 1, "query": 15, "episodes": 200, "seed": 0}
    assert episode_accuracies(perfect, labels, **settings) == [1.0] * 200
    random = episode_accuracies(normal(400, 64).float(), labels, **settings)
    assert abs(sum(random) / 200 - 0.2) < 0.015
    constant = episode_accuracies(torch.ones(400, 8), labels, **settings)
    assert constant == [pytest.approx(0.2)] * 200


def test_an_accuracy_is_the_share_of_right_queries(monkeypatch):
    monkeypatch.setattr(few_shot, "nearest_centroid", lambda support, query: torch.tensor([0, 0, 1, 0, 1, 1, 1, 1, 2, 2, 0, 1]))
    found = episode_accuracies(PLACES, LABELS, seed=0, **SETTINGS)
    assert found == [pytest.approx(9 / 12)] * 25


# ---- features and checks ----------------------------------------------------------------------------------------------------------------


def test_features_do_not_depend_on_the_batch_and_leave_no_gradient():
    images = torch.arange(7 * 12, dtype=torch.uint8).view(7, 3, 2, 2)
    weight = torch.ones(12, 4, requires_grad=True)
    found = embed(lambda part: part.flatten(1).float() @ weight, images, CPU, batch_size=3)
    assert torch.equal(found, images.flatten(1).float() @ weight.detach())
    assert not found.requires_grad
    assert found.dtype == torch.float32


def test_concatenated_features_are_of_unit_length_each():
    images = torch.randint(1, 255, (5, 3, 2, 2), dtype=torch.uint8)
    both = concatenated([lambda x: x.flatten(1).float(), lambda x: 100 * x.flatten(1)[:, :3].float()])(images)
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
def test_a_split_that_cannot_serve_says_why(counts, way, query, reason):
    assert enough_images(image_set(counts), "test", way, 5, query) == reason
