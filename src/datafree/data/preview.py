"""Preview of image sets: a contact sheet with samples of some classes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from PIL import Image

from datafree.data.images import BACKGROUND, ImageSet, contact_sheet

CLASSES = 6  # rows per set, spread evenly over its classes
SAMPLES = 12  # images per row


def preview(sets: Iterable[ImageSet]) -> Image.Image:
    """Contact sheet of several sets of one image size: one row of samples per class, an empty row between sets."""
    rows: list[torch.Tensor] = []
    for image_set in sets:
        if rows:
            rows.append(_row(image_set.images[:0]))
        shown = min(CLASSES, len(image_set.classes))
        rows.extend(_row(image_set.images[image_set.labels == index * len(image_set.classes) // shown]) for index in range(shown))
    return contact_sheet(torch.cat(rows), SAMPLES)


def _row(images: torch.Tensor) -> torch.Tensor:
    """The first images, padded to ``SAMPLES`` with blank ones: uint8 [SAMPLES, C, H, W]."""
    row = images.new_full((SAMPLES, *images.shape[1:]), BACKGROUND)
    row[: len(images)] = images[:SAMPLES]
    return row
