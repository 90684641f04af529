import dataclasses

import pytest
import torch
from torch import nn

from datafree.evaluation.inversion_quality import Judge, measure, quality_row, soft_label_confidence, spread, teacher_confidence, transfer
from datafree.tasks.pools import Pool
from datafree.zoo.backbones import Backbone, Classifier, Normalise
from datafree.zoo.teachers import Teacher, soft_labels

CPU = torch.device("cpu")
IDENTITY = Normalise([0.0] * 3, [1.0] * 3)


class Brightness(Backbone):
    """Features are the means of the colour channels."""

    feature_size = 3

    def forward(self, images):
        return images.mean((2, 3))


def colour_classifier(order=(0, 1, 2)) -> Classifier:
    network = Classifier(Brightness(), 3)
    with torch.no_grad():
        network.head.weight.copy_(20 * torch.eye(3)[list(order)])
        network.head.bias.zero_()
    return network


COLOURS = ("red", "green", "blue")
TEACHER = Teacher("t", colour_classifier(), IDENTITY, COLOURS, (3, 4, 4))
JUDGE = Judge(colour_classifier((2, 0, 1)), IDENTITY, ("blue", "red", "green"))


def coloured(noise: int) -> Pool:
    labels = torch.arange(12) % 3
    images = torch.zeros(12, 3, 4, 4)
    images[torch.arange(12), labels] = 200.0
    rng = torch.Generator().manual_seed(0)
    images = (images + noise * torch.rand(images.shape, generator=rng)).clamp(0, 255).to(torch.uint8)
    return Pool(images, labels, torch.empty(0), COLOURS)


def test_a_pool_of_clear_images_is_classified_correctly_by_teacher_and_judge():
    measures = measure(TEACHER, JUDGE, coloured(50), CPU)
    assert measures["teacher_accuracy"] == measures["transfer_accuracy"] == 1.0
    assert measures["teacher_confidence"] > 0.99
    assert measures["transfer_confidence"] > 0.99
    assert measures["within_class_distance"] > 5


def test_a_collapsed_pool_has_full_teacher_accuracy_but_no_within_class_distance():
    measures = measure(TEACHER, JUDGE, coloured(0), CPU)
    assert measures["teacher_accuracy"] == 1.0
    assert measures["within_class_distance"] == 0


def test_a_constant_pool_is_at_chance():
    grey = Pool(torch.full((12, 3, 4, 4), 128, dtype=torch.uint8), torch.arange(12) % 3, torch.empty(0), COLOURS)
    measures = measure(TEACHER, JUDGE, grey, CPU)
    assert measures["teacher_accuracy"] == measures["transfer_accuracy"] == pytest.approx(1 / 3)
    assert measures["teacher_confidence"] == pytest.approx(1 / 3)


def test_a_wrongly_labelled_pool_has_teacher_accuracy_0():
    pool = coloured(50)
    measures = teacher_confidence(TEACHER, pool.images, (pool.labels + 1) % 3, CPU)
    assert measures["teacher_accuracy"] == 0
    assert measures["teacher_confidence"] < 0.01


def test_soft_labels_give_the_same_accuracy_and_confidence_as_the_teacher():
    pool = coloured(50)
    predictions = soft_labels(TEACHER, pool.images)
    expected = teacher_confidence(TEACHER, pool.images, pool.labels, CPU)
    assert soft_label_confidence(predictions, pool.labels) == pytest.approx(expected, abs=1e-3)
    known = measure(TEACHER, None, dataclasses.replace(pool, soft_labels=predictions), CPU)
    assert known == pytest.approx(measure(TEACHER, None, pool, CPU), abs=1e-3)


def test_the_judge_chooses_among_the_teachers_classes_only():
    red_and_blue = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    red_and_blue[0, 0], red_and_blue[1, 2] = 100, 100
    red_and_blue[:, 1] = 250  # green, which is not among the classes, is most probable
    measures = transfer(JUDGE, ("blue", "red"), red_and_blue, torch.tensor([1, 0]), CPU)
    assert measures["transfer_accuracy"] == 1.0


def test_a_judge_that_does_not_cover_the_classes_is_not_used():
    assert JUDGE.covers(("red", "blue"))
    assert not JUDGE.covers(("red", "pink"))
    not_covered = Teacher("t", colour_classifier(), IDENTITY, ("red", "green", "pink"), (3, 4, 4))
    for judge, teacher in ((JUDGE, not_covered), (None, TEACHER)):
        assert measure(teacher, judge, coloured(50), CPU).keys() == {"teacher_accuracy", "teacher_confidence", "within_class_distance"}


def test_the_distance_is_in_pixel_values_over_at_most_twenty_images_per_class():
    images = torch.zeros(44, 3, 2, 2, dtype=torch.uint8)
    labels = torch.arange(44) % 2
    images[2:4] = 100  # one image of each class differs
    teacher = Teacher("t", nn.Identity(), IDENTITY, ("a", "b"), (3, 2, 2))
    expected = 100 * 19 / (20 * 19 / 2)
    assert spread(teacher, images, labels)["within_class_distance"] == pytest.approx(expected, rel=1e-5)
    images[40:] = 255
    assert spread(teacher, images, labels)["within_class_distance"] == pytest.approx(expected, rel=1e-5)


def test_a_row_is_the_mean_over_teachers_and_relative_to_real_images():
    recovered = {
        "a": {"within_class_distance": 10.0, "teacher_accuracy": 0.5, "transfer_accuracy": 0.4},
        "b": {"within_class_distance": 30.0, "teacher_accuracy": 1.0},
    }
    real = {"a": {"within_class_distance": 20.0}, "b": {"within_class_distance": 40.0}}
    row = quality_row("five", recovered, real)
    assert row["method"] == "five"
    assert row["metrics"]["teacher_accuracy"]["mean"] == 0.75
    assert row["metrics"]["transfer_accuracy"] == {"mean": 0.4, "interval": 0.0, "n": 1}
    assert row["metrics"]["within_class_ratio"]["mean"] == pytest.approx((0.5 + 0.75) / 2)
    assert "within_class_ratio" not in quality_row("five", recovered, {})["metrics"]


def test_real_images_without_a_within_class_distance_have_no_ratio():
    recovered = {"a": {"within_class_distance": 10.0}, "b": {"within_class_distance": 10.0}}
    real = {"a": {"within_class_distance": 0.0}, "b": {"within_class_distance": 20.0}}
    assert quality_row("five", recovered, real)["metrics"]["within_class_ratio"]["mean"] == 0.5
