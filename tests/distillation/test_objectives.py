import pytest
import torch
from torch.nn import functional as F

from datafree.distillation.losses import distillation_loss
from datafree.distillation.objectives import distillation_terms, pairwise_cosines, relational_loss, zoo_representation


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(size: int) -> torch.Tensor:
    return torch.linalg.qr(random(size, size, seed=5))[0]


def test_the_relational_loss_is_zero_for_features_that_are_a_rotated_scaled_and_shifted_target():
    target = random(9, 6)
    features = 3.7 * target @ rotation(6) + random(6, seed=1)
    assert relational_loss(features, target).item() == pytest.approx(0, abs=1e-12)
    assert relational_loss(random(9, 6, seed=2), target).item() > 0.01


def test_the_relational_loss_does_not_depend_on_the_order_of_images_or_columns():
    features, target = random(9, 5), random(9, 7, seed=1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    expected = relational_loss(features, target)
    torch.testing.assert_close(relational_loss(features[order], target[order]), expected)
    torch.testing.assert_close(relational_loss(features.flip(1), target.flip(1)), expected)
    assert not torch.isclose(relational_loss(features[order], target), expected)


def test_the_relational_loss_is_the_mean_over_pairs_of_different_images():
    features, target = random(5, 4), random(5, 3, seed=1)
    expected = []
    for i in range(5):
        for j in range(5):
            cosines = [F.cosine_similarity(v[i] - v.mean(0), v[j] - v.mean(0), dim=0) for v in (features, target)]
            expected += [(cosines[0] - cosines[1]) ** 2] if i != j else []
    torch.testing.assert_close(relational_loss(features, target), torch.stack(expected).mean())
    assert relational_loss(features[:1], target[:1]) == 0


def test_the_gradient_of_the_relational_loss_agrees_with_finite_differences():
    target = random(6, 4, seed=1)
    assert torch.autograd.gradcheck(lambda features: relational_loss(features, target), random(6, 5).requires_grad_())


def test_cosines_stay_in_float32_under_autocast():
    vectors = random(6, 4).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pairwise_cosines(vectors), pairwise_cosines(vectors))
        half = pairwise_cosines(vectors)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, pairwise_cosines(vectors))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_representation_of_the_zoo_is_each_teachers_softmax_at_the_temperature(temperature):
    logits = random(7, 3, 4)
    result = zoo_representation(logits.softmax(-1), temperature)
    torch.testing.assert_close(result, (logits / temperature).softmax(-1).flatten(1))


def test_an_absent_class_is_zero_in_the_representation_of_the_zoo():
    probabilities = F.pad(random(7, 3, 2).softmax(-1), (0, 2))
    result = zoo_representation(probabilities, 4.0).unflatten(1, (3, 4))
    assert not result[..., 2:].any()
    torch.testing.assert_close(result.sum(-1), torch.ones(7, 3, dtype=torch.float64))


def test_the_terms_are_the_distillation_loss_and_the_weighted_relational_loss():
    features, logits, predictions = random(6, 5), random(6, 3, 4, seed=1), random(6, 3, 4, seed=2).softmax(-1)
    terms = distillation_terms(features, logits, predictions, 4.0, 0.0)
    assert set(terms) == {"distillation"}
    torch.testing.assert_close(terms["distillation"], distillation_loss(logits, predictions, 4.0))
    terms = distillation_terms(features, logits, predictions, 4.0, 7.0)
    expected = 7 * relational_loss(features, zoo_representation(predictions, 4.0))
    torch.testing.assert_close(terms["relational"], expected)
    relations = random(6, 9, seed=3)
    terms = distillation_terms(features, logits, predictions, 4.0, 7.0, relations)
    target = torch.cat([zoo_representation(predictions, 4.0), relations], 1)  # in another order
    torch.testing.assert_close(terms["relational"], 7 * relational_loss(features, target))
