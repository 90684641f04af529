from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from datafree.distillation.joined_pools import JoinedPools, sample_indices, training_batch
from datafree.errors import UserError
from datafree.zoo.backbones import Normalise

NORMALISE = Normalise([0.5] * 3, [0.25] * 3)


def test_joined_pools_keep_order_and_pad_soft_labels_with_zero(pools, joined):
    assert joined.classes == (3, 4, 5)
    start = 0
    for number, pool in enumerate(pools):
        rows = slice(start, start + len(pool.images))
        assert torch.equal(joined.images[rows], pool.images[..., ::2, ::2])
        assert (joined.teacher[rows] == number).all()
        assert torch.equal(joined.soft_labels[rows, : len(pool.classes)], pool.soft_labels)
        assert not joined.soft_labels[rows, len(pool.classes) :].any()
        start += len(pool.images)
    assert start == len(joined.images)


def test_a_batch_is_normalised_per_channel(pools):
    joined = JoinedPools.join(pools, Normalise([0.5, 0.4, 0.3], [0.25, 0.2, 0.1]))
    index = torch.tensor([3, 90, 3])
    batch = joined.batch(index)
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.25, 0.2, 0.1])[:, None, None]
    expected = (joined.images[index].double() / 255 - mean) / std
    torch.testing.assert_close(batch.images.double(), expected, rtol=0, atol=1e-5)
    assert batch.teacher.tolist() == [0, 2, 0]
    torch.testing.assert_close(batch.soft_labels.sum(1), torch.ones(3), rtol=0, atol=2e-3)


@pytest.mark.parametrize("share", [0.001, 0.25, 0.999])
def test_the_split_is_complete_disjoint_and_the_same_share_of_every_teacher(joined, share):
    training, held_out = joined.split(share, seed=3)
    assert sorted(torch.cat([training, held_out]).tolist()) == list(range(len(joined.images)))
    for number, size in enumerate([24, 32, 40]):
        assert (joined.teacher[held_out] == number).sum() == min(max(round(share * size), 1), size - 1)


def test_the_split_depends_on_the_seed(joined):
    assert torch.equal(joined.split(0.25, 3)[1], joined.split(0.25, 3)[1])
    assert not torch.equal(joined.split(0.25, 3)[1], joined.split(0.25, 4)[1])


def test_samples_are_without_replacement_and_depend_on_seed_and_names():
    index = torch.arange(100, 150)
    sampled = sample_indices(index, 20, 0, "a", 1)
    assert len(set(sampled.tolist())) == 20
    assert set(sampled.tolist()) <= set(index.tolist())
    assert torch.equal(sampled, sample_indices(index, 20, 0, "a", 1))
    assert not torch.equal(sampled, sample_indices(index, 20, 0, "a", 2))
    assert sorted(sample_indices(index, 1000, 0).tolist()) == index.tolist()


def test_a_training_batch_has_images_of_all_teachers_and_augments_images_but_not_labels(joined):
    training, _ = joined.split(0.25, 0)
    batch = training_batch(joined, training, 32, 0, "here", 5)
    plain = joined.batch(sample_indices(training, 32, 0, "here", 5))
    assert len(batch.teacher.unique()) == 3
    assert torch.equal(batch.teacher, plain.teacher)
    assert torch.equal(batch.soft_labels, plain.soft_labels)
    assert batch.images.shape == plain.images.shape
    assert all(not torch.allclose(a, b) for a, b in zip(batch.images, plain.images, strict=True))
    assert torch.equal(batch.images, training_batch(joined, training, 32, 0, "here", 5).images)


def test_unequal_shapes_are_refused(pools):
    with pytest.raises(UserError, match=r"pool 2 of 2: expected images \[3, 32, 32\] as in the first, got \[3, 16, 16\]"):
        JoinedPools.join([pools[0], replace(pools[1], images=pools[1].images[..., ::2, ::2])], NORMALISE)


def test_soft_labels_that_do_not_fit_the_classes_are_refused(pools):
    with pytest.raises(UserError, match=r"pool 1 of 1: expected soft labels \[24, 3\], got \[24, 2\]"):
        JoinedPools.join([replace(pools[0], soft_labels=pools[0].soft_labels[:, :2])], NORMALISE)


def test_a_pool_of_one_image_is_refused(pools):
    single = replace(pools[0], images=pools[0].images[:1], soft_labels=pools[0].soft_labels[:1], labels=pools[0].labels[:1])
    with pytest.raises(UserError, match="at least 2 images, got 1"):
        JoinedPools.join([single], NORMALISE)
