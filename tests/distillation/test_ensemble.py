import pytest
import torch

from datafree import devices
from datafree.distillation.ensemble import TeacherEnsemble, mixup
from datafree.distillation.heads import TeacherHeads
from datafree.zoo.backbones import Normalise

CPU = torch.device("cpu")


@pytest.fixture
def ensemble(teachers, pools):
    return TeacherEnsemble(teachers, pools, Normalise([0.3] * 3, [0.7] * 3), CPU, torch.ones(3))


def rng():
    return devices.generator(0, "ensemble")


@pytest.mark.parametrize("queried", [[0, 1, 2], [2, 0], [1]])
def test_predictions_are_each_teachers_softmax_through_its_own_normalisation(ensemble, teachers, pools, queried):
    images = torch.cat([pool.images[:5] for pool in pools])
    predictions = ensemble.predict(ensemble.views(images, rng(), augment=False), queried)
    assert predictions.shape == (15, len(queried), 5)
    for place, index in enumerate(queried):
        teacher, classes = teachers[index], len(teachers[index].classes)
        expected = teacher.network(teacher.normalise(images)).softmax(1)
        assert torch.allclose(predictions[:, place, :classes], expected, atol=1e-4)
        assert torch.equal(predictions[:, place, classes:], torch.zeros(15, 5 - classes))
    assert not predictions.requires_grad


def test_teachers_are_queried_about_the_learners_augmented_views(ensemble, teachers, pools):
    images = pools[0].images[:6]
    views = ensemble.views(images, rng(), augment=True)
    normalised = (views * 0.7 + 0.3 - 0.5) / 0.25  # by the first teacher's normalisation
    expected = teachers[0].network(normalised).softmax(1)
    assert torch.allclose(ensemble.predict(views, [0])[:, 0, :3], expected, atol=1e-4)
    plain = ensemble.views(images, rng(), augment=False)
    assert torch.allclose(plain, (images / 255 - 0.3) / 0.7, atol=1e-6)
    assert not torch.allclose(views, plain, atol=0.1)


def test_queries_do_not_change_the_teachers(ensemble, teachers, pools, state_of, assert_same_state):
    before = [state_of(teacher.network) for teacher in teachers]
    ensemble.predict(ensemble.views(pools[0].images, rng(), augment=True), [0, 1, 2])
    for teacher, state in zip(teachers, before, strict=True):
        assert_same_state(state_of(teacher.network), state)


def test_mixup_interpolates_between_pairs_of_images_with_a_share_per_image():
    views = torch.eye(8)[:, :, None, None]  # image i is the unit vector i, so a mixture shows its components
    mixed = mixup(views, rng()).flatten(1)
    assert torch.allclose(mixed.sum(1), torch.ones(8))
    assert (mixed >= 0).all()
    assert ((mixed > 0).sum(1) <= 2).all()
    assert len(mixed.diag().unique()) == 8
    assert torch.equal(mixup(views, rng()).flatten(1), mixed)
    partners = (mixed - torch.diag(mixed.diag())).argmax(1)
    assert len({*partners.tolist()}) >= 7  # a permutation, up to images that are their own partners


# ---- heads ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queried", [[0, 1, 2], [2, 1], [1, 1]])
def test_heads_are_separate_linear_layers(queried):
    torch.manual_seed(0)
    heads = TeacherHeads(6, [3, 5, 2])
    torch.nn.init.normal_(heads.bias)
    features = torch.randn(4, 6)
    logits = heads(features, queried)
    assert logits.shape == (4, len(queried), 5)
    for place, index in enumerate(queried):
        classes = [3, 5, 2][index]
        layer = torch.nn.Linear(6, classes)
        layer.weight.data, layer.bias.data = heads.weight.data[index, :classes], heads.bias.data[index, :classes]
        assert torch.allclose(logits[:, place, :classes], layer(features), atol=1e-6)
        assert (logits[:, place].softmax(-1)[:, classes:] == 0).all()


def test_only_queried_heads_and_present_classes_have_gradients():
    heads = TeacherHeads(6, [3, 5, 2])
    heads(torch.randn(4, 6), [0, 1]).log_softmax(-1)[..., 0].sum().backward()
    assert heads.weight.grad[0, :3].abs().sum(1).min() > 0
    assert torch.equal(heads.weight.grad[0, 3:], torch.zeros(2, 6))
    assert torch.equal(heads.weight.grad[2], torch.zeros(5, 6))
    assert heads.bias.grad[1].abs().min() > 0


def test_heads_are_initialised_like_linear_layers():
    heads = TeacherHeads(64, [8] * 20)
    assert heads.weight.abs().max() <= 1 / 8
    assert heads.weight.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    assert torch.equal(heads.bias, torch.zeros(20, 8))


def test_a_shared_head_has_equal_logits_for_all_teachers_up_to_their_class_counts():
    heads, features = TeacherHeads(6, [3, 5], shared=True), torch.randn(4, 6, generator=rng())
    logits = heads(features, [0, 1])
    assert torch.equal(logits[:, 0, :3], logits[:, 1, :3])
    assert (logits[:, 0, 3:] < -1000).all()
    assert (logits[:, 1].abs() < 1000).all()
