"""Decoding of image files as people have them to square RGB images; the files come from strangers."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from datafree.errors import UserError
from datafree.progress import progress

# Other formats that Pillow knows are rare for photographs, run other programs (EPS) or have decoders that are hardly tested.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000  # of one image; decoded, one with transparency takes 20 bytes per pixel, however small its file
MOST_NAMES = 5  # of unreadable files in one message


class UnreadableImage(UserError):
    """A file that cannot be read as an image: its ``name`` and the ``reason``."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: cannot be read as an image ({reason}); replace or remove the file")
        self.name, self.reason = name, reason


def read_image(source: Path | bytes, image_size: int, name: str = "") -> torch.Tensor:
    """One image file as RGB, resized to a square: uint8 [3, image_size, image_size].

    ``source`` is a path or the content of a file, ``name`` what an error calls it. A file is of one of ``FORMATS``, by its content, and has
    at most ``MAX_PIXELS`` pixels. The EXIF orientation is applied, only the first frame of an animation is read, transparent parts become
    white, and 16-bit grey values are reduced to their upper 8 bits, those of a PGM file after scaling its maximal value to 65535.

    Raises:
        UnreadableImage: it cannot be read as an image.
    """
    name = name or str(source if isinstance(source, Path) else "the image")
    try:
        with _open(source) as image:
            if image.width * image.height > MAX_PIXELS:  # only the header has been read
                raise ValueError(f"{image.width} x {image.height} pixels; allowed: at most {MAX_PIXELS} in all")
            return square(image, image_size)
    except UnidentifiedImageError:
        raise UnreadableImage(name, f"its content is none of {', '.join(FORMATS)}") from None
    except Exception as error:  # damaged bytes can make a decoder fail with any type of exception
        raise UnreadableImage(name, " ".join(str(error).split())[:200]) from None


def square(image: Image.Image, image_size: int) -> torch.Tensor:
    """An image of any mode and size as RGB, resized to a square: uint8 [3, image_size, image_size].

    Raises:
        ValueError: 32-bit grey values, whose range is unknown.
    """
    # A JPEG decodes several times faster at a reduced size, which is never smaller than the requested one.
    image.draft(None, (image_size, image_size))
    deep = image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I")  # Pillow scales these values to 16 bits
    resized = _opaque(ImageOps.exif_transpose(image), deep).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy())


def read_images(paths: Sequence[Path], image_size: int, label: str, threads: int = 1) -> torch.Tensor:
    """``read_image`` of several files, N ≥ 1, in their order: uint8 [N, 3, image_size, image_size]. Shows progress under ``label``.

    Raises:
        UserError: files cannot be read as images; it counts all of them and names the first ones.
    """
    read = list(progress(_decoded(paths, image_size, threads), len(paths), label))
    unreadable = [result for result in read if isinstance(result, UnreadableImage)]
    if len(unreadable) > 1:
        first, *others = unreadable
        names = ", ".join([f"{first.name} ({first.reason})", *(error.name for error in others[: MOST_NAMES - 1])])
        more = f" and {len(unreadable) - MOST_NAMES} more" if len(unreadable) > MOST_NAMES else ""
        raise UserError(f"{len(unreadable)} of {len(paths)} files cannot be read as images: {names}{more}; replace or remove them")
    if unreadable:
        raise unreadable[0]
    return torch.stack([result for result in read if isinstance(result, torch.Tensor)])


def _decoded(paths: Iterable[Path], image_size: int, threads: int) -> Iterator[torch.Tensor | UnreadableImage]:
    """The images of files in their order, or why one cannot be read; ``threads`` decode in parallel."""
    if threads == 1:
        yield from (_read(path, image_size) for path in paths)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(lambda path: _read(path, image_size), paths)


def _read(path: Path, image_size: int) -> torch.Tensor | UnreadableImage:
    try:
        return read_image(path, image_size)
    except UnreadableImage as error:
        return UnreadableImage(error.name, error.reason)  # a new one, without the traceback: that keeps the decoder in memory


def _open(source: Path | bytes) -> Image.Image:
    """The image, not decoded yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # for less than Pillow's own limit ours applies
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_supported())


def _supported() -> tuple[str, ...]:
    """``FORMATS`` without those for which this Pillow has no decoder."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _opaque(image: Image.Image, deep: bool) -> Image.Image:
    """The image as 8-bit RGB, composited over white where it is transparent; ``deep``: its values are grey ones of 16 bits."""
    if deep:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey values of unknown range; convert it to 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    background = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
