"""Architectures as pictures: a list of text lines, and the conversion of figures to images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


def draw_list(lines: Sequence[str]) -> Image.Image:
    """Lines of text as an RGB picture, one below the other."""
    height = 0.6 + 0.28 * len(lines)
    figure = Figure(figsize=(7.4, height), dpi=110, facecolor="white")
    for number, line in enumerate(lines):
        figure.text(0.05, 1 - (0.4 + 0.28 * number) / height, line, fontsize=11, color="#2b3440", va="center", family="monospace")
    return to_image(figure)


def to_image(figure: Figure) -> Image.Image:
    """A figure rendered as an RGB image at its own size and resolution."""
    renderer = FigureCanvasAgg(figure)
    renderer.draw()
    return Image.fromarray(np.asarray(renderer.buffer_rgba())).convert("RGB")
