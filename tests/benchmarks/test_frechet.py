import pytest
import torch
from frechet import frechet_distance, teacher_features
from hypothesis import given
from hypothesis import strategies as st


def points_with(mean, covariance, count=40, seed=0):
    """Points with exactly this sample mean and covariance."""
    points = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points = points - points.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(points.T.cov()), points.T, upper=False)
    return (torch.linalg.cholesky(covariance) @ white).T + mean


VECTORS = st.lists(st.floats(-3, 3), min_size=3, max_size=3)
POSITIVE = st.lists(st.floats(0.1, 3), min_size=3, max_size=3)


@given(VECTORS, VECTORS, POSITIVE, POSITIVE)
def test_with_diagonal_covariances_the_distance_is_a_sum_over_features(means, others, deviations, other_deviations):
    first, second, one, two = (torch.tensor(values, dtype=torch.float64) for values in (means, others, deviations, other_deviations))
    expected = ((first - second) ** 2 + (one - two) ** 2).sum().item()
    distance = frechet_distance(points_with(first, torch.diag(one**2)), points_with(second, torch.diag(two**2), count=60, seed=1))
    assert distance == pytest.approx(expected, abs=1e-6)


def test_with_commuting_covariances_the_distance_is_that_of_their_eigenvalues():
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    one, two = torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), torch.tensor([4.0, 0.5, 3.0, 1.0]).double()
    zero = torch.zeros(4, dtype=torch.float64)
    distance = frechet_distance(points_with(zero, turn @ torch.diag(one) @ turn.T), points_with(zero, turn @ torch.diag(two) @ turn.T))
    assert distance == pytest.approx((one.sqrt() - two.sqrt()).square().sum().item(), abs=1e-8)


def test_the_distance_in_two_dimensions_is_the_closed_form():
    # tr (AB)^½ of 2 × 2 matrices is (tr AB + 2 √det AB)^½
    one = torch.tensor([[2.0, 0.7], [0.7, 1.0]]).double()
    two = torch.tensor([[1.0, -0.4], [-0.4, 3.0]]).double()
    mean = torch.tensor([1.0, -2.0]).double()
    expected = 5 + 3 + 4 - 2 * ((one @ two).trace() + 2 * (one @ two).det().sqrt()).sqrt()
    assert frechet_distance(points_with(0 * mean, one), points_with(mean, two)) == pytest.approx(expected.item(), abs=1e-8)


def test_the_distance_is_0_for_equal_sets_symmetric_and_not_negative():
    rng = torch.Generator().manual_seed(3)
    one, two = torch.randn(8, 20, generator=rng), torch.randn(9, 20, generator=rng)  # fewer images than features
    assert frechet_distance(one, one.flip(0)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, one) >= 0
    assert frechet_distance(one, two) == pytest.approx(frechet_distance(two, one))
    assert frechet_distance(one, two) > 1
    assert frechet_distance(torch.zeros(3, 2), torch.zeros(3, 2)) == 0


def test_features_are_the_teachers(teachers, make_images):
    images, _ = make_images(2, 4, 32, seed=1)
    features = teacher_features(teachers[0], images, torch.device("cpu"), batch_size=3)
    assert torch.allclose(features, teachers[0].features(images), atol=1e-5)
    assert not features.requires_grad
