import pytest
import torch

from datafree import artifacts
from datafree.data.images import ImageSet
from datafree.errors import UserError
from datafree.stages.files.pools import read_pool, read_pools
from datafree.tasks.pools import class_rows, real_pool


@pytest.fixture
def written(tmp_path, pools, teachers):
    for number, pool in enumerate(pools):
        tensors = {"images": pool.images, "labels": pool.labels, "soft_labels": pool.soft_labels}
        artifacts.write_tensors(tmp_path / f"{number}.safetensors", tensors, teacher="x")
        artifacts.write_json(tmp_path / f"{number}.json", {"classes": list(pool.classes)})
    return tmp_path


def test_pools_come_back_in_order(written, pools):
    found = read_pools([written / f"{n}.safetensors" for n in range(3)], [written / f"{n}.json" for n in range(3)])
    for read, pool in zip(found, pools, strict=True):
        assert read.classes == pool.classes
        assert (read.images.dtype, read.labels.dtype, read.soft_labels.dtype) == (torch.uint8, torch.int64, torch.float16)
        assert all(torch.equal(getattr(read, part), getattr(pool, part)) for part in ("images", "labels", "soft_labels"))


def test_a_pool_needs_its_card_and_all_its_tensors(written):
    with pytest.raises(UserError, match=r"9.json: the file is missing"):
        read_pool(written / "0.safetensors", written / "9.json")
    artifacts.write_tensors(written / "0.safetensors", {"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)})
    with pytest.raises(UserError, match="expected a tensor `labels`"):
        read_pool(written / "0.safetensors", written / "0.json")
    with pytest.raises(ValueError, match="shorter"):
        read_pools([written / "1.safetensors"], [])


def test_rows_are_the_places_of_each_class(pools):
    rows = class_rows(pools[1])
    assert len(rows) == 4
    for label, places in enumerate(rows):
        assert (pools[1].labels[places] == label).all()
    assert sorted(torch.cat(rows).tolist()) == list(range(len(pools[1].labels)))


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
