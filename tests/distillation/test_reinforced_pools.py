from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import ReinforcementConfig
from datafree.distillation import reinforcement
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.joined_pools import JoinedPools, training_batch
from datafree.distillation.objectives import pairwise_cosines
from datafree.distillation.reinforcement import reinforce
from datafree.zoo.backbones import Normalise
from datafree.zoo.similarity import MOST

CPU = torch.device("cpu")
CONFIG = ReinforcementConfig(views=2, mixed_views=1)
WEIGHTS = torch.tensor([1.0, 0.4, 1.0])


def ensemble_of(teachers, pools, weights=WEIGHTS, together=False):
    return TeacherEnsemble(teachers, pools, Normalise([0.45] * 3, [0.22] * 3), CPU, weights, together)


def rng(seed=0):
    return devices.generator(seed, "reinforced")


@pytest.fixture(scope="module")
def reinforced(teachers, pools):
    return reinforce(ensemble_of(teachers, pools), CONFIG, 0, Checkpoint(None))


def same(first, second):
    return torch.equal(first.views, second.views) and torch.equal(first.predictions, second.predictions)


def test_the_predictions_are_the_teachers_own_on_the_stored_views(reinforced, teachers):
    columns = reinforced.predictions.float().split([3, 4, 5], -1)
    for teacher, of_teacher in zip(teachers, columns, strict=True):
        with torch.no_grad():
            expected = teacher.network(teacher.normalise(reinforced.views.flatten(0, 1))).log_softmax(1)
        assert torch.allclose(of_teacher.flatten(0, 1), expected, rtol=1e-3, atol=1e-3)


def test_views_have_the_order_of_the_pools_and_change_every_image(reinforced, pools):
    images = torch.cat([pool.images for pool in pools]).float()
    assert reinforced.views.shape == (3, len(images), 3, 32, 32)
    assert (reinforced.plain, len(reinforced.views) - reinforced.plain) == (2, 1)
    own = (reinforced.views[0].float() - images).flatten(1).norm(dim=1)
    other = (reinforced.views[0].float() - images.roll(1, 0)).flatten(1).norm(dim=1)
    assert (own > 0).all()
    assert (own < other).float().mean() > 0.9
    assert not torch.equal(reinforced.views[0], reinforced.views[1])


def test_without_augmentation_unmixed_views_are_the_images_and_mixed_ones_lie_between_two(teachers, pools):
    config = replace(CONFIG, augment=False)
    result = reinforce(ensemble_of(teachers, pools), config, 0, Checkpoint(None))
    images = torch.cat([pool.images for pool in pools])
    assert torch.equal(result.views[0], images)
    assert torch.equal(result.views[1], images)
    flat, mixed = images.flatten(1).float(), result.views[2].flatten(1).float()
    # A mixture of x and another image y lies on the line through both: the rest orthogonal to y − x is rounding.
    for view, image in zip(mixed[:10], flat, strict=False):
        to_view, to_others = view - image, flat - image
        share = (to_others @ to_view / to_others.square().sum(1).clamp_min(1)).clamp(0, 1)
        assert (to_view - share[:, None] * to_others).abs().max(1).values.min() <= 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_views(teachers, pools, reinforced):
    assert same(reinforce(ensemble_of(teachers, pools), CONFIG, 0, Checkpoint(None)), reinforced)
    assert not torch.equal(reinforce(ensemble_of(teachers, pools), CONFIG, 1, Checkpoint(None)).views, reinforced.views)


@pytest.mark.parametrize("after", [1, 2])
def test_an_interruption_changes_nothing(teachers, pools, reinforced, tmp_path, monkeypatch, after):
    checkpoint = Checkpoint(tmp_path / "c.pt", "f", seconds_between=0)
    queried = []

    def interrupted(given, *arguments):
        for number, (member, values) in enumerate(predict(given, *arguments)):
            if number == after:
                raise KeyboardInterrupt
            yield member, values

    predict = reinforcement._log_probabilities
    monkeypatch.setattr(reinforcement, "_log_probabilities", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reinforce(ensemble_of(teachers, pools), CONFIG, 0, checkpoint)
    monkeypatch.setattr(reinforcement, "_log_probabilities", lambda given, *rest: queried.append(len(given)) or predict(given, *rest))
    assert same(reinforce(ensemble_of(teachers, pools), CONFIG, 0, Checkpoint(tmp_path / "c.pt", "f")), reinforced)
    assert queried == [3 - after]


def test_all_teachers_in_one_pass_give_the_same_predictions(teachers, pools, reinforced):
    together = reinforce(ensemble_of(teachers, pools, together=True), CONFIG, 0, Checkpoint(None))
    assert torch.equal(together.views, reinforced.views)
    assert torch.allclose(together.predictions.float(), reinforced.predictions.float(), rtol=2e-3, atol=2e-3)


def test_a_dropped_teacher_is_left_out_with_its_pool(teachers, pools):
    result = reinforce(ensemble_of(teachers, pools, torch.tensor([1.0, 0.0, 1.0])), CONFIG, 0, Checkpoint(None))
    assert result.images == (24, 0, 40)
    assert result.classes == (3, 0, 5)
    assert result.predictions.shape == (3, 64, 8)
    assert result.positions(torch.tensor([2]), torch.tensor([[0, 39]])).tolist() == [24, 63]
    views, predictions, _ = result.batch(torch.tensor([24, 5]), [2, 0], rng(), CPU)
    assert views.shape == (2, 3, 32, 32)
    assert not predictions[:, 1, 3:].any()
    own = result.own_batch(torch.tensor([24, 5]), rng(), CPU)[1]
    assert torch.equal(own[0], predictions[0, 0])
    assert torch.equal(own[1], predictions[1, 1])


@pytest.mark.parametrize("mixed", [False, True])
def test_a_batch_has_a_stored_view_of_each_image_with_its_predictions(reinforced, mixed):
    positions = torch.tensor([0, 30, 95, 30])
    views, predictions, relations = reinforced.batch(positions, [2, 0], rng(), CPU, mixed=mixed)
    assert predictions.shape == (4, 2, 5)
    assert torch.allclose(predictions.sum(-1), torch.ones(4, 2), atol=5e-3)
    rounds = range(2, 3) if mixed else range(2)
    for row, position in enumerate(positions.tolist()):
        (number,) = [r for r in rounds if torch.equal(reinforced.views[r, position], views[row])]
        expected = reinforced.predictions[number, position].float().exp()
        assert torch.equal(relations[row], reinforced.relations[number, position].float())
        assert torch.equal(predictions[row, 0], expected[7:])
        assert torch.equal(predictions[row, 1, :3], expected[:3])
        assert not predictions[row, 1, 3:].any()


def test_the_ensemble_reads_stored_views_without_a_query(teachers, pools, reinforced, monkeypatch):
    ensemble = replace(ensemble_of(teachers, pools), reinforced=reinforced)
    monkeypatch.setattr(TeacherEnsemble, "predict", None)
    pool, rows = torch.tensor([1, 2]), torch.tensor([[3, 4], [0, 1]])
    views, predictions, relations = ensemble.queried_views(pool, rows, [1], rng())
    stored, expected, of_views = reinforced.batch(torch.tensor([27, 28, 56, 57]), [1], rng(), CPU)
    assert torch.equal(views, ensemble.normalise(stored))
    assert torch.equal(predictions, expected)
    assert torch.equal(relations, of_views)


def test_a_few_teachers_relations_are_their_weighted_root_features(teachers, reinforced):
    views = reinforced.views.flatten(0, 1)[:50]
    with torch.no_grad():
        features = [teacher.network.backbone(teacher.normalise(views)) for teacher in teachers]
    roots = [part.sqrt() / part.sqrt().norm(dim=1, keepdim=True) for part in features]  # ReLU leaves no negative ones
    expected = MOST * torch.cat(roots, 1)  # of 12 classes in all
    torch.testing.assert_close(reinforced.relations.flatten(0, 1)[:50].float(), expected, rtol=2e-3, atol=2e-3)


def test_teachers_of_many_classes_have_no_relations(teachers, pools, monkeypatch):
    monkeypatch.setattr(reinforcement, "FEW_CLASSES", 12)
    result = reinforce(ensemble_of(teachers, pools), CONFIG, 0, Checkpoint(None))
    assert result.relations is None
    assert set(result.tensors) == {"views", "predictions"}
    assert result.batch(torch.tensor([0]), [0], rng(), CPU)[2] is None


def test_many_features_are_reduced_with_nearly_the_same_cosines(teachers, pools, reinforced, monkeypatch):
    monkeypatch.setattr(reinforcement, "MOST_FEATURES", 64)
    views = reinforced.views.flatten(0, 1)[:40]
    reduced = reinforcement._relations(teachers, views, CPU, 0).float()
    assert reduced.shape == (40, 64)
    exact = pairwise_cosines(reinforced.relations.flatten(0, 1)[:40].float())
    assert (pairwise_cosines(reduced) - exact).abs().mean() < 0.15


def test_training_batches_of_joined_pools_have_the_own_teachers_predictions_for_the_stored_view(pools, teachers, reinforced):
    joined = JoinedPools.join(pools, Normalise([0.45] * 3, [0.22] * 3), reinforced)
    batch = training_batch(joined, torch.arange(96), 20, 0, "step", 1)
    images = ((batch.images * 0.22 + 0.45) * 255).round()
    for row, index in enumerate(batch.teacher.tolist()):
        teacher, count = teachers[index], len(teachers[index].classes)
        with torch.no_grad():
            expected = teacher.network(teacher.normalise(images[row : row + 1])).softmax(1)[0]
        assert torch.allclose(batch.soft_labels[row, :count], expected, atol=5e-3)
        assert not batch.soft_labels[row, count:].any()
    assert torch.equal(training_batch(joined, torch.arange(96), 20, 0, "step", 1).images, batch.images)
