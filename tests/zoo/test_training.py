import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.config import BackboneConfig
from datafree.data.images import ImageSet
from datafree.errors import UserError
from datafree.zoo.backbones import Classifier, Normalise, build
from datafree.zoo.training import accuracy, hold_out, logits_of, train_classifier, with_label_noise

CPU = torch.device("cpu")


def numbered(counts) -> ImageSet:
    """An image set of distinguishable images: image i is filled with i."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    return ImageSet(images, labels, tuple(f"c{label}" for label in range(len(counts))))


@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.floats(0.01, 0.9), st.integers(0, 99))
def test_hold_out_splits_every_class_completely(counts, share, seed):
    data = numbered(counts)
    parts = hold_out(data, share, seed)
    numbers = [part.images[:, 0, 0, 0].tolist() for part in parts]
    assert sorted(numbers[0] + numbers[1]) == list(range(len(data.labels)))
    for part, indices in zip(parts, numbers, strict=True):
        assert torch.equal(part.labels, data.labels[indices])
        assert part.classes == data.classes
        assert part.labels.unique().tolist() == list(range(len(counts)))  # images of every class in both parts
    again = hold_out(data, share, seed)
    assert all(torch.equal(one.images, other.images) for one, other in zip(parts, again, strict=True))


def test_another_seed_holds_out_other_images_with_the_same_share():
    data = numbered([20, 40])
    first, second = hold_out(data, 0.2, 0)[1], hold_out(data, 0.2, 1)[1]
    assert torch.bincount(first.labels).tolist() == torch.bincount(second.labels).tolist() == [4, 8]
    assert not torch.equal(first.images, second.images)


def test_the_held_out_images_of_a_class_do_not_depend_on_a_later_selection_of_classes():
    data = numbered([8, 8, 8])
    held = hold_out(data, 0.25, 0)[1]
    assert torch.equal(held.of_classes([2, 1]).images, held.images[held.labels > 0])


def test_a_class_with_a_single_image_cannot_be_split():
    with pytest.raises(UserError, match="c1: 1 image; .*at least 2"):
        hold_out(numbered([3, 1]), 0.2, 0)


def classifier(classes: int) -> tuple[Classifier, Normalise]:
    return Classifier(build(BackboneConfig("conv4_strided", 8), 3, 32, 0), classes), Normalise([0.5] * 3, [0.25] * 3)


def train(image_set, steps=12, seed=0):
    torch.manual_seed(0)
    network, normalise = classifier(12)
    settings = {"steps": steps, "batch_size": 32, "learning_rate": 0.02, "seed": seed, "device": CPU, "label": "test"}
    return network, normalise, train_classifier(network, normalise, image_set, **settings)


def test_training_learns_and_repeats(image_set):
    network, normalise, history = train(image_set, steps=40)
    assert [row["step"] for row in history] == [1, 21, 40]
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert accuracy(logits_of(network, normalise, image_set.images, CPU), image_set.labels) > 0.5
    assert not network.training


def test_the_seed_determines_the_batches(image_set):
    first, second, other = train(image_set, 3)[0], train(image_set, 3)[0], train(image_set, 3, seed=1)[0]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_steps_train_the_network_too(image_set, steps):
    network, _, history = train(image_set, steps)
    fresh, _ = classifier(12)
    assert history[-1]["step"] == steps
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert not torch.equal(network.backbone.blocks[0].conv.weight, fresh.backbone.blocks[0].conv.weight)


def test_logits_do_not_depend_on_the_batch_and_leave_no_gradient(image_set):
    network, normalise = classifier(12)
    whole = logits_of(network.train(), normalise, image_set.images[:20], CPU)
    assert torch.allclose(whole, logits_of(network, normalise, image_set.images[:20], CPU, batch_size=7), atol=1e-5)
    assert not whole.requires_grad


def test_accuracy_is_the_share_of_correct_rows():
    logits = torch.tensor([[0.0, 1], [2, 1], [5, 9], [1, 0]])
    assert accuracy(logits, torch.tensor([1, 0, 0, 0])) == 0.75


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.4, 0.3), (1.0, 0.75)])
def test_label_noise_changes_the_share_except_labels_that_stay_correct_by_chance(share, expected):
    labels = torch.arange(4000) % 4
    data = ImageSet(torch.zeros(4000, 3, 1, 1, dtype=torch.uint8), labels, ("a", "b", "c", "d"))
    noisy = with_label_noise(data, share, seed=1)
    assert (noisy.labels != labels).float().mean().item() == pytest.approx(expected, abs=0.03)
    assert torch.equal(noisy.labels, with_label_noise(data, share, seed=1).labels)
    assert share == 0 or not torch.equal(noisy.labels, with_label_noise(data, share, seed=2).labels)
    assert torch.equal(data.labels, labels)
