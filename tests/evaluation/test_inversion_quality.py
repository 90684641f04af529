import pytest
import torch
from torch import nn

from datafree.evaluation.inversion_quality import Judge, measure, quality_row, spread, teacher_belief, transfer
from datafree.tasks.pools import Pool
from datafree.zoo.backbones import Backbone, Classifier, Normalise
from datafree.zoo.teachers import Teacher

CPU = torch.device("cpu")
AS_IT_IS = Normalise([0.0] * 3, [1.0] * 3)


class Brightness(Backbone):
    """The mean of each colour: a network that tells red, green and blue apart."""

    feature_size = 3

    def forward(self, images):
        return images.mean((2, 3))


def sees_colours(order=(0, 1, 2)) -> Classifier:
    network = Classifier(Brightness(), 3)
    with torch.no_grad():
        network.head.weight.copy_(20 * torch.eye(3)[list(order)])
        network.head.bias.zero_()
    return network


COLOURS = ("red", "green", "blue")
TEACHER = Teacher("t", sees_colours(), AS_IT_IS, COLOURS, (3, 4, 4))
JUDGE = Judge(sees_colours((2, 0, 1)), AS_IT_IS, ("blue", "red", "green"))


def coloured(noise: int) -> Pool:
    labels = torch.arange(12) % 3
    images = torch.zeros(12, 3, 4, 4)
    images[torch.arange(12), labels] = 200.0
    rng = torch.Generator().manual_seed(0)
    images = (images + noise * torch.rand(images.shape, generator=rng)).clamp(0, 255).to(torch.uint8)
    return Pool(images, labels, torch.empty(0), COLOURS)


def test_a_perfect_pool_is_recognised_by_the_teacher_and_by_the_judge():
    found = measure(TEACHER, JUDGE, coloured(50), CPU)
    assert found["teacher_accuracy"] == found["transfer_accuracy"] == 1.0
    assert found["teacher_confidence"] > 0.99
    assert found["transfer_confidence"] > 0.99
    assert found["within_class_distance"] > 5


def test_a_collapsed_pool_pleases_teacher_and_judge_but_not_the_distance():
    found = measure(TEACHER, JUDGE, coloured(0), CPU)
    assert found["teacher_accuracy"] == 1.0
    assert found["within_class_distance"] == 0


def test_a_constant_pool_is_at_chance():
    grey = Pool(torch.full((12, 3, 4, 4), 128, dtype=torch.uint8), torch.arange(12) % 3, torch.empty(0), COLOURS)
    found = measure(TEACHER, JUDGE, grey, CPU)
    assert found["teacher_accuracy"] == found["transfer_accuracy"] == pytest.approx(1 / 3)
    assert found["teacher_confidence"] == pytest.approx(1 / 3)


def test_a_wrongly_labelled_pool_is_found_out():
    pool = coloured(50)
    found = teacher_belief(TEACHER, pool.images, (pool.labels + 1) % 3, CPU)
    assert found["teacher_accuracy"] == 0
    assert found["teacher_confidence"] < 0.01


def test_the_judge_chooses_among_the_teachers_classes_only():
    red_and_blue = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    red_and_blue[0, 0], red_and_blue[1, 2] = 100, 100
    red_and_blue[:, 1] = 250  # to the judge most of all green, which is no answer here
    found = transfer(JUDGE, ("blue", "red"), red_and_blue, torch.tensor([1, 0]), CPU)
    assert found["transfer_accuracy"] == 1.0


def test_a_judge_who_does_not_know_the_classes_is_not_asked():
    assert JUDGE.knows(("red", "blue"))
    assert not JUDGE.knows(("red", "pink"))
    stranger = Teacher("t", sees_colours(), AS_IT_IS, ("red", "green", "pink"), (3, 4, 4))
    for judge, teacher in ((JUDGE, stranger), (None, TEACHER)):
        assert measure(teacher, judge, coloured(50), CPU).keys() == {"teacher_accuracy", "teacher_confidence", "within_class_distance"}


def test_the_distance_is_in_grey_values_and_of_twenty_images_per_class_at_most():
    images = torch.zeros(44, 3, 2, 2, dtype=torch.uint8)
    labels = torch.arange(44) % 2
    images[2:4] = 100  # one image of each class differs
    teacher = Teacher("t", nn.Identity(), AS_IT_IS, ("a", "b"), (3, 2, 2))
    expected = 100 * 19 / (20 * 19 / 2)
    assert spread(teacher, images, labels)["within_class_distance"] == pytest.approx(expected, rel=1e-5)
    images[40:] = 255
    assert spread(teacher, images, labels)["within_class_distance"] == pytest.approx(expected, rel=1e-5)


def test_a_row_is_the_mean_over_teachers_and_relative_to_real_images():
    found = {
        "a": {"within_class_distance": 10.0, "teacher_accuracy": 0.5, "transfer_accuracy": 0.4},
        "b": {"within_class_distance": 30.0, "teacher_accuracy": 1.0},
    }
    real = {"a": {"within_class_distance": 20.0}, "b": {"within_class_distance": 40.0}}
    row = quality_row("five", found, real)
    assert row["method"] == "five"
    assert row["metrics"]["teacher_accuracy"]["mean"] == 0.75
    assert row["metrics"]["transfer_accuracy"] == {"mean": 0.4, "interval": 0.0, "n": 1}
    assert row["metrics"]["within_class_ratio"]["mean"] == pytest.approx((0.5 + 0.75) / 2)
    assert "within_class_ratio" not in quality_row("five", found, {})["metrics"]


def test_real_classes_of_a_single_image_have_no_distance_to_compare_with():
    found = {"a": {"within_class_distance": 10.0}, "b": {"within_class_distance": 10.0}}
    real = {"a": {"within_class_distance": 0.0}, "b": {"within_class_distance": 20.0}}
    assert quality_row("five", found, real)["metrics"]["within_class_ratio"]["mean"] == 0.5
