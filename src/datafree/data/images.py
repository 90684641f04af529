"""Labelled image sets (``ImageSet``), their checks, and contact sheets of images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from datafree.errors import UserError

GAP = 2  # pixels between the tiles of a contact sheet, and around them
BACKGROUND = 255  # grey level of the gaps


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with class labels.

    Attributes:
        images: uint8 [N, C, H, W] in 0..255, C = 1 (grey) or 3 (RGB), N at least 1.
        labels: int64 [N], each an index into ``classes``.
        classes: distinct class names.

    Raises:
        ValueError: wrong dtypes or shapes, labels out of range, or a repeated class name.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_images(self.images)
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels: expected int64 [{len(self.images)}], got {_describe(self.labels)}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: expected distinct names, got a repeated name")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(f"labels: expected 0 to {len(self.classes) - 1}, got {low} to {high}")

    def of_classes(self, indices: Sequence[int]) -> ImageSet:
        """The images of some classes, in unchanged order; class ``indices[i]`` gets label i.

        Raises:
            ValueError: an index that does not exist or is repeated, or classes without any image.
        """
        if len(set(indices)) != len(indices) or not all(0 <= index < len(self.classes) for index in indices):
            raise ValueError(f"indices: expected distinct class indices from 0 to {len(self.classes) - 1}, got {list(indices)}")
        renumbered = torch.full((len(self.classes),), -1, dtype=torch.int64)
        renumbered[list(indices)] = torch.arange(len(indices))
        labels = renumbered[self.labels]
        chosen = labels >= 0
        return ImageSet(self.images[chosen], labels[chosen], tuple(self.classes[index] for index in indices))


def check_disjoint(sets: Mapping[str, ImageSet]) -> None:
    """Refuse splits that share a class: few-shot accuracy is measured on classes that do not occur in training.

    Raises:
        UserError: two of the sets, given by split, have a class name in common.
    """
    for (split, image_set), (other, other_set) in itertools.combinations(sets.items(), 2):
        if shared := sorted(set(image_set.classes) & set(other_set.classes)):
            raise UserError(
                f"data: class {shared[0]!r} is in {split} and in {other}; the splits must not share classes, rename or move one"
            )


def contact_sheet(images: torch.Tensor, columns: int) -> Image.Image:
    """A grid of images, filled row by row, with ``GAP`` white pixels between and around the tiles.

    Args:
        images: uint8 [N, C, H, W], C = 1 or 3, N at least 1. The last row may be partly empty.
        columns: tiles per row, at least 1.

    Returns:
        An RGB image of ``columns * (W + GAP) + GAP`` by ``ceil(N / columns) * (H + GAP) + GAP`` pixels.

    Raises:
        ValueError: another shape or dtype, or fewer than one column.
    """
    _check_images(images)
    if columns < 1:
        raise ValueError(f"columns: expected at least 1, got {columns}")
    count, _, height, width = images.shape
    rows = math.ceil(count / columns)
    tiles = torch.full((rows * columns, 3, height + GAP, width + GAP), BACKGROUND, dtype=torch.uint8)
    tiles[:count, :, GAP:, GAP:] = images.cpu()
    sheet = torch.full((3, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), BACKGROUND, dtype=torch.uint8)
    grid = tiles.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)
    sheet[:, :-GAP, :-GAP] = grid.reshape(3, rows * (height + GAP), columns * (width + GAP))
    return Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy())


def class_sheet(images: torch.Tensor, labels: torch.Tensor, columns: int) -> Image.Image:
    """A contact sheet with one row of at most ``columns`` images per class; no row is longer than the smallest class."""
    members = [images[labels == label] for label in labels.unique().tolist()]
    columns = min(columns, *(len(member) for member in members))
    return contact_sheet(torch.cat([member[:columns] for member in members]), columns)


def _check_images(images: torch.Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images: expected uint8 [N, 1 or 3, H, W] with at least one image, got {_describe(images)}")


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
