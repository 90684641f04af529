import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from datafree.evaluation.nearest_centroid import centroids, nearest_centroid
from datafree.predict import classifier
from datafree.predict.classifier import NEAREST, PRIOR, PRIOR_TEMPERATURE, TEMPERATURES, conformal_threshold, fit

COUNTS = (1, 3, 5, 2)


def task(counts=COUNTS, size=6, seed=0, spread=1.0, negatives=30):
    """Support [N, size] in random order with labels, and negatives."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=rng)]
    means = torch.randn(len(counts), size, generator=rng, dtype=torch.float64)
    support = means[labels] + spread * torch.randn(len(labels), size, generator=rng, dtype=torch.float64)
    return support, labels, torch.randn(negatives, size, generator=rng, dtype=torch.float64)


# ---- class means ------------------------------------------------------------------------------------------------------------------------


@given(way=st.integers(2, 6), shot=st.integers(1, 5), seed=st.integers(0, 99))
def test_with_equal_counts_predictions_are_those_of_the_evaluation(way, shot, seed):
    support, labels, _ = task((shot,) * way, seed=seed)
    queries = torch.randn(20, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fitted = fit(support, labels, way, torch.empty(0, 6, dtype=torch.float64))
    ordered = torch.stack([support[labels == label] for label in range(way)])
    assert torch.equal(fitted.logits(queries).argmax(1), nearest_centroid(ordered, queries))


def test_class_means_of_unequal_counts_are_those_of_a_loop():
    support, labels, _ = task()
    centre, means = centroids(support, labels, len(COUNTS))
    members = [support[labels == label] for label in range(len(COUNTS))]
    expected = sum(member.mean(0) for member in members) / len(members)
    torch.testing.assert_close(centre, expected)
    for mean, member in zip(means, members, strict=True):
        torch.testing.assert_close(mean, F.normalize(F.normalize(member - expected, dim=1).mean(0), dim=0))


@given(seed=st.integers(0, 99))
def test_the_order_of_the_images_changes_nothing_and_that_of_the_classes_permutes_the_logits(seed):
    support, labels, negatives = task(seed=seed)
    queries = support + 0.1
    first = fit(support, labels, 4, negatives)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    other = torch.tensor([2, 0, 3, 1])
    second = fit(support[order], other[labels[order]], 4, negatives)
    torch.testing.assert_close(second.logits(queries)[:, other], first.logits(queries))
    torch.testing.assert_close(second.similarity(queries), first.similarity(queries))
    assert second.threshold == pytest.approx(first.threshold)


def test_a_class_of_many_images_counts_as_much_as_one_of_few():
    support, labels, negatives = task((2, 2, 2))
    repeated = torch.cat([support, support[labels == 0], support[labels == 0]])
    more = fit(repeated, torch.cat([labels, torch.zeros(4, dtype=torch.int64)]), 3, negatives)
    torch.testing.assert_close(more.means, fit(support, labels, 3, negatives).means)


def test_a_query_does_not_change_the_labels_of_others():
    support, labels, negatives = task()
    fitted, queries = fit(support, labels, 4, negatives), torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    changed = queries.clone()
    changed[4] += 100
    kept = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(fitted.logits(changed)[kept], fitted.logits(queries)[kept])
    assert torch.equal(fitted.similarity(changed)[kept], fitted.similarity(queries)[kept])


# ---- temperature ------------------------------------------------------------------------------------------------------------------------


def loss_of(temperature, support, labels, way):
    """The objective of the temperature by a loop over the images: each is classified by the means without it."""
    centre = torch.stack([support[labels == label].mean(0) for label in range(way)]).mean(0)
    unit = F.normalize(support - centre, dim=1)
    total = PRIOR * math.log(temperature / PRIOR_TEMPERATURE) ** 2
    for i in range(len(labels)):
        kept = torch.arange(len(labels)) != i
        if not (labels[kept] == labels[i]).any():
            continue
        means = torch.stack([F.normalize(unit[kept & (labels == label)].sum(0), dim=0) for label in range(way)])
        weight = len(labels) / way / int((labels == labels[i]).sum())
        total += weight * F.cross_entropy((unit[i] @ means.T)[None] / temperature, labels[i : i + 1]).item()
    return total


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_minimises_the_leave_one_out_loss(seed):
    support, labels, negatives = task(seed=seed)
    fitted = fit(support, labels, 4, negatives)
    losses = [loss_of(t, support, labels, 4) for t in TEMPERATURES.tolist()]
    assert fitted.temperature == pytest.approx(TEMPERATURES[losses.index(min(losses))].item())


def test_separable_classes_are_more_certain_than_overlapping_ones():
    apart, together = (fit(*task((8, 8, 8), spread=spread)[:2], 3, torch.empty(0, 6).double()) for spread in (0.05, 5.0))
    assert apart.temperature < PRIOR_TEMPERATURE < together.temperature


def test_with_one_image_per_class_the_temperature_is_that_of_the_prior():
    support, labels, negatives = task((1, 1, 1))
    nearest = TEMPERATURES[(TEMPERATURES.log() - math.log(PRIOR_TEMPERATURE)).abs().argmin()].item()
    assert fit(support, labels, 3, negatives).temperature == pytest.approx(nearest)


# ---- rejection --------------------------------------------------------------------------------------------------------------------------


def test_the_similarity_compares_the_nearest_class_with_the_nearest_negatives():
    support, labels, negatives = task()
    fitted, query = fit(support, labels, 4, negatives), support[:1] + 0.2
    reference = negatives.mean(0)
    unit = F.normalize(query - reference, dim=1)[0]
    directions = [F.normalize(F.normalize(support[labels == label] - reference, dim=1).mean(0), dim=0) for label in range(4)]
    others = sorted((unit @ F.normalize(negatives - reference, dim=1).T).tolist(), reverse=True)[: math.ceil(NEAREST * 30)]
    expected = max(float(unit @ direction) for direction in directions) - sum(others) / len(others)
    assert fitted.similarity(query).item() == pytest.approx(expected)


def test_the_threshold_rejects_the_share_of_images_that_are_left_out():
    support, labels, negatives = task((10, 10, 10))
    scores = []
    for i in range(30):
        kept = torch.arange(30) != i
        without = fit(support[kept], labels[kept], 3, negatives)
        scores.append(without.similarity(support[i : i + 1]).item())
    fitted = fit(support, labels, 3, negatives, reject=0.1)
    assert fitted.basis == "support"
    assert fitted.threshold == pytest.approx(sorted(scores)[2], abs=1e-6)  # the third of 30 scores: 0.1 · 31 = 3.1


def test_with_one_image_per_class_the_negatives_set_the_threshold():
    support, labels, negatives = task((1, 1, 1))
    fitted = fit(support, labels, 3, negatives, reject=0.2)
    assert fitted.basis == "negatives"
    others = [torch.cat([negatives[:i], negatives[i + 1 :]]) for i in range(30)]
    reference = negatives.mean(0)
    unit = F.normalize(negatives - reference, dim=1)
    scores = []
    for i, other in enumerate(others):
        near = (unit[i] @ F.normalize(other - reference, dim=1).T).topk(math.ceil(NEAREST * 30)).values.mean()
        scores.append(float((unit[i] @ fitted.directions.T).max() - near))
    assert fitted.threshold == pytest.approx(sorted(scores)[5])  # 0.2 · 31 = 6.2


@given(count=st.integers(1, 60), reject=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_at_most_the_given_share_of_new_scores_is_rejected(count, reject, seed):
    """Each of n + 1 exchangeable scores is equally often the new one: exactly, by leaving out each in turn."""
    scores = torch.randn(count + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rejected = 0
    for new in range(count + 1):
        threshold = conformal_threshold(torch.cat([scores[:new], scores[new + 1 :]]), reject)
        rejected += threshold is not None and scores[new].item() < threshold
    assert rejected / (count + 1) <= reject + 1e-9
    assert rejected / (count + 1) > reject - 1 / (count + 1) - 1e-9


@pytest.mark.parametrize(("counts", "negatives", "reject"), [((4, 4, 4), 30, 0.0), ((1, 1, 1), 8, 0.1), ((2, 2, 2), 0, 0.1)])
def test_without_evidence_or_by_request_no_image_is_rejected(counts, negatives, reject):
    support, labels, others = task(counts, negatives=negatives)
    fitted = fit(support, labels, 3, others, reject=reject)
    assert fitted.threshold is None
    assert fitted.basis == "none"
    assert not fitted.rejected(torch.randn(5, 6, dtype=torch.float64)).any()


def test_images_far_from_all_classes_are_rejected_and_those_of_the_classes_kept():
    support, labels, negatives = task((12, 12, 12), spread=0.1)
    fitted = fit(support, labels, 3, negatives)
    assert fitted.rejected(support).float().mean() < 0.1
    opposite = 2 * negatives.mean(0) - support
    assert fitted.rejected(opposite).all()


def test_the_result_has_the_precision_of_float32_for_features_of_float32():
    support, labels, negatives = (values.float() if values.is_floating_point() else values for values in task())
    fitted = fit(support, labels, 4, negatives)
    assert fitted.logits(support).dtype == fitted.similarity(support).dtype == torch.float32
    assert fitted.logits(support).isfinite().all()


def test_the_share_of_nearest_negatives_is_at_least_one_image():
    assert classifier._nearest_negatives(torch.eye(2), torch.eye(2)[:1]).tolist() == [1.0, 0.0]
