"""A user's own images, read from a folder per split and class (``datafree.data.layout`` says which files count)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from datafree.data.images import ImageSet
from datafree.data.layout import class_files
from datafree.errors import UserError
from datafree.progress import progress


def folder_images(folder: str | Path, split: str, image_size: int) -> ImageSet:
    """All images of a split as RGB, stretched to ``image_size`` pixels square, ordered by class and file name.

    Any format that Pillow reads will do. A photo is turned the way its camera was held, the first frame of an animation is taken,
    transparent parts become white, and 16-bit grey values are cut to their upper 8 bits.

    Raises:
        UserError: what ``class_files`` refuses, or a file that cannot be read as an image.
    """
    files = class_files(folder, split)
    paths = [path for of_class in files.values() for path in of_class]
    images = torch.stack([_read(path, image_size) for path in progress(paths, len(paths), f"reading {split} images")])
    counts = torch.tensor([len(of_class) for of_class in files.values()])
    return ImageSet(images, torch.arange(len(files)).repeat_interleave(counts), tuple(files))


def _read(path: Path, image_size: int) -> torch.Tensor:
    """One image: uint8 [3, image_size, image_size]."""
    try:
        with Image.open(path) as image:
            # A JPEG decodes several times faster at a reduced size; the result is never smaller than asked for.
            image.draft(None, (image_size, image_size))
            square = _opaque(ImageOps.exif_transpose(image)).resize((image_size, image_size), Image.Resampling.BICUBIC)
    except Exception as error:  # damaged bytes can make a decoder fail with any type of exception
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as an image ({reason}); replace or remove the file") from None
    return torch.from_numpy(np.asarray(square).transpose(2, 0, 1).copy())


def _opaque(image: Image.Image) -> Image.Image:
    """As 8-bit RGB, on white where it is transparent."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey values of unknown range; convert it to 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
