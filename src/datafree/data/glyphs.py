"""The embedded data set: letters and digits of the fonts that ship with matplotlib (DejaVu and STIX), split by script.

A class is a shape, not a code point: look-alikes across scripts and cases (A, Alpha and Cyrillic A; o and O) are one class, which
belongs to the first split that has it. So no script is in two splits and, within the tolerance ``SAME_SHAPE``, no shape either: the
classes of a few-shot test do not occur in training.
"""

from __future__ import annotations

import functools
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from datafree.config import GlyphsConfig
from datafree.data.images import ImageSet
from datafree.data.rendering import render
from datafree.devices import generator
from datafree.errors import UserError

# Scripts: the first word of a character's Unicode name. A shape that occurs in several scripts belongs to the first of them.
SCRIPTS = {
    "train": ("LATIN", "GREEK", "CYRILLIC", "DIGIT"),
    "validation": ("HEBREW", "LAO", "NKO", "LISU", "OLD", "OGHAM", "COPTIC"),
    "test": ("ARMENIAN", "GEORGIAN", "TIFINAGH", "ARABIC"),
}
REFERENCE_FONT = "DejaVuSans"  # the widest coverage; shapes are compared in it
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)
FONT_PIXELS = 80  # at this size capitals are about as large as the mask
MASK_PIXELS = 64
SHAPE_PIXELS = 8  # coarse enough that thin and bold, or round and angular, variants of a letter still correlate
SAME_SHAPE = 0.88  # correlation of two size-normalised glyphs above which they are one class


def glyph_images(config: GlyphsConfig, split: str, image_size: int, seed: int) -> ImageSet:
    """Rendered images of one split's classes, RGB, ``image_size`` pixels square, sorted by class.

    The classes are a random subset of those that exist. Every class has its own random generator, so its images depend only on the
    seed, its name, the difficulty, the image size and the number of images per class of its split.

    Raises:
        UserError: more classes requested than exist.
    """
    existing = characters()[split]
    requested = getattr(config.classes, split)
    if requested > len(existing):
        raise UserError(f"data.glyphs.classes.{split}: got {requested}; allowed: at most {len(existing)}, the number in this split")
    order = torch.randperm(len(existing), generator=generator(seed, "glyphs", split))
    chosen = [existing[index] for index in sorted(order[:requested].tolist())]
    count = getattr(config.images_per_class, split)
    names = tuple(class_name(character) for character in chosen)
    images = torch.cat(
        [
            render(masks(character), count, image_size, config.difficulty, generator(seed, "glyphs", split, name))
            for character, name in zip(chosen, names, strict=True)
        ]
    )
    return ImageSet(images, torch.arange(requested).repeat_interleave(count), names)


def class_name(character: str) -> str:
    """The Unicode name as a short slug: ``greek-small-alpha``, ``georgian-an``, ``digit-four``. Distinct for distinct classes."""
    return "-".join(word for word in unicodedata.name(character).lower().split() if word != "letter")


@functools.cache
def characters() -> dict[str, tuple[str, ...]]:
    """The characters that define the classes of each split, in the order of ``SCRIPTS``, then by code point.

    They are letters and digits without a Unicode decomposition (no accents), available in at least two fonts, and with a shape that no
    earlier character has.
    """
    kept: dict[str, list[str]] = {split: [] for split in SCRIPTS}
    shapes = np.zeros((0, SHAPE_PIXELS**2), np.float32)
    for split, character in _candidates():
        shape = _shape(character)
        if (shapes @ shape <= SAME_SHAPE).all():
            shapes = np.concatenate([shapes, shape[None]])
            kept[split].append(character)
    return {split: tuple(of_split) for split, of_split in kept.items()}


@functools.cache
def masks(character: str) -> torch.Tensor:
    """Masks of a character in every font that has it: uint8 [fonts, 64, 64], ink = 255; the longer side fills the mask."""
    drawn = [_centred(_ink(font, character)) for font in FONTS if ord(character) in _code_points(font)]
    return torch.from_numpy(np.stack([np.asarray(image) for image in drawn]))


def _candidates() -> list[tuple[str, str]]:
    """All (split, character) pairs from which the classes are chosen, in the order of ``SCRIPTS``, then by code point."""
    by_script: dict[str, list[str]] = {script: [] for scripts in SCRIPTS.values() for script in scripts}
    for code in sorted(_code_points(REFERENCE_FONT)):
        character = chr(code)
        script = unicodedata.name(character, "").partition(" ")[0]
        plain = not unicodedata.decomposition(character) and unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo", "Nd")
        if script in by_script and plain and sum(code in _code_points(font) for font in FONTS) > 1:
            by_script[script].append(character)
    return [(split, character) for split, scripts in SCRIPTS.items() for script in scripts for character in by_script[script]]


@functools.cache
def _code_points(font: str) -> frozenset[int]:
    return frozenset(FT2Font(str(_font_path(font))).get_charmap())


@functools.cache
def _drawing_font(font: str) -> ImageFont.FreeTypeFont:
    # The basic layout is always available and draws one glyph per character, with or without the optional shaping library.
    return ImageFont.truetype(str(_font_path(font)), FONT_PIXELS, layout_engine=ImageFont.Layout.BASIC)


def _font_path(font: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"


def _ink(font: str, character: str) -> Image.Image:
    """A grey image of a glyph, ink = 255, cropped to its bounding box."""
    drawing_font = _drawing_font(font)
    left, top, right, bottom = (round(edge) for edge in drawing_font.getbbox(character))
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=drawing_font)
    return image.crop(image.getbbox())


def _centred(image: Image.Image) -> Image.Image:
    """The image scaled so that its longer side fills a mask, and centred in it."""
    factor = MASK_PIXELS / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    mask = Image.new("L", (MASK_PIXELS, MASK_PIXELS))
    mask.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((MASK_PIXELS - width) // 2, (MASK_PIXELS - height) // 2))
    return mask


def _shape(character: str) -> np.ndarray:
    """Shape vector float32 [SHAPE_PIXELS²] for comparing glyphs: the ink resized to a small square, with zero mean and unit length."""
    image = _ink(REFERENCE_FONT, character)
    pixels = np.asarray(image.resize((SHAPE_PIXELS, SHAPE_PIXELS), Image.Resampling.BILINEAR), np.float32).ravel()
    centred = pixels - pixels.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-6)
