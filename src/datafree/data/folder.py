"""Reading a user's images from one folder per split and class (``datafree.data.layout`` selects the files)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from datafree.data.images import ImageSet
from datafree.data.layout import class_files
from datafree.errors import UserError
from datafree.progress import progress

# Other formats that Pillow knows are rare for photographs, run other programs (EPS) or have decoders that are hardly tested.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000  # of one image; decoded, one with transparency takes 20 bytes per pixel, however small its file


def folder_images(folder: str | Path, split: str, image_size: int) -> ImageSet:
    """All images of a split as RGB, resized to ``image_size`` pixels square, ordered by class and file name.

    Files are of one of ``FORMATS``, by their content, and have at most ``MAX_PIXELS`` pixels. The EXIF orientation is applied, only the
    first frame of an animation is read, transparent parts become white, and 16-bit grey values are reduced to their upper 8 bits.

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
        with _open(path) as image:
            if image.width * image.height > MAX_PIXELS:  # only the header has been read
                raise ValueError(f"{image.width} x {image.height} pixels; allowed: at most {MAX_PIXELS} in all")
            # A JPEG decodes several times faster at a reduced size, which is never smaller than the requested one.
            image.draft(None, (image_size, image_size))
            square = _opaque(ImageOps.exif_transpose(image)).resize((image_size, image_size), Image.Resampling.BICUBIC)
    except UnidentifiedImageError:
        raise UserError(
            f"{path}: cannot be read as an image (its content is none of {', '.join(FORMATS)}); replace or remove the file"
        ) from None
    except Exception as error:  # damaged bytes can make a decoder fail with any type of exception
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as an image ({reason}); replace or remove the file") from None
    return torch.from_numpy(np.asarray(square).transpose(2, 0, 1).copy())


def _open(path: Path) -> Image.Image:
    """The image, not decoded yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # for less than Pillow's own limit ours applies
        return Image.open(path, formats=FORMATS)


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
