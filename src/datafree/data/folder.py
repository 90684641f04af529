"""Reading a user's images from one folder per split and class (``datafree.data.layout`` selects the files)."""

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
    """All images of a split as RGB, resized to ``image_size`` pixels square, ordered by class and file name.

    Any format that Pillow reads is accepted. The EXIF orientation is applied, only the first frame of an animation is read, transparent
    parts become white, and 16-bit grey values are reduced to their upper 8 bits.

    Raises:
        UserError: an invalid folder (see ``class_files``), or a file that cannot be read as an image.
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
            # A JPEG decodes several times faster at a reduced size, which is never smaller than the requested one.
            image.draft(None, (image_size, image_size))
            square = _opaque(ImageOps.exif_transpose(image)).resize((image_size, image_size), Image.Resampling.BICUBIC)
    except Exception as error:  # damaged bytes can make a decoder fail with any type of exception
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as an image ({reason}); replace or remove the file") from None
    return torch.from_numpy(np.asarray(square).transpose(2, 0, 1).copy())


def _opaque(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB, composited over white where it is transparent."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey values of unknown range; convert it to 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    background = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
