import pytest
import torch

from datafree.zoo.teacher_passes import image_bytes, outputs_of_all, passes
from tests.conftest import untrained_teacher


@pytest.fixture(scope="module")
def zoo():
    architectures = ["conv4", "resnet8", "conv4", "conv4", "conv4"]
    classes = [("a", "b"), ("a", "b"), ("a", "b", "c"), ("a", "b"), ("a", "b")]
    return [untrained_teacher(f"t{number}", classes[number], number, architecture=name) for number, name in enumerate(architectures)]


@pytest.mark.parametrize(
    ("fewest", "rows", "expected"),
    [
        (1, 100, [([0, 2, 3, 4], 25), ([1], 100)]),
        (1, 2, [([0, 2], 1), ([3, 4], 1), ([1], 2)]),
        (10, 20, [([0, 2], 10), ([3, 4], 10), ([1], 20)]),
        (10, 5, [([0], 10), ([2], 10), ([3], 10), ([4], 10), ([1], 10)]),
    ],
)
def test_a_pass_has_at_most_the_rows_but_at_least_one_teacher_and_the_fewest_images(fewest, rows, expected, zoo):
    assert [(members, images) for members, _, images in passes(zoo, fewest, rows)] == expected


def test_the_stack_of_a_pass_has_its_members_weights(zoo):
    for members, stack, _ in passes(zoo, 1, 2):
        for place, member in enumerate(members):
            weight = zoo[member].network.head.weight
            assert torch.equal(stack.networks.head_weight[place, : len(weight)], weight)


@pytest.mark.parametrize("rows", [1, 7, 1000, None])
def test_features_and_logits_are_those_of_each_teacher(rows, zoo):
    images = torch.randint(0, 256, (9, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for teacher, (features, logits) in zip(zoo, outputs_of_all(zoo, images, rows), strict=True):
        assert torch.allclose(features, teacher.features(images), atol=1e-5)
        assert torch.allclose(logits, teacher.network(teacher.normalise(images)), atol=1e-5)
        assert not features.requires_grad


def test_an_images_memory_is_that_of_several_of_the_largest_outputs(zoo):
    assert image_bytes(zoo[0]) == 4 * 4 * 8 * 32 * 32  # four outputs in float32 of the first block: 8 channels
