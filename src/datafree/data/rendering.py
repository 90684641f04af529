"""Rendering of glyph images from masks, in batches, with random distortion, colour, background and noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Strengths at difficulty 1; all are proportional to the difficulty. Lengths are in units of half a mask's side.
# Chosen so that at difficulty 0.75, on 5-way 5-shot tasks of the test scripts, features of an untrained Conv4 reach about 31 % accuracy
# and features of a Conv4 trained on 240 training classes about 92 %.
ROTATION = 0.3  # radians, in both directions
SHEAR = 0.3  # in both directions
LOG_SCALE = 0.35  # logarithm of the size factor of each axis, in both directions
SHIFT = 0.45  # in both directions, along each axis
ELASTIC = 0.12  # standard deviation of the displacement at the knots
TEXTURE = 0.4  # standard deviation of the background at the knots, per channel; black to white is 1
NOISE = 0.06  # standard deviation per pixel and channel, in the same unit

EXTENT = 0.66  # share of the image's side that an undistorted glyph's longer side takes
ELASTIC_KNOTS = 4  # per side
TEXTURE_KNOTS = 8  # per side
DARKEST_GLYPH = 0.4  # colours are uniformly random per channel: the glyph's above this,
BRIGHTEST_BACKGROUND = 0.3  # the background's below this, so that the contrast always has the same sign


def render(masks: torch.Tensor, count: int, image_size: int, difficulty: float, rng: torch.Generator) -> torch.Tensor:
    """Images of one class: each with a random font, a bright glyph of random colour and a dark background of random colour.

    At difficulty 0 a glyph is undistorted and its background plain and free of noise; only font and colours vary.

    Args:
        masks: uint8 [fonts, M, M], the glyph in several fonts, ink = 255.
        count: number of images.
        image_size: side in pixels.
        difficulty: factor on all distortions, at least 0; 1 is hard.
        rng: source of all randomness, on the CPU.

    Returns:
        uint8 [count, 3, image_size, image_size].
    """
    fonts = torch.randint(len(masks), (count,), generator=rng)
    # Resized to about the final resolution first: the sampling grid would skip pixels of a mask much finer than the image.
    source = F.interpolate(masks[:, None] / 255, size=min(image_size, masks.shape[-1]), mode="bilinear", antialias=True)
    grid = _affine_grid(count, image_size, difficulty, rng) + _elastic(count, image_size, difficulty, rng)
    ink = F.grid_sample(source[fonts], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    glyph = DARKEST_GLYPH + (1 - DARKEST_GLYPH) * torch.rand(count, 3, 1, 1, generator=rng)
    background = BRIGHTEST_BACKGROUND * torch.rand(count, 3, 1, 1, generator=rng)
    background = background + difficulty * TEXTURE * _smooth(count, 3, TEXTURE_KNOTS, image_size, rng)
    noise = difficulty * NOISE * torch.randn(count, 3, image_size, image_size, generator=rng)
    return ((background + ink * (glyph - background) + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def _affine_grid(count: int, image_size: int, difficulty: float, rng: torch.Generator) -> torch.Tensor:
    """The mask coordinates of each pixel: float [count, S, S, 2] in -1..1; sheared, scaled, rotated, then shifted."""
    angle, shear, *rest = (difficulty * (2 * torch.rand(6, count, generator=rng) - 1)).unbind()
    angle, shear = ROTATION * angle, SHEAR * shear
    log_scale, shift = LOG_SCALE * torch.stack(rest[:2], 1), SHIFT * torch.stack(rest[2:], 1)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(count, 2, 2)
    shearing = torch.eye(2).repeat(count, 1, 1)
    shearing[:, 0, 1] = shear
    to_mask = rotation * torch.exp(log_scale)[:, None] @ shearing / EXTENT
    return F.affine_grid(torch.cat([to_mask, shift[:, :, None]], 2), [count, 1, image_size, image_size], align_corners=False)


def _elastic(count: int, image_size: int, difficulty: float, rng: torch.Generator) -> torch.Tensor:
    """A smooth random displacement field: float [count, S, S, 2]."""
    return difficulty * ELASTIC * _smooth(count, 2, ELASTIC_KNOTS, image_size, rng).permute(0, 2, 3, 1)


def _smooth(count: int, channels: int, knots: int, size: int, rng: torch.Generator) -> torch.Tensor:
    """Bicubic interpolation of standard normal knots: float [count, channels, size, size]."""
    return F.interpolate(torch.randn(count, channels, knots, knots, generator=rng), size=size, mode="bicubic", align_corners=False)
