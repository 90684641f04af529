import pytest
import torch

from datafree.config import BackboneConfig
from datafree.evaluation.baselines import average_weights, batch_statistics_features, network_embedding, pixels
from datafree.evaluation.readouts import FEATURES_ONLY
from datafree.zoo.backbones import Normalise, build

CPU = torch.device("cpu")


def test_the_average_of_one_teacher_is_that_teacher(teachers):
    average = average_weights(teachers[:1])
    for first, second in zip(average.network.state_dict().values(), teachers[0].network.state_dict().values(), strict=True):
        assert torch.equal(first, second)


def test_the_average_is_of_every_weight_and_does_not_change_the_teachers(teachers, state_of, assert_same_state):
    before = [state_of(teacher.network) for teacher in teachers]
    average = average_weights(teachers).network.backbone.state_dict()
    states = [teacher.network.backbone.state_dict() for teacher in teachers]
    for name, value in average.items():
        if value.is_floating_point():
            assert torch.allclose(value, (states[0][name] + states[1][name] + states[2][name]) / 3, atol=1e-6)
    for teacher, state in zip(teachers, before, strict=True):
        assert_same_state(state_of(teacher.network), state)


@pytest.mark.parametrize("other", ["resnet8", "conv4_strided"])
def test_different_architectures_have_no_average(teachers, make_teacher, other):
    assert average_weights([teachers[0], make_teacher("x", ("a", "b"), 5, architecture=other)]) is None
    assert average_weights([teachers[0], make_teacher("x", ("a", "b"), 5, width=4)]) is None


def test_features_are_those_of_the_evaluated_network(teachers):
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    teacher = teachers[0]
    embedding = network_embedding(teacher.network.backbone, teacher.normalise, FEATURES_ONLY, CPU, mirrored=False)
    assert torch.allclose(embedding(images)["features"], teacher.features(images), atol=1e-5)
    assert torch.equal(pixels(images)["features"], images.flatten(1) / 255)


def test_an_untrained_networks_features_use_the_statistics_of_the_batch():
    backbone = build(BackboneConfig("conv4", 8), 3, 32, 0)
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    features = batch_statistics_features(backbone, Normalise([0.5] * 3, [0.25] * 3), CPU)
    with torch.no_grad():
        first = features(images)["features"]
        assert not torch.allclose(first[:3], features(images[:3])["features"], atol=1e-3)
        assert torch.equal(features(images)["features"], first)
