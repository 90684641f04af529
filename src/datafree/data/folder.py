"""Reading a user's images from one folder per split and class (``datafree.data.layout`` selects the files)."""

from __future__ import annotations

from pathlib import Path

import torch

from datafree.data.decoding import read_images
from datafree.data.images import ImageSet
from datafree.data.layout import class_files


def folder_images(folder: str | Path, split: str, image_size: int) -> ImageSet:
    """All images of a split as RGB, resized to ``image_size`` pixels square (see ``read_image``), ordered by class and file name.

    Raises:
        UserError: an invalid folder (see ``class_files``), or files that cannot be read as images (see ``read_images``).
    """
    files = class_files(folder, split)
    images = read_images([path for of_class in files.values() for path in of_class], image_size, f"reading {split} images")
    counts = torch.tensor([len(of_class) for of_class in files.values()])
    return ImageSet(images, torch.arange(len(files)).repeat_interleave(counts), tuple(files))
