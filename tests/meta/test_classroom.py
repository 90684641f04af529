import pytest
import torch

from datafree import devices
from datafree.meta.classroom import Classroom, mix
from datafree.meta.learner import TeacherHeads
from datafree.zoo.backbones import Normalise

CPU = torch.device("cpu")


@pytest.fixture
def classroom(teachers, pools):
    return Classroom(teachers, pools, Normalise([0.3] * 3, [0.7] * 3), CPU, torch.ones(3))


def draw():
    return devices.generator(0, "classroom")


@pytest.mark.parametrize("asked", [[0, 1, 2], [2, 0], [1]])
def test_asking_is_calling_each_teacher_through_its_own_normalisation(classroom, teachers, pools, asked):
    images = torch.cat([pool.images[:5] for pool in pools])
    answers = classroom.ask(classroom.views(images, draw(), augment=False), asked)
    assert answers.shape == (15, len(asked), 5)
    for place, index in enumerate(asked):
        teacher, classes = teachers[index], len(teachers[index].classes)
        expected = teacher.network(teacher.normalise(images)).softmax(1)
        assert torch.allclose(answers[:, place, :classes], expected, atol=1e-4)
        assert torch.equal(answers[:, place, classes:], torch.zeros(15, 5 - classes))
    assert not answers.requires_grad


def test_the_teachers_are_asked_about_just_what_the_learner_sees(classroom, teachers, pools):
    images = pools[0].images[:6]
    views = classroom.views(images, draw(), augment=True)
    seen = (views * 0.7 + 0.3 - 0.5) / 0.25  # the first teacher's normalisation
    expected = teachers[0].network(seen).softmax(1)
    assert torch.allclose(classroom.ask(views, [0])[:, 0, :3], expected, atol=1e-4)
    plain = classroom.views(images, draw(), augment=False)
    assert torch.allclose(plain, (images / 255 - 0.3) / 0.7, atol=1e-6)
    assert not torch.allclose(views, plain, atol=0.1)


def test_asking_leaves_the_teachers_alone(classroom, teachers, pools, state_of, assert_same_state):
    before = [state_of(teacher.network) for teacher in teachers]
    classroom.ask(classroom.views(pools[0].images, draw(), augment=True), [0, 1, 2])
    for teacher, state in zip(teachers, before, strict=True):
        assert_same_state(state_of(teacher.network), state)


def test_mixing_lies_between_two_images_each_with_a_share_of_its_own():
    views = torch.eye(8)[:, :, None, None]  # image i is the unit vector i, so a mixture tells its parts
    mixed = mix(views, draw()).flatten(1)
    assert torch.allclose(mixed.sum(1), torch.ones(8))
    assert (mixed >= 0).all()
    assert ((mixed > 0).sum(1) <= 2).all()
    assert len(mixed.diag().unique()) == 8
    assert torch.equal(mix(views, draw()).flatten(1), mixed)
    partners = (mixed - torch.diag(mixed.diag())).argmax(1)
    assert len({*partners.tolist()}) >= 7  # a permutation, up to images that meet themselves


# ---- heads ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [[0, 1, 2], [2, 1], [1, 1]])
def test_heads_are_separate_linear_layers(asked):
    torch.manual_seed(0)
    heads = TeacherHeads(6, [3, 5, 2])
    torch.nn.init.normal_(heads.bias)
    features = torch.randn(4, 6)
    logits = heads(features, asked)
    assert logits.shape == (4, len(asked), 5)
    for place, index in enumerate(asked):
        classes = [3, 5, 2][index]
        layer = torch.nn.Linear(6, classes)
        layer.weight.data, layer.bias.data = heads.weight.data[index, :classes], heads.bias.data[index, :classes]
        assert torch.allclose(logits[:, place, :classes], layer(features), atol=1e-6)
        assert (logits[:, place].softmax(-1)[:, classes:] == 0).all()


def test_only_the_asked_heads_and_present_classes_learn():
    heads = TeacherHeads(6, [3, 5, 2])
    heads(torch.randn(4, 6), [0, 1]).log_softmax(-1)[..., 0].sum().backward()
    assert heads.weight.grad[0, :3].abs().sum(1).min() > 0
    assert torch.equal(heads.weight.grad[0, 3:], torch.zeros(2, 6))
    assert torch.equal(heads.weight.grad[2], torch.zeros(5, 6))
    assert heads.bias.grad[1].abs().min() > 0


def test_fresh_heads_are_spread_like_linear_layers():
    heads = TeacherHeads(64, [8] * 20)
    assert heads.weight.abs().max() <= 1 / 8
    assert heads.weight.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    assert torch.equal(heads.bias, torch.zeros(20, 8))
