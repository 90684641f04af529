import dataclasses

import pytest
import torch

from datafree.config import DistillationArm
from datafree.tasks.episodes import Episodes
from datafree.tasks.pools import class_rows

ARM = DistillationArm(steps=40, teachers_per_step=3, images_per_teacher=6, augment=False, mixup=False)
# A single task, for which no gradient cosine is measured: all images that the ensemble records are those of the distillation.
ONE_TASK = Episodes(torch.tensor([[[0, 1], [2, 3]]]), torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[0, 1]]), shot=1)


@pytest.mark.parametrize("count", [None, 2])
def test_images_per_class_restricts_each_pool_to_the_first_images_of_every_class(train_recorded, pools, count):
    arm = dataclasses.replace(ARM, images_per_class=count)
    used = {image.numpy().tobytes() for images in train_recorded(arm, ONE_TASK).viewed for image in images}
    allowed = [pool.images[torch.cat([rows[:count] for rows in class_rows(pool)])] for pool in pools]
    assert used == {image.numpy().tobytes() for images in allowed for image in images}
