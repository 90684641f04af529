"""Images in the forms that people hold them, as one batch of squares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from datafree.data.decoding import read_image, square
from datafree.errors import UserError

Images: TypeAlias = "torch.Tensor | np.ndarray | Sequence[Any]"
ACCEPTED = (
    "a tensor [N, C, H, W] or an array [N, H, W] or [N, H, W, C] (uint8, or floats from 0 to 1; C = 1 or 3), or a sequence of paths, PIL "
    "images, or single images of these kinds"
)


def as_batch(images: Images, image_size: int) -> torch.Tensor:
    """The images as uint8 [N, 3, image_size, image_size], N ≥ 1. See ``ACCEPTED`` for the forms.

    All are resized as image files are (see ``read_image``), so an image gives the same values in every form.

    Raises:
        UserError: another form, no image, or a file that cannot be read.
    """
    if isinstance(images, (str, bytes, Path, Image.Image)):
        raise UserError(f"images: expected {ACCEPTED}; got one {type(images).__name__}; put it into a list")
    if not isinstance(images, (torch.Tensor, np.ndarray, Sequence)):
        raise UserError(f"images: expected {ACCEPTED}; got {type(images).__name__}")
    if isinstance(images, np.ndarray) and images.dtype.kind in "OU":  # paths, for example
        images = images.tolist()
    if len(images) == 0:
        raise UserError("images: expected at least one image, got none")
    if isinstance(images, (torch.Tensor, np.ndarray)):
        tensor = isinstance(images, torch.Tensor)
        if images.ndim not in ((4,) if tensor else (3, 4)):
            raise UserError(f"images: expected {ACCEPTED}; got the shape {list(images.shape)}")
        if tensor and images.dtype == torch.uint8 and images.shape[1:] == (3, image_size, image_size):
            return images.cpu()
    return torch.stack([_single(image, number, image_size) for number, image in enumerate(images)])


def _single(image: Any, number: int, image_size: int) -> torch.Tensor:
    name = f"images[{number}]"
    if isinstance(image, (str, Path)):
        return read_image(Path(image), image_size)
    if isinstance(image, bytes):
        return read_image(image, image_size, name)
    if isinstance(image, (torch.Tensor, np.ndarray)):
        image = _from_values(image, name)
    if not isinstance(image, Image.Image):
        raise UserError(f"{name}: expected {ACCEPTED}; got {type(image).__name__}")
    try:
        return square(image, image_size)
    except (ValueError, OSError) as error:
        raise UserError(f"{name}: cannot be used as an image ({error})") from None


def _from_values(image: torch.Tensor | np.ndarray, name: str) -> Image.Image:
    """A tensor [C, H, W] or an array [H, W] or [H, W, C] as a PIL image."""
    shape = list(image.shape)
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image
        image = image.movedim(0, -1) if image.ndim == 3 else image
    values = np.asarray(image)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3) or 0 in values.shape:
        raise UserError(f"{name}: expected 1 or 3 channels, last in an array and first in a tensor; got the shape {shape}")
    if np.issubdtype(values.dtype, np.floating):
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise UserError(f"{name}: expected floats from 0 to 1, or uint8 from 0 to 255; got {values.min():g} to {values.max():g}")
        values = np.rint(values * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise UserError(f"{name}: expected uint8 from 0 to 255, or floats from 0 to 1; got {values.dtype}")
    return Image.fromarray(np.ascontiguousarray(values))
