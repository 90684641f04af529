import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datafree import artifacts
from datafree.data.images import GAP, ImageSet, check_disjoint, contact_sheet
from datafree.errors import UserError
from datafree.stages.files.image_sets import read_image_set, write_image_set


def image_set(labels, classes=("ant", "bee", "cat"), channels=3):
    images = torch.arange(len(labels) * channels * 4 * 5).remainder(256).to(torch.uint8).view(-1, channels, 4, 5)
    return ImageSet(images, torch.tensor(labels), tuple(classes))


IMAGES = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (IMAGES.float(), LABELS, ("a", "b"), r"images: expected uint8 .* got float32 \[2, 3, 4, 5\]"),
        (IMAGES[0], LABELS, ("a", "b"), r"images: expected .* got uint8 \[3, 4, 5\]"),
        (IMAGES[:, :2], LABELS, ("a", "b"), r"images: expected .*1 or 3"),
        (IMAGES[:0], LABELS[:0], ("a", "b"), "at least one image"),
        (IMAGES, LABELS.int(), ("a", "b"), r"labels: expected int64 \[2\], got int32"),
        (IMAGES, LABELS[:1], ("a", "b"), r"labels: expected int64 \[2\], got int64 \[1\]"),
        (IMAGES, LABELS, ("a", "a"), "distinct"),
        (IMAGES, LABELS, ("a",), "expected 0 to 0, got 0 to 1"),
        (IMAGES, LABELS - 1, ("a", "b"), "got -1 to 0"),
    ],
)
def test_an_inconsistent_image_set_is_refused(images, labels, classes, message):
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels, classes)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.permutations([0, 1, 2]), st.integers(1, 3))
def test_a_subset_keeps_images_and_class_names(labels, order, count):
    whole, indices = image_set(labels), order[:count]
    wanted = [(image, whole.classes[label]) for image, label in zip(whole.images, labels, strict=True) if label in indices]
    if not wanted:
        with pytest.raises(ValueError, match="at least one image"):
            whole.of_classes(indices)
        return
    part = whole.of_classes(indices)
    assert part.classes == tuple(whole.classes[index] for index in indices)
    assert [part.classes[label] for label in part.labels] == [name for _, name in wanted]
    assert torch.equal(part.images, torch.stack([image for image, _ in wanted]))


@pytest.mark.parametrize("indices", [[0, 0], [3], [-1]])
def test_a_subset_with_unknown_or_repeated_classes_is_refused(indices):
    with pytest.raises(ValueError, match="distinct class indices from 0 to 2"):
        image_set([0, 1, 2]).of_classes(indices)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_set_is_written_and_read_unchanged(tmp_path, channels):
    written = image_set([2, 0, 2], channels=channels)
    for name in ("one", "two"):
        write_image_set(tmp_path / name, written)
    read = read_image_set(tmp_path / "one")
    assert torch.equal(read.images, written.images)
    assert torch.equal(read.labels, written.labels)
    assert read.classes == written.classes
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"images": IMAGES}, {"classes": ["a", "b"]}, "expected a tensor `labels`"),
        ({"images": IMAGES, "labels": LABELS}, {}, "class names in the metadata `classes`, got None"),
        ({"images": IMAGES, "labels": LABELS}, {"classes": [1, 2]}, r"got \[1, 2\]"),
        ({"images": IMAGES, "labels": LABELS}, {"classes": ["a"]}, "not an image set .labels: expected 0 to 0"),
    ],
)
def test_a_file_with_other_content_is_named_in_the_error(tmp_path, tensors, metadata, message):
    path = tmp_path / "set.safetensors"
    artifacts.write_tensors(path, tensors, **metadata)
    with pytest.raises(UserError, match=f"set.safetensors.*{message}"):
        read_image_set(path)


def test_splits_must_not_share_a_class():
    check_disjoint({"train": image_set([0]), "test": image_set([0], ["dog"])})
    with pytest.raises(UserError, match="'bee' is in train and in test"):
        check_disjoint({"train": image_set([0]), "validation": image_set([0], ["dog"]), "test": image_set([0], ["bee", "emu"])})


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (6, 3), (7, 3), (2, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_contact_sheet_has_images_row_by_row_and_white_gaps(count, columns, channels):
    images = torch.randint(0, 255, (count, channels, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sheet = np.array(contact_sheet(images, columns))
    rows = -(-count // columns)
    assert sheet.shape == (rows * (4 + GAP) + GAP, columns * (5 + GAP) + GAP, 3)
    for index in range(count):
        top, left = GAP + index // columns * (4 + GAP), GAP + index % columns * (5 + GAP)
        tile = sheet[top : top + 4, left : left + 5]
        assert (tile == images[index].expand(3, 4, 5).permute(1, 2, 0).numpy()).all()
        tile[:] = 255
    assert (sheet == 255).all()


def test_a_contact_sheet_refuses_other_tensors_and_zero_columns():
    with pytest.raises(ValueError, match="images: expected uint8"):
        contact_sheet(IMAGES.float(), 2)
    with pytest.raises(ValueError, match="columns: expected at least 1, got 0"):
        contact_sheet(IMAGES, 0)
