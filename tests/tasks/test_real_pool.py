import pytest
import torch

from datafree.data.images import ImageSet
from datafree.tasks.pools import real_pool


def test_real_images_form_a_pool_of_chosen_classes_with_one_hot_soft_labels():
    images = torch.arange(6).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).to(torch.uint8)
    data = ImageSet(images, torch.tensor([0, 1, 2, 0, 1, 2]), ("ant", "bee", "cat"))
    whole = real_pool(data)
    assert torch.equal(whole.images, images)
    assert torch.equal(whole.soft_labels, torch.eye(3)[data.labels].half())
    some = real_pool(data, ("cat", "ant"))
    assert (some.labels.tolist(), some.classes) == ([1, 0, 1, 0], ("cat", "ant"))
    assert some.images[:, 0, 0, 0].tolist() == [0, 2, 3, 5]  # in the order of the data
    first = real_pool(data, ("cat", "ant"), per_class=1)
    assert first.images[:, 0, 0, 0].tolist() == [2, 0]  # sorted by class
    assert torch.equal(first.soft_labels, torch.eye(2).half())
    with pytest.raises(ValueError, match="not in tuple"):
        real_pool(data, ("dog",))
