import dataclasses

import pytest
import torch

from datafree.config import DistillationArm
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.tasks.pools import class_rows

ARM = DistillationArm(steps=40, teachers_per_step=3, images_per_teacher=6, augment=False, mixup=False)


@pytest.mark.parametrize("pool", [0, 2])
def test_a_small_pool_is_the_first_images_of_every_class(train, pools, monkeypatch, pool):
    seen = set()
    plain = TeacherEnsemble.views

    def views(self, images, rng, augment):
        seen.update(image.numpy().tobytes() for image in images)
        return plain(self, images, rng, augment)

    monkeypatch.setattr(TeacherEnsemble, "views", views)
    monkeypatch.setattr("datafree.meta.alignment.of_tasks", lambda *_: {})
    train(dataclasses.replace(ARM, images_per_class=pool))
    allowed = [one.images[torch.cat([rows[: pool or None] for rows in class_rows(one)])] for one in pools]
    assert seen == {image.numpy().tobytes() for images in allowed for image in images}
