"""What every registered read-out must satisfy, and formulas of the single ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.config import schema
from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.classifiers import CLASSIFIERS
from datafree.evaluation.few_shot import Concatenated
from datafree.evaluation.readouts import OF_HEADS, PLAIN, READOUTS, WITHOUT_HEADS, Reader, averaged, heads_of
from datafree.evaluation.representations import EQUAL, JoinWeights, join_weights, side_by_side_factors, weights_for
from datafree.zoo.logits import ABSENT
from datafree.zoo.similarity import FEW, LEAST, MOST

EVERY = pytest.mark.parametrize("name", READOUTS)
CLASSES = (3, 2, 4)  # of three heads
WEIGHTS = JoinWeights(0.7, 1.9)


def outputs(images, seed=0, classes=CLASSES):
    """Features [images, 6], some of them 0, and logits of heads with these numbers of classes."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(images, 6, generator=rng, dtype=torch.float64).clamp_min(-0.3)
    logits = 5 * torch.randn(images, len(classes), max(classes), generator=rng, dtype=torch.float64)
    absent = torch.arange(max(classes)) >= torch.tensor(classes)[:, None]
    return features, logits.masked_fill(absent, ABSENT)


def test_the_registry_has_the_read_outs_of_the_settings():
    assert tuple(READOUTS) == schema.READOUTS
    assert {PLAIN, WITHOUT_HEADS, *OF_HEADS} <= set(READOUTS)
    assert schema.EvaluationConfig().readouts == [PLAIN]


# ---- every read-out ---------------------------------------------------------------------------------------------------------------------


@EVERY
def test_a_representation_is_of_finite_numbers_and_of_one_image_alone(name):
    features, logits = outputs(9)
    features[4] = 0
    whole = READOUTS[name](features, logits, WEIGHTS)
    assert whole.isfinite().all()
    assert whole.dtype == torch.float64
    torch.testing.assert_close(
        torch.cat([READOUTS[name](*one, WEIGHTS) for one in zip(features.split(1), logits.split(1), strict=True)]), whole
    )


@EVERY
@pytest.mark.parametrize("shared", [False, True])
def test_a_reader_gives_at_least_float32_under_autocast_too(name, shared):
    heads = TeacherHeads(6, CLASSES, shared)
    reader = Reader.of([name], heads.of_all)
    features = torch.rand(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        low = reader(features.bfloat16())[name]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, reader(features)[name], rtol=0.1, atol=0.05)


@EVERY
@pytest.mark.parametrize("classify", CLASSIFIERS.values(), ids=list(CLASSIFIERS))
@given(order=st.permutations(range(3)), classes=st.permutations(range(4)), shot=st.integers(1, 3))
def test_neither_the_order_of_teachers_nor_that_of_classes_matters(name, classify, order, classes, shot):
    features, logits = outputs(4 * shot + 12)

    def episode(logits):
        read = READOUTS[name](features, logits, WEIGHTS)
        return read[: 4 * shot].unflatten(0, (4, shot)), read[4 * shot :]

    support, query = episode(logits)
    plain = classify(support, query)
    assert torch.equal(classify(*episode(logits[:, order])), plain)
    assert [classes[label] for label in classify(support[classes], query).tolist()] == plain.tolist()


@EVERY
@pytest.mark.parametrize("classify", CLASSIFIERS.values(), ids=list(CLASSIFIERS))
def test_a_changed_query_leaves_the_labels_of_the_others(name, classify):
    features, logits = outputs(20)

    def labels(features, logits):
        read = READOUTS[name](features, logits, WEIGHTS)
        return classify(read[:8].unflatten(0, (4, 2)), read[8:])

    plain = labels(features, logits)
    features[19], logits[19] = outputs(1, seed=7)[0][0], outputs(1, seed=7)[1][0]
    assert torch.equal(labels(features, logits)[:-1], plain[:-1])
    assert plain.unique().numel() > 1


@EVERY
def test_a_reader_of_a_zoo_does_not_depend_on_the_order_of_its_teachers(name):
    features, logits = outputs(20)
    parts = [{name: READOUTS[name](features + number, logits[:, [number], :count], WEIGHTS)} for number, count in enumerate(CLASSES)]
    one, other = (Concatenated.join(order)[name] for order in (parts, parts[::-1]))
    for classify in CLASSIFIERS.values():
        labels = [classify(read[:8].unflatten(0, (4, 2)), read[8:]) for read in (one, other)]
        assert torch.equal(*labels)


# ---- single read-outs -------------------------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_every_present_class_at_temperature_4():
    features, logits = outputs(5)
    read = READOUTS["probabilities"](features, logits, EQUAL)
    expected = torch.cat([(logits[:, head, :count] / 4).softmax(-1) for head, count in enumerate(CLASSES)], 1)
    assert read.shape == (5, sum(CLASSES))
    torch.testing.assert_close(read, expected)


def test_root_features_are_signed_roots_of_unit_length():
    read = READOUTS["root_features"](torch.tensor([[4.0, -9.0, 0.0]]), torch.zeros(1, 0, 0), EQUAL)
    torch.testing.assert_close(read, torch.tensor([[2.0, -3.0, 0.0]]) / 13**0.5)


def test_both_parts_of_joined_have_centred_vectors_of_the_same_mean_squared_length():
    features, logits = outputs(200)
    for copies, longer in ((1, MOST), (3, FEW / 27), (8, 1)):  # 9, 27 and 72 probabilities
        of_heads = logits.repeat(1, copies, 1)
        read = READOUTS["joined"](features, of_heads, join_weights(features, of_heads))
        centred = (read - read.mean(0)).square()
        assert centred[:, :6].sum(1).mean().item() == pytest.approx(longer**2)
        assert centred[:, 6:].sum(1).mean().item() == pytest.approx(1)


def test_without_recovered_images_the_features_weigh_the_less_the_more_classes_there_are():
    assert [weights_for(classes).features for classes in (5, 25, 50, 100, 500)] == [MOST, 2, 1, 0.5, LEAST]
    assert all(weights_for(classes).probabilities == 1 for classes in (1, 1000))


def test_factors_side_by_side_lead_to_the_weights_for_all_classes():
    features, logits = outputs(7)
    alone, together = (READOUTS["joined"](features, logits, weights_for(classes)) for classes in (9, 80))
    torch.testing.assert_close(alone * side_by_side_factors(6, 9, 80), together)
    assert side_by_side_factors(6, 0, 80).tolist() == [1] * 6


def test_a_part_that_is_the_same_for_all_images_has_no_weight():
    features, logits = outputs(20)
    assert join_weights(torch.ones_like(features), logits).features == 0
    assert join_weights(features, torch.zeros_like(logits)).probabilities == 0


def test_without_heads_features_stand_in_the_place_of_what_needs_them():
    reader = Reader.of(["joined", "features", "root_features", "probabilities"], None)
    assert reader.readouts == ("features", "root_features")
    assert [reader.variant(name) for name in reader.readouts] == ["", "root_features"]


def test_a_classifier_has_one_head():
    head = torch.nn.Linear(6, 3)
    features = torch.rand(4, 6)
    assert torch.equal(heads_of(head)(features)[:, 0], head(features))


def test_the_mean_over_views_reads_the_image_and_its_mirror_image():
    images = torch.randint(0, 256, (3, 1, 2, 2), dtype=torch.uint8)
    read = averaged(lambda images: {"features": images.flatten(1).float()}, images, mirrored=True)["features"]
    assert torch.equal(read, (images.float() + images.flip(-1).float()).flatten(1) / 2)
