import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.episode_loss import episode_loss, prototype_logits


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_logits_are_negative_squared_distances_to_the_class_means():
    support, query = normal(3, 4, 6), normal(7, 6, seed=1)
    logits = prototype_logits(support, query)
    for q in range(7):
        for w in range(3):
            mean = sum(support[w, s] for s in range(4)) / 4
            assert logits[q, w].item() == pytest.approx(-((query[q] - mean) ** 2).sum().item(), rel=1e-9)


@given(st.permutations(range(4)), st.permutations(range(3)))
def test_permuted_classes_permute_the_logits_and_permuted_shots_change_nothing(classes, shots):
    support, query = normal(4, 3, 5), normal(6, 5, seed=1)
    logits = prototype_logits(support, query)
    assert torch.allclose(prototype_logits(support[classes], query), logits[:, classes])
    assert torch.allclose(prototype_logits(support[:, shots], query), logits)


def test_the_episode_loss_is_the_cross_entropy_of_unit_features():
    support, query, scale = normal(3, 2, 5), normal(3, 4, 5, seed=1), 7.0
    total = 0.0
    for w in range(3):
        for q in range(4):
            unit = query[w, q] / query[w, q].norm()
            means = [sum(s / s.norm() for s in support[c]) / 2 for c in range(3)]
            scores = [-scale * ((unit - mean) ** 2).sum().item() for mean in means]
            total -= scores[w] - math.log(sum(math.exp(score) for score in scores))
    assert episode_loss(support, query, scale).item() == pytest.approx(total / 12, rel=1e-6)
    assert episode_loss(5 * support, 0.1 * query, scale).item() == pytest.approx(total / 12, rel=1e-6)


def test_well_separated_classes_have_a_loss_near_zero():
    centres = torch.eye(4)[:, None].expand(4, 3, 4)
    assert episode_loss(centres, centres, 10.0) < 1e-6
    assert episode_loss(centres, centres.roll(1, 0), 10.0) > 10


def test_queries_on_their_prototype_have_a_finite_gradient():
    features = torch.eye(3)[:, None].repeat(1, 2, 1).requires_grad_()
    episode_loss(features[:, :1], features[:, 1:], 10.0).backward()
    assert torch.isfinite(features.grad).all()
