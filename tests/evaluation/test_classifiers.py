import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.evaluation.classifiers import CLASSIFIERS, weighted
from datafree.evaluation.logistic import logistic, logistic_weights
from datafree.evaluation.nearest_centroid import nearest_centroid

EVERY = pytest.mark.parametrize("classify", CLASSIFIERS.values(), ids=list(CLASSIFIERS))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- nearest centroid -------------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 99))
def test_predictions_are_those_of_a_loop_over_queries_and_classes(way, shot, seed):
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


# ---- every classifier -------------------------------------------------------------------------------------------------------------------


@EVERY
def test_separable_classes_are_classified_correctly(classify):
    centres = 5 * torch.eye(6, dtype=torch.float64)
    support = centres[:, None] + 0.1 * normal(6, 3, 6)
    query = centres.repeat_interleave(4, 0) + 0.1 * normal(24, 6, seed=1)
    assert classify(support, query).tolist() == torch.arange(6).repeat_interleave(4).tolist()


@EVERY
@given(order=st.permutations(range(4)), scale=st.floats(0.01, 100))
def test_scale_shift_and_the_order_of_classes_do_not_matter(classify, order, scale):
    support, query = normal(4, 3, 5), normal(12, 5, seed=1)
    plain = classify(support, query)
    assert torch.equal(classify(scale * support, scale * query), plain)
    assert torch.equal(classify(support + scale, query + scale), plain)
    permuted = classify(support[order], query)
    assert [order[label] for label in permuted.tolist()] == plain.tolist()


@EVERY
def test_a_prediction_does_not_depend_on_the_other_queries(classify):
    support, query = normal(4, 3, 5), normal(12, 5, seed=1)
    singly = torch.cat([classify(support, features[None]) for features in query])
    assert torch.equal(classify(support, query), singly)


@EVERY
def test_autocast_does_not_change_the_predictions(classify):
    support, query = normal(5, 5, 64).float() * 0.2, normal(400, 64, seed=1).float() * 0.2
    with torch.autocast("cpu", torch.bfloat16):
        predicted = classify(support, query)
    assert torch.equal(predicted, classify(support, query))


@EVERY
def test_weighted_columns_are_those_of_multiplied_features(classify):
    support, query, columns = normal(4, 3, 5), normal(30, 5, seed=1), torch.tensor([0.0, 1.0, 9.0, 0.1, 2.0])
    labels = weighted(columns, classify)(support, query)
    assert torch.equal(labels, classify(support * columns, query * columns))
    assert not torch.equal(labels, classify(support, query))


# ---- logistic regression ----------------------------------------------------------------------------------------------------------------


@given(way=st.integers(2, 6), shot=st.integers(1, 8), seed=st.integers(0, 99))
def test_the_gradient_of_the_objective_is_zero_at_the_weights(way, shot, seed):
    support = torch.nn.functional.normalize(normal(way, shot, 7, seed=seed), dim=-1)
    weights = logistic_weights(support).requires_grad_()
    target = torch.arange(way).repeat_interleave(shot)
    objective = torch.nn.functional.cross_entropy(support.flatten(0, 1) @ weights.T, target, reduction="sum") + weights.square().sum() / 2
    (gradient,) = torch.autograd.grad(objective, weights)
    assert gradient.abs().max() < 1e-6


def test_logistic_predictions_are_those_of_the_weights():
    support, query = normal(3, 4, 5), normal(20, 5, seed=1)
    centre = support.flatten(0, 1).mean(0)
    unit = torch.nn.functional.normalize
    scores = unit(query - centre, dim=-1) @ logistic_weights(unit(support - centre, dim=-1)).T
    assert torch.equal(logistic(support, query), scores.argmax(1))
    assert not torch.equal(logistic(support, query), nearest_centroid(support, query))  # the two differ on these data
