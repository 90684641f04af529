import pytest
import torch

from datafree.tasks.reliability_measures import RIDGE, agreements, compactness, features_and_logits, linear_kernel, recovery


def agreement_of_first(features, logits, owner, fold):
    """Agreement and explained variance of the first teacher with the others, whose logits do not matter."""
    return agreements(features, [logits] * len(features), owner, fold)[0]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_the_kernel_is_of_centred_features_with_a_mean_diagonal_of_one():
    features = torch.randn(6, 3, generator=generator(0))
    kernel = linear_kernel(features)
    assert torch.allclose(kernel.sum(0), torch.zeros(6), atol=1e-5)
    assert kernel.diagonal().mean().item() == pytest.approx(1)
    assert torch.allclose(linear_kernel(5 * features + 3), kernel, atol=1e-5)
    assert torch.equal(linear_kernel(torch.ones(4, 3)), torch.zeros(4, 4))


def test_the_kernel_is_not_rounded_by_autocast():
    features = torch.randn(40, 8, generator=generator(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(linear_kernel(features).double(), linear_kernel(features.double()), atol=1e-5)


def test_agreement_and_explained_variance_are_those_of_ridge_regression_on_the_scaled_features():
    rng = generator(1)
    features = [torch.randn(40, 5, generator=rng) for _ in range(3)]
    logits = 2 * features[1] @ torch.randn(5, 4, generator=rng) + torch.randn(40, 4, generator=rng)
    owner, fold = torch.arange(40) % 3, torch.randint(4, (40,), generator=rng)
    agreement, variance = agreement_of_first(features, logits, owner, fold)

    scaled = [f - f.mean(0) for f in features]
    scaled = torch.cat([f * (len(f) / f.square().sum() / 2).sqrt() for f in scaled[1:]], 1).double()
    probabilities = logits.double().exp() / logits.double().exp().sum(1, keepdim=True)
    explained, total = {}, {}
    for name, target in (("logits", (logits - logits.mean(1, keepdim=True)).double()), ("probabilities", probabilities)):
        error = total[name] = 0
        for held_out in range(4):
            train, test = (owner != 0) & (fold != held_out), (owner != 0) & (fold == held_out)
            mean = target[train].mean(0)
            x = scaled[train]
            weights = torch.linalg.inv(x.T @ x + RIDGE * torch.eye(10)) @ x.T @ (target[train] - mean)
            error += (target[test] - mean - scaled[test] @ weights).square().sum().item()
            total[name] += (target[test] - mean).square().sum().item()
        explained[name] = total[name] - error
    assert agreement == pytest.approx(explained["logits"] / total["logits"], abs=1e-4)
    assert variance == pytest.approx(explained["probabilities"] / (0.75 * (owner != 0).sum().item()), abs=1e-4)
    assert 0.3 < agreement < 0.98 and 0.1 < variance < 0.9


def test_agreement_is_1_for_functions_of_the_others_features_and_0_for_noise():
    rng = generator(2)
    shared = torch.randn(200, 6, generator=rng)
    features = [shared @ torch.randn(6, 8, generator=rng) for _ in range(3)]
    owner, fold = torch.arange(200) % 3, torch.arange(200) // 3 % 4
    logits = shared @ torch.randn(6, 5, generator=rng)
    assert agreement_of_first(features, logits, owner, fold)[0] > 0.99
    assert 0 <= agreement_of_first(features, torch.randn(200, 5, generator=rng), owner, fold)[0] < 0.1
    heavy = 100 * torch.randn(200, 5, generator=rng).pow(9)  # a few outliers: the fit is worse than the mean
    assert agreement_of_first(features, heavy, owner, fold)[0] == 0
    shifted = agreement_of_first(features, logits + torch.randn(200, 1, generator=rng), owner, fold)  # softmax ignores the shift
    assert shifted == pytest.approx(agreement_of_first(features, logits, owner, fold), abs=1e-5)


def test_explained_variance_is_1_for_certain_predictions_that_follow_the_others_features():
    rng = generator(2)
    kind = torch.nn.functional.one_hot(torch.arange(300) % 5).float()  # of each image
    features = [kind @ torch.randn(5, 8, generator=rng) for _ in range(3)]
    owner, fold = torch.arange(300) // 5 % 3, torch.arange(300) // 15 % 4
    assert agreement_of_first(features, 30 * kind, owner, fold)[1] > 0.97
    assert 0.1 < agreement_of_first(features, 2 * kind, owner, fold)[1] < 0.6
    assert 0 < agreement_of_first(features, 0.1 * kind, owner, fold)[1] < 0.01
    unrelated = 30 * kind[torch.randperm(300, generator=rng)]
    assert 0 <= agreement_of_first(features, unrelated, owner, fold)[1] < 0.05
    rare = 30 * torch.nn.functional.one_hot((torch.rand(300, generator=rng) < 0.02).long(), 5).float()  # the fit is worse than the mean
    assert agreement_of_first(features, rare, owner, fold)[1] == 0


def test_predictions_for_the_teachers_own_pool_do_not_count():
    rng = generator(3)
    shared = torch.randn(90, 6, generator=rng)
    features = [shared] * 3
    owner, fold = torch.arange(90) % 3, torch.randint(4, (90,), generator=rng)
    logits = shared @ torch.randn(6, 5, generator=rng)
    changed = torch.where((owner == 0)[:, None], 100 * torch.randn(90, 5, generator=rng), logits)
    assert agreement_of_first(features, changed, owner, fold) == pytest.approx(agreement_of_first(features, logits, owner, fold))


def test_compactness_is_the_share_of_variance_between_classes():
    labels = torch.arange(3000) % 3
    rng = generator(4)
    centres = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])  # variance 4/3 per direction
    features = centres[labels] + torch.randn(3000, 2, generator=rng)
    assert compactness(features, labels) == pytest.approx((8 / 3) / (8 / 3 + 2), abs=0.02)
    assert compactness(centres[labels], labels) == pytest.approx(1)
    assert compactness(torch.randn(60, 2, generator=rng), torch.arange(60) % 3) < 0.1  # no more than chance
    assert compactness(torch.zeros(6, 2), torch.arange(6) % 3) == 0
    assert compactness(torch.randn(5, 2, generator=rng), torch.zeros(5, dtype=torch.int64)) == 0


@pytest.mark.parametrize("classes", [2, 5])
def test_recovery_is_0_at_chance_and_1_at_certainty(classes):
    labels = torch.arange(10) % classes
    assert recovery(torch.zeros(10, classes), labels) == pytest.approx(0, abs=1e-6)
    assert recovery(100.0 * torch.nn.functional.one_hot(labels, classes), labels) == pytest.approx(1)


def test_features_and_logits_are_those_of_the_teacher(teachers, pools):
    features, logits = features_and_logits(teachers[0], pools[1].images[:5], "cpu", batch_size=2)
    assert torch.allclose(features, teachers[0].features(pools[1].images[:5]), atol=1e-5)
    assert torch.allclose(logits, teachers[0].network(teachers[0].normalise(pools[1].images[:5])), atol=1e-5)
