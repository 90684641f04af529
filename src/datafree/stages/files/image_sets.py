"""Reading and writing image sets as safetensors files."""

from __future__ import annotations

from pathlib import Path

from datafree import artifacts
from datafree.data.images import ImageSet
from datafree.errors import UserError


def write_image_set(path: str | Path, image_set: ImageSet) -> None:
    """Save as safetensors: ``images``, ``labels``, and the class names as metadata ``classes``."""
    artifacts.write_tensors(path, {"images": image_set.images, "labels": image_set.labels}, classes=list(image_set.classes))


def read_image_set(path: str | Path) -> ImageSet:
    """Load a file of ``write_image_set``.

    Raises:
        UserError: the file is missing, damaged, or not an image set.
    """
    tensors = artifacts.read_tensors(path, "images", "labels")
    classes = artifacts.read_metadata(path).get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{path}: expected class names in the metadata `classes`, got {classes!r:.80}; delete the file and rerun")
    try:
        return ImageSet(tensors["images"], tensors["labels"], tuple(classes))
    except ValueError as error:
        raise UserError(f"{path}: not an image set ({error}); delete the file and rerun") from None
