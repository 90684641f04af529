import pytest
import torch

from datafree.distillation.ensemble import TeacherEnsemble
from datafree.zoo.backbones import Normalise
from datafree.zoo.teacher_stacks import TeacherStacks
from tests.conftest import untrained_teacher

SIZES = [("conv4", 3, 32, 3, 0.5), ("resnet8", 2, 32, 3, 0.5), ("conv4", 5, 32, 3, 0.4), ("conv4", 4, 16, 1, 0.6), ("conv4", 4, 32, 3, 0.3)]


@pytest.fixture(scope="module")
def mixed():
    """Teachers of two architectures and two input shapes, with different numbers of classes and normalisations."""
    return [
        untrained_teacher(f"t{number}", tuple(f"c{k}" for k in range(classes)), number, architecture=name, size=size, channels=c, mean=mean)
        for number, (name, classes, size, c, mean) in enumerate(SIZES)
    ]


@pytest.mark.parametrize("queried", [[0, 1, 2, 3, 4], [4, 3, 0], [2, 2], [1]])
def test_probabilities_are_those_of_each_teacher_through_its_own_normalisation(queried, mixed):
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    probabilities = TeacherStacks(mixed).probabilities(images, queried)
    assert probabilities.shape == (6, len(queried), 5)
    for place, index in enumerate(queried):
        teacher, classes = mixed[index], SIZES[index][1]
        expected = teacher.network(teacher.normalise(images)).softmax(1)
        assert torch.allclose(probabilities[:, place, :classes], expected, atol=1e-5)
        assert (probabilities[:, place, classes:] == 0).all()


def test_teachers_of_one_architecture_and_input_share_a_stack(mixed):
    assert TeacherStacks(mixed).members == [[0, 2, 4], [1], [3]]


def test_an_ensemble_predicts_the_same_with_stacks_as_one_by_one(mixed):
    normalise, device = Normalise([0.3] * 3, [0.7] * 3), torch.device("cpu")
    loop, stacks = (TeacherEnsemble(mixed, [], normalise, device, torch.ones(5), together) for together in (False, True))
    views = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(stacks.predict(views, [3, 0, 1]), loop.predict(views, [3, 0, 1]), atol=1e-5)
