import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree import devices
from datafree.data.images import ImageSet
from datafree.tasks.pools import PoolImages, balanced_rows, class_rows, real_pool


def test_class_rows_are_the_positions_of_each_class(pools):
    rows = class_rows(pools[1])
    assert len(rows) == 4
    for label, positions in enumerate(rows):
        assert (pools[1].labels[positions] == label).all()
    assert sorted(torch.cat(rows).tolist()) == list(range(len(pools[1].labels)))


def test_images_on_the_device_are_those_of_the_pools(pools):
    cpu = torch.device("cpu")
    joined = PoolImages(pools, cpu, torch.cat([pool.images for pool in pools]))
    apart = PoolImages.placed(pools, cpu)
    assert apart.joined is None  # nothing is copied on a CPU
    chosen, rows = torch.tensor([2, 0, 1, 0]), torch.tensor([[0, 39], [3, 23], [31, 31], [5, 0]])
    expected = torch.cat([pools[int(pool)].images[of_pool] for pool, of_pool in zip(chosen, rows, strict=True)])
    assert torch.equal(joined.at(chosen, rows), expected)
    assert torch.equal(apart.at(chosen, rows), expected)


def test_pools_stay_apart_without_room_for_them_or_if_their_shapes_differ(pools, monkeypatch):
    cpu, smaller, sizes = torch.device("cpu"), dataclasses.replace(pools[1], images=pools[1].images[..., ::2, ::2]), []
    monkeypatch.setattr(devices, "fits", lambda size, device: sizes.append(size) or True)
    assert torch.equal(PoolImages.placed(pools, cpu).joined, torch.cat([pool.images for pool in pools]))
    assert sizes == [sum(pool.images.numel() for pool in pools)]
    assert PoolImages.placed([pools[0], smaller], cpu).joined is None
    monkeypatch.setattr(devices, "fits", lambda size, device: False)
    assert PoolImages.placed(pools, cpu).joined is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 50))
def test_balanced_rows_are_distinct_and_even_over_the_classes(labels, count):
    labels = torch.tensor(labels)
    rows = balanced_rows(labels, count, torch.Generator().manual_seed(0))
    assert len(rows) == min(count, len(labels)) == len(rows.unique())
    taken = {int(label): int((labels[rows] == label).sum()) for label in labels.unique()}
    for label, number in taken.items():
        if number < int((labels == label).sum()):  # images are left: no other class has more than one image more
            assert number >= max(taken.values()) - 1


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
