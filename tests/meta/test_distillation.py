import dataclasses

import pytest
import torch

from datafree.checkpoints import Checkpoint
from datafree.config import DistillationArm, Queried
from datafree.distillation.losses import distillation_loss
from datafree.distillation.objectives import relational_loss, zoo_representation
from datafree.meta import distillation
from datafree.tasks.episodes import Episodes
from datafree.tasks.pools import class_rows

ARM = DistillationArm(steps=40, teachers_per_step=3, batch_size=18, augment=False, mixup=False)
# A single task, for which no gradient cosine is measured: all images that the ensemble records are those of the distillation.
ONE_TASK = Episodes(torch.tensor([[[0, 1], [2, 3]]]), torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[0, 1]]), shot=1)


@pytest.mark.parametrize("count", [None, 2])
def test_images_per_class_restricts_each_pool_to_the_first_images_of_every_class(train_recorded, pools, count):
    arm = dataclasses.replace(ARM, images_per_class=count)
    used = {image.numpy().tobytes() for images in train_recorded(arm, ONE_TASK).viewed for image in images}
    allowed = [pool.images[torch.cat([rows[:count] for rows in class_rows(pool)])] for pool in pools]
    assert used == {image.numpy().tobytes() for images in allowed for image in images}


@pytest.mark.parametrize(("queried", "most"), [(Queried.all, 3), (Queried.step, 2)])
def test_all_teachers_or_those_of_the_images_are_queried_about_every_view(train_recorded, teachers_of, queried, most):
    arm = dataclasses.replace(ARM, queried=queried, teachers_per_step=2, steps=4)
    ensemble = train_recorded(arm, ONE_TASK)
    assert [len(of_step) for of_step in ensemble.queries] == [most] * 4
    if queried is Queried.step:
        assert [teachers_of(images) for images in ensemble.viewed] == [set(of_step) for of_step in ensemble.queries]


def test_the_first_row_of_the_history_has_the_terms_of_the_objective(train, ensemble_of, fresh_learner):
    arm = dataclasses.replace(ARM, steps=1, relational=5.0)
    row = train(arm)[1][0]
    learner = fresh_learner().train()
    recorded = {}

    def record(views, queried):
        recorded["predictions"] = predict(views, queried)
        recorded["features"], recorded["logits"] = learner(views, queried)
        return recorded["predictions"]

    ensemble = ensemble_of(learner)
    predict = ensemble.predict
    object.__setattr__(ensemble, "predict", record)
    distillation.train(fresh_learner(), ensemble, ONE_TASK, arm, 0, Checkpoint(None))
    target = zoo_representation(recorded["predictions"], 4.0)
    assert row["distillation"] == pytest.approx(distillation_loss(recorded["logits"], recorded["predictions"], 4.0).item(), rel=1e-4)
    assert row["relational"] == pytest.approx(5 * relational_loss(recorded["features"], target).item(), rel=1e-4)


def test_without_weight_there_is_no_relational_term(train):
    assert "relational" not in train(dataclasses.replace(ARM, steps=1, relational=0.0))[1][0]


def test_images_of_any_teachers_are_sampled_in_proportion_to_the_weights(ensemble_of, fresh_learner):
    ensemble = dataclasses.replace(ensemble_of(fresh_learner()), sampling_weights=torch.tensor([1.0, 0.0, 0.5]))
    used = [torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([5, 6, 7])]
    arm = dataclasses.replace(ARM, teachers_per_step=None, batch_size=3000)
    pools, rows = distillation.sample_images(ensemble, used, arm, torch.Generator().manual_seed(0))
    assert rows.shape == (3000, 1)
    assert torch.bincount(pools, minlength=3).tolist() == pytest.approx([2000, 0, 1000], abs=120)
    assert torch.bincount(rows[pools == 2].flatten()).tolist() == pytest.approx([0] * 5 + [333] * 3, abs=80)
    assert set(rows[pools == 0].flatten().tolist()) == {0, 1}


def test_as_many_images_of_each_of_several_teachers(ensemble_of, fresh_learner):
    arm = dataclasses.replace(ARM, teachers_per_step=2, batch_size=9)
    pools, rows = distillation.sample_images(ensemble_of(fresh_learner()), [torch.arange(4)] * 3, arm, torch.Generator().manual_seed(0))
    assert len(set(pools.tolist())) == 2
    assert rows.shape == (2, 4)
